"""A case of real size on networks of real size: seconds, the network's share, peak memory.

    python bench/gpu_case.py --device cuda

Five folds of 30 million random parameters, 31 classes, and noise of the size of a head and neck
at 0.5 mm. The labels mean nothing, but their hash must not change from run to run.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from gpu_card import PeakMemory, say
from gpu_networks import CONVOLUTIONS, Plan, Shape, write_network

from oarseg.imaging.arrays import Image
from oarseg.inference.device.vram import case_bytes
from oarseg.inference.engines.choice import Engines, open_engines
from oarseg.inference.engines.protocol import Engine
from oarseg.inference.preprocessing import NetworkInput, Placement
from oarseg.inference.streaming import plan_tiles, segment_streaming
from oarseg.model.bundle import Bundle, load_bundle
from oarseg.model.entries.networks import ModelFile
from oarseg.model.manifest import write_manifest

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Make the networks and run the case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--size", choices=tuple(CONVOLUTIONS), default="30M")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--patch", type=int, nargs=3, default=(64, 192, 160))
    parser.add_argument("--shape", type=int, nargs=3, default=(130, 500, 460))
    parser.add_argument("--joint", action="store_true", help="one sum of all folds")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = write_ensemble(
            Path(folder),
            Plan(tuple(arguments.patch), CONVOLUTIONS[arguments.size]),
            arguments.folds,
        )
        say(**run(bundle, tuple(arguments.shape), arguments.device, joint=arguments.joint))


def write_ensemble(folder: Path, plan: Plan, folds: int) -> Bundle:
    """Write networks of random weights with the shipped model's labels."""
    shipped = load_bundle(ROOT / "weights").manifest
    plan = replace(plan, arithmetic="fp16", channels=len(shipped.channels))
    plan = replace(plan, classes=len(shipped.labels))
    files = []
    for fold in range(folds):
        path = folder / f"fold_{fold}.onnx"
        write_network(path, plan, seed=fold)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        files.append(ModelFile(path.name, digest, str(fold), "fp16"))
    manifest = replace(
        shipped, patch_size=plan.patch, mirror_axes=(), models=tuple(files), parity=()
    )
    write_manifest(manifest, folder)
    return Bundle(folder, manifest, "0" * 64)


def run(bundle: Bundle, shape: Shape, device: Any, *, joint: bool) -> dict[str, Any]:
    """Segment noise, and time all of it and the networks."""
    manifest = bundle.manifest
    net_input = noise(shape, len(manifest.channels))
    with PeakMemory() if device == "cuda" else nullcontext() as memory:
        start = time.perf_counter()
        opened = open_engines(bundle, device=device)
        opening_s = time.perf_counter() - start
        # The first run is the trial's; in this one nothing is warmed up any more.
        timed = [_Timed(engine) for engine in opened.take(mean=joint)]
        start = time.perf_counter()
        labels = segment_streaming(net_input, timed, manifest, joint=joint, gpu=opened.gpu)
        seconds = time.perf_counter() - start
    networks = sum(engine.seconds for engine in timed)
    return {
        "tiles": plan_tiles(net_input.placement, manifest).count,
        "opening_s": round(opening_s, 2),
        "seconds": round(seconds, 2),
        "network_s": round(networks, 2),
        "network_share": round(networks / seconds, 3),
        "peak_mib": memory.mib if memory is not None else None,
        "forecast_mib": forecast_mib(opened, net_input, bundle, joint=joint),
        "labels": hashlib.sha256(labels.tobytes()).hexdigest()[:16],
    }


def forecast_mib(opened: Engines, net_input: NetworkInput, bundle: Bundle, *, joint: bool) -> int:
    """What the program expects a case to take besides the networks."""
    place, folds = net_input.placement, opened.folds
    return case_bytes(place, bundle.manifest, folds=folds, joint=joint) >> 20


def noise(shape: Shape, channels: int) -> NetworkInput:
    """Smooth random intensities; the labels' grid is the network's."""
    a, b, c = shape
    place = Placement(
        shape, (2.0, 0.5, 0.5), (0, 1, 2), ((0, a), (0, b), (0, c)), shape, (2.0, 0.5, 0.5)
    )
    coarse = np.random.default_rng(0).standard_normal((channels, *(-(-n // 8) for n in shape)))
    data = coarse.astype(np.float32)
    for axis in (1, 2, 3):
        data = data.repeat(8, axis)
    return NetworkInput(np.ascontiguousarray(data[:, :a, :b, :c]), place)


class _Timed:
    """An engine that adds up its seconds; it has waited for the GPU when it returns."""

    def __init__(self, engine: Engine) -> None:
        self.name, self.answers = engine.name, engine.answers
        self.seconds = 0.0
        self._engine = engine

    def __call__(self, tile: Image, /) -> Image:
        start = time.perf_counter()
        logits = self._engine(tile)
        self.seconds += time.perf_counter() - start
        return logits

    def rest(self) -> None:
        self._engine.rest()


if __name__ == "__main__":
    main()
