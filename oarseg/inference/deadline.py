"""Chooses what to leave out so that a run meets its time limit.

The order follows what each saving costs in Dice on phantoms (``docs/inference.md``). Flips are left
out first, then folds down to two, then the overlap of tiles is reduced. A single fold comes last:
with nnU-Net's overlap it takes as long as all folds with less overlap, and loses more Dice.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oarseg.imaging.arrays import Half, Image
from oarseg.inference.configurations.model_parts import ModelPart
from oarseg.inference.engines.choice import Engines
from oarseg.inference.engines.protocol import AddsTiles, Engine, run_once
from oarseg.inference.ensemble import mirror_flips
from oarseg.inference.preprocessing import NetworkInput, Placement
from oarseg.inference.region.footprint import BlockMask
from oarseg.inference.streaming import Effort, Work, segment_streaming
from oarseg.inference.tiling import STEP
from oarseg.model.manifest import Manifest
from oarseg.system.usage import process_age_s

WIDER_STEP, WIDEST_STEP = 0.75, 1.0
# The rest is for writing, and for tiles that take longer than the first ones did.
USABLE = 0.85


@dataclass
class Deadline:
    """Shares the remaining time among the remaining cases.

    Attributes:
        seconds: for the whole run, from the start of the process.
        cases: the cases that remain, the present one included.
        started_s: when the run began, by ``time.monotonic``; None: with this process.
    """

    seconds: float
    cases: int
    started_s: float | None = None
    _end: float = field(init=False)

    def __post_init__(self) -> None:
        started_s = self.started_s
        if started_s is None:
            started_s = time.monotonic() - process_age_s()
        self._end = started_s + self.seconds

    def left(self) -> float:
        """Return the seconds that the present case may take."""
        return max(0.0, self._end - time.monotonic()) / max(1, self.cases)


@dataclass(frozen=True)
class Costs:
    """Seconds that a tile takes.

    Attributes:
        network_s: for one run of a network.
        rest_s: for everything else.
    """

    network_s: float
    rest_s: float

    def of(self, effort: Effort, work: Work, manifest: Manifest, folds: int) -> float:
        """Estimate the seconds that a whole case takes."""
        runs = len(range(folds)[: effort.folds]) * (1 + len(mirror_flips(manifest, effort.mirror)))
        return work.count * (runs * self.network_s + self.rest_s)


def effort_ladder(whole: Effort, folds: int) -> tuple[Effort, ...]:
    """List efforts from the whole one down, in decreasing order of their Dice."""
    plain = replace(whole, mirror=False)
    steps = (whole.step, WIDER_STEP, WIDEST_STEP)
    rungs = [
        replace(plain, folds=n, step=step)
        for step in steps
        for n in range(folds, 0, -1)
        if n > 1 or folds == 1 or step > whole.step
    ]
    rungs[0] = plain  # all folds
    return (whole, *rungs) if whole.mirror else tuple(rungs)


def choose_effort(
    seconds: float,
    parts: Sequence[ModelPart],
    *,
    whole: Effort,
    joint: bool = False,
    mask: BlockMask | None,
    threads: int,
) -> tuple[Effort, float]:
    """Choose the first effort of the ladder that fits, else the last; see ``measure_costs``.

    Args:
        seconds: that there are.
        parts: all configurations of a model, which run one after the other.
        whole: the full effort.
        joint, mask, threads: as for ``segment_streaming``.

    Returns:
        The effort, for every configuration, and the seconds that it is expected to take.
    """
    costs = [
        measure_costs(part.net_input, part.engines, part.manifest, joint=joint, threads=threads)
        for part in parts
    ]

    def expect(effort: Effort) -> float:
        return sum(
            cost.of(effort, part.work(mask, effort), part.manifest, part.engines.folds)
            for cost, part in zip(costs, parts, strict=True)
        )

    expected = math.inf
    effort = whole
    start = time.monotonic()
    for effort in effort_ladder(whole, max(part.engines.folds for part in parts)):
        expected = expect(effort)
        if expected <= USABLE * seconds - (time.monotonic() - start):
            break
    return effort, expected


def measure_costs(
    net_input: NetworkInput,
    engines: Engines,
    manifest: Manifest,
    *,
    joint: bool = False,
    threads: int,
) -> Costs:
    """Measure how long one tile of the image takes.

    The second of two runs counts, as the first one includes everything's warm-up. Networks that
    take turns warm up again each time, which a case has once a row: there they run once more.
    """
    part = _central_tile(net_input, manifest)
    taken = engines.take(mean=joint)
    timed = [
        _TimedAdder(engine) if isinstance(engine, AddsTiles) else _TimedEngine(engine)
        for engine in taken
    ]
    total = 0.0
    for again in (False, len(taken) > 1):
        for engine in timed:
            engine.again, engine.last_s, engine.all_s = again, 0.0, 0.0
        start = time.perf_counter()
        segment_streaming(part, timed, manifest, joint=joint, threads=threads, gpu=engines.gpu)
        total = time.perf_counter() - start
    rest_s = total - sum(engine.all_s for engine in timed)
    return Costs(sum(engine.last_s for engine in timed) / engines.folds, max(0.0, rest_s))


class _TimedEngine:
    """An engine that adds up the seconds of its runs: of all, and of the last for each tile."""

    def __init__(self, engine: Engine) -> None:
        self.name = engine.name
        self.answers = engine.answers
        self.again = False
        self.last_s = self.all_s = 0.0
        self._engine = engine

    def __call__(self, tile: Image, /) -> Image:
        with self._timed(tile):
            return self._engine(tile)

    @contextmanager
    def _timed(self, tile: Image) -> Iterator[None]:
        begun = start = time.perf_counter()
        if self.again:
            run_once(self._engine, tile)
            start = time.perf_counter()
        yield
        end = time.perf_counter()
        self.last_s += end - start
        self.all_s += end - begun

    def rest(self) -> None:
        self._engine.rest()


class _TimedAdder(_TimedEngine):
    """The same of an engine that adds its tiles itself."""

    def __init__(self, engine: AddsTiles) -> None:
        super().__init__(engine)
        self._adder = engine

    def run(self, tile: Image) -> None:
        self._adder.run(tile)

    def add(self, tile: Image, totals: Sequence[Half], weights: Image, pool: Executor) -> bool:
        with self._timed(tile):
            return self._adder.add(tile, totals, weights, pool)


def _central_tile(net_input: NetworkInput, manifest: Manifest) -> NetworkInput:
    """Crop the middle of an image, one patch large."""
    place, data = net_input.placement, net_input.data
    shape = [min(n, p) for n, p in zip(place.network_shape, manifest.patch_size, strict=True)]
    starts = [(n - s) // 2 for n, s in zip(place.network_shape, shape, strict=True)]
    middle = tuple(slice(a, a + s) for a, s in zip(starts, shape, strict=True))
    crop = [
        max(1, round(s * c / n))
        for s, c, n in zip(shape, place.crop_shape, place.network_shape, strict=True)
    ]
    part: NDArray[Any] = np.ascontiguousarray(data[(slice(None), *middle)])
    hint = net_input.hint and replace(net_input.hint, map=net_input.hint.map[middle])
    return NetworkInput(
        part,
        Placement(
            (crop[0], crop[1], crop[2]),
            place.crop_spacing_mm,
            (0, 1, 2),
            ((0, crop[0]), (0, crop[1]), (0, crop[2])),
            (shape[0], shape[1], shape[2]),
            place.network_spacing_mm,
        ),
        hint,
    )


def describe_losses(whole: Effort, effort: Effort, folds: int) -> tuple[str, ...]:
    """Describe what was left out, a phrase for each saving."""
    found = []
    if whole.mirror and not effort.mirror:
        found.append("mirroring")
    if effort.step > whole.step:
        found.append(f"overlap of tiles (step {effort.step:g} instead of {STEP:g})")
    used = len(range(folds)[: effort.folds])
    if used < folds:
        found.append(f"{folds - used} of {folds} folds")
    return tuple(found)
