"""Score one case: every structure against its reference, and left against right.

The challenge's rules for a missing structure, prediction or mask are applied here, in
``_apply_empty_rules``. ``evaluate`` decides whether a case without a prediction is scored at
all, and ``metrics`` compares non-empty masks only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from oarseg.challenges.challenge import Challenge, Evaluation, Organ, Pair
from oarseg.errors import InputError
from oarseg.evaluation.metrics import Definition, Metrics, compare_masks
from oarseg.evaluation.mr_field import MrField
from oarseg.imaging.volume import Grid
from oarseg.labels.mask import CroppedMask
from oarseg.labels.open_masks import Masks, NoMasks

ScoreStatus = Literal["scored", "missed", "extra", "absent", "outside", "unusable"]
NAN = math.nan
MAX_FILES_NAMED = 3
# Paired organs are farther apart in any patient; less comes from stray voxels.
MIN_SWAP_MM = 5.0
NO_METRICS = Metrics(NAN, NAN, NAN, NAN, NAN)


@dataclass(frozen=True)
class Score:
    """Scores of one structure in one case; NaN for a figure that does not exist.

    Attributes:
        case, structure: names.
        status: "scored"; "missed": only the reference has the structure, or the prediction
            is missing or unusable; "extra": only the prediction has it; "absent": neither;
            "outside": too little of it is in the field of view; "unusable": a file cannot
            be used, see ``note``.
        definition: definition of ``hd95_mm`` and ``msd_mm``.
        dsc, hd95_mm, nsd, msd_mm, volume_difference_cm3: see ``metrics``.
        prediction_cm3, reference_cm3: volumes, within the field if there is one.
        kept: fraction of the reference's volume in the field; 1 without a field.
        tolerance_mm: tolerance of ``nsd``.
        note: remarks for the user.
    """

    case: str
    structure: str
    status: ScoreStatus
    definition: Definition
    dsc: float = NAN
    hd95_mm: float = NAN
    nsd: float = NAN
    msd_mm: float = NAN
    volume_difference_cm3: float = NAN
    prediction_cm3: float = NAN
    reference_cm3: float = NAN
    kept: float = 1.0
    tolerance_mm: float = NAN
    note: str = ""


@dataclass(frozen=True)
class Sides:
    """Prediction and reference of a case.

    Attributes:
        prediction, reference: masks on ``grid``.
        grid: the reference's grid.
        field: the MR's field of view, if structures are cut to it.
    """

    prediction: Masks
    reference: Masks
    grid: Grid
    field: MrField | None = None


@dataclass(frozen=True)
class CaseScores:
    """Scores of a case, in the challenge's order of structures, and its problems."""

    scores: tuple[Score, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class _ScoredOrgan:
    """A score, and the structure's centroid on either side (world x y z)."""

    score: Score
    prediction: NDArray[np.float64] | None = None
    reference: NDArray[np.float64] | None = None


def score_case(
    case: str, sides: Sides, challenge: Challenge, *, definition: Definition, threads: int
) -> CaseScores:
    """Score every structure of a case.

    Args:
        case: name of the case.
        sides: both sides and their grid.
        challenge: structures and scoring rules.
        definition: definition of HD95 and of the mean surface distance.
        threads: structures scored in parallel.
    """

    def score_organ(organ: Organ) -> _ScoredOrgan:
        return _score_organ(case, sides, organ, challenge.evaluation, definition)

    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(score_organ, challenge.organs))
    problems = _describe_unusable([f.score for f in found if f.score.status == "unusable"])
    for side, masks in (("prediction", sides.prediction), ("reference", sides.reference)):
        if masks.unknown:
            problems.append(
                f"the {side} has values or segments that are not in {challenge.name}'s table "
                f"({', '.join(masks.unknown)}); they count as background"
            )
    if not isinstance(sides.prediction, NoMasks):
        problems += _describe_one_sided([f.score for f in found], challenge.evaluation)
    problems += describe_swapped_sides(
        {f.score.structure: f for f in found}, challenge.evaluation.pairs
    )
    return CaseScores(tuple(f.score for f in found), tuple(problems))


