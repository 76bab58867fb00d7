"""2-D configurations as 3-D ones whose patch is one plane thick.

A 2-D convolution is a 3-D one whose kernel is one voxel along the slices, and so with pooling and
normalisation. What comes after the plans, from the export to a GPU's kernels, then knows volumes
only: nnU-Net's 2d is a patch of (1, y, x), at the spacing of the image's own slices.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch

_OPERATORS: Final = ("conv_op", "norm_op", "dropout_op")


def is_flat(configuration: Mapping[str, Any]) -> bool:
    """Return whether a configuration of the plans is 2-D."""
    patch = configuration.get("patch_size")
    return isinstance(patch, list) and len(patch) == 2


def as_volume(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Return a 2-D configuration as a 3-D one; what is of another kind stays, to be refused.

    Args:
        configuration: with an ``architecture``.
    """
    architecture = configuration["architecture"]
    arguments = architecture.get("arch_kwargs") if isinstance(architecture, dict) else None
    lifted = {**configuration, "patch_size": [1, *configuration["patch_size"]]}
    spacing = configuration.get("spacing")
    if isinstance(spacing, list) and len(spacing) == 2:
        lifted["spacing"] = [None, *spacing]
    if isinstance(arguments, dict):
        changed = {**arguments}
        for key in ("kernel_sizes", "strides"):
            if key in arguments:
                changed[key] = _sizes(arguments[key], arguments.get("n_stages"))
        for key in _OPERATORS:
            if isinstance(arguments.get(key), str):
                changed[key] = _operator(arguments[key])
        lifted["architecture"] = {**architecture, "arch_kwargs": changed}
    return lifted


def _sizes(given: Any, stages: Any) -> Any:
    """Put 1 in front of each stage's two sizes."""
    if isinstance(given, int) and isinstance(stages, int) and 0 < stages <= 100:
        given = [given] * stages
    if not isinstance(given, list):
        return given
    pairs = ([size, size] if isinstance(size, int) else size for size in given)
    return [[1, *pair] if isinstance(pair, list) and len(pair) == 2 else pair for pair in pairs]


def _operator(name: str) -> str:
    """Name the operator for volumes; one that is for volumes already has no place in 2-D."""
    stem = name.removesuffix("2d")
    return f"{stem}3d" if stem != name else f"{name} in 2-D"


def volume_weights(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a 2-D network's weights by name, kernels with an axis of one voxel in front."""
    return {
        name: tensor.unsqueeze(2) if tensor.ndim == 4 else tensor
        for name, tensor in weights.items()
    }
