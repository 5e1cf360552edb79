"""References: ``repositories.json``, which maps Docker's familiar names to image IDs.

The file is Docker's to the byte: one object ``Repositories``, in it one object a repository, keyed by the full familiar
reference.  Entries that lamella cannot read are kept as they are, since Docker keeps them too.

Commit point: the rename of a new ``repositories.json``; one rename sets any number of references.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path

from lamella.errors import DataLoss, InvalidArgument, NotFound
from lamella.fs.atomic import write_file
from lamella.model.digest import ImageID, parse_digest
from lamella.model.documents import decode_document
from lamella.model.gojson import encode
from lamella.model.reference import Reference, parse_reference
from lamella.store.dataroot import DataRoot
from lamella.store.smallfiles import find_small, read_small

_LIMIT = 64 << 20
_Repositories = dict[str, dict[str, str]]


class Tags:
    """The references of one data-root."""

    def __init__(self, root: DataRoot) -> None:
        self._root = root
        self._path = root.repositories_path

    def read(self) -> dict[str, ImageID]:
        """Return every familiar reference (``ubuntu:latest``, ``a/b@sha256:…``) and its image ID.

        A broken file reads as empty, and is reported: images can still be listed by ID.
        """
        try:
            repositories = self._load()
        except DataLoss as error:
            self._root.report(str(error))
            return {}
        found: dict[str, ImageID] = {}
        for entries in repositories.values():
            for key, value in entries.items():
                try:
                    found[key] = ImageID(parse_digest(value))
                except InvalidArgument:
                    self._root.report(f"{self._path}: {key!r} points to {value[:80]!r}, which is no image ID")
        return found

    def find(self, reference: Reference) -> ImageID | None:
        """Return the image a reference stands for, or None."""
        return self.read().get(_key(reference))

    def references(self, id: ImageID) -> list[Reference]:  # noqa: A002  (the vocabulary's word)
        """Return an image's references, tags and digests, sorted."""
        return [parsed for key, image in sorted(self.read().items()) if image == id for parsed in _parsed(key)]

    def by_image(self) -> dict[ImageID, list[Reference]]:
        """Return all references by image, each list sorted."""
        found: dict[ImageID, list[Reference]] = {}
        for key, image in sorted(self.read().items()):
            found.setdefault(image, []).extend(_parsed(key))
        return found

    def set(self, reference: Reference, id: ImageID) -> None:  # noqa: A002  (the vocabulary's word)
        """Point one reference at an image, away from whatever it named; durable on return."""
        self.set_many({_key(reference): id})

    def set_many(self, references: Mapping[str, ImageID]) -> None:
        """Point familiar references at images by one rename; durable on return.

        Raises InvalidArgument for a repository named ``sha256`` or a reference without tag and digest, DataLoss if
        the present file cannot be read.
        """
        wanted = [(key, image, _repository(key)) for key, image in references.items()]
        with self._root.writing():
            repositories = self._load()
            changed = False
            for key, image, repository in wanted:
                entries = repositories.setdefault(repository, {})
                changed |= entries.get(key) != image
                entries[key] = image
            if changed or not self._path.exists():
                self._store(repositories)

    def check(self, references: Iterable[str]) -> None:
        """Raise what ``set_many`` would raise for these familiar references."""
        for key in references:
            _repository(key)
        self._load()

    def remove(self, *references: Reference) -> None:
        """Remove references by one rename; durable on return.  Raises NotFound if one does not exist."""
        with self._root.writing():
            repositories = self._load()
            for reference in references:
                repository, key = reference.familiar_name(), _key(reference)
                if repositories.get(repository, {}).pop(key, None) is None:
                    raise NotFound(f"no such reference: {reference.familiar()}")
                if not repositories[repository]:
                    del repositories[repository]
            self._store(repositories)

    def _load(self) -> _Repositories:
        raw = find_small(self._path, _LIMIT)
        if raw is None:
            return {}
        try:
            return _parse(decode_document(raw, limit=_LIMIT, what=self._path.name))
        except InvalidArgument as error:
            raise DataLoss(
                f"{self._path} is damaged ({error}); move it away to go on with untagged images, then tag them again"
            ) from error

    def _store(self, repositories: _Repositories) -> None:
        write_file(self._path, _encode(repositories), mode=0o600)


def shrunk_size(path: Path, images: Container[str]) -> int:
    """Return the length that the file *path* would have without the references of these images.

    Raises FileNotFoundError, InvalidArgument for a file that cannot be read.
    """
    repositories = _parse(decode_document(read_small(path, _LIMIT), limit=_LIMIT, what=path.name))
    left = {
        name: {key: value for key, value in entries.items() if value not in images}
        for name, entries in repositories.items()
    }
    return len(_encode({name: entries for name, entries in left.items() if entries or not repositories[name]}))


def _encode(repositories: _Repositories) -> bytes:
    document = {
        "Repositories": {
            name: dict(sorted(entries.items(), key=_bytewise))
            for name, entries in sorted(repositories.items(), key=_bytewise)
        }
    }
    return encode(document)


def _bytewise(item: tuple[str, object]) -> bytes:
    return item[0].encode("utf-8", "surrogatepass")


def _parse(document: object) -> _Repositories:
    table = document.get("Repositories") if isinstance(document, dict) else None
    if not isinstance(table, dict):
        raise InvalidArgument("there is no object Repositories in it")
    return {name: _entries(entries, name) for name, entries in table.items()}


def _entries(entries: object, name: str) -> dict[str, str]:
    if entries is None:
        return {}
    if not isinstance(entries, dict) or not all(isinstance(value, str) for value in entries.values()):
        raise InvalidArgument(f"repository {name!r:.100} is not an object of strings")
    return entries


def _key(reference: Reference) -> str:
    if reference.tag is None and reference.digest is None:
        raise InvalidArgument(f"{reference.familiar_name()} names a repository; add a tag")
    if reference.familiar_name() == "sha256":
        raise InvalidArgument("refusing to create a reference in a repository named sha256")
    return reference.familiar()


def _repository(key: str) -> str:
    parsed = parse_reference(key)
    _key(parsed)
    return parsed.familiar_name()


def _parsed(key: str) -> Iterator[Reference]:
    try:
        yield parse_reference(key)
    except InvalidArgument:
        return
