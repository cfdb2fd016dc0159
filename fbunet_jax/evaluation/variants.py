"""In which way a part is segmented for its numbers: as prediction does by default, or with something changed."""

from dataclasses import dataclass
from typing import Literal, get_args

from fbunet_jax.errors import ConfigError

Maps = Literal["own", "zeros", "other"]
"""Which class maps later rounds are given, see `Variant.maps`."""


@dataclass(frozen=True)
class Variant:
    """What an evaluation changes; each has files of its own.

    Attributes:
      whole: segment the images as they were before `data.cut`.
      tta: average the probabilities over the 8 dihedral views of each tile.
      offsets: add the fold's offsets, which were fitted on its validation part, to the logits.
      maps: which class maps later rounds are given: the image's own, zeros, or those of another image.
    """

    whole: bool = False
    tta: bool = False
    offsets: bool = False
    maps: Maps = "own"

    def __post_init__(self) -> None:
        if self.maps not in get_args(Maps):
            raise ConfigError(f"maps = {self.maps!r}: expected {', '.join(get_args(Maps))}.")

    @property
    def suffix(self) -> str:
        """What the names of its splits and files end with; empty for what prediction does by default."""
        offsets, maps = "-offsets" * self.offsets, f"-maps-{self.maps}" * (self.maps != "own")
        return "-whole" * self.whole + "-tta" * self.tta + offsets + maps


DEFAULT = Variant()
"""As prediction segments, with one fold's weights."""
