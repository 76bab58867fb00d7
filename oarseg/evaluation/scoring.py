"""One case: every structure against its reference, and left against right."""

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
MOST_FILES = 3
# The middles of twins lie farther apart in any patient; less is a matter of stray voxels.
SURELY_MM = 5.0
NOTHING = Metrics(NAN, NAN, NAN, NAN, NAN)


@dataclass(frozen=True)
class Score:
    """One structure of one case; NaN where a figure does not exist.

    Attributes:
        case, structure: names.
        status: "scored"; "missed", only the reference has it, or the prediction of the
            case is missing or unusable; "extra", only the prediction has it; "absent",
            neither; "outside", too little of it lies in the field of view; "unusable", a
            file that cannot be used, see ``note``.
        definition: of ``hd95_mm`` and ``msd_mm``.
        dsc, hd95_mm, nsd, msd_mm, volume_difference_cm3: see ``metrics``.
        prediction_cm3, reference_cm3: volumes, in the field where one is given.
        kept: share of the reference's volume that lies in the field; 1 without one.
        tolerance_mm: of ``nsd``.
        note: what else there is to say.
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
    """What a case is scored from.

    Attributes:
        prediction, reference: masks on ``grid``.
        grid: of the reference.
        field: of the MR, if structures are cut to it.
    """

    prediction: Masks
    reference: Masks
    grid: Grid
    field: MrField | None = None


@dataclass(frozen=True)
class CaseScores:
    """A case's scores, in the order of the challenge's structures, and its problems."""

    scores: tuple[Score, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class _Found:
    """A score, and where the structure's middle lies on either side (world x y z)."""

    score: Score
    prediction: NDArray[np.float64] | None = None
    reference: NDArray[np.float64] | None = None


def score_case(
    case: str, sides: Sides, challenge: Challenge, *, definition: Definition, threads: int
) -> CaseScores:
    """Score every structure of a case.

    Args:
        case: its name.
        sides: both sides and their grid.
        challenge: its structures and rules.
        definition: of HD95.
        threads: structures that are scored at once.
    """

    def one(organ: Organ) -> _Found:
        return _score(case, sides, organ, challenge.evaluation, definition)

    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(one, challenge.organs))
    problems = _unusable([f.score for f in found if f.score.status == "unusable"])
    for side, masks in (("prediction", sides.prediction), ("reference", sides.reference)):
        if masks.unknown:
            problems.append(
                f"the {side} has values or segments that are not in {challenge.name}'s table "
                f"({', '.join(masks.unknown)}); they count as background"
            )
    if not isinstance(sides.prediction, NoMasks):
        problems += _one_sided([f.score for f in found], challenge.evaluation)
    problems += swapped_sides({f.score.structure: f for f in found}, challenge.evaluation.pairs)
    return CaseScores(tuple(f.score for f in found), tuple(problems))


def _one_sided(scores: Sequence[Score], rules: Evaluation) -> list[str]:
    """Structures that only one side has."""
    counted = "not scored" if rules.reference_empty == "skip" else "scored as missed"
    return [
        f"only the {side} has {', '.join(names)}: {what}"
        for side, status, what in (
            ("reference", "missed", "missed"),
            ("prediction", "extra", counted),
        )
        if (names := [score.structure for score in scores if score.status == status])
    ]


def _unusable(scores: Sequence[Score]) -> list[str]:
    """What is wrong with files; one sentence if it is many, which then are alike."""
    if len(scores) <= MOST_FILES:
        return [score.note for score in scores]
    names = ", ".join(score.structure for score in scores)
    return [f"{scores[0].note}; {len(scores)} files cannot be used ({names})"]


def _score(
    case: str, sides: Sides, organ: Organ, rules: Evaluation, definition: Definition
) -> _Found:
    blank = Score(case, organ.name, "unusable", definition)
    try:
        reference = sides.reference.mask(organ)
    except InputError as error:
        return _Found(replace(blank, note=str(error)))
    try:
        prediction = sides.prediction.mask(organ)
    except InputError as error:
        if rules.missing_case == "skip":
            return _Found(replace(blank, note=str(error)))
        found = _compared(blank, sides, organ, rules, (None, reference), failed=True)
        note = f"{error}; counts as missed"
        return replace(found, score=replace(found.score, status="unusable", note=note))
    failed = isinstance(sides.prediction, NoMasks)
    return _compared(blank, sides, organ, rules, (prediction, reference), failed=failed)


def _compared(
    blank: Score,
    sides: Sides,
    organ: Organ,
    rules: Evaluation,
    whole: tuple[CroppedMask | None, CroppedMask | None],
    *,
    failed: bool,
) -> _Found:
    """Score the masks of prediction and reference; ``failed``: there is no prediction."""
    middles = [middle_mm(mask, sides.grid) if mask else None for mask in whole]
    prediction, reference = (_in_field(mask, sides) for mask in whole)
    voxel = sides.grid.voxel_volume_mm3 / 1000
    score = replace(
        blank,
        prediction_cm3=prediction.voxels * voxel if prediction else 0.0,
        reference_cm3=reference.voxels * voxel if reference else 0.0,
        kept=_kept(whole[1], reference),
        tolerance_mm=rules.tolerance_of(organ.name),
        note=_lacking(sides, organ),
    )
    # Without a field, kept is 1 and a rule of 100 % would refuse everything.
    if sides.field and whole[1] and score.kept <= rules.min_kept:
        return _Found(replace(score, status="outside"), *middles)
    if prediction and reference:
        metrics = compare_masks(
            prediction,
            reference,
            spacing_mm=sides.grid.spacing_mm,
            tolerance_mm=score.tolerance_mm,
            definition=score.definition,
        )
        return _Found(_with(score, "scored", metrics), *middles)
    return _Found(_empty(score, prediction, reference, rules, failed=failed), *middles)


