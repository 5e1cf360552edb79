"""What a check of a store can find: the codes, how grave each is, and what healing does about it.

Codes are stable: scripts may compare them.  ``docs/fsck.md`` lists this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple


class Severity(StrEnum):
    """How grave a finding is."""

    ERROR = "error"
    """Something is lost or will not work."""
    WARNING = "warning"
    """Everything works, but something lies about that should not, or will go wrong later."""
    NOTE = "note"
    """Worth knowing; the store is sound."""


class Kind(NamedTuple):
    """What one code means."""

    severity: Severity
    meaning: str
    remedy: str
    """What ``--heal`` does; empty if that is nothing."""


_E, _W, _N = Severity.ERROR, Severity.WARNING, Severity.NOTE
_ASIDE = "moved to quarantine"
_RECOVERY = "undone or finished as the next command that writes would do"

CODES: Mapping[str, Kind] = MappingProxyType({
    # images
    "image-config-damaged": Kind(_E, "an image's config is not what its ID says", "fetched again, else the image goes to quarantine"),
    "image-layers-missing": Kind(_E, "a layer that an image needs has no record", "fetched again, else the image goes to quarantine, so that pulling it works"),
    "image-metadata-damaged": Kind(_W, "what is noted beside an image cannot be read", "derived again if that is certain, else moved to quarantine"),
    "image-parent-unknown": Kind(_W, "the parent noted for an image does not exist or leads in a circle", "the note is moved to quarantine"),
    "image-metadata-orphan": Kind(_W, "there are notes for an image that does not exist", _ASIDE),
    # references
    "references-damaged": Kind(_E, "the file of references cannot be read; dockerd would not start", "the readable references are kept, the old file is moved to quarantine"),
    "references-missing": Kind(_W, "there are images, but no file of references", "an empty file is made"),
    "reference-unknown-image": Kind(_W, "a name stands for an image that does not exist", "the name is removed and kept in the quarantine's record"),
    "reference-malformed": Kind(_W, "an entry of the references is no name, or stands under another repository", "the entry is removed and kept in the quarantine's record"),
    "distribution-damaged": Kind(_W, "a note on where a blob came from cannot be read or contradicts another", "moved to quarantine: it is a cache"),
    # layer records
    "layer-record-damaged": Kind(_E, "a layer's record cannot be read or belongs to another layer", "derived from the images, the directories and the layer's own files, else fetched again"),
    "layer-parent-missing": Kind(_E, "the layer below a layer has no record", "fetched again"),
    "layer-size-wrong": Kind(_W, "the size noted for a layer is not that of its files", "counted again"),
    "layer-tarsplit-damaged": Kind(_E, "the record from which a layer's tar is made again is missing or damaged", "made again if the files still give the same tar, else fetched again"),
    "layer-directory-missing": Kind(_E, "the directory with a layer's files is missing", "found again by what stands on it, else fetched again"),
    "layer-directory-shared": Kind(_E, "two layers claim the same directory", "the claim that does not fit is derived again"),
    "layer-unused": Kind(_W, "a layer that no image, container or other layer needs", _ASIDE),
    "layer-file-missing": Kind(_E, "a file of a layer is missing", "the layer is fetched again and swapped in"),
    "layer-file-changed": Kind(_E, "a file of a layer has another type, owner, mode, size or target than its tar says", "the layer is fetched again and swapped in"),
    "layer-file-extra": Kind(_W, "there is a file in a layer that its tar does not have", _ASIDE),
    "layer-blob-damaged": Kind(_E, "the packed tar that a layer was unpacked from is damaged", ""),
    "layer-content-damaged": Kind(_E, "a file of a layer has other bytes than it was stored with (--deep)", "the layer is fetched again and swapped in"),
    "layer-unreadable": Kind(_E, "the file system cannot read a layer", ""),
    # layer directories
    "link-damaged": Kind(_E, "the short name of a layer directory is missing or damaged", "derived from the entry that leads to it"),
    "short-name-missing": Kind(_E, "the link by which mounts find a layer is missing or leads elsewhere", "made again"),
    "short-name-left": Kind(_W, "a short name leads to no layer, or to one that goes by another", _ASIDE),
    "lower-wrong": Kind(_E, "a layer does not stand on the layers it should", "derived from the layer below"),
    "committed-missing": Kind(_W, "a layer that others stand on may be mounted for writing", "marked"),
    "committed-wrong": Kind(_E, "a container's own layer is marked read-only", "the mark is moved to quarantine"),
    "work-missing": Kind(_E, "a layer cannot be mounted for writing: its work directory is missing", "made again"),
    "directory-orphan": Kind(_W, "a layer directory that nothing names", _ASIDE),
    # containers
    "container-config-damaged": Kind(_E, "a container's record cannot be read, is another's, or lacks what dockerd needs to start", "rebuilt from what is certain, the old one is moved to quarantine"),
    "container-hostconfig-damaged": Kind(_E, "a container's host settings cannot be read", "replaced by the most confined settings, the old ones are moved to quarantine"),
    "container-name-taken": Kind(_W, "two containers have the same name", ""),
    "container-leftover": Kind(_W, "a directory of a container that was never finished or not wholly removed", _ASIDE),
    "container-layer-unknown": Kind(_E, "it is not known which writable layer is a container's", "derived if only one can be it, else the container goes to quarantine"),
    "container-layer-missing": Kind(_E, "a container's writable layer is gone", "the container goes to quarantine"),
    "container-init-missing": Kind(_E, "a container's init layer is gone", "made again"),
    "container-parent-wrong": Kind(_E, "the image layer noted below a container is not the one it stands on", "derived from its directories"),
    "mount-record-orphan": Kind(_W, "a writable layer of a container that does not exist", _ASIDE),
    # mounts
    "mount-stale": Kind(_W, "a mount that nobody uses", "unmounted"),
    "mount-point-left": Kind(_N, "an empty mount point that nobody uses", "removed"),
    # leftovers
    "write-set-left": Kind(_W, "the record of a layer that was never finished", _ASIDE),
    "removal-unfinished": Kind(_W, "a layer whose removal was begun", _ASIDE),
    "draft-left": Kind(_W, "a file that was never finished", _ASIDE),
    "unknown-file": Kind(_N, "something that belongs to no engine's layout", ""),
    "wrong-type": Kind(_E, "a link or a file stands where a directory is due, or the other way round", "moved to quarantine and made again, where that loses nothing"),
    # lamella's own
    "transaction-dead": Kind(_W, "an operation was begun and its process is gone", _RECOVERY),
    "transaction-damaged": Kind(_W, "the record of an operation cannot be read", _ASIDE),
    "holder-stale": Kind(_W, "a mount is held for a container or layer that does not exist", _RECOVERY),
    "unclean": Kind(_N, "a change of records did not end well", _RECOVERY),
    "own-file-damaged": Kind(_W, "a file of lamella's own cannot be read", "moved to quarantine: it can be made anew"),
    "quarantine-damaged": Kind(_W, "an entry of the quarantine has no readable record", ""),
    # other engines' stores
    "store-damaged": Kind(_E, "the engine's own records cannot be read", ""),
    "parent-missing": Kind(_E, "the layer below a layer is not in the store", ""),
    "store-layers-missing": Kind(_E, "an image or container names layers that are not in the store", ""),
})  # fmt: skip


class Finding(NamedTuple):
    """One thing that is not as it should be."""

    code: str
    path: str
    text: str
    """One plain sentence, without the final stop."""
    subject: tuple[str, ...] = ()
    """What healing needs to know: names of layers, directories, keys."""

    @property
    def severity(self) -> Severity:
        """How grave it is."""
        return CODES[self.code].severity

    @property
    def remedy(self) -> str:
        """What ``--heal`` would do, empty if nothing."""
        return CODES[self.code].remedy

    @property
    def key(self) -> tuple[str, str, tuple[str, ...]]:
        """What makes two findings the same one."""
        return self.code, self.path, self.subject

    def to_document(self) -> dict[str, object]:
        """Give the finding as data."""
        return {
            "code": self.code,
            "severity": str(self.severity),
            "path": self.path,
            "text": self.text,
            "remedy": self.remedy,
        }
