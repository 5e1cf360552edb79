"""``--cache-to``: the steps of a build into a registry or a directory, for other stores to build on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

from lamella.build.cacheplaces import FORMAT, PARENT, VERSION, CachePlace
from lamella.errors import DataLoss, InvalidArgument, LamellaError, NotFound
from lamella.model.digest import DiffID, Digest, ImageID, digest_of
from lamella.model.gojson import encode
from lamella.model.progress import Reporter, silent
from lamella.model.reference import Reference, parse_tagged
from lamella.store.imagedb import StoredImage
from lamella.store.imagestore import ImageStore
from lamella.transports.copytargets import Destination, LayoutDestination, RegistryDestination
from lamella.transports.manifests import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    layer_type,
    make_manifest,
    parse_index,
    parse_manifest,
    translate_to_oci,
)

Connect = Callable[[Reference, str], AbstractContextManager[Any]]
Layers = dict[DiffID, Descriptor]


def export_cache(
    store: ImageStore,
    place: CachePlace,
    images: Sequence[ImageID],
    *,
    connect: Connect | None,
    parallel: int = 3,
    report: Reporter = silent,
) -> Digest | None:
    """Write the steps that led to *images*, the result first, and return the digest of the index.

    None if no step is known.  What the place has is not sent again.  A directory holds the new cache, or as before the
    old one, whole.
    """
    if place.type == "inline":
        return None
    steps = _collect_steps(store, images)
    if not steps:
        return None
    leaves = _leaves(steps)
    with ExitStack() as scope:
        if place.type == "local":
            directory = Path(place.place)
            directory.mkdir(parents=True, exist_ok=True)
            target: Destination = LayoutDestination(directory, place.name)
            layers = _write_layers(store, leaves, target, place, _known_layers(place))
        else:
            if connect is None:
                raise InvalidArgument("a cache in a registry needs a way to reach registries")
            from lamella.transports.pushing import push_layers

            reference = parse_tagged(place.place)
            client = scope.enter_context(connect(reference, "pull,push"))
            target = RegistryDestination(client, reference, None)
            layers = {}
            for leaf in leaves:
                layers |= push_layers(
                    store, client, reference, leaf.id, compression=place.compression, parallel=parallel, report=report
                )
        return _write_index(steps, layers, target)


def _collect_steps(store: ImageStore, images: Sequence[ImageID]) -> list[StoredImage]:
    """Give the images and the steps before them, each once, later before earlier; bases are left out."""
    found: dict[ImageID, StoredImage] = {}
    for wanted in images:
        current: ImageID | None = wanted
        while current is not None and current not in found:
            try:
                image = store.images.find(current)
            except DataLoss as error:
                store.root.report(str(error))
                break
            if image is None or not image.built_locally or image.config.container_config is None:
                break
            if not store.is_usable(image):
                break
            found[current] = image
            current = image.parent
    return list(found.values())


def _leaves(steps: Sequence[StoredImage]) -> list[StoredImage]:
    """Give those whose layers are not all among those of a later step."""
    parents = {step.parent for step in steps}
    return [step for step in steps if step.id not in parents]


def _write_layers(
    store: ImageStore, leaves: Sequence[StoredImage], target: Destination, place: CachePlace, known: Layers
) -> Layers:
    """Write each layer once; one that an earlier cache in the same directory has is not packed again."""
    from lamella.transports.packing import pack_layer

    done: Layers = {}
    for leaf in leaves:
        for layer in store.layers.stack(leaf.top):
            if layer.diff_id in done:
                continue
            before = known.get(layer.diff_id)
            if before is not None and target.has_blob(before):
                done[layer.diff_id] = before
                continue
            packed = pack_layer(store, layer, place.compression)
            try:
                blob = Descriptor(layer_type(place.compression), packed.digest, packed.size)
                if not target.has_blob(blob):
                    target.put_blob(blob, packed.chunks)
            finally:
                packed.close()
            done[layer.diff_id] = blob
    return done


def _known_layers(place: CachePlace) -> Layers:
    """Read how layers were packed for the cache that a directory has already; nothing if it makes no sense."""
    from lamella.model.documents import CONFIG_LIMIT
    from lamella.model.imageconfig import decode_image_config
    from lamella.transports.archive import open_members
    from lamella.transports.copysources import open_layout
    from lamella.transports.manifests import packing_of
    from lamella.transports.oci_layout import read_document

    found: Layers = {}
    try:
        with open_members(Path(place.place), spool=Path("/var/tmp")) as members:
            top = open_layout(members, place.name).get_manifest("")
            for item in parse_index(top.raw, "cache", top.media_type):
                manifest = parse_manifest(read_document(members, item), f"manifest {item.digest}", item.media_type)
                config = decode_image_config(read_document(members, manifest.config, CONFIG_LIMIT))
                for diff_id, layer in zip(config.diff_ids, manifest.layers, strict=False):
                    if packing_of(layer.media_type) is place.compression:
                        found[diff_id] = layer
    except (LamellaError, OSError):
        return {}
    return found


def _write_index(steps: Sequence[StoredImage], layers: Layers, target: Destination) -> Digest:
    """Write configs and manifests, then the index that makes them a cache."""
    entries: list[dict[str, object]] = []
    for step in steps:
        config = Descriptor(OCI_CONFIG, step.id, len(step.raw))
        if not target.has_blob(config):
            target.put_blob(config, lambda raw=step.raw: iter([raw]))  # type: ignore[misc]
        try:
            described = [layers[diff_id] for diff_id in step.config.diff_ids]
        except KeyError as error:
            raise NotFound(f"layer {error} of step {step.id} is in none of the images that were written") from error
        raw, media_type = translate_to_oci(*make_manifest(step.id, len(step.raw), described), "manifest", {})
        target.put_manifest(raw, media_type, top=False)
        entries.append(
            {
                **Descriptor(OCI_MANIFEST, digest_of(raw), len(raw)).document(),
                "platform": _platform(step),
                "annotations": {PARENT: step.parent or ""},
            }
        )
    index = encode(
        {
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": entries,
            "annotations": {FORMAT: VERSION},
        }
    )
    target.put_manifest(index, OCI_INDEX, top=True)
    target.finish()
    return digest_of(index)


def _platform(step: StoredImage) -> dict[str, str]:
    config = step.config
    platform = {"architecture": config.architecture, "os": config.os or "linux"}
    if config.variant:
        platform["variant"] = config.variant
    return platform
