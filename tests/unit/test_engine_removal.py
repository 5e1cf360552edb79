"""Docker's rules for rmi and prune, on a shelf of plain values."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from lamella.engine.removal import (
    DeletionConflict,
    Removed,
    User,
    is_single_reference,
    prune_images,
    remove_image,
)
from lamella.errors import Conflict, NotFound
from lamella.model.digest import Digest, ImageID
from lamella.model.reference import Reference, parse_reference

DIGEST = "sha256:" + "d" * 64


def image_id(digit: str) -> ImageID:
    return ImageID(Digest("sha256:" + digit * 64))


A, B, C = image_id("a"), image_id("b"), image_id("c")


class Shelf:
    """Images with names, parents and containers; each has a layer of its own."""

    def __init__(
        self, names: dict[str, ImageID], parents: dict[ImageID, ImageID | None], users: Sequence[User] = ()
    ) -> None:
        self.names = {parse_reference(name): image for name, image in names.items()}
        self.parents = dict(parents)
        self._users = users

    def references(self, image: ImageID) -> Sequence[Reference]:
        return sorted((name for name, owner in self.names.items() if owner == image), key=Reference.familiar)

    def untag(self, reference: Reference) -> None:
        del self.names[reference]

    def children(self, image: ImageID) -> Sequence[ImageID]:
        return [child for child, parent in self.parents.items() if parent == image]

    def parent(self, image: ImageID) -> ImageID | None:
        return self.parents[image]

    def users(self) -> Sequence[User]:
        return self._users

    def delete(self, image: ImageID) -> Sequence[str]:
        assert not self.references(image)
        del self.parents[image]
        return [f"layer-of-{image[7]}"]


def remove(shelf: Shelf, image: ImageID, name: str, *, force: bool = False, prune: bool = True) -> list[str]:
    return [str(step) for step in remove_image(shelf, image, name, force=force, prune=prune)]


def test_the_last_name_takes_the_image_and_its_nameless_parents() -> None:
    shelf = Shelf({"app:1": C}, {A: None, B: A, C: B})
    assert remove(shelf, C, "app:1") == [
        "Untagged: app:1",
        f"Deleted: {C}",
        "Deleted: layer-of-c",
        f"Deleted: {B}",
        "Deleted: layer-of-b",
        f"Deleted: {A}",
        "Deleted: layer-of-a",
    ]


def test_a_parent_with_a_name_a_child_or_a_container_stays() -> None:
    for shelf in (
        Shelf({"app:1": B, "base:1": A}, {A: None, B: A}),
        Shelf({"app:1": B}, {A: None, B: A, C: A}),
        Shelf({"app:1": B}, {A: None, B: A}, [User("f" * 64, A, running=False)]),
    ):
        assert remove(shelf, B, "app:1") == ["Untagged: app:1", f"Deleted: {B}", "Deleted: layer-of-b"]
        assert A in shelf.parents


def test_parents_stay_without_prune() -> None:
    shelf = Shelf({"app:1": B}, {A: None, B: A})
    assert remove(shelf, B, "app:1", prune=False) == ["Untagged: app:1", f"Deleted: {B}", "Deleted: layer-of-b"]


def test_one_of_several_names_is_only_taken_away() -> None:
    shelf = Shelf({"app:1": A, "app:2": A}, {A: None})
    assert remove(shelf, A, "app:1") == ["Untagged: app:1"]
    assert remove(shelf, A, "app") if parse_reference("app:latest") in shelf.names else True
    assert A in shelf.parents


def test_digests_of_a_repository_go_with_its_last_tag() -> None:
    shelf = Shelf({"app:1": A, f"app@{DIGEST}": A}, {A: None})
    assert remove(shelf, A, "app:1")[:3] == ["Untagged: app:1", f"Untagged: app@{DIGEST}", f"Deleted: {A}"]
    shelf = Shelf({"app:1": A, f"app@{DIGEST}": A, "other:1": A}, {A: None})
    assert remove(shelf, A, "app:1") == ["Untagged: app:1", f"Untagged: app@{DIGEST}"]
    shelf = Shelf({"app:1": A, "app:2": A, f"app@{DIGEST}": A}, {A: None})
    assert remove(shelf, A, "app:1") == ["Untagged: app:1"]


def test_a_name_with_children_below_is_only_taken_away() -> None:
    shelf = Shelf({"base:1": A}, {A: None, B: A})
    assert remove(shelf, A, "base:1") == ["Untagged: base:1"]
    assert A in shelf.parents


def test_the_last_name_of_an_image_in_use_is_refused_in_dockers_words() -> None:
    for running in (False, True):
        shelf = Shelf({"app:1": A}, {A: None}, [User("f" * 64, A, running=running)])
        with pytest.raises(Conflict) as caught:
            remove(shelf, A, "app:1")
        assert str(caught.value) == (
            'conflict: unable to remove repository reference "app:1" (must force) - '
            "container ffffffffffff is using its referenced image aaaaaaaaaaaa"
        )
        assert len(shelf.names) == 1


def test_force_deletes_under_a_stopped_container_and_untags_under_a_running_one() -> None:
    shelf = Shelf({"app:1": A}, {A: None}, [User("f" * 64, A, running=False)])
    assert remove(shelf, A, "app:1", force=True)[1] == f"Deleted: {A}"
    shelf = Shelf({"app:1": A}, {A: None}, [User("f" * 64, A, running=True)])
    assert remove(shelf, A, "app:1", force=True) == ["Untagged: app:1"]
    assert A in shelf.parents


@pytest.mark.parametrize(
    ("shelf", "force", "message"),
    [
        (
            Shelf({"a:1": A, "b:1": A}, {A: None}),
            False,
            "(must be forced) - image is referenced in multiple repositories",
        ),
        (Shelf({}, {A: None, B: A}), True, "(cannot be forced) - image has dependent child images"),
        (
            Shelf({}, {A: None}, [User("f" * 64, A, running=True)]),
            True,
            "(cannot be forced) - image is being used by running container ffffffffffff",
        ),
        (
            Shelf({"a:1": A}, {A: None}, [User("f" * 64, A, running=False)]),
            False,
            "(must be forced) - image is being used by stopped container ffffffffffff",
        ),
    ],
)
def test_an_id_in_the_way_of_something_is_refused_in_dockers_words(shelf: Shelf, force: bool, message: str) -> None:
    before = dict(shelf.names)
    with pytest.raises(DeletionConflict) as caught:
        remove(shelf, A, "aaaa", force=force)
    assert str(caught.value) == f"conflict: unable to delete aaaaaaaaaaaa {message}"
    assert shelf.names == before
    assert A in shelf.parents


def test_an_id_takes_the_names_of_one_repository_and_with_force_all() -> None:
    shelf = Shelf({"app:1": A, f"app@{DIGEST}": A}, {A: None})
    assert remove(shelf, A, A) == ["Untagged: app:1", f"Untagged: app@{DIGEST}", f"Deleted: {A}", "Deleted: layer-of-a"]
    shelf = Shelf({"a:1": A, "b:1": A}, {A: None})
    assert remove(shelf, A, "sha256:aaaa", force=True)[:3] == ["Untagged: a:1", "Untagged: b:1", f"Deleted: {A}"]


def test_a_name_of_another_image_is_not_found() -> None:
    with pytest.raises(NotFound):
        remove(Shelf({"app:1": A}, {A: None}), A, "zzz:9")


@pytest.mark.parametrize(
    ("names", "single"),
    [
        ([], True),
        (["a:1"], True),
        (["a:1", "a:2"], False),
        (["a:1", f"a@{DIGEST}"], True),
        (["a:1", f"b@{DIGEST}"], False),
        ([f"a@{DIGEST}", f"b@{DIGEST}"], False),
    ],
)
def test_single_reference(names: list[str], single: bool) -> None:
    assert is_single_reference([parse_reference(name) for name in names]) is single


def test_prune_takes_what_has_no_tag_and_with_all_what_no_container_uses() -> None:
    def shelf() -> Shelf:
        users = [User("f" * 64, B, running=False)]
        return Shelf({"used:1": B, "idle:1": C}, {A: None, B: None, C: None}, users)

    pruned = prune_images(shelf(), [A, B, C], everything=False, keep=lambda _image: False)
    assert pruned == [Removed(deleted=A), Removed(deleted="layer-of-a")]
    pruned = prune_images(shelf(), [A, B, C], everything=True, keep=lambda _image: False)
    assert [step.deleted for step in pruned if step.deleted.startswith("sha256")] == [A, C]
    assert not prune_images(shelf(), [A, B, C], everything=True, keep=lambda _image: True)


def test_prune_leaves_the_steps_of_what_has_a_name() -> None:
    shelf = Shelf({"app:1": B}, {A: None, B: A})
    assert not prune_images(shelf, [A, B], everything=False, keep=lambda _image: False)


def test_prune_takes_an_image_that_has_only_digests() -> None:
    shelf = Shelf({f"app@{DIGEST}": A}, {A: None})
    steps = prune_images(shelf, [A], everything=False, keep=lambda _image: False)
    assert [str(step) for step in steps][:2] == [f"Untagged: app@{DIGEST}", f"Deleted: {A}"]
