"""Which stages of a Dockerfile a target needs, and in which order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lamella.build.dockerfile.expand import expand
from lamella.build.dockerfile.instructions import Copy, Dockerfile, Stage
from lamella.errors import InvalidArgument


def find_stage(stages: Sequence[Stage], name: str, *, before: int | None = None) -> int | None:
    """Find a stage by name, or by number where `name` is one, among those before the given one."""
    limit = len(stages) if before is None else before
    wanted = name.lower()
    for index in reversed(range(limit)):
        if stages[index].base.name and stages[index].base.name == wanted:
            return index
    if name.isascii() and name.isdecimal() and len(name) < 6 and int(name) < limit:
        return int(name)
    return None


def plan_stages(dockerfile: Dockerfile, target: str, variables: Mapping[str, str]) -> list[int]:
    """Give the numbers of the stages to build, ascending; the last is the target.

    Raises InvalidArgument for an unknown target or a name given twice.
    """
    stages = dockerfile.stages
    names: set[str] = set()
    for stage in stages:
        if stage.base.name in names:
            raise InvalidArgument(
                f"dockerfile parse error line {stage.base.line}: duplicate name {stage.base.name}: stage name already used"
            )
        names |= {stage.base.name} - {""}
    wanted = len(stages) - 1
    if target:
        found = find_stage(stages, target)
        if found is None:
            raise InvalidArgument(f"failed to reach build target {target} in Dockerfile")
        wanted = found
    needed = {wanted}
    for index in range(wanted, -1, -1):
        if index in needed:
            needed |= _stages_used(stages, index, variables, dockerfile.escape)
    return sorted(needed)


def _stages_used(stages: Sequence[Stage], index: int, variables: Mapping[str, str], escape: str) -> set[int]:
    """Give the stages that one stage stands on or copies from."""
    stage = stages[index]
    base = expand(stage.base.base, variables, escape=escape)
    used: set[int | None] = set()
    if not base.isdecimal():
        used.add(find_stage(stages, base, before=index))
    for command in stage.commands:
        if isinstance(command, Copy) and command.stage:
            used.add(find_stage(stages, command.stage, before=index))
    return {number for number in used if number is not None}
