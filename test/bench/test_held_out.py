"""Issue 23's bars: each is met just at its limit and missed just beyond it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from oarseg.cli.main import build_parser

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def held_out(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    import held_out as module

    return module


def results(held_out: ModuleType) -> dict[str, Any]:
    """Results that meet every bar, each just so."""
    reached = held_out.Reached
    return {
        "level0": reached(10, 0.88, 0, {"OpticChiasm": 0.65}, stray_mm=20.0),
        "level2": reached(20, 0.75, 0, {"OpticChiasm": 0.5}),
        "templates": reached(1, float("nan"), 0, {}, dict.fromkeys(held_out.PLACES, 8.0)),
    }


def missed(
    held_out: ModuleType, new: dict[str, Any], old: dict[str, Any] | None = None
) -> set[str]:
    return {bar.asked for bar in held_out.judge(new, old) if not bar.met}


def test_all_bars_are_met_at_their_limits(held_out: ModuleType) -> None:
    new = results(held_out)
    old = {"level2": dataclasses.replace(new["level2"], mean=0.60)}
    bars = list(held_out.judge(new, old))
    assert all(bar.met for bar in bars)
    assert len(bars) == 12
    text = "".join(held_out.table(iter(bars)))
    assert "| level2: gain ≥ 0.10 | +0.150 | yes |" in text


@pytest.mark.parametrize(
    ("name", "change", "asked"),
    [
        ("level0", {"mean": 0.879}, "level0: mean Dice ≥ 0.88"),
        ("level0", {"structures": {"OpticChiasm": 0.64}}, "level0: chiasm ≥ 0.65"),
        ("level0", {"stray_mm": 21.0}, "level0: no piece farther than 20 mm from its organ"),
        ("level2", {"mean": 0.749}, "level2: mean Dice ≥ 0.75"),
        ("templates", {"outside": ("Eye_L",)}, "templates: usual volumes of all 7 organs"),
        ("templates", {"raised": {"parts": 1}}, "templates: no check raised"),
    ],
)
def test_a_bar_is_missed_alone(
    held_out: ModuleType, name: str, change: dict[str, Any], asked: str
) -> None:
    new = results(held_out)
    new[name] = dataclasses.replace(new[name], **change)
    assert missed(held_out, new) == {asked}


def test_organs_of_the_templates_must_be_found_and_near(held_out: ModuleType) -> None:
    new = results(held_out)
    off = new["templates"].off_mm | {"Brainstem": 8.1}
    del off["Pituitary"]
    new["templates"] = dataclasses.replace(new["templates"], off_mm=off)
    assert missed(held_out, new) == {
        "templates: Brainstem at most 8 mm off",
        "templates: Pituitary at most 8 mm off",
    }


def test_the_gain_is_over_the_weights_that_are_replaced(held_out: ModuleType) -> None:
    new = results(held_out)
    old = {"level2": dataclasses.replace(new["level2"], mean=0.66)}
    assert missed(held_out, new, old) == {"level2: gain ≥ 0.10"}


def test_seeds_are_neither_trained_on_(held_out: ModuleType) -> None:
    import weights

    held = {
        (level, s)
        for level, seed, count in held_out.HELD_OUT.values()
        for s in range(seed, seed + count)
    }
    _, first = weights.VALIDATION["level2"]
    assert not {(2, seed) for seed in range(first, first + 100)} & held
    assert max(seed for _, seed in held) < min(weights.TRAINING.values())


def test_phantoms_are_made_once_by_commands_that_oarseg_takes(
    held_out: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import weights

    made: list[int] = []

    def parse(*arguments: object, log: Path) -> None:
        made.append(build_parser().parse_args([str(a) for a in arguments]).cases)

    monkeypatch.setattr(weights, "oarseg", parse)
    job = held_out.Job(tmp_path, None, 0, 0, None, "{}", "cpu", 1)
    held_out.make_held_out(job)
    held_out.make_held_out(job)
    assert made == [10, 20]
