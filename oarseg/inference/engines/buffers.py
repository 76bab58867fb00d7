"""The arrays that the folds of an ensemble share: one tile and its logits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from oarseg.errors import ResourceError
from oarseg.model.manifest import Manifest


@dataclass(frozen=True, eq=False)
class TileBuffers:
    """One tile (1, channels, *patch) and its logits (1, classes, *patch), float32."""

    tile: Any
    logits: Any


def allocate_buffers(manifest: Manifest, xp: ModuleType = np) -> TileBuffers:
    """Allocate the buffers of an ensemble with an array module, zeroed.

    Raises:
        ResourceError: memory does not do.
    """
    shapes = [
        (1, count, *manifest.patch_size) for count in (len(manifest.channels), len(manifest.labels))
    ]
    try:
        return TileBuffers(*(xp.zeros(shape, np.float32) for shape in shapes))
    except MemoryError as error:
        mib = sum(4 * math.prod(shape) for shape in shapes) >> 20
        raise ResourceError(
            f"not enough memory for one tile of the model and its logits, {mib} MiB; give the "
            "process more"
        ) from error
