"""kill -9 of the command at any moment of a container's life leaves something that the next command sets right."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from lamella.container.ending import clean_up, finish_removals, remove_container
from lamella.container.lifecycle import start_container, wait_container
from lamella.container.state import State
from lamella.container.status import live_state
from lamella.linux.mountinfo import read_mountinfo
from tests.support.containers import Yard, eventually, opened_yard, processes_naming

LIFE = """
import sys
from pathlib import Path
from lamella.container.create import create_container
from lamella.container.ending import remove_container
from lamella.container.lifecycle import start_container, stop_container
from lamella.container.session import run_attached
from lamella.container.site import Site
from lamella.model.imageconfig import ContainerSettings
from lamella.runtime.attach import Streams
from lamella.store.imagestore import ImageStore
from tests.support.containers import CLEAN_UP
command = lambda container: (sys.executable, "-c", CLEAN_UP, sys.argv[1], sys.argv[2], container)
store = ImageStore.open(Path(sys.argv[1]))
site = Site(store, Path(sys.argv[2]), exit_command=command)
image = next(store.images.iter_images())
print("ready", flush=True)
while True:
    one = create_container(store, image, ContainerSettings(cmd=("sh", "-c", "echo x; sleep 0.01")))
    run_attached(site, one.id, Streams(None, None, None))
    start_container(site, one.id)
    stop_container(site, one.id, 0)
    remove_container(site, one.id)
"""


@pytest.fixture
def yard(store_root: Path, base_tar: Path) -> Generator[Yard]:
    with opened_yard(store_root, base_tar) as made:
        yield made


def test_a_command_killed_anywhere_leaves_nothing_that_cannot_be_set_right(yard: Yard) -> None:
    layers = set(os.listdir(yard.root / "overlay2"))
    for round_ in range(40):
        life = subprocess.Popen(
            [sys.executable, "-c", LIFE, str(yard.root), str(yard.state)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        assert life.stdout is not None
        assert life.stdout.readline() == b"ready\n"
        time.sleep(round_ * 0.007)
        life.kill()
        life.wait()
        life.stdout.close()
        for container in list(yard.store.containers.iter_ids()):
            record = yard.store.containers.find(container)
            if record is None:
                continue
            clean_up(yard.site, container)
            record = yard.store.containers.get(container)
            # Whatever state it was left in, it can be run to its end, unless its removal had begun.
            state = live_state(yard.site, record)
            if state in (State.CREATED, State.EXITED):
                start_container(yard.site, container)
                assert wait_container(yard.site, container) == 0
            remove_container(yard.site, container, force=True)
    # The first write of a new process undoes what was begun and not recorded.
    fresh = type(yard.store).open(yard.root)
    with fresh.root.writing():
        pass
    finish_removals(yard.site)
    assert list(yard.store.containers.iter_ids()) == []
    assert set(os.listdir(yard.root / "overlay2")) == layers
    assert os.listdir(yard.root / "image/overlay2/layerdb/mounts") == []
    assert os.listdir(yard.root / "lamella/tx") == []
    eventually(lambda: not processes_naming(str(yard.state)))
    assert [entry for entry in read_mountinfo() if str(entry.target).startswith(str(yard.root))] == []