def _describe_one_sided(scores: Sequence[Score], rules: Evaluation) -> list[str]:
    """Describe the structures that only one side has."""
    counted = "not scored" if rules.reference_empty == "skip" else "scored as missed"
    return [
        f"only the {side} has {', '.join(names)}: {what}"
        for side, status, what in (
            ("reference", "missed", "missed"),
            ("prediction", "extra", counted),
        )
        if (names := [score.structure for score in scores if score.status == status])
    ]


def _describe_unusable(scores: Sequence[Score]) -> list[str]:
    """Describe unusable files; many of them share one sentence, as they fail alike."""
    if len(scores) <= MAX_FILES_NAMED:
        return [score.note for score in scores]
    names = ", ".join(score.structure for score in scores)
    return [f"{scores[0].note}; {len(scores)} files cannot be used ({names})"]


def _score_organ(
    case: str, sides: Sides, organ: Organ, rules: Evaluation, definition: Definition
) -> _ScoredOrgan:
    blank = Score(case, organ.name, "unusable", definition)
    try:
        reference = sides.reference.mask(organ)
    except InputError as error:
        return _ScoredOrgan(replace(blank, note=str(error)))
    try:
        prediction = sides.prediction.mask(organ)
    except InputError as error:
        if rules.missing_case == "skip":
            return _ScoredOrgan(replace(blank, note=str(error)))
        found = _score_masks(blank, sides, organ, rules, (None, reference), failed=True)
        note = f"{error}; counts as missed"
        return replace(found, score=replace(found.score, status="unusable", note=note))
    failed = isinstance(sides.prediction, NoMasks)
    return _score_masks(blank, sides, organ, rules, (prediction, reference), failed=failed)


def _score_masks(
    blank: Score,
    sides: Sides,
    organ: Organ,
    rules: Evaluation,
    whole: tuple[CroppedMask | None, CroppedMask | None],
    *,
    failed: bool,
) -> _ScoredOrgan:
    """Score a pair of masks; ``failed`` if the case has no usable prediction."""
    middles = [centroid_mm(mask, sides.grid) if mask else None for mask in whole]
    prediction, reference = (_cut_to_field(mask, sides) for mask in whole)
    voxel = sides.grid.voxel_volume_mm3 / 1000
    score = replace(
        blank,
        prediction_cm3=prediction.voxels * voxel if prediction else 0.0,
        reference_cm3=reference.voxels * voxel if reference else 0.0,
        kept=_fraction_kept(whole[1], reference),
        tolerance_mm=rules.tolerance_of(organ.name),
        note=_describe_lacking(sides, organ),
    )
    # Without a field, kept is 1, and a rule of 100 % would refuse everything.
    if sides.field and whole[1] and score.kept <= rules.min_kept:
        return _ScoredOrgan(replace(score, status="outside"), *middles)
    if prediction and reference:
        metrics = compare_masks(
            prediction,
            reference,
            spacing_mm=sides.grid.spacing_mm,
            tolerance_mm=score.tolerance_mm,
            definition=score.definition,
        )
        return _ScoredOrgan(_fill_metrics(score, "scored", metrics), *middles)
    return _ScoredOrgan(
        _apply_empty_rules(score, prediction, reference, rules, failed=failed), *middles
    )


def _apply_empty_rules(
    score: Score,
    prediction: CroppedMask | None,
    reference: CroppedMask | None,
    rules: Evaluation,
    *,
    failed: bool,
) -> Score:
    """Score a structure of which a mask is empty, by the challenge's rules."""
    difference = score.prediction_cm3 - score.reference_cm3
    far = rules.missed_distance_mm
    worst = Metrics(0.0, far, 0.0, far, difference)
    if reference:
        return _fill_metrics(score, "missed", worst)
    if prediction:
        scored = rules.reference_empty == "worst"
        return _fill_metrics(score, "extra", worst if scored else NO_METRICS)
    if rules.both_empty == "skip":
        return _fill_metrics(score, "absent", NO_METRICS)
    # Without a prediction, nothing was answered correctly.
    if failed:
        return _fill_metrics(score, "missed", worst)
    return _fill_metrics(score, "absent", Metrics(1.0, 0.0, 1.0, 0.0, 0.0))


