"""What 8-bit integers would cost in Dice and save in time: an experiment, no part of the product.

    pip install nncf
    python bench/int8.py --seeds 300 301 302 303 304 305 306 307 308 309 --out bench/results

NNCF quantises the folds after training (weights by channel, activations by tensor), calibrated on
tiles of phantoms that neither training nor this table sees; the last convolution stays in float32.
All ways label the same preprocessed phantoms on OpenVINO, in turns; Dice is against the phantom's
truth. It would be shipped if the mean over organs fell by 0.001 at most and no organ's by 0.005.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from cases import ROOT
from effort import prepared
from machine import instruction_sets, machine
from numpy.typing import NDArray

from oarseg.challenges import catalogue
from oarseg.imaging.arrays import Image
from oarseg.inference.engines import choice
from oarseg.inference.engines.buffers import allocate_logits, allocate_tile
from oarseg.inference.engines.openvino import OpenVinoEngine
from oarseg.inference.engines.protocol import Engine
from oarseg.inference.streaming import segment_streaming
from oarseg.labels.dice import dice_by_label
from oarseg.model import bundle
from oarseg.model.bundle import Bundle
from oarseg.phantom import PhantomSpec
from oarseg.system.cpus import available_cpus

ORGANS = catalogue.load_challenge("han_seg").organs
MEAN_MAY_FALL, ORGAN_MAY_FALL = 0.001, 0.005


@dataclass
class Outcome:
    """One arithmetic: Dice of each phantom and organ, seconds and equal labels of each phantom."""

    dice: list[NDArray[np.float64]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    equal: list[float] = field(default_factory=list)

    @property
    def organs(self) -> NDArray[np.float64]:
        """Mean Dice of each organ."""
        return np.asarray(np.nanmean(np.array(self.dice), axis=0))


class Recorder:
    """An engine that keeps every so many tiles and answers that there is nothing."""

    name, answers = "recorder", 1

    def __init__(self, logits: Image, *, every: int) -> None:
        self.tiles: list[Image] = []
        self._logits, self._every, self._seen = logits, every, 0

    def __call__(self, tile: Image, /) -> Image:
        """Keep it perhaps."""
        if self._seen % self._every == 0:
            self.tiles.append(tile.copy())
        self._seen += 1
        self._logits[...] = 0
        return self._logits

    def rest(self) -> None:
        """There is nothing to free."""


def main() -> None:
    """Quantise, measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(300, 310)))
    parser.add_argument("--calibration", type=int, nargs="+", default=[400, 401, 402])
    parser.add_argument("--every", type=int, default=6, help="tile of these is calibrated on")
    parser.add_argument("--size", default="small", help="of the phantoms (default: small)")
    parser.add_argument("--weights", type=Path, default=ROOT / "weights")
    parser.add_argument("--threads", type=int, default=available_cpus())
    parser.add_argument("--out", type=Path, help="folder for the table")
    arguments = parser.parse_args()
    weights = bundle.load_bundle(arguments.weights)
    with tempfile.TemporaryDirectory() as folder:
        files = quantise(weights, arguments, Path(folder))
        found = measure(weights, files, arguments)
    text = table(arguments, found)
    print(text)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        path = arguments.out / f"{datetime.date.today()}-int8.md"
        path.write_text(text + "\n", encoding="utf-8")


def quantise(weights: Bundle, arguments: argparse.Namespace, folder: Path) -> list[Path]:
    """Write the folds in 8 bits, as OpenVINO's files."""
    nncf: Any = importlib.import_module("nncf")
    tiles = calibration_tiles(weights, arguments)
    files = []
    for path in weights.paths("fp32"):
        model = openvino.Core().read_model(path)
        last = [n for n in model.get_ordered_ops() if n.get_type_name() == "Convolution"][-1]
        quantised = nncf.quantize(
            model,
            nncf.Dataset(tiles),
            subset_size=len(tiles),
            preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=nncf.IgnoredScope(names=[last.get_friendly_name()]),
        )
        file = folder / f"{path.stem}.xml"
        openvino.save_model(quantised, file, compress_to_fp16=False)
        files.append(file)
    return files


