"""Pictures of a fold on its way: learning curves, and some validation tiles in every round."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array

from fbunet_jax import figures
from fbunet_jax.device_errors import device_errors
from fbunet_jax.models.contract import segment
from fbunet_jax.pipeline.store import ImageStore, gather_crop
from fbunet_jax.runs.directory import FoldDirectory
from fbunet_jax.runs.records import TrainRecord, ValidationRecord, read_records
from fbunet_jax.training.programs import FoldPrograms


class FoldPictures:
    """Draws ``curves.png`` and the pictures in ``previews/`` of one fold."""

    def __init__(self, programs: FoldPrograms, directory: FoldDirectory) -> None:
        """Choose tiles spread over the validation part; nothing is drawn yet."""
        config, self._setup, self._store = programs.config, programs.setup, programs.validation_store
        self._directory, self._side, self._every = directory, config.data.crop, config.training.preview_every
        tiles = self._setup.validation.tiles
        count = min(config.training.previews, len(tiles))
        self._tiles = tiles[np.linspace(0, len(tiles) - 1, count).round().astype(int)] if count else tiles[:0]
        self._segment = jax.jit(self._segment_tiles)

    def draw_when_due(
        self, variables: Mapping[str, Any], validations: Sequence[ValidationRecord], *, is_last: bool
    ) -> None:
        """Draw after every so many validations, and after the last."""
        if is_last or len(validations) % self._every == 0:
            self.draw(variables, validations[-1]["epoch"])

    def draw(self, variables: Mapping[str, Any], epoch: int) -> None:
        """Draw the curves of all records, and the tiles as the network sees them now."""
        names = self._setup.class_names
        train = read_records(self._directory.metrics, TrainRecord)
        validation = read_records(self._directory.metrics, ValidationRecord)
        figures.draw_curves(self._directory.curves, train, validation, names)
        if len(self._tiles):
            with device_errors("drawing previews", "It takes less with fewer training.previews; 0 draws none."):
                image, label, rounds = jax.device_get(self._segment(variables, self._store, self._tiles))
            path = self._directory.previews / f"epoch_{epoch:05d}.png"
            figures.draw_previews(path, image, label, rounds, names)

    def _segment_tiles(
        self, variables: Mapping[str, Any], store: ImageStore, tiles: Array
    ) -> tuple[Array, Array, Array]:
        """Return image, label and the predicted classes of every round of some tiles."""
        image, label = jax.vmap(lambda tile: gather_crop(store, tile[0], tile[1:], self._side))(tiles)
        logits = segment(self._setup.model, variables, image)
        return image, label, logits.argmax(axis=-1)
