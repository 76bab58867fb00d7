"""Planted faults raise exactly their own check, clean cases and real raters' masks none."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import get_args

import numpy as np
import pytest
from planted_faults import FAULTS, with_fault
from raters import read_raters

from oarseg.challenges.catalogue import challenge_names, load_challenge
from oarseg.challenges.pairs import name_pairs
from oarseg.challenges.plausibility import Plausibility
from oarseg.imaging.volume import Volume
from oarseg.phantom.case import Phantom, make_phantom
from oarseg.phantom.spec import PhantomSpec
from oarseg.plausibility.checks import CheckName, Finding, find_implausible
from oarseg.plausibility.measure import Measured, measure_organs
from oarseg.results.page.texts import CHECK_TEXTS

HAN_SEG = load_challenge("han_seg")
LIMITS = HAN_SEG.plausibility
# Whole organs, and glands that are about as large on either side; others are counted by the bench.
CLEAN_SEEDS = (203, 204, 208, 209, 210, 211, 212, 213, 214, 216)
# The raters' names of organs that HaN-Seg outlines too.
RATERS_NAMES = {
    "Brainstem": "Brainstem",
    "Cochlea_Lt": "Cochlea_L",
    "Cochlea_Rt": "Cochlea_R",
    "Lacrimal_Lt": "Glnd_Lacrimal_L",
    "Lacrimal_Rt": "Glnd_Lacrimal_R",
    "Mandible": "Bone_Mandible",
    "Optic_Nerve_Lt": "OpticNrv_L",
    "Optic_Nerve_Rt": "OpticNrv_R",
    "Orbit_Lt": "Eye_PL",
    "Orbit_Rt": "Eye_PR",
    "Parotid_Lt": "Parotid_L",
    "Parotid_Rt": "Parotid_R",
    "Spinal_Cord": "SpinalCord",
    "Submandibular_Lt": "Glnd_Submand_L",
    "Submandibular_Rt": "Glnd_Submand_R",
}


@cache
def phantom(seed: int) -> Phantom:
    return make_phantom(PhantomSpec(seed, with_mr=False))


def raised(labels: Volume, ct: Volume | None = None) -> list[Finding]:
    measured = measure_organs(labels, HAN_SEG.organs, LIMITS, image=ct)
    assert measured is not None
    return list(find_implausible(measured, LIMITS))


@pytest.mark.parametrize("seed", CLEAN_SEEDS)
def test_a_clean_phantom_raises_none(seed: int) -> None:
    case = phantom(seed)
    assert set(case.truth.presence.values()) == {1.0}
    assert raised(case.labels, case.ct) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_raises_its_own_check_only(fault: str) -> None:
    case = phantom(CLEAN_SEEDS[0])
    _, check, organs = FAULTS[fault]
    found = raised(with_fault(case.labels, fault, HAN_SEG), case.ct)
    assert [(finding.check, finding.organs) for finding in found] == [(check, organs)]


@pytest.mark.parametrize("rater", ["oncologist", "radiographer"])
@pytest.mark.parametrize("case", [1, 2, 3])
def test_raters_masks_raise_only_that_the_field_cuts_the_cord(case: int, rater: str) -> None:
    labels, masks = read_raters(f"case_{case}/{rater}")
    organs = [
        replace(mask, name=RATERS_NAMES[mask.name]) for mask in masks if mask.name in RATERS_NAMES
    ]
    assert len(organs) == len(RATERS_NAMES)
    measured = measure_organs(labels, organs, LIMITS)
    assert measured is not None
    found = find_implausible(measured, LIMITS)
    assert [(finding.check, finding.organs) for finding in found] == [("cut", ("SpinalCord",))]


def test_a_missing_organ() -> None:
    case = phantom(CLEAN_SEEDS[0])
    array = case.labels.array.copy()
    array[array == HAN_SEG.structure("Pituitary").label] = 0
    assert raised(case.labels.with_array(array), case.ct) == [
        Finding("missing", ("Pituitary",), "not found")
    ]


def test_a_density_that_is_not_the_organs() -> None:
    case = phantom(CLEAN_SEEDS[0])
    values = case.ct.array.copy()
    values[case.labels.array == HAN_SEG.structure("Brainstem").label] = -700
    found = raised(case.labels, case.ct.with_array(values))
    assert [(finding.check, finding.organs) for finding in found] == [("density", ("Brainstem",))]
    assert "-700 HU" in found[0].message


def test_an_organ_out_of_place() -> None:
    case = phantom(CLEAN_SEEDS[0])
    label = HAN_SEG.structure("Pituitary").label
    moved = np.roll(case.labels.array == label, -12, axis=0)
    array = np.where(case.labels.array == label, np.uint8(0), case.labels.array)
    array[moved] = label
    found = raised(case.labels.with_array(array))
    assert ("place", ("Pituitary",)) in [(finding.check, finding.organs) for finding in found]


def organ(name: str, x_mm: float, cm3: float, **more: object) -> Measured:
    return replace(Measured(name, cm3, (x_mm, 0.0, 0.0), parts=1), **more)


def test_a_ratio_is_judged_both_ways_and_not_where_the_field_cuts() -> None:
    left, right = organ("A_L", 10, 1.6), organ("A_R", -10, 1.0)
    limits = Plausibility()
    for pair, larger in (
        ((left, right), "left"),
        ((replace(left, volume_cm3=0.6), right), "right"),
    ):
        (found,) = find_implausible(pair, limits)
        assert found.check == "ratio"
        assert larger in found.message
    cut = replace(left, edges=("superior",))
    assert [finding.check for finding in find_implausible((cut, right), limits)] == ["cut"]
    assert find_implausible((left, right), Plausibility(largest_ratios={"A_L": 1.7})) == ()


def test_pairs_are_told_by_names() -> None:
    names = ["Eye_AL", "Eye_AR", "Lens_L", "Lens_R", "LeftLung", "RightLung", "Gland_L", "Colon"]
    assert name_pairs(names) == (
        ("Eye_AL", "Eye_AR"),
        ("Lens_L", "Lens_R"),
        ("LeftLung", "RightLung"),
    )


@pytest.mark.parametrize("name", challenge_names())
def test_every_organ_of_a_side_has_its_counterpart(name: str) -> None:
    challenge = load_challenge(name)
    sided = {organ.name for organ in challenge.organs if organ.side}
    paired = {name for pair in name_pairs(o.name for o in challenge.organs) for name in pair}
    assert sided <= paired


def test_every_check_has_a_name_on_pages() -> None:
    assert set(CHECK_TEXTS) == set(get_args(CheckName))
