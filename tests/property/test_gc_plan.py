"""The planner of garbage collections, on random families of images and layers, against a model that counts naively."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from lamella.insight.gc import Candidate, Plan, Stock, make_plan
from lamella.insight.policy import Policy

DAY = 86400 * 10**9
NOW = 1000 * DAY
NAMES = ("a:1", "a:2", "a:3", "b:1", "b:2", "c:1")


@st.composite
def stocks(draw: st.DrawFn) -> Stock:
    things = [f"layer{number}" for number in range(draw(st.integers(1, 8)))]
    count = draw(st.integers(1, 9))
    free = list(draw(st.permutations(NAMES)))
    images: dict[str, Candidate] = {}
    for number in range(count):
        parent = draw(st.sampled_from(["", "gone", *images])) if images else ""
        names = tuple(free.pop() for _ in range(min(len(free), draw(st.sampled_from([0, 1, 1, 2])))))
        images[f"image{number}"] = Candidate(
            id=f"image{number}",
            names=names,
            parent=parent,
            created=draw(st.integers(0, 20)) * DAY,
            last_used=NOW - draw(st.integers(0, 60)) * DAY,
            labels=draw(st.sampled_from([{}, {"keep": "yes"}, {"ci": "1"}])),
            holds=frozenset(draw(st.sets(st.sampled_from(things)))) | {f"record{number}"},
        )
    sizes = {thing: draw(st.integers(0, 1000)) for thing in things}
    sizes.update({f"record{number}": draw(st.integers(0, 10)) for number in range(count)})
    return Stock(
        images=images,
        sizes=sizes,
        held=frozenset(draw(st.sets(st.sampled_from(things), max_size=2))),
        used=dict.fromkeys(draw(st.sets(st.sampled_from(sorted(images)), max_size=2)), "box"),
        total=sum(sizes.values()) + draw(st.integers(0, 500)),
        now=NOW,
    )


policies = st.builds(
    Policy,
    unused_for=st.none() | st.integers(0, 60).map(lambda days: days * DAY),
    keep=st.none() | st.integers(0, 3),
    budget=st.none() | st.integers(0, 6000),
    minimum_age=st.integers(0, 10).map(lambda days: days * DAY),
    dangling=st.booleans(),
    pins=st.sampled_from([(), ("a:1",), ("b",), ("*:2",)]),
    keep_labels=st.sampled_from([(), ("keep",)]),
    drop_labels=st.sampled_from([(), ("ci=1",)]),
)


def disk(stock: Stock, left: Iterable[str]) -> int:
    """Count what the store takes with only these images in it: the model."""
    needed = set(stock.held).union(*(stock.images[image].holds for image in left))
    others = stock.total - sum(stock.sizes.values())
    return others + sum(size for thing, size in stock.sizes.items() if thing in needed or not holds(stock, thing))


def holds(stock: Stock, thing: str) -> bool:
    return thing in stock.held or any(thing in image.holds for image in stock.images.values())


def removed(plan: Plan) -> list[str]:
    return [image for step in plan.steps for image in step.removes]


@given(stocks(), policies)
def test_each_step_frees_exactly_what_it_says(stock: Stock, policy: Policy) -> None:
    plan = make_plan(stock, policy)
    left = set(stock.images)
    for step in plan.steps:
        before = disk(stock, left)
        left -= set(step.removes)
        assert step.bytes == before - disk(stock, left)
    assert plan.after == disk(stock, left)
    assert plan.before == stock.total


@given(stocks(), policies)
def test_no_image_goes_before_those_that_were_made_from_it(stock: Stock, policy: Policy) -> None:
    gone: set[str] = set()
    for image in removed(make_plan(stock, policy)):
        assert image not in gone
        assert all(child.id in gone for child in stock.images.values() if child.parent == image)
        gone.add(image)


@given(stocks(), policies)
def test_what_is_protected_stays(stock: Stock, policy: Policy) -> None:
    newest: set[str] = set()
    for repository in ("a", "b", "c") if policy.keep else ():
        of_it = [i for i in stock.images.values() if any(name.startswith(f"{repository}:") for name in i.names)]
        of_it.sort(key=lambda i: (i.created, i.last_used, i.id), reverse=True)
        newest |= {i.id for i in of_it[: policy.keep]}
    for identity in removed(make_plan(stock, policy)):
        image = stock.images[identity]
        assert identity not in stock.used
        assert identity not in newest
        assert image.last_used <= NOW - policy.minimum_age
        assert not (policy.keep_labels and "keep" in image.labels)
        assert not any(
            pin == name or pin == name[:1] or (pin == "*:2" and name.endswith(":2"))
            for pin in policy.pins
            for name in image.names
        )


@given(stocks(), policies)
def test_a_nameless_image_goes_only_alone_or_with_the_last_that_was_made_from_it(stock: Stock, policy: Policy) -> None:
    for step in make_plan(stock, policy).steps:
        assert step.names == stock.images[step.image].names
        assert all(not stock.images[image].names for image in step.removes[1:])
        assert [stock.images[image].parent for image in step.removes[:-1]] == list(step.removes[1:])
        assert step.names or policy.dangling


@given(stocks(), policies)
def test_without_a_budget_just_what_is_selected_goes(stock: Stock, policy: Policy) -> None:
    policy = policy._replace(budget=None)
    plan = make_plan(stock, policy)
    for step in plan.steps:
        image = stock.images[step.image]
        assert (
            (policy.drop_labels and "ci" in image.labels)
            or not image.names
            or (policy.unused_for is not None and image.last_used < NOW - policy.unused_for)
            or (policy.unused_for is None and policy.keep is not None)
        )
    again = make_plan(_without(stock, removed(plan)), policy)
    assert not removed(again), "a second collection at the same moment finds nothing"


def _without(stock: Stock, images: Iterable[str]) -> Stock:
    gone = set(images)
    left = {name: image for name, image in stock.images.items() if name not in gone}
    return stock._replace(images=left, total=disk(stock, left))


@given(stocks(), st.integers(0, 6000))
def test_a_budget_takes_no_image_in_vain(stock: Stock, budget: int) -> None:
    policy = Policy(budget=budget, minimum_age=0, dangling=False)
    plan = make_plan(stock, policy)
    left = set(stock.images) - set(removed(plan))
    everything = make_plan(stock, policy._replace(budget=0))
    assert plan.within_budget == (everything.after <= budget)
    if not plan.within_budget:
        assert set(removed(plan)) == set(removed(everything))
        return
    for step in plan.steps:
        back = set(step.removes)
        parents = {stock.images[image].parent for image in back} - back
        if not parents & set(removed(plan)):
            assert disk(stock, left | back) > budget, step
