"""``cp`` both ways, against Docker's rules and against a container that swaps things under it."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import tarfile
from collections.abc import Generator
from pathlib import Path

import pytest

from lamella.container.copy import copy_in, copy_in_tar, copy_out, copy_out_tar
from lamella.container.ending import remove_container
from lamella.container.lifecycle import start_container
from lamella.container.site import Site
from lamella.errors import Conflict, InvalidArgument, LamellaError, NotFound
from lamella.linux.mountinfo import read_mountinfo
from lamella.model.containerconfig import HostConfig
from lamella.store.containerdb import ContainerRecord
from tests.support.containers import Yard, eventually, opened_yard


@pytest.fixture
def yard(store_root: Path, base_tar: Path) -> Generator[Yard]:
    with opened_yard(store_root, base_tar) as made:
        yield made


@pytest.fixture(params=["running", "at rest"])
def container(yard: Yard, request: pytest.FixtureRequest) -> ContainerRecord:
    made = yard.create("sleep", "1000")
    if request.param == "running":
        start_container(yard.site, made.id)
    return made


def tree(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): "dir"
        if path.is_dir() and not path.is_symlink()
        else "link " + os.readlink(path)
        if path.is_symlink()
        else path.read_text()
        for path in sorted(root.rglob("*"))
    }


def seen(yard: Yard, container: ContainerRecord, path: str) -> str:
    sink = io.BytesIO()
    copy_out_tar(yard.site, container.id, path, sink)
    with tarfile.open(fileobj=io.BytesIO(sink.getvalue())) as archive:
        member = archive.next()
        assert member is not None
        file = archive.extractfile(member)
        assert file is not None
        return file.read().decode()


def names(yard: Yard, container: ContainerRecord, path: str) -> list[str]:
    sink = io.BytesIO()
    copy_out_tar(yard.site, container.id, path, sink)
    with tarfile.open(fileobj=io.BytesIO(sink.getvalue())) as archive:
        return sorted(archive.getnames())


def test_files_go_where_docker_puts_them(yard: Yard, container: ContainerRecord, tmp_path: Path) -> None:
    site, one = yard.site, container.id
    source = tmp_path / "file"
    source.write_text("content")
    copy_in(site, one, source, "/tmp/new")
    assert seen(yard, container, "/tmp/new") == "content"
    copy_in(site, one, source, "/tmp")
    copy_in(site, one, source, "/tmp/")
    assert seen(yard, container, "/tmp/file") == "content"
    source.write_text("changed")
    copy_in(site, one, source, "/tmp/new")
    assert seen(yard, container, "tmp/new") == "changed"
    with pytest.raises(NotFound, match="does not exist"):
        copy_in(site, one, source, "/tmp/missing/")
    with pytest.raises(NotFound):
        copy_in(site, one, source, "/missing/file")
    with pytest.raises(NotFound, match="no such file"):
        copy_in(site, one, tmp_path / "nothing", "/tmp")
    with pytest.raises(InvalidArgument, match="not a directory"):
        copy_out(site, one, "/tmp/new/", tmp_path / "x")
    out = tmp_path / "out"
    copy_out(site, one, "/tmp/new", out)
    assert out.read_text() == "changed"
    (tmp_path / "dir").mkdir()
    copy_out(site, one, "/tmp/new", tmp_path / "dir")
    copy_out(site, one, "/tmp/file", out)
    assert (tmp_path / "dir/new").read_text() == out.read_text() == "changed" or out.read_text() == "content"
    with pytest.raises(NotFound, match="Could not find the file /gone"):
        copy_out(site, one, "/gone", out)


def test_directories_go_where_docker_puts_them(yard: Yard, container: ContainerRecord, tmp_path: Path) -> None:
    site, one = yard.site, container.id
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "a").write_text("A")
    (source / "sub/b").write_text("B")
    (source / "link").symlink_to("a")
    copy_in(site, one, source, "/srv")
    assert names(yard, container, "/srv") == ["srv", "srv/a", "srv/link", "srv/sub", "srv/sub/b"]
    copy_in(site, one, source, "/srv")
    assert "srv/source/sub/b" in names(yard, container, "/srv")
    copy_in(site, one, Path(f"{source}/."), "/home")  # pathlib drops the dot: the source itself is copied
    assert "home/source/a" in names(yard, container, "/home")
    with pytest.raises(Conflict, match="cannot copy a directory"):
        copy_in(site, one, source, "/srv/a")
    copy_out(site, one, "/srv/source", tmp_path / "back")
    assert tree(tmp_path / "back") == tree(source)
    copy_out(site, one, "/srv/source", tmp_path / "back")
    assert tree(tmp_path / "back/source") == tree(source)
    (tmp_path / "flat").mkdir()
    copy_out(site, one, "/srv/source/.", tmp_path / "flat")
    assert tree(tmp_path / "flat") == tree(source)


def test_links_are_copied_as_links_unless_followed(yard: Yard, container: ContainerRecord, tmp_path: Path) -> None:
    site, one = yard.site, container.id
    (tmp_path / "target").write_text("T")
    (tmp_path / "link").symlink_to("target")
    copy_in(site, one, tmp_path / "link", "/tmp")
    copy_in(site, one, tmp_path / "link", "/tmp/followed", follow=True)
    assert seen(yard, container, "/tmp/followed") == "T"
    copy_out(site, one, "/tmp/link", tmp_path / "out")
    assert os.readlink(tmp_path / "out") == "target"
    copy_in(site, one, tmp_path / "target", "/tmp/target")
    (tmp_path / "out").unlink()
    copy_out(site, one, "/tmp/link", tmp_path / "out", follow=True)
    assert (tmp_path / "out").read_text() == "T"
    # A link at the destination is followed, inside the container.
    copy_in(site, one, tmp_path / "target", "/etc/mtab.d")
    (tmp_path / "up").symlink_to("/tmp")
    copy_in(site, one, tmp_path / "up", "/up")
    copy_in(site, one, tmp_path / "target", "/up/through")
    assert seen(yard, container, "/tmp/through") == "T"


def test_owners_and_modes(yard: Yard, container: ContainerRecord, tmp_path: Path) -> None:
    site, one = yard.site, container.id
    source = tmp_path / "program"
    source.write_text("x")
    os.chown(source, 1234, 4321)
    source.chmod(0o4755)
    os.utime(source, ns=(10**18, 10**18 + 5))
    copy_in(site, one, source, "/tmp/plain")
    copy_in(site, one, source, "/tmp/kept", archive=True)
    found = {}
    for name in ("plain", "kept"):
        copy_out(site, one, f"/tmp/{name}", tmp_path / name, archive=True)
        status = (tmp_path / name).stat()
        found[name] = (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode), status.st_mtime_ns)
    assert found["plain"][:3] == (0, 0, 0o755)
    assert found["kept"][:3] == (1234, 4321, 0o4755)
    assert found["kept"][3] // 10**9 == 10**9
    copy_out(site, one, "/tmp/kept", tmp_path / "mine")
    status = (tmp_path / "mine").stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (os.geteuid(), 0o755)


def test_device_nodes_of_a_container_do_not_become_the_hosts(yard: Yard, tmp_path: Path) -> None:
    made = yard.create("mknod", "/tmp/disk", "b", "8", "0")
    assert yard.run(made)[0] == 0
    with pytest.raises(InvalidArgument, match="device node"):
        copy_out(yard.site, made.id, "/tmp/disk", tmp_path / "disk")
    assert not (tmp_path / "disk").exists()
    copy_out(yard.site, made.id, "/tmp/disk", tmp_path / "disk", archive=True)
    assert stat.S_ISBLK((tmp_path / "disk").stat().st_mode)


def test_tar_streams_both_ways(yard: Yard, container: ContainerRecord, tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name in ("x/y/file", "etc/hosts"):
            member = tarfile.TarInfo(name)
            member.size, member.uid = 2, 7
            archive.addfile(member, io.BytesIO(b"ok"))
    stream.seek(0)
    copy_in_tar(yard.site, container.id, stream, "/tmp")
    sink = io.BytesIO()
    copy_out_tar(yard.site, container.id, "/tmp/x", sink)
    with tarfile.open(fileobj=io.BytesIO(sink.getvalue())) as archive:
        assert [(item.name, item.uid) for item in archive] == [("x", 0), ("x/y", 0), ("x/y/file", 7)]
    with pytest.raises(NotFound):
        copy_in_tar(yard.site, container.id, io.BytesIO(stream.getvalue()), "/missing")
    with pytest.raises(InvalidArgument, match="must be a directory"):
        copy_in_tar(yard.site, container.id, io.BytesIO(stream.getvalue()), "/etc/passwd")


def test_a_file_that_is_mounted_on_is_written_where_it_is(yard: Yard, tmp_path: Path) -> None:
    made = yard.create("sleep", "1000")
    start_container(yard.site, made.id)
    (tmp_path / "hosts").write_text("1.2.3.4 here\n")
    copy_in(yard.site, made.id, tmp_path / "hosts", "/etc/hosts")
    assert seen(yard, made, "/etc/hosts") == "1.2.3.4 here\n"


def test_volumes_are_seen_in_a_container_at_rest(yard: Yard, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "f").write_text("V")
    made = yard.create("true", host=HostConfig(binds=("named:/data", f"{outside}:/deep/er", f"{outside}:/ro:ro")))
    copy_in(yard.site, made.id, tmp_path / "f", "/data/")
    copy_in(yard.site, made.id, tmp_path / "f", "/deep/er/")
    assert (yard.root / "volumes/named/_data/f").read_text() == "V"
    assert (outside / "f").read_text() == "V"
    assert seen(yard, made, "/ro/f") == "V"
    with pytest.raises(OSError, match="Read-only"):
        copy_in(yard.site, made.id, tmp_path / "f", "/ro/g")
    assert [entry for entry in read_mountinfo() if str(entry.target).startswith(str(yard.root))] == []


def test_a_directory_is_not_replaced_by_a_file(yard: Yard, container: ContainerRecord, tmp_path: Path) -> None:
    (tmp_path / "s/etc").mkdir(parents=True)
    (tmp_path / "s/etc/passwd").mkdir()
    with pytest.raises(Conflict, match="non-directory"):
        copy_in_tar(yard.site, container.id, packed(tmp_path / "s"), "/")
    (tmp_path / "t").mkdir()
    (tmp_path / "t/etc").write_text("x")
    with pytest.raises(Conflict, match="cannot overwrite directory"):
        copy_in_tar(yard.site, container.id, packed(tmp_path / "t"), "/")
    assert seen(yard, container, "/etc/issue")


def packed(directory: Path) -> io.BytesIO:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.add(directory, ".")
    stream.seek(0)
    return stream


def test_links_in_a_container_never_lead_to_the_host(yard: Yard, container: ContainerRecord, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.mkdir()
    (canary / "kept").write_text("kept")
    before = os.stat(canary)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, link in (
            ("abs", str(canary)),
            ("rel", "../" * 20 + str(canary)[1:]),
            ("magic", "/proc/1/root" + str(canary)),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, link
            archive.addfile(member)
        for name in ("abs/x", "rel/y", "magic/z"):
            archive.addfile(tarfile.TarInfo(name))
    stream.seek(0)
    # Refused or done inside the container: both are fine, as long as the host sees nothing of it.
    with contextlib.suppress(LamellaError, OSError):
        copy_in_tar(yard.site, container.id, stream, "/tmp")
    for name in ("abs", "rel"):
        with contextlib.suppress(LamellaError):
            copy_out(yard.site, container.id, f"/tmp/{name}/kept", tmp_path / "got")
    (tmp_path / "payload").write_text("bad")
    for name in ("abs", "rel", "magic"):
        with contextlib.suppress(LamellaError, OSError):
            copy_in(yard.site, container.id, tmp_path / "payload", f"/tmp/{name}/kept")
    assert os.listdir(canary) == ["kept"]
    assert (canary / "kept").read_text() == "kept"
    assert os.stat(canary).st_mtime_ns == before.st_mtime_ns
    assert not (tmp_path / "got").exists() or (tmp_path / "got").read_text() != "kept"


def test_a_container_that_swaps_a_directory_for_a_link_gains_nothing(yard: Yard, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.mkdir()
    (canary / "secret").write_text("secret of the host")
    script = (
        "mkdir -p /w/d /w/e; echo inside > /w/d/secret;"
        f"ln -s {canary} /w/l;"
        "while :; do mv /w/d /w/e/d; mv /w/l /w/d; mv /w/d /w/l; mv /w/e/d /w/d; done"
    )
    made = yard.create("sh", "-c", script)
    start_container(yard.site, made.id)
    (tmp_path / "secret").write_text("from outside")
    eventually(lambda: copied(yard.site, made, tmp_path))
    for round_ in range(300):
        target = tmp_path / f"out{round_ % 3}"
        with contextlib.suppress(LamellaError, OSError):
            copy_out(yard.site, made.id, "/w/d/secret", target)
        for place in ("/w/d/secret", "/w/d/"):
            with contextlib.suppress(LamellaError, OSError):
                copy_in(yard.site, made.id, tmp_path / "secret", place)
        if target.exists():
            assert target.read_text() != "secret of the host"
            target.unlink()
    assert os.listdir(canary) == ["secret"]
    assert (canary / "secret").read_text() == "secret of the host"
    remove_container(yard.site, made.id, force=True)


def copied(site: Site, made: ContainerRecord, directory: Path) -> bool:
    try:
        copy_out(site, made.id, "/w/d/secret", directory / "first")
    except (LamellaError, OSError):
        return False
    return True