def calibration_tiles(weights: Bundle, arguments: argparse.Namespace) -> list[Image]:
    """Tiles as the networks see them, of some phantoms."""
    manifest = weights.manifest
    recorder = Recorder(allocate_logits(manifest), every=arguments.every)
    for seed in arguments.calibration:
        network, body, _ = prepared(PhantomSpec(seed, arguments.size), manifest)
        segment_streaming(network, [recorder], manifest, mask=body, threads=arguments.threads)
    return recorder.tiles


def measure(
    weights: Bundle, files: Sequence[Path], arguments: argparse.Namespace
) -> dict[str, Outcome]:
    """Label every phantom in every arithmetic, one after the other."""
    manifest, threads = weights.manifest, arguments.threads
    tile, logits = allocate_tile(manifest), allocate_logits(manifest)
    ways: dict[str, Sequence[Engine]] = {"float32": (), "bfloat16": (), "int8": ()}
    # All give logits that are added afterwards; the product's networks add up themselves.
    ways["float32"] = [
        OpenVinoEngine([path], tile, logits, threads=threads) for path in weights.paths("fp32")
    ]
    if choice.fast_arithmetic(manifest) == "bf16":
        ways["bfloat16"] = [
            OpenVinoEngine([path], tile, logits, threads=threads, precision="bf16")
            for path in weights.paths("fp32")
        ]
    ways["int8"] = [OpenVinoEngine([file], tile, logits, threads=threads) for file in files]
    found = {name: Outcome() for name, engines in ways.items() if engines}
    for seed in arguments.seeds:
        network, body, truth = prepared(PhantomSpec(seed, arguments.size), manifest)
        exact = None
        for name, outcome in found.items():
            start = time.perf_counter()
            labels = segment_streaming(
                network, ways[name], manifest, mask=body, threads=arguments.threads
            )
            outcome.seconds.append(time.perf_counter() - start)
            outcome.dice.append(dice_by_label(labels, truth, labels=len(ORGANS)))
            exact = labels if exact is None else exact
            outcome.equal.append(float(np.mean(labels == exact)))
        means = {name: round(float(np.nanmean(one.dice[-1])), 4) for name, one in found.items()}
        print(f"seed {seed}: {means}", flush=True)
    return found


def table(arguments: argparse.Namespace, found: dict[str, Outcome]) -> str:
    """The means, the verdict and the organs that change most, as Markdown."""
    exact, low = found["float32"], found["int8"]
    lines = [
        f"{len(arguments.seeds)} phantoms (size {arguments.size}, seeds "
        f"{', '.join(map(str, arguments.seeds))}), {datetime.date.today()}; {machine()}; "
        f"{instruction_sets()}; {arguments.threads} threads",
        "",
        "| | mean Dice over organs | worst organ's change | labels as float32's | time |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, one in found.items():
        ratios = [mine / theirs for mine, theirs in zip(one.seconds, exact.seconds, strict=True)]
        lines.append(
            f"| {name} | {np.nanmean(one.organs):.5f} | {worst_change(one, exact):+.5f} | "
            f"{np.mean(one.equal):.4%} | {statistics.median(ratios):.0%} |"
        )
    change = low.organs - exact.organs
    order = [int(k) for k in np.argsort(np.nan_to_num(change))]
    lines += [
        "",
        f"int8 {'meets' if is_good_enough(low, exact) else 'breaks'} the bar: a mean that falls "
        f"by {MEAN_MAY_FALL} at most, and no organ by more than {ORGAN_MAY_FALL}.",
        "",
        "| organ | float32 | int8's change |",
        "|---|---:|---:|",
        *(
            f"| {ORGANS[k].name} | {exact.organs[k]:.4f} | {change[k]:+.5f} |"
            for k in (*order[:6], *order[-2:])
        ),
    ]
    return "\n".join(lines)


def worst_change(one: Outcome, exact: Outcome) -> float:
    """The change of the organ that loses most."""
    return float(np.nanmin(one.organs - exact.organs))


def is_good_enough(one: Outcome, exact: Outcome) -> bool:
    """Whether an arithmetic loses so little that it could be shipped."""
    fall = float(np.nanmean(exact.organs) - np.nanmean(one.organs))
    return fall <= MEAN_MAY_FALL and -worst_change(one, exact) <= ORGAN_MAY_FALL


if __name__ == "__main__":
    main()
