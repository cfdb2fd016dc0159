"""In which way a part is segmented for its numbers: as prediction does by default, or with something changed."""

import numbers
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
      crops: side in pixels of the tiles that images which are not cut are cut into, each segmented by itself; 0 for
        none.
      tta: average the probabilities over the 8 dihedral views of each tile.
      offsets: add the fold's offsets, which were fitted on its validation part, to the logits.
      maps: which class maps later rounds are given: the image's own, zeros, or those of another image.
    """

    whole: bool = False
    crops: int = 0
    tta: bool = False
    offsets: bool = False
    maps: Maps = "own"

    def __post_init__(self) -> None:
        for name in ("whole", "tta", "offsets"):
            if (value := getattr(self, name)) not in (True, False):
                raise ConfigError(f"{name} = {value!r}: expected True or False.")
        if isinstance(self.crops, bool) or not isinstance(self.crops, numbers.Integral) or self.crops < 0:
            raise ConfigError(f"crops = {self.crops!r}: expected the side of a crop in pixels, or 0.")
        if self.whole and self.crops:
            raise ConfigError("whole and crops: evaluate whole images, or crops of them. Leave one of the two out.")
        if self.maps not in get_args(Maps):
            raise ConfigError(f"maps = {self.maps!r}: expected {', '.join(get_args(Maps))}.")

    @property
    def suffix(self) -> str:
        """What the names of its splits and files end with; empty for what prediction does by default."""
        offsets, maps = "-offsets" * bool(self.offsets), f"-maps-{self.maps}" * (self.maps != "own")
        whole = "-whole" * bool(self.whole) + f"-crops{self.crops}" * bool(self.crops)
        return whole + "-tta" * bool(self.tta) + offsets + maps


DEFAULT = Variant()
"""As prediction segments, with one fold's weights."""
