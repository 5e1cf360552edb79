"""The default system-call filter, compiled for one container.

Turns the facts of ``seccomp_table`` (or a profile in Docker's JSON form) into the ``linux.seccomp`` object of an OCI
configuration.  Loading it into the kernel is the runtime's work.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from lamella.errors import InvalidArgument

_ALLOW = "SCMP_ACT_ALLOW"
_ERRNO = "SCMP_ACT_ERRNO"
_EPERM = 1
_ENOSYS = 38
_PROFILE_LIMIT = 1 << 20
_KERNEL_FLOOR = (5, 11)
_GO_MACHINES = {
    "x86_64": "amd64",
    "i686": "x86",
    "aarch64": "arm64",
    "armv7l": "arm",
    "ppc64le": "ppc64le",
    "s390x": "s390x",
    "riscv64": "riscv64",
}

_Rule = dict[str, object]


def default_filter(capabilities: Iterable[str], machine: str, *, foreign: bool = False) -> dict[str, object]:
    """Compile Docker's default profile for *capabilities* on *machine* (``uname -m``).

    *foreign* also admits the machine's 32-bit programs, whose socket calls this filter cannot see through.
    """
    from lamella.runtime import seccomp_table as table

    held = frozenset(capabilities)
    allowed: set[str] = set(table.ALLOWED)
    allowed.update(table.BY_MACHINE.get(machine, "").split())
    for capability, names in table.BY_CAPABILITY.items():
        if capability in held:
            allowed.update(names.split())
    refused = table.REFUSED - allowed
    rules: list[_Rule] = [
        _rule(sorted(allowed), _ALLOW),
        _rule(sorted(refused), _ERRNO, errno=_EPERM),
        _rule(["socket"], _ALLOW, args=[_argument(0, min(table.SOCKET_FAMILIES_REFUSED), "SCMP_CMP_LT")]),
        _rule(["socket"], _ALLOW, args=[_argument(0, 39, "SCMP_CMP_EQ")]),
        _rule(["socket"], _ALLOW, args=[_argument(0, max(table.SOCKET_FAMILIES_REFUSED), "SCMP_CMP_GT")]),
    ]
    rules += [
        _rule(["socket"], _ERRNO, errno=_EPERM, args=[_argument(0, family, "SCMP_CMP_EQ")])
        for family in table.SOCKET_FAMILIES_REFUSED
    ]
    rules += [
        _rule(["personality"], _ALLOW, args=[_argument(0, value, "SCMP_CMP_EQ")]) for value in table.PERSONALITIES
    ]
    if "CAP_SYS_ADMIN" not in held:
        flags = 1 if machine == "s390x" else 0
        rules.append(_rule(["clone"], _ALLOW, args=[_argument(flags, table.NAMESPACE_FLAGS, "SCMP_CMP_MASKED_EQ", 0)]))
        # One rule a flag: the library has no "any of these bits".
        rules += [
            _rule(["clone"], _ERRNO, errno=_EPERM, args=[_argument(flags, 1 << bit, "SCMP_CMP_MASKED_EQ", 1 << bit)])
            for bit in range(32)
            if table.NAMESPACE_FLAGS >> bit & 1
        ]
        # clone3 hides its flags behind a pointer: ENOSYS makes the C library use clone.
        rules.append(_rule(["clone3"], _ERRNO, errno=_ENOSYS))
    return {
        "defaultAction": _ERRNO,
        "defaultErrnoRet": _ENOSYS,
        "architectures": list(table.ARCHITECTURES.get(machine, ())[: 2 if foreign else 1]),
        "syscalls": rules,
    }


def parse_profile(raw: bytes, capabilities: Iterable[str], machine: str) -> dict[str, object]:
    """Compile a profile in Docker's JSON form (``--security-opt seccomp=FILE``); raise InvalidArgument."""
    from lamella.model.documents import decode_document

    document = decode_document(raw, limit=_PROFILE_LIMIT, what="seccomp profile")
    if not isinstance(document, dict) or not isinstance(document.get("defaultAction"), str):
        raise InvalidArgument("seccomp profile: it must be an object with a defaultAction")
    held = frozenset(capabilities)
    rules: list[_Rule] = []
    for item in _list(document, "syscalls"):
        if not isinstance(item, dict):
            raise InvalidArgument("seccomp profile: each entry of syscalls must be an object")
        rule = cast("dict[str, object]", item)
        if not _applies(rule, held, machine):
            continue
        names = [str(name) for name in _list(rule, "names")] or ([str(rule["name"])] if "name" in rule else [])
        if not names or not isinstance(rule.get("action"), str):
            raise InvalidArgument("seccomp profile: each entry of syscalls needs names and an action")
        made: _Rule = {"names": names, "action": rule["action"]}
        made.update({key: rule[key] for key in ("args", "errnoRet") if rule.get(key) is not None})
        rules.append(made)
    result: dict[str, object] = {"defaultAction": document["defaultAction"], "syscalls": rules}
    if document.get("defaultErrnoRet") is not None:
        result["defaultErrnoRet"] = document["defaultErrnoRet"]
    result["architectures"] = _architectures(cast("dict[str, object]", document), machine)
    return result


def _architectures(document: dict[str, object], machine: str) -> list[str]:
    from lamella.runtime.seccomp_table import ARCHITECTURES

    named = [str(name) for name in _list(document, "architectures")]
    if named:
        return named
    native = ARCHITECTURES.get(machine, ("",))[0]
    for item in _list(document, "archMap"):
        if isinstance(item, dict) and item.get("architecture") == native:
            row = cast("dict[str, object]", item)
            return [native, *(str(name) for name in _list(row, "subArchitectures"))]
    return [native] if native else []


def _applies(rule: dict[str, object], held: frozenset[str], machine: str) -> bool:
    includes, excludes = rule.get("includes"), rule.get("excludes")
    name = _GO_MACHINES.get(machine, machine)
    if isinstance(includes, dict):
        wanted = cast("dict[str, object]", includes)
        arches, caps = _list(wanted, "arches"), _list(wanted, "caps")
        if (arches and name not in arches) or (caps and not all(cap in held for cap in caps)):
            return False
        kernel = wanted.get("minKernel")
        if isinstance(kernel, str) and _version(kernel) > _KERNEL_FLOOR:
            return False
    if isinstance(excludes, dict):
        unwanted = cast("dict[str, object]", excludes)
        if name in _list(unwanted, "arches") or any(cap in held for cap in _list(unwanted, "caps")):
            return False
    return True


def _version(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    if not (major.isdecimal() and minor.isdecimal()):
        raise InvalidArgument(f"seccomp profile: minKernel {text!r} is not MAJOR.MINOR")
    return int(major), int(minor)


def _list(document: dict[str, object], key: str) -> list[object]:
    value = document.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidArgument(f"seccomp profile: {key} must be a list")
    return cast("list[object]", value)


def _rule(
    names: list[str], action: str, *, errno: int | None = None, args: list[dict[str, object]] | None = None
) -> _Rule:
    rule: _Rule = {"names": names, "action": action}
    if errno is not None:
        rule["errnoRet"] = errno
    if args:
        rule["args"] = args
    return rule


def _argument(index: int, value: int, op: str, value_two: int | None = None) -> dict[str, object]:
    argument: dict[str, object] = {"index": index, "value": value, "op": op}
    if value_two is not None:
        argument["valueTwo"] = value_two
    return argument
