"""``build``: an image from a Dockerfile."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lamella.cli.command import Command
from lamella.cli.flags import Flag, Values
from lamella.cli.progress import reporting
from lamella.cli.registries import read_registries
from lamella.cli.runflags import read_pairs
from lamella.errors import InvalidArgument, Unsupported

if TYPE_CHECKING:
    from lamella.cli.context import Context
    from lamella.engine.builds import BuildEvent
    from lamella.engine.images import Image
    from lamella.model.progress import Reporter


def run(context: Context, flags: Values, arguments: list[str]) -> int:
    """Build and print the image's ID, steps and their output going before it."""
    from lamella.model.reference import parse_new_name

    tags = [parse_new_name(tag).familiar() for tag in flags.many("tag")]  # before anything is touched
    source = arguments[0]
    if "://" in source or source.startswith("git@"):
        raise Unsupported(f"{source}: a build context is a directory, or - for a Dockerfile or tar on standard input")
    quiet = flags.on("quiet")
    if source != "-" and not Path(source).is_dir():
        raise InvalidArgument(f"unable to prepare context: path {source!r} not found or not a directory")
    if source == "-" and sys.stdin.isatty():
        raise InvalidArgument("a Dockerfile or tar is to come on standard input, which is the terminal")
    name = flags.text("file")
    dockerfile: Path | bytes | None = sys.stdin.buffer.read() if name == "-" else Path(name) if name else None
    epoch = context.environment.get("SOURCE_DATE_EPOCH", "")
    if epoch and not epoch.isdecimal():
        raise InvalidArgument(f"SOURCE_DATE_EPOCH={epoch} is not a number of seconds since the epoch")
    with reporting(quiet=quiet, lines=context.output) as pull_report:
        image = _build(context, flags, source, tags, dockerfile, epoch, pull_report)
    if flags.text("iidfile"):
        Path(flags.text("iidfile")).write_text(image.id, encoding="ascii")
    if quiet:
        context.output.line(image.id)
    return 0


def _build(
    context: Context,
    flags: Values,
    source: str,
    tags: list[str],
    dockerfile: Path | bytes | None,
    epoch: str,
    pull_report: Reporter,
) -> Image:
    return context.store().build(
        sys.stdin.buffer if source == "-" else Path(source),
        tags=tags,
        dockerfile=dockerfile,
        build_args=read_build_args(context, flags.many("build-arg")),
        labels=read_pairs(flags.many("label"), ()),
        target=flags.text("target"),
        network=flags.text("network"),
        platform=flags.text("platform"),
        no_cache=flags.on("no-cache"),
        timestamp=int(epoch) if epoch else None,
        pull=flags.on("pull"),
        registries=read_registries(context),
        pull_report=pull_report,
        report=None if flags.on("quiet") else _Transcript(context).show,
    )


class _Transcript:
    """Shows a build as Docker's classic builder does, line by line, the commands' own output in between."""

    def __init__(self, context: Context) -> None:
        self._output = context.output

    def show(self, event: BuildEvent) -> None:
        """Print one event at once: a build is watched."""
        from lamella.engine.builds import Output

        if isinstance(event, Output):
            # What a command prints is its own and goes out as it came, like that of `run`.
            sink = sys.stderr.buffer if event.stream == "stderr" else self._output.stream
            sink.write(event.data)
            sink.flush()
        else:
            self._output.line(str(event))
            self._output.flush()


def read_build_args(context: Context, texts: list[str]) -> dict[str, str]:
    """Read ``--build-arg``; a name alone takes its value from the caller's environment, and is nothing without."""
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if equals:
            found[key] = value
        elif key in context.environment:
            found[key] = context.environment[key]
    return found


BUILD = Command(
    usage="[OPTIONS] PATH | -",
    run=run,
    least=1,
    most=1,
    completes="file",
    flags=(
        Flag("build-arg", "Set build-time variables", kind="list", many=True),
        Flag("file", 'Name of the Dockerfile (Default is "PATH/Dockerfile")', short="f", kind="string"),
        Flag("force-rm", "Always remove intermediate containers", hidden=True),
        Flag("iidfile", "Write the image ID to the file", kind="string"),
        Flag("label", "Set metadata for an image", kind="list", many=True),
        Flag("network", "Network of the RUN instructions: host or none", kind="string", default="host"),
        Flag("no-cache", "Do not use cache when building the image"),
        Flag("platform", "Build for this platform, as os/arch[/variant]", kind="string"),
        Flag("pull", "Always attempt to pull a newer version of the image"),
        Flag("quiet", "Suppress the build output and print image ID on success", short="q"),
        Flag("rm", "Remove intermediate containers (they never stay)", default="true", hidden=True),
        Flag("tag", 'Name and optionally a tag in the "name:tag" format', short="t", kind="list", many=True),
        Flag("target", "Set the target build stage to build", kind="string"),
    ),
)
