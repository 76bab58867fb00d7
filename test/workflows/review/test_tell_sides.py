"""Sides of a model's merged pairs, told before anything else is judged."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from oarseg.challenges.catalogue import load_challenge
from oarseg.challenges.pairs import name_pairs
from oarseg.errors import InferenceError, InputError
from oarseg.imaging.volume import Volume
from oarseg.labels import runs
from oarseg.phantom.case import make_phantom
from oarseg.phantom.spec import PhantomSpec
from oarseg.workflows.report import Notes
from oarseg.workflows.review.judge_organs import judge_organs

HAN_SEG = load_challenge("han_seg")
LABELS = {structure.name: structure.label for structure in HAN_SEG.structures}
NAMES = name_pairs(LABELS)
PAIRS = tuple((LABELS[left], LABELS[right]) for left, right in NAMES)


@cache
def truth() -> Volume:
    return make_phantom(PhantomSpec(203, with_mr=False)).labels


def merged() -> NDArray[np.uint8]:
    array = truth().array.copy()
    for left, right in PAIRS:
        array[array == right] = left
    return array


def judged(
    array: NDArray[np.uint8], pairs: tuple[tuple[int, int], ...], **options: Any
) -> tuple[NDArray[Any], Notes]:
    def source(channel: str) -> None:
        raise InputError("no image here")

    run: Any = SimpleNamespace(
        settings=SimpleNamespace(repair=(), assume_hu=False, limits=None),
        challenge=HAN_SEG,
        weights=SimpleNamespace(manifest=SimpleNamespace(postprocessing=(), pairs=pairs)),
    )
    notes, case = Notes(), SimpleNamespace(source=source)
    done = judge_organs(truth().with_array(array), case, run, notes, **options)  # type: ignore[arg-type]
    return done.array, notes


def test_both_sides_are_checked_and_reported() -> None:
    array, notes = judged(merged(), PAIRS, body_mm=None)
    assert np.array_equal(array, truth().array)
    assert notes.sides is not None
    assert notes.sides["told_from"] == "pairs"
    assert notes.sides["pairs"] >= 6
    for name in (name for pair in NAMES for name in pair):
        assert notes.sides["voxels"][name] == np.count_nonzero(array == LABELS[name])
    assert notes.checks is not None
    assert "missing" not in {found["check"] for found in notes.checks["raised"]}


def test_a_model_that_tells_sides_itself_is_left_alone() -> None:
    array, notes = judged(merged(), (), body_mm=None)
    assert np.array_equal(array, merged())
    assert notes.sides is None


def test_a_plane_that_no_organ_shows_is_a_warning() -> None:
    """One parotid alone, in an image whose body lies to the right of it."""
    alone = np.where(truth().array == LABELS["Parotid_L"], truth().array, 0).astype(np.uint8)
    centre = truth().grid.to_world(np.argwhere(alone).mean(0)[None])[0]
    array, notes = judged(alone, PAIRS, body_mm=(centre[0] - 40, centre[1], centre[2]))
    assert np.array_equal(array, alone)
    assert any("sides were told by the body's centre" in text for text in notes.warnings)
    array, _ = judged(alone, PAIRS, body_mm=(centre[0] + 40, centre[1], centre[2]))
    assert set(np.unique(array)) == {0, LABELS["Parotid_R"]}


def test_labels_too_ragged_fail_the_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs.LabelRuns.__init__, "__kwdefaults__", {"most": 5})
    with pytest.raises(InferenceError, match="whose sides can be told, found labels too ragged"):
        judged(merged(), PAIRS, body_mm=None)
