"""The flags that ``run`` and ``create`` share, and how their values are read."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lamella.cli.flags import Flag, Values
from lamella.errors import InvalidArgument, Unsupported

if TYPE_CHECKING:
    from lamella.cli.context import Context
    from lamella.engine.options import ContainerOptions


def _list(name: str, text: str, short: str = "", kind: str = "list") -> Flag:
    return Flag(name, text, short=short, kind=kind, many=True)


def _text(name: str, text: str, short: str = "", default: str = "", kind: str = "string") -> Flag:
    return Flag(name, text, short=short, kind=kind, default=default)


CREATE_FLAGS: tuple[Flag, ...] = (
    _list("add-host", "Add a custom host-to-IP mapping (host:ip)"),
    _list("attach", "Attach to STDIN, STDOUT or STDERR", "a"),
    _list("cap-add", "Add Linux capabilities"),
    _list("cap-drop", "Drop Linux capabilities"),
    _text("cidfile", "Write the container ID to the file"),
    _text("cpus", "Number of CPUs", kind="decimal"),
    _list("device", "Add a host device to the container"),
    _list("dns", "Set custom DNS servers"),
    _text("domainname", "Container NIS domain name"),
    _text("entrypoint", "Overwrite the default ENTRYPOINT of the image"),
    _list("env", "Set environment variables", "e"),
    _list("env-file", "Read in a file of environment variables"),
    _list("group-add", "Add additional groups to join"),
    _text("hostname", "Container host name", "h"),
    Flag("interactive", "Keep STDIN open even if not attached", short="i"),
    _text("ipc", "IPC mode to use", default="private"),
    _list("label", "Set meta data on a container", "l"),
    _list("label-file", "Read in a line delimited file of labels"),
    _text("log-driver", "Logging driver for the container (json-file or none)", default="json-file"),
    _list("log-opt", "Log driver options"),
    _text("memory", "Memory limit", "m", kind="bytes"),
    _list("mount", "Attach a filesystem mount to the container (type=bind, volume or tmpfs)", kind="mount"),
    _text("name", "Assign a name to the container"),
    _text("network", "Network of the container: none (loopback only) or host", default="none"),
    Flag("net", "Network of the container", kind="string", hidden=True),
    _text("pid", "PID namespace to use"),
    _text("pids-limit", "Tune container pids limit (set -1 for unlimited)", kind="int"),
    _text("platform", "Refuse an image that is not for this platform"),
    Flag("privileged", "Give extended privileges to this container"),
    _list("publish", "Publish a container's port(s) to the host (not available)", "p"),
    _text("pull", 'Pull image before creating ("always", "missing", "never")', default="missing"),
    Flag("quiet", "Suppress the pull output", short="q"),
    Flag("read-only", "Mount the container's root filesystem as read only"),
    Flag("rm", "Automatically remove the container and its anonymous volumes when it exits"),
    _list("security-opt", "Security Options"),
    _text("shm-size", "Size of /dev/shm", kind="bytes"),
    _text("stop-signal", "Signal to stop the container"),
    _text("stop-timeout", "Timeout (in seconds) to stop a container", kind="int"),
    _list("sysctl", "Sysctl options", kind="map"),
    _list("tmpfs", "Mount a tmpfs directory"),
    Flag("tty", "Allocate a pseudo-TTY", short="t"),
    _list("ulimit", "Ulimit options", kind="ulimit"),
    _text("user", "Username or UID (format: <name|uid>[:<group|gid>])", "u"),
    _list("volume", "Bind mount a volume", "v"),
    _text("workdir", "Working directory inside the container", "w"),
)


def read_options(context: Context, flags: Values, *, attach: bool) -> ContainerOptions:
    """Turn the flags into options for the engine; raises for what lamella does not have."""
    from lamella.engine.options import ContainerOptions
    from lamella.model.units import parse_size

    if flags.many("publish"):
        raise Unsupported("--publish needs a bridge network, which is not available; use --network host")
    binds, anonymous = split_volumes(flags.many("volume"))
    memory, shm = flags.text("memory"), flags.text("shm-size")
    return ContainerOptions(
        name=flags.text("name"),
        entrypoint=(flags.text("entrypoint"),) if flags.given("entrypoint") else None,
        env=read_env(context, flags),
        user=flags.text("user"),
        workdir=flags.text("workdir"),
        hostname=flags.text("hostname"),
        domainname=flags.text("domainname"),
        labels=read_pairs(flags.many("label"), flags.many("label-file")),
        tty=flags.on("tty"),
        stdin=flags.on("interactive"),
        attach=attach,
        network=flags.text("net") or flags.text("network"),
        binds=binds,
        volumes=anonymous,
        mounts=[parse_mount(text) for text in flags.many("mount")],
        tmpfs={path: options for path, _, options in (text.partition(":") for text in flags.many("tmpfs"))},
        remove=flags.on("rm"),
        read_only=flags.on("read-only"),
        privileged=flags.on("privileged"),
        cap_add=flags.many("cap-add"),
        cap_drop=flags.many("cap-drop"),
        security=read_security(flags.many("security-opt")),
        group_add=flags.many("group-add"),
        add_hosts=flags.many("add-host"),
        dns=flags.many("dns"),
        sysctls=read_pairs(flags.many("sysctl"), ()),
        devices=flags.many("device"),
        ulimits=flags.many("ulimit"),
        shm_size=parse_size(shm) if shm else 0,
        memory=parse_size(memory) if memory else 0,
        cpus=_decimal(flags.text("cpus")),
        pids_limit=flags.number("pids-limit") or 0,
        stop_signal=flags.text("stop-signal"),
        stop_timeout=flags.number("stop-timeout"),
        log_driver=flags.text("log-driver"),
        log_options=read_pairs(flags.many("log-opt"), ()),
        cid_file=flags.text("cidfile"),
        pid_mode=flags.text("pid"),
        ipc_mode=flags.text("ipc"),
    )


def read_env(context: Context, flags: Values) -> list[str]:
    """Collect variables from files and flags; one without ``=`` takes its value from the caller's environment."""
    entries = [line for name in flags.many("env-file") for line in _lines(name)] + flags.many("env")
    found = []
    for entry in entries:
        key, equals, _ = entry.partition("=")
        if not key:
            raise InvalidArgument(f"invalid environment variable: {entry}")
        if equals:
            found.append(entry)
        elif key in context.environment:
            found.append(f"{key}={context.environment[key]}")
    return found


