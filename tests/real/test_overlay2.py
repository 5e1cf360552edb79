"""The overlay2 driver's directories and mounts, byte for byte Docker's."""

from __future__ import annotations

import io
import os
import re
import stat
import sys
from pathlib import Path

import pytest

from lamella.drivers import choose_driver, open_driver
from lamella.drivers.overlay2 import Overlay2
from lamella.drivers.probe import check_overlay, filesystem_type, has_native_diff
from lamella.errors import Conflict, DataLoss, InvalidArgument, NotFound, Unsupported
from lamella.fs.walk import walk
from lamella.linux.mount import Mount, bind, mounted, unmount
from lamella.linux.mountinfo import MountEntry, is_mounted, read_mountinfo
from lamella.linux.spawn import find_tool, run
from lamella.model.ids import CacheID, new_cache_id

INDEX_OFF = "index=off," if Path("/sys/module/overlay/parameters/index").exists() else ""


@pytest.fixture
def driver(store_root: Path) -> Overlay2:
    store_root.mkdir()
    return Overlay2(store_root, store_root / "lamella")


def stack(driver: Overlay2, count: int) -> list[CacheID]:
    """Make *count* image layers on each other, each with a file of its own, base first."""
    layers: list[CacheID] = []
    for number in range(count):
        layer = new_cache_id()
        driver.create(layer, layers[-1] if layers else None)
        (driver.home / layer / "diff" / f"f{number}").write_text(str(number))
        layers.append(layer)
    return layers


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def entry_of(path: Path) -> MountEntry:
    return next(entry for entry in reversed(read_mountinfo()) if entry.target == str(path))


def is_volatile(path: Path) -> bool:
    """Tell whether the overlay at *path* syncs nothing; newer kernels spell it ``fsync=volatile``."""
    return not {"volatile", "fsync=volatile"}.isdisjoint(entry_of(path).super_options.split(","))


