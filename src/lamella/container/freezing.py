"""Holding a container's processes still: ``pause``, ``unpause``, and the length of a ``commit``."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager, suppress

from lamella.container.site import Site
from lamella.container.state import State
from lamella.container.status import live_state, mark_paused
from lamella.errors import NotFound, Unavailable
from lamella.model.ids import ContainerID


def pause_container(site: Site, container: ContainerID) -> None:
    """Freeze all processes of a running container."""
    _freeze(site, container, paused=True)


def unpause_container(site: Site, container: ContainerID) -> None:
    """Thaw a paused container."""
    _freeze(site, container, paused=False)


def _freeze(site: Site, container: ContainerID, *, paused: bool) -> None:
    from lamella.container.ending import clean_up_locked

    with site.locked(container):
        record = clean_up_locked(site, site.store.containers.get(container))
        mark_paused(record, paused=paused)
        if paused:
            site.runtime.pause(container)
        else:
            site.runtime.resume(container)
        site.store.containers.write(record, host_config=False)


@contextmanager
def frozen(site: Site, container: ContainerID) -> Generator[None]:
    """Hold a running container's processes still for a block; one that is at rest or paused needs nothing."""
    record = site.store.containers.get(container)
    if live_state(site, record) is not State.RUNNING:
        yield
        return
    try:
        site.runtime.pause(container)
    except NotFound:
        yield
        return
    try:
        yield
    finally:
        thaw(site, container)


def thaw(site: Site, container: ContainerID) -> None:
    """Let a container's processes go on; one that is gone, or was not paused, is none of ours."""
    with suppress(NotFound, Unavailable):
        site.runtime.resume(container)