def _empty(
    score: Score,
    prediction: CroppedMask | None,
    reference: CroppedMask | None,
    rules: Evaluation,
    *,
    failed: bool,
) -> Score:
    """What the challenge's rules give where a mask is empty."""
    difference = score.prediction_cm3 - score.reference_cm3
    far = rules.missed_distance_mm
    worst = Metrics(0.0, far, 0.0, far, difference)
    if reference:
        return _with(score, "missed", worst)
    if prediction:
        scored = rules.reference_empty == "worst"
        return _with(score, "extra", worst if scored else NOTHING)
    if rules.both_empty == "skip":
        return _with(score, "absent", NOTHING)
    # Not to have answered is no right answer.
    if failed:
        return _with(score, "missed", worst)
    return _with(score, "absent", Metrics(1.0, 0.0, 1.0, 0.0, 0.0))


def _with(score: Score, status: ScoreStatus, metrics: Metrics) -> Score:
    return replace(
        score,
        status=status,
        dsc=metrics.dsc,
        hd95_mm=metrics.hd95_mm,
        nsd=metrics.nsd,
        msd_mm=metrics.msd_mm,
        volume_difference_cm3=metrics.volume_difference_cm3,
    )


def _in_field(mask: CroppedMask | None, sides: Sides) -> CroppedMask | None:
    if mask is None or sides.field is None:
        return mask
    cut = sides.field.cut(mask, sides.grid)
    return cut if cut.array.any() else None


def _kept(whole: CroppedMask | None, part: CroppedMask | None) -> float:
    if whole is None:
        return 1.0
    return part.voxels / whole.voxels if part else 0.0


def _lacking(sides: Sides, organ: Organ) -> str:
    named = (("prediction", sides.prediction), ("reference", sides.reference))
    return "; ".join(
        f"{reason} in the {name}" for name, side in named if (reason := side.lacks(organ))
    )


def middle_mm(mask: CroppedMask, grid: Grid) -> NDArray[np.float64]:
    """The middle of a mask's voxels, world x y z."""
    profiles = (mask.array.sum(axis=axes) for axes in ((1, 2), (0, 2), (0, 1)))
    index = [
        start + float(np.average(np.arange(len(profile)), weights=profile))
        for start, profile in zip(mask.start, profiles, strict=True)
    ]
    place: NDArray[np.float64] = grid.to_world(np.array([index]))[0]
    return place


@dataclass(frozen=True)
class _Ends:
    """Where left and right of a pair lie on either side, world x y z."""

    pair: str
    prediction: tuple[NDArray[np.float64], NDArray[np.float64]]
    reference: tuple[NDArray[np.float64], NDArray[np.float64]]

    def crossed(self) -> bool:
        """Whether left is nearer to the reference's right, and right to its left.

        A stray blob on the wrong side makes both alike; a swap makes one many times smaller.
        """
        (left, right), (true_left, true_right) = self.prediction, self.reference
        straight = np.linalg.norm(left - true_left) + np.linalg.norm(right - true_right)
        crossed = np.linalg.norm(left - true_right) + np.linalg.norm(right - true_left)
        return bool(crossed < straight / 2)

    def wrong_by_mm(self) -> float:
        """How far the reference's left lies to the patient's right of its right.

        World x runs to the patient's left.
        """
        return float(self.reference[1][0] - self.reference[0][0])


def swapped_sides(found: Mapping[str, _Found], pairs: Sequence[Pair]) -> list[str]:
    """Report pairs of which prediction or reference, or both, have left and right swapped."""
    ends = [end for pair in pairs if (end := _ends(found, pair))]
    wrong: dict[str, list[str]] = {}
    for end in ends:
        if end.crossed():
            side = "prediction" if end.wrong_by_mm() < 0 else "reference"
            wrong.setdefault(side, []).append(end.pair)
        elif end.wrong_by_mm() > SURELY_MM:
            wrong.setdefault("reference, like the prediction,", []).append(end.pair)
    return [
        f"left and right are swapped in {len(names)} of {len(ends)} pairs ({', '.join(names)}): "
        f"what the {side} calls left lies on the patient's right; scored as it is"
        for side, names in wrong.items()
    ]


def _ends(found: Mapping[str, _Found], pair: Pair) -> _Ends | None:
    """None where one of the four is missing."""
    left, right = found[pair.left], found[pair.right]
    if left.prediction is None or right.prediction is None:
        return None
    if left.reference is None or right.reference is None:
        return None
    return _Ends(pair.name, (left.prediction, right.prediction), (left.reference, right.reference))
