"""Milliseconds of one run of a network by options of ONNX Runtime, precision, size and batch.

    python bench/gpu_sweep.py --device cuda

The combinations that matter most come first, each figure is printed when it is known, and what
fails (for memory, say) is a row that says so. Weights are random.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from gpu_card import say
from gpu_networks import CONVOLUTIONS, Arithmetic, Plan, Shape, write_network

OURS = {"cudnn_conv_algo_search": "EXHAUSTIVE", "arena_extend_strategy": "kSameAsRequested"}
# Changes of one option at a time.
CHANGES: tuple[dict[str, str], ...] = (
    {"cudnn_conv_algo_search": "HEURISTIC"},
    {"cudnn_conv_use_max_workspace": "0"},
    {"fuse_conv_bias": "1"},
    {"cudnn_conv_algo_search": "DEFAULT"},
)
PATCHES: tuple[Shape, ...] = ((64, 192, 160), (128, 128, 128))
ROUNDS, LEAST_S = 3, 1.0


@dataclass(frozen=True)
class Combination:
    """What is measured.

    Attributes:
        size: of the network, a key of ``CONVOLUTIONS``.
        tf32: what float32 is computed in.
        options: that differ from ours.
    """

    size: str
    patch: Shape
    arithmetic: Arithmetic
    tf32: bool = False
    batch: int = 1
    options: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """A row's name, which later runs are compared by."""
        arithmetic = "tf32" if self.tf32 and self.arithmetic == "fp32" else self.arithmetic
        shape = "×".join(map(str, self.patch))
        changed = "".join(f", {name}={value}" for name, value in self.options.items())
        return f"{self.size} {shape} {arithmetic} batch {self.batch}{changed}"


def combinations() -> Iterator[Combination]:
    """Yield all, the most telling first."""
    first = Combination("30M", PATCHES[0], "fp16-lean", tf32=True)
    arithmetics: tuple[tuple[Arithmetic, bool], ...] = (
        ("fp16-lean", True),
        ("fp16", True),
        ("fp32", True),
        ("fp32", False),
    )
    for (arithmetic, tf32), size, patch in itertools.product(arithmetics, CONVOLUTIONS, PATCHES):
        yield replace(first, size=size, patch=patch, arithmetic=arithmetic, tf32=tf32)
        if arithmetic == "fp16-lean":
            yield replace(first, size=size, patch=patch, batch=2)
    for size, changed in itertools.product(CONVOLUTIONS, CHANGES):
        yield replace(first, size=size, options=changed)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no more after these")
    arguments = parser.parse_args()
    if arguments.device == "cuda":
        onnxruntime.preload_dlls()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for combination in combinations():
            if time.monotonic() - start > arguments.seconds:
                say(**{combination.name: "not begun in time"})
                continue
            say(**{combination.name: measured(combination, Path(folder), arguments.device)})


def measured(combination: Combination, folder: Path, device: str) -> float | str:
    """Milliseconds of one patch, or why there are none."""
    plan = Plan(
        combination.patch,
        CONVOLUTIONS[combination.size],
        batch=combination.batch,
        arithmetic=combination.arithmetic,
    )
    return milliseconds(plan, folder, device, OURS | tf32(combination) | combination.options)


def tf32(combination: Combination) -> dict[str, str]:
    """The option of float32's arithmetic."""
    return {"use_tf32": str(int(combination.tf32))}


def milliseconds(plan: Plan, folder: Path, device: str, options: dict[str, str]) -> float | str:
    """Time a network with its arrays on the device; any failure is the answer's text."""
    path = folder / f"{abs(hash(plan))}.onnx"
    try:
        if not path.is_file():
            for old in folder.iterdir():
                old.unlink()
            write_network(path, plan)
        return round(1000 * _seconds(path, plan, device, options) / plan.batch, 2)
    except Exception as error:
        lines = str(error).splitlines() or [type(error).__name__]
        return f"failed: {lines[0][:200]}"


def _seconds(path: Path, plan: Plan, device: str, options: dict[str, str]) -> float:
    providers: list[Any] = ["CPUExecutionProvider"]
    if device == "cuda":
        providers.insert(0, ("CUDAExecutionProvider", options))
    session = onnxruntime.InferenceSession(str(path), providers=providers)
    if device == "cuda" and "CUDAExecutionProvider" not in session.get_providers():
        raise RuntimeError("ONNX Runtime could not start its CUDA provider")
    image = np.random.default_rng(0).standard_normal((plan.batch, plan.channels, *plan.patch))
    binding = session.io_binding()
    there = onnxruntime.OrtValue.ortvalue_from_numpy(image.astype(np.float32), device, 0)
    binding.bind_ortvalue_input("image", there)
    binding.bind_output("logits", device)
    # The first run chooses algorithms and fills the arena.
    session.run_with_iobinding(binding)
    taken: list[float] = []
    while len(taken) < ROUNDS or sum(taken) < LEAST_S:
        start = time.perf_counter()
        session.run_with_iobinding(binding)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


if __name__ == "__main__":
    main()
