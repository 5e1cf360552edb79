"""The descriptors of an attached client; apart from ``containers`` because sockets are not for every command."""

from __future__ import annotations

from lamella.runtime.attach import Streams

__all__ = ["Streams"]
