"""The experiment with 8 bits: what its table says, and which tiles it calibrates on."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))

import int8  # noqa: E402
from int8 import ORGANS, Outcome, Recorder  # noqa: E402

OPTIONS = argparse.Namespace(seeds=[1, 2], size="small", threads=2)


def outcome(fall: float, *, of_one: float = 0.0) -> Outcome:
    dice = np.full(len(ORGANS), 0.9) - fall
    dice[3] -= of_one
    return Outcome([dice, dice], [2.0, 4.0], [1.0, 0.5])


def test_the_bar_is_on_the_mean_and_on_each_organ() -> None:
    exact = outcome(0.0)
    assert int8.is_good_enough(outcome(0.0009), exact)
    assert not int8.is_good_enough(outcome(0.0011), exact)
    # One organ of thirty: the mean falls by 0.0002.
    assert not int8.is_good_enough(outcome(0.0, of_one=0.006), exact)
    assert int8.is_good_enough(outcome(0.0, of_one=0.004), exact)


def test_the_table_says_what_was_lost_and_won() -> None:
    low = outcome(0.0, of_one=0.006)
    low.seconds = [1.0, 1.0]
    text = int8.table(OPTIONS, {"float32": outcome(0.0), "int8": low})
    assert "| int8 | 0.89980 | -0.00600 | 75.0000% | 38% |" in text
    assert "int8 breaks the bar" in text
    assert f"| {ORGANS[3].name} | 0.9000 | -0.00600 |" in text.splitlines()


def test_every_so_many_tiles_are_kept() -> None:
    recorder = Recorder(np.ones((1, 2, 1, 1, 1), np.float32), every=3)
    for number in range(7):
        tile = np.full((1, 1, 1, 1, 1), number, np.float32)
        assert not recorder(tile).any()
    assert [int(tile.max()) for tile in recorder.tiles] == [0, 3, 6]
