"""References to images: parsing, normalising and shortening them as Docker does.

The grammar and the wording of refusals are those of distribution/reference, so that ``docker`` and lamella accept and
refuse the same names with the same words.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from lamella.errors import InvalidArgument
from lamella.model.digest import Digest, parse_digest

DEFAULT_DOMAIN = "docker.io"
DEFAULT_TAG = "latest"
_LEGACY_DOMAIN = "index.docker.io"
_OFFICIAL = "library/"
_PATH_LIMIT = 255

_COMPONENT = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_DOMAIN = rf"(?:{_COMPONENT}(?:\.{_COMPONENT})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_PATH_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_PATH = rf"{_PATH_COMPONENT}(?:/{_PATH_COMPONENT})*"
_TAG = r"\w[\w.-]{0,127}"
_DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"
_REFERENCE_RE = re.compile(rf"(?:({_DOMAIN})/)?({_PATH})(?::({_TAG}))?(?:@({_DIGEST}))?", re.ASCII)
_TAG_RE = re.compile(_TAG, re.ASCII)
_IDENTIFIER_RE = re.compile(r"[a-f0-9]{64}", re.ASCII)


class Reference(NamedTuple):
    """A normalised image name with a tag, a digest, both, or neither (then it names a repository)."""

    domain: str
    path: str
    tag: str | None = None
    digest: Digest | None = None

    def normalised_name(self) -> str:
        """Return the full repository name: ``docker.io/library/ubuntu``."""
        return f"{self.domain}/{self.path}"

    def familiar_name(self) -> str:
        """Return the repository name as people write it: ``ubuntu``."""
        if self.domain != DEFAULT_DOMAIN:
            return self.normalised_name()
        official = self.path.removeprefix(_OFFICIAL)
        return self.path if "/" in official else official

    def familiar(self) -> str:
        """Return the reference as ``repositories.json`` keys it; a digest takes the place of the tag."""
        return self.familiar_name() + (f"@{self.digest}" if self.digest else f":{self.tag}" if self.tag else "")

    def repository(self) -> Reference:
        """Return the reference without tag and digest."""
        return Reference(self.domain, self.path)

    def with_tag(self, tag: str) -> Reference:
        """Return the same repository under *tag*; a digest is dropped, since it named other content."""
        if _TAG_RE.fullmatch(tag) is None:
            raise InvalidArgument("invalid tag format")
        return Reference(self.domain, self.path, tag)

    def with_digest(self, digest: Digest) -> Reference:
        """Return the same repository at *digest*, without a tag."""
        return Reference(self.domain, self.path, None, digest)

    def __str__(self) -> str:  # type: ignore[explicit-override]  # override() came with Python 3.12
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.domain}/{self.path}{tag}" + (f"@{self.digest}" if self.digest else "")


def parse_reference(text: str) -> Reference:
    """Parse what a user typed (``ubuntu``, ``localhost:5000/a/b:1``) into a normalised reference."""
    if _IDENTIFIER_RE.fullmatch(text):
        raise InvalidArgument(f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings")
    domain, remainder = _split_domain(text)
    remote = remainder.partition(":")[0]
    if remote != remote.lower():
        raise InvalidArgument(f"invalid reference format: repository name ({remote}) must be lowercase")
    whole = f"{domain}/{remainder}"
    match = _REFERENCE_RE.fullmatch(whole)
    if match is None:
        if _REFERENCE_RE.fullmatch(whole.lower()):
            raise InvalidArgument("repository name must be lowercase")
        raise InvalidArgument("invalid reference format")
    found_domain, path, tag, digest = match.groups()
    if not found_domain:  # "Foo_bar/x": what stood in the place of a domain is none
        raise InvalidArgument("invalid reference format")
    if len(path) > _PATH_LIMIT:
        raise InvalidArgument("repository name must not be more than 255 characters")
    return Reference(found_domain, path, tag, parse_digest(digest) if digest else None)


def parse_tagged(text: str) -> Reference:
    """Parse a reference and add ``:latest`` if it has neither tag nor digest."""
    reference = parse_reference(text)
    if reference.tag is None and reference.digest is None:
        return reference.with_tag(DEFAULT_TAG)
    return reference


def parse_new_name(text: str) -> Reference:
    """Parse a name to be given to an image: ``:latest`` is added, and a digest, which is nobody's to give, refused."""
    reference = parse_tagged(text)
    if reference.digest is not None:
        raise InvalidArgument(f"refusing to create a tag with a digest reference: {text}")
    return reference


def _split_domain(text: str) -> tuple[str, str]:
    """Split off the registry; the first component is one if it could not be a Docker Hub user's name."""
    first, slash, rest = text.partition("/")
    if not slash:
        return DEFAULT_DOMAIN, _OFFICIAL + text
    if first == _LEGACY_DOMAIN:
        domain, path = DEFAULT_DOMAIN, rest
    elif first == "localhost" or "." in first or ":" in first or first != first.lower():
        domain, path = first, rest
    else:
        domain, path = DEFAULT_DOMAIN, text
    if domain == DEFAULT_DOMAIN and "/" not in path:
        path = _OFFICIAL + path
    return domain, path
