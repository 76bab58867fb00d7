"""Does an ONNX file answer as its checkpoint does in torch? On real patches, or on noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from oarseg.bundle import Arithmetic, Parity
from oarseg.engine import Engine
from oarseg.engines import available_cpus
from oarseg.errors import InputError
from oarseg.evaluation.overlap import counts
from oarseg.openvino_engine import OpenVinoEngine
from oarseg.training.checkpoint import Results

MIN_CLASS_VOXELS = 50


@dataclass(frozen=True)
class Patches:
    """Network inputs (n, channels, z, y, x) to compare on, and where they came from."""

    array: NDArray[np.float32]
    source: str


def figures_text(parity: Parity) -> str:
    """A parity record as one line."""
    return (
        f"largest logit difference {parity.max_logit_difference:.2e}, "
        f"argmax equal {parity.argmax_agreement:.6f}, worst Dice {parity.min_dice:.4f} "
        f"on {parity.patches} patches ({parity.source}, {parity.arithmetic})"
    )


def compare(
    network: torch.nn.Module, path: Path, patches: Patches, *, arithmetic: Arithmetic = "f32"
) -> Parity:
    """Run one file and its checkpoint in torch on the same patches.

    The file is run in ONNX Runtime, and for bfloat16 in OpenVINO, as ``oarseg segment`` does.
    """
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    classes = int(session.get_outputs()[0].shape[1])
    in_bf16 = _bf16_engine(path, patches, classes) if arithmetic == "bf16" else None
    largest, equal, voxels = 0.0, 0, 0
    sizes = np.zeros((3, classes))
    for patch in patches.array:
        if in_bf16 is None:
            got = np.asarray(session.run(None, {"image": patch[None]})[0])[0]
        else:
            got = in_bf16(np.ascontiguousarray(patch[None]))[0].copy()
        with torch.inference_mode():
            want = network(torch.from_numpy(patch[None])).numpy()[0]
        if not np.isfinite(got).all():
            return Parity(
                path.name, patches.source, len(patches.array), float("inf"), 0.0, 0.0, arithmetic
            )
        largest = max(largest, float(np.abs(got - want).max()))
        mine, theirs = got.argmax(0), want.argmax(0)
        equal += int((mine == theirs).sum())
        voxels += mine.size
        sizes += [counts(labels, classes) for labels in (mine, theirs, mine[mine == theirs])]
    enough = sizes[1] >= MIN_CLASS_VOXELS
    dice = 2 * sizes[2][enough] / (sizes[0][enough] + sizes[1][enough])
    return Parity(
        path.name,
        patches.source,
        len(patches.array),
        largest,
        equal / voxels,
        float(dice.min()),
        arithmetic,
    )


def _bf16_engine(path: Path, patches: Patches, classes: int) -> Engine:
    tile = np.zeros_like(patches.array[:1])
    logits = np.zeros((1, classes, *tile.shape[2:]), np.float32)
    return OpenVinoEngine(
        path, tile, logits, threads=available_cpus(), alone=True, precision="bf16"
    )


def smooth_noise(results: Results, *, count: int = 4, seed: int = 0) -> Patches:
    """Inputs without data: noise smoothed over a few voxels."""
    shape = (count, len(results.dataset["channel_names"]), *results.settings.patch_size)
    noise = np.random.default_rng(seed).normal(size=shape)
    smooth = gaussian_filter(noise, (0, 0, 2, 2, 2))
    return Patches((smooth / smooth.std()).astype(np.float32), "smooth noise")


def patches_from(preprocessed: Path, results: Results, *, count: int = 6) -> Patches:
    """Patches around structures of preprocessed cases.

    Args:
        preprocessed: nnU-Net's folder of preprocessed cases of this configuration.
        results: gives the patch size.
        count: patches, one a case.

    Raises:
        InputError: the folder has no cases.
    """
    from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

    if not preprocessed.is_dir():
        raise InputError(f"{preprocessed}: expected nnU-Net's preprocessed cases, found no folder")
    dataset = infer_dataset_class(str(preprocessed))(str(preprocessed))
    size = results.settings.patch_size
    rng = np.random.default_rng(0)
    patches = []
    for name in sorted(dataset.identifiers)[:count]:
        data, _, _, properties = dataset.load_case(name)
        places = [p for p in properties["class_locations"].values() if len(p)]
        centre = places[int(rng.integers(len(places)))][0][1:]
        patches.append(_cut(np.asarray(data[:]), centre, size))
    return Patches(np.stack(patches), "preprocessed training cases")


def _cut(data: NDArray[Any], centre: Sequence[int], size: Sequence[int]) -> NDArray[np.float32]:
    patch = np.zeros((len(data), *size), dtype=np.float32)
    starts = [
        int(np.clip(c - n // 2, 0, max(have - n, 0)))
        for c, n, have in zip(centre, size, data.shape[1:], strict=True)
    ]
    cut = data[(slice(None), *(slice(s, s + n) for s, n in zip(starts, size, strict=True)))]
    patch[tuple(slice(0, n) for n in cut.shape)] = cut
    return patch