def everything(path: Path) -> dict[bytes, tuple[int, int, int]]:
    """Describe what a write would change, change times included."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return {e.path: (e.stat.st_mode, e.stat.st_mtime_ns, e.stat.st_ctime_ns) for e in walk(fd)}
    finally:
        os.close(fd)


def test_layer_directories_have_dockers_files_and_modes(driver: Overlay2) -> None:
    old = os.umask(0o077)
    try:
        bottom, middle, top = stack(driver, 3)
        container = new_cache_id()
        driver.create_read_write(container, top)
    finally:
        os.umask(old)
    home = driver.home
    assert (mode(home), mode(home / "l")) == (0o710, 0o700)
    assert sorted(os.listdir(home / bottom)) == ["committed", "diff", "link"]
    assert sorted(os.listdir(home / middle)) == ["committed", "diff", "link", "lower", "work"]
    assert sorted(os.listdir(home / container)) == ["diff", "link", "lower", "work"]
    for layer in (middle, container):
        assert mode(home / layer) == 0o710
        assert mode(home / layer / "diff") == 0o755
        assert mode(home / layer / "work") == 0o700
        assert mode(home / layer / "link") == mode(home / layer / "lower") == 0o644
    assert mode(home / bottom / "committed") == 0o600
    assert (home / bottom / "committed").read_bytes() == b""

    links = {layer: (home / layer / "link").read_text() for layer in (bottom, middle, top, container)}
    for layer, link in links.items():
        assert re.fullmatch(r"[A-Z2-7]{26}", link)
        assert os.readlink(home / "l" / link) == f"../{layer}/diff"
    lower = (home / container / "lower").read_text()
    assert lower == f"l/{links[top]}:l/{links[middle]}:l/{links[bottom]}"
    assert sorted(os.listdir(home / "l")) == sorted(links.values())


def test_a_parent_is_committed_when_something_is_made_on_it(driver: Overlay2) -> None:
    init, container = new_cache_id(), new_cache_id()
    driver.create_read_write(init, None)
    assert not (driver.home / init / "committed").exists()
    driver.create_read_write(container, init)
    assert (driver.home / init / "committed").exists()
    assert not (driver.home / container / "committed").exists()


def test_mounts_carry_dockers_options(driver: Overlay2) -> None:
    bottom, top = stack(driver, 2)
    container = new_cache_id()
    driver.create_read_write(container, top)
    home = driver.home
    link = {layer: (home / layer / "link").read_text() for layer in (bottom, top)}
    with driver.mounted(container) as merged:
        assert merged == home / container / "merged"
        entry = entry_of(merged)
        assert (entry.fstype, entry.source) == ("overlay", "overlay")
        shown = entry.super_options.split(",")
        assert f"lowerdir={home}/l/{link[top]}:{home}/l/{link[bottom]}" in shown
        assert f"upperdir={home}/{container}/diff" in shown
        assert f"workdir={home}/{container}/work" in shown
        assert "rw" in shown
    assert not merged.exists()
    with driver.mounted(top) as merged:
        shown = entry_of(merged).super_options.split(",")
        assert f"lowerdir={home}/{top}/diff:{home}/l/{link[bottom]}" in shown
        assert not any(option.startswith("upperdir") for option in shown)
        with pytest.raises(OSError, match="Read-only"):
            (merged / "x").touch()
    with driver.mounted(bottom) as merged:
        assert merged == home / bottom / "diff"
    assert driver._overlay(
        driver._directory(top), [f"l/{link[bottom]}"], read_only=True, volatile=False
    ).option_data() == (f"{INDEX_OFF}lowerdir={home}/{top}/diff:{home}/l/{link[bottom]}".encode())


def test_the_mount_point_is_private_until_it_is_mounted(driver: Overlay2) -> None:
    _, top = stack(driver, 2)
    container = new_cache_id()
    driver.create_read_write(container, top)
    (driver.home / container / "diff").chmod(0o711)
    path = driver.mount(container, "c" * 64)
    assert mode(path) == 0o711
    assert sorted(os.listdir(driver.home.parent / "lamella" / "mounts" / container / "holders")) == ["c" * 64]
    driver.unmount(container, "c" * 64)
    assert not path.exists()
    assert os.listdir(driver.home.parent / "lamella" / "mounts") == []


@pytest.mark.parametrize("name", ["plain", "with,comma:and colon\\and backslash"])
def test_127_layers_below_a_container_mount(tmp_path: Path, name: str) -> None:
    root = tmp_path / name
    root.mkdir()
    driver = Overlay2(root, root / "lamella")
    top = stack(driver, 127)[-1]
    container, above = new_cache_id(), new_cache_id()
    driver.create_read_write(container, top)
    with driver.mounted(container) as merged:
        assert len(os.listdir(merged)) == 127
        assert entry_of(merged).super_options.count("l/") == 127
        (merged / "f0").write_text("written")
        with driver.mounted_read_only(container) as view:
            assert (view / "f0").read_text() == "written"
    with driver.mounted_read_only(top) as view:
        assert len(os.listdir(view)) == 127
    driver.create_read_write(above, container)
    with driver.mounted_read_only(above) as view:
        assert len(os.listdir(view)) == 127
    with pytest.raises(InvalidArgument, match="max depth exceeded"):
        driver.create(new_cache_id(), above)


def test_image_layers_are_not_written_by_mounting_them_or_what_stands_on_them(driver: Overlay2) -> None:
    layers = stack(driver, 3)
    container = new_cache_id()
    driver.create_read_write(container, layers[-1])
    before = [everything(driver.home / layer / "diff") for layer in layers]
    with driver.mounted(container) as merged:
        (merged / "f0").write_text("changed")
        (merged / "f1").unlink()
        (merged / "f2").rename(merged / "moved")
    for layer in layers:
        with driver.mounted(layer), driver.mounted_read_only(layer):
            pass
    assert [everything(driver.home / layer / "diff") for layer in layers] == before


def test_an_image_layer_that_dockerd_left_uncommitted_is_only_looked_at(driver: Overlay2) -> None:
    _, top = stack(driver, 2)
    (driver.home / top / "committed").unlink()
    before = everything(driver.home / top)
    with driver.mounted_read_only(top) as view, pytest.raises(OSError, match="Read-only"):
        (view / "x").touch()
    assert everything(driver.home / top) == before


def test_buildkits_short_names_are_layers_too(driver: Overlay2) -> None:
    layer = CacheID("9g3uq5fmpqvyhnp57kymqh9cx")
    driver.create(layer, None)
    (driver.home / "check-overlayfs-support123").mkdir()
    (driver.home / "l" / "NOT-A-LINK").symlink_to("x")
    assert list(driver.iter_ids()) == [layer]


def test_inspect_data_is_dockers(driver: Overlay2) -> None:
    bottom, middle, top = stack(driver, 3)
    home = driver.home
    assert driver.metadata(bottom) == {
        "MergedDir": f"{home}/{bottom}/merged",
        "UpperDir": f"{home}/{bottom}/diff",
        "WorkDir": f"{home}/{bottom}/work",
    }
    data = driver.metadata(top)
    assert data is not None
    assert list(data) == ["LowerDir", "MergedDir", "UpperDir", "WorkDir"]
    assert data["LowerDir"] == f"{home}/{middle}/diff:{home}/{bottom}/diff"


# ---------------------------------------------------------------------------------------------------- what crashes leave


def test_partly_made_layers_are_removed_with_their_short_names(driver: Overlay2) -> None:
    (bottom,) = stack(driver, 1)
    steps = ["lower", "work", "link", "diff"]
    for count in range(len(steps) + 1):
        layer = new_cache_id()
        driver.create_read_write(layer, bottom)
        for name in steps[:count]:
            path = driver.home / layer / name
            path.rmdir() if path.is_dir() else path.unlink()
        driver.remove(layer)
        assert not driver.exists(layer)
    assert os.listdir(driver.home / "l") == [(driver.home / bottom / "link").read_text()]


def test_a_short_name_whose_directory_is_gone_is_removed(driver: Overlay2) -> None:
    (layer,) = stack(driver, 1)
    (driver.home / layer).rename(driver.home.parent / "away")
    driver.remove(layer)
    assert os.listdir(driver.home / "l") == []


def test_drafts_of_a_killed_writer_are_no_obstacle(driver: Overlay2) -> None:
    (layer,) = stack(driver, 1)
    (driver.home / layer / ".tmp-link123").write_text("")
    driver.create_read_write(new_cache_id(), layer)
    driver.remove(layer)
    assert not driver.exists(layer)


def test_a_stale_mount_point_is_used_again(driver: Overlay2) -> None:
    _, top = stack(driver, 2)
    container = new_cache_id()
    driver.create_read_write(container, top)
    (driver.home / container / "merged").mkdir(0o700)
    with driver.mounted(container) as merged:
        assert (merged / "f0").exists()
    assert not merged.exists()


def test_a_layer_mounted_by_nobody_known_is_removed_mount_and_all(driver: Overlay2) -> None:
    _, top = stack(driver, 2)
    container = new_cache_id()
    driver.create_read_write(container, top)
    merged = driver.mount(container, "one")
    (driver.home.parent / "lamella" / "mounts" / container / "holders" / "one").unlink()
    assert is_mounted(merged)
    assert driver.sweep_mounts() == [container]
    assert not merged.exists()


def test_a_mount_of_someone_elses_is_left_alone_by_a_sweep(driver: Overlay2) -> None:
    _, top = stack(driver, 2)
    merged = driver.home / top / "merged"
    merged.mkdir()
    with mounted(Mount("tmpfs", "tmpfs"), merged):
        assert driver.sweep_mounts() == []
        assert is_mounted(merged)


# ------------------------------------------------------------------------------------------------- a hostile data-root


@pytest.mark.parametrize(
    "lower",
    [
        "",
        "l/",
        "l/AAAAAAAAAAAAAAAAAAAAAAAAA,",
        "l/AAAAAAAAAAAAAAAAAAAAAAAAAA,upperdir=/etc",
        "/etc",
        "l/../../../etc",
        "l/AAAAAAAAAAAAAAAAAAAAAAAAAA:",
        "l/AAAAAAAAAAAAAAAAAAAAAAAAAA\n",
        "l/AAAAAAAAAAAAAAAAAAAAAAAAAA:/",
        ":".join(["l/AAAAAAAAAAAAAAAAAAAAAAAAAA"] * 129),
    ],
)
def test_lower_entries_that_are_no_links_never_reach_the_kernel(driver: Overlay2, lower: str) -> None:
    _, top = stack(driver, 2)
    (driver.home / top / "lower").write_text(lower)
    with pytest.raises(DataLoss), driver.mounted(top):
        pass
    with pytest.raises(DataLoss):
        driver.metadata(top)
    driver.remove(top)


@pytest.mark.parametrize("target", ["/etc", "../../../../etc/diff", "../../etc", "../x/../../etc/diff", "../l/diff"])
def test_links_that_lead_astray_are_refused(driver: Overlay2, target: str) -> None:
    bottom, top = stack(driver, 2)
    place = driver.home / "l" / (driver.home / bottom / "link").read_text()
    place.unlink()
    place.symlink_to(target)
    with pytest.raises(DataLoss, match="leads to"), driver.mounted(top):
        pass
    driver.remove(bottom)
    assert place.is_symlink()


def test_a_missing_link_is_named(driver: Overlay2) -> None:
    bottom, top = stack(driver, 2)
    link = (driver.home / bottom / "link").read_text()
    (driver.home / "l" / link).unlink()
    with pytest.raises(DataLoss, match=link), driver.mounted(top):
        pass


def test_a_missing_layer_below_is_named(driver: Overlay2) -> None:
    bottom, top = stack(driver, 2)
    (driver.home / bottom / "diff" / "f0").unlink()
    (driver.home / bottom / "diff").rmdir()
    with pytest.raises(NotFound, match=bottom), driver.mounted(top):
        pass


@pytest.mark.parametrize("content", [b"", b"short", b"A" * 26 + b"\n", b"../../../../../etc/passwd", b"A" * 100_000])
def test_a_damaged_link_file_is_refused_by_its_children_and_no_path(driver: Overlay2, content: bytes) -> None:
    (layer,) = stack(driver, 1)
    (driver.home / layer / "link").write_bytes(content)
    with pytest.raises(DataLoss, match="link"):
        driver.create(new_cache_id(), layer)
    driver.remove(layer)
    assert os.listdir(driver.home / "l") == []


def test_small_files_that_are_not_regular_are_refused_without_waiting(driver: Overlay2, tmp_path: Path) -> None:
    for make in (os.mkfifo, lambda path: os.symlink("/etc/passwd", path), os.mkdir):
        _, top = stack(driver, 2)
        (driver.home / top / "lower").unlink()
        make(driver.home / top / "lower")
        with pytest.raises(DataLoss, match="not a regular file"), driver.mounted(top):
            pass


def test_a_diff_or_a_home_that_is_a_link_is_not_followed(driver: Overlay2, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "kept").touch()
    (layer,) = stack(driver, 1)
    diff = driver.home / layer / "diff"
    (diff / "f0").unlink()
    diff.rmdir()
    diff.symlink_to(victim)
    with pytest.raises(NotFound), driver.mounted(layer):
        pass
    driver.remove(layer)
    assert (victim / "kept").exists()
    other = tmp_path / "other"
    other.mkdir()
    (other / "overlay2").symlink_to(victim)
    with pytest.raises(DataLoss, match="symbolic link"):
        Overlay2(other, other / "lamella").create(new_cache_id(), None)
    assert os.listdir(victim) == ["kept"]


def test_removal_stops_at_a_mount_inside_a_layer(driver: Overlay2, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "kept").touch()
    (layer,) = stack(driver, 1)
    inside = driver.home / layer / "diff" / "inside"
    inside.mkdir()
    bind(victim, inside)
    try:
        with pytest.raises(OSError, match=r"cross-device|busy"):
            driver.remove(layer)
        assert (victim / "kept").exists()
    finally:
        unmount(inside)
    driver.remove(layer)


# --------------------------------------------------------------------------------------------------- choice and support


def test_a_new_data_root_gets_overlay2_where_it_works(tmp_path: Path) -> None:
    assert choose_driver(tmp_path) == "overlay2"
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("trace", ["image/vfs/imagedb", "vfs/dir"])
def test_a_data_root_keeps_the_driver_that_filled_it(tmp_path: Path, trace: str) -> None:
    (tmp_path / trace).mkdir(parents=True)
    (tmp_path / "overlay2" / "l").mkdir(parents=True)
    assert choose_driver(tmp_path) == "vfs"


def test_a_data_root_of_several_drivers_needs_a_choice(tmp_path: Path) -> None:
    (tmp_path / "image" / "vfs" / "imagedb").mkdir(parents=True)
    (tmp_path / "image" / "overlay2" / "imagedb").mkdir(parents=True)
    with pytest.raises(Conflict, match="--storage-driver"):
        choose_driver(tmp_path)


def test_a_data_root_of_a_driver_we_lack_is_not_taken_for_empty(tmp_path: Path) -> None:
    (tmp_path / "image" / "btrfs" / "imagedb").mkdir(parents=True)
    with pytest.raises(Unsupported, match="btrfs"):
        choose_driver(tmp_path)


def test_an_unknown_driver_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="overlay2, vfs"):
        open_driver("zfs", tmp_path, tmp_path / "lamella")


def test_opening_a_driver_writes_nothing(tmp_path: Path) -> None:
    driver = open_driver("overlay2", tmp_path, tmp_path / "lamella")
    assert list(driver.iter_ids()) == []
    assert driver.sweep_mounts() == []
    assert os.listdir(tmp_path) == []


def test_overlay_on_overlay_is_refused_with_type_and_advice(driver: Overlay2) -> None:
    _, top = stack(driver, 2)
    container = new_cache_id()
    driver.create_read_write(container, top)
    with driver.mounted(container) as merged:
        assert filesystem_type(merged) == "overlay"
        with pytest.raises(Unsupported) as caught:
            driver.check_supported(merged)
        assert [name for name in os.listdir(merged) if not name.startswith("f")] == []
    message = str(caught.value)
    assert f"{merged} (overlay)" in message
    assert "--storage-driver vfs" in message
    assert "\n" not in message


def test_file_systems_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    with mounted(Mount("tmpfs", "tmpfs", flags=1), tmp_path):
        with pytest.raises(Unsupported, match=r"\(tmpfs\): it is read-only"):
            check_overlay(tmp_path)
    with pytest.raises(Unsupported, match=r"\(proc\)"):
        check_overlay(Path("/proc"))


def test_without_the_right_to_mount_the_reason_is_root(tmp_path: Path) -> None:
    setpriv = find_tool("setpriv", package="util-linux")
    code = "import sys; from pathlib import Path; from lamella.drivers import choose_driver; choose_driver(Path(sys.argv[1]))"
    done = run(
        [setpriv, "--bounding-set", "-sys_admin", sys.executable, "-c", code, str(tmp_path)],
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert done.code == 1
    assert b"mounting needs root (CAP_SYS_ADMIN); use --storage-driver vfs" in done.stderr.splitlines()[-1]
    assert os.listdir(tmp_path) == []


def test_native_diff_is_what_the_kernel_does(driver: Overlay2, tmp_path: Path) -> None:
    from lamella.drivers.probe import _directories_stay

    assert driver.native_diff == has_native_diff(tmp_path) == _directories_stay(tmp_path)


def test_a_diff_against_another_than_the_direct_parent_compares_trees(driver: Overlay2) -> None:
    bottom, middle, top = stack(driver, 3)
    sink = io.BytesIO()
    driver.diff(top, bottom, sink)
    assert b"f1" in sink.getvalue()
    assert b"f2" in sink.getvalue()
    assert [change.path.lstrip(b"/") for change in driver.changes(top, bottom)] == [b"f1", b"f2"]
    assert [change.path.lstrip(b"/") for change in driver.changes(top, middle)] == [b"f2"]


def test_a_volatile_mount_leaves_no_mark_that_would_forbid_the_next_one(driver: Overlay2) -> None:
    (base,) = stack(driver, 1)
    top = new_cache_id()
    driver.create_read_write(top, base)
    with driver.mounted(top, volatile=True) as root:
        (root / "a").write_text("kept")
        assert is_volatile(root)
    with driver.mounted(top) as root:
        assert (root / "a").read_text() == "kept"
        assert not is_volatile(root)
