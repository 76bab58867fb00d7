"""What Dice to expect by how far folds agree: known answers, and what is refused."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oarseg.challenges import catalogue
from oarseg.errors import InputError
from oarseg.evaluation.calibrate import calibrate_model, read_held_out, unreported_cases
from oarseg.evaluation.expected_dice import calibrate_organ, shrunken_slope
from oarseg.evaluation.scoring import Score
from oarseg.model.bundle import Bundle, read_manifest
from oarseg.model.calibration import Calibration, HowCompared, OrganCalibration

ROOT = Path(__file__).resolve().parents[2]
HAN_SEG = catalogue.load_challenge("han_seg")
MANDIBLE, BRAINSTEM = "Bone_Mandible", "Brainstem"
HOW = HowCompared(3, mirroring=True, step=0.5, region="body")


def learned(agreement: Any, dice: Any) -> OrganCalibration:
    found = calibrate_organ(MANDIBLE, agreement, dice)
    assert found is not None
    return found


def expected(row: OrganCalibration, agreement: float) -> float:
    dice = row.expected(agreement).dice
    assert dice is not None
    return dice


def test_a_perfect_line_is_found_and_not_shrunk() -> None:
    """Dice = 2 * agreement - 1, without noise; left-out ends are predicted by their neighbours'."""
    agreement = np.linspace(0.75, 0.95, 11)
    row = learned(agreement, 2 * agreement - 1)
    assert row.slope == pytest.approx(2)
    assert expected(row, 0.8) == pytest.approx(0.6)
    # Only the two ends lie beyond what the others teach, by 0.02 each, which is 0.04 of Dice.
    assert row.error == pytest.approx(math.sqrt(2 * 0.04**2 / 11))


def test_the_slope_is_shrunk_as_derived_by_hand() -> None:
    """x = -1, 0, 1 and y = 0, 0, 2: slope 1, residuals 1/3, -2/3, 1/3; F = 2 / (2/3) = 3."""
    found = shrunken_slope(np.array([-1.0, 0.0, 1.0]), np.array([0.0, 0.0, 2.0]))
    assert found == pytest.approx(1 - 1 / 3)


def test_agreement_that_says_nothing_leaves_the_mean() -> None:
    """Above and below the mean the same: slope 0; leave-one-out errors are n / (n - 1) larger."""
    agreement = [0.8, 0.8, 0.9, 0.9] * 3
    row = learned(agreement, [0.7, 0.9, 0.7, 0.9] * 3)
    assert row.slope == 0
    assert expected(row, 0.85) == pytest.approx(0.8)
    assert row.error == pytest.approx(0.1 * 12 / 11)


@pytest.mark.parametrize("agreement", [[0.9, 0.8, 0.7, 0.6] * 3, [0.8] * 12])
def test_a_falling_line_and_one_agreement_for_all_leave_the_mean(agreement: list[float]) -> None:
    row = learned(agreement, [0.5, 0.6, 0.7, 0.8] * 3)
    assert row.slope == 0
    assert row.mean_dice == pytest.approx(0.65)


def test_few_cases_give_their_mean_and_fewer_nothing() -> None:
    agreement, dice = [0.5, 0.6, 0.7, 0.8, 0.9], [0.1, 0.3, 0.5, 0.7, 0.9]
    row = learned(agreement, dice)
    assert (row.slope, row.cases) == (0, 5)
    assert row.error == pytest.approx(
        5 / 4 * math.sqrt(np.mean(np.square([0.4, 0.2, 0, 0.2, 0.4])))
    )
    assert calibrate_organ(MANDIBLE, agreement[:4], dice[:4]) is None


def test_the_error_is_honest_for_new_cases() -> None:
    """Over many calibrations the squared error on new cases is what leave-one-out told."""
    generator = np.random.default_rng(5)
    told, true = [], []
    for _ in range(300):
        agreement = generator.uniform(0.6, 0.9, 15)
        row = learned(agreement, agreement - 0.1 + generator.normal(0, 0.05, 15))
        new = generator.uniform(row.lowest_agreement, row.highest_agreement, 20)
        truth = new - 0.1 + generator.normal(0, 0.05, 20)
        told.append(row.error**2)
        true.append(np.mean([(expected(row, a) - d) ** 2 for a, d in zip(new, truth, strict=True)]))
    assert 0.9 < np.mean(told) / np.mean(true) < 1.2


