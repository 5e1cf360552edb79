"""Kinds of damage to a data-root, one function each, and what a check must say to it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.checkedstores import CheckedStore

LAYERDB = "image/overlay2/layerdb/sha256"


class Place:
    """A copy of a checked store, and where its parts are."""

    def __init__(self, root: Path, store: CheckedStore) -> None:
        self.root = root
        self.store = store
        self.references: dict[str, str] = {
            key: image
            for entries in json.loads((self.image_dir / "repositories.json").read_text())["Repositories"].values()
            for key, image in entries.items()
        }

    @property
    def image_dir(self) -> Path:
        return self.root / "image/overlay2"

    def image(self, name: str) -> str:
        """Return an image's ID by ``one`` (pulled by lamella), ``two`` (pulled by dockerd) or its reference."""
        name = {"one": self.store.lamella_image, "two": self.store.docker_image}.get(name, name)
        return self.references[name]

    def config(self, name: str) -> Path:
        return self.image_dir / "imagedb/content/sha256" / self.image(name)[7:]

    def notes(self, name: str) -> Path:
        return self.image_dir / "imagedb/metadata/sha256" / self.image(name)[7:]

    def record(self, name: str, number: int) -> Path:
        """Return the record of a layer of an image, 0 being the base."""
        import hashlib

        chain = ""
        for diff in json.loads(self.config(name).read_text())["rootfs"]["diff_ids"][: number + 1 or None]:
            chain = diff if not chain else "sha256:" + hashlib.sha256(f"{chain} {diff}".encode()).hexdigest()
        return self.root / LAYERDB / chain[7:]

    def directory(self, name: str, number: int) -> Path:
        return self.root / "overlay2" / (self.record(name, number) / "cache-id").read_text()

    def short_name(self, name: str, number: int) -> Path:
        return self.root / "overlay2/l" / (self.directory(name, number) / "link").read_text()

    def container(self, name: str) -> Path:
        for path in (self.root / "containers").iterdir():
            if json.loads((path / "config.v2.json").read_text())["Name"] == f"/{name}":
                return path
        raise LookupError(name)

    def mount(self, name: str) -> Path:
        return self.image_dir / "layerdb/mounts" / self.container(name).name

    def writable(self, name: str) -> Path:
        return self.root / "overlay2" / (self.mount(name) / "mount-id").read_text()

    def init(self, name: str) -> Path:
        return self.root / "overlay2" / (self.mount(name) / "init-id").read_text()


class Note(NamedTuple):
    """Something in a store that does no harm."""

    name: str
    leave: Callable[[Place], Path]
    """Leave it there and return its place."""
    code: str
    stays: bool = False
    """Whether mending leaves it where it is."""


class Damage(NamedTuple):
    """One kind of damage."""

    name: str
    inflict: Callable[[Place], object]
    codes: frozenset[str]
    """Any of these must be found."""
    deep: bool = False
    left: bool = False
    """Nothing can be done about it without more being lost."""
    set_aside: bool = False
    """Only moving an image to quarantine helps."""


def flip(path: Path, offset: int = -1, bit: int = 1) -> None:
    """Flip one bit, in the middle if no place is given."""
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2 if offset < 0 else offset] ^= bit
    _put(path, bytes(raw))


