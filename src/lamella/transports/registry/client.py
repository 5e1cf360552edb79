"""The distribution-spec's calls for one repository: manifests, blobs, tags.

What is returned is verified as far as one call can: a manifest is the bytes of its digest, a blob has its size.
Mirrors of Docker Hub are asked first and may fail in any way; the registry itself has the last word.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

from lamella.errors import Cancelled, DigestMismatch, InvalidArgument, LamellaError, Unavailable
from lamella.model.digest import Digest, digest_of, parse_digest
from lamella.model.documents import MANIFEST_LIMIT, decode_object
from lamella.model.reference import Reference
from lamella.transports.registry.download import BlobStream, Download, Part, RangeRefused, Sink, SinkFailed, open_part
from lamella.transports.registry.hosts import Location, parse_location, plan_endpoints
from lamella.transports.registry.http import Answer, Body, Fault
from lamella.transports.registry.keychain import Keychain
from lamella.transports.registry.session import Session
from lamella.transports.registry.settings import RegistrySettings
from lamella.transports.registry.upload import Upload, find_size, mount

T = TypeVar("T")

MOST_TAGS = 10_000
MOST_PAGES = 100
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_NEXT = re.compile(r"""<([^>]*)>\s*;[^,]*\brel="?next"?""")
_SCHEMA1 = frozenset(
    {
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
        "application/json",
    }
)
_ACCEPT = (
    "application/vnd.oci.image.index.v1+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, "
    "application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.docker.distribution.manifest.v2+json"
)


class Fetched(NamedTuple):
    """A manifest or index as served."""

    raw: bytes
    media_type: str
    digest: Digest


class RegistryClient:
    """Speaks to the registry of *reference* about its repository; thread-safe; to be closed.

    *actions* is ``pull`` or ``pull,push``: what a token is asked for.
    """

    def __init__(
        self, reference: Reference, *, settings: RegistrySettings, keychain: Keychain, actions: str = "pull"
    ) -> None:
        self._repository = reference.path
        self._settings = settings
        scopes = (f"repository:{reference.path}:{actions}",)
        self._sessions = [
            Session(endpoint, reference.path, settings=settings, keychain=keychain, scopes=scopes)
            for endpoint in plan_endpoints(reference, settings, pull=actions == "pull")
        ]
        self._own = self._sessions[-1]
        # What was dropped may still be in use by another thread.
        self._dropped: set[Session] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def get_manifest(self, tag_or_digest: str) -> Fetched:
        """Fetch a manifest or index of at most 4 MiB and hash it.

        Raises DigestMismatch if it was asked for by a digest, or comes under one, that it has not.
        """
        wanted = _manifest_name(tag_or_digest)

        def ask(session: Session) -> Fetched:
            what = f"manifest {tag_or_digest}"

            def read(answer: Answer) -> Fetched:
                raw = answer.read_all(MANIFEST_LIMIT, f"{what} of {session.where}")
                media_type = answer.header("Content-Type").partition(";")[0].strip().lower()
                claimed = answer.header("Docker-Content-Digest").strip() if media_type not in _SCHEMA1 else ""
                digest = digest_of(raw)
                if wanted is not None and digest != wanted:
                    raise DigestMismatch(f"{what} of {session.where}", wanted, digest)
                # What a header says proves nothing, but a body that is not what it says was damaged on its way.
                if claimed.startswith("sha256:") and claimed != digest:
                    raise DigestMismatch(f"{what} of {session.where}", claimed[:71], digest)
                return Fetched(raw, media_type, digest)

            location = session.location(f"manifests/{tag_or_digest}")
            return session.request("GET", location, read, what=what, headers={"Accept": _ACCEPT})

        return self._first(ask)

    @contextmanager
    def open_blob(
        self, digest: Digest, *, size: int | None, offset: int = 0, end: int | None = None
    ) -> Generator[BlobStream]:
        """Open a blob, or its part from *offset* to before *end*, for reading once; only the opening is retried.

        See whether the stream is ``ranged``: a server that knows no ranges gives the blob from its beginning.
        """
        part = Part(parse_digest(digest), size, offset, end)

        def ask(session: Session) -> BlobStream:
            attempts = session.attempts()
            whole = False
            while True:
                try:
                    return open_part(session, part, whole=whole)
                except Fault as fault:
                    whole = whole or isinstance(fault, RangeRefused)
                    attempts.failed(fault)

        stream = self._first(ask)
        try:
            yield stream
        finally:
            stream.close()

    def serves_ranges(self, digest: Digest, *, size: int) -> bool:
        """Tell whether parts of a blob can be had: the server is asked for its first byte."""
        with self.open_blob(digest, size=size, end=1) as stream:
            return stream.ranged

    def read_blob(
        self, digest: Digest, *, size: int | None, sink: Sink, offset: int = 0, end: int | None = None
    ) -> int:
        """Deliver a blob from *offset* on to *sink*, in order and at most up to *size*; return how many bytes it were.

        Broken transfers are resumed by Range, or by skipping where a server knows none.  The caller hashes.  What the
        sink raises ends the transfer and passes through.
        """
        download = Download(Part(parse_digest(digest), size, offset, end), sink)
        try:
            self._first(download.run)
        except SinkFailed as failure:
            raise failure.problem from failure.problem.__cause__
        return download.position - offset

    def has_blob(self, digest: Digest) -> int | None:
        """Return the size of a blob that the repository has, None if it has not."""
        return find_size(self._own, parse_digest(digest))

    def mount_blob(self, digest: Digest, from_repository: str) -> bool:
        """Have a blob of another repository appear in this one; False if the registry would not."""
        from lamella.model.reference import parse_reference

        # It becomes a part of a URL and of a scope.
        parse_reference(f"localhost/{from_repository}")
        return mount(self._own, parse_digest(digest), from_repository)

    def upload_blob(self, digest: Digest, size: int, chunks: Callable[[], Iterator[bytes]]) -> None:
        """Send a blob of *size* bytes; *chunks* yields them from the start each time it is called."""
        Upload(self._own, parse_digest(digest), size, chunks, chunk=self._settings.upload_chunk).run()

    def put_manifest(self, tag_or_digest: str, raw: bytes, media_type: str) -> Digest:
        """Store a manifest under a tag or its digest and return the digest.  Raises DigestMismatch if it is another."""
        wanted = _manifest_name(tag_or_digest)
        digest = digest_of(raw)
        if wanted is not None and wanted != digest:
            raise DigestMismatch(f"manifest for {self._own.where}", wanted, digest)
        what = f"manifest {tag_or_digest}"

        def read(answer: Answer) -> Digest:
            claimed = answer.header("Docker-Content-Digest").strip()
            answer.discard()
            if claimed.startswith("sha256:") and claimed != digest:
                raise DigestMismatch(f"{what} as {self._own.where} stored it", digest, claimed[:71])
            return digest

        return self._own.request(
            "PUT",
            self._own.location(f"manifests/{tag_or_digest}"),
            read,
            what=what,
            headers={"Content-Type": media_type},
            body=Body.of(raw),
            expected=frozenset({200, 201, 202}),
        )

    def list_tags(self) -> list[str]:
        """Return the repository's tags.  Raises InvalidArgument beyond 10,000 tags or 100 pages."""
        return self._first(self._list_tags)

    def ping(self) -> None:
        """See that the registry speaks the protocol and takes the credentials, for ``login``."""

        def read(answer: Answer) -> None:
            answer.discard()

        self._own.request("GET", self._own.root(), read, what="the registry's API", scopes=())

    def drop_mirrors(self) -> bool:
        """Ask no mirror any more, since one may have served what is wrong; tell whether there were any left."""
        mirrors = [session for session in self._sessions if session is not self._own]
        self._drop(*mirrors)
        return bool(mirrors)

    def close(self) -> None:
        """Cut all transfers under way, which end with Cancelled, and let go of all connections."""
        with self._lock:
            sessions = [*self._sessions, *self._dropped]
        for session in sessions:
            session.close()

    def _first(self, ask: Callable[[Session], T]) -> T:
        """Return what the first endpoint that can answer says; the errors of mirrors are for nobody to read."""
        for session in list(self._sessions):
            try:
                return ask(session)
            except Cancelled:
                raise
            except LamellaError as problem:
                if session is self._own:
                    raise
                if isinstance(problem, Unavailable):
                    # Once is enough to find a mirror dead.
                    self._drop(session)
        raise AssertionError

    def _drop(self, *sessions: Session) -> None:
        with self._lock:
            self._sessions = [each for each in self._sessions if each not in sessions]
            self._dropped.update(sessions)

    def _list_tags(self, session: Session) -> list[str]:
        what = f"tags of {session.where}"
        tags: dict[str, None] = {}
        location: Location | None = session.location("tags/list").with_query("n=1000")
        for _ in range(MOST_PAGES):
            if location is None:
                return list(tags)
            here = location

            def read(answer: Answer, here: Location = here) -> Location | None:
                tags.update(dict.fromkeys(_tags(answer.read_all(MANIFEST_LIMIT, what), what)))
                match = _NEXT.search(answer.header("Link"))
                return parse_location(match[1], base=here, what=what) if match else None

            location = session.request("GET", here, read, what="the list of tags")
            if len(tags) > MOST_TAGS:
                raise InvalidArgument(f"{what}: more than {MOST_TAGS}; name the tags wanted")
            if location is not None and location.origin != here.origin:
                raise InvalidArgument(f"{what}: go on at {location.shown}, another host, which is refused")
        raise InvalidArgument(f"{what}: more than {MOST_PAGES} pages; name the tags wanted")


def _tags(raw: bytes, what: str) -> list[str]:
    tags = decode_object(raw, limit=MANIFEST_LIMIT, what=what).get("tags")
    if tags is None:
        return []
    if not isinstance(tags, list):
        raise InvalidArgument(f"{what}: not a list")
    for tag in tags:
        if not isinstance(tag, str) or _TAG.fullmatch(tag) is None:
            raise InvalidArgument(f"{what}: {str(tag)[:60]!r} is not a tag")
    return tags


def _manifest_name(text: str) -> Digest | None:
    """Check what will be part of a URL; return the digest if it is one."""
    if ":" in text:
        return parse_digest(text)
    if _TAG.fullmatch(text) is None:
        raise InvalidArgument("invalid tag format")
    return None
