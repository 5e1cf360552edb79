"""What every storage driver must do: inherit from :class:`DriverContract`, give the fixture ``driver``, run pytest.

The tests need root.  They use the driver through :class:`lamella.drivers.base.Driver` alone and look at layers through
mounts alone, so they hold for a driver of any inner layout.
"""
# ruff: noqa: S101 - these are tests

from __future__ import annotations

import errno
import io
import os
import signal
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lamella.drivers.base import Driver
from lamella.errors import InUse, InvalidArgument, NotFound
from lamella.model.ids import CacheID, new_cache_id
from lamella.testing.layers import MOMENT, base, change_everything, layer_tar, make_layer, members_of, tar_of, write
from lamella.testing.trees import flatten


@contextmanager
def holding(driver: Driver, layer: CacheID, *, read_only: bool = False) -> Generator[int]:
    """Have another process hold *layer* mounted, and yield its process id."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            with driver.mounted_read_only(layer) if read_only else driver.mounted(layer) as root:
                os.write(writer, os.fsencode(root))
                signal.pause()
        finally:
            os._exit(1)
    os.close(writer)
    try:
        assert os.read(reader, 4096), "the other process could not mount the layer"
        yield pid
    finally:
        os.close(reader)
        _kill(pid)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


class DriverContract:
    """The suite; a subclass gives the fixture ``driver``: a new driver on an empty data-root."""

    # ------------------------------------------------------------------------------------------- making and removing

    def test_a_layer_exists_from_its_making_to_its_removal(self, driver: Driver) -> None:
        """Names come and go; removing twice is harmless."""
        layer = new_cache_id()
        assert not driver.exists(layer)
        assert list(driver.iter_ids()) == []
        driver.create(layer, None)
        assert driver.exists(layer)
        assert list(driver.iter_ids()) == [layer]
        driver.remove(layer)
        driver.remove(layer)
        assert not driver.exists(layer)
        assert list(driver.iter_ids()) == []

    def test_a_missing_layer_is_not_found(self, driver: Driver) -> None:
        """Every use of one says so."""
        missing = new_cache_id()
        for use in (
            lambda: driver.mount(missing, "holder"),
            lambda: driver.create(new_cache_id(), missing),
            lambda: driver.size(missing, None),
            lambda: driver.metadata(missing),
            lambda: driver.mounted(missing).__enter__(),
            lambda: driver.mounted_read_only(missing).__enter__(),
            lambda: driver.files(missing).__enter__(),
            lambda: layer_tar(driver, missing, None),
        ):
            with pytest.raises(NotFound):
                use()

    @pytest.mark.parametrize("name", ["", ".", "..", "l", "../etc", "a/b", "A" * 64, "0" * 63, "0" * 64 + "\n"])
    def test_a_name_that_is_no_cache_id_never_becomes_a_path(self, driver: Driver, name: str) -> None:
        """A hostile record cannot make a driver create or remove anything elsewhere."""
        layer = CacheID(name)
        for use in (
            lambda: driver.create(layer, None),
            lambda: driver.remove(layer),
            lambda: driver.exists(layer),
            lambda: driver.mount(layer, "holder"),
            lambda: driver.unmount(layer, "holder"),
            lambda: driver.metadata(layer),
        ):
            with pytest.raises(InvalidArgument):
                use()

    # ------------------------------------------------------------------------------------------------------ mounting

    def test_a_mount_shows_the_layers_below(self, driver: Driver) -> None:
        """Three layers make one tree, the uppermost winning."""
        first = make_layer(driver, None, base)
        second = make_layer(driver, first, lambda root: write(root / "etc" / "hosts", "second"))
        third = new_cache_id()
        driver.create_read_write(third, second)
        with driver.mounted(third) as root:
            assert (root / "etc" / "hosts").read_text() == "second"
            assert (root / "etc" / "passwd").read_text() == "root"
            assert stat.S_IMODE((root / "usr" / "bin" / "tool").stat().st_mode) == 0o4755

    def test_what_is_written_stays_in_the_layer_written_to(self, driver: Driver) -> None:
        """Neither the parent nor a sibling sees it; the layer itself does, mounted again."""
        parent = make_layer(driver, None, base)
        with driver.mounted_read_only(parent) as root:
            before = flatten(root)
        ours, other = new_cache_id(), new_cache_id()
        driver.create_read_write(ours, parent)
        driver.create_read_write(other, parent)
        with driver.mounted(ours) as root:
            write(root / "etc" / "hosts", "changed")
            write(root / "new", "new")
            (root / "etc" / "passwd").unlink()
        for layer in (parent, other):
            with driver.mounted_read_only(layer) as root:
                assert flatten(root) == before
        with driver.mounted(ours) as root:
            assert (root / "etc" / "hosts").read_text() == "changed"
            assert (root / "new").exists()
            assert not (root / "etc" / "passwd").exists()

    def test_a_read_only_view_cannot_be_written_through(self, driver: Driver) -> None:
        """Whether the layer is an image's, a bottom one or a container's."""
        bottom = make_layer(driver, None, base)
        top = make_layer(driver, bottom, lambda root: write(root / "x"))
        writable = new_cache_id()
        driver.create_read_write(writable, top)
        for layer in (bottom, top, writable):
            with driver.mounted_read_only(layer) as root, pytest.raises(OSError, match="Read-only") as caught:
                (root / "etc" / "hosts").write_text("no")
            assert caught.value.errno == errno.EROFS

    def test_a_view_of_a_mounted_layer_shows_what_is_written_there(self, driver: Driver) -> None:
        """`diff` of a running container is about now."""
        layer = new_cache_id()
        driver.create_read_write(layer, make_layer(driver, None, base))
        with driver.mounted(layer) as root:
            write(root / "etc" / "hosts", "live")
            with driver.mounted_read_only(layer) as view:
                assert (view / "etc" / "hosts").read_text() == "live"

    def test_a_view_and_a_mount_come_and_go_in_any_order(self, driver: Driver) -> None:
        """Looking at a container neither keeps it from starting nor from stopping and starting again."""
        layer = new_cache_id()
        driver.create_read_write(layer, make_layer(driver, None, base))
        with driver.mounted_read_only(layer) as view:
            with driver.mounted(layer) as root:
                write(root / "started")
            assert (view / "etc" / "hosts").exists()
        path = driver.mount(layer, "container")
        with driver.mounted_read_only(layer) as view:
            driver.unmount(layer, "container")
            assert (view / "started").exists()
            assert driver.mount(layer, "container") == path
            write(path / "again")
        assert (path / "again").exists()
        driver.unmount(layer, "container")

    def test_mounts_nest_and_holders_are_counted(self, driver: Driver) -> None:
        """The mount goes with the last of them; releasing twice is harmless."""
        layer = new_cache_id()
        driver.create_read_write(layer, make_layer(driver, None, base))
        assert driver.holders(layer) == []
        path = driver.mount(layer, "one")
        assert driver.mount(layer, "one") == path
        assert driver.mount(layer, "two") == path
        with driver.mounted(layer) as again, driver.mounted(layer):
            assert again == path
            assert driver.holders(layer)[:2] == ["one", "two"]
        driver.unmount(layer, "one")
        driver.unmount(layer, "one")
        assert (path / "etc" / "hosts").exists()
        driver.unmount(layer, "two")
        assert driver.holders(layer) == []
        driver.release_holder(layer, "two")
        driver.remove(layer)
        driver.release_holder(layer, "two")

    @pytest.mark.parametrize("holder", ["", ".", "../x", "a/b"])
    def test_a_holder_that_could_not_be_a_files_name_is_refused(self, driver: Driver, holder: str) -> None:
        """Holders are recorded as files."""
        layer = new_cache_id()
        driver.create_read_write(layer, None)
        with pytest.raises(InvalidArgument):
            driver.mount(layer, holder)

    def test_two_processes_share_a_mount(self, driver: Driver) -> None:
        """The first to leave does not take it from the other."""
        layer = new_cache_id()
        driver.create_read_write(layer, make_layer(driver, None, base))
        with holding(driver, layer) as pid:
            with driver.mounted(layer) as root:
                write(root / "shared")
                # The other process sees the same mount, and still does when we have left.
                other = Path(f"/proc/{pid}/root{root}")
                assert (other / "shared").exists()
            assert (other / "shared").exists()
        driver.sweep_mounts()

    def test_a_killed_holder_leaves_no_count(self, driver: Driver) -> None:
        """Its mount is swept, and the layer can be removed."""
        layer = new_cache_id()
        driver.create_read_write(layer, make_layer(driver, None, base))
        with holding(driver, layer) as pid:
            assert driver.holders(layer)
            assert driver.sweep_mounts() == []
            _kill(pid)
        assert driver.holders(layer) == []
        driver.sweep_mounts()
        driver.remove(layer)
        assert not driver.exists(layer)

    def test_a_mount_left_by_a_killed_process_is_undone_by_the_next_user(self, driver: Driver) -> None:
        """No sweep is needed in between."""
        layer = new_cache_id()
        driver.create_read_write(layer, make_layer(driver, None, base))
        with holding(driver, layer) as pid:
            _kill(pid)
        with driver.mounted(layer) as root:
            assert (root / "etc" / "hosts").exists()
        driver.remove(layer)

    def test_a_recorded_holder_outlives_its_process(self, driver: Driver) -> None:
        """It stays until it is released, whoever recorded it, and keeps a sweep away."""
        layer = new_cache_id()
        driver.create_read_write(layer, make_layer(driver, None, base))
        pid = os.fork()
        if pid == 0:
            try:
                driver.mount(layer, "container")
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
        assert driver.sweep_mounts() == []
        assert driver.holders(layer) == ["container"]
        with pytest.raises(InUse, match="container"):
            driver.remove(layer)
        driver.unmount(layer, "container")
        driver.remove(layer)

    def test_a_layer_is_not_removed_or_captured_while_somebody_has_it_mounted(self, driver: Driver) -> None:
        """Both are refused as in use, and the mount stays as it was."""
        parent = make_layer(driver, None, base)
        layer = new_cache_id()
        driver.create_read_write(layer, parent)
        for read_only in (False, True):
            with holding(driver, layer, read_only=read_only):
                with pytest.raises(InUse):
                    driver.remove(layer)
                with pytest.raises(InUse):
                    driver.capture(layer, new_cache_id(), parent, tar_split=io.BytesIO())
            assert driver.exists(layer)
        driver.remove(layer)

    def test_a_busy_mount_is_undone_all_the_same(self, driver: Driver) -> None:
        """An open file in it must not keep a stopped container from being removed."""
        layer = new_cache_id()
        driver.create_read_write(layer, make_layer(driver, None, base))
        with driver.mounted(layer) as root:
            file = (root / "etc" / "hosts").open("rb")
        with file:
            driver.remove(layer)
            assert file.read() == b"hosts"

    def test_many_processes_mount_and_leave_at_once(self, driver: Driver) -> None:
        """None finds the mount gone from under it, and nothing is left in the end."""
        layer = new_cache_id()
        driver.create_read_write(layer, make_layer(driver, None, base))
        children = []
        for number in range(8):
            pid = os.fork()
            if pid == 0:
                try:
                    for _ in range(12):
                        with driver.mounted(layer) as root:
                            if (root / "etc" / "hosts").read_text() != "hosts":
                                os._exit(2)
                            driver.mount(layer, f"holder-{number}")
                        driver.unmount(layer, f"holder-{number}")
                    os._exit(0)
                finally:
                    os._exit(1)
            children.append(pid)
        assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 8
        assert driver.holders(layer) == []
        driver.remove(layer)

    # ------------------------------------------------------------------------------------------- layers in and out

    def test_a_diff_applied_elsewhere_gives_the_same_tree(self, driver: Driver) -> None:
        """Files, modes, owners, links, devices, names that are not text, and everything that is gone."""
        parent = make_layer(driver, None, base)
        layer, copy = new_cache_id(), new_cache_id()
        driver.create_read_write(layer, parent)
        with driver.mounted(layer) as root:
            change_everything(root)
            expected = flatten(root)
        tar = layer_tar(driver, layer, parent)
        driver.create(copy, parent)
        tar_split = io.BytesIO()
        applied = driver.apply(copy, parent, io.BytesIO(tar), tar_split=tar_split)
        assert tar_split.getvalue()
        assert applied.tar_size == len(tar)
        with driver.mounted_read_only(copy) as root:
            assert flatten(root) == expected
        assert members_of(layer_tar(driver, copy, parent)) == members_of(tar)

    def test_the_same_changes_give_the_same_bytes(self, driver: Driver) -> None:
        """Two layers, made in a different order of writing."""
        parent = make_layer(driver, None, base)
        tars = []
        for names in (("a", "b", "c"), ("c", "a", "b")):
            layer = new_cache_id()
            driver.create_read_write(layer, parent)
            with driver.mounted(layer) as root:
                for name in names:
                    write(root / "d" / name, name)
                os.utime(root / "d", (MOMENT, MOMENT))
                os.utime(root, (MOMENT, MOMENT))
            tars.append(layer_tar(driver, layer, parent))
        assert tars[0] == tars[1]

    def test_whiteouts_and_opaque_directories_hide_what_is_below(self, driver: Driver) -> None:
        """As a layer tar from anywhere may hold them, whatever the order of its entries."""
        parent = make_layer(driver, None, base)
        layer = new_cache_id()
        driver.create(layer, parent)
        tar = tar_of(
            [
                ("etc/.wh.hosts", b""),
                ("usr/share/a/", None),
                ("usr/share/a/kept", b"new"),
                ("usr/share/a/.wh..wh..opq", b""),
                (".wh.link", b""),
            ]
        )
        driver.apply(layer, parent, io.BytesIO(tar), tar_split=io.BytesIO())
        above = new_cache_id()
        driver.create_read_write(above, layer)
        for one in (layer, above):
            with driver.mounted_read_only(one) as root:
                assert sorted(os.listdir(root)) == ["etc", "usr"]
                assert os.listdir(root / "etc") == ["passwd"]
                assert os.listdir(root / "usr" / "share" / "a") == ["kept"]

    def test_a_captured_layer_is_what_its_diff_says(self, driver: Driver) -> None:
        """Same tree, same diff ID, same bytes; the layer captured from can only be removed."""
        from lamella.model.digest import digest_of

        parent = make_layer(driver, None, base)
        layer, captured_layer = new_cache_id(), new_cache_id()
        driver.create_read_write(layer, parent)
        with driver.mounted(layer) as root:
            change_everything(root)
            expected = flatten(root)
        tar = layer_tar(driver, layer, parent)
        tar_split = io.BytesIO()
        captured = driver.capture(layer, captured_layer, parent, tar_split=tar_split)
        driver.remove(layer)
        assert captured.diff_id == digest_of(tar)
        assert captured.tar_size == len(tar)
        assert captured.size == driver.size(captured_layer, parent)
        assert layer_tar(driver, captured_layer, parent) == tar
        assert tar_split.getvalue()
        with driver.mounted_read_only(captured_layer) as root:
            assert flatten(root) == expected
        assert sorted(driver.iter_ids()) == sorted([parent, captured_layer])

    def test_tar_split_names_resolve_in_the_layers_files(self, driver: Driver) -> None:
        """A layer's original bytes can be put together again."""
        layer = new_cache_id()
        driver.create(layer, None)
        tar = tar_of([("d/", None), ("d/f", b"content"), ("./d/g", b"other")])
        driver.apply(layer, None, io.BytesIO(tar), tar_split=io.BytesIO())
        with driver.files(layer) as files:
            assert (files / "d" / "f").read_bytes() == b"content"
            assert (files / "d" / "g").read_bytes() == b"other"

    def test_changes_are_dockers(self, driver: Driver) -> None:
        """Kinds A, C and D; parents of changes are C; what is below a removed directory is not listed."""
        parent = make_layer(driver, None, base)
        layer = new_cache_id()
        driver.create_read_write(layer, parent)
        assert driver.changes(layer, parent) == []
        with driver.mounted(layer) as root:
            write(root / "etc" / "hosts", "longer than before")
            (root / "etc" / "passwd").unlink()
            write(root / "new" / "dir" / "f")
            (root / "usr" / "share" / "a" / "b" / "deep").unlink()
            (root / "usr" / "share" / "a" / "b").rmdir()
            (root / "usr" / "bin" / "tool").chmod(0o755)
            (root / "link").unlink()
            write(root / "link", "a file now")
        shown = [f"{change.kind.value} {os.fsdecode(change.path)}" for change in driver.changes(layer, parent)]
        assert [line.replace(" /", " ") for line in shown] == [
            "C etc",
            "C etc/hosts",
            "D etc/passwd",
            "C link",
            "A new",
            "A new/dir",
            "A new/dir/f",
            "C usr",
            "C usr/bin",
            "C usr/bin/tool",
            "C usr/share",
            "C usr/share/a",
            "D usr/share/a/b",
        ]

    def test_a_change_that_changes_nothing_is_none(self, driver: Driver) -> None:
        """A file rewritten with the same size and time, a directory made anew with what it had."""
        parent = make_layer(driver, None, base)
        layer = new_cache_id()
        driver.create_read_write(layer, parent)
        with driver.mounted(layer) as root:
            write(root / "etc" / "hosts", "HOSTS")
            (root / "usr" / "bin" / "tool").unlink()
            (root / "usr" / "bin").rmdir()
            write(root / "usr" / "bin" / "tool", "#!/bin/sh\n", 0o4755)
            write(root / "gone")
            (root / "gone").unlink()
        assert driver.changes(layer, parent) == []

    def test_a_directory_replaced_shows_what_it_lost(self, driver: Driver) -> None:
        """Removed and made again, empty but for one name."""
        parent = make_layer(driver, None, base)
        layer = new_cache_id()
        driver.create_read_write(layer, parent)
        with driver.mounted(layer) as root:
            for name in ("hosts", "passwd"):
                (root / "etc" / name).unlink()
            (root / "etc").rmdir()
            write(root / "etc" / "other")
        shown = [(change.kind.value, change.path.lstrip(b"/")) for change in driver.changes(layer, parent)]
        assert shown == [("C", b"etc"), ("D", b"etc/hosts"), ("A", b"etc/other"), ("D", b"etc/passwd")]

    def test_changes_without_a_parent_are_all_additions(self, driver: Driver) -> None:
        """A bottom layer."""
        layer = make_layer(driver, None, base)
        changes = driver.changes(layer, None)
        assert {change.kind.value for change in changes} == {"A"}
        assert len(changes) == 11

    def test_the_size_is_of_what_the_layer_adds(self, driver: Driver) -> None:
        """Files once each, links by their text, nothing for directories and removed names."""
        parent = make_layer(driver, None, base)
        layer = new_cache_id()
        driver.create_read_write(layer, parent)
        assert driver.size(layer, parent) == 0
        with driver.mounted(layer) as root:
            write(root / "new", "x" * 5000)
            os.link(root / "new", root / "again")
            os.symlink("1234567", root / "symlink")
            (root / "etc" / "hosts").unlink()
            (root / "d").mkdir()
        assert driver.size(layer, parent) == 5007

    # --------------------------------------------------------------------------------------------------------- depth

    def test_an_image_of_as_many_layers_as_docker_takes_mounts(self, driver: Driver) -> None:
        """125 of an image, an init layer, and a container's."""
        layer: CacheID | None = None
        for number in range(125):
            below, layer = layer, new_cache_id()
            driver.create(layer, below)
            driver.apply(layer, below, io.BytesIO(tar_of([(f"f{number}", b"%d" % number)])), tar_split=io.BytesIO())
        init, container = new_cache_id(), new_cache_id()
        driver.create_read_write(init, layer)
        with driver.mounted(init) as root:
            write(root / "f125")
        driver.create_read_write(container, init)
        with driver.mounted(container) as root:
            assert len(os.listdir(root)) == 126
            write(root / "f0", "changed")
            (root / "f1").unlink()
        with driver.mounted_read_only(container) as root:
            assert (root / "f0").read_text() == "changed"
            assert not (root / "f1").exists()
            assert (root / "f124").read_text() == "124"
