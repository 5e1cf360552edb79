"""``layers``: the layer tree of an image or container, base first, and where each layer lies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamella.cli.command import Command
from lamella.cli.flags import Flag, Values
from lamella.cli.output import shorten
from lamella.cli.usage import screen_width
from lamella.errors import NotFound

if TYPE_CHECKING:
    from lamella.cli.context import Context
    from lamella.cli.output import Output
    from lamella.engine.layers import Layer
    from lamella.engine.views.image import HistoryStep

_BOLD, _DIM, _CYAN, _PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[36m", "\x1b[0m"
_NOT_A_LAYER = "(settings only, no layer)"


def run(context: Context, flags: Values, arguments: list[str]) -> int:
    """Print the tree of the container or image named."""
    store, name = context.store(), arguments[0]
    container = store.find_container(name)
    image = store.find_image(name) if container is None else container.image
    if image is None and container is None:
        raise NotFound(f"No such image or container: {name}")
    layers = container.layers() if container is not None else image.layers() if image is not None else []
    history = image.history() if image is not None else []
    if flags.on("quiet"):
        for layer in layers:
            context.output.line(layer.diff_id or layer.cache_id)
        return 0
    tree = _Tree(context.output)
    if container is not None:
        known = ", ".join(image.tags) or image.short_id if image is not None else "a removed image"
        tree.title(f"container {container.name}", f"{container.short_id}, {container.state}, of {known}", layers)
    elif image is not None:
        tree.title(f"image {', '.join(image.tags) or image.short_id}", image.short_id, layers)
    tree.steps(list(reversed(history)), layers)
    return 0


class _Tree:
    """Draws layers from the base up, a branch each."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._width = min(screen_width(100), 140)

    def title(self, name: str, facts: str, layers: list[Layer]) -> None:
        from lamella.model.units import human_size

        count = sum(layer.kind == "image" for layer in layers)
        total = human_size(sum(layer.size for layer in layers), precision=3)
        cell = self._output.cell
        facts = f"{facts}: {count} image layer{'s' if count != 1 else ''}, {total}, base first"
        self._put(f"{self._style(_BOLD, cell(name))}  {self._style(_DIM, cell(facts))}")

    def steps(self, history: list[HistoryStep], layers: list[Layer]) -> None:
        """Interleave the layers with the steps that made none, in the order of the history."""
        rest = list(layers)
        rows: list[tuple[HistoryStep | None, Layer | None]] = [
            (step, None if step.empty or not rest or rest[0].kind != "image" else rest.pop(0)) for step in history
        ]
        rows += [(None, layer) for layer in rest]
        number = 0
        for index, (made_by, layer) in enumerate(rows):
            last = not any(above is not None for _, above in rows[index + 1 :])
            if layer is None:
                text = self._label(made_by, len(_NOT_A_LAYER) + 10)
                self._put(self._style(_DIM, f"{' ' if last else '│'}       {text}  {_NOT_A_LAYER}"))
                continue
            number += layer.kind == "image"
            self._layer(str(number) if layer.kind == "image" else "", self._label(made_by, 24, layer), layer, last=last)

    def _layer(self, number: str, label: str, layer: Layer, *, last: bool) -> None:
        from lamella.model.units import human_size

        branch, stem = ("└──", "   ") if last else ("├──", "│  ")
        size = human_size(layer.size, precision=3)
        gap = " " * max(2, self._width - len(label) - len(size) - 8)
        mark = self._style(_CYAN, f"{branch} {number:>2} ")
        self._put(f"{mark} {self._style(_BOLD, label)}{gap}{size}")
        rows = (
            ("diff ID", layer.diff_id or ""),
            ("chain ID", layer.chain_id or ""),
            ("cache ID", layer.cache_id),
            ("directory", str(layer.directory)),
        )
        for name, value in rows:
            if value:
                self._put(
                    f"{self._style(_CYAN, stem)}     {self._style(_DIM, f'{name:<9}')}  {self._output.cell(value)}"
                )

    def _label(self, step: HistoryStep | None, room: int, layer: Layer | None = None) -> str:
        text = plain_step(step)
        if layer is not None and layer.kind != "image":
            text = _OWN_LAYERS[layer.kind]
        return shorten(self._output.cell(" ".join(text.split())), max(20, self._width - room))

    def _style(self, style: str, text: str) -> str:
        return f"{style}{text}{_PLAIN}" if self._output.terminal else text

    def _put(self, text: str) -> None:
        self._output.raw(text.rstrip() + "\n")


_OWN_LAYERS = {
    "init": "init layer: /etc/hosts, /etc/hostname, /etc/resolv.conf, /dev …",
    "writable": "writable layer: what the container changed",
}


def plain_step(step: HistoryStep | None) -> str:
    """Say what made a layer in the Dockerfile's words, without the builders' decoration."""
    from lamella.engine.looking import spell_step

    return "(the image does not tell)" if step is None else spell_step(step.created_by, step.comment)


LAYERS = Command(
    usage="[OPTIONS] IMAGE|CONTAINER",
    run=run,
    least=1,
    most=1,
    completes="image",
    notes=(
        "Each layer is shown with the step that made it, its diff ID (digest of its tar), its chain ID (name of the "
        "layer with all below it), its cache ID (name of its directory) and its own size. "
        "A container adds its init layer and its writable layer on top."
    ),
    flags=(Flag("quiet", "Only show diff IDs, base first", short="q"),),
)
