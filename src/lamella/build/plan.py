"""Which stages of a Dockerfile a target needs, and in which order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from lamella.build.dockerfile.expand import expand
from lamella.build.dockerfile.instructions import Command, Copy, Dockerfile, Run, Stage
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
    """Give the numbers of the stages to build, ascending; the last is the target."""
    return list(plan_graph(dockerfile, target, variables))


def plan_graph(dockerfile: Dockerfile, target: str, variables: Mapping[str, str]) -> dict[int, set[int]]:
    """Give the numbers of the stages to build, ascending, each with those it needs; the last is the target.

    Of two stages of one name the later counts.  Raises InvalidArgument for an unknown target.
    """
    stages = dockerfile.stages
    wanted = len(stages) - 1
    if target:
        found = find_stage(stages, target)
        if found is None:
            raise InvalidArgument(f"failed to reach build target {target} in Dockerfile")
        wanted = found
    return needs_of(dockerfile, {wanted}, variables)


def needs_of(dockerfile: Dockerfile, wanted: Iterable[int], variables: Mapping[str, str]) -> dict[int, set[int]]:
    """Give these stages and all that they need, ascending, each with those it needs itself."""
    needs: dict[int, set[int]] = {}
    waiting = set(wanted)
    while waiting:
        index = waiting.pop()
        needs[index] = _stages_used(dockerfile.stages, index, variables, dockerfile.escape)
        waiting |= needs[index] - needs.keys()
    return dict(sorted(needs.items()))


def stages_named(stages: Sequence[Stage], commands: Iterable[Command], index: int) -> set[int]:
    """Give the earlier stages that `commands`, carried out in stage `index`, copy from or mount."""
    used: set[int | None] = set()
    for command in commands:
        if isinstance(command, Copy) and command.stage:
            used.add(find_stage(stages, command.stage, before=index))
        elif isinstance(command, Run):
            used |= {find_stage(stages, mount.stage, before=index) for mount in command.mounts if mount.stage}
    return {number for number in used if number is not None}


def stage_below(stages: Sequence[Stage], index: int, variables: Mapping[str, str], escape: str) -> int | None:
    """Give the stage that stage `index` stands on, None if that is an image."""
    base = expand(stages[index].base.base, variables, escape=escape)
    return None if base.isdecimal() else find_stage(stages, base, before=index)


def _stages_used(stages: Sequence[Stage], index: int, variables: Mapping[str, str], escape: str) -> set[int]:
    """Give the stages that one stage stands on, copies from or mounts."""
    below = stage_below(stages, index, variables, escape)
    return stages_named(stages, stages[index].commands, index) | ({below} if below is not None else set())
