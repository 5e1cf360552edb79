"""Loading images from an archive into the store: all of it or nothing.

The archive's format is recognised, its images planned, and the plans carried out in one transaction: layers from the
base up, then configs, then all references at once.  Layers that the store knows are not read, so an archive without
them loads too.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, NamedTuple

from lamella.errors import InvalidArgument
from lamella.model.digest import ChainID, ImageID, chain_id
from lamella.model.ids import short_id
from lamella.model.platform import Platform
from lamella.model.progress import Advanced, Finished, Reporter, Started, silent
from lamella.model.reference import Reference
from lamella.store.imagestore import ImageStore
from lamella.store.transactions import Transaction
from lamella.transports.archive import Members, open_members
from lamella.transports.plans import ImagePlan, LayerStream


class Loaded(NamedTuple):
    """An image that was loaded, and the references it was given."""

    id: ImageID
    references: tuple[Reference, ...]


def load(
    store: ImageStore,
    archive: Path | BinaryIO,
    *,
    platform: Platform | None = None,
    report: Reporter = silent,
) -> list[Loaded]:
    """Load all images of an archive: a docker-archive or OCI layout, plain or compressed, a file, stream or directory.

    Tags that exist move.  Durable on return; any error leaves the store as it was.
    """
    with store.root.transaction("load", ids=8) as tx, open_members(archive, spool=store.root.wip_dir) as members:
        plans = plan_images(members, platform=platform)
        tags = {reference.familiar(): plan.id for plan in plans for reference in plan.references}
        store.tags.check(tags)
        for plan in plans:
            _load_layers(store, plan, tx, report)
        for plan in plans:
            store.images.announce(plan.id, tx)
        tx.flush()
        for plan in plans:
            store.images.put(plan.raw, parent=plan.parent, tx=tx)
        store.commit(tx, tags)
    return [Loaded(plan.id, plan.references) for plan in plans]


def plan_images(members: Members, *, platform: Platform | None = None) -> list[ImagePlan]:
    """Recognise an archive's format and plan the load of its images."""
    from lamella.transports import docker_archive, oci_layout

    if members.exists(docker_archive.MANIFEST):
        return docker_archive.plan_images(members)
    if members.exists(oci_layout.INDEX):
        return oci_layout.plan_images(members, platform=platform)
    if members.exists("repositories"):
        raise InvalidArgument("the archive is of Docker before 1.10 (no manifest.json); save it again with a newer one")
    raise InvalidArgument(
        "the archive holds no image (neither manifest.json nor index.json); use import for a root filesystem"
    )


def _load_layers(store: ImageStore, plan: ImagePlan, tx: Transaction, report: Reporter) -> None:
    parent: ChainID | None = None
    for source, diff_id in zip(plan.layers, plan.config.diff_ids, strict=True):
        name = short_id(diff_id)
        chain = chain_id(parent, diff_id)
        if store.layers.lease(chain, tx) is not None:
            report(Finished(name, "Layer already exists"))
            parent = chain
            continue
        with LayerStream(source, f"layer blob of image {short_id(plan.id)}") as stream:
            report(Started(name, "Loading layer", source.size))
            store.layers.register(
                stream,  # type: ignore[arg-type]
                parent,
                tx=tx,
                expected=diff_id,
                advance=lambda amount, name=name: report(Advanced(name, amount)),  # type: ignore[misc]
            )
            stream.finish()
        report(Finished(name, "Loaded"))
        parent = chain
