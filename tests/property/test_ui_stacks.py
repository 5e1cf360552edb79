"""The drawing's geometry: whatever the stacks, what is shared is one box, and nothing overlaps or floats."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lamella.ui.stacks import Block, Layout, Stack, height_of, lay_out, window

BLOCKS = st.builds(
    Block,
    st.sampled_from(["layer", "layer", "layer", "missing", "image", "init", "writable", "container"]),
    st.sampled_from("abcdef"),
    st.none() | st.integers(0, 1 << 40),
)
STACKS = st.lists(st.builds(Stack, st.text(max_size=3), st.lists(BLOCKS, max_size=6)), max_size=12)


def keys(blocks: object) -> list[tuple[str, str]]:
    return [(block.kind, block.id) for block in blocks]  # type: ignore[attr-defined]


def drawn(layout: Layout) -> list[list[tuple[str, str]]]:
    return [keys([layout.boxes[number] for number in column]) for column in layout.columns]


@given(STACKS)
def test_each_stack_is_one_column_from_the_base_up(stacks: list[Stack]) -> None:
    wanted = sorted(keys(stack.blocks) for stack in stacks if stack.blocks)
    assert sorted(drawn(lay_out(stacks))) == wanted


@given(STACKS)
def test_two_columns_share_a_box_exactly_if_all_below_it_is_the_same(stacks: list[Stack]) -> None:
    layout = lay_out(stacks)
    paths = drawn(layout)
    for left, one in enumerate(paths):
        for right, other in enumerate(paths[left + 1 :], left + 1):
            shared = len(set(layout.columns[left]) & set(layout.columns[right]))
            alike = next(
                (depth for depth, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]),
                min(len(one), len(other)),
            )
            assert shared == alike


@given(STACKS)
def test_a_box_spans_exactly_the_columns_that_have_it(stacks: list[Stack]) -> None:
    layout = lay_out(stacks)
    for number, box in enumerate(layout.boxes):
        having = [column for column, path in enumerate(layout.columns) if number in path]
        assert having == list(range(box.column, box.column + box.span))


@given(STACKS)
def test_every_box_stands_on_the_one_below_it_and_within_its_width(stacks: list[Stack]) -> None:
    layout = lay_out(stacks)
    for box in layout.boxes:
        assert box.height > 0
        if box.below is None:
            assert box.bottom == 0
            continue
        below = layout.boxes[box.below]
        assert box.bottom == below.bottom + below.height
        assert below.column <= box.column
        assert box.column + box.span <= below.column + below.span
    assert layout.height == max((box.bottom + box.height for box in layout.boxes), default=0)


@given(STACKS, st.randoms(use_true_random=False))
def test_the_order_in_which_stacks_come_does_not_matter_to_what_is_joined(stacks: list[Stack], random: object) -> None:
    labelled = [Stack(f"{number:02}", stack.blocks) for number, stack in enumerate(stacks)]
    shuffled = list(labelled)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert [len(column) for column in lay_out(labelled).columns] == [
        len(column) for column in lay_out(shuffled).columns
    ]
    assert drawn(lay_out(labelled)) == drawn(lay_out(shuffled))


@given(STACKS, st.integers(0, 14), st.integers(0, 14))
def test_a_window_has_all_boxes_of_its_columns_and_no_others(stacks: list[Stack], start: int, end: int) -> None:
    layout = lay_out(stacks)
    wanted = {number for path in layout.columns[start:end] for number in path}
    found = window(layout, start, end)
    assert set(found) == wanted
    assert len(found) == len(wanted)


@given(st.integers(0, 1 << 50), st.integers(0, 1 << 50))
def test_a_larger_layer_is_never_drawn_lower(one: int, other: int) -> None:
    low, high = sorted((one, other))
    assert height_of(Block("layer", "a", low)) <= height_of(Block("layer", "a", high)) < 300


def test_groups_stand_in_the_order_of_their_first_name() -> None:
    base, other = Block("layer", "base"), Block("layer", "other")
    names = ["pear", "apple", "fig", "beech"]
    stacks = [
        Stack(name, [below, Block("image", name)])
        for name, below in zip(names, (base, base, other, other), strict=True)
    ]
    caps = [path[-1][1] for path in drawn(lay_out(stacks))]
    assert caps == ["apple", "pear", "beech", "fig"]
