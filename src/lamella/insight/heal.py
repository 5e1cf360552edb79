"""Mending a store without loss: derived what can be, fetched again what came from a registry, the rest to quarantine.

The store is mended in rounds.  Each round looks at it anew, takes the first stage that has something it has not tried
yet, and carries that out; later stages build on what earlier ones put right.  Everything happens under lamella's lock and
with dockerd kept out, but for fetching.  A kill at any instant leaves a store that the next run goes on with.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from lamella.errors import DataLoss, InUse, LamellaError, Unauthorized, Unavailable
from lamella.insight.contents import Trouble
from lamella.insight.findings import CODES, Finding, Severity
from lamella.insight.fsck import Report, check_files, check_records, check_store, content_tasks, in_order, require_root
from lamella.insight.mending.base import Bench, Hopeless, Plan
from lamella.insight.mending.stages import Mend, plan_stages
from lamella.insight.quarantine import HEALING, Quarantine
from lamella.insight.sources import Connect, Sources
from lamella.insight.survey import Survey
from lamella.linux.locks import locked, try_lock, unlock
from lamella.model.digest import ChainID, DiffID, Digest
from lamella.store import dockerd

_ROUNDS = 200
_PASSES = 3
_NO_REMEDY = "nothing is done about it"
_SHORTAGES = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE}
RECOVERY = frozenset({"transaction-dead", "unclean", "holder-stale"})


class Step(NamedTuple):
    """One thing that was done, or would be, or could not be."""

    code: str
    path: str
    text: str
    """What was done, or would be."""
    failure: str = ""
    """Why it could not be done; empty if it could."""

    def to_document(self) -> dict[str, object]:
        """Give the step as data."""
        return {"code": self.code, "path": self.path, "text": self.text, "failure": self.failure}


class Healed(NamedTuple):
    """What mending did: the store before, the steps, the store after (the same, for a plan)."""

    before: Report
    steps: tuple[Step, ...]
    after: Report
    run: str
    """What the entries of the quarantine that this run made have in common."""

    def to_document(self) -> dict[str, object]:
        """Give it as data."""
        return {
            "before": self.before.to_document(),
            "steps": [step.to_document() for step in self.steps],
            "after": self.after.to_document(),
            "run": self.run,
        }


@contextlib.contextmanager
def alone(root: Path) -> Iterator[None]:
    """Hold the store lock and keep dockerd out, without undoing what dead operations left: that may need mending first.

    Raises InUse while a dockerd runs on *root*.
    """
    own = root / "lamella"
    if own.is_symlink():
        raise DataLoss(f"{own}: a symbolic link stands where the store needs a directory; remove it")
    with contextlib.suppress(FileExistsError):
        os.mkdir(own, 0o700)
    with locked(own / "lock"), dockerd.kept_out(root):
        yield


def heal_store(
    root: Path,
    *,
    deep: bool = False,
    dry_run: bool = False,
    set_aside: bool = False,
    connect: Connect | None = None,
    driver: str = "",
    processes: int | None = None,
) -> Healed:
    """Mend the data-root at *root*, or with *dry_run* say what would be done.

    *connect* opens the registry of a repository; without it nothing is fetched.  Images of which bytes are gone for good
    are left as they are, or with *set_aside* moved to quarantine.  Raises InUse while a dockerd runs there, or another
    mending.
    """
    root = require_root(root)
    with contextlib.ExitStack() as stack:
        if not dry_run:
            with alone(root):
                stack.enter_context(_only_one(root))
                Quarantine(root).sweep(replacements=True)
        before = check_store(root, deep=deep, driver=driver, processes=processes)
        healer = _Healer(root, before, deep=deep, set_aside=set_aside, connect=connect, processes=processes)
        if dry_run:
            steps = [bare] if (bare := healer.find_bare()) is not None else list(healer.plan())
            return Healed(before, tuple(steps), before, healer.run)
        if not before.findings:
            return Healed(before, (), before, healer.run)
        if (bare := healer.find_bare()) is not None:
            return Healed(before, (bare,), before, healer.run)
        steps = healer.heal()
        after = check_store(root, deep=deep, driver=driver, processes=processes)
    # What one way did not mend may have been mended by the next; of what is left, the last way tells most.
    left = {(finding.code, finding.path) for finding in after.findings}
    last = {(step.code, step.path): step for step in steps if step.failure}
    steps = [
        step
        for step in steps
        if not step.failure or ((step.code, step.path) in left and step is last[step.code, step.path])
    ]
    steps += [
        Step(finding.code, finding.path, finding.text, _NO_REMEDY)
        for finding in after.findings
        if not CODES[finding.code].remedy and finding.severity is not Severity.NOTE
    ]
    return Healed(before, tuple(steps), after, healer.run)


@contextlib.contextmanager
def _only_one(root: Path) -> Iterator[None]:
    """Be the one that mends *root*: two would fetch the same layers, and each take the other's for left over."""
    path = root / "lamella" / HEALING
    lock = try_lock(path)
    if lock is None:
        raise InUse(f"{root} is being mended already: wait until that is done")
    try:
        yield
        path.unlink(missing_ok=True)
    finally:
        unlock(lock)


