"""``build``: an image from a Dockerfile."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lamella.cli.buildflags import RUN_FLAGS, read_agents, read_limits, read_secrets
from lamella.cli.command import Command
from lamella.cli.flags import Flag, Values
from lamella.cli.outputflags import OUTPUT_FLAGS, read_outputs
from lamella.cli.registries import read_registries
from lamella.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Callable

    from lamella.cli.context import Context
    from lamella.engine.builds import BuildEvent
    from lamella.engine.images import Image
    from lamella.model.progress import Reporter

_STYLES = ("auto", "plain", "tty", "quiet")


def run(context: Context, flags: Values, arguments: list[str]) -> int:
    """Build and print the image's ID, steps and their output going before it."""
    from lamella.engine.builds import read_context
    from lamella.model.reference import parse_new_name

    tags = [parse_new_name(tag).familiar() for tag in flags.many("tag")]  # before anything is touched
    source = arguments[0]
    quiet = flags.on("quiet")
    place = read_context(source)
    if source != "-" and isinstance(place, Path) and not place.is_dir():
        raise InvalidArgument(f"unable to prepare context: path {source!r} not found or not a directory")
    if source == "-" and sys.stdin.isatty():
        raise InvalidArgument("a Dockerfile or tar is to come on standard input, which is the terminal")
    name = flags.text("file")
    if source == name == "-":
        raise InvalidArgument("can't use stdin for both build context and dockerfile")
    dockerfile: Path | bytes | None = sys.stdin.buffer.read() if name == "-" else Path(name) if name else None
    if flags.on("check"):
        from lamella.cli.buildcheck import show_findings

        build_args = read_build_args(context, flags.many("build-arg"))
        return show_findings(context, flags, sys.stdin.buffer if source == "-" else place, dockerfile, build_args)
    timestamp = _read_timestamp(context, flags)
    style = _read_style(flags)
    jobs = flags.number("jobs")
    if jobs is not None and jobs < 0:
        raise InvalidArgument(f"invalid value {jobs} for --jobs: give a number of stages, or 0 for any number")
    outputs = read_outputs(context, flags)
    if quiet or style == "quiet":
        from lamella.model.progress import silent

        image = _build(context, flags, source, tags, dockerfile, timestamp, outputs, None, silent)
    else:
        from lamella.cli.buildview import showing

        with showing(style, context.output, context.environment) as view:
            image = _build(context, flags, source, tags, dockerfile, timestamp, outputs, view.report, view.pulls)
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
    timestamp: int | None,
    outputs: Sequence[str],
    report: Callable[[BuildEvent], None] | None,
    pull_report: Reporter,
) -> Image:
    return context.store().build(
        sys.stdin.buffer if source == "-" else source,
        tags=tags,
        dockerfile=dockerfile,
        build_args=read_build_args(context, flags.many("build-arg")),
        labels={key: value for key, _, value in (text.partition("=") for text in flags.many("label"))},
        target=flags.text("target"),
        network=flags.text("network"),
        platform=flags.text("platform"),
        no_cache=flags.on("no-cache"),
        secrets=read_secrets(context, flags.many("secret")),
        ssh=read_agents(context, flags.many("ssh")),
        limits=read_limits(flags),
        outputs=outputs,
        stdout=sys.stdout.buffer,
        squash=flags.on("squash"),
        cache_from=flags.many("cache-from"),
        cache_to=flags.many("cache-to"),
        timestamp=timestamp,
        jobs=flags.number("jobs"),
        no_cache_filter=[name for text in flags.many("no-cache-filter") for name in text.split(",") if name],
        pull=flags.on("pull"),
        registries=read_registries(context),
        pull_report=pull_report,
        report=report,
    )


def _read_timestamp(context: Context, flags: Values) -> int | None:
    """Read the time of all that is made: ``--timestamp``, else ``SOURCE_DATE_EPOCH``."""
    name, text = "--timestamp", flags.text("timestamp")
    if not text:
        name, text = "SOURCE_DATE_EPOCH", context.environment.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 11):
        raise InvalidArgument(f"{name}={text} is not a number of seconds since the epoch")
    return int(text)


def _read_style(flags: Values) -> str:
    style = flags.text("progress")
    if style not in _STYLES:
        raise InvalidArgument(f"invalid value {style!r} for --progress: choose {', '.join(_STYLES)}")
    return style


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
    usage="[OPTIONS] PATH | URL | -",
    run=run,
    least=1,
    most=1,
    completes="file",
    flags=(
        Flag("build-arg", "Set build-time variables", kind="list", many=True),
        Flag("check", "Look for mistakes in the Dockerfile, build nothing; exit code 1 if there are any"),
        Flag("file", 'Name of the Dockerfile (Default is "PATH/Dockerfile")', short="f", kind="string"),
        Flag("force-rm", "Always remove intermediate containers (they never stay)"),
        Flag("iidfile", "Write the image ID to the file", kind="string"),
        Flag(
            "jobs",
            "How many stages to build at once; 0 is any number (default as many as processors, at least 2)",
            kind="int",
        ),
        Flag("label", "Set metadata for an image", kind="list", many=True),
        Flag("network", "Network of the RUN instructions: host or none", kind="string", default="host"),
        Flag("no-cache", "Do not use cache when building the image"),
        Flag("no-cache-filter", "Do not cache specified stages", kind="stringArray", many=True),
        Flag("platform", "Build for this platform, as os/arch[/variant]", kind="string"),
        Flag(
            "progress",
            'Set type of progress output ("auto", "plain", "tty", "quiet"); auto is tty on a terminal',
            kind="string",
            default="auto",
        ),
        Flag("pull", "Always attempt to pull a newer version of the image"),
        Flag("quiet", "Suppress the build output and print image ID on success", short="q"),
        Flag("rm", "Remove intermediate containers (they never stay)", default="true"),
        Flag("tag", 'Name and optionally a tag in the "name:tag" format', short="t", kind="list", many=True),
        Flag("target", "Set the target build stage to build", kind="string"),
        Flag(
            "timestamp",
            "Time of all that is made, in seconds since the epoch, for an image that is the same each time"
            " (default $SOURCE_DATE_EPOCH)",
            kind="string",
        ),
        *OUTPUT_FLAGS,
        *RUN_FLAGS,
    ),
)
