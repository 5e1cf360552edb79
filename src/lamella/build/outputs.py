"""``--output``: what becomes of a built image besides its place in the store.

The grammar is buildx's.  ``oci`` and ``docker`` write the image, ``tar`` and ``local`` its root file system, ``image``
and ``registry`` name and push it.  A file appears under its name only when it is complete; ``local`` merges into a
directory as buildx does, replacing what is in the way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from lamella.build.fields import parse_fields, split_fields
from lamella.changeset.compression import Compression
from lamella.errors import InvalidArgument, Unsupported
from lamella.model.digest import ImageID
from lamella.model.reference import Reference, parse_new_name
from lamella.store.imagestore import ImageStore

if TYPE_CHECKING:
    from collections.abc import Generator

_PACKINGS = {"uncompressed": Compression.NONE, "gzip": Compression.GZIP, "zstd": Compression.ZSTD}
_IMAGE_FIELDS = ("name", "push", "compression", "oci-mediatypes", "unpack", "store", "rewrite-timestamp")
_ARCHIVE_FIELDS = ("dest", "name", "compression", "tar", "oci-mediatypes", "rewrite-timestamp")
STDOUT = "-"


class Output(NamedTuple):
    """One destination of a build."""

    type: str
    """``oci``, ``docker``, ``tar``, ``local`` or ``image``."""
    destination: str = ""
    """A path, ``-`` for standard output, nothing for the store itself."""
    names: tuple[str, ...] = ()
    """What the image is called there, if not by its tags."""
    push: bool = False
    compression: str = ""
    """How layers are packed: ``gzip``, ``zstd``, ``none``, or nothing for the format's own habit."""
    layout: bool = False
    """A directory in OCI layout in place of an archive."""

    @property
    def to_stdout(self) -> bool:
        """Tell whether it is written to standard output."""
        return self.destination == STDOUT


def parse_output(text: str) -> Output:
    """Parse one ``--output``: a directory, ``-``, or ``type=…`` with its fields.

    ``rewrite-timestamp`` changes nothing: with a time given, all that a build makes bears it, and a base's layers stay
    what they are.

    Raises InvalidArgument for what makes no sense, Unsupported for a type that only other builders have.
    """
    if not text:
        raise InvalidArgument("output: a directory, - or type=… is needed")
    if split_fields(text, "output") == [text] and not text.startswith("type="):
        return Output("tar", STDOUT) if text == STDOUT else Output("local", text)
    fields = parse_fields(text, "output")
    names = tuple(
        parse_new_name(name.strip()).familiar() for name in fields.attributes.get("name", "").split(",") if name
    )
    packing = fields.choice("compression", _PACKINGS)
    compression = str(_PACKINGS[packing]) if packing else ""
    for key in ("oci-mediatypes", "unpack", "store", "rewrite-timestamp"):
        fields.boolean(key)
    match fields.type:
        case "local":
            fields.only("dest", "rewrite-timestamp")
            destination = fields.needed("dest")
            if destination == STDOUT:
                raise InvalidArgument(f"{text}: dest must be a directory")
            return Output("local", destination)
        case "tar":
            fields.only("dest", "rewrite-timestamp")
            return Output("tar", fields.attributes.get("dest") or STDOUT)
        case "oci" | "docker":
            fields.only(*_ARCHIVE_FIELDS)
            layout = not fields.boolean("tar", default=True)
            destination = fields.attributes.get("dest", "")
            if layout and fields.type == "docker":
                raise InvalidArgument(f"{text}: a docker archive is a tar; use type=oci for a directory")
            if layout and destination in {"", STDOUT}:
                raise InvalidArgument(f"{text}: tar=false needs dest, a directory")
            if fields.type == "oci":
                destination = destination or STDOUT
            return Output(fields.type, destination, names, compression=compression, layout=layout)
        case "image" | "registry":
            fields.only(*_IMAGE_FIELDS)
            push = fields.boolean("push", default=fields.type == "registry")
            return Output("image", "", names, push=push, compression=compression)
        case "cacheonly":
            fields.only()
            return Output("image")
        case _:
            pass
    raise Unsupported(f"{text}: outputs are local, tar, oci, docker, image and registry, not {fields.type!r:.40}")