class _Healer:
    """One run."""

    def __init__(
        self,
        root: Path,
        before: Report,
        *,
        deep: bool,
        set_aside: bool,
        connect: Connect | None,
        processes: int | None,
    ) -> None:
        self._root = root
        self._driver = before.driver
        self._deep = deep
        self._set_aside = set_aside
        self._connect = connect
        self._processes = processes
        self._quarantine = Quarantine(root)
        self._tried: set[tuple[int, tuple[str, str, tuple[str, ...]]]] = set()
        self._sound: dict[str, tuple[object, ...]] = {}
        self._later: dict[tuple[str, str, tuple[str, ...]], str] = {}
        """What may be mended another time, and why not now: it is not to be given up."""
        self._steps: list[Step] = []
        self.run = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.urandom(3).hex()}"
        # Layers that were sound need not be read again while nobody touches them.
        self._trust(before)

    def find_bare(self) -> Step | None:
        """Say that no layer directory is there at all, which is more likely a disk that is not mounted than damage."""
        survey = Survey(self._root, self._driver)
        if self._set_aside or not survey.named or any(name in survey.directories for name in survey.named):
            return None
        home = survey.relative(survey.home)
        text = f"none of the {len(survey.named)} layer directories that the records name is in {home}"
        failure = "if they are on a disk of their own, mount it; if they are lost, say --set-aside"
        return Step("layer-directory-missing", str(survey.home), text, failure)

    def plan(self) -> Iterator[Step]:
        """Say for each finding what would be done first."""
        survey = Survey(self._root, self._driver)
        bench, findings = self._look(survey)
        for finding in findings:
            failures: list[str] = []
            for stage in self._stages():
                mend = stage.get(finding.code)
                if mend is None:
                    continue
                try:
                    yield Step(finding.code, finding.path, mend(bench, finding).text)
                    break
                except (Hopeless, LamellaError, OSError) as error:
                    failures.append(str(error))
            else:
                if finding.severity is not Severity.NOTE:
                    failure = failures[-1] if failures else _NO_REMEDY
                    yield Step(finding.code, finding.path, finding.text, failure)

    def heal(self) -> list[Step]:
        """Go on until nothing is left that has not been tried."""
        for _ in range(_PASSES):
            done = sum(not step.failure for step in self._steps)
            for _ in range(_ROUNDS):
                if not self._round():
                    break
            if sum(not step.failure for step in self._steps) == done:
                break
            self._tried.clear()  # what was hopeless may not be so any more
        self._recover()
        return list(dict.fromkeys(self._steps))

    # ------------------------------------------------------------------------------------------------ rounds

    def _round(self) -> bool:
        """Carry out the first stage that has something new to do; False if none has."""
        with alone(self._root):
            survey = Survey(self._root, self._driver)
            bench, findings = self._look(survey)
            for number, stage in enumerate(self._stages()):
                todo = [item for item in findings if item.code in stage and (number, item.key) not in self._tried]
                if not todo:
                    continue
                slow: list[tuple[Finding, Plan]] = []
                done = False
                for finding in todo:
                    self._tried.add((number, finding.key))
                    try:
                        plan = stage[finding.code](bench, finding)
                    except (Hopeless, LamellaError, OSError) as error:
                        self._put_off(finding, error)
                        self._note(finding, finding.text, str(error))
                        continue
                    if plan.slow:
                        slow.append((finding, plan))
                        break  # one at a time: it may mend what the others are about
                    done = self._carry_out(finding, plan) or done
                if slow or done:
                    break
            else:
                return False
        for finding, plan in slow:
            self._carry_out(finding, plan)
        return True

    def _carry_out(self, finding: Finding, plan: Plan) -> bool:
        for name in finding.subject[:1]:
            self._sound.pop(name, None)
        try:
            plan.act()
        except (Hopeless, LamellaError, OSError) as error:
            self._put_off(finding, error)
            self._note(finding, plan.text, str(error))
            return False
        self._note(finding, plan.text, "")
        return True

    def _stages(self) -> list[dict[str, Mend]]:
        return plan_stages(lambda: alone(self._root), self._unless_later, set_aside=self._set_aside)

    def _put_off(self, finding: Finding, error: Exception) -> None:
        """Remember what failed for want of a registry's answer or of space, not for good."""
        if (isinstance(error, OSError) and error.errno in _SHORTAGES) or isinstance(error, (Unavailable, Unauthorized)):
            self._later[finding.key] = str(error)

    def _unless_later(self, mend: Mend) -> Mend:
        """Keep from being given up what may be mended another time."""

        def checked(bench: Bench, finding: Finding) -> Plan:
            if finding.key in self._later and not self._set_aside:
                raise Hopeless(f"not now: {self._later[finding.key]}")
            return mend(bench, finding)

        return checked

    def _note(self, finding: Finding, text: str, failure: str) -> None:
        self._steps.append(Step(finding.code, finding.path, text, failure))

    def _look(self, survey: Survey) -> tuple[Bench, list[Finding]]:
        """Check the records again, and the files of those layers that are not known to be sound."""
        found = [item for item in check_records(survey) if item.code != "unclean"]
        known = frozenset(chain for chain, identity in self._sound.items() if identity == _identity(survey, chain))
        tasks = list(content_tasks(survey, deep=self._deep, but=known))
        contents = check_files(survey, tasks, self._processes)
        troubles: dict[str, list[Trouble]] = {}
        for finding in contents:
            name = "".join(finding.subject[1:2])
            troubles.setdefault(finding.subject[0], []).append((finding.code, name, finding.text))
        for task in tasks:
            if task.name not in troubles:
                self._sound[task.name] = _identity(survey, task.name)
        sources = Sources(survey, self._connect)
        bench = Bench(survey, self._quarantine, sources, self.run, troubles)
        return bench, list(in_order([*found, *contents]))

    def _trust(self, before: Report) -> None:
        survey = Survey(self._root, self._driver)
        damaged = {part for finding in before.findings for part in finding.subject}
        for chain in survey.layers:
            if chain not in damaged:
                self._sound[chain] = _identity(survey, chain)

    def _recover(self) -> None:
        """Have dead operations undone or finished, now that what they lean on is mended."""
        from lamella.store.imagestore import ImageStore

        with alone(self._root):
            wanted = [item for item in check_records(Survey(self._root, self._driver)) if item.code in RECOVERY]
        if not wanted:
            return
        try:
            store = ImageStore.open(self._root, driver=self._driver, create=False)
            with store.root.writing():
                pass
        except (LamellaError, OSError) as error:
            for finding in wanted:
                self._note(finding, "undo or finish what was begun", str(error))
        else:
            for finding in wanted:
                if finding.code != "unclean":
                    self._note(finding, "undo or finish what was begun", "")
            self._forget_holders()

    def _forget_holders(self) -> None:
        """Release what is held for containers that do not exist."""
        from lamella.drivers import open_driver
        from lamella.model.ids import CacheID

        driver = open_driver(self._driver, self._root, self._root / "lamella")
        with alone(self._root):
            for item in check_records(Survey(self._root, self._driver)):
                if item.code == "holder-stale":
                    driver.release_holder(CacheID(item.subject[0]), item.subject[1])


def _identity(survey: Survey, chain: str) -> tuple[object, ...]:
    """Return what must stay the same for a layer to be as sound as it was."""
    layer = survey.layers.get(ChainID(DiffID(Digest(chain))))
    if layer is None:
        return ()
    files = survey.files_of(layer.cache_id) if layer.cache_id is not None else None
    try:
        inode = os.lstat(files).st_ino if files is not None else 0
        record = os.lstat(layer.path / "tar-split.json.gz").st_ino
    except OSError:
        return ()
    return layer.cache_id, layer.diff, layer.size, inode, record
