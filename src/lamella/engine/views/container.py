"""A container as ``docker inspect`` and ``docker ps`` show it, in their key order and spelling.

The stored record already holds nearly all of it under nearly the same names; what is added is the state in one word,
the driver's directories, the sizes and the mounts as a list.
"""

from __future__ import annotations

from collections.abc import Mapping

from lamella.model.gojson import ZERO_TIME, parse_time
from lamella.model.units import human_duration

_NETWORK_SETTINGS: dict[str, object] = {
    "Bridge": "",
    "SandboxID": "",
    "HairpinMode": False,
    "LinkLocalIPv6Address": "",
    "LinkLocalIPv6PrefixLen": 0,
    "Ports": {},
    "SandboxKey": "",
    "SecondaryIPAddresses": None,
    "SecondaryIPv6Addresses": None,
    "EndpointID": "",
    "Gateway": "",
    "GlobalIPv6Address": "",
    "GlobalIPv6PrefixLen": 0,
    "IPAddress": "",
    "IPPrefixLen": 0,
    "IPv6Gateway": "",
    "MacAddress": "",
}

_ENDPOINT: dict[str, object] = {
    "IPAMConfig": None,
    "Links": None,
    "Aliases": None,
    "NetworkID": "",
    "EndpointID": "",
    "Gateway": "",
    "IPAddress": "",
    "IPPrefixLen": 0,
    "IPv6Gateway": "",
    "GlobalIPv6Address": "",
    "GlobalIPv6PrefixLen": 0,
    "MacAddress": "",
    "DriverOpts": None,
}

_STATE: dict[str, object] = {
    "Running": False,
    "Paused": False,
    "Restarting": False,
    "OOMKilled": False,
    "Dead": False,
    "Pid": 0,
    "ExitCode": 0,
    "Error": "",
    "StartedAt": ZERO_TIME,
    "FinishedAt": ZERO_TIME,
}


def state_word(state: Mapping[str, object]) -> str:
    """Name the state as Docker does: created, running, paused, restarting, removing, exited or dead."""
    if state.get("Running"):
        if state.get("Paused"):
            return "paused"
        return "restarting" if state.get("Restarting") else "running"
    if state.get("RemovalInProgress"):
        return "removing"
    if state.get("Dead"):
        return "dead"
    return "created" if state.get("StartedAt", ZERO_TIME) == ZERO_TIME else "exited"


def status_line(state: Mapping[str, object], now: int) -> str:
    """Describe the state as ``ps`` does, *now* being nanoseconds since the epoch."""

    def since(key: str) -> str:
        return human_duration(max(0, now - parse_time(str(state[key]))) / 1e9)

    match state_word(state):
        case "running":
            health = _object(state.get("Health")).get("Status")
            note = f" ({'health: starting' if health == 'starting' else health})" if health in _HEALTH else ""
            return f"Up {since('StartedAt')}{note}"
        case "paused":
            return f"Up {since('StartedAt')} (Paused)"
        case "restarting":
            return f"Restarting ({state.get('ExitCode', 0)}) {since('FinishedAt')} ago"
        case "removing":
            return "Removal In Progress"
        case "dead":
            return "Dead"
        case "created":
            return "Created"
        case _:
            if state.get("FinishedAt", ZERO_TIME) == ZERO_TIME:
                return ""
            return f"Exited ({state.get('ExitCode', 0)}) {since('FinishedAt')} ago"


_HEALTH = frozenset({"starting", "healthy", "unhealthy"})


def command_line(path: str, arguments: list[str]) -> str:
    """Join a command as ``ps`` shows it: arguments with a space stand in single quotes."""
    return " ".join([path, *(f"'{argument}'" if " " in argument else argument for argument in arguments)])


def container_document(
    record: Mapping[str, object],
    host_config: Mapping[str, object],
    *,
    directories: Mapping[str, str] | None,
    size: int | None = None,
    image_size: int = 0,
) -> dict[str, object]:
    """Build the document that ``inspect`` prints from the stored *record*; *size* is given for ``--size``."""
    state = _object(record.get("State"))
    shown_state: dict[str, object] = {"Status": state_word(state)}
    shown_state |= {key: state.get(key, default) for key, default in _STATE.items()}
    if state.get("Health"):
        shown_state["Health"] = state["Health"]
    document: dict[str, object] = {
        "Id": record.get("ID", ""),
        "Created": record.get("Created") or ZERO_TIME,
        "Path": record.get("Path", ""),
        "Args": record.get("Args") or [],
        "State": shown_state,
        "Image": record.get("Image", ""),
        **{key: record.get(key, "") for key in ("ResolvConfPath", "HostnamePath", "HostsPath", "LogPath", "Name")},
        "RestartCount": record.get("RestartCount", 0),
        "Driver": record.get("Driver", ""),
        "Platform": record.get("OS") or "linux",
        **{key: record.get(key, "") for key in ("MountLabel", "ProcessLabel", "AppArmorProfile")},
        "ExecIDs": None,
        "HostConfig": dict(host_config),
        "GraphDriver": {"Data": directories, "Name": record.get("Driver", "")},
    }
    if size is not None:
        document |= {"SizeRw": size, "SizeRootFs": image_size + size}
    document |= {
        "Mounts": mount_list(_object(record.get("MountPoints"))),
        "Config": record.get("Config"),
        "NetworkSettings": _network_settings(_object(record.get("NetworkSettings"))),
    }
    return document


def mount_list(points: Mapping[str, object]) -> list[dict[str, object]]:
    """Turn the record's mount points into the list that ``inspect`` shows, by destination."""
    mounts = []
    for destination, value in sorted(points.items()):
        point = _object(value)
        mount: dict[str, object] = {"Type": point.get("Type", "")}
        if point.get("Name"):
            mount["Name"] = point["Name"]
        mount |= {"Source": point.get("Source", ""), "Destination": point.get("Destination") or destination}
        if point.get("Driver"):
            mount["Driver"] = point["Driver"]
        mount |= {
            "Mode": point.get("Relabel") or point.get("Mode") or "",
            "RW": bool(point.get("RW", False)),
            "Propagation": point.get("Propagation", ""),
        }
        mounts.append(mount)
    return mounts


def _network_settings(stored: Mapping[str, object]) -> dict[str, object]:
    document = {key: stored.get(key, default) for key, default in _NETWORK_SETTINGS.items()}
    document["Ports"] = document["Ports"] or {}
    document["Networks"] = {
        name: {key: _object(endpoint).get(key, default) for key, default in _ENDPOINT.items()}
        for name, endpoint in _object(stored.get("Networks")).items()
    }
    return document


def _object(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}
