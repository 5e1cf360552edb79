"""``inspect``, ``image inspect`` and ``container inspect``: everything about an object, as Docker's JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from lamella.cli.command import Command
from lamella.cli.common import INSPECT_FORMAT, each
from lamella.cli.flags import Flag, Values
from lamella.cli.output import print_documents
from lamella.errors import InvalidArgument, NotFound

if TYPE_CHECKING:
    from lamella.cli.context import Context
    from lamella.engine.store import Store

Find = Callable[["Store", str, bool], "dict[str, object]"]


def _image(store: Store, name: str, _size: bool) -> dict[str, object]:
    return store.image(name).inspect()


def _container(store: Store, name: str, size: bool) -> dict[str, object]:
    return store.container(name).inspect(size=size)


def _either(store: Store, name: str, size: bool) -> dict[str, object]:
    container = store.find_container(name)
    if container is not None:
        return container.inspect(size=size)
    image = store.find_image(name)
    if image is None:
        raise NotFound(f"No such object: {name}")
    return image.inspect()


def _inspect(context: Context, flags: Values, arguments: list[str], find: Find, *, size: bool) -> int:
    store = context.store()
    documents: list[object] = []
    code = each(context, arguments, lambda name: documents.append(find(store, name, size)))
    print_documents(context.output, documents, flags.text("format"))
    return code


def run(context: Context, flags: Values, arguments: list[str]) -> int:
    """Inspect images and containers by whatever name they go."""
    finders: dict[str, Find] = {"": _either, "image": _image, "container": _container}
    kind = flags.text("type")
    if kind not in finders:
        raise InvalidArgument(f'"{kind}" is not a valid value for --type; it may be image or container')
    return _inspect(context, flags, arguments, finders[kind], size=flags.on("size"))


def run_image(context: Context, flags: Values, arguments: list[str]) -> int:
    """Inspect images."""
    return _inspect(context, flags, arguments, _image, size=False)


def run_container(context: Context, flags: Values, arguments: list[str]) -> int:
    """Inspect containers."""
    return _inspect(context, flags, arguments, _container, size=flags.on("size"))


_SIZE = Flag("size", "Display total file sizes if the object is a container", short="s")

INSPECT = Command(
    usage="[OPTIONS] NAME|ID [NAME|ID...]",
    run=run,
    least=1,
    flags=(INSPECT_FORMAT, _SIZE, Flag("type", "Only inspect objects of the given type", kind="string")),
)
IMAGE_INSPECT = Command(
    usage="[OPTIONS] IMAGE [IMAGE...]", run=run_image, least=1, flags=(INSPECT_FORMAT,), completes="image"
)
CONTAINER_INSPECT = Command(
    usage="[OPTIONS] CONTAINER [CONTAINER...]",
    run=run_container,
    least=1,
    flags=(INSPECT_FORMAT, _SIZE),
    completes="container",
)
