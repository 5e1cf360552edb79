"""A store with a busybox image and a site to run its containers, for tests of containers."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lamella.container.create import create_container
from lamella.container.ending import remove_container
from lamella.container.session import run_attached
from lamella.container.site import Site
from lamella.model.containerconfig import HostConfig
from lamella.model.ids import ContainerID
from lamella.model.imageconfig import ContainerSettings, encode_image_config
from lamella.runtime.attach import Streams
from lamella.store.containerdb import ContainerRecord
from lamella.store.imagedb import StoredImage
from lamella.store.imagestore import ImageStore

#: What a monitor runs in these tests: the clean-up, without the command line.
CLEAN_UP = (
    "import sys; from pathlib import Path;"
    "from lamella.container.ending import clean_up; from lamella.container.site import Site;"
    "from lamella.store.imagestore import ImageStore;"
    "clean_up(Site(ImageStore.open(Path(sys.argv[1])), Path(sys.argv[2])), sys.argv[3])"
)


class Yard:
    """A store, its one image and the site, and short ways to make and run containers."""

    def __init__(self, root: Path, state: Path, base_tar: Path, *, runtime: str | None = None) -> None:
        self.root, self.state = root, state
        self.store = ImageStore.open(root)
        self.site = Site(self.store, state, runtime=runtime, exit_command=self.exit_command)
        self.image = self.add_image(base_tar, ContainerSettings(env=("PATH=/bin:/usr/bin",), cmd=("sh",)))

    def exit_command(self, container: ContainerID) -> Sequence[str]:
        return (sys.executable, "-c", CLEAN_UP, str(self.root), str(self.state), container)

    def add_image(self, tar: Path, settings: ContainerSettings) -> StoredImage:
        with self.store.root.transaction("load") as tx, tar.open("rb") as stream:
            layer = self.store.layers.register(stream, None, tx=tx)
            tx.flush()
            raw = encode_image_config(
                architecture="amd64", created="2020-01-02T03:04:05Z", config=settings, diff_ids=[layer.diff_id]
            )
            image = self.store.images.put(raw, tx=tx)
        return self.store.images.get(image)

    def derive(self, settings: ContainerSettings) -> StoredImage:
        """Make an image of the same layers with other settings."""
        raw = encode_image_config(
            architecture="amd64",
            created="2020-01-02T03:04:05Z",
            config=settings,
            diff_ids=self.image.config.diff_ids,
        )
        return self.store.images.get(self.store.images.put(raw))

    def create(
        self,
        *args: str,
        host: HostConfig | None = None,
        image: StoredImage | None = None,
        name: str = "",
        **settings: Any,
    ) -> ContainerRecord:
        wanted = ContainerSettings(cmd=args or None, **settings)
        return create_container(self.store, image or self.image, wanted, host, name)

    def record(self, container: ContainerRecord) -> ContainerRecord:
        return self.store.containers.get(container.id)

    def run(self, container: ContainerRecord, stdin: bytes | None = None) -> tuple[int | None, bytes, bytes]:
        """Run a container in the foreground; return its exit code and what it printed."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as source:
            source.write(stdin or b"")
            source.seek(0)
            streams = Streams(None if stdin is None else source.fileno(), out.fileno(), err.fileno())
            code = run_attached(self.site, container.id, streams, forward_signals=False)
            out.seek(0)
            err.seek(0)
            return code, out.read(), err.read()

    def output(self, *args: str, host: HostConfig | None = None, **settings: Any) -> str:
        """Run a command in a new container that is removed again; it must succeed."""
        container = self.create(*args, host=host, **settings)
        code, out, err = self.run(container)
        remove_container(self.site, container.id)
        assert code == 0, (code, out, err)
        return out.decode()

    def close(self) -> None:
        for record in list(self.store.containers.iter_records()):
            remove_container(self.site, record.id, force=True, volumes=True)


@contextmanager
def opened_yard(root: Path, base_tar: Path, *, runtime: str | None = None) -> Generator[Yard]:
    """Make a yard and see at its end that nothing of a container is left outside the data-root."""
    with tempfile.TemporaryDirectory(prefix="lamella-state-", dir="/run") as directory:
        yard = Yard(root, Path(directory), base_tar, runtime=runtime)
        try:
            yield yard
        finally:
            yard.close()
        eventually(lambda: not processes_naming(directory))
        left = [name for name in os.listdir(directory) if name not in ("oci", "locks")]
        states = Path(directory) / "oci"
        left += [name for name in os.listdir(states) if not name.startswith(".")] if states.exists() else []
        assert not left, f"left in the state directory: {left}"


def processes_naming(text: str) -> list[str]:
    """List the command lines that hold *text*, save our own."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdecimal() and int(entry) != os.getpid():
            try:
                line = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if text in line:
                found.append(line)
    return found


def eventually(condition: Callable[[], object], tries: int = 1000) -> None:
    """Wait for *condition*; a test must not depend on how fast the machine is."""
    import time

    for _ in range(tries):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it never came true")
