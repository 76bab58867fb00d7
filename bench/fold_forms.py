"""Seconds and peak memory of an ensemble in each form that it can be opened in, on OpenVINO.

    python bench/fold_forms.py --rounds 5 --out bench/results

Each form labels the same preprocessed phantom in a process of its own, one form after the other,
round after round; ratios are those within a round, so that a machine's other work touches all
alike. The first form of each arithmetic is how it was done before: folds take turns tile by tile
and free their buffers after each. Labels of float32 must be the same in every form.
"""

from __future__ import annotations

import argparse
import datetime
import multiprocessing
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cases import ROOT
from effort import prepared
from numpy.typing import NDArray

from oarseg.imaging.arrays import Image
from oarseg.inference import streaming
from oarseg.inference.engines.buffers import allocate_logits, allocate_sums, allocate_tile
from oarseg.inference.engines.openvino import OpenVinoEngine, has_bf16
from oarseg.inference.engines.openvino_sums import OpenVinoSums
from oarseg.inference.engines.protocol import Engine
from oarseg.model import bundle
from oarseg.model.bundle import Bundle
from oarseg.model.entries.networks import Arithmetic
from oarseg.phantom import PhantomSpec
from oarseg.system.cpus import available_cpus
from oarseg.system.usage import peak_mib

BEFORE, ROWS, APART, MEAN = "tile by tile", "row by row", "one graph, apart", "one graph, mean"
# The networks add up their tiles themselves: what the product runs.
ROWS_ADD, MEAN_ADDS = "row by row, added within", "one graph, mean, added within"


@dataclass(frozen=True)
class Task:
    """One run.

    Attributes:
        form: see the constants.
        precision: of the arithmetic.
        case: the network's input and the body.
        weights: the ensemble; its float32 files are run.
        threads: of the networks and for everything else.
    """

    form: str
    precision: Arithmetic
    case: tuple[Any, Any]
    weights: Path
    threads: int

    @property
    def joint(self) -> bool:
        """Whether all folds share one sum, as they do in bfloat16."""
        return self.precision == "bf16"


@dataclass(frozen=True)
class Run:
    """What a form took.

    Attributes:
        seconds: of a case, without opening.
        cpu_s: the same, of all threads; a machine's other work changes it less.
        peak_mib: of the process.
    """

    seconds: float
    cpu_s: float
    peak_mib: float
    labels: NDArray[np.uint8]


class Frees:
    """An engine that frees its buffers after every tile."""

    answers = 1

    def __init__(self, engine: OpenVinoEngine) -> None:
        """Wrap an engine."""
        self.name = engine.name
        self._engine = engine
        self.rest = engine.rest

    def __call__(self, tile: Image, /) -> Image:
        """See ``Engine``."""
        logits = self._engine(tile)
        self._engine.rest()
        return logits


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=300, help="of the phantom")
    parser.add_argument("--size", default="small", help="of the phantom (default: small)")
    parser.add_argument("--weights", type=Path, default=ROOT / "weights")
    parser.add_argument("--threads", type=int, default=available_cpus())
    parser.add_argument("--out", type=Path, help="folder for the table")
    arguments = parser.parse_args()
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
    text = table(arguments, measure(arguments))
    print(text)
    if arguments.out:
        path = arguments.out / f"{datetime.date.today()}-forms.md"
        path.write_text(text + "\n", encoding="utf-8")