def test_beyond_the_agreements_seen_nothing_is_made_up() -> None:
    agreement = np.linspace(0.75, 0.95, 11)
    row = learned(agreement, 2 * agreement - 1)
    above, below = row.expected(0.99), row.expected(0.7)
    assert (above.dice, above.beyond) == (pytest.approx(0.9), "above")
    assert above.error == row.error
    assert (below.dice, below.error, below.beyond) == (None, None, "below")
    # Reports have four digits.
    assert row.expected(0.75 - 4e-5).beyond is None


def test_an_expected_dice_is_one() -> None:
    row = OrganCalibration(MANDIBLE, 12, 0.5, 1.0, 0.75, 0.9, 3.0, 0.1)
    assert expected(row, 1.0) == 1
    assert expected(row, 0.5) == pytest.approx(0.15)


def score(case: str, organ: str, dice: float, **more: Any) -> Score:
    return replace(Score(case, organ, "scored", "surface-distance", dsc=dice), **more)


def report(weights: Bundle, case: str, agreement: dict[str, float | None]) -> dict[str, Any]:
    return {
        "case": case,
        "model": {"manifest_sha256": weights.sha256, "title": "t"},
        "effort": {"folds": 3, "mirroring": True, "step": 0.5},
        "region": "body",
        "repair": None,
        "fold_agreement": {"folds": 3, "mean_pairwise_dice": agreement},
    }


@pytest.fixture
def weights() -> Bundle:
    return read_manifest(ROOT / "weights")


def leave(folder: Path, *reports: dict[str, Any]) -> Path:
    (folder / "reports").mkdir(exist_ok=True)
    for number, given in enumerate(reports):
        (folder / "reports" / f"{number}.json").write_text(json.dumps(given))
    return folder


def test_reports_and_scores_are_joined_by_case_and_organ(weights: Bundle, tmp_path: Path) -> None:
    """Not counted: no fold found it, no Dice, an unusable mask, no prediction, no report."""
    cases = [f"Case_{number}" for number in range(9)]
    reports = [report(weights, name, {MANDIBLE: 0.9, BRAINSTEM: 0.8}) for name in cases[:8]]
    reports[0]["fold_agreement"]["mean_pairwise_dice"][MANDIBLE] = None
    reports[7]["fold_agreement"] = None
    scores = [score(name.lower(), MANDIBLE, 0.5) for name in cases]
    scores[1] = score("case_1", MANDIBLE, math.nan, status="extra")
    scores[2] = score("case_2", MANDIBLE, 0.0, status="unusable")
    scores += [score(name, BRAINSTEM, 0.1 * k) for k, name in enumerate(cases)]
    held_out = read_held_out(leave(tmp_path, *reports), weights)
    assert [problem.name for problem in held_out.problems] == ["Case_7"]
    found, left_out = calibrate_model(
        weights, held_out, scores, challenge=HAN_SEG, unanswered=["Case_6"]
    )
    assert found.manifest_sha256 == weights.sha256
    assert found.compared == HOW
    (row,) = found.organs
    assert (row.organ, row.cases) == (BRAINSTEM, 6)
    assert row.mean_dice == pytest.approx(0.25)
    assert MANDIBLE in left_out
    assert len(left_out) == len(HAN_SEG.organs) - 1
    assert unreported_cases(held_out, scores, ["Case_6"]) == ("Case_8", "case_8")
    with pytest.raises(InputError, match=r"in at least 5 cases to calibrate by, found 4; segment"):
        calibrate_model(weights, held_out, scores[:9], challenge=HAN_SEG, unanswered=[])


