"""What FROM and ``--from`` name: earlier stages, images of the store, images that are brought in."""

from __future__ import annotations

from threading import Lock

import msgspec

from lamella.build.dockerfile.expand import expand
from lamella.build.dockerfile.instructions import Dockerfile, From
from lamella.build.plan import find_stage
from lamella.build.request import BuildOptions
from lamella.build.snapshot import Snapshot, scratch
from lamella.errors import InvalidArgument, NotFound
from lamella.model.platform import Platform, host_platform, parse_platform
from lamella.store.imagestore import ImageStore


class Bases:
    """Finds what stages stand on and copy from; `results` holds the finished stages by number."""

    def __init__(self, store: ImageStore, dockerfile: Dockerfile, options: BuildOptions) -> None:
        self._store = store
        self._dockerfile = dockerfile
        self._options = options
        self._guard = Lock()
        self._fetching: dict[str, Lock] = {}
        self._found: dict[tuple[str, Platform | None], Snapshot] = {}
        self.results: dict[int, Snapshot] = {}

    def find_base(self, base: From, index: int, variables: dict[str, str]) -> Snapshot:
        """Find what the FROM of stage `index` names; `variables` are the global arguments."""
        name = expand(base.base, variables, escape=self._dockerfile.escape)
        if not name:
            raise InvalidArgument(f"base name ({base.base}) should not be blank")
        platform = expand(base.platform, variables, escape=self._dockerfile.escape) or self._options.platform
        wanted = parse_platform(platform) if platform else None
        earlier = None if name.isdecimal() else find_stage(self._dockerfile.stages, name, before=index)
        if earlier is not None:
            return self.results[earlier]
        if name == "scratch":
            return scratch(wanted or host_platform())
        return self.find_image(name, wanted)

    def find_root(self, index: int, variables: dict[str, str]) -> Snapshot:
        """Find what stage `index` stands on in the end, through all stages that it is made from."""
        stages = self._dockerfile.stages
        while True:
            name = expand(stages[index].base.base, variables, escape=self._dockerfile.escape)
            earlier = None if name.isdecimal() else find_stage(stages, name, before=index)
            if earlier is None:
                return self.find_base(stages[index].base, index, variables)
            index = earlier

    def find_source(self, name: str, index: int) -> Snapshot:
        """Find what ``--from`` in stage `index` names."""
        found = find_stage(self._dockerfile.stages, name, before=index)
        if found is not None and found in self.results:
            return self.results[found]
        if name.isdecimal():
            reason = "refers to current build stage" if int(name) == index else "index out of bounds"
            raise InvalidArgument(f"invalid from flag value {name}: {reason}")
        return self.find_image(name)

    def find_image(self, name: str, wanted: Platform | None = None) -> Snapshot:
        """Find an image, brought in if need be, and the same one each time.  Raises NotFound."""
        with self._guard:
            lock = self._fetching.setdefault(name, Lock())
        with lock:  # stages that ask for one image bring it in once, those that ask for others at the same time
            if (name, wanted) not in self._found:
                self._found[name, wanted] = self._look_up(name, wanted)
            return self._found[name, wanted]

    def _look_up(self, name: str, wanted: Platform | None) -> Snapshot:
        self._fetch(name, wanted)
        try:
            stored = self._store.images.get(self._store.resolve(name))
        except NotFound as error:
            raise NotFound(f"No such image: {name}; load, import or pull it first") from error
        if not self._store.is_usable(stored):
            raise NotFound(f"image {name} lacks a layer; load or pull it again")
        self._store.last_use.stamp(stored.id)
        image = Snapshot(stored.id, stored.config)
        if wanted is not None and (wanted.os, wanted.architecture) != image.platform[:2]:
            raise NotFound(
                f"image with reference {name} was found but does not match the specified platform: "
                f"wanted {wanted}, actual: {image.platform}"
            )
        if not image.config.architecture:
            architecture = host_platform().architecture
            image = image._replace(config=msgspec.structs.replace(image.config, architecture=architecture))
        return image

    def _fetch(self, name: str, wanted: Platform | None) -> None:
        """Have an image brought in if it is missing, or if that is asked for."""
        if self._options.fetch is None:
            return
        if not self._options.pull:
            try:
                self._store.resolve(name)
            except NotFound:
                pass
            else:
                return
        self._store.root.flush()  # a pull may wait for another one's layers: it must not hold any meanwhile
        self._options.fetch(name, str(wanted or ""))
