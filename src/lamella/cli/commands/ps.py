"""``ps``: the list of containers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamella.cli.command import Command
from lamella.cli.common import FORMAT, check_filter_words
from lamella.cli.flags import Flag, Values
from lamella.cli.output import Listing, Row, print_listing, shorten
from lamella.cli.times import ago, local_time

if TYPE_CHECKING:
    from lamella.cli.context import Context
    from lamella.engine.containers import Container

HEADINGS: dict[str, object] = {
    "ID": "CONTAINER ID",
    "Image": "IMAGE",
    "Command": "COMMAND",
    "RunningFor": "CREATED",
    "CreatedAt": "CREATED AT",
    "Status": "STATUS",
    "Ports": "PORTS",
    "Names": "NAMES",
    "Size": "SIZE",
    "State": "STATE",
    "Mounts": "MOUNTS",
    "LocalVolumes": "LOCAL VOLUMES",
    "Networks": "NETWORKS",
    "Label": lambda key: key.rpartition(".")[2].replace("-", " ").replace("_", " "),
    "Labels": "LABELS",
}


def run(context: Context, flags: Values, _arguments: list[str]) -> int:
    """Print one line a container, newest first."""
    last = 1 if flags.on("latest") else flags.number("last") or -1
    containers = context.store().containers(
        all=flags.on("all") or last > 0, filters=check_filter_words(flags.many("filter"))
    )
    if last > 0:
        containers = containers[:last]
    form = flags.text("format")
    size = flags.on("size") or ".Size" in form
    rows = [_row(container, size=size, whole=flags.on("no-trunc")) for container in containers]
    columns = ["ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names", *(["Size"] if size else [])]
    print_listing(context.output, Listing(HEADINGS, columns), rows, form, quiet="ID" if flags.on("quiet") else "")
    return 0


def _row(container: Container, *, size: bool, whole: bool) -> Row:
    from lamella.model.gojson import encode
    from lamella.model.units import human_size

    command = container.command_line
    sizes = ""
    if size:
        own, total = container.sizes()
        sizes = f"{human_size(own, precision=3)} (virtual {human_size(total, precision=3)})"
    return {
        "ID": container.id if whole else container.short_id,
        "Image": container.image_name,
        # strconv.Quote and JSON agree on all that a command line is likely to hold
        "Command": encode(command if whole else shorten(command, 20), escape_html=False).decode(),
        "RunningFor": ago(container.created),
        "CreatedAt": local_time(container.created),
        "Status": container.status,
        "Ports": "",
        "Names": container.name,
        "Size": sizes,
        "State": container.state,
        "Mounts": ",".join(str(mount.get("Name") or mount["Source"]) for mount in container.mounts),
        "LocalVolumes": str(sum(mount["Type"] == "volume" for mount in container.mounts)),
        "Networks": ",".join(container.networks),
        "Label": lambda key: container.labels.get(key, ""),
        "Labels": ",".join(f"{key}={value}" for key, value in sorted(container.labels.items())),
    }


PS = Command(
    usage="[OPTIONS]",
    run=run,
    most=0,
    flags=(
        Flag("all", "Show all containers (default shows just running)", short="a"),
        Flag(
            "filter",
            "Filter output: ancestor, before, since, exited, health, id, name, label, status, volume, network",
            short="f",
            kind="filter",
            many=True,
        ),
        FORMAT,
        Flag("last", "Show n last created containers (includes all states)", short="n", kind="int", default="-1"),
        Flag("latest", "Show the latest created container (includes all states)", short="l"),
        Flag("no-trunc", "Don't truncate output"),
        Flag("quiet", "Only display container IDs", short="q"),
        Flag("size", "Display total file sizes", short="s"),
    ),
)