def changed(**more: Any) -> Any:
    return lambda whole: whole | more


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (changed(model={"manifest_sha256": "0" * 64}), "found another's manifest_sha256"),
        (
            changed(effort={"mirroring": False, "step": 0.5}),
            "expected folds, mirroring, step, region and repair as",
        ),
        (changed(region="all"), "expected folds, mirroring, step, region and repair as"),
        (changed(repair={"asked": ["lr"], "changed": []}), "step, region and repair as"),
        (changed(region="head"), "region: Input should be"),
        (changed(effort={"mirroring": "no", "step": 0.5}), "effort.mirroring: Input should be"),
        (changed(effort={"mirroring": True, "step": 7}), "step: Input should be less than"),
        (changed(fold_agreement={"folds": 1, "mean_pairwise_dice": {}}), "folds: Input should be"),
        (changed(fold_agreement={"folds": 3, "mean_pairwise_dice": {MANDIBLE: 1.2}}), "found 1.2"),
        (changed(fold_agreement={"folds": 3, "mean_pairwise_dice": {MANDIBLE: math.nan}}), "Input"),
        (changed(case=3), "case: Input should be a valid string"),
        (lambda _: [], "Input should be an object"),
    ],
)
def test_reports_that_cannot_be_calibrated_by_are_refused(
    change: Any, said: str, weights: Bundle, tmp_path: Path
) -> None:
    good = report(weights, "a", {MANDIBLE: 0.9})
    folder = leave(tmp_path, good, change(report(weights, "b", {MANDIBLE: 0.9})))
    with pytest.raises(InputError) as refusal:
        read_held_out(folder, weights)
    assert str(refusal.value).startswith(f"{folder / 'reports' / '1.json'}: ")
    assert said in str(refusal.value)


def test_two_reports_of_one_case_are_refused(weights: Bundle, tmp_path: Path) -> None:
    """A copy, or the name in other letters: the last one would count, whichever that is."""
    pair = [report(weights, name, {MANDIBLE: 0.9}) for name in ("Case_1", "case_1")]
    folder = leave(tmp_path, *pair) / "reports"
    with pytest.raises(InputError) as refusal:
        read_held_out(tmp_path, weights)
    assert str(refusal.value).startswith(f"{folder / '1.json'}: expected one report of each case")
    assert f"in {folder / '0.json'}; remove the one" in str(refusal.value)


def test_hidden_files_are_no_reports_and_pipes_are_not_waited_for(
    weights: Bundle, tmp_path: Path
) -> None:
    folder = leave(tmp_path, report(weights, "a", {MANDIBLE: 0.9})) / "reports"
    (folder / "._0.json").write_bytes(b"\x00\x05\x16\x07")
    assert set(read_held_out(tmp_path, weights).agreement) == {"a"}
    os.mkfifo(folder / "1.json")
    with pytest.raises(InputError, match=r"1\.json: expected a report .*, found no file"):
        read_held_out(tmp_path, weights)


def test_without_reports_or_agreement_nothing_is_calibrated(
    weights: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"expected reports of 'oarseg segment' to calibrate by"):
        read_held_out(tmp_path, weights)
    alone = report(weights, "a", {}) | {"fold_agreement": None}
    with pytest.raises(InputError, match=r"expected fold_agreement in reports, found none"):
        read_held_out(leave(tmp_path, alone), weights)


def test_folds_that_were_run_otherwise_are_not_judged() -> None:
    row = OrganCalibration(MANDIBLE, 12, 0.5, 1.0, 0.75, 0.9, 0.0, 0.1)
    known = Calibration(1, "0" * 64, HOW, (row,))
    agreement = {MANDIBLE: 0.8, BRAINSTEM: 0.8, "Lips": None}
    found = known.expected_dice(agreement, HOW)
    assert found is not None
    assert found[MANDIBLE] == row.expected(0.8)
    assert found[BRAINSTEM] is found["Lips"] is None
    for other in (
        replace(HOW, folds=2),
        replace(HOW, mirroring=False),
        replace(HOW, step=0.7),
        replace(HOW, region="full"),
        replace(HOW, repair=("lr",)),
    ):
        assert known.expected_dice(agreement, other) is None
