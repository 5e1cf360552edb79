"""``df``: the ledger of the disk, which adds up; ``system df``: Docker's summary."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lamella.cli.command import Command
from lamella.cli.common import FORMAT
from lamella.cli.flags import Flag, UsageError, Values

if TYPE_CHECKING:
    from pathlib import Path

    from lamella.cli.context import Context
    from lamella.cli.output import Listing, Output
    from lamella.engine.ledger import Ledger

_PAUSE = 2.0
_CLEAR = "\x1b[H\x1b[2J\x1b[3J"


def run(context: Context, flags: Values, arguments: list[str]) -> int:
    """Print the ledger, once or again and again."""
    pause = _pause(flags, arguments)
    while True:
        _print(context, flags)
        if pause is None:
            return 0
        context.output.flush()
        time.sleep(pause)
        if context.output.terminal and not flags.on("json"):
            context.output.raw(_CLEAR)
        elif not flags.on("json"):
            context.output.line()


def _pause(flags: Values, arguments: list[str]) -> float | None:
    if not flags.on("watch"):
        if arguments:
            raise UsageError("SECONDS go with --watch", code=1)
        return None
    if not arguments:
        return _PAUSE
    try:
        pause = float(arguments[0])
    except ValueError:
        pause = -1.0
    if not 0.1 <= pause <= 86400:
        raise UsageError(f"--watch takes a number of seconds from 0.1 on, not {arguments[0]!r:.40}", code=1)
    return pause


def _print(context: Context, flags: Values) -> None:
    from lamella.engine.ledger import read_ledger

    ledger = read_ledger(context.root, recount=flags.on("recount"), state=state_of(context))
    if flags.on("json"):
        import json

        indent = None if flags.on("watch") else 2
        context.output.json(json.dumps(as_document(ledger), indent=indent, ensure_ascii=False))
        return
    _sections(context.output, ledger, flags.text("format"))
    if flags.on("verbose") and not flags.text("format"):
        _details(context.output, ledger)
    elif not flags.text("format"):
        _unaccounted(context.output, ledger, limit=5)
    for place in ledger.mounted:
        context.warn(f"not counted: what is mounted in {place}")
    for problem in ledger.problems:
        context.warn(f"lamella: {problem}")


def state_of(context: Context) -> Path | None:
    """Return the directory that ``--state`` names."""
    from pathlib import Path

    return Path(context.options.text("state")) if context.options.text("state") else None


def as_document(value: object) -> object:
    """Return named tuples as objects, all through."""
    fields = getattr(value, "_fields", None)
    if fields is not None:
        return {name: as_document(getattr(value, name)) for name in fields}
    if isinstance(value, (list, tuple)):
        return [as_document(item) for item in value]
    return value


def _sections(output: Output, ledger: Ledger, form: str) -> None:
    from lamella.cli.output import print_listing

    rows = [
        {
            "Section": item.section,
            "What": item.title,
            "Items": str(item.items),
            "Disk": _size(item.bytes),
            "Bytes": str(item.bytes),
            "Inodes": str(item.inodes),
            "Reclaimable": _share(item.reclaimable, item.bytes),
        }
        for item in ledger.sections
    ]
    if form in {"", "table"}:
        rows.append(
            {
                "What": "Total",
                "Items": "",
                "Disk": _size(ledger.bytes),
                "Inodes": str(ledger.inodes),
                "Reclaimable": _share(ledger.reclaimable, ledger.bytes),
            }
        )
    print_listing(output, _sections_listing(), rows, form)


def _sections_listing() -> Listing:
    from lamella.cli.output import Listing

    headings = {name: name.upper() for name in ("Section", "What", "Items", "Disk", "Bytes", "Inodes", "Reclaimable")}
    return Listing(headings, ("What", "Items", "Disk", "Inodes", "Reclaimable"))


def _details(output: Output, ledger: Ledger) -> None:
    from lamella.model.ids import short_id

    _table(
        output,
        "Images",
        ("NAME", "IMAGE ID", "DISK", "OWN", "SHARED", "CONTAINERS", "RECLAIMABLE"),
        [
            ((item.names or ("<none>",))[0], short_id(item.id), _size(item.bytes), _size(item.own),
             _size(item.shared), str(item.containers), _size(item.reclaimable))
            for item in ledger.images if not item.build
        ],
    )  # fmt: skip
    _table(
        output,
        "Layers",
        ("CHAIN ID", "DIRECTORY", "DISK", "INODES", "IMAGES", "CONTAINERS", "RECLAIMABLE"),
        [
            (short_id(item.id), item.directory[:12], _size(item.bytes), str(item.inodes), str(item.images),
             str(item.containers), _size(item.reclaimable))
            for item in ledger.layers
        ],
    )  # fmt: skip
    _table(
        output,
        "Containers",
        ("NAME", "CONTAINER ID", "STATUS", "DISK", "WRITABLE", "LOG", "RECLAIMABLE"),
        [
            (item.name, short_id(item.id), item.status, _size(item.bytes), _size(item.writable), _size(item.log),
             _size(item.reclaimable))
            for item in ledger.containers
        ],
    )  # fmt: skip
    _table(
        output,
        "Volumes",
        ("NAME", "DISK", "INODES", "CONTAINERS", "RECLAIMABLE"),
        [
            (item.name, _size(item.bytes), str(item.inodes), str(item.containers), _size(item.reclaimable))
            for item in ledger.volumes
        ],
    )
    _table(
        output,
        "Build cache",
        ("ID", "WHAT", "DISK", "INODES", "RECLAIMABLE"),
        [
            (short_id(item.id), item.what, _size(item.bytes), str(item.inodes), _size(item.reclaimable))
            for item in ledger.build_cache
        ],
    )
    _unaccounted(output, ledger, limit=None)


def _unaccounted(output: Output, ledger: Ledger, *, limit: int | None) -> None:
    rows = [(_size(item.bytes), item.path, item.why) for item in ledger.unaccounted]
    _table(output, "Unaccounted", ("DISK", "PATH", "WHY"), rows[:limit])
    if limit is not None and len(rows) > limit:
        output.line(f"… and {len(rows) - limit} more; -v shows them all")


def _table(output: Output, title: str, headings: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    from lamella.cli.output import columns_of

    if not rows:
        return
    output.line()
    output.line(f"{title}:")
    for line in columns_of([headings, *([output.cell(cell) for cell in row] for row in rows)]):
        output.raw(line + "\n")


def _size(size: int) -> str:
    from lamella.model.units import human_size

    return human_size(size)


def _share(part: int, whole: int) -> str:
    return f"{_size(part)} ({part * 100 // whole}%)" if whole > 0 else _size(part)


def run_summary(context: Context, flags: Values, _arguments: list[str]) -> int:
    """Print Docker's summary."""
    from lamella.cli.output import Listing, print_listing
    from lamella.engine.ledger import read_ledger, summarize

    if flags.on("verbose") and flags.text("format"):
        raise UsageError("--verbose and --format cannot be used together", code=1)
    rows = [
        {
            "Type": item.type,
            "TotalCount": str(item.total),
            "Active": str(item.active),
            "Size": _size(item.size),
            "Reclaimable": _share(item.reclaimable, item.size),
        }
        for item in summarize(context.root)
    ]
    headings = {"Type": "TYPE", "TotalCount": "TOTAL", "Active": "ACTIVE", "Size": "SIZE", "Reclaimable": "RECLAIMABLE"}
    print_listing(context.output, Listing(headings, tuple(headings)), rows, flags.text("format"))
    if flags.on("verbose"):
        _details(context.output, read_ledger(context.root, state=state_of(context)))
    return 0


DF = Command(
    usage="[OPTIONS] [SECONDS]",
    run=run,
    most=1,
    notes=(
        "Every block below the store's root counts once and is put down to somebody; the total is what "
        "'du -sx --block-size=1' finds. --root may be a store of Docker, Podman, Buildah, CRI-O or containerd, in use "
        "or not. Layers are measured once and remembered; what is unaccounted belongs to nothing: "
        "'lamella reclaim' takes it away."
    ),
    flags=(
        FORMAT,
        Flag("json", "Print everything as JSON, bytes and inodes of each item"),
        Flag("recount", "Measure all layers anew"),
        Flag("verbose", "Show images, layers, containers, volumes and build cache one by one", short="v"),
        Flag("watch", "Show it again every two seconds, or every SECONDS, until interrupted"),
    ),
)
SYSTEM_DF = Command(
    usage="[OPTIONS]",
    run=run_summary,
    most=0,
    notes="Sizes are the lengths of files, as Docker counts them; 'lamella df' says what the disk holds.",
    flags=(FORMAT, Flag("verbose", "Show detailed information on space usage", short="v")),
)
