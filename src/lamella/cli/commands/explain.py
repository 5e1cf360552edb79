"""``explain``: an image or container as a stack of layers, in the terminal, as data, as a drawing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lamella.cli.command import Command
from lamella.cli.flags import Flag, Values
from lamella.cli.output import shorten
from lamella.cli.usage import screen_width

if TYPE_CHECKING:
    from lamella.cli.context import Context
    from lamella.cli.output import Output
    from lamella.engine.looking import Explanation, LayerStory

_BOLD, _DIM, _CYAN, _RED, _PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[36m", "\x1b[31m", "\x1b[0m"
_SHARERS = 3


def run(context: Context, flags: Values, arguments: list[str]) -> int:
    """Explain what is named; files asked for are written first."""
    look = context.look()
    story = look.explain(arguments[0], count_all=flags.on("count-all"))
    if flags.on("quiet"):
        for layer in story.layers:
            context.output.line(layer.diff_id or layer.cache_id or "")
        return 0
    for form in ("svg", "html"):
        if flags.given(form):
            from lamella.engine.looking import draw

            text = draw(story, form)
            if flags.text(form) == "-":
                context.output.raw(text)
            else:
                Path(flags.text(form)).write_text(text, encoding="utf-8")
    if "-" in {flags.text("svg"), flags.text("html")}:
        return 0
    if flags.on("json"):
        from lamella.cli.documents import print_answer

        print_answer(context.output, story)
    elif not flags.given("svg") and not flags.given("html"):
        _Picture(context.output, story).draw()
        for problem in story.problems:
            context.warn(f"lamella: {problem}")
    return 0


class _Picture:
    """The stack in the terminal, base first."""

    def __init__(self, output: Output, story: Explanation) -> None:
        self._output = output
        self._story = story
        self._width = max(60, min(screen_width(100), 140))

    def draw(self) -> None:
        """Print title, steps and layers, and for a container how it is mounted."""
        from lamella.model.units import human_size

        story = self._story
        names = ", ".join(story.names) if story.kind == "image" and story.names else story.name
        self._line(self._style(_BOLD, f"{story.kind} {self._output.cell(names)}"))
        facts = [story.id.removeprefix("sha256:")[:12], story.platform, human_size(story.size, precision=3)]
        count = len(story.layers)
        facts += [f"{count} layer{'s' if count != 1 else ''}", "base first", f"{story.store}, {story.driver}"]
        self._line(self._style(_DIM, self._output.cell("  ".join(fact for fact in facts if fact))))
        if story.container is not None:
            made = story.names[0] if story.names else story.container.image_name
            self._line(self._style(_DIM, self._output.cell(f"{story.container.status}, of image {made}")))
        layers = {layer.number: layer for layer in story.layers}
        for step in story.steps:
            if step.layer is None:
                self._metadata(step.instruction, step.idle)
            elif step.layer in layers:
                self._layer(layers.pop(step.layer), step.instruction)
        for layer in layers.values():
            self._layer(layer, _OWN.get(layer.role, "(the image does not tell)"))
        self._line("└" + "─" * (self._width - 1))
        if story.container is not None:
            self._mounts()
        if not story.counted:
            self._line("Some layers have too many files to be counted in passing: --count-all counts them.")

    def _metadata(self, instruction: str, idle: str) -> None:
        text = self._fit(instruction, self._width - 20)
        self._line(self._style(_DIM, f"│  ·  {text}  ({idle})"))

    def _layer(self, layer: LayerStory, instruction: str) -> None:
        from lamella.model.units import human_size

        self._line("├" + "─" * (self._width - 1))
        size = "" if layer.size is None else human_size(layer.size, precision=3)
        text = self._fit(instruction, self._width - 10 - len(size))
        gap = " " * max(2, self._width - 7 - len(text) - len(size))
        self._line(f"{self._style(_CYAN, f'│ {layer.number:>3} ')} {self._style(_BOLD, text)}{gap}{size}")
        rows = [("files", self._files(layer)), ("shared", self._sharers(layer)), ("diff ID", layer.diff_id)]
        rows += [("chain ID", layer.chain_id), ("cache ID", layer.cache_id), ("directory", layer.directory)]
        for name, value in rows:
            if value:
                self._line(
                    f"{self._style(_CYAN, '│')}      {self._style(_DIM, f'{name:<9}')}  {self._output.cell(value)}"
                )
        if layer.cache_id is None:
            self._line(f"│      {self._style(_RED, 'missing: the store has no such layer')}")
        elif not layer.present:
            self._line(f"│      {self._style(_RED, 'missing: the directory is gone')}")

    @staticmethod
    def _files(layer: LayerStory) -> str:
        files = layer.files
        if files is None:
            return "not counted"
        parts = [(files.added, "added"), (files.changed, "changed"), (files.deleted, "deleted")]
        return ", ".join(f"{count:,} {word}" for count, word in parts if count) or "none"

    def _sharers(self, layer: LayerStory) -> str:
        if not layer.shared_by or layer.diff_id is None:
            return ""
        sharers = [item for item in self._story.relatives if item.layers >= layer.number]
        named = [item.names[0] for item in sharers if item.names]
        others = len(sharers) - len(named[:_SHARERS])
        untagged = "untagged " if len(named) <= _SHARERS else ""
        text = ", ".join(named[:_SHARERS])
        if not others:
            return f"with {text}"
        plural = "s" if others != 1 else ""
        return f"with {text} and {others} {untagged}more" if text else f"with {others} untagged image{plural}"

    def _mounts(self) -> None:
        container = self._story.container
        assert container is not None  # noqa: S101 - the caller's condition
        if container.merged:
            self._line(f"merged     {self._output.cell(container.merged)}")
        if not container.mounts:
            self._line("mount      none: the container is not mounted")
        told = ""
        for mount in container.mounts:
            where = "" if mount.seen_by == "self" else f", as process {mount.seen_by} sees it"
            self._line(f"mount      {mount.fstype} on {self._output.cell(mount.target)}{where}")
            if mount.super_options == told:
                continue
            told = mount.super_options
            parts = told.split(",")
            short = [mount.options, *(part for part in parts if "dir=" not in part and part not in {"rw", "ro"})]
            self._line(f"           {self._output.cell(','.join(short))}")
            for part in parts:
                name, directory, places = part.partition("dir=")
                for place in places.split(":") if directory else ():
                    self._line(f"           {self._output.cell(name):<6} {self._output.cell(place)}")

    def _fit(self, text: str, room: int) -> str:
        return shorten(self._output.cell(" ".join(text.split())), max(20, room))

    def _style(self, style: str, text: str) -> str:
        return f"{style}{text}{_PLAIN}" if self._output.terminal else text

    def _line(self, text: str) -> None:
        self._output.raw(text.rstrip() + "\n")


_OWN = {
    "init": "init layer: /etc/hosts, /etc/hostname, /etc/resolv.conf, /dev …",
    "writable": "writable layer: what the container changed",
}

EXPLAIN = Command(
    usage="[OPTIONS] IMAGE|CONTAINER",
    run=run,
    least=1,
    most=1,
    completes="image",
    notes=(
        "Each layer, base first, with the step that made it, its IDs, its directory, its size, the files it adds, "
        "changes and deletes, and the other images that have it; between them the steps that set metadata only. A "
        "container adds its init and writable layers, and the mount as the kernel has it. Works on a store of Docker, "
        "Podman or containerd given with 'lamella --root PATH explain …'; nothing in it is changed."
    ),
    flags=(
        Flag("count-all", "Count the files of every layer, however many there are"),
        Flag(
            "html",
            "Write the drawing as one web page that needs no other file ('-' for standard output)",
            kind="string",
        ),
        Flag("json", "Print everything as JSON"),
        Flag("quiet", "Only print diff IDs, base first; of a container's own layers the cache IDs", short="q"),
        Flag("svg", "Write the drawing as SVG ('-' for standard output)", kind="string"),
    ),
)
