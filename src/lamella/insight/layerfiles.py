"""One layer's files as a tree of sizes, and which of them the layers above it hide.

Sizes are what Docker counts in a layer: the length of all but directories, each inode once.  A file is *hidden* in a
stack if a layer above overwrites or deletes it there, and *wasted* if that is so in every image that has the layer: no
one can ever read those bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from lamella.errors import NotFound
from lamella.insight.mergedtree import MergedTree, Node, directories_of
from lamella.insight.subject import Subject, find_subject
from lamella.model.digest import chain_ids
from lamella.readers.base import StoredLayer, StoreReader

SHOWN: Final = (40, 16, 10)
"""How many names are listed of a directory, of each one in it, and so on down."""
MOST_STACKS: Final = 12
"""In how many different stacks a layer is looked for to tell what is wasted."""


class Folder:
    """A directory of the layer with the sums of all below it."""

    __slots__ = ("files", "folders", "hidden", "leaves", "size", "wasted")

    def __init__(self) -> None:
        self.folders: dict[bytes, Folder] = {}
        self.leaves: dict[bytes, Leaf] = {}
        self.size = self.hidden = self.wasted = self.files = 0

    def count(self, size: int, *, hidden: bool, wasted: bool) -> None:
        """Add a file that is somewhere below."""
        self.size += size
        self.files += 1
        if hidden:
            self.hidden += size
        if wasted:
            self.wasted += size

    def find(self, parts: Sequence[bytes]) -> Folder:
        """Return the directory at a path.  Raises NotFound."""
        found = self
        for name in parts:
            below = found.folders.get(name)
            if below is None:
                raise NotFound(f"the layer has no directory /{b'/'.join(parts).decode(errors='replace')}")
            found = below
        return found


class Leaf(NamedTuple):
    """Anything but a directory."""

    size: int
    fate: str
    """``overwritten`` or ``deleted`` in the stack looked at, else empty."""
    by: int | None
    """The number of the layer that did it, 1 for the base."""
    wasted: bool


class LayerFiles(NamedTuple):
    """What one layer of one stack holds."""

    layer: StoredLayer
    number: int
    """Its place in the stack, 1 for the base."""
    root: Folder
    compared: int | None
    """How many different stacks `wasted` speaks for, None if there are too many to tell."""
    problems: tuple[str, ...]


class Item(NamedTuple):
    """One name in a directory, with the largest of those below it."""

    name: bytes
    kind: str
    """``directory``, ``file`` or ``rest``, for what is too small to be listed."""
    size: int
    hidden: int
    wasted: int
    files: int
    fate: str = ""
    by: int | None = None
    items: tuple[Item, ...] = ()


def list_items(folder: Folder, most: Sequence[int] = SHOWN) -> tuple[Item, ...]:
    """Return what is in a directory, the largest first; beyond the first of *most* the rest is one item.

    A directory with nothing but another directory in it is told by the longer name.
    """
    folders = dict(_long_names(folder))
    items = [Item(name, "directory", each.size, each.hidden, each.wasted, each.files) for name, each in folders.items()]
    items += [
        Item(
            name,
            "file",
            leaf.size,
            leaf.size if leaf.fate else 0,
            leaf.size if leaf.wasted else 0,
            1,
            leaf.fate,
            leaf.by,
        )
        for name, leaf in folder.leaves.items()
    ]
    items.sort(key=lambda item: (-item.size, item.name))
    rest = items[most[0] :]
    shown = [
        item._replace(items=list_items(folders[item.name], most[1:])) if most[1:] and item.kind == "directory" else item
        for item in items[: most[0]]
    ]
    if rest:
        shown.append(
            Item(
                b"",
                "rest",
                sum(item.size for item in rest),
                sum(item.hidden for item in rest),
                sum(item.wasted for item in rest),
                sum(item.files for item in rest),
            )
        )
    return tuple(shown)


def _long_names(folder: Folder) -> Iterator[tuple[bytes, Folder]]:
    for name, below in folder.folders.items():
        while len(below.folders) == 1 and not below.leaves:
            ((last, below),) = below.folders.items()  # noqa: PLW2901 - down to where it branches
            name += b"/" + last  # noqa: PLW2901
        yield name, below


def read_layer_files(reader: StoreReader, layer_id: str, stack: str) -> LayerFiles:
    """Read the files of a layer as a stack has it: *stack* is the ID of an image or container, or empty for none.

    Raises NotFound if the layer, its directory or the stack is not there, or the stack does not have the layer.
    """
    layer = reader.find_layer(layer_id)
    if layer is None:
        raise NotFound(f"No such layer: {layer_id}")
    whole = layer.whole
    if not stack:
        found, problems = _fold(_parents(reader, layer) if whole else [layer], whole=whole)
        return LayerFiles(layer, 1, _collect(found, set(), 0), 0, problems)
    subject = find_subject(reader, stack)
    layers = [place.layer for place in subject.places if place.layer is not None]
    place = next((index for index, each in enumerate(layers) if each.id == layer.id), None)
    if place is None:
        raise NotFound(f"{subject.name} does not have layer {layer_id}")
    start = max(0, place - 1) if whole else place
    found, problems = _fold(layers[start:], whole=whole, own=place - start)
    wasted, compared = _wasted(reader, layer, subject, found, whole=whole)
    return LayerFiles(layer, place + 1, _collect(found, wasted, start), compared, problems)


_Files = Mapping[bytes, tuple[int, str, int | None]]
"""Size, fate and by which layer of those that were folded, by path."""


def _fold(layers: Sequence[StoredLayer], *, whole: bool, own: int | None = None) -> tuple[_Files, tuple[str, ...]]:
    """Return the files of the layer *own*, by default the last, and what those above it do to them."""
    own = len(layers) - 1 if own is None else own
    found: dict[bytes, tuple[int, str, int | None]] = {}

    def report(path: bytes, node: Node, fate: str, by: int) -> None:
        if node.layer == own:
            found[path] = (node.size, fate, by)

    within = None if whole else directories_of(layers[own].directory)
    tree = MergedTree(sizes=True, whole=whole, within=within, report=report)
    for layer in layers:
        tree.add(layer.directory)
    for path, node in tree.files():
        if node.layer == own:
            found[path] = (node.size, "", None)
    return found, tuple(tree.problems)


def _wasted(
    reader: StoreReader, layer: StoredLayer, subject: Subject, found: _Files, *, whole: bool
) -> tuple[set[bytes], int | None]:
    """Return the files that no image with the layer shows, and in how many different stacks that was looked for."""
    if layer.role != "image" or layer.chain_id is None:
        return set(), 0
    above = stacks_above(reader, layer)
    if () in above:  # an image that ends with the layer shows all of it
        return set(), len(above)
    if len(above) > MOST_STACKS:
        return set(), None
    mine = () if subject.kind == "container" else _above([place.layer for place in subject.places], layer.id)
    wasted = {path for path, (_, fate, _) in found.items() if fate}
    if subject.kind == "container" and wasted:
        wasted = set(found)
    for stack in above:
        if stack == mine or not wasted:
            continue
        layers = [reader.find_layer(each) for each in stack]
        present = [each for each in layers if each is not None]
        below = _parents(reader, layer)[-2:] if whole else [layer]
        other, _ = _fold([*below, *present], whole=whole, own=len(below) - 1)
        wasted &= {path for path, (_, fate, _) in other.items() if fate}
    return wasted, len(above)


def stacks_above(reader: StoreReader, layer: StoredLayer) -> set[tuple[str, ...]]:
    """Return what images have above a layer, each once; the steps of builds, which have no name, are not asked."""
    found: set[tuple[str, ...]] = set()
    images = reader.images()
    parents = {image.parent for image in images}
    for image in images:
        if not image.names and not image.digests and image.id in parents:
            continue
        if layer.id in image.layers:
            found.add(image.layers[image.layers.index(layer.id) + 1 :])
        elif layer.chain_id is not None and layer.chain_id in chain_ids(image.diff_ids):
            found.add(())
    return found


def _above(layers: Sequence[StoredLayer | None], layer: str) -> tuple[str, ...]:
    names = [each.id for each in layers if each is not None]
    return tuple(names[names.index(layer) + 1 :])


def _parents(reader: StoreReader, layer: StoredLayer) -> list[StoredLayer]:
    """Return the layer below, if there is one, and the layer."""
    below = None if layer.parent is None else reader.find_layer(layer.parent)
    return [layer] if below is None else [below, layer]


def _collect(found: _Files, wasted: set[bytes], start: int) -> Folder:
    root = Folder()
    for path, (size, fate, by) in found.items():
        *parents, name = path.split(b"/")
        lost = path in wasted
        folder = root
        folder.count(size, hidden=bool(fate), wasted=lost)
        for parent in parents:
            folder = folder.folders.setdefault(parent, Folder())
            folder.count(size, hidden=bool(fate), wasted=lost)
        folder.leaves[name] = Leaf(size, fate, None if by is None else start + by + 1, lost)
    return root
