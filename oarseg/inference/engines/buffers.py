"""The arrays that the engines of an ensemble share: one tile, its logits and its sums."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from oarseg.errors import ResourceError
from oarseg.imaging.arrays import Half
from oarseg.model.manifest import Manifest


def allocate_tile(manifest: Manifest, xp: ModuleType = np) -> Any:
    """Allocate a tile (1, channels, *patch), float32, zeroed, with an array module.

    Raises:
        ResourceError: memory does not do.
    """
    return _allocate(1, manifest.inputs, manifest, xp, np.float32)


def allocate_logits(manifest: Manifest, answers: int = 1, xp: ModuleType = np) -> Any:
    """Allocate the logits of a tile (answers, classes, *patch); otherwise as ``allocate_tile``."""
    return _allocate(answers, len(manifest.labels), manifest, xp, np.float32)


def allocate_sums(manifest: Manifest) -> tuple[Half, Half]:
    """Allocate a tile's sums before and after it, (1, classes, *patch) in half precision.

    Their pages are there at once, as a forecast looks at the process before they are used.

    Raises:
        ResourceError: memory does not do.
    """
    before, after = (_allocate(1, len(manifest.labels), manifest, np, np.float16) for _ in range(2))
    before.fill(0)
    after.fill(0)
    return before, after


def _allocate(
    arrays: int, layers: int, manifest: Manifest, xp: ModuleType, kind: type[np.floating[Any]]
) -> Any:
    shape = (arrays, layers, *manifest.patch_size)
    try:
        return xp.zeros(shape, kind)
    except MemoryError as error:
        mib = kind().itemsize * int(np.prod(shape, dtype=np.int64)) >> 20
        raise ResourceError(
            f"not enough memory for one tile of the model and its logits, {mib} MiB; give the "
            "process more"
        ) from error
