"""Containers as the library shows them: run, watch, compare, commit, copy, remove."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, cast

from lamella.container.status import live_exit_code, live_state
from lamella.engine.images import find_image, get_image
from lamella.engine.layers import Layer
from lamella.engine.views.container import command_line, container_document, mount_list, status_line
from lamella.errors import Conflict, InvalidArgument
from lamella.model.gojson import now_ns, parse_time
from lamella.model.ids import short_id

if TYPE_CHECKING:
    from lamella.changeset.diff import Change
    from lamella.engine.images import Image
    from lamella.engine.opened import Opened
    from lamella.model.digest import ImageID
    from lamella.model.ids import CacheID, ContainerID
    from lamella.runtime.attach import Streams
    from lamella.runtime.logs import Record
    from lamella.store.containerdb import ContainerRecord


class Output(NamedTuple):
    """How a command ended and what it printed."""

    code: int
    stdout: bytes
    stderr: bytes


class Container:
    """One container of an open :class:`~lamella.Store`.

    Its facts are those of the moment it was looked up; whether it runs is asked of the machine each time.
    """

    def __init__(self, opened: Opened, record: ContainerRecord) -> None:
        self._opened = opened
        self._record = record

    def __repr__(self) -> str:  # type: ignore[explicit-override]  # override() came with Python 3.12
        return f"<Container {self.short_id} {self.name} {self.state}>"

    # ------------------------------------------------------------------------------------------------ facts

    @property
    def id(self) -> ContainerID:
        """The container ID."""
        return self._record.id

    @property
    def short_id(self) -> str:
        """The twelve digits that lists show."""
        return short_id(self.id)

    @property
    def name(self) -> str:
        """The name, without a slash."""
        return self._record.name

    @property
    def image_id(self) -> ImageID:
        """The ID of its image, which may be gone."""
        return self._record.image

    @property
    def image_name(self) -> str:
        """What its image was called when it was created, or the image's short ID if that name is another's now."""
        from lamella.model.reference import parse_tagged

        name = self._record.image_name
        try:
            current = self._opened.parts.tags.find(parse_tagged(name))
        except InvalidArgument:  # a name of another program's making, or an ID
            return name
        return name if current in {None, self.image_id} and name else short_id(self.image_id)

    @property
    def image(self) -> Image | None:
        """Its image, None if that was removed."""
        return find_image(self._opened, self.image_id)

    @property
    def created(self) -> int:
        """When it was created, in nanoseconds since the epoch."""
        return parse_time(self._record.created)

    @property
    def state(self) -> str:
        """What it is now: created, running, paused, restarting, removing, exited or dead."""
        return live_state(self._opened.site, self._record).value

    @property
    def running(self) -> bool:
        """Whether it runs now; a paused one does."""
        return self.state in {"running", "paused", "restarting"}

    @property
    def status(self) -> str:
        """Its state as ``ps`` describes it, such as ``Up 3 minutes``."""
        return status_line(self._live_state(), now_ns())

    @property
    def exit_code(self) -> int:
        """The code it ended with last, 0 before that."""
        return live_exit_code(self._opened.site, self._record)

    @property
    def labels(self) -> dict[str, str]:
        """Its labels, the image's included."""
        labels = self._record.settings.get("Labels")
        return {str(key): str(value) for key, value in labels.items()} if isinstance(labels, dict) else {}

    @property
    def command_line(self) -> str:
        """The command it runs, on one line."""
        return command_line(self._record.path, self._record.args)

    @property
    def networks(self) -> list[str]:
        """The names of its networks."""
        networks = self._record.network_settings.get("Networks")
        return sorted(networks) if isinstance(networks, dict) else []

    @property
    def mounts(self) -> list[dict[str, object]]:
        """Its volumes and bind mounts, by destination."""
        points = self._record.config.get("MountPoints")
        return mount_list(points if isinstance(points, dict) else {})

    @property
    def tty(self) -> bool:
        """Whether it has a pseudo-terminal."""
        return self._record.settings.get("Tty") is True

    @property
    def open_stdin(self) -> bool:
        """Whether its standard input is kept open."""
        return self._record.settings.get("OpenStdin") is True

    def sizes(self) -> tuple[int, int]:
        """Return the bytes of its own files, and with those of its image."""
        parts = self._opened.parts
        layer = parts.rwlayers.get(self.id)
        own = parts.rwlayers.size(layer)
        return own, own + sum(below.size for below in parts.layers.stack(layer.parent))

    def inspect(self, *, size: bool = False) -> dict[str, object]:
        """Return the document that ``docker inspect`` shows, with *size* also the sizes."""
        layer = self._opened.parts.rwlayers.find(self.id)
        own, total = self.sizes() if size else (None, 0)
        return container_document(
            {**self._record.config, "State": self._live_state()},
            self._record.host_config,
            directories=None if layer is None else self._opened.parts.rwlayers.metadata(layer),
            size=own,
            image_size=total - (own or 0),
        )

    def layers(self) -> list[Layer]:
        """Return the image's layers, base first, and on top the init layer and the writable layer."""
        parts = self._opened.parts
        rw = parts.rwlayers.get(self.id)
        image = self.image
        if image is not None:
            layers = image.layers()
        else:
            layers = [
                Layer("image", one.diff_id, one.chain_id, one.cache_id, one.size, self._directory(one.cache_id), None)
                for one in parts.layers.stack(rw.parent)
            ]
        if rw.init_id is not None:
            layers.append(Layer("init", None, None, rw.init_id, 0, self._directory(rw.init_id), None))
        own = parts.rwlayers.size(rw)
        return [*layers, Layer("writable", None, None, rw.mount_id, own, self._directory(rw.mount_id), None)]

    # ------------------------------------------------------------------------------------------------ life

    def start(self) -> None:
        """Start it and return once its command has begun; one that runs already is left alone.

        Raises CommandNotFound, CommandNotExecutable or StartFailed.
        """
        from lamella.container.lifecycle import start_container

        start_container(self._opened.site, self.id)
        self._refresh()

    def stop(self, *, timeout: int | None = None, signal: str | None = None) -> None:
        """Ask it to end by its stop signal, or *signal*, and kill it after *timeout* seconds (10 by default)."""
        from lamella.container.lifecycle import DEFAULT_STOP_TIMEOUT, kill_container, stop_container

        site = self._opened.site
        if signal is not None and self.running:
            from lamella.runtime.monitor import wait_exit

            kill_container(site, self.id, signal)
            patience = DEFAULT_STOP_TIMEOUT if timeout is None else timeout
            wait_exit(site.run_directory(self.id), timeout=None if patience < 0 else patience)
            timeout = 0
        stop_container(site, self.id, timeout)
        self._refresh()

    def kill(self, signal: str = "KILL") -> None:
        """Send *signal*, a name or a number, to its first process.  Raises Conflict if it does not run."""
        from lamella.container.lifecycle import kill_container

        kill_container(self._opened.site, self.id, signal)
        self._refresh()

    def run(self, streams: Streams, *, detach_keys: str = "ctrl-p,ctrl-q", forward_signals: bool = True) -> int | None:
        """Start it and stay with it: return its exit code, or None if *detach_keys* were typed.

        *streams* are descriptors of this process.  With a pseudo-terminal and a terminal as standard input, that is
        raw meanwhile; otherwise this process's signals are passed on with *forward_signals*.  One that is to remove
        itself is gone on return.
        """
        from lamella.container.session import run_attached
        from lamella.runtime.attach import parse_detach_keys

        keys = parse_detach_keys(detach_keys)
        code = run_attached(self._opened.site, self.id, streams, detach_keys=keys, forward_signals=forward_signals)
        self._refresh()
        return code

    def attach(
        self, streams: Streams, *, detach_keys: str = "ctrl-p,ctrl-q", forward_signals: bool = True
    ) -> int | None:
        """Join it while it runs: return its exit code, or None if *detach_keys* were typed.  Raises Conflict."""
        from lamella.container.session import attach_container
        from lamella.runtime.attach import parse_detach_keys

        keys = parse_detach_keys(detach_keys)
        code = attach_container(self._opened.site, self.id, streams, detach_keys=keys, forward_signals=forward_signals)
        self._refresh()
        return code

    def exec(
        self,
        command: Sequence[str],
        streams: Streams | None = None,
        *,
        tty: bool = False,
        env: Sequence[str] = (),
        user: str = "",
        workdir: str = "",
        privileged: bool = False,
    ) -> int:
        """Run *command* in it while it runs and return the exit code; without *streams* return 0 once it has begun."""
        from lamella.container.exec import exec_container

        return exec_container(
            self._opened.site,
            self.id,
            command,
            streams,
            terminal=tty,
            env=env,
            user=user,
            workdir=workdir,
            privileged=privileged,
        )

    def run_captured(self, input: bytes = b"") -> Output:  # noqa: A002 - as subprocess calls it
        """Start it, stay with it to its end, and return its exit code and what it printed, all held in memory.

        *input* is for one that was created with ``stdin``.
        """
        return _captured(input, lambda streams: self.run(streams, forward_signals=False))

    def exec_captured(
        self,
        command: Sequence[str],
        input: bytes = b"",  # noqa: A002 - as subprocess calls it
        *,
        env: Sequence[str] = (),
        user: str = "",
        workdir: str = "",
    ) -> Output:
        """Run *command* in it while it runs, and return the exit code and what was printed, all held in memory."""
        return _captured(input, lambda streams: self.exec(command, streams, env=env, user=user, workdir=workdir))

    def pause(self) -> None:
        """Freeze its processes."""
        from lamella.container.freezing import pause_container

        pause_container(self._opened.site, self.id)
        self._refresh()

    def unpause(self) -> None:
        """Thaw its processes."""
        from lamella.container.freezing import unpause_container

        unpause_container(self._opened.site, self.id)
        self._refresh()

    def restart(self, *, timeout: int | None = None, signal: str | None = None) -> None:
        """Stop it if it runs, as :meth:`stop` does, and start it.  Raises Conflict for one that removes itself."""
        if self._record.host_config.get("AutoRemove") is True:
            raise Conflict(f"container {self.name} removes itself when it ends: it cannot be restarted")
        self.stop(timeout=timeout, signal=signal)
        self.start()

    def top(self, options: Sequence[str] = ()) -> tuple[list[str], list[list[str]]]:
        """List its processes as the host's ``ps`` with *options* shows them: the titles, and a row each."""
        from lamella.container.top import list_processes

        return list_processes(self._opened.site, self.id, options)

    def wait(self) -> int:
        """Wait until it is at rest and return its exit code."""
        from lamella.container.lifecycle import wait_container

        return wait_container(self._opened.site, self.id)

    def logs(
        self, *, follow: bool = False, tail: int | None = None, since: int | None = None, until: int | None = None
    ) -> Iterator[Record]:
        """Yield what it printed, oldest first; with *follow* go on until it ends.

        *tail* keeps the last lines only; *since* and *until* are nanoseconds since the epoch.  Raises Conflict if nothing
        is logged.
        """
        from lamella.container.session import iter_logs

        return iter_logs(self._opened.site, self.id, follow=follow, tail=tail, since=since, until=until)

    def remove(self, *, force: bool = False, volumes: bool = False) -> None:
        """Remove it, its layers and its log; one that runs is Conflict, or killed first with *force*.

        *volumes* removes the anonymous volumes that were its own.
        """
        from lamella.container.ending import remove_container

        remove_container(self._opened.site, self.id, force=force, volumes=volumes)

    def rename(self, name: str) -> None:
        """Give it another name.  Raises AlreadyExists if that is taken."""
        from lamella.model.ids import parse_container_name

        chosen = parse_container_name(name)
        with self._opened.site.locked(self.id):
            self._refresh()
            if chosen == self.name:
                raise InvalidArgument("Renaming a container with the same name as its current name")
            self._record.name = chosen
            self._opened.parts.containers.write(self._record, host_config=False)

    # ------------------------------------------------------------------------------------------------ files

    def diff(self) -> list[Change]:
        """List what it changed on its image's file system, sorted by path."""
        parts = self._opened.parts
        return parts.rwlayers.changes(parts.rwlayers.get(self.id))

    def commit(
        self,
        reference: str | None = None,
        *,
        author: str = "",
        message: str = "",
        changes: Sequence[str] = (),
        pause: bool = True,
    ) -> Image:
        """Make an image of what it changed, on top of its own image, and name it *reference* if given.

        *changes* are Dockerfile instructions for the settings.  Volumes and what lamella put there (``/etc/hosts``…)
        are not part of it.  It is frozen meanwhile unless *pause* is off.
        """
        from lamella.container.commit import commit_container
        from lamella.model.reference import parse_new_name

        made = commit_container(
            self._opened.site,
            self.id,
            None if reference is None else parse_new_name(reference),
            author=author,
            message=message,
            changes=changes,
            pause=pause,
        )
        return get_image(self._opened, made)

    def export(self, sink: BinaryIO) -> None:
        """Write its whole file system as one flat tar; volumes are not part of it."""
        from lamella.changeset.diff import write_tree

        parts = self._opened.parts
        with parts.rwlayers.mounted_read_only(parts.rwlayers.get(self.id)) as root:
            write_tree(root, sink)

    def copy_out(self, source: str, target: Path | str, *, archive: bool = False, follow: bool = False) -> None:
        """Copy *source* of the container to *target* on the host, by the rules of ``docker cp``.

        A directory goes into one that exists, or becomes one; ``/.`` at its end means its content.  The files become
        the caller's unless *archive* keeps owners, set-id bits and devices; *follow* copies what a link leads to.
        """
        from lamella.container.copy import copy_out

        # As text: a Path would lose the slash or dot at the end, which has a meaning here.
        copy_out(self._opened.site, self.id, source, cast("Path", target), archive=archive, follow=follow)

    def copy_in(self, source: Path | str, target: str, *, archive: bool = False, follow: bool = False) -> None:
        """Copy *source* of the host to *target* in the container, by the rules of ``docker cp``; see copy_out."""
        from lamella.container.copy import copy_in

        copy_in(self._opened.site, self.id, cast("Path", source), target, archive=archive, follow=follow)

    def copy_out_tar(self, source: str, sink: BinaryIO, *, follow: bool = False) -> None:
        """Write *source* of the container as a tar whose members begin with its last name."""
        from lamella.container.copy import copy_out_tar

        copy_out_tar(self._opened.site, self.id, source, sink, follow=follow)

    def copy_in_tar(self, stream: BinaryIO, target: str) -> None:
        """Unpack a tar, compressed or not, into the directory *target* of the container."""
        from lamella.container.copy import copy_in_tar

        copy_in_tar(self._opened.site, self.id, stream, target)

    # ------------------------------------------------------------------------------------------------ internals

    def _refresh(self) -> None:
        found = self._opened.parts.containers.find(self.id)
        if found is not None:
            self._record = found

    def _directory(self, layer: CacheID) -> Path:
        return self._opened.layer_directory(layer)

    def _live_state(self) -> dict[str, object]:
        """Return the record's state, brought up to what the machine says."""
        state = dict(self._record.state)
        if state.get("Running") and not self.running:
            state |= {"Running": False, "Paused": False, "Restarting": False, "Pid": 0, "ExitCode": self.exit_code}
        return state


def _captured(given: bytes, act: Callable[[Streams], int | None]) -> Output:
    """Call *act* with streams that are files in memory."""
    import os
    from contextlib import ExitStack

    from lamella.runtime.attach import Streams

    with ExitStack() as scope:
        files = [scope.enter_context(open(os.memfd_create(name), "w+b")) for name in ("stdin", "stdout", "stderr")]
        files[0].write(given)
        files[0].seek(0)
        code = act(Streams(*(file.fileno() for file in files)))
        for file in files[1:]:
            file.seek(0)
        return Output(code or 0, files[1].read(), files[2].read())
