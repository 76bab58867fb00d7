"""A light augmentation for trainings on few cores.

nnU-Net's own costs about as much processor time as a small network's step. This one
keeps what the data vary in (pose, size, noise, gain) and leaves out blur, low
resolution and gamma inversion.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
from batchgeneratorsv2.transforms.intensity.contrast import BGContrast
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import (
    DownsampleSegForDSTransform,
)
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTansform
from batchgeneratorsv2.transforms.utils.seg_to_regions import (
    ConvertSegmentationToRegionsTransform,
)

MAX_ROTATION = float(np.deg2rad(12))
SCALES = (0.85, 1.18)


def light_transforms(
    patch_size: Any,
    rotation_for_DA: Any,  # noqa: N803 - nnU-Net's name
    deep_supervision_scales: Any,
    mirror_axes: Any,
    do_dummy_2d_data_aug: bool,
    *,
    regions: Any = None,
    ignore_label: int | None = None,
    is_cascaded: bool = False,
    **_unused: Any,
) -> BasicTransform:
    """Transforms for one patch, with the arguments of nnU-Net's own factory.

    Raises:
        ValueError: for a cascade, which needs transforms that this one leaves out.
    """
    if is_cascaded:
        raise ValueError("the light augmentation does not serve cascades")
    steps: list[BasicTransform] = [_spatial(patch_size), *_intensity()]
    if mirror_axes:
        steps.append(MirrorTransform(allowed_axes=mirror_axes))
    steps.append(RemoveLabelTansform(-1, 0))
    if regions is not None:
        ignore = [] if ignore_label is None else [ignore_label]
        steps.append(
            ConvertSegmentationToRegionsTransform(regions=[*regions, *ignore], channel_in_seg=0)
        )
    if deep_supervision_scales is not None:
        steps.append(DownsampleSegForDSTransform(ds_scales=deep_supervision_scales))
    return ComposeTransforms(steps)


def _spatial(patch_size: Any) -> BasicTransform:
    return SpatialTransform(
        patch_size,
        patch_center_dist_from_border=0,
        random_crop=False,
        p_elastic_deform=0,
        p_rotation=0.15,
        rotation=(-MAX_ROTATION, MAX_ROTATION),
        p_scaling=0.15,
        scaling=SCALES,
        p_synchronize_scaling_across_axes=1,
        bg_style_seg_sampling=False,
        border_mode_seg="constant",
        padding_value_seg=-1,
    )


def _intensity() -> list[BasicTransform]:
    noise = GaussianNoiseTransform(
        noise_variance=(0, 0.05), p_per_channel=1, synchronize_channels=True
    )
    gain = MultiplicativeBrightnessTransform(
        multiplier_range=BGContrast((0.8, 1.25)), synchronize_channels=False, p_per_channel=1
    )
    return [
        RandomTransform(noise, apply_probability=0.1),
        RandomTransform(gain, apply_probability=0.3),
    ]
