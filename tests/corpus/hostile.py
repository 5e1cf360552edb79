"""Layers that try to do harm, or look as if they did, and what must become of each.

``OUTSIDE`` in an archive stands for the absolute path of a directory that no layer may touch.
"""

from __future__ import annotations

from typing import NamedTuple

from lamella.errors import DataLoss, InvalidArgument, Unsupported
from tests.corpus.craft import (
    BLOCK_DEVICE,
    CHAR,
    CONTIGUOUS,
    END,
    FIFO,
    base256,
    directory,
    file,
    gnu_long,
    hard,
    header,
    old_sparse,
    padded,
    pax,
    record,
    symlink,
)

OUTSIDE = b"/@outside@"
ABSENT = "absent"
DIRECTORY = "directory"
WHITEOUT = "whiteout"
OPAQUE = "opaque"


class Link(NamedTuple):
    """A symbolic link that must be there."""

    target: bytes


class Case(NamedTuple):
    """One layer: refused with an error, or applied with these paths as told."""

    archive: bytes
    refused: type[Exception] | None = None
    paths: dict[bytes, object] = {}  # noqa: RUF012 — a default that nobody changes


def refused(*parts: bytes, error: type[Exception] = InvalidArgument) -> Case:
    return Case(b"".join(parts) + END, error)


def applied(*parts: bytes, end: bytes = END, **paths: object) -> Case:
    return Case(b"".join(parts) + end, None, {name.replace("__", "/").encode(): value for name, value in paths.items()})


def applied_as(paths: dict[bytes, object], *parts: bytes, end: bytes = END) -> Case:
    return Case(b"".join(parts) + end, None, paths)


def xattrs(name: bytes, **values: bytes) -> bytes:
    return pax({b"SCHILY.xattr." + key.replace("__", ".").encode(): value for key, value in values.items()}) + file(
        name, b"x"
    )


def sparse_1_0(name: bytes, text: bytes, data: bytes, real: int) -> bytes:
    body = padded(text) + data
    keys = {
        b"GNU.sparse.major": b"1",
        b"GNU.sparse.minor": b"0",
        b"GNU.sparse.name": name,
        b"GNU.sparse.realsize": b"%d" % real,
    }
    return pax(keys) + file(b"GNUSparseFile.0/" + name[:40], body)


LONG = b"n" * 255
DEEP = b"/".join([b"d"] * 1500)

NAMES = {
    "esc-dotdot": refused(file(b"../x", b"1")),
    "esc-dotdot-inside": refused(file(b"a/../../x", b"1")),
    "esc-deep": refused(file(b"../" * 20 + b"etc/x", b"1")),
    "esc-absolute-dotdot": refused(file(b"/../x", b"1")),
    "esc-ustar-prefix": refused(file(b"x", b"1", prefix=b"../..")),
    "esc-pax-path": refused(pax({b"path": b"../../x"}), file(b"fine", b"1")),
    "esc-gnu-longname": refused(gnu_long(b"L", b"../../x"), file(b"fine", b"1")),
    "esc-sparse-name": refused(sparse_1_0(b"../x", b"0\n", b"", 0)),
    "esc-directory": refused(directory(b"../d/")),
    "esc-symlink-name": refused(symlink(b"../s", b"x")),
    "esc-whiteout": refused(file(b"../.wh.canary")),
    "abs-name": applied(file(b"/abs/x", b"1"), abs__x=b"1"),
    "abs-outside": applied_as({OUTSIDE[1:] + b"/x": b"1"}, file(OUTSIDE + b"/x", b"1")),
    "abs-slashes": applied(file(b"//a//b/./x", b"1"), a__b__x=b"1"),
    "dotdot-inside": applied(file(b"a/../x", b"1"), x=b"1", a=ABSENT),
    "nul-pax-path": refused(pax({b"path": b"a\0b"}), file(b"fine")),
    "nul-sparse-name": refused(sparse_1_0(b"a\0b", b"0\n", b"", 0)),
    "root-as-file": refused(file(b"./", b"x")),
    "root-as-link": refused(symlink(b"/", b"x")),
    "name-255": applied_as({LONG: b"1"}, pax({b"path": LONG}), file(b"x", b"1")),
    "name-256": refused(pax({b"path": LONG + b"n"}), file(b"x", b"1")),
    "path-4094": applied_as(
        {b"/".join([b"n" * 240] * 16) + b"/" + b"m" * 238: b"1"},
        pax({b"path": b"/".join([b"n" * 240] * 16) + b"/" + b"m" * 238}),
        file(b"x", b"1"),
    ),
    "path-too-long": refused(pax({b"path": b"/".join([b"n" * 240] * 18)}), file(b"x", b"1")),
    "depth-1500": applied_as({DEEP + b"/f": b"1"}, pax({b"path": DEEP + b"/f"}), file(b"x", b"1")),
    "name-not-utf8": applied_as({b"\xff\xfe": b"1"}, file(b"\xff\xfe", b"1")),
    "missing-parents": applied(file(b"a/b/c", b"1"), a=DIRECTORY, a__b=DIRECTORY, a__b__c=b"1"),
    "file-as-parent": refused(file(b"a"), file(b"a/b", b"1")),
}