def truncate(path: Path) -> None:
    _put(path, path.read_bytes()[: path.stat().st_size // 2])


def zero(path: Path) -> None:
    _put(path, bytes(path.stat().st_size))


def empty(path: Path) -> None:
    _put(path, b"")


def delete(path: Path) -> None:
    path.unlink()


def remove(path: Path) -> None:
    subprocess.run(["rm", "-rf", path], check=True)


def swap(one: Path, other: Path) -> None:
    aside = one.with_name("aside-for-swap")
    os.rename(one, aside)
    os.rename(other, one)
    os.rename(aside, other)


def _put(path: Path, raw: bytes) -> None:
    """Write in place, keeping owner, mode and times: damage does not ask for a new inode."""
    status = path.lstat()
    with path.open("r+b") as file:
        file.truncate(0)
        file.write(raw)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def edit(path: Path, change: Callable[[Any], object]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def zeroed_layer(directory: Path) -> None:
    """Leave a layer as a power cut leaves one that was never synced: all names, no bytes."""
    for path in (directory / "diff").rglob("*"):
        if path.is_file() and not path.is_symlink():
            empty(path)


def orphan_of_killed_pull(place: Place) -> None:
    """Leave what dockerd leaves when it is killed in mid-pull: a directory, its short name, an unfinished record."""
    name = "ab" * 32
    directory = place.root / "overlay2" / name
    (directory / "diff/usr").mkdir(parents=True)
    (directory / "diff/usr/half").write_bytes(b"x" * 10000)
    (directory / "link").write_text("ORPHANORPHANORPHANORPHAN22")
    os.symlink(f"../{name}/diff", place.root / "overlay2/l/ORPHANORPHANORPHANORPHAN22")
    write_set = place.image_dir / "layerdb/tmp/write-set-123456789"
    write_set.mkdir(mode=0o700)
    (write_set / "tar-split.json.gz").write_bytes(b"\x1f\x8b\x08")


def orphan_stack(place: Place) -> None:
    """Leave two directories of which one stands on the other, and nothing else on them."""
    for name, link, lower in (("cd" * 32, "C" * 26, ""), ("ef" * 32, "E" * 26, "l/" + "C" * 26)):
        directory = place.root / "overlay2" / name
        (directory / "diff").mkdir(parents=True)
        (directory / "work").mkdir()
        (directory / "link").write_text(link)
        if lower:
            (directory / "lower").write_text(lower)
        os.symlink(f"../{name}/diff", place.root / "overlay2/l" / link)


def unused_layer(place: Place) -> None:
    """Take an image and the container on it away behind its layers' back."""
    image = place.image("two")
    remove(place.container("of-two"))
    _untag(place, image)
    delete(place.image_dir / "imagedb/content/sha256" / image[7:])


def _untag(place: Place, image: str) -> None:
    def change(document: Any) -> None:
        for entries in document["Repositories"].values():
            for key in [key for key, value in entries.items() if value == image]:
                del entries[key]

    edit(place.image_dir / "repositories.json", change)


def removal_begun(place: Place) -> None:
    """Leave a layer whose removal was begun: the record renamed, the directory still there."""
    name = "12" * 32
    directory = place.root / "overlay2" / name
    (directory / "diff").mkdir(parents=True)
    (directory / "link").write_text("R" * 26)
    os.symlink(f"../{name}/diff", place.root / "overlay2/l" / ("R" * 26))
    record = place.root / LAYERDB / f"{'34' * 32}-{'56' * 16}-removing"
    record.mkdir()
    (record / "cache-id").write_text(name)


def _mount_without_container(place: Place) -> None:
    owner = "9a" * 32
    record = place.image_dir / "layerdb/mounts" / owner
    shutil.copytree(place.mount("writer"), record)
    name = "78" * 32
    directory = place.root / "overlay2" / name
    (directory / "diff").mkdir(parents=True)
    (directory / "link").write_text("M" * 26)
    os.symlink(f"../{name}/diff", place.root / "overlay2/l" / ("M" * 26))
    (record / "mount-id").write_text(name)
    (record / "init-id").unlink()
    (record / "parent").unlink()


def _links_gone(place: Place) -> None:
    remove(place.root / "overlay2/l")


def _short_name_elsewhere(place: Place) -> None:
    link = place.short_name("two", 1)
    delete(link)
    os.symlink("../nowhere/diff", link)


def _link_elsewhere(place: Place) -> None:
    link = place.directory("one", 0) / "diff/lib"
    delete(link)
    os.symlink("usr/bad", link)


def _both_names_gone(place: Place, image: str) -> None:
    for name in ("test", "other"):
        delete(place.directory(image, 1) / "diff/tmp" / name)


def _broken_hard_link(place: Place) -> None:
    path = place.directory("app:1", 1) / "diff/tmp/other"
    delete(path)
    path.write_text("x1\n")
    path.chmod(0o644)
    os.chown(path, 1000, 10)


def _write(path: Path, text: str) -> None:
    path.write_text(text)


def _replace_by_link(path: Path) -> None:
    remove(path)
    os.symlink("/etc", path)


def _replace_by_file(path: Path) -> None:
    remove(path)
    path.write_text("x")


def _replace_by_directory(path: Path) -> None:
    remove(path)
    path.mkdir()
    (path / "x").write_text("x")


def _give_away(path: Path) -> None:
    """Give a whole tree to another user, as copying it as one does; capabilities and set-user-ID bits go with it."""
    subprocess.run(["chown", "-hR", "1000:1000", path], check=True)


def _case(
    name: str, inflict: Callable[[Place], object], *codes: str, deep: bool = False, left: bool = False,
    set_aside: bool = False,
) -> Damage:  # fmt: skip
    return Damage(name, inflict, frozenset(codes), deep, left, set_aside)


def _record_cases() -> list[Damage]:
    found = []
    files = {
        "diff": ("layer-record-damaged",),
        "size": ("layer-record-damaged", "layer-size-wrong"),
        "cache-id": ("layer-record-damaged", "layer-directory-missing"),
        "parent": ("layer-record-damaged",),
        "tar-split.json.gz": ("layer-tarsplit-damaged",),
    }
    for file, codes in files.items():
        for action in (delete, truncate, empty, zero, flip):
            for image in ("one", "two"):
                if image == "two" and action not in {delete, flip}:
                    continue
                found.append(
                    _case(
                        f"{action.__name__} {file} of a layer of {image}",
                        lambda p, a=action, f=file, i=image: a(p.record(i, 1) / f),  # type: ignore[misc]
                        *codes,
                    )
                )
        found.append(
            _case(
                f"swap {file} of two layers",
                lambda p, f=file: swap(p.record("one", 1) / f, p.record("two", 2) / f),  # type: ignore[misc]
                *codes,
                "layer-file-missing",
                "layer-file-changed",
                "layer-content-damaged",
                "lower-wrong",
                deep=True,
            )
        )
    return found


def _local_record_cases() -> list[Damage]:
    """The same to layers that were built here and can be fetched from nowhere."""
    cases = []
    for file in ("diff", "size", "cache-id", "parent"):
        code = ("layer-record-damaged", "layer-size-wrong", "layer-directory-missing")
        cases += [
            _case(f"delete {file} of a built layer", lambda p, f=file: delete(p.record("app:1", 1) / f), *code),  # type: ignore[misc]
            _case(f"flip {file} of a built layer", lambda p, f=file: flip(p.record("app:1", 1) / f), *code),  # type: ignore[misc]
        ]
    return [
        *cases,
        _case("delete tar-split of a built layer", lambda p: delete(p.record("app:1", 1) / "tar-split.json.gz"),
              "layer-tarsplit-damaged"),
        _case("delete the record of a built layer", lambda p: remove(p.record("app:1", 1)),
              "image-layers-missing", "layer-parent-missing"),
    ]  # fmt: skip


def _stale_holder(place: Place) -> None:
    holders = place.root / "lamella/mounts" / place.writable("writer").name / "holders"
    holders.mkdir(parents=True)
    (holders / ("7" * 64)).touch()


def _quarantine_without_record(place: Place) -> None:
    from lamella.insight.quarantine import RECORD, Quarantine

    stray = place.root / "overlay2" / ("8" * 64)
    stray.mkdir()
    (Quarantine(place.root).put("directory-orphan", "a test", [stray]).path / RECORD).unlink()


CASES: list[Damage] = [
    *_record_cases(),
    *_local_record_cases(),
    # whole records and directories
    _case("remove the record of a layer of one", lambda p: remove(p.record("one", 1)), "image-layers-missing"),
    _case("remove the record of the base of two", lambda p: remove(p.record("two", 0)), "image-layers-missing"),
    _case("remove the directory of a layer of one", lambda p: remove(p.directory("one", 1)), "layer-directory-missing"),
    _case("remove the directory of the base of two", lambda p: remove(p.directory("two", 0)), "layer-directory-missing"),
    _case("remove the directory of the top of one", lambda p: remove(p.directory("one", 2)), "layer-directory-missing"),
    _case("remove diff of a layer of one", lambda p: remove(p.directory("one", 1) / "diff"), "layer-directory-missing"),
    _case("a link in place of diff", lambda p: _replace_by_link(p.directory("two", 1) / "diff"), "wrong-type"),
    _case("a file in place of a layer's directory", lambda p: _replace_by_file(p.directory("one", 0)),
          "layer-directory-missing"),
    _case("a directory in place of a tar-split",
          lambda p: _replace_by_directory(p.record("app:1", 1) / "tar-split.json.gz"), "layer-tarsplit-damaged"),
    _case("a file in place of the notes on all images",
          lambda p: _replace_by_file(p.image_dir / "imagedb/metadata"), "wrong-type"),
    _case("a file in place of the notes on all blobs",
          lambda p: _replace_by_file(p.image_dir / "distribution/diffid-by-digest"), "wrong-type"),
    _case("a file in place of a container's directory", lambda p: _replace_by_file(p.container("writer")),
          "wrong-type"),
    _case("every file of two has another owner", lambda p: _give_away(p.directory("two", 0) / "diff"),
          "layer-file-changed"),
    _case("every file of an imported layer has another owner", lambda p: _give_away(p.directory("base:1", 0) / "diff"),
          "layer-file-changed"),
    _case("every file of an imported layer has another mode",
          lambda p: subprocess.run(["chmod", "-R", "go-rwx", p.directory("base:1", 0) / "diff"], check=True),
          "layer-file-changed"),
    _case("two layers name one directory",
          lambda p: _write(p.record("one", 1) / "cache-id", p.directory("one", 0).name), "layer-directory-shared"),
    # the driver's small files
    *(
        _case(f"{action.__name__} link of {image}",
              lambda p, a=action, i=image: a(p.directory(i, 1) / "link"), "link-damaged")  # type: ignore[misc]
        for action in (delete, truncate, empty, zero, flip) for image in ("one", "app:1")
    ),
    *(
        _case(f"{action.__name__} lower of {image}",
              lambda p, a=action, i=image: a(p.directory(i, 1) / "lower"), "lower-wrong")  # type: ignore[misc]
        for action in (delete, truncate, empty, zero, flip) for image in ("two", "app:1")
    ),
    _case("swap link of two layers",
          lambda p: swap(p.directory("one", 1) / "link", p.directory("two", 1) / "link"), "link-damaged"),
    _case("swap lower of two layers",
          lambda p: swap(p.directory("one", 2) / "lower", p.directory("two", 2) / "lower"), "lower-wrong"),
    _case("delete a short name", lambda p: delete(p.short_name("one", 1)), "short-name-missing"),
    _case("a short name leads elsewhere", _short_name_elsewhere, "short-name-missing"),
    _case("swap two short names", lambda p: swap(p.short_name("one", 0), p.short_name("two", 0)),
          "short-name-missing", "link-damaged"),
    _case("all short names gone", _links_gone, "short-name-missing"),
    _case("a short name to nothing",
          lambda p: os.symlink(f"../{'0' * 64}/diff", p.root / "overlay2/l" / ("Z" * 26)), "short-name-left"),
    _case("delete committed", lambda p: delete(p.directory("one", 0) / "committed"), "committed-missing"),
    _case("committed on a writable layer", lambda p: (p.writable("writer") / "committed").touch(), "committed-wrong"),
    _case("remove work of a writable layer", lambda p: remove(p.writable("docker-ran") / "work"), "work-missing"),
    # files of layers
    _case("delete a file", lambda p: delete(p.directory("one", 0) / "diff/bin/tool"), "layer-file-missing"),
    _case("truncate a file", lambda p: truncate(p.directory("two", 0) / "diff/bin/tool"), "layer-file-changed"),
    _case("zero a file", lambda p: zero(p.directory("one", 0) / "diff/bin/tool"), "layer-content-damaged", deep=True),
    _case("flip a bit of a file", lambda p: flip(p.directory("two", 2) / "diff/var/data"), "layer-content-damaged",
          deep=True),
    _case("all files empty, as after a power cut", lambda p: zeroed_layer(p.directory("two", 0)), "layer-file-changed"),
    _case("swap two files of a layer",
          lambda p: swap(p.directory("one", 0) / "diff/bin/tool", p.directory("one", 0) / "diff/usr/lib/so"),
          "layer-file-changed"),
    _case("a file has another mode", lambda p: os.chmod(p.directory("one", 0) / "diff/bin/tool", 0o777),
          "layer-file-changed"),
    _case("a file has another owner", lambda p: os.chown(p.directory("app:1", 1) / "diff/tmp/test", 7, 7),
          "layer-file-changed"),
    _case("a link leads elsewhere", _link_elsewhere, "layer-file-changed"),
    _case("a deletion is gone", lambda p: delete(p.directory("app:1", 1) / "diff/etc/issue"), "layer-file-missing"),
    _case("an opaque mark is gone",
          lambda p: os.removexattr(p.directory("two", 2) / "diff/usr/share", "trusted.overlay.opaque"),
          "layer-file-changed"),
    _case("a hard link is broken", _broken_hard_link, "layer-file-changed"),
    _case("a file too many", lambda p: (p.directory("app:1", 1) / "diff/backdoor").write_text("!"), "layer-file-extra"),
    _case("a directory of a layer is gone", lambda p: remove(p.directory("one", 0) / "diff/usr"), "layer-file-missing"),
    _case("a fifo is gone", lambda p: delete(p.directory("app:1", 2) / "diff/pipe"), "layer-file-missing"),
    _case("a file is gone that containers stand on",
          lambda p: _both_names_gone(p, "app:1"),
          "layer-file-missing", left=True),
    _case("a file is gone of an image that was built here",
          lambda p: delete(p.directory("built:1", -1) / "diff/y"),
          "layer-file-missing", left=True, set_aside=True),
    _case("a bit of a file of a layer built by dockerd", lambda p: flip(p.directory("committed:1", -1) / "diff/made")
          if (p.directory("committed:1", -1) / "diff/made").stat().st_size
          else (p.directory("committed:1", -1) / "diff/made").write_text("!"), "layer-file-changed", "layer-content-damaged"),
    # images
    *(
        _case(f"{action.__name__} config of {image}", lambda p, a=action, i=image: a(p.config(i)),  # type: ignore[misc]
              "image-config-damaged", "reference-unknown-image")
        for action in (truncate, empty, zero, flip) for image in ("one", "two")
    ),
    _case("delete the config of two", lambda p: delete(p.config("two")), "reference-unknown-image"),
    _case("swap two configs", lambda p: swap(p.config("one"), p.config("app:1")), "image-config-damaged"),
    _case("flip the config of a built image", lambda p: flip(p.config("committed:1")), "image-config-damaged"),
    *(
        _case(f"{action.__name__} parent note", lambda p, a=action: a(p.notes("app:1") / "parent"),  # type: ignore[misc]
              "image-metadata-damaged", "image-parent-unknown")
        for action in (truncate, empty, zero, flip)
    ),
    _case("empty lastUpdated", lambda p: empty(p.notes("app:1") / "lastUpdated"), "image-metadata-damaged"),
    _case("an image is its own parent",
          lambda p: _write(p.notes("app:1") / "parent", p.image("app:1")), "image-parent-unknown"),
    _case("notes without an image",
          lambda p: (p.notes("app:1").parent / ("0" * 64)).mkdir(), "image-metadata-orphan"),
    # references and notes on blobs
    *(
        _case(f"{action.__name__} repositories.json",
              lambda p, a=action: a(p.image_dir / "repositories.json"),  # type: ignore[misc]
              "references-damaged", "references-missing", "reference-malformed", "reference-unknown-image")
        for action in (delete, truncate, empty, zero)
    ),
    _case("flip an image in repositories.json",
          lambda p: flip(f := p.image_dir / "repositories.json",
                         f.read_bytes().index(p.image("app:1").encode()) + 20), "reference-unknown-image",
          "reference-malformed", "references-damaged"),
    _case("a name under another repository",
          lambda p: edit(p.image_dir / "repositories.json",
                         lambda d: d["Repositories"]["app"].update({"other:1": p.image("app:1")})), "reference-malformed"),
    *(
        _case(f"{action.__name__} a note on a blob",
              lambda p, a=action: a(next(iter(sorted((p.image_dir / "distribution/diffid-by-digest/sha256").iterdir())))),  # type: ignore[misc]
              "distribution-damaged")
        for action in (truncate, empty, zero)
    ),
    _case("zero the notes on a layer",
          lambda p: zero(next(iter(sorted((p.image_dir / "distribution/v2metadata-by-diffid/sha256").iterdir())))),
          "distribution-damaged"),
    _case("swap two notes on blobs",
          lambda p: swap(*sorted((p.image_dir / "distribution/diffid-by-digest/sha256").iterdir())[:2]),
          "distribution-damaged"),
    # containers
    *(
        _case(f"{action.__name__} config.v2.json",
              lambda p, a=action: a(p.container("docker-ran") / "config.v2.json"),  # type: ignore[misc]
              "container-config-damaged")
        for action in (delete, truncate, empty, zero)
    ),
    _case("swap config.v2.json of two containers",
          lambda p: swap(p.container("writer") / "config.v2.json", p.container("docker-ran") / "config.v2.json"),
          "container-config-damaged"),
    _case("a record without NetworkSettings",
          lambda p: edit(p.container("writer") / "config.v2.json", lambda d: d.pop("NetworkSettings")),
          "container-config-damaged"),
    *(
        _case(f"{action.__name__} hostconfig.json",
              lambda p, a=action: a(p.container("made-by-lamella") / "hostconfig.json"),  # type: ignore[misc]
              "container-hostconfig-damaged")
        for action in (delete, truncate, empty, zero)
    ),
    *(
        _case(f"{action.__name__} {file} of a container",
              lambda p, a=action, f=file: a(p.mount("of-two") / f),  # type: ignore[misc]
              "container-layer-unknown", "container-parent-wrong", "container-layer-missing", "container-init-missing")
        for file in ("mount-id", "init-id", "parent") for action in (delete, empty, zero, flip)
    ),
    _case("remove a mount record", lambda p: remove(p.mount("of-two")), "container-layer-unknown"),
    _case("remove a writable layer", lambda p: remove(p.writable("writer")), "container-layer-missing"),
    _case("remove an init layer", lambda p: remove(p.init("of-two")), "container-init-missing"),
    _case("remove a container's directory", lambda p: remove(p.container("writer")), "mount-record-orphan"),
    # leftovers
    _case("a pull that was killed", orphan_of_killed_pull, "directory-orphan"),
    _case("the record of a layer that was never finished",
          lambda p: (p.image_dir / "layerdb/tmp/write-set-77").mkdir(), "write-set-left"),
    _case("a stack of orphans", orphan_stack, "directory-orphan"),
    _case("a removal that was not finished", removal_begun, "removal-unfinished"),
    _case("layers of an image that is gone", unused_layer, "layer-unused", "mount-record-orphan"),
    _case("a draft of repositories.json",
          lambda p: (p.image_dir / ".tmp-repositories.json123").write_text("{"), "draft-left"),
    _case("a writable layer without a container", _mount_without_container, "mount-record-orphan"),
    _case("a container that was never finished",
          lambda p: (p.root / "containers" / ("5" * 64)).mkdir(), "container-leftover"),
    _case("a mount held for a container that does not exist", _stale_holder, "holder-stale"),
    _case("an entry of the quarantine without its record", _quarantine_without_record, "quarantine-damaged", left=True),
    _case("two containers of one name",
          lambda p: edit(p.container("writer") / "config.v2.json", lambda d: d.update(Name="/docker-ran")),
          "container-name-taken", left=True),
    _case("an operation whose process is gone",
          lambda p: (p.root / "lamella/tx" / f"{'a' * 32}.json").write_text('{"kind":"load","pid":1,"ids":[]}\n'),
          "transaction-dead"),
    _case("a record of an operation that cannot be read",
          lambda p: (p.root / "lamella/tx" / f"{'b' * 32}.json").write_bytes(bytes(64)), "transaction-damaged"),
    _case("a manifest that was kept, cut off",
          lambda p: truncate(p.root / "lamella/manifests" / p.image("one")[7:]), "own-file-damaged"),
]  # fmt: skip


def _left(path: Path, *, directory: bool = False) -> Path:
    if directory:
        path.mkdir()
    else:
        path.touch()
    return path


NOTES = [
    Note("a mount point that nobody uses", lambda p: _left(p.writable("writer") / "merged", directory=True),
         "mount-point-left"),
    Note("the mark of a change that did not end", lambda p: _left(p.root / "lamella/unclean"), "unclean"),
    *(
        Note(f"a stranger among {what}", lambda p, w=where: _left(w(p) / "stranger"), "unknown-file", stays=True)  # type: ignore[misc]
        for what, where in {
            "configs": lambda p: p.config("one").parent,
            "notes on images": lambda p: p.notes("app:1").parent,
            "an image's notes": lambda p: p.notes("app:1"),
            "layer records": lambda p: p.record("one", 0).parent,
            "a layer's record": lambda p: p.record("one", 0),
            "the parts of the layer records": lambda p: p.image_dir / "layerdb",
            "records in the making": lambda p: p.image_dir / "layerdb/tmp",
            "layer directories": lambda p: p.root / "overlay2",
            "a layer's directory": lambda p: p.directory("one", 0),
            "short names": lambda p: p.root / "overlay2/l",
            "containers": lambda p: p.root / "containers",
            "a mount record": lambda p: p.mount("writer"),
        }.items()
    ),
]  # fmt: skip
