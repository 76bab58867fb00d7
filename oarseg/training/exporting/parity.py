"""Compare an ONNX file's logits with its checkpoint's in torch, on real patches or noise."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from oarseg.errors import InputError
from oarseg.imaging.arrays import Image
from oarseg.inference.engines.cuda_choice import cuda_settings
from oarseg.inference.engines.onnx_runtime import open_session
from oarseg.inference.engines.openvino import OpenVinoEngine
from oarseg.inference.engines.protocol import INPUT, OUTPUT
from oarseg.labels.dice import count_labels
from oarseg.model.entries.networks import Arithmetic, Parity, Runtime
from oarseg.model.joined import join_networks
from oarseg.system.cpus import available_cpus
from oarseg.training.nnunet_files.results_folder import Results

MIN_CLASS_VOXELS = 50


@dataclass(frozen=True)
class Patches:
    """Network inputs (n, channels, z, y, x) to compare on, and where they came from."""

    array: NDArray[np.float32]
    source: str


def figures_text(parity: Parity) -> str:
    """Format a parity record as one line."""
    return (
        f"largest logit difference {parity.max_logit_difference:.2e}, "
        f"argmax equal {parity.argmax_agreement:.6f}, worst Dice {parity.min_dice:.4f} "
        f"on {parity.patches} patches ({parity.source}, {parity.runtime} {parity.arithmetic})"
    )


def network_outputs(network: torch.nn.Module, patches: Patches, file: Path) -> Image:
    """Compute a checkpoint's logits (n, classes, z, y, x) on patches, in torch and float32.

    They are stored in ``file`` (.npy) and memory-mapped, so only the parts in use take memory.
    """
    found: Image | None = None
    for number, patch in enumerate(patches.array):
        with torch.inference_mode():
            logits = network(torch.from_numpy(patch[None])).numpy()[0]
        if found is None:
            shape = (len(patches.array), *logits.shape)
            found = np.lib.format.open_memmap(file, "w+", dtype=np.float32, shape=shape)
        found[number] = logits
    if found is None:
        raise ValueError("no patches to compare on")
    return found


def compare_with_torch(
    path: Path,
    patches: Patches,
    wanted: Image,
    *,
    runtime: Runtime = "onnxruntime",
    arithmetic: Arithmetic = "f32",
) -> Parity:
    """Compare one file's logits with its checkpoint's on the same patches.

    Args:
        path: the ONNX file.
        patches: network inputs.
        wanted: ``network_outputs`` of the checkpoint for them.
        runtime: library that runs the file, or its provider; OpenVINO and CUDA are set up as in
            ``oarseg segment``.
        arithmetic: of the run.

    Raises:
        NoCudaError: ``cuda`` does not work.
    """
    if runtime == "openvino":
        run = _openvino(path, wanted, patches, arithmetic)
    elif (runtime, arithmetic) == ("onnxruntime", "f32"):
        run = _ort(path)
    else:
        run = _joined(path, patches, runtime, arithmetic)
    largest, equal, dice = 0.0, 0, 0.0
    sizes = np.zeros((3, wanted.shape[1]))
    for patch, want in zip(patches.array, wanted, strict=True):
        got = run(np.ascontiguousarray(patch[None]))[0]
        if not np.isfinite(got).all():
            largest, equal = float("inf"), 0
            break
        largest = max(largest, float(np.abs(got - want).max()))
        mine, theirs = got.argmax(0), want.argmax(0)
        equal += int((mine == theirs).sum())
        sizes += [count_labels(m, wanted.shape[1]) for m in (mine, theirs, mine[mine == theirs])]
    else:
        dice = _worst_dice(sizes)
    return Parity(
        path.name,
        patches.source,
        len(patches.array),
        largest,
        equal / (wanted.size // wanted.shape[1]),
        dice,
        arithmetic,
        runtime,
    )


def _worst_dice(sizes: NDArray[Any]) -> float:
    """Return the worst class's Dice from counts (3, classes): one side, the other, both.

    One voxel of each class is taken as equal: a single tie that falls otherwise would spoil the
    Dice of a class of a few hundred, and shows nothing.
    """
    enough = sizes[1] >= MIN_CLASS_VOXELS
    dice = 2 * (sizes[2][enough] + 1) / (sizes[0][enough] + sizes[1][enough])
    return float(np.minimum(dice, 1.0).min())


def _ort(path: Path) -> Callable[[Image], Image]:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda tile: np.asarray(session.run([OUTPUT], {INPUT: tile})[0])


def _joined(
    path: Path, patches: Patches, runtime: Runtime, arithmetic: Arithmetic
) -> Callable[[Image], Image]:
    """Open the graph that a GPU is given; its arrays are the host's, whatever the provider."""
    cuda = None if runtime == "onnxruntime" else cuda_settings(tf32=arithmetic != "f32")
    joined = join_networks([path], patches.array.shape[2:], lean=arithmetic == "f16")
    session = open_session(joined, threads=available_cpus(), cuda=cuda)
    return lambda tile: np.asarray(session.run(list(joined.outputs), {INPUT: tile})[0])


