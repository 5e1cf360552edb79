"""What follows a container's end: its exit is recorded, its log settled, its file system unmounted, its traces removed.

Everything here may be done twice, by several processes at once, or be cut off anywhere and done again: each step looks
at what there is.  The container's lock orders them.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager, suppress

from lamella.container.site import Site
from lamella.container.state import State
from lamella.container.status import mark_dead, mark_exited, recorded_state
from lamella.container.volumes import Volumes, anonymous_volumes
from lamella.errors import Conflict, LamellaError, NotFound, Unavailable
from lamella.linux.locks import try_lock, unlock
from lamella.model.ids import ContainerID
from lamella.runtime.logs import settle_log
from lamella.runtime.monitor import UNKNOWN_EXIT, end_creation, wait_exit
from lamella.runtime.rundir import RunDirectory
from lamella.store.containerdb import ContainerRecord
from lamella.store.transactions import iter_intents

_LIVE = (State.RUNNING, State.PAUSED, State.RESTARTING)
_KILL_TIMEOUT = 10.0


@contextmanager
def attended(run: RunDirectory) -> Generator[None]:
    """Promise to clean up after the container's end ourselves; on leaving, the caller must see whether it is over."""
    try:
        # Only an exit command ever takes it exclusively, and then the clean-up is under way.
        fd = try_lock(run.attended, shared=True)
    except FileNotFoundError:
        fd = None
    try:
        yield
    finally:
        if fd is not None:
            unlock(fd)


def clean_up(site: Site, container: ContainerID) -> None:
    """See to everything a container's end leaves; one that still runs, or is gone, is left alone.

    A container that is to remove itself is removed.
    """
    with site.locked(container):
        record = site.store.containers.find(container)
        if record is None:
            end_creation(site.runtime, site.run_directory(container))
            _clear_runtime(site, container)
            site.drop_lock(container)
            return
        before = recorded_state(record)
        record = clean_up_locked(site, record)
        if before in _LIVE and recorded_state(record) is State.EXITED and record.host_config.get("AutoRemove") is True:
            remove_locked(site, record, volumes=True)


def clean_up_if_over(site: Site, container: ContainerID) -> None:
    """Clean up if the container's first process is gone already; costs two looks at files otherwise."""
    if not site.run_directory(container).is_alive():
        clean_up(site, container)


def clean_up_locked(site: Site, record: ContainerRecord, *, removing: bool = False) -> ContainerRecord:
    """Bring a record up to what is true, and return it; the container's lock is held.

    With *removing*, or for one that removes itself, neither log nor record need last.

    One recorded as running whose processes are gone, be it by a kill of everything or a restart of the machine,
    becomes exited: with the code its monitor left, else 255.
    """
    run = site.run_directory(record.id)
    if recorded_state(record) not in _LIVE:
        if run.path.exists():
            # A start that was killed before it was recorded, or a clean-up that was killed after it had recorded.
            end_creation(site.runtime, run)
            _clear_runtime(site, record.id, keep_run=True)
            settle_log(site.directory(record.id), record.id)
            run.remove()
        return record
    if run.is_alive():
        return record
    code = wait_exit(run) if run.is_monitored() else run.read_exit_code()
    finished = _finish_time(run)
    record.state["OOMKilled"] = run.ran_out_of_memory()
    passing = removing or record.host_config.get("AutoRemove") is True
    if not passing:
        settle_log(site.directory(record.id), record.id)
    _clear_runtime(site, record.id, keep_run=True)
    mark_exited(record, UNKNOWN_EXIT if code is None else code, finished_ns=finished)
    site.store.containers.write(record, host_config=False, sync=not passing)
    # The last thing to go: it is what tells the next one that there is something to do.
    run.remove()
    return record


def remove_container(site: Site, container: ContainerID, *, force: bool = False, volumes: bool = False) -> None:
    """Remove a container, its layer, its log and, with *volumes*, the volumes that were its own.

    One that runs is Conflict, or killed with *force*.  If its file system is still in use it stays listed as dead,
    and removing it again goes on where this ended.
    """
    record = site.store.containers.get(container)
    run = site.run_directory(container)
    if recorded_state(record) in _LIVE and run.is_alive():
        if not force:
            with site.locked(container):
                mark_dead(clean_up_locked(site, site.store.containers.get(container)))
        with attended(run):
            _kill(site, container, run)
    with site.locked(container):
        found = site.store.containers.find(container)
        if found is None:
            _clear_runtime(site, container)
            site.drop_lock(container)
            if force:
                return
            raise NotFound(f"No such container: {record.name}")
        remove_locked(site, clean_up_locked(site, found, removing=True), volumes=volumes)
    finish_removals(site)


def remove_locked(site: Site, record: ContainerRecord, *, volumes: bool) -> None:
    """Take a container away, in dockerd's order; its lock is held and its processes are gone."""
    store = site.store
    if recorded_state(record) is not State.DEAD:
        mark_dead(record)
        if not record.host_config.get("AutoRemove"):
            store.containers.write(record, host_config=False, sync=False)
    _clear_runtime(site, record.id)
    table = record.config.get("MountPoints")
    owned = anonymous_volumes(table) if volumes and isinstance(table, dict) else []
    with suppress(NotFound):
        store.delete_container(record.id)
    for name in owned:
        Volumes(store.root.path).remove(name)
    site.drop_lock(record.id)


def remove_failed(site: Site, record: ContainerRecord, failure: BaseException) -> None:
    """Remove a container that was to remove itself and could not be started; a second failure is noted on the first."""
    try:
        remove_locked(site, record, volumes=True)
    except (LamellaError, OSError) as second:
        failure.add_note(f"removing the container failed too: {second}")


def finish_removals(site: Site) -> None:
    """Take away the container directories from which a killed removal has taken the record already."""
    store = site.store
    bare = [one for one in store.containers.iter_ids() if not (store.containers.path(one) / "config.v2.json").exists()]
    if not bare:
        return
    with store.root.writing():
        # One that is being made has no record yet either, but its transaction names it.
        begun = {one for intent in iter_intents(store.root.tx_dir) for one in intent.containers}
        for container in bare:
            if container not in begun and store.containers.find(container) is None:
                store.delete_container(container)


def _clear_runtime(site: Site, container: ContainerID, *, keep_run: bool = False) -> None:
    """Remove what runtime and driver keep of a container that has ended."""
    run = site.run_directory(container)
    if (site.state / "oci" / container).exists():
        site.runtime.delete(container, force=True)
    layer = site.store.rwlayers.find(container)
    if layer is not None:
        site.store.rwlayers.unmount(layer, container)
    if not keep_run and run.path.exists():
        run.remove()


def _kill(site: Site, container: ContainerID, run: RunDirectory) -> None:
    import signal

    with suppress(NotFound):
        site.runtime.kill(container, signal.SIGKILL)
    with suppress(NotFound, Unavailable):
        # Frozen processes die when they are thawed.
        if site.store.containers.get(container).paused:
            site.runtime.resume(container)
    if wait_exit(run, timeout=_KILL_TIMEOUT) is None:
        raise Conflict(f"could not kill container {container[:12]} within {_KILL_TIMEOUT:g} s: remove it again later")


def _finish_time(run: RunDirectory) -> int | None:
    try:
        return os.stat(run.exit_file).st_mtime_ns
    except FileNotFoundError:
        return None
