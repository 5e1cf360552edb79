"""Finding one thing in a store whose catalogue is read whole anyway."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

from lamella.errors import InvalidArgument, NotFound
from lamella.model.digest import PREFIX
from lamella.readers.base import ContainerRecord, ImageRecord, StoredLayer

_Record = TypeVar("_Record", ImageRecord, ContainerRecord)


class _Catalogue(Protocol):
    """What a reader has to have."""

    def images(self) -> Sequence[ImageRecord]: ...

    def containers(self) -> Sequence[ContainerRecord]: ...

    def layers(self) -> Mapping[str, StoredLayer]: ...


class WholeCatalogue:
    """The narrow half of ``StoreReader`` on top of the other half, which a subclass has."""

    def find_image(self: _Catalogue, name: str) -> ImageRecord:
        """Return one image by reference, or by the beginning of its ID or of the digest it was pulled under."""
        from lamella.model.reference import parse_tagged

        refusal: InvalidArgument | None = None
        try:
            wanted = parse_tagged(name).familiar()
        except InvalidArgument as error:
            wanted, refusal = "", error
        images = self.images()
        # Podman and Buildah put what they make under "localhost", and find it without.
        for candidate in (wanted, f"localhost/{wanted}"):
            for image in images:
                if candidate in image.names or candidate in image.digests:
                    return image
        found = _by_prefix(name, images, _image_ids)
        if found is not None:
            return found
        if refusal is not None and not name.startswith(PREFIX) and len(name) != 64:
            raise refusal
        raise NotFound(f"No such image: {name}")

    def find_container(self: _Catalogue, name: str) -> ContainerRecord:
        """Return one container by its full ID, its name or the beginning of its ID."""
        containers = self.containers()
        wanted = name.removeprefix("/")
        named = [item for item in containers if item.id == name] + [item for item in containers if item.name == wanted]
        if named:
            return named[0]
        found = _by_prefix(name, containers, lambda item: (item.id,))
        if found is None:
            raise NotFound(f"No such container: {name}")
        return found

    def find_layer(self: _Catalogue, id: str) -> StoredLayer | None:  # noqa: A002  (the vocabulary's word)
        """Return one layer by its id."""
        return self.layers().get(id)

    def find_layer_by_directory(self: _Catalogue, directory_id: str) -> StoredLayer | None:
        """Return the layer whose directory has this name."""
        return next((layer for layer in self.layers().values() if layer.directory_id == directory_id), None)


def _image_ids(image: ImageRecord) -> Iterable[str]:
    yield image.id.removeprefix(PREFIX)
    for reference in image.digests:
        yield reference.rpartition("@")[2].removeprefix(PREFIX)


def _by_prefix(text: str, records: Sequence[_Record], ids: Callable[[_Record], Iterable[str]]) -> _Record | None:
    digits = text.removeprefix(PREFIX)
    if not digits:
        return None
    found = [record for record in records if any(one.startswith(digits) for one in ids(record))]
    if len(found) > 1:
        raise InvalidArgument(f"{text} is ambiguous: {len(found)} IDs begin with it; give more digits")
    return found[0] if found else None
