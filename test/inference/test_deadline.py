"""What is left out to meet a time limit, and in which order."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nnunet_oracle import CT, Recipe, images, manifest_of
from numpy.typing import NDArray
from one_fold import OneFold

from oarseg.inference import deadline
from oarseg.inference.configurations.model_parts import ModelPart
from oarseg.inference.deadline import (
    Costs,
    Deadline,
    choose_effort,
    describe_losses,
    effort_ladder,
    measure_costs,
)
from oarseg.inference.engines.choice import DeviceChoice, Engines
from oarseg.inference.engines.forms import separate_networks
from oarseg.inference.preprocessing import NetworkInput, preprocess
from oarseg.inference.streaming import Effort, plan_tiles
from oarseg.model.entries.networks import ModelFile
from oarseg.model.manifest import Manifest
from oarseg.system.usage import process_age_s

PATCH = (6, 8, 10)
FILE = ModelFile("fold_0.onnx", "0" * 64, "0", "fp32")


class Slow(OneFold):
    """A network that takes a known time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.calls = 0

    def __call__(self, patch: NDArray[Any]) -> NDArray[Any]:
        self.calls += 1
        time.sleep(self.seconds)
        return np.zeros((1, 3, *PATCH), np.float32)


def model(mirror: tuple[int, ...] = (0, 2)) -> Manifest:
    recipe = Recipe(
        (2.0, 1.0, 1.0), PATCH, (CT,), {"background": 0, "a": 1, "b": 2}, mirror_axes=mirror
    )
    return manifest_of(recipe, (FILE,))


def opened(*engines: Slow) -> Engines:
    return Engines(DeviceChoice("cpu", "onnxruntime", "asked for"), separate_networks(engines))


def case(manifest: Manifest) -> NetworkInput:
    return preprocess(images((12, 24, 30), 1), (2.0, 1.1, 1.1), manifest)


def test_the_rungs_give_up_flips_then_folds_then_overlap() -> None:
    rungs = effort_ladder(Effort(mirror=True), 3)
    wider, widest = (f"overlap of tiles (step {step} instead of 0.5)" for step in ("0.75", "1"))
    assert rungs[0] == Effort(mirror=True)
    assert [describe_losses(rungs[0], rung, 3) for rung in rungs] == [
        (),
        ("mirroring",),
        ("mirroring", "1 of 3 folds"),
        ("mirroring", wider),
        ("mirroring", wider, "1 of 3 folds"),
        ("mirroring", wider, "2 of 3 folds"),
        ("mirroring", widest),
        ("mirroring", widest, "1 of 3 folds"),
        ("mirroring", widest, "2 of 3 folds"),
    ]
    assert effort_ladder(Effort(), 1) == (Effort(), Effort(1, step=0.75), Effort(1, step=1.0))


def test_costs_count_folds_flips_and_tiles() -> None:
    manifest = model()
    work = plan_tiles(case(manifest).placement, manifest)
    costs = Costs(1.0, 0.1)
    # Three folds, each with the flips along (0), (2), (0, 2) and without.
    assert costs.of(Effort(mirror=True), work, manifest, 3) == pytest.approx(work.count * 12.1)
    assert costs.of(Effort(folds=2), work, manifest, 3) == pytest.approx(work.count * 2.1)


def test_costs_are_measured_on_one_tile() -> None:
    manifest = model()
    engines = [Slow(0.02), Slow(0.02)]
    costs = measure_costs(case(manifest), opened(*engines), manifest, threads=1)
    # Folds that take turns warm up once more in the run that counts.
    assert [engine.calls for engine in engines] == [3, 3]
    assert 0.02 <= costs.network_s < 0.04
    assert costs.rest_s > 0


@pytest.mark.parametrize(
    ("seconds", "left_out"),
    [
        (1000.0, ()),
        (0.0, ("overlap of tiles (step 1 instead of 0.5)", "1 of 2 folds")),
    ],
)
def test_as_much_as_fits_is_computed(seconds: float, left_out: tuple[str, ...]) -> None:
    manifest, whole = model(()), Effort()
    engines = opened(Slow(0.001), Slow(0.001))
    effort, expected = choose_effort(
        seconds,
        [ModelPart(manifest, case(manifest), engines)],
        whole=whole,
        mask=None,
        threads=1,
    )
    assert describe_losses(whole, effort, 2) == left_out
    assert (expected > seconds) == bool(left_out)


def test_a_limit_between_takes_the_first_rung_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, whole = model(()), Effort()
    net_input = case(manifest)
    tiles = {
        step: plan_tiles(net_input.placement, manifest, step=step).count for step in (0.5, 0.75)
    }
    monkeypatch.setattr(deadline, "measure_costs", lambda *_, **__: Costs(20.0, 0.0))
    # Half way between the wider step's time and the whole one's.
    seconds = 20.0 * (tiles[0.75] + tiles[0.5]) / 2 / deadline.USABLE
    part = ModelPart(manifest, net_input, opened(Slow(0.0)))
    effort, expected = choose_effort(seconds, [part], whole=whole, mask=None, threads=1)
    assert effort == Effort(1, step=0.75)
    assert expected == 20.0 * tiles[0.75]
    # Two configurations take twice as long, and the same is left out of both.
    effort, expected = choose_effort(2 * seconds, [part, part], whole=whole, mask=None, threads=1)
    assert (effort, expected) == (Effort(1, step=0.75), 40.0 * tiles[0.75])


def test_cases_share_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(deadline, "process_age_s", lambda: 20.0)
    shared = Deadline(120, 4)
    assert shared.left() == 25
    now[0] += 60
    assert shared.left() == 10
    assert Deadline(20, 1).left() == 0
    assert Deadline(100, 1, now[0] - 30).left() == 70


def test_the_age_of_a_process(tmp_path: Path) -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    begun = time.clock_gettime(time.CLOCK_BOOTTIME)
    started = begun - 7
    fields = ["S", *["0"] * 18, str(int(started * ticks)), "0"]
    stat = tmp_path / "stat"
    stat.write_text(f"42 (a (b) c) {' '.join(fields)}\n")
    age = process_age_s(stat)
    latest = 7 + time.clock_gettime(time.CLOCK_BOOTTIME) - begun
    assert 7 <= age <= latest + 1 / ticks
    assert process_age_s(tmp_path / "none") == 0


def test_the_age_of_this_very_process() -> None:
    code = "from oarseg.system.usage import process_age_s; print(process_age_s())"
    begun = time.clock_gettime(time.CLOCK_BOOTTIME)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    longest = time.clock_gettime(time.CLOCK_BOOTTIME) - begun
    assert 0 < float(done.stdout) <= longest + 1 / os.sysconf("SC_CLK_TCK")
