"""OCI image layouts, as a tar or a directory: ``index.json`` leads to manifests, these to configs and layers.

Every blob is checked against the descriptor that led to it, in size and digest.  The type of a document comes from its
descriptor, and the document may not say otherwise.
"""

from __future__ import annotations

from functools import partial

from lamella.errors import DataLoss, DigestMismatch, InvalidArgument, NotFound, Unsupported
from lamella.model.digest import Digest, digest_of, hex_of
from lamella.model.documents import CONFIG_LIMIT, MANIFEST_LIMIT, decode_object
from lamella.model.platform import Platform, host_platform
from lamella.model.reference import Reference, parse_reference, parse_tagged
from lamella.transports.archive import Members, read_member
from lamella.transports.manifests import Descriptor, check_layer, choose_manifest, parse_index, parse_manifest
from lamella.transports.plans import ImagePlan, LayerSource, plan_image

INDEX, LAYOUT = "index.json", "oci-layout"


def plan_images(members: Members, *, platform: Platform | None = None) -> list[ImagePlan]:
    """Plan the load of every image of a layout; of an index, the one for ``platform`` (this machine's if None).

    Raises InvalidArgument, DigestMismatch or DataLoss naming the document at fault, NotFound if nothing fits.
    """
    wanted = platform or host_platform()
    top = read_index(members)
    plans: dict[str, ImagePlan] = {}
    others: list[str] = []
    for descriptor in top:
        found = choose_manifest(
            descriptor,
            partial(read_document, members),
            wanted,
            others=others,
            strict=platform is not None or len(top) > 1,
            what=INDEX,
        )
        if found is None:
            continue
        plan = _plan(members, found, _references(descriptor, found))
        known = plans.get(plan.id)
        if known is not None:
            extra = tuple(reference for reference in plan.references if reference not in known.references)
            plan = known._replace(references=known.references + extra)
        plans[plan.id] = plan
    if not plans:
        has = f" (it has {', '.join(sorted(set(others)))})" if others else ""
        raise NotFound(f"the layout holds no image for {wanted}{has}")
    return list(plans.values())


def read_index(members: Members) -> list[Descriptor]:
    """Read a layout's ``index.json``: the descriptors of its images and indexes."""
    if members.exists(LAYOUT):
        layout = decode_object(read_member(members, LAYOUT, 4096), limit=4096, what=LAYOUT)
        version = layout.get("imageLayoutVersion")
        if not isinstance(version, str) or version.partition(".")[0] != "1":
            raise Unsupported(f"{LAYOUT}: layout version {version!r:.40} is not one lamella reads")
    return parse_index(read_member(members, INDEX, MANIFEST_LIMIT), INDEX, None)


def _plan(members: Members, descriptor: Descriptor, references: tuple[Reference, ...]) -> ImagePlan:
    what = f"manifest {descriptor.digest}"
    manifest = parse_manifest(read_document(members, descriptor), what, descriptor.media_type)
    raw = read_document(members, manifest.config, CONFIG_LIMIT)
    layers = []
    for layer in manifest.layers:
        check_layer(layer, what, foreign=True)
        layers.append(LayerSource(partial(members.open, blob_path(layer.digest)), layer.digest, layer.size))
    return plan_image(raw, tuple(layers), references)


def _references(*descriptors: Descriptor) -> tuple[Reference, ...]:
    found: list[Reference] = []
    for descriptor in descriptors:
        full = descriptor.annotations.get("io.containerd.image.name")
        short = descriptor.annotations.get("org.opencontainers.image.ref.name")
        text = full or (short if short and ("/" in short or ":" in short) else None)
        if text is None:
            continue  # a bare tag names nothing
        try:
            reference = parse_tagged(text) if full else parse_reference(text)
        except InvalidArgument as error:
            raise InvalidArgument(f"{INDEX}: name {text!r:.200}: {error}") from error
        if reference.digest is None and reference.tag is not None and reference not in found:
            found.append(reference)
    return tuple(found)


def blob_path(digest: Digest) -> str:
    """Return a blob's name in a layout."""
    return f"blobs/sha256/{hex_of(digest)}"


def read_document(members: Members, descriptor: Descriptor, limit: int = MANIFEST_LIMIT) -> bytes:
    """Read a small blob, checked against its descriptor."""
    if descriptor.size > limit:
        raise InvalidArgument(f"blob {descriptor.digest} is larger than {limit} bytes")
    raw = read_member(members, blob_path(descriptor.digest), limit)
    if len(raw) != descriptor.size:
        raise DataLoss(f"blob {descriptor.digest} has {len(raw)} bytes, its descriptor says {descriptor.size}")
    if (actual := digest_of(raw)) != descriptor.digest:
        raise DigestMismatch("blob of the layout", descriptor.digest, actual)
    return raw
