"""Which extended attributes travel in layers.

Layers come from strangers: only names that cannot change how the store itself reads a directory pass, in either
direction.  ``trusted.overlay.*`` and ``user.overlay.*`` are overlayfs's own language and never pass.
"""

from __future__ import annotations

from typing import Final

from lamella.changeset.whiteout import OVERLAY_PREFIXES

CAPABILITY: Final = b"security.capability"
_EXACT: Final = frozenset((CAPABILITY, b"system.posix_acl_access", b"system.posix_acl_default"))
# struct vfs_cap_data: the revision is the top byte of a little-endian word; revision 3 adds the root's uid.
_REVISION_OFFSET: Final = 3
_REVISION_2_SIZE: Final = 20


def travels(name: bytes) -> bool:
    """Tell whether an attribute may enter or leave a layer."""
    return name in _EXACT or (name.startswith(b"user.") and not name.startswith(OVERLAY_PREFIXES))


def portable(name: bytes, value: bytes) -> bytes:
    """Rewrite a capability of a user namespace (revision 3) to the plain form; other values are as they are."""
    if name == CAPABILITY and len(value) > _REVISION_2_SIZE and value[_REVISION_OFFSET] == 3:
        return value[:_REVISION_OFFSET] + b"\x02" + value[_REVISION_OFFSET + 1 : _REVISION_2_SIZE]
    return value
