"""What images and containers cost: shared and unique bytes, and the totals of ``system df``.

Sizes are those of the records, as Docker counts them; nothing is walked here but, where asked, writable layers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from lamella.model.digest import ChainID, ImageID
from lamella.store.imagedb import StoredImage
from lamella.store.layerdb import Layer


class ImageUsage(NamedTuple):
    """The bytes of one image: all of it, and the part that other images have too."""

    size: int
    shared: int

    @property
    def unique(self) -> int:
        """What removing the image would free."""
        return self.size - self.shared


def image_usage(images: Iterable[StoredImage], layers: Mapping[ChainID, Layer]) -> dict[ImageID, ImageUsage]:
    """Compute the usage of each image; a layer is shared if two images, intermediate ones included, have it."""
    stacks = {image.id: image.chains for image in images}
    users = Counter(chain for chains in stacks.values() for chain in chains)
    sizes = {chain: layers[chain].size for chain in users if chain in layers}
    return {
        image: ImageUsage(
            sum(sizes.get(chain, 0) for chain in chains),
            sum(sizes.get(chain, 0) for chain in chains if users[chain] > 1),
        )
        for image, chains in stacks.items()
    }


def layers_size(images: Iterable[StoredImage], layers: Mapping[ChainID, Layer]) -> int:
    """Return the bytes of all layers of ``images``, each layer once."""
    chains = {chain for image in images for chain in image.chains}
    return sum(layers[chain].size for chain in chains if chain in layers)
