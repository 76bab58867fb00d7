"""What was done to a model's training images before nnU-Net saw them.

A model answers as it was trained only if the images that it is given were treated alike. The
manifest therefore says how they were treated, and inference does that and no more.
"""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from oarseg.challenges.challenge import Challenge
from oarseg.challenges.structures import STRICT
from oarseg.imaging.orientation import Axes


@dataclass(frozen=True, config=STRICT)
class Conditioning:
    """Changes to images before the network's own preprocessing.

    The defaults change nothing. How an MR is standardised is said with its channel.

    Attributes:
        clip_hu: CTs are clipped to what scanners give (``read_scan.SCANNER_RANGE_HU``).
        padding_is_air: zeros of a CT that reach the corners of a slice become air.
        axes: the order and direction to which arrays are turned.
    """

    clip_hu: bool = False
    padding_is_air: bool = False
    axes: Axes = "stored"


def prepared_conditioning(challenge: Challenge) -> Conditioning:
    """Return what ``oarseg prepare`` does to a challenge's images."""
    return Conditioning(clip_hu=True, padding_is_air=True, axes=challenge.orientation)
