"""One more command in a running container: the runtime joins it, with the caller's own streams or detached."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from lamella.container.sandbox import process_environment
from lamella.container.site import Site
from lamella.container.state import State
from lamella.container.status import live_state
from lamella.container.users import resolve_user
from lamella.errors import (
    CommandNotExecutable,
    CommandNotFound,
    Conflict,
    DataLoss,
    InvalidArgument,
    NotFound,
    StartFailed,
)
from lamella.fs.rooted import Root
from lamella.linux import spawn
from lamella.model.containerconfig import parse_host_config
from lamella.model.gojson import encode
from lamella.model.ids import ContainerID
from lamella.model.imageconfig import parse_settings
from lamella.runtime.attach import Streams, read_terminal_size
from lamella.runtime.console import run_on_console
from lamella.runtime.oci_cli import TOOL_ENVIRONMENT, message_of, start_failure
from lamella.runtime.spec import exec_process
from lamella.store.containerdb import ContainerRecord

_LOG_LIMIT: Final = 1 << 16


def exec_container(
    site: Site,
    container: ContainerID,
    args: Sequence[str],
    streams: Streams | None,
    *,
    terminal: bool = False,
    env: Sequence[str] = (),
    user: str = "",
    workdir: str = "",
    privileged: bool = False,
) -> int:
    """Run *args* in a running container and return the exit code; without *streams* return 0 once it runs.

    User, directory and environment are the container's own unless given.  Raises Conflict if it does not run,
    CommandNotFound or CommandNotExecutable if the command cannot be.
    """
    if not args or not args[0]:
        raise InvalidArgument("no exec command specified")
    # Nobody would ever see the terminal of a detached command.
    terminal = terminal and streams is not None
    record = site.store.containers.get(container)
    state = live_state(site, record)
    if state is State.PAUSED:
        raise Conflict(f"container {record.name} is paused, unpause the container before exec")
    if state is not State.RUNNING:
        raise Conflict(f"container {record.id} is not running")
    run = site.run_directory(container)
    identity = run.read_identity()
    if identity is None:
        raise Conflict(f"container {record.id} is not running")
    process = _plan(
        record,
        run.config,
        root=Path(f"/proc/{identity.pid}/root"),
        args=args,
        terminal=terminal,
        env=env,
        user=user,
        workdir=workdir,
        privileged=privileged,
        size=read_terminal_size(streams.stdin) if terminal and streams and streams.stdin is not None else None,
    )
    name = f"exec-{os.urandom(8).hex()}"
    document, log = run.path / f"{name}.json", run.path / f"{name}.log"
    try:
        document.write_bytes(encode(process))
        log.touch(0o600)
        # The runtime uses the client's own terminal; where there is none it makes one and sends us the other end.
        borrowed = streams is not None and streams.stdin is not None and os.isatty(streams.stdin)
        console = f"{name}.sock" if terminal and streams is not None and not borrowed else None
        line = site.runtime.exec_arguments(
            container, document, terminal=terminal, detach=streams is None, console_socket=console, log=log
        )
        if console is not None and streams is not None:
            code = run_on_console(line, run, console, streams)
        else:
            code = _run(line, streams)
        with log.open("rb") as file:
            complaint = message_of(file.read(_LOG_LIMIT))
    finally:
        for path in (document, log):
            with suppress(FileNotFoundError, NotADirectoryError):
                path.unlink()
    if code != 0 and complaint:
        failure = start_failure(container, complaint)
        if type(failure) is StartFailed and not run.is_alive():
            raise Conflict(f"container {record.id} is not running")
        raise failure
    return code


def _run(line: Sequence[str], streams: Streams | None) -> int:
    """Run the runtime with the client's descriptors; its own complaints come by its log."""
    import signal

    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        stdin, stdout, stderr = streams if streams is not None else (None, None, None)
        program = spawn.start(
            list(line),
            env=TOOL_ENVIRONMENT,
            stdin=null if stdin is None else stdin,
            stdout=null if stdout is None else stdout,
            stderr=null if stderr is None else stderr,
        )
        # What a terminal sends its foreground group reaches the runtime too: it is the one to act on it.
        before = None
        with suppress(ValueError):
            before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            code = program.wait()
        except BaseException:
            program.kill()
            program.wait()
            raise
        finally:
            if before is not None:
                signal.signal(signal.SIGINT, before)
    finally:
        os.close(null)
    return code if code >= 0 else 128 - code


def _plan(
    record: ContainerRecord,
    config: Path,
    *,
    root: Path,
    args: Sequence[str],
    terminal: bool,
    env: Sequence[str],
    user: str,
    workdir: str,
    privileged: bool,
    size: tuple[int, int] | None,
) -> dict[str, object]:
    settings = parse_settings(record.settings)
    try:
        spec: Mapping[str, object] = json.loads(config.read_bytes())
    except (OSError, ValueError) as problem:
        raise DataLoss(f"container {record.name}: its configuration {config} cannot be read") from problem
    try:
        image = Root(root, follow=True)
    except FileNotFoundError as problem:
        raise NotFound(f"container {record.id} is not running") from problem
    with image:
        found = resolve_user(image, user or settings.user, parse_host_config(record.host_config).group_add)
        hostname = settings.hostname or record.id[:12]
        environment = process_environment(
            settings.env, hostname=hostname, terminal=terminal, home=found.home, extra=env
        )
        directory = workdir or settings.working_dir or "/"
        _check_command(image, args[0], directory, environment)
    return exec_process(
        spec,
        args=args,
        env=environment,
        cwd=directory,
        uid=found.uid,
        gid=found.gid,
        groups=found.groups,
        terminal=terminal,
        privileged=privileged,
        console_size=size,
    )


def _check_command(image: Root, command: str, directory: str, environment: Sequence[str]) -> None:
    """Refuse a command that is not there, before the runtime does: it would complain on the client's own stderr."""
    if not _has_mode(image, directory, stat.S_IFDIR, 0):
        raise CommandNotExecutable(f'chdir to cwd ("{directory}") failed: no such directory')
    if "/" in command:
        places = [directory]
    else:
        path = next((entry[5:] for entry in environment if entry.startswith("PATH=")), "")
        places = path.split(":")
    names = [os.path.join("/", directory, place, command) for place in places]
    if any(_has_mode(image, name, stat.S_IFREG, 0o111) for name in names):
        return
    if "/" not in command:
        raise CommandNotFound(f'exec: "{command}": executable file not found in $PATH')
    if _has_mode(image, names[0], 0, 0):
        raise CommandNotExecutable(f'exec: "{command}": permission denied')
    raise CommandNotFound(f'exec: "{command}": no such file or directory')


def _has_mode(image: Root, name: str, kind: int, bits: int) -> bool:
    try:
        mode = image.stat(os.fsencode(name).lstrip(b"/") or b".").st_mode
    except OSError:
        return False
    return kind in (0, stat.S_IFMT(mode)) and (not bits or bool(mode & bits))
