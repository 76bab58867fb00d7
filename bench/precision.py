"""What ``--precision fast`` costs in Dice and saves in time, on phantoms that no training saw.

    python bench/precision.py --seeds 300 301 302 303 304 305 306 307 308 309 --out bench/results

Both arithmetics label the same preprocessed phantoms; Dice is against the phantom's truth. On a CPU
without bfloat16, ``--emulate`` rounds weights and every layer's result to it: Dice is then that of
such a CPU, within the last digits, and seconds say nothing.
"""

from __future__ import annotations

import argparse
import datetime
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import instruction_sets
import numpy as np
import pytest
from cases import ROOT
from effort import prepared
from numpy.typing import NDArray

from oarseg.challenges import catalogue
from oarseg.inference import streaming
from oarseg.inference.engines import choice
from oarseg.labels.dice import dice_by_label
from oarseg.model import bundle
from oarseg.model.manifest import Exactness
from oarseg.phantom import PhantomSpec
from oarseg.system.cpus import available_cpus

ORGANS = catalogue.load_challenge("han_seg").organs
EXACTNESS: tuple[Exactness, ...] = ("exact", "fast")


@dataclass(frozen=True)
class Measured:
    """One way of computing: Dice (phantoms, organs), and seconds in all."""

    dice: NDArray[np.float64]
    seconds: float
    arithmetic: str


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(300, 310)))
    parser.add_argument("--size", default="small", help="of the phantoms (default: small)")
    parser.add_argument("--weights", type=Path, default=ROOT / "weights")
    parser.add_argument("--threads", type=int, default=available_cpus())
    parser.add_argument("--emulate", action="store_true", help="round as bfloat16 does")
    parser.add_argument("--out", type=Path, help="folder for the table")
    arguments = parser.parse_args()
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        if arguments.emulate:
            instruction_sets.pretend(patch, bfloat16=True)
        exact, fast = measure(arguments)
    text = table(arguments, exact, fast)
    print(text)
    if arguments.out:
        path = arguments.out / f"{datetime.date.today()}-precision.md"
        path.write_text(text + "\n", encoding="utf-8")


def measure(arguments: argparse.Namespace) -> list[Measured]:
    """Label every phantom in both ways."""
    weights = bundle.load_bundle(arguments.weights)
    opened = [
        choice.open_engines(weights, exactness=how, device="cpu", threads=arguments.threads)
        for how in EXACTNESS
    ]
    dice: list[list[NDArray[np.float64]]] = [[], []]
    seconds = [0.0, 0.0]
    for seed in arguments.seeds:
        network, body, truth = prepared(PhantomSpec(seed, arguments.size), weights.manifest)
        for number, engines in enumerate(opened):
            start = time.perf_counter()
            labels = streaming.segment_streaming(
                network,
                engines.take(mean=EXACTNESS[number] == "fast"),
                weights.manifest,
                joint=EXACTNESS[number] == "fast",
                mask=body,
                threads=arguments.threads,
            )
            seconds[number] += time.perf_counter() - start
            dice[number].append(dice_by_label(labels, truth, labels=len(ORGANS)))
        print(f"seed {seed}: {[float(np.nanmean(found[-1])) for found in dice]}", flush=True)
    return [
        Measured(np.array(found), taken, engines.choice.arithmetic)
        for found, taken, engines in zip(dice, seconds, opened, strict=True)
    ]


def table(arguments: argparse.Namespace, exact: Measured, fast: Measured) -> str:
    """The means and the organs that change most, as Markdown."""
    change = np.nanmean(fast.dice, axis=0) - np.nanmean(exact.dice, axis=0)
    means = [float(np.nanmean(np.nanmean(found.dice, axis=0))) for found in (exact, fast)]
    emulated = ", emulated: the time is not bfloat16's" if arguments.emulate else ""
    lines = [
        f"{len(arguments.seeds)} phantoms (size {arguments.size}, seeds "
        f"{', '.join(map(str, arguments.seeds))}), {datetime.date.today()}; exact: "
        f"{exact.arithmetic}; fast: {fast.arithmetic}{emulated}",
        "",
        "| | mean Dice over organs | time |",
        "|---|---:|---:|",
        f"| exact | {means[0]:.5f} | 100 % |",
        f"| fast | {means[1]:.5f} | {fast.seconds / exact.seconds:.0%} |",
        f"| change | {means[1] - means[0]:+.5f} | |",
        "",
        "| organ | exact | change |",
        "|---|---:|---:|",
    ]
    return "\n".join([*lines, *_most_changed(exact, change)])


def _most_changed(exact: Measured, change: NDArray[np.float64]) -> Sequence[str]:
    order = np.argsort(np.nan_to_num(change))
    chosen = [*order[:4], *order[-2:]]
    means = np.nanmean(exact.dice, axis=0)
    return [f"| {ORGANS[k].name} | {means[k]:.4f} | {change[k]:+.5f} |" for k in chosen]


if __name__ == "__main__":
    main()