LINKS = {
    "sym-parent-absolute": applied_as({OUTSIDE[1:] + b"/x": b"1"}, symlink(b"s", OUTSIDE), file(b"s/x", b"1")),
    "sym-parent-relative": applied(symlink(b"s", b"../../../.."), file(b"s/x", b"1"), x=b"1"),
    "sym-parent-chain": applied(
        directory(b"d/"), symlink(b"d/a", b".."), symlink(b"d/b", b"a/.."), file(b"d/b/x", b"1"), x=b"1"
    ),
    "sym-proc": refused(symlink(b"s", b"/proc/self/root"), file(b"proc/self", b"x"), file(b"s/x", b"1")),
    "sym-abs-in-root": applied(
        directory(b"run/"), directory(b"var/"), symlink(b"var/run", b"/run"), file(b"var/run/x", b"1"), run__x=b"1"
    ),
    "sym-abs-missing": applied(symlink(b"s", b"/not/there"), file(b"s/x", b"1"), not__there__x=b"1"),
    "sym-loop": refused(symlink(b"a", b"b"), symlink(b"b", b"a"), file(b"a/x", b"1")),
    "sym-final-file": applied(symlink(b"s", OUTSIDE + b"/canary"), file(b"s", b"1"), s=b"1"),
    "sym-final-directory": applied(symlink(b"s", OUTSIDE), directory(b"s/", mode=0o700), s=DIRECTORY),
    "sym-meta-through": applied(symlink(b"s", OUTSIDE + b"/canary"), symlink(b"s", b"t"), s=Link(b"t")),
    "sym-final-device": applied(symlink(b"s", OUTSIDE + b"/canary"), header(b"s", FIFO, mode=0o4777), s="fifo"),
    "sym-swap-after-use": refused(
        directory(b"t/"), symlink(b"s", b"t"), file(b"s/x", b"1"), symlink(b"s", b"u"), file(b"s/y", b"1")
    ),
    "sym-swap-directory": refused(
        directory(b"d/"), file(b"d/x", b"1"), symlink(b"d", OUTSIDE), file(b"d/canary", b"1")
    ),
    "sym-swap-empty-directory": applied_as(
        {OUTSIDE[1:] + b"/canary": b"1", b"d": Link(OUTSIDE)},
        directory(b"d/"),
        file(b"d/x"),
        symlink(b"d", OUTSIDE),
        file(b"d/canary", b"1"),
    ),
    "sym-empty-target": refused(symlink(b"s", b"")),
    "sym-target-too-long": refused(pax({b"linkpath": b"t" * 5000}), symlink(b"s", b"t")),
    "sym-alias-order": refused(directory(b"t/"), symlink(b"s", b"t"), file(b"t/f", b"1"), file(b"s/f", b"2")),
    "hard-ok": applied(file(b"a", b"1"), hard(b"b", b"a"), b=b"1"),
    "hard-abs-ok": applied(file(b"d/a", b"1"), hard(b"b", b"/d/a"), b=b"1"),
    "hard-through-link": applied(
        directory(b"d/"), file(b"d/a", b"1"), symlink(b"s", b"/d"), hard(b"b", b"s/a"), b=b"1"
    ),
    "hard-outside-absolute": refused(hard(b"b", OUTSIDE + b"/canary"), error=Unsupported),
    "hard-outside-dotdot": refused(hard(b"b", b"../outside/canary")),
    "hard-outside-link": refused(symlink(b"s", OUTSIDE), hard(b"b", b"s/canary"), error=Unsupported),
    "hard-to-symlink": applied(symlink(b"s", OUTSIDE + b"/canary"), hard(b"b", b"s"), b=Link(OUTSIDE + b"/canary")),
    "hard-to-symlink-then-file": applied(
        symlink(b"s", OUTSIDE + b"/canary"), hard(b"b", b"s"), file(b"b", b"1"), b=b"1", s=Link(OUTSIDE + b"/canary")
    ),
    "hard-mode-not-applied": applied(file(b"a", b"1"), hard(b"b", b"a", mode=0o4777, uid=5), b=b"1"),
    "hard-to-directory": refused(directory(b"d/"), hard(b"b", b"d")),
    "hard-to-directory-over-file": refused(directory(b"d/"), file(b"f"), hard(b"f", b"d")),
    "hard-over-parent-of-target": refused(directory(b"d/"), file(b"d/x"), hard(b"d", b"d/x")),
    "hard-to-itself": refused(file(b"a"), hard(b"a", b"a")),
    "hard-missing": refused(hard(b"b", b"a"), error=Unsupported),
    "hard-later-target": refused(hard(b"b", b"a"), file(b"a", b"1"), error=Unsupported),
    "hard-replace-not-truncate": applied(file(b"a"), hard(b"b", b"a"), file(b"b", b"12"), a=b"", b=b"12"),
    "hard-with-size": applied(file(b"a", b"1"), hard(b"b", b"a", size=512), file(b"c", b"3"), b=b"1", c=b"3"),
    "hard-300": applied(file(b"a", b"1"), *(hard(b"b%d" % n, b"a") for n in range(300)), b299=b"1"),
}