def check_outputs(outputs: Sequence[Output], tags: Sequence[str]) -> None:
    """Refuse, before anything is built, what could not be written afterwards."""
    if sum(output.to_stdout for output in outputs) > 1:
        raise InvalidArgument("only one output can go to standard output")
    for output in outputs:
        if output.push and not (output.names or tags):
            raise InvalidArgument("tag is needed when pushing to registry")
        if not output.destination or output.to_stdout:
            continue
        path = Path(output.destination)
        if output.type == "local" or output.layout:
            if path.exists() and not path.is_dir():
                raise InvalidArgument(f"destination {output.destination} is not a directory")
        elif path.is_dir():
            raise InvalidArgument(f"destination {output.destination} is a directory; name a file")
        elif not path.parent.is_dir():
            raise InvalidArgument(f"destination {output.destination}: the directory {path.parent} does not exist")


def write_output(
    store: ImageStore, image: ImageID, output: Output, tags: Sequence[str], *, stdout: BinaryIO | None
) -> None:
    """Write an image to one destination that is a file, a directory or *stdout*.

    A file is on disk, and whole, on return.  Pushing is for those who know registries.
    """
    if not output.destination:
        return
    references = [parse_new_name(name) for name in output.names or tags]
    if output.type == "local":
        _write_directory(store, image, Path(output.destination))
    elif output.layout:
        _write_layout(store, image, Path(output.destination), references, _packing(output, Compression.GZIP))
    else:
        with _sink(output, stdout) as sink:
            if output.type == "tar":
                _write_tree(store, image, sink)
            else:
                habit = Compression.GZIP if output.type == "oci" else Compression.NONE
                _write_archive(store, image, sink, references, _packing(output, habit))


def _packing(output: Output, habit: Compression) -> Compression:
    return Compression(output.compression) if output.compression else habit


@contextmanager
def _sink(output: Output, stdout: BinaryIO | None) -> Generator[BinaryIO]:
    if output.to_stdout:
        if stdout is None:
            raise InvalidArgument("an output to - needs a stream to go to")
        yield stdout
        stdout.flush()
        return
    from lamella.fs.atomic import writing_file

    with writing_file(Path(output.destination), mode=0o644) as stream:
        yield stream


def _write_archive(
    store: ImageStore, image: ImageID, sink: BinaryIO, references: Sequence[Reference], compression: Compression
) -> None:
    from lamella.transports.saving import save

    save(store, [(image, references)], sink, compression=compression)


def _write_layout(
    store: ImageStore, image: ImageID, path: Path, references: Sequence[Reference], compression: Compression
) -> None:
    from lamella.transports.copying import copy_stored
    from lamella.transports.copytargets import LayoutDestination

    path.mkdir(parents=True, exist_ok=True)
    for name in dict.fromkeys(str(reference.tag) for reference in references) or [""]:
        copy_stored(store, image, LayoutDestination(path, name), compression)


def _write_tree(store: ImageStore, image: ImageID, sink: BinaryIO, owner: tuple[int, int] | None = None) -> None:
    """Write the merged tree of an image as a tar, as it is or as one *owner*'s."""
    from lamella.changeset.diff import write_tree
    from lamella.drivers.naive import tree_below

    top = store.images.get(image).top
    layer = None if top is None else store.layers.get(top).cache_id
    with tree_below(layer, store.root.driver.mounted_read_only, store.root.wip_dir) as merged:
        write_tree(merged, sink, owner=owner)


def _write_directory(store: ImageStore, image: ImageID, path: Path) -> None:
    """Merge the tree of an image into a directory; files become the caller's, as buildx has it.

    The tree comes as a tar and is applied like a layer: what has a new name is replaced and never written through,
    so links that stand in the directory lead nowhere.
    """
    import os

    from lamella.changeset.apply import Style, apply_layer
    from lamella.store.pipes import reading_from

    path.mkdir(parents=True, exist_ok=True)
    owner = (os.geteuid(), os.getegid())
    write: Callable[[BinaryIO], object] = lambda sink: _write_tree(store, image, sink, owner)  # noqa: E731
    with ExitStack() as stack:
        stream = stack.enter_context(reading_from(write))
        apply_layer(stream, Path(os.path.realpath(path)), style=Style.REMOVE)