def measure(arguments: argparse.Namespace) -> dict[tuple[Arithmetic, str], list[Run]]:
    """Run every form in every round.

    Raises:
        ValueError: forms of float32 gave different labels.
    """
    manifest = bundle.load_bundle(arguments.weights).manifest
    network, body, _ = prepared(PhantomSpec(arguments.seed, arguments.size), manifest)
    kinds: list[tuple[Arithmetic, str]] = [
        ("f32", form) for form in (BEFORE, ROWS, APART, ROWS_ADD)
    ]
    if has_bf16():
        kinds += [("bf16", form) for form in (BEFORE, MEAN, MEAN_ADDS)]
    found: dict[tuple[Arithmetic, str], list[Run]] = {kind: [] for kind in kinds}
    for number in range(arguments.rounds):
        for precision, form in kinds:
            task = Task(form, precision, (network, body), arguments.weights, arguments.threads)
            run = _in_a_process(task)
            found[precision, form].append(run)
            print(
                f"round {number}, {precision}, {form}: {run.seconds:.2f} s, "
                f"{run.cpu_s:.2f} CPU s, {run.peak_mib:.0f} MiB, load {os.getloadavg()[0]:.1f}",
                flush=True,
            )
    exact = [
        run.labels for (precision, _), runs in found.items() if precision == "f32" for run in runs
    ]
    if not all(np.array_equal(labels, exact[0]) for labels in exact):
        raise ValueError("forms of float32 give different labels")
    return found


def _in_a_process(task: Task) -> Run:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(run_form, (task,))


def run_form(task: Task) -> Run:
    """Open a form and label the case, in this process."""
    weights = bundle.load_bundle(task.weights)
    engines = open_form(task, weights)
    network, body = task.case
    start, begun = time.perf_counter(), time.process_time()
    labels = streaming.segment_streaming(
        network,
        engines,
        weights.manifest,
        joint=task.joint,
        mask=body,
        threads=task.threads,
    )
    seconds, cpu_s = time.perf_counter() - start, time.process_time() - begun
    return Run(seconds, cpu_s, peak_mib(), labels)


def open_form(task: Task, weights: Bundle) -> Sequence[Engine]:
    """Open the ensemble in the task's form."""
    paths, manifest = weights.paths("fp32"), weights.manifest
    tile = allocate_tile(manifest)
    answers = len(paths) if task.form == APART else 1
    logits = allocate_logits(manifest, answers)

    if task.form in (ROWS_ADD, MEAN_ADDS):
        sums = allocate_sums(manifest)
        return [
            OpenVinoSums(files, tile, logits, sums, threads=task.threads, precision=task.precision)
            for files in ([paths] if task.form == MEAN_ADDS else [[path] for path in paths])
        ]

    def engine(files: Sequence[Path]) -> OpenVinoEngine:
        return OpenVinoEngine(
            files,
            tile,
            logits,
            threads=task.threads,
            mean=task.form == MEAN,
            precision=task.precision,
        )

    if task.form in (APART, MEAN):
        return [engine(paths)]
    engines = [engine([path]) for path in paths]
    return [Frees(one) for one in engines] if task.form == BEFORE else engines


def table(arguments: argparse.Namespace, found: dict[tuple[Arithmetic, str], list[Run]]) -> str:
    """The medians as Markdown; ratios are medians of those within a round."""
    title = bundle.load_bundle(arguments.weights).manifest.title
    lines = [
        f"{title}, a phantom (size {arguments.size}, seed {arguments.seed}), {arguments.threads} "
        f"threads, {arguments.rounds} rounds, {datetime.date.today()}, load "
        f"{os.getloadavg()[0]:.1f}",
        "",
        "| arithmetic | form | seconds | ratio (range) | CPU seconds | ratio (range) | peak, MiB |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for (precision, form), runs in found.items():
        before = found[precision, BEFORE]
        wall = [(run.seconds, old.seconds) for run, old in zip(runs, before, strict=True)]
        cpu = [(run.cpu_s, old.cpu_s) for run, old in zip(runs, before, strict=True)]
        peak = statistics.median(run.peak_mib for run in runs)
        lines.append(f"| {precision} | {form} | {_cells(wall)} | {_cells(cpu)} | {peak:.0f} |")
    return "\n".join(lines)


def _cells(pairs: Sequence[tuple[float, float]]) -> str:
    """Two cells: the median of what was measured, and its ratio to what was before."""
    ratios = [mine / old for mine, old in pairs]
    middle = statistics.median(mine for mine, _ in pairs)
    return f"{middle:.2f} | {statistics.median(ratios):.0%} ({min(ratios):.0%}–{max(ratios):.0%})"


if __name__ == "__main__":
    main()