def _openvino(
    path: Path, wanted: Image, patches: Patches, arithmetic: Arithmetic
) -> Callable[[Image], Image]:
    """Open the engine that ``oarseg segment`` uses on a CPU."""
    tile, logits = np.zeros_like(patches.array[:1]), np.zeros_like(wanted[:1])
    return OpenVinoEngine([path], tile, logits, threads=available_cpus(), precision=arithmetic)


def smooth_noise(results: Results, *, count: int = 4, seed: int = 0) -> Patches:
    """Make inputs when there is no data: noise smoothed over a few voxels."""
    noise = np.random.default_rng(seed).normal(size=(count, *results.input_shape))
    smooth = gaussian_filter(noise, (0, 0, 2, 2, 2))
    smooth /= smooth.std()
    hints = smooth[:, len(results.dataset.channels) :]
    hints[...] = hints > 1  # a cascade's are masks
    return Patches(smooth.astype(np.float32), "smooth noise")


def patches_from(preprocessed: Path, results: Results, *, count: int = 6) -> Patches:
    """Cut patches around structures of preprocessed cases.

    nnU-Net's own reader unpickles a file beside each case; this one reads arrays only.

    Args:
        preprocessed: nnU-Net's folder of preprocessed cases of this configuration.
        results: gives the patch size and the folder's name.
        count: number of patches, one per case.

    Raises:
        InputError: the folder is of another configuration, or has no cases that can be read.
    """
    wanted = results.settings.data_identifier
    if preprocessed.resolve().name != wanted or not preprocessed.is_dir():
        raise InputError(
            f"{preprocessed}: expected nnU-Net's folder {wanted} of this model's preprocessed "
            "cases; give it with --preprocessed, or leave the option out to compare on noise"
        )
    files = sorted(path for path in preprocessed.iterdir() if _holds_case(path))[:count]
    if not files:
        raise InputError(f"{preprocessed}: expected preprocessed cases (.b2nd or .npz), found none")
    rng = np.random.default_rng(0)
    patches = [_patch(file, results.input_shape, rng) for file in files]
    return Patches(np.stack(patches), "preprocessed training cases")


def _holds_case(path: Path) -> bool:
    return path.suffix in (".b2nd", ".npz") and not path.stem.endswith("_seg")


def _patch(
    file: Path, shape: tuple[int, int, int, int], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Cut a patch around a random voxel of a random structure, or around the centre."""
    try:
        data, labels = _read_case(file)
        if data.ndim != 4 or len(data) != shape[0] or labels.shape[1:] != data.shape[1:]:
            raise InputError(
                f"{file}: expected {shape[0]} channels of a volume and its labels, found arrays "
                f"{data.shape} and {labels.shape}; --preprocessed takes this model's own cases"
            )
        there = np.unique(labels[labels > 0])
        voxels = np.argwhere(labels[0] == rng.choice(there)) if len(there) else ()
        centre = voxels[rng.integers(len(voxels))] if len(voxels) else np.array(data.shape[1:]) // 2
        patch = _cut(data, centre, shape[1:])
    except (OSError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile) as error:
        raise InputError(f"{file}: expected a preprocessed case, could not read it") from error
    if not np.isfinite(patch).all():
        raise InputError(f"{file}: expected finite values, found NaN or infinite ones")
    return patch


def _read_case(file: Path) -> tuple[Any, NDArray[Any]]:
    """Read a case's channels (c, z, y, x) and labels (1, z, y, x)."""
    if file.suffix == ".npz":
        with np.load(file, allow_pickle=False) as arrays:
            return arrays["data"], arrays["seg"]
    import blosc2  # type: ignore[import-untyped,unused-ignore]

    data = blosc2.open(str(file), mode="r")
    labels = blosc2.open(str(file.with_name(f"{file.stem}_seg.b2nd")), mode="r")
    return data, np.asarray(labels[:])


def _cut(data: Any, centre: Any, size: Sequence[int]) -> NDArray[np.float32]:
    patch = np.zeros((len(data), *size), dtype=np.float32)
    starts = [
        int(np.clip(c - n // 2, 0, max(have - n, 0)))
        for c, n, have in zip(centre, size, data.shape[1:], strict=True)
    ]
    cut = data[(slice(None), *(slice(s, s + n) for s, n in zip(starts, size, strict=True)))]
    patch[tuple(slice(0, n) for n in cut.shape)] = cut
    return patch
