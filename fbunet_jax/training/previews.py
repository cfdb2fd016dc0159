"""Pictures of a fold on its way: learning curves, and some validation tiles in every round."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax import Array

from fbunet_jax import figures
from fbunet_jax.config import Config
from fbunet_jax.data.store import ImageStore, gather_crop
from fbunet_jax.models.contract import segment
from fbunet_jax.runs import FoldDirectory
from fbunet_jax.training.logs import read_records
from fbunet_jax.training.setup import FoldSetup


class FoldPictures:
    """Draws ``curves.png`` and the pictures in ``previews/`` of one fold."""

    def __init__(self, config: Config, setup: FoldSetup, directory: FoldDirectory) -> None:
        """Choose tiles spread over the validation part; nothing is drawn yet."""
        self._setup, self._directory, self._side = setup, directory, config.data.crop
        tiles = setup.validation.tiles
        count = min(config.training.previews, len(tiles))
        self._tiles = tiles[np.linspace(0, len(tiles) - 1, count).round().astype(int)] if count else tiles[:0]
        self._segment = jax.jit(self._segment_tiles)

    def draw(self, variables: Mapping[str, Any], validation_store: ImageStore, epoch: int) -> None:
        """Draw the curves of all records, and the tiles as the network sees them now."""
        names = self._setup.class_names
        train, validation = (read_records(self._directory.metrics, kind) for kind in ("train", "validation"))
        figures.draw_curves(self._directory.curves, train, validation, names)
        if len(self._tiles):
            image, label, rounds = jax.device_get(self._segment(variables, validation_store, self._tiles))
            path = self._directory.previews / f"epoch_{epoch:05d}.png"
            figures.draw_previews(path, image, label, rounds, names)

    def _segment_tiles(
        self, variables: Mapping[str, Any], store: ImageStore, tiles: Array
    ) -> tuple[Array, Array, Array]:
        """Return image, label and the predicted classes of every round of some tiles."""
        image, label = jax.vmap(lambda tile: gather_crop(store, tile[0], tile[1:], self._side))(tiles)
        logits = segment(self._setup.model, variables, image)
        return image, label, logits.argmax(axis=-1)
