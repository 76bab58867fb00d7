"""The arrays that the folds of an ensemble share: one tile and its logits."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from oarseg.model.manifest import Manifest


@dataclass(frozen=True, eq=False)
class TileBuffers:
    """One tile (1, channels, *patch) and its logits (1, classes, *patch), float32."""

    tile: Any
    logits: Any


def allocate_buffers(manifest: Manifest, xp: ModuleType = np) -> TileBuffers:
    """Allocate the buffers of an ensemble with an array module, zeroed."""
    return TileBuffers(
        xp.zeros((1, len(manifest.channels), *manifest.patch_size), np.float32),
        xp.zeros((1, len(manifest.labels), *manifest.patch_size), np.float32),
    )
