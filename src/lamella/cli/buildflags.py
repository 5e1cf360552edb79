"""The flags of ``build`` that say what its commands may use: secrets, agents, names of hosts, limits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from lamella.cli.flags import Flag, Values
from lamella.errors import InvalidArgument, NotFound

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lamella.cli.context import Context
    from lamella.engine.builds import RunLimits

_MAX_SECRET = 500 << 10

RUN_FLAGS = (
    Flag("add-host", 'Add a custom host-to-IP mapping ("host:ip")', kind="strings", many=True),
    Flag("cpu-period", "Limit the CPU CFS (Completely Fair Scheduler) period", kind="int"),
    Flag("cpu-quota", "Limit the CPU CFS (Completely Fair Scheduler) quota", kind="int"),
    Flag("cpu-shares", "CPU shares (relative weight)", short="c", kind="int"),
    Flag("cpuset-cpus", 'CPUs in which to allow execution ("0-3", "0,1")', kind="string"),
    Flag("cpuset-mems", 'MEMs in which to allow execution ("0-3", "0,1")', kind="string"),
    Flag("memory", "Memory limit", short="m", kind="bytes"),
    Flag("memory-swap", 'Swap limit equal to memory plus swap: "-1" to enable unlimited swap', kind="bytes"),
    Flag("secret", 'Secret to expose to the build ("id=mysecret[,src=/local/secret]")', kind="stringArray", many=True),
    Flag("shm-size", "Size of /dev/shm", kind="bytes"),
    Flag("ssh", 'SSH agent socket to expose to the build ("default|<id>[=<socket>]")', kind="stringArray", many=True),
    Flag("ulimit", "Ulimit options", kind="ulimit", many=True),
)


def read_limits(flags: Values) -> RunLimits:
    """Turn the flags into limits of RUN's commands."""
    from lamella.engine.builds import RunLimits

    if not any(flags.given(flag.name) for flag in RUN_FLAGS):
        return RunLimits()
    from lamella.engine.options import parse_ulimit
    from lamella.model.units import parse_size

    def size(name: str) -> int:
        text = flags.text(name)
        return int(text) if text == "-1" else parse_size(text) if text else 0

    limits = map(parse_ulimit, flags.many("ulimit"))
    memory, swap = size("memory"), size("memory-swap")
    if swap and not memory:
        raise InvalidArgument("You should always set the Memory limit when using Memoryswap limit, see usage")
    if 0 < swap < memory:
        raise InvalidArgument("Minimum memoryswap limit should be larger than memory limit, see usage")
    return RunLimits(
        add_hosts=tuple(flags.many("add-host")),
        shm_size=size("shm-size"),
        ulimits=tuple((limit.name, limit.soft, limit.hard) for limit in limits),
        memory=memory,
        memory_swap=swap or 2 * memory,
        cpu_shares=flags.number("cpu-shares") or 0,
        cpu_period=flags.number("cpu-period") or 0,
        cpu_quota=flags.number("cpu-quota") or 0,
        cpuset_cpus=flags.text("cpuset-cpus"),
        cpuset_mems=flags.text("cpuset-mems"),
    )


def read_secrets(context: Context, texts: list[str]) -> dict[str, bytes]:
    """Read ``--secret``: ``id=ID[,src=FILE|,env=VAR]``; an ID alone is a variable's name, else a file's."""
    found = {}
    for text in texts:
        fields = _fields(text, "secret")
        kind, name = fields.pop("type", ""), fields.pop("id", "")
        file = fields.pop("src", "") or fields.pop("source", "")
        variable = fields.pop("env", "")
        if kind not in ("", "file", "env"):
            raise InvalidArgument(f"--secret: unsupported secret type {kind!r}: use file or env")
        if fields:
            raise InvalidArgument(f"--secret: unexpected key {next(iter(fields))!r} in {text!r}")
        if kind == "env" and file and not variable:
            file, variable = "", file
        name = name or os.path.basename(file) or variable
        if not name:
            raise InvalidArgument(f"--secret {text!r}: an id is missing; write id=NAME,src=FILE")
        if not file and not variable:
            variable, file = (name, "") if kind != "file" and name in context.environment else ("", name)
        found[name] = _secret_of(context.environment, name, file, variable)
    return found


def _secret_of(environment: Mapping[str, str], name: str, file: str, variable: str) -> bytes:
    if variable:
        if variable not in environment:
            raise NotFound(f"secret {name}: there is no variable {variable} in the environment")
        return os.fsencode(environment[variable])
    try:
        with open(file, "rb") as source:
            value = source.read(_MAX_SECRET + 1)
    except OSError as error:
        raise NotFound(f"secret {name}: {file}: {error.strerror}") from error
    if len(value) > _MAX_SECRET:
        raise InvalidArgument(f"secret {name}: {file} is larger than {_MAX_SECRET} bytes")
    return value


def read_agents(context: Context, texts: list[str]) -> dict[str, Path]:
    """Read ``--ssh``: ``ID[=SOCKET]``; without a socket it is that of ``SSH_AUTH_SOCK``."""
    found = {}
    for text in texts:
        name, _, socket = text.partition("=")
        socket = socket or context.environment.get("SSH_AUTH_SOCK", "")
        if not name:
            raise InvalidArgument(f"--ssh {text!r}: an id is missing; write default or default=SOCKET")
        if not socket:
            raise NotFound(f"--ssh {name}: SSH_AUTH_SOCK is not set; start an agent, or write {name}=SOCKET")
        found[name] = Path(socket)
    return found


def _fields(text: str, flag: str) -> dict[str, str]:
    import csv

    fields: dict[str, str] = {}
    try:
        (row,) = csv.reader([text], strict=True)
    except (csv.Error, ValueError) as error:
        raise InvalidArgument(f"--{flag} {text!r}: not a list of key=value") from error
    for field in row:
        key, equals, value = field.partition("=")
        if not equals:
            raise InvalidArgument(f"--{flag}: invalid field {field!r}: must be a key=value pair")
        fields[key.lower()] = value
    return fields