WHITEOUTS = {
    "wh-plain": applied(file(b".wh.x"), x=WHITEOUT),
    "wh-in-missing-directory": applied(file(b"d/.wh.x"), d=DIRECTORY, d__x=WHITEOUT),
    "wh-traverse": refused(file(b"d/.wh...")),
    "wh-traverse-root": refused(file(b".wh...")),
    "wh-dot": refused(file(b"d/.wh..")),
    "wh-empty": refused(file(b"d/.wh.")),
    "wh-as-directory": refused(file(b".wh.d/x", b"1")),
    "wh-through-symlink": applied_as(
        {OUTSIDE[1:] + b"/canary": WHITEOUT}, symlink(b"s", OUTSIDE), file(b"s/.wh.canary")
    ),
    "wh-then-file": applied(file(b".wh.x"), file(b"x", b"1"), x=b"1"),
    "wh-after-file": applied(file(b"x", b"1"), file(b".wh.x"), x=b"1"),
    "wh-then-directory": applied(file(b".wh.d"), directory(b"d/"), file(b"d/x", b"1"), d=OPAQUE, d__x=b"1"),
    "wh-after-directory": applied(directory(b"d/"), file(b"d/x", b"1"), file(b".wh.d"), d=OPAQUE, d__x=b"1"),
    "wh-with-content": applied(file(b".wh.x", b"content"), x=WHITEOUT),
    "wh-as-link": applied(symlink(b".wh.x", OUTSIDE), x=WHITEOUT),
    "wh-255-name": applied_as({LONG: WHITEOUT}, pax({b"path": b".wh." + LONG}), file(b"x")),
    "wh-aufs": applied_as(
        {b".wh..wh.aufs": ABSENT, b".wh.aufs": ABSENT, b".wh..wh.plnk": ABSENT, b"x": b"1"},
        file(b".wh..wh.aufs"),
        directory(b".wh..wh.plnk/"),
        file(b".wh..wh.plnk/1.2", b"data"),
        file(b"x", b"1"),
    ),
    "opq-marker": applied(directory(b"d/"), file(b"d/.wh..wh..opq"), d=OPAQUE),
    "opq-after-siblings": applied(directory(b"d/"), file(b"d/x", b"1"), file(b"d/.wh..wh..opq"), d=OPAQUE, d__x=b"1"),
    "opq-makes-directory": applied(file(b"d/.wh..wh..opq"), d=OPAQUE),
    "opq-root": applied_as({b"": OPAQUE}, file(b".wh..wh..opq")),
    "opq-through-symlink": applied_as({OUTSIDE[1:]: OPAQUE}, symlink(b"s", OUTSIDE), file(b"s/.wh..wh..opq")),
}

