"""Archives of other writers, whole and damaged: made again bit for bit, or refused, never worse."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lamella.changeset.apply import Style, apply_layer
from lamella.changeset.entry import entry_path
from lamella.changeset.limits import Limits
from lamella.changeset.tario import ByteSource, TarReader
from lamella.changeset.tarsplit import reassemble
from lamella.errors import DataLoss, InvalidArgument, Unsupported
from tests.corpus.craft import checksummed
from tests.corpus.hostile import CASES
from tests.support.trees import fingerprint

PROFILE = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
LONG = settings(PROFILE, max_examples=300)
SMALL = Limits(layer_bytes=1 << 28, extended_header=1 << 16, sparse_regions=1000)

NAMES = st.one_of(
    st.sampled_from(["a", "b", "a/b", "./a", "/a", "d/../a", "s/f", "x" * 160, ".wh.a", "d/.wh..wh..opq", "ü/é"]),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=30),
)
KINDS = st.sampled_from(
    [tarfile.REGTYPE, tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, b"7"]
)


class Archive(bytes):
    """Bytes that are written to a file rather than spelled out in a report."""

    def __repr__(self) -> str:  # type: ignore[explicit-override]
        if len(self) < 4000:
            return super().__repr__()
        path = Path(tempfile.gettempdir(), f"archive-{hashlib.sha256(self).hexdigest()[:16]}.tar")
        path.write_bytes(self)
        return f"<{path}, {len(self)} bytes>"


@st.composite
def archives(draw: st.DrawFn) -> Archive:
    """An archive by the standard library, in any of its formats, with any end."""
    form = draw(st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name in draw(st.lists(NAMES, max_size=8)):
            info = tarfile.TarInfo(name)
            info.type = draw(KINDS)
            info.mode = draw(st.integers(0, 0o7777))
            info.uid = draw(st.sampled_from([0, 5, 3_000_000_000]))
            info.mtime = draw(st.sampled_from([0, 1_600_000_000, 1_600_000_000.25 if form else 7]))
            content = b""
            if info.type in {tarfile.REGTYPE, b"7"}:
                content = draw(st.one_of(st.binary(max_size=20), st.integers(0, 200_000).map(bytes)))
            elif info.type in {tarfile.SYMTYPE, tarfile.LNKTYPE}:
                info.linkname = draw(NAMES)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    whole = buffer.getvalue()
    end = draw(st.sampled_from(["whole", "trimmed", "garbage", "zeros"]))
    if end == "trimmed":
        whole = whole.rstrip(b"\0")
        whole += bytes(-len(whole) % 512)
    return Archive(whole + {"garbage": b"\1garbage" * 100, "zeros": bytes(777)}.get(end, b""))


def try_to_apply(archive: bytes, style: Style = Style.OVERLAY) -> bool:
    """Apply; True if it went well, and then the archive can be made again."""
    with tempfile.TemporaryDirectory(prefix="archives") as place:
        outside, target, record = Path(place, "outside"), Path(place, "layer"), Path(place, "record")
        outside.mkdir()
        (outside / "canary").write_bytes(b"alive")
        target.mkdir()
        before = fingerprint(outside)
        descriptors = len(os.listdir("/proc/self/fd"))
        try:
            with record.open("wb") as tar_split:
                result = apply_layer(io.BytesIO(archive), target, tar_split=tar_split, style=style, limits=SMALL)
            again = io.BytesIO()
            reassemble(record, target, again.write, expected=result.diff_id)
            assert again.getvalue() == archive
        except (InvalidArgument, DataLoss, Unsupported):
            return False
        finally:
            assert fingerprint(outside) == before
            assert set(os.listdir(place)) == {"outside", "layer", "record"}
            assert len(os.listdir("/proc/self/fd")) == descriptors
        return True


@PROFILE
@given(archives(), st.sampled_from(Style))
def test_what_applies_can_be_made_again(archive: bytes, style: Style) -> None:
    try_to_apply(archive, style)


@PROFILE
@given(st.lists(st.binary(max_size=200), max_size=6), st.data())
def test_plain_archives_always_apply(contents: list[bytes], data: st.DataObject) -> None:
    form = data.draw(st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT]))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for number, content in enumerate(contents):
            info = tarfile.TarInfo(f"{'d' * 90}/{number}/{'f' * 50}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    whole = buffer.getvalue()
    assert try_to_apply(whole)
    cut = data.draw(st.integers(1024, len(whole)))
    try_to_apply(whole[:cut])


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    """An archive of the corpus with some bytes changed, and checksums made right so that the change is looked at."""
    archive = bytearray(CASES[draw(st.sampled_from(sorted(CASES)))].archive[: 1 << 16])
    for _ in range(draw(st.integers(1, 4))):
        if not archive:
            break
        block = draw(st.integers(0, (len(archive) - 1) // 512))
        at = min(512 * block + draw(st.integers(0, 511)), len(archive) - 1)
        piece = draw(st.one_of(st.binary(min_size=1, max_size=12), st.just(b"\xff" * 8), st.just(b"../")))
        archive[at : at + len(piece)] = piece
        start = 512 * block
        if draw(st.booleans()) and len(archive) >= start + 512:
            archive[start : start + 512] = checksummed(bytes(archive[start : start + 512]))
    if draw(st.booleans()):
        del archive[draw(st.integers(0, len(archive))) :]
    return bytes(archive)


@LONG
@given(mutations(), st.integers(1, 4000))
@example(b"", 1)
def test_the_reader_refuses_or_reads(archive: bytes, chunk: int) -> None:
    stream = io.BytesIO(archive)
    tar = TarReader(ByteSource(lambda: stream.read(chunk)), SMALL)
    rebuilt = []
    try:
        while (entry := tar.next_entry()) is not None:
            assert entry.path == entry_path(entry.name) or not entry.path
            assert b".." not in entry.path.split(b"/")
            rebuilt.append(tar.take_raw())
            rebuilt += map(bytes, tar.pieces())
        rebuilt += map(bytes, tar.trailer())
    except (InvalidArgument, DataLoss):
        return
    assert b"".join(rebuilt) == archive


@LONG
@given(mutations(), st.sampled_from(Style))
def test_mutated_archives_never_do_harm(archive: bytes, style: Style) -> None:
    try_to_apply(archive, style)
