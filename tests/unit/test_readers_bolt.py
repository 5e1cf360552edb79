"""bbolt files: every tree is read back, and no file, however damaged, does more than be refused."""

from __future__ import annotations

import os
import struct
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamella.errors import DataLoss, NotFound
from lamella.readers.bolt import Bolt, Bucket, decode_signed_varint, decode_time, decode_varint
from tests.support.boltfile import BRANCH, BoltWriter, Tree, branch_body, leaf_body, meta_page

KEYS = st.binary(min_size=1, max_size=12)
TREES: st.SearchStrategy[Tree] = st.recursive(
    st.dictionaries(KEYS, st.binary(max_size=40), max_size=20),
    lambda inner: st.dictionaries(KEYS, st.binary(max_size=40) | inner, max_size=12),
    max_leaves=12,
)


def read(bucket: Bucket, depth: int = 0) -> Tree:
    """Read a bucket as far down as a schema would."""
    if depth > 8:
        return {}
    return {key: value if isinstance(value, bytes) else read(value, depth + 1) for key, value in bucket.items()}


@settings(max_examples=80)
@given(
    tree=TREES,
    page_size=st.sampled_from([1024, 4096, 16384]),
    fanout=st.integers(2, 9),
    inline=st.sampled_from([0, 64, 900]),
)
def test_every_tree_is_read_back(tree: Tree, page_size: int, fanout: int, inline: int) -> None:
    bolt = Bolt(BoltWriter(tree, page_size=page_size, fanout=fanout, inline=inline).content())
    assert read(bolt.root) == tree
    for key, value in tree.items():
        if isinstance(value, bytes):
            assert bolt.root.get(key) == value
            assert bolt.root.bucket(key) is None
        else:
            bucket = bolt.bucket(key)
            assert bucket is not None
            assert read(bucket) == value
            assert bolt.root.get(key) is None
    assert bolt.root.get(b"\xff" * 13) is None


def test_a_large_bucket_is_found_in_without_being_listed() -> None:
    tree: Tree = {b"%06d" % number: b"v%d" % number for number in range(3000)}
    bolt = Bolt(BoltWriter({b"big": tree, b"long": b"x" * 50000}).content())
    big = bolt.bucket("big")
    assert big is not None
    assert [big.get(b"%06d" % number) for number in (0, 7, 8, 1234, 2999)] == [b"v0", b"v7", b"v8", b"v1234", b"v2999"]
    assert (big.get(b""), big.get(b"000001x"), big.get(b"z")) == (None, None, None)
    assert bolt.root.get("long") == b"x" * 50000


@settings(max_examples=150)
@given(data=st.data())
def test_a_damaged_file_is_refused_or_read_but_never_worse(data: st.DataObject) -> None:
    raw = bytearray(
        BoltWriter(
            {b"a": {b"%d" % n: b"v" * n for n in range(30)}, b"b": {b"c": {b"d": b"e"}}}, page_size=512, fanout=4
        ).content()
    )
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(raw) - 1))
        piece = data.draw(st.binary(min_size=1, max_size=8))
        raw[place : place + len(piece)] = piece
    try:
        bolt = Bolt(bytes(raw[: data.draw(st.integers(0, len(raw) + 8))]))
        read(bolt.root)
        bolt.bucket("b", "c")
    except DataLoss:
        pass


@settings(max_examples=60)
@given(raw=st.binary(max_size=3000))
def test_what_is_no_bolt_file_is_refused(raw: bytes) -> None:
    with pytest.raises(DataLoss, match="no bolt file"):
        Bolt(raw, "x.db")


def crafted(pages: dict[int, bytes], root: int) -> Bolt:
    """Return a file of hand-made pages of 512 bytes."""
    highest = max(pages) + 1
    body = b"".join(pages.get(number, b"").ljust(512, b"\0") for number in range(2, highest))
    return Bolt(meta_page(0, 512, root, highest, 2) + meta_page(1, 512, root, highest, 1) + body)


def page(number: int, flags: int, count: int, body: bytes) -> bytes:
    return struct.pack("<QHHI", number, flags, count, 0) + body


def test_a_page_that_leads_to_itself_is_refused() -> None:
    bolt = crafted({3: page(3, BRANCH, 1, branch_body([(b"a", 3)]))}, 3)
    with pytest.raises(DataLoss, match="used twice"):
        list(bolt.root.items())
    with pytest.raises(DataLoss, match="used twice"):
        bolt.root.get("a")


def test_pages_that_lead_round_are_refused() -> None:
    pages = {
        3: page(3, BRANCH, 1, branch_body([(b"a", 4)])),
        4: page(4, BRANCH, 2, branch_body([(b"a", 5), (b"b", 3)])),
        5: page(5, 2, 1, leaf_body([(b"a", 0, b"v")])),
    }
    with pytest.raises(DataLoss, match="used twice"):
        list(crafted(pages, 3).root.items())


def test_a_page_named_twice_by_one_branch_is_refused() -> None:
    leaf = page(4, 2, 1, leaf_body([(b"a", 0, b"v")]))
    bolt = crafted({3: page(3, BRANCH, 2, branch_body([(b"a", 4), (b"b", 4)])), 4: leaf}, 3)
    with pytest.raises(DataLoss, match="twice to the same"):
        list(bolt.root.items())


def test_buckets_that_hold_themselves_do_not_multiply() -> None:
    """Thirty keys, each a bucket that is the whole again: five levels of them would be 24 million."""
    elements = [(b"%02d" % n, 1, struct.pack("<QQ", 3, 0)) for n in range(12)]
    bolt = crafted({3: page(3, 2, 12, leaf_body(elements))}, 3)
    with pytest.raises(DataLoss, match="more than the file can"):
        read(bolt.root)