METADATA = {
    "xattr-overlay-opaque": applied(xattrs(b"f", trusted__overlay__opaque=b"y", user__keep=b"1"), f=b"x"),
    "xattr-overlay-redirect": applied(xattrs(b"f", trusted__overlay__redirect=b"/etc"), f=b"x"),
    "xattr-overlay-metacopy": applied(xattrs(b"f", trusted__overlay__metacopy=b""), f=b"x"),
    "xattr-user-overlay": applied(xattrs(b"f", user__overlay__whiteout=b"y"), f=b"x"),
    "xattr-trusted": applied(xattrs(b"f", trusted__x=b"1", security__selinux=b"s"), f=b"x"),
    "xattr-symlink-trusted": applied(
        pax({b"SCHILY.xattr.user.x": b"1"}), symlink(b"s", OUTSIDE + b"/canary"), s=Link(OUTSIDE + b"/canary")
    ),
    "xattr-huge": refused(xattrs(b"f", user__big=b"v" * 70000)),
    "xattr-malformed-acl": refused(xattrs(b"f", system__posix_acl_access=b"\2\0\0\0nonsense")),
    "xattr-malformed-capability": refused(xattrs(b"f", security__capability=b"x")),
    "chr-0-0": refused(header(b"c", CHAR)),
    "chr-1-3": applied(header(b"c", CHAR, major=1, minor=3), c="char"),
    "block-0-0": applied(header(b"c", BLOCK_DEVICE), c="block"),
    "device-range-major": refused(header(b"c", CHAR, major=1 << 12)),
    "device-range-minor": refused(header(b"c", BLOCK_DEVICE, major=1, minor=1 << 20)),
    "device-negative": refused(header(b"c", CHAR, major=base256(-1, 8), minor=3)),
    "uid-wrap": refused(file(b"f", uid=base256(1 << 32, 8))),
    "uid-minus-one": refused(file(b"f", uid=base256((1 << 32) - 1, 8))),
    "uid-negative": refused(file(b"f", uid=base256(-1, 8))),
    "uid-pax-wrap": refused(pax({b"uid": b"4294967296"}), file(b"f")),
    "uid-pax-text": refused(pax({b"uid": b"0x10"}), file(b"f")),
    "gid-minus-one": refused(pax({b"gid": b"4294967295"}), file(b"f")),
    "uid-largest": applied(pax({b"uid": b"4294967294"}), file(b"f", b"1"), f=b"1"),
    "mtime-negative": applied(file(b"f", b"1", mtime=base256(-5, 12)), f=b"1"),
    "mtime-huge": applied(pax({b"mtime": b"99999999999999"}), file(b"f", b"1"), f=b"1"),
    "mtime-text": refused(pax({b"mtime": b"yesterday"}), file(b"f")),
    "fifo": applied(header(b"p", FIFO), p="fifo"),
}

