"""The arrays that the engines of an ensemble share: one tile and its logits."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from oarseg.errors import ResourceError
from oarseg.model.manifest import Manifest


def allocate_tile(manifest: Manifest, xp: ModuleType = np) -> Any:
    """Allocate a tile (1, channels, *patch), float32, zeroed, with an array module.

    Raises:
        ResourceError: memory does not do.
    """
    return _allocate(1, manifest.inputs, manifest, xp)


def allocate_logits(manifest: Manifest, answers: int = 1, xp: ModuleType = np) -> Any:
    """Allocate the logits of a tile (answers, classes, *patch); otherwise as ``allocate_tile``."""
    return _allocate(answers, len(manifest.labels), manifest, xp)


def _allocate(arrays: int, layers: int, manifest: Manifest, xp: ModuleType) -> Any:
    shape = (arrays, layers, *manifest.patch_size)
    try:
        return xp.zeros(shape, np.float32)
    except MemoryError as error:
        mib = 4 * int(np.prod(shape, dtype=np.int64)) >> 20
        raise ResourceError(
            f"not enough memory for one tile of the model and its logits, {mib} MiB; give the "
            "process more"
        ) from error