@pytest.mark.parametrize(
    ("element", "message"),
    [
        (struct.pack("<IIII", 0, 1 << 30, 1, 1), "lies outside"),
        (struct.pack("<IIII", 0, 16, 1 << 31, 1), "lies outside"),
        (struct.pack("<IIII", 0, 16, 1, 0xFFFFFFFF), "lies outside"),
        (struct.pack("<IIII", 1, 16, 1, 4), "cut off"),
        (struct.pack("<IIII", 1, 16, 1, 20), "cut off"),
    ],
)
def test_elements_that_point_astray_are_refused(element: bytes, message: str) -> None:
    bolt = crafted({3: page(3, 2, 1, element)}, 3)
    with pytest.raises(DataLoss, match=message):
        list(bolt.root.items())


@pytest.mark.parametrize("root", [0, 1, 2, 9, 1 << 62])
def test_roots_outside_the_file_or_on_other_pages_are_refused(root: int) -> None:
    with pytest.raises(DataLoss):
        list(crafted({2: page(2, 16, 0, b""), 3: page(3, 2, 0, b"")}, root).root.items())


def test_keys_out_of_order_and_too_many_elements_are_refused() -> None:
    with pytest.raises(DataLoss, match="out of order"):
        list(crafted({3: page(3, 2, 2, leaf_body([(b"b", 0, b""), (b"a", 0, b"")]))}, 3).root.items())
    with pytest.raises(DataLoss, match="more elements than fit"):
        list(crafted({3: page(3, 2, 500, b"")}, 3).root.items())


def test_the_sound_meta_counts_and_of_two_the_newer() -> None:
    whole = BoltWriter({b"a": b"v"}).content()
    older_alone = b"\0" * 4096 + meta_page(1, 4096, 3, 4, 6) + whole[8192:]
    assert Bolt(older_alone).root.get("a") == b"v"
    torn = meta_page(0, 4096, 99, 100, 9)[:79] + b"\xff" + whole[80:4096] + meta_page(1, 4096, 3, 4, 6) + whole[8192:]
    assert Bolt(torn).root.get("a") == b"v"


def test_only_a_file_of_the_stores_own_is_opened(tmp_path: Path) -> None:
    (tmp_path / "real.db").write_bytes(BoltWriter({b"a": b"v"}).content())
    assert Bolt.open(tmp_path / "real.db").root.get("a") == b"v"
    (tmp_path / "link.db").symlink_to("real.db")
    os.mkfifo(tmp_path / "fifo.db")
    for name in ("link.db", "fifo.db"):
        with pytest.raises(DataLoss, match="not a"):
            Bolt.open(tmp_path / name)
    with pytest.raises(DataLoss):
        Bolt.open(tmp_path)
    with pytest.raises(NotFound):
        Bolt.open(tmp_path / "none.db")


def test_a_file_that_changes_while_it_is_read_is_read_as_one_transaction_left_it(tmp_path: Path) -> None:
    """As bbolt writes: pages that nobody needs first, then the meta that leads to them, alternately."""
    place = tmp_path / "busy.db"
    first = BoltWriter({b"%d" % n: b"A" * 2000 for n in range(60)})
    second = BoltWriter({b"%d" % n: b"B" * 2000 for n in range(60)}, first=first.end)
    areas = [b"".join(area.pages[number] for number in sorted(area.pages) if number > 2) for area in (first, second)]
    starts, roots, pages = (3, first.end), (first.root, second.root), second.end
    metas = [meta_page(number, 4096, first.root, pages, number) for number in range(2)]
    place.write_bytes(b"".join(metas) + bytes(4096) + areas[0] + areas[1])
    stop = threading.Event()

    def write() -> None:
        transaction = 2  # the metas above are of the first area
        with place.open("r+b", buffering=0) as file:
            while not stop.wait(0.01):
                transaction += 1
                new = transaction % 2
                for content in (b"\xff" * len(areas[new]), areas[new]):
                    file.seek(starts[new] * 4096)
                    file.write(content)
                file.seek(4096 * new)
                file.write(meta_page(new, 4096, roots[new], pages, transaction))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        deadline = time.monotonic() + 60
        seen: set[object] = set()
        looks = 0
        while looks < 60 or seen != {b"A" * 2000, b"B" * 2000}:
            assert time.monotonic() < deadline
            [value] = {value for _, value in Bolt.open(place).root.items()}
            seen.add(value)
            looks += 1
    finally:
        stop.set()
        writer.join()


@given(number=st.integers(0, 2**63 - 1))
def test_varints(number: int) -> None:
    raw, rest = bytearray(), number
    while True:
        raw.append(rest & 0x7F | (0x80 if rest > 0x7F else 0))
        rest >>= 7
        if not rest:
            break
    assert decode_varint(bytes(raw)) == number
    assert decode_varint(bytes(raw) + b"\x05") == number
    assert decode_varint(b"\xff" * 12) == 0
    assert decode_signed_varint(b"\xaa\x0d") == 853
    assert decode_signed_varint(b"\x01") == -1


def test_go_times() -> None:
    assert decode_time(bytes.fromhex("010000000ee296e5521de92c13ffff")) == "2026-11-24T01:54:26.501820435Z"
    assert decode_time(b"") == decode_time(b"\x01" + b"\xff" * 14) == decode_time(b"\x09" + bytes(14)) == ""


@given(raw=st.binary(max_size=20))
def test_any_bytes_are_a_time_or_none(raw: bytes) -> None:
    assert isinstance(decode_time(raw), str)