FORMAT = {
    "pax-size-wins": applied(pax({b"size": b"3"}), header(b"f", size=600) + padded(b"abc"), f=b"abc"),
    "pax-repeated-key": applied(pax(record(b"path", b"first") + record(b"path", b"x")), file(b"f", b"1"), x=b"1"),
    "pax-bad-length": refused(pax(b"999 path=x\n"), file(b"f")),
    "pax-zero-length": refused(pax(b"0 path=x\n"), file(b"f")),
    "pax-short-length": refused(pax(b"3 path=x\n"), file(b"f")),
    "pax-no-newline": refused(pax(b"9 path=xy"), file(b"f")),
    "pax-no-key": refused(pax(b"5 =x\n"), file(b"f")),
    "pax-no-equals": refused(pax(b"7 path\n"), file(b"f")),
    "pax-negative-size": refused(pax({b"size": b"-1"}), file(b"f")),
    "pax-dangling": Case(pax({b"path": b"x"}) + END, DataLoss),
    "pax-global": applied(pax({b"comment": b"1"}, b"g"), file(b"f", b"1"), pax({b"comment": b"2"}, b"g"), f=b"1"),
    "pax-global-path-ignored": applied(pax({b"path": b"../x"}, b"g"), file(b"f", b"1"), f=b"1"),
    "size-negative": refused(header(b"f", size=base256(-1, 12))),
    "size-huge": Case(header(b"f", size=base256(1 << 62, 12)) + bytes(512), InvalidArgument),
    "size-beyond-end": Case(header(b"f", size=5000) + bytes(1024), DataLoss),
    "size-not-a-number": refused(header(b"f", size=b"12x\0\0\0\0\0\0\0\0\0")),
    "size-underscore": refused(header(b"f", size=b"0000000_001\0")),
    "bad-checksum": Case(b"x" + header(b"f")[1:] + END, InvalidArgument),
    "not-a-tar": Case(b"this is not a tar archive" * 100, InvalidArgument),
    "cut-in-header": Case(file(b"f", b"1") + header(b"g")[:300], DataLoss),
    "unknown-type": refused(header(b"f", b"Z")),
    "type-volume-label": refused(header(b"f", b"V")),
    "contiguous": applied(header(b"f", CONTIGUOUS, size=3) + padded(b"abc"), f=b"abc"),
    "old-v7": applied(header(b"f", b"\0", size=3, magic=b"\0" * 8) + padded(b"abc"), f=b"abc"),
    "old-v7-directory": applied(header(b"d/", b"\0", magic=b"\0" * 8), d=DIRECTORY),
    "directory-with-size": applied(directory(b"d/", size=512), file(b"f", b"1"), d=DIRECTORY, f=b"1"),
    "zero-blocks-none": applied(file(b"f", b"1"), end=b"", f=b"1"),
    "zero-blocks-one": applied(file(b"f", b"1"), end=bytes(512), f=b"1"),
    "zero-blocks-then-member": applied(file(b"f", b"1"), end=bytes(512) + file(b"g", b"2") + END, f=b"1", g=ABSENT),
    "trailing-garbage": applied(file(b"f", b"1"), end=END + b"garbage" * 1000, f=b"1"),
    "padding-missing": applied(header(b"f", size=1) + b"1", end=b"", f=b"1"),
    "empty": Case(b""),
    "only-zeroes": Case(END),
    "bomb-gnu-longname": Case(header(b"././@LongLink", b"L", size=1 << 30) + bytes(4096), InvalidArgument),
    "bomb-pax": Case(header(b"x", b"x", size=(1 << 20) + 1) + bytes(4096), InvalidArgument),
    "bomb-pax-malformed": refused(pax(b"1" * (1 << 20)), file(b"f")),
    "bomb-longnames": refused(*(gnu_long(b"L", b"n" * ((1 << 20) - 1)) for _ in range(5)), file(b"f")),
    "dup-empty-file": applied(file(b"f"), file(b"f", b"2"), f=b"2"),
    "dup-with-content": refused(file(b"f", b"1"), file(b"f", b"2")),
    "dup-dot-slash": refused(file(b"f", b"1"), file(b"./f", b"2")),
    "dup-directory": applied(directory(b"d/"), file(b"d/f", b"1"), directory(b"./d", mode=0o700), d__f=b"1"),
    "dup-link": applied(symlink(b"s", b"a"), symlink(b"s", b"b"), s=Link(b"b")),
    "dup-root": applied(directory(b"./"), directory(b"./"), file(b"f", b"1"), f=b"1"),
    "dup-last-wins": applied(symlink(b"f", b"a"), directory(b"f/"), file(b"f", b"3"), f=b"3"),
    "dup-whiteout": applied(file(b".wh.x"), file(b".wh.x"), x=WHITEOUT),
    "file-over-full-directory": refused(file(b"d/x", b"1"), file(b"d", b"2")),
    "file-over-directory-of-empties": applied(file(b"d/x"), directory(b"d/y/"), file(b"d", b"2"), d=b"2"),
    "directory-over-file": refused(file(b"d", b"1"), directory(b"d/")),
}

