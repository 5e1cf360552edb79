"""The image after a step, whether it is in the store already or waits to be put there."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from lamella.model.digest import EMPTY_LAYER, ChainID, DiffID, ImageID, chain_ids, digest_of
from lamella.model.imageconfig import ContainerSettings, History, ImageConfig, encode_image_config
from lamella.model.platform import Platform

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Snapshot(NamedTuple):
    """An image; `id` None is ``scratch``."""

    id: ImageID | None
    config: ImageConfig

    @property
    def chain(self) -> ChainID | None:
        """Give the chain ID of the top layer, None if there is no layer."""
        chains = chain_ids(self.config.diff_ids)
        return chains[-1] if chains else None

    @property
    def platform(self) -> Platform:
        """Give what the image is made for."""
        return Platform(self.config.os or "linux", self.config.architecture, self.config.variant)


def scratch(platform: Platform) -> Snapshot:
    """Give the image without anything."""
    view = ImageConfig(architecture=platform.architecture, os=platform.os, variant=platform.variant)
    return Snapshot(None, view)


def stage_settings(base: Snapshot) -> ContainerSettings:
    """Give the settings with which a stage on `base` begins."""
    settings = base.config.config
    env = settings.env
    if not any(entry.startswith("PATH=") for entry in env):
        env = (*env, DEFAULT_PATH)
    return msgspec.structs.replace(settings, env=env, open_stdin=False, stdin_once=False, image=base.id or "")


def make_child(
    parent: Snapshot,
    *,
    settings: ContainerSettings,
    container: ContainerSettings,
    diff_id: DiffID,
    author: str,
    created: str,
) -> tuple[bytes, Snapshot]:
    """Make the config of a step's image, in the classic builder's shape; give its bytes and the image.

    A `diff_id` of ``EMPTY_LAYER`` adds no layer.
    """
    empty = diff_id == EMPTY_LAYER
    old = parent.config
    entry = History(
        created=created, author=author, created_by=" ".join(container.cmd or ()), empty_layer=empty
    )  # fmt: skip
    view = ImageConfig(
        architecture=old.architecture,
        os=old.os or "linux",
        variant=old.variant,
        os_version=old.os_version,
        os_features=old.os_features,
        created=created,
        author=author,
        config=settings,
        history=(*old.history, entry),
        diff_ids=old.diff_ids if empty else (*old.diff_ids, diff_id),
        container_config=container,
    )
    raw = encode_image_config(
        architecture=view.architecture,
        os=view.os,
        variant=view.variant,
        os_version=view.os_version,
        os_features=view.os_features,
        created=created,
        author=author,
        config=settings,
        history=view.history,
        diff_ids=view.diff_ids,
        container_config=container,
    )
    return raw, Snapshot(ImageID(digest_of(raw)), view)