def _lines(name: str) -> list[str]:
    with open(name, encoding="utf-8") as file:
        lines = [line.rstrip("\n").lstrip() for line in file]
    return [line for line in lines if line and not line.startswith("#")]


def read_pairs(texts: list[str], files: list[str] | tuple[()]) -> dict[str, str]:
    """Collect ``key=value`` from files and flags; a key alone has an empty value."""
    entries = [line for name in files for line in _lines(name)] + texts
    return {key: value for key, _, value in (entry.partition("=") for entry in entries)}


def read_security(texts: list[str]) -> list[str]:
    """Check ``--security-opt`` and replace a seccomp profile's file name by its content, as Docker stores it."""
    options = []
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals and ":" in text and key != "no-new-privileges":
            key, _, value = text.partition(":")
        if not value and key != "no-new-privileges":
            raise InvalidArgument(f"invalid --security-opt: {text!r}")
        if key == "seccomp" and value not in {"unconfined", "builtin"}:
            with open(value, encoding="utf-8") as file:
                options.append(f"seccomp={file.read()}")
        else:
            options.append(text)
    return options


def split_volumes(texts: list[str]) -> tuple[list[str], list[str]]:
    """Split ``-v`` values into binds and destinations of anonymous volumes; a relative source is the caller's."""
    binds, anonymous = [], []
    for text in texts:
        if ":" not in text:
            anonymous.append(_absolute(text, text))
            continue
        source, _, rest = text.partition(":")
        if not source or not rest:
            raise InvalidArgument(f"invalid volume specification: '{text}'")
        _absolute(rest.partition(":")[0], text)
        if source.startswith("."):
            source = os.path.abspath(source)
        binds.append(f"{source}:{rest}")
    return binds, anonymous


def _absolute(path: str, text: str) -> str:
    if not path.startswith("/"):
        raise InvalidArgument(f"invalid volume specification: '{text}': the destination must be an absolute path")
    return path


def parse_mount(text: str) -> dict[str, object]:
    """Parse ``--mount type=…,source=…,target=…`` into Docker's ``Mounts`` object."""
    mount: dict[str, object] = {"Type": "volume"}
    bind: dict[str, object] = {}
    tmpfs: dict[str, object] = {}
    for field in text.split(","):
        key, equals, value = field.partition("=")
        match key.lower():
            case "type":
                mount["Type"] = value.lower()
            case "source" | "src":
                mount["Source"] = os.path.abspath(value) if value.startswith(".") else value
            case "target" | "dst" | "destination":
                mount["Target"] = value
            case "readonly" | "ro":
                mount["ReadOnly"] = not equals or value.lower() in {"1", "true"}
            case "bind-propagation":
                bind["Propagation"] = value
            case "bind-nonrecursive":
                bind["NonRecursive"] = not equals or value.lower() in {"1", "true"}
            case "tmpfs-size":
                from lamella.model.units import parse_size

                tmpfs["SizeBytes"] = parse_size(value)
            case "tmpfs-mode":
                tmpfs["Mode"] = int(value, 8)
            case _:
                raise InvalidArgument(f"invalid argument {text!r} for --mount: unexpected key '{key}' in '{field}'")
    if mount["Type"] not in {"bind", "volume", "tmpfs"}:
        raise InvalidArgument(f"invalid argument {text!r} for --mount: type must be bind, volume or tmpfs")
    if not str(mount.get("Target", "")).startswith("/"):
        raise InvalidArgument(f"invalid argument {text!r} for --mount: target must be an absolute path")
    if mount["Type"] == "bind" and not mount.get("Source"):
        raise InvalidArgument(f"invalid argument {text!r} for --mount: a bind mount needs a source")
    if bind:
        mount["BindOptions"] = bind
    if tmpfs:
        mount["TmpfsOptions"] = tmpfs
    return mount


def _decimal(text: str) -> float:
    try:
        return float(text) if text else 0
    except ValueError:
        raise InvalidArgument(f"--cpus: {text!r} is not a number") from None