def _fill_metrics(score: Score, status: ScoreStatus, metrics: Metrics) -> Score:
    return replace(
        score,
        status=status,
        dsc=metrics.dsc,
        hd95_mm=metrics.hd95_mm,
        nsd=metrics.nsd,
        msd_mm=metrics.msd_mm,
        volume_difference_cm3=metrics.volume_difference_cm3,
    )


def _cut_to_field(mask: CroppedMask | None, sides: Sides) -> CroppedMask | None:
    if mask is None or sides.field is None:
        return mask
    cut = sides.field.cut(mask, sides.grid)
    return cut if cut.array.any() else None


def _fraction_kept(whole: CroppedMask | None, part: CroppedMask | None) -> float:
    if whole is None:
        return 1.0
    return part.voxels / whole.voxels if part else 0.0


def _describe_lacking(sides: Sides, organ: Organ) -> str:
    named = (("prediction", sides.prediction), ("reference", sides.reference))
    return "; ".join(
        f"{reason} in the {name}" for name, side in named if (reason := side.lacks(organ))
    )


def centroid_mm(mask: CroppedMask, grid: Grid) -> NDArray[np.float64]:
    """Return the centroid of a mask's voxels, world x y z."""
    profiles = (mask.array.sum(axis=axes) for axes in ((1, 2), (0, 2), (0, 1)))
    index = [
        start + float(np.average(np.arange(len(profile)), weights=profile))
        for start, profile in zip(mask.start, profiles, strict=True)
    ]
    place: NDArray[np.float64] = grid.to_world(np.array([index]))[0]
    return place


@dataclass(frozen=True)
class _PairCentroids:
    """Centroids (left, right) of a pair on either side, world x y z."""

    pair: str
    prediction: tuple[NDArray[np.float64], NDArray[np.float64]]
    reference: tuple[NDArray[np.float64], NDArray[np.float64]]

    def crossed(self) -> bool:
        """Whether the prediction's left is the reference's right, and vice versa.

        A stray blob on the wrong side makes both sums similar; a swap makes the crossed
        one many times smaller.
        """
        (left, right), (true_left, true_right) = self.prediction, self.reference
        straight = np.linalg.norm(left - true_left) + np.linalg.norm(right - true_right)
        crossed = np.linalg.norm(left - true_right) + np.linalg.norm(right - true_left)
        return bool(crossed < straight / 2)

    def wrong_by_mm(self) -> float:
        """Return how far the reference's left organ is to the patient's right of its right.

        World x increases towards the patient's left.
        """
        return float(self.reference[1][0] - self.reference[0][0])


def describe_swapped_sides(found: Mapping[str, _ScoredOrgan], pairs: Sequence[Pair]) -> list[str]:
    """Describe pairs whose left and right are swapped in the prediction, reference or both."""
    ends = [end for pair in pairs if (end := _find_pair_centroids(found, pair))]
    wrong: dict[str, list[str]] = {}
    for end in ends:
        if end.crossed():
            side = "prediction" if end.wrong_by_mm() < 0 else "reference"
            wrong.setdefault(side, []).append(end.pair)
        elif end.wrong_by_mm() > MIN_SWAP_MM:
            wrong.setdefault("reference, like the prediction,", []).append(end.pair)
    return [
        f"left and right are swapped in {len(names)} of {len(ends)} pairs ({', '.join(names)}): "
        f"what the {side} calls left lies on the patient's right; scored as it is"
        for side, names in wrong.items()
    ]


def _find_pair_centroids(found: Mapping[str, _ScoredOrgan], pair: Pair) -> _PairCentroids | None:
    """Return the centroids of a pair; None if one of the four is missing."""
    left, right = found[pair.left], found[pair.right]
    if left.prediction is None or right.prediction is None:
        return None
    if left.reference is None or right.reference is None:
        return None
    return _PairCentroids(
        pair.name, (left.prediction, right.prediction), (left.reference, right.reference)
    )
