from functools import cache

import numpy as np
import pytest
from planted_faults import ISLAND, with_fault

from oarseg.challenges.catalogue import load_challenge
from oarseg.imaging.orientation import Turn
from oarseg.imaging.volume import Volume
from oarseg.phantom.case import make_phantom
from oarseg.phantom.spec import PhantomSpec
from oarseg.plausibility.midline import find_midline
from oarseg.plausibility.repair import Change, repair_labels

HAN_SEG = load_challenge("han_seg")


@cache
def clean() -> Volume:
    return make_phantom(PhantomSpec(203, with_mr=False)).labels


def voxels(labels: Volume, name: str) -> int:
    return int((labels.array == HAN_SEG.structure(name).label).sum())


def test_a_clean_case_is_not_changed() -> None:
    repaired, changes = repair_labels(clean(), HAN_SEG, ("lr", "components"))
    assert repaired is clean()
    assert changes == ()


@pytest.mark.parametrize("turn", [Turn(), Turn((0, 1, 2), (True, False, True))])
def test_swapped_parotids_are_set_right(turn: Turn) -> None:
    good = turn.volume(clean())
    swapped = with_fault(good, "swapped parotids", HAN_SEG)
    repaired, changes = repair_labels(swapped, HAN_SEG, ("lr",))
    assert np.array_equal(repaired.array, good.array)
    assert repaired.grid == good.grid
    assert changes == (
        Change("lr", "Parotid_L", "Parotid_R", voxels(good, "Parotid_R")),
        Change("lr", "Parotid_R", "Parotid_L", voxels(good, "Parotid_L")),
    )


def test_all_pairs_swapped_are_set_right() -> None:
    array = clean().array.copy()
    for left in (s for s in HAN_SEG.structures if s.side == "left"):
        right = HAN_SEG.structure(left.name[:-1] + "R")
        both = [array == side.label for side in (left, right)]
        array[both[0]], array[both[1]] = right.label, left.label
    repaired, changes = repair_labels(clean().with_array(array), HAN_SEG, ("lr",))
    assert np.array_equal(repaired.array, clean().array)
    assert len(changes) == 16


def test_a_stray_part_is_removed() -> None:
    faulty = with_fault(clean(), "an island of 20 voxels", HAN_SEG)
    repaired, changes = repair_labels(faulty, HAN_SEG, ("components",))
    assert np.array_equal(repaired.array, clean().array)
    assert changes == (Change("components", "Parotid_L", "", ISLAND),)


def test_only_what_was_asked_for_is_repaired() -> None:
    faulty = with_fault(clean(), "an island of 20 voxels", HAN_SEG)
    assert repair_labels(faulty, HAN_SEG, ("lr",))[1] == ()


@pytest.mark.parametrize("turn_deg", [0, 20, -35])
def test_a_midline_lies_between_pairs_and_turns_with_them(turn_deg: float) -> None:
    c, s = np.cos(np.radians(turn_deg)), np.sin(np.radians(turn_deg))
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])

    def turned(*point: float) -> tuple[float, float, float]:
        x, y, z = (turn @ point).tolist()
        return x, y, z

    # The second pair is in the wrong order.
    pairs = [(turned(13, 1, 5), turned(-7, 1, 5)), (turned(-17, 20, 0), turned(23, 20, 0))]
    plane = find_midline(pairs)
    assert plane is not None
    assert plane.left_by_mm(turned(13, 40, 7)) == pytest.approx(10)
    assert plane.left_by_mm(turned(-7, 0, 0)) == pytest.approx(-10)


def test_without_pairs_the_body_gives_the_midline() -> None:
    plane = find_midline([], (7.0, 0.0, 0.0))
    assert plane is not None
    assert plane.left_by_mm((9.0, 50.0, 50.0)) == pytest.approx(2.0)
    assert find_midline([]) is None
