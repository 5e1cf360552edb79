"""lamella: a container image store and runner on Docker's own overlay2 layout, without a daemon.

::

    import lamella

    with lamella.Store.open("/var/lib/lamella") as store:
        image = store.image("ubuntu:latest")
        for layer in image.layers():
            print(layer.diff_id, layer.size, layer.directory)
        with image.mount() as root:
            print((root / "etc/os-release").read_text())

Everything public stands in this table and is loaded on first use.  All work needs root.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamella._version import __version__ as __version__
    from lamella.engine.builds import RunLimits as RunLimits
    from lamella.engine.checking import CheckedDockerfile as CheckedDockerfile
    from lamella.engine.checking import Finding as Finding
    from lamella.engine.checking import check_dockerfile as check_dockerfile
    from lamella.engine.containers import Container as Container
    from lamella.engine.containers import Output as Output
    from lamella.engine.images import Image as Image
    from lamella.engine.keeping import check_store as check_store
    from lamella.engine.keeping import heal_store as heal_store
    from lamella.engine.keeping import reclaim_store as reclaim_store
    from lamella.engine.layers import Layer as Layer
    from lamella.engine.ledger import Policy as Policy
    from lamella.engine.ledger import read_ledger as read_ledger
    from lamella.engine.looking import Look as Look
    from lamella.engine.looking import look as look
    from lamella.engine.looking import why as why
    from lamella.engine.options import ContainerOptions as ContainerOptions
    from lamella.engine.registries import CopiedImage as CopiedImage
    from lamella.engine.registries import PulledImage as PulledImage
    from lamella.engine.registries import PushedImage as PushedImage
    from lamella.engine.registries import Registries as Registries
    from lamella.engine.registries import RegistrySettings as RegistrySettings
    from lamella.engine.registries import copy_image as copy_image
    from lamella.engine.removal import Removed as Removed
    from lamella.engine.store import Store as Store
    from lamella.engine.streams import Streams as Streams
    from lamella.engine.transfer import Loaded as Loaded
    from lamella.engine.views.image import HistoryStep as HistoryStep
    from lamella.errors import AlreadyExists as AlreadyExists
    from lamella.errors import BuildFailed as BuildFailed
    from lamella.errors import Cancelled as Cancelled
    from lamella.errors import CommandNotExecutable as CommandNotExecutable
    from lamella.errors import CommandNotFound as CommandNotFound
    from lamella.errors import Conflict as Conflict
    from lamella.errors import DataLoss as DataLoss
    from lamella.errors import DigestMismatch as DigestMismatch
    from lamella.errors import InUse as InUse
    from lamella.errors import InvalidArgument as InvalidArgument
    from lamella.errors import LamellaError as LamellaError
    from lamella.errors import NotFound as NotFound
    from lamella.errors import PermissionDenied as PermissionDenied
    from lamella.errors import StartFailed as StartFailed
    from lamella.errors import Unauthorized as Unauthorized
    from lamella.errors import Unavailable as Unavailable
    from lamella.errors import Unsupported as Unsupported

_PUBLIC = {
    "AlreadyExists": "lamella.errors",
    "BuildFailed": "lamella.errors",
    "Cancelled": "lamella.errors",
    "CheckedDockerfile": "lamella.engine.checking",
    "CommandNotExecutable": "lamella.errors",
    "CommandNotFound": "lamella.errors",
    "Conflict": "lamella.errors",
    "Container": "lamella.engine.containers",
    "ContainerOptions": "lamella.engine.options",
    "CopiedImage": "lamella.engine.registries",
    "DataLoss": "lamella.errors",
    "DigestMismatch": "lamella.errors",
    "Finding": "lamella.engine.checking",
    "HistoryStep": "lamella.engine.views.image",
    "Image": "lamella.engine.images",
    "InUse": "lamella.errors",
    "InvalidArgument": "lamella.errors",
    "LamellaError": "lamella.errors",
    "Layer": "lamella.engine.layers",
    "Loaded": "lamella.engine.transfer",
    "Look": "lamella.engine.looking",
    "NotFound": "lamella.errors",
    "Output": "lamella.engine.containers",
    "PermissionDenied": "lamella.errors",
    "Policy": "lamella.engine.ledger",
    "PulledImage": "lamella.engine.registries",
    "PushedImage": "lamella.engine.registries",
    "Registries": "lamella.engine.registries",
    "RegistrySettings": "lamella.engine.registries",
    "Removed": "lamella.engine.removal",
    "RunLimits": "lamella.engine.builds",
    "StartFailed": "lamella.errors",
    "Store": "lamella.engine.store",
    "Streams": "lamella.engine.streams",
    "Unauthorized": "lamella.errors",
    "Unavailable": "lamella.errors",
    "Unsupported": "lamella.errors",
    "__version__": "lamella._version",
    "check_dockerfile": "lamella.engine.checking",
    "check_store": "lamella.engine.keeping",
    "copy_image": "lamella.engine.registries",
    "heal_store": "lamella.engine.keeping",
    "look": "lamella.engine.looking",
    "read_ledger": "lamella.engine.ledger",
    "reclaim_store": "lamella.engine.keeping",
    "why": "lamella.engine.looking",
}


def __getattr__(name: str) -> object:
    module = _PUBLIC.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(_PUBLIC)