SPARSE = {
    "sparse-old": applied(old_sparse(b"f", [(1, 2), (5, 1)], 8, b"abc"), f=b"\0ab\0\0c\0\0"),
    "sparse-old-extended": applied(
        old_sparse(b"f", [(4 * n, 1) for n in range(40)], 160, b"x" * 40), f=b"x\0\0\0" * 40
    ),
    "sparse-old-overlap": refused(old_sparse(b"f", [(0, 4), (2, 4)], 8, b"12345678")),
    "sparse-old-beyond-end": refused(old_sparse(b"f", [(4, 8)], 8, b"12345678")),
    "sparse-old-wrong-sum": refused(old_sparse(b"f", [(0, 4)], 8, b"12345678")),
    "sparse-0-0": applied(
        pax(
            record(b"GNU.sparse.size", b"6")
            + record(b"GNU.sparse.numblocks", b"2")
            + record(b"GNU.sparse.offset", b"0")
            + record(b"GNU.sparse.numbytes", b"1")
            + record(b"GNU.sparse.offset", b"4")
            + record(b"GNU.sparse.numbytes", b"2")
        ),
        file(b"f", b"abc"),
        f=b"a\0\0\0bc",
    ),
    "sparse-0-1": applied(
        pax({b"GNU.sparse.size": b"6", b"GNU.sparse.map": b"1,3", b"GNU.sparse.name": b"f"}),
        file(b"GNUSparseFile.1/f", b"abc"),
        f=b"\0abc\0\0",
    ),
    "sparse-0-0-out-of-order": refused(
        pax(record(b"GNU.sparse.numbytes", b"1") + record(b"GNU.sparse.offset", b"0")), file(b"f", b"a")
    ),
    "sparse-1-0": applied(sparse_1_0(b"f", b"1\n4\n3\n", b"abc", 10), f=b"\0\0\0\0abc\0\0\0"),
    "sparse-1-0-letters": refused(sparse_1_0(b"f", b"1\nx\n3\n", b"abc", 10)),
    "sparse-1-0-no-map": refused(sparse_1_0(b"f", b"", b"", 10)),
    "sparse-1-0-endless-line": refused(sparse_1_0(b"f", b"1" * 2000, b"", 10)),
    "sparse-map-huge": refused(sparse_1_0(b"f", b"1000000000\n", b"", 10)),
    "sparse-map-huge-0-1": refused(pax({b"GNU.sparse.map": b"0,0," * 70000 + b"0,0"}), file(b"f")),
    "sparse-unknown-version": refused(pax({b"GNU.sparse.major": b"2", b"GNU.sparse.minor": b"0"}), file(b"f")),
    "sparse-negative": refused(pax({b"GNU.sparse.size": b"-6", b"GNU.sparse.map": b""}), file(b"f")),
    "sparse-bomb-old": refused(b"".join(old_sparse(b"f%d" % n, [], (1 << 33) - 1, b"") for n in range(9))),
    "sparse-holes-are-holes": applied(old_sparse(b"f", [(0, 1)], 1 << 30, b"x")),
    "sparse-old-base256": applied(
        old_sparse(b"f", [(0, 3)], 3, b"abc"), file(b"g", b"1", size=base256(1, 12)), f=b"abc"
    ),
}

CASES: dict[str, Case] = {**NAMES, **LINKS, **WHITEOUTS, **METADATA, **FORMAT, **SPARSE}

__all__ = ["ABSENT", "CASES", "DIRECTORY", "OPAQUE", "OUTSIDE", "WHITEOUT", "Case", "Link"]
