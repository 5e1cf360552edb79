"""``adopt``: images, containers and volumes from another engine's store, without a registry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lamella.cli.command import Command
from lamella.cli.flags import Flag, Values
from lamella.cli.progress import reporting

if TYPE_CHECKING:
    from lamella.cli.context import Context
    from lamella.cli.output import Output
    from lamella.engine.adopting import Adopted


def run(context: Context, flags: Values, arguments: list[str]) -> int:
    """Adopt what is named, or everything; the exit code is 1 if anything was refused."""
    source, *names = arguments
    store = context.store()
    as_json = flags.on("json")
    done: list[Adopted] = []
    with reporting(quiet=as_json) as report:
        for item in store.adopt(
            Path(source).absolute(),
            names,
            dry_run=flags.on("dry-run"),
            hard_link=flags.on("hard-link"),
            report=report,
        ):
            done.append(item)
            if not as_json:
                _say(context.output, item)
                context.output.flush()
    if as_json:
        _print_json(context.output, done)
    elif not done:
        context.output.line("Nothing there to adopt.")
    return 1 if any(item.state == "refused" for item in done) else 0


_WORDS = {"adopted": "Adopted", "present": "Here already:", "refused": "Refused", "planned": "Would adopt"}


def _say(output: Output, item: Adopted) -> None:
    from lamella.model.ids import short_id

    name = item.name if item.name != "<none>" else short_id(item.id)
    line = f"{_WORDS[item.state]} {item.kind} {name}"
    if item.kind == "image" and item.state in {"adopted", "planned"}:
        line += f" ({_sum(item)})"
    if item.state == "refused":
        output.line(f"{line}: {'; '.join(item.notes)}")
        return
    output.line(line)
    for note in item.notes:
        output.line(f"  {note}")


def _sum(item: Adopted) -> str:
    from lamella.model.units import human_size

    parts = [f"{item.layers} layer{'s' if item.layers != 1 else ''}, {human_size(item.size)}"]
    if item.known:
        parts.append(f"{item.known} here already")
    if item.shared:
        parts.append(f"{human_size(item.shared)} shared")
    return ", ".join(parts)


def _print_json(output: Output, done: list[Adopted]) -> None:
    import json

    output.json(json.dumps([item._asdict() for item in done], indent=2, ensure_ascii=False))


ADOPT = Command(
    usage="[OPTIONS] PATH [IMAGE|CONTAINER...]",
    run=run,
    least=1,
    completes="file",
    notes=(
        "PATH is the root of a store of Docker (/var/lib/docker), of Podman, Buildah or CRI-O "
        "(/var/lib/containers/storage) or of containerd (/var/lib/containerd). It is only read, so its engine may be "
        "running or dead; a container must be stopped. IDs, names and digests stay. Every layer is checked against its "
        "digest before anything of its image is visible; what is damaged is refused and named, the rest comes in, and "
        "the exit code is then 1."
    ),
    flags=(
        Flag("dry-run", "Show what would be adopted and change nothing"),
        Flag("hard-link", "Make equal files one in both stores; only for a store that is not written to any more"),
        Flag("json", "Print what was done as JSON"),
    ),
)
