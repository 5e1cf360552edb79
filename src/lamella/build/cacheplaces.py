"""Where ``--cache-from`` and ``--cache-to`` look and write, and the form in which a cache travels.

A cache is an OCI index with one image manifest for each step, that of the build's result first; each names the config
and the layers of the image that the step left, as that image would be pushed.  The index bears the annotation
``FORMAT``, and each of its entries in ``PARENT`` the ID of the image that the step stands on, empty for ``scratch``.
So a reader needs the index alone to know which few configs can follow an image, and no layer before it wants its
files.
"""

from __future__ import annotations

from typing import NamedTuple

from lamella.build.fields import parse_fields, split_fields
from lamella.changeset.compression import Compression
from lamella.errors import InvalidArgument, Unsupported
from lamella.model.reference import parse_tagged

FORMAT = "io.lamella.build.cache"
VERSION = "1"
PARENT = "io.lamella.build.cache.parent"
_PACKINGS = {"uncompressed": Compression.NONE, "gzip": Compression.GZIP, "zstd": Compression.ZSTD}
_DEFAULT_NAME = "latest"


class CachePlace(NamedTuple):
    """One place."""

    type: str
    """``image`` (of the store, else of a registry), ``registry``, ``local`` or ``inline``."""
    place: str = ""
    """A reference, or a directory."""
    name: str = ""
    """The name in a directory's index."""
    every_stage: bool = False
    """Whether the steps of all stages are written, not those of the result alone."""
    compression: Compression = Compression.GZIP
    ignore_error: bool = False
    """Whether a cache that cannot be written is a warning."""

    def __str__(self) -> str:  # type: ignore[explicit-override]
        return self.place or self.type


def parse_cache_from(text: str) -> CachePlace:
    """Parse one ``--cache-from``: an image, ``type=registry,ref=…`` or ``type=local,src=…``."""
    whole = split_fields(text, "cache-from")
    if len(whole) == 1 and "=" not in text:
        return CachePlace("image", parse_tagged(text).familiar())
    fields = parse_fields(text, "cache-from")
    match fields.type:
        case "registry":
            fields.only("ref")
            return CachePlace("registry", parse_tagged(fields.needed("ref")).familiar())
        case "local":
            fields.only("src", "tag")
            return CachePlace("local", fields.needed("src"), fields.attributes.get("tag", _DEFAULT_NAME))
        case _:
            raise Unsupported(f"{text}: a cache comes from type=registry or local, not {fields.type!r:.40}")


def parse_cache_to(text: str) -> CachePlace:
    """Parse one ``--cache-to``: ``type=registry,ref=…``, ``type=local,dest=…`` or ``type=inline``, ``mode=min|max``.

    ``type=inline`` writes nothing: an image's own history is a cache wherever the image goes.
    """
    whole = split_fields(text, "cache-to")
    if len(whole) == 1 and "=" not in text:
        text = f"type=registry,ref={parse_tagged(text).familiar()}"
    fields = parse_fields(text, "cache-to")
    shared = ("mode", "compression", "ignore-error")
    every_stage = fields.choice("mode", ("min", "max"), default="min") == "max"
    compression = _PACKINGS[fields.choice("compression", _PACKINGS, default="gzip")]
    ignore_error = fields.boolean("ignore-error")
    match fields.type:
        case "registry":
            fields.only("ref", *shared)
            reference = parse_tagged(fields.needed("ref"))
            if reference.digest is not None:
                raise InvalidArgument(f"{text}: a cache is written under a tag, not a digest")
            return CachePlace("registry", reference.familiar(), "", every_stage, compression, ignore_error)
        case "local":
            fields.only("dest", "tag", *shared)
            name = fields.attributes.get("tag", _DEFAULT_NAME)
            return CachePlace("local", fields.needed("dest"), name, every_stage, compression, ignore_error)
        case "inline":
            fields.only(*shared)
            if every_stage:
                raise InvalidArgument(f"{text}: an image holds its own steps only; mode=max needs another type")
            return CachePlace("inline")
        case _:
            raise Unsupported(f"{text}: a cache goes to type=registry, local or inline, not {fields.type!r:.40}")
