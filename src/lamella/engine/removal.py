"""Docker's rules for removing images: what is only untagged, what is deleted, what stands in the way.

An image is more than its tags.  Removing a name deletes the image only with its last name; parents left without a name
go with it; an image that a container uses or another image was built from stays, and the error says which.  The doing
is left to the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from lamella.errors import Conflict, NotFound
from lamella.model.digest import ImageID
from lamella.model.ids import short_id
from lamella.model.reference import Reference, parse_tagged


class Removed(NamedTuple):
    """One thing that a removal did: a name taken away, or an image or layer deleted."""

    untagged: str = ""
    deleted: str = ""

    def __str__(self) -> str:  # type: ignore[explicit-override]  # override() came with Python 3.12
        return f"Untagged: {self.untagged}" if self.untagged else f"Deleted: {self.deleted}"


class User(NamedTuple):
    """A container, as far as removal cares."""

    id: str
    image: str
    running: bool


class Shelf(Protocol):
    """What the rules need of a store that is open for writing."""

    def references(self, image: ImageID) -> Sequence[Reference]:
        """Return the names of *image*."""
        ...

    def untag(self, reference: Reference) -> None:
        """Take one name away."""

    def children(self, image: ImageID) -> Sequence[ImageID]:
        """Return the images that were made from *image*."""
        ...

    def parent(self, image: ImageID) -> ImageID | None:
        """Return the image that *image* was made from, if it is here."""
        ...

    def users(self) -> Sequence[User]:
        """Return all containers."""
        ...

    def delete(self, image: ImageID) -> Iterable[str]:
        """Delete the image and the layers nothing else needs; return their chain IDs."""
        ...


class DeletionConflict(Conflict):
    """The image cannot be deleted; *hard* conflicts not even by force, *used* is by a container."""

    def __init__(self, image: ImageID, reason: str, *, hard: bool = False, used: bool = False) -> None:
        force = "cannot be forced" if hard else "must be forced"
        super().__init__(f"conflict: unable to delete {short_id(image)} ({force}) - {reason}")
        self.hard = hard
        self.used = used


def is_id_prefix(image: ImageID, text: str) -> bool:
    """Tell whether the user named the image by (the beginning of) its ID."""
    return image.startswith(text) or image.partition(":")[2].startswith(text)


def is_single_reference(references: Sequence[Reference]) -> bool:
    """Tell whether all *references* are one tag, plus digests in that tag's repository."""
    if len(references) <= 1:
        return True
    tags = [reference for reference in references if not reference.digest]
    if len(tags) > 1:
        return False
    single = tags[0] if tags else references[0]
    repositories = {reference.normalised_name() for reference in references if reference.digest}
    return repositories == {single.normalised_name()}


def remove_image(shelf: Shelf, image: ImageID, name: str, *, force: bool, prune: bool) -> list[Removed]:
    """Remove what the user called *name*, which resolved to *image*; raises Conflict before anything is changed."""
    removed: list[Removed] = []
    references = list(shelf.references(image))
    by_name = not is_id_prefix(image, name)
    if by_name:
        _refuse_last_name_in_use(shelf, image, name, references, force=force)
        _untag(shelf, _reference_named(name, references), removed)
        references = _drop_orphan_digests(shelf, shelf.references(image), name, removed)
        if references:
            return removed
    elif is_single_reference(references):
        check_conflict(shelf, image, soft=not force, references=False)
        for reference in references:
            _untag(shelf, reference, removed)
    _delete(shelf, image, removed, force=force, prune=prune, quiet=by_name)
    return removed


def check_conflict(shelf: Shelf, image: ImageID, *, soft: bool, references: bool = True) -> None:
    """Raise DeletionConflict if *image* must stay; *soft* reasons are those that force overrides."""
    if shelf.children(image):
        raise DeletionConflict(image, "image has dependent child images", hard=True)
    users = [user for user in shelf.users() if user.image == image]
    for user in users:
        if user.running:
            reason = f"image is being used by running container {short_id(user.id)}"
            raise DeletionConflict(image, reason, hard=True, used=True)
    if not soft:
        return
    if references and shelf.references(image):
        raise DeletionConflict(image, "image is referenced in multiple repositories")
    for user in users:
        raise DeletionConflict(image, f"image is being used by stopped container {short_id(user.id)}", used=True)


def prune_images(
    shelf: Shelf, images: Iterable[ImageID], *, everything: bool, keep: Callable[[ImageID], bool]
) -> list[Removed]:
    """Remove the images without a tag and, for *everything*, all that no container uses, sparing what *keep* says."""
    removed: list[Removed] = []
    for image in images:
        references = shelf.references(image)
        if (shelf.children(image) and not references) or keep(image):
            continue
        if any(not reference.digest for reference in references) and not everything:
            continue
        for name in [reference.familiar() for reference in references] or [image.partition(":")[2]]:
            try:
                removed += remove_image(shelf, image, name, force=False, prune=True)
            except (Conflict, NotFound):
                continue  # in use, or gone with another one: both are what pruning leaves alone
    return removed


def _refuse_last_name_in_use(
    shelf: Shelf, image: ImageID, name: str, references: Sequence[Reference], *, force: bool
) -> None:
    if force or not is_single_reference(references):
        return
    for user in shelf.users():
        if user.image == image:
            raise Conflict(
                f'conflict: unable to remove repository reference "{name}" (must force) - '
                f"container {short_id(user.id)} is using its referenced image {short_id(image)}"
            )


def _reference_named(name: str, references: Sequence[Reference]) -> Reference:
    wanted = parse_tagged(name)
    for reference in references:
        if reference == wanted or (
            wanted.digest and reference.digest == wanted.digest and reference.familiar_name() == wanted.familiar_name()
        ):
            return reference
    raise NotFound(f"No such image: {name}")


def _untag(shelf: Shelf, reference: Reference, removed: list[Removed]) -> None:
    shelf.untag(reference)
    removed.append(Removed(untagged=reference.familiar()))


def _drop_orphan_digests(
    shelf: Shelf, references: Sequence[Reference], name: str, removed: list[Removed]
) -> list[Reference]:
    """Untag the digests of a repository that lost its last tag on this image; return the names that are left."""
    gone = parse_tagged(name)
    here = [reference for reference in references if reference.normalised_name() == gone.normalised_name()]
    if gone.digest or any(not reference.digest for reference in here):
        return list(references)
    for reference in here:
        _untag(shelf, reference, removed)
    return [reference for reference in references if reference not in here]


def _delete(shelf: Shelf, image: ImageID, removed: list[Removed], *, force: bool, prune: bool, quiet: bool) -> None:
    while True:
        try:
            check_conflict(shelf, image, soft=not force)
        except DeletionConflict as conflict:
            dangling = not shelf.references(image) and not shelf.children(image)
            if quiet and (not dangling or conflict.used):
                return
            raise
        parent = shelf.parent(image)
        for reference in shelf.references(image):
            _untag(shelf, reference, removed)
        layers = shelf.delete(image)
        removed.append(Removed(deleted=image))
        removed += [Removed(deleted=chain) for chain in layers]
        if not prune or parent is None:
            return
        # The parent goes too if nothing but this image needed it: never by force, and without complaint if not.
        image, force, quiet = parent, False, True
