"""The order of repairs and of the model's postprocessing, on a phantom with a planted fault."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from oarseg.challenges.catalogue import load_challenge
from oarseg.errors import InputError
from oarseg.imaging.volume import Volume
from oarseg.labels import runs
from oarseg.model.manifest import KeepLargest
from oarseg.phantom.case import make_phantom
from oarseg.phantom.spec import PhantomSpec
from oarseg.workflows.report import Notes
from oarseg.workflows.review.judge_organs import judge_organs

HAN_SEG = load_challenge("han_seg")
LEFT, RIGHT = (HAN_SEG.structure(f"Parotid_{side}").label for side in "LR")
STEPS = (KeepLargest((LEFT,)), KeepLargest((RIGHT,)))


@cache
def clean() -> Volume:
    return make_phantom(PhantomSpec(203, with_mr=False)).labels


def half_swapped() -> NDArray[np.uint8]:
    """The lower half of the right parotid has the left one's label."""
    array = clean().array.copy()
    planes = np.flatnonzero((array == RIGHT).any(axis=(1, 2)))
    lower = array[: planes[planes.size // 2]]
    lower[lower == RIGHT] = LEFT
    return array


def judged(array: NDArray[np.uint8], *repair: str) -> tuple[NDArray[Any], Notes]:
    def source(channel: str) -> None:
        raise InputError("no image here")

    run: Any = SimpleNamespace(
        settings=SimpleNamespace(repair=repair, assume_hu=False, limits=None),
        challenge=HAN_SEG,
        weights=SimpleNamespace(manifest=SimpleNamespace(postprocessing=STEPS, pairs=())),
    )
    notes, case = Notes(), SimpleNamespace(source=source)
    done = judge_organs(clean().with_array(array), case, run, notes, body_mm=None)  # type: ignore[arg-type]
    return done.array, notes


def test_a_clean_case_keeps_every_voxel_without_a_warning() -> None:
    array, notes = judged(clean().array)
    assert np.array_equal(array, clean().array)
    assert [step["removed_parts"] for step in notes.postprocessing["steps"]] == [0, 0]
    assert not any("postprocessing" in warning for warning in notes.warnings)


def test_a_part_of_the_other_side_is_filtered_as_by_nnunet_with_a_warning() -> None:
    swapped = half_swapped()
    array, notes = judged(swapped)
    lost = np.count_nonzero(swapped != clean().array)
    assert np.count_nonzero(array == 0) - np.count_nonzero(swapped == 0) == lost > 0
    (warning,) = (text for text in notes.warnings if "postprocessing" in text)
    assert f"{lost} voxels of Parotid_L on the side of Parotid_R" in warning
    assert "--repair lr gives it the right one first" in warning


def test_sides_are_set_right_before_the_filter_where_that_is_asked_for() -> None:
    array, notes = judged(half_swapped(), "lr")
    assert np.array_equal(array, clean().array)
    assert not any("postprocessing" in warning for warning in notes.warnings)
    assert notes.repair["changed"][0]["now"] == "Parotid_R"


def test_a_ragged_label_map_is_left_as_it_is_with_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runs.LabelRuns.__init__, "__kwdefaults__", {"most": 5})
    array, notes = judged(half_swapped())
    assert np.array_equal(array, half_swapped())
    assert notes.postprocessing is None
    assert any("postprocessing was left out" in warning for warning in notes.warnings)
