"""Models and images on which this project must answer as stock nnU-Net does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from nnunet_oracle import Oracle, Recipe
from numpy.typing import NDArray

from oarseg.inference.engines.choice import open_engines
from oarseg.inference.engines.protocol import Engine
from oarseg.inference.preprocessing import preprocess
from oarseg.inference.streaming import Effort, segment_streaming

Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]

AGREEMENT = 0.9995
DICE = 0.998
SMALLEST = 200


@dataclass(frozen=True)
class Parity:
    """A model and an image."""

    name: str
    recipe: Recipe
    shape: Shape
    spacing_mm: Spacing
    mirror: bool = False
    margin: int = 0
    values: tuple[int, ...] = field(default=(0, 1, 2, 3, 4, 5))


REGIONS = {"background": 0, "all": [1, 2, 3], "middle": [2, 3], "core": 3}

CASES = (
    Parity("same-grid", Recipe((2.0, 1.0, 1.0)), (28, 40, 36), (2.0, 1.0, 1.0)),
    Parity("separate-z", Recipe((4.0, 0.8, 0.8)), (20, 40, 35), (4.0, 1.0, 1.0)),
    Parity("separate-z-changing", Recipe((2.5, 0.8, 0.8)), (20, 40, 35), (4.0, 1.0, 1.0)),
    Parity("separate-z-by-model", Recipe((4.0, 1.0, 1.0)), (30, 40, 35), (2.0, 1.0, 1.0)),
    Parity("upsampling", Recipe((1.5, 0.8, 0.8)), (21, 40, 35), (2.0, 1.0, 1.0)),
    Parity("downsampling", Recipe((3.0, 1.5, 1.5)), (31, 51, 47), (2.0, 1.0, 1.0)),
    # Long enough for bands of rows whose number, but not whose place, stays.
    Parity("a-voxel-more", Recipe((2.0, 1.012, 1.0)), (18, 90, 30), (2.0, 1.0, 1.0)),
    Parity("z-changing", Recipe((1.4, 1.0, 1.0)), (20, 33, 32), (2.0, 1.0, 1.0)),
    Parity("isotropic", Recipe((1.0, 1.0, 1.0)), (23, 31, 37), (1.3, 1.3, 1.3)),
    Parity("nonzero-crop", Recipe((2.0, 1.0, 1.0)), (28, 40, 40), (2.2, 1.1, 1.1), margin=4),
    Parity(
        "transpose", Recipe((0.8, 1.5, 0.8), transpose=(1, 0, 2)), (20, 40, 35), (2.0, 1.0, 1.0)
    ),
    Parity(
        "transpose-separate-z",
        Recipe((0.8, 0.8, 2.5), transpose=(2, 1, 0)),
        (20, 33, 31),
        (4.0, 1.0, 1.0),
    ),
    Parity("two-folds", Recipe((2.0, 1.0, 1.0), folds=2), (28, 40, 36), (2.0, 1.0, 1.2)),
    Parity("five-folds", Recipe((4.0, 0.8, 0.8), folds=5), (20, 40, 35), (4.0, 1.0, 1.0)),
    Parity(
        "mirroring",
        Recipe((2.0, 1.0, 1.0), mirror_axes=(0, 2)),
        (20, 30, 30),
        (2.0, 1.0, 1.2),
        mirror=True,
    ),
    Parity(
        "regions",
        Recipe((2.0, 1.0, 1.0), labels=REGIONS, region_order=(1, 2, 3)),
        (20, 40, 40),
        (2.0, 1.0, 1.2),
        values=(0, 1, 2, 3),
    ),
    Parity("odd-sizes", Recipe((2.0, 1.0, 1.0)), (17, 43, 29), (2.3, 0.9, 1.1)),
    Parity("smaller-than-patch", Recipe((2.0, 1.0, 1.0)), (9, 17, 50), (2.0, 1.0, 1.2)),
    Parity(
        "residual-encoder", Recipe((2.0, 1.0, 1.0), residual=True), (20, 40, 40), (2.0, 1.0, 1.2)
    ),
)


def ours(
    oracle: Oracle,
    channels: list[NDArray[np.int16]],
    case: Parity,
    engines: Sequence[Engine] | None = None,
) -> NDArray[np.uint8]:
    """Our labels, by the exported networks or by the given ones."""
    net_input = preprocess(channels, case.spacing_mm, oracle.manifest)
    found = engines or open_engines(oracle.bundle, device="cpu", threads=1).take()
    return segment_streaming(net_input, found, oracle.manifest, effort=Effort(mirror=case.mirror))
