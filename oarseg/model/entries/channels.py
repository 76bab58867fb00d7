"""The input channels of a model: how each is made and normalised."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator
from pydantic.dataclasses import dataclass

from oarseg.challenges.structures import STRICT
from oarseg.model.entries.value_types import Intensity, ShortName, WindowHu

# The range of a clipped CT and its standard deviation differ by less than this factor. Otherwise
# the network would see a constant, or nothing but the two bounds.
MIN_CT_SPREAD = 0.01


@dataclass(frozen=True, config=STRICT)
class Normalisation:
    """How nnU-Net normalises one channel, before resampling.

    Attributes:
        scheme: ``ct`` clips to [lower, upper], then (v − mean) / max(std, 1e-8);
            ``zscore`` uses the image's own mean and deviation; ``none`` only casts;
            ``rescale_0_1`` maps the image's range to [0, 1]; ``rgb_0_1`` divides by 255.
        mean, std, lower, upper: the training set's intensity properties, for ``ct``.
        use_mask: ``zscore`` over the non-zero mask only, and zero outside it.
    """

    scheme: Literal["ct", "zscore", "none", "rescale_0_1", "rgb_0_1"]
    mean: Intensity = 0.0
    std: Intensity = 1.0
    lower: Intensity = 0.0
    upper: Intensity = 0.0
    use_mask: bool = False

    @model_validator(mode="after")
    def _varies(self) -> Self:
        """Refuse bounds and a deviation that would make the channel constant."""
        if self.scheme != "ct":
            return self
        spread = self.upper - self.lower
        if spread <= 0:
            raise ValueError("lower must be below upper")
        if not MIN_CT_SPREAD * spread <= self.std <= spread / MIN_CT_SPREAD:
            raise ValueError(f"std must fit the range from lower to upper, {spread:g}")
        if not self.lower - self.std <= self.mean <= self.upper + self.std:
            raise ValueError("mean must lie between lower and upper")
        return self


@dataclass(frozen=True, config=STRICT)
class ChannelRecipe:
    """How a channel is made from an image, before nnU-Net's own normalisation.

    Attributes:
        name: the challenge's channel name.
        optional: the model was trained to work without it.
        absent_value: the value where there is no image.
        standardise: ``mean_one`` divides an MR by its mean over the patient, so that
            scanner gain does not matter; ``none`` leaves its values.
        window_hu: the reference CT is clipped to it; several channels may be windows of one CT.
    """

    name: ShortName
    optional: bool = False
    absent_value: Intensity = 0.0
    standardise: Literal["none", "mean_one"] = "none"
    window_hu: WindowHu | None = None


@dataclass(frozen=True, config=STRICT)
class Channel:
    """An input channel: how it is made and how nnU-Net normalises it."""

    name: ShortName
    normalisation: Normalisation
    optional: bool = False
    absent_value: Intensity = 0.0
    standardise: Literal["none", "mean_one"] = "none"
    window_hu: WindowHu | None = None

    @property
    def recipe(self) -> ChannelRecipe:
        """The part that training and inference have in common."""
        return ChannelRecipe(
            self.name, self.optional, self.absent_value, self.standardise, self.window_hu
        )
