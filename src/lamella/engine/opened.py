"""An open data-root and where its containers run: what every object of the library holds on to.

``Store`` is the front of it; images and containers know this part alone, so that they do not lean on each other's
front.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lamella.store.imagestore import ImageStore

if TYPE_CHECKING:
    from lamella.container.site import Site
    from lamella.model.ids import CacheID, ContainerID

STATE_ROOT = Path("/run/lamella")


class Opened:
    """One open data-root."""

    def __init__(self, parts: ImageStore, *, runtime: str | None = None, state: Path | None = None) -> None:
        self.parts = parts
        self._runtime = runtime
        self._state = state
        self._site: Site | None = None

    @property
    def root(self) -> Path:
        """The data-root's real path."""
        return self.parts.root.path

    @property
    def state(self) -> Path:
        """The directory for what lives no longer than the machine is up."""
        if self._state is None:
            from lamella.container.site import state_directory

            self._state = state_directory(self.root, STATE_ROOT)
        return self._state

    @property
    def site(self) -> Site:
        """The store and the runtime together, as the packages below want them."""
        if self._site is None:
            from lamella.container.site import Site

            self._site = Site(self.parts, self.state, runtime=self._runtime, exit_command=self._exit_command)
        return self._site

    def layer_directory(self, layer: CacheID) -> Path:
        """Return the directory that holds a layer's own files."""
        data = self.parts.root.driver.metadata(layer)
        if data is not None:
            return Path(data["UpperDir"])
        with self.parts.root.driver.files(layer) as directory:
            return directory

    def _exit_command(self, container: ContainerID) -> Sequence[str]:
        """Return the command line by which a monitor hands a container that ended back to lamella."""
        options = [
            "--root",
            str(self.root),
            "--state",
            str(self.state),
            "--storage-driver",
            self.parts.root.driver.name,
        ]
        if self._runtime:
            options += ["--runtime", self._runtime]
        # -P: never import from the directory that the monitor happens to stand in.
        return [sys.executable, "-P", "-m", "lamella", *options, "container", "cleanup", container]
