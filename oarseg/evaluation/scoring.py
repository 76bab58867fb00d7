"""One case: every structure against its reference, and left against right."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from oarseg.challenge import Challenge, Evaluation, Pair, Structure
from oarseg.errors import InputError
from oarseg.evaluation.field import Field
from oarseg.evaluation.labels import Masks
from oarseg.evaluation.metrics import Definition, Metrics, compare
from oarseg.evaluation.surfaces import Mask
from oarseg.volume import Grid

Status = Literal["scored", "missed", "extra", "absent", "outside", "unusable"]
NAN = math.nan
NOTHING = Metrics(NAN, NAN, NAN, NAN, NAN)


@dataclass(frozen=True)
class Score:
    """One structure of one case; NaN where a figure does not exist.

    Attributes:
        case, structure: names.
        status: "scored"; "missed", only the reference has it; "extra", only the
            prediction has it; "absent", neither; "outside", too little of it lies in the
            field of view; "unusable", see ``note``.
        definition: of ``hd95_mm`` and ``msd_mm``.
        dsc, hd95_mm, nsd, msd_mm, volume_difference_cm3: see ``metrics``.
        prediction_cm3, reference_cm3: volumes, in the field where one is given.
        kept: share of the reference's volume that lies in the field; 1 without one.
        tolerance_mm: of ``nsd``.
        note: what else there is to say.
    """

    case: str
    structure: str
    status: Status
    definition: Definition
    dsc: float = NAN
    hd95_mm: float = NAN
    nsd: float = NAN
    msd_mm: float = NAN
    volume_difference_cm3: float = NAN
    prediction_cm3: float = 0.0
    reference_cm3: float = 0.0
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
    field: Field | None = None


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

    def one(structure: Structure) -> _Found:
        try:
            return _score(case, sides, structure, challenge.evaluation, definition)
        except InputError as error:
            return _Found(Score(case, structure.name, "unusable", definition, note=str(error)))

    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(one, challenge.structures))
    problems = [f.score.note for f in found if f.score.status == "unusable"]
    for side, masks in (("prediction", sides.prediction), ("reference", sides.reference)):
        if masks.unknown_values:
            values = ", ".join(map(str, masks.unknown_values))
            problems.append(
                f"the {side} has values that are not in {challenge.name}'s table ({values}); "
                "they count as background"
            )
    problems += swapped_sides({f.score.structure: f for f in found}, challenge.evaluation.pairs)
    return CaseScores(tuple(f.score for f in found), tuple(problems))


def _score(
    case: str, sides: Sides, structure: Structure, rules: Evaluation, definition: Definition
) -> _Found:
    whole = [side.mask(structure) for side in (sides.prediction, sides.reference)]
    middles = [middle_mm(mask, sides.grid) if mask else None for mask in whole]
    prediction, reference = (_in_field(mask, sides) for mask in whole)
    voxel = sides.grid.voxel_volume_mm3 / 1000
    score = Score(
        case,
        structure.name,
        "scored",
        definition,
        prediction_cm3=prediction.voxels * voxel if prediction else 0.0,
        reference_cm3=reference.voxels * voxel if reference else 0.0,
        kept=_kept(whole[1], reference),
        tolerance_mm=rules.tolerance_of(structure.name),
        note=_lacking(sides, structure),
    )
    # Without a field, kept is 1 and a rule of 100 % would refuse everything.
    if sides.field and whole[1] and score.kept <= rules.min_kept:
        return _Found(replace(score, status="outside"), *middles)
    if prediction and reference:
        metrics = compare(
            prediction,
            reference,
            spacing_mm=sides.grid.spacing_mm,
            tolerance_mm=score.tolerance_mm,
            definition=definition,
        )
        return _Found(_with(score, "scored", metrics), *middles)
    return _Found(_with(score, *_empty(prediction, reference, score, rules)), *middles)


def _empty(
    prediction: Mask | None, reference: Mask | None, score: Score, rules: Evaluation
) -> tuple[Status, Metrics]:
    """What the challenge's rules give where a mask is empty."""
    difference = score.prediction_cm3 - score.reference_cm3
    far = rules.missed_distance_mm
    worst = Metrics(0.0, far, 0.0, far, difference)
    if reference:
        return "missed", worst
    if prediction:
        return "extra", worst if rules.reference_empty == "worst" else NOTHING
    return "absent", Metrics(1.0, 0.0, 1.0, 0.0, 0.0) if rules.both_empty == "best" else NOTHING


def _with(score: Score, status: Status, metrics: Metrics) -> Score:
    return replace(
        score,
        status=status,
        dsc=metrics.dsc,
        hd95_mm=metrics.hd95_mm,
        nsd=metrics.nsd,
        msd_mm=metrics.msd_mm,
        volume_difference_cm3=metrics.volume_difference_cm3,
    )


def _in_field(mask: Mask | None, sides: Sides) -> Mask | None:
    if mask is None or sides.field is None:
        return mask
    cut = sides.field.cut(mask, sides.grid)
    return cut if cut.array.any() else None


def _kept(whole: Mask | None, part: Mask | None) -> float:
    if whole is None:
        return 1.0
    return part.voxels / whole.voxels if part else 0.0


def _lacking(sides: Sides, structure: Structure) -> str:
    named = (("prediction", sides.prediction), ("reference", sides.reference))
    lacking = [name for name, side in named if not side.has(structure)]
    return f"no file in the {' and the '.join(lacking)}" if lacking else ""


def middle_mm(mask: Mask, grid: Grid) -> NDArray[np.float64]:
    """The middle of a mask's voxels, world x y z."""
    profiles = (mask.array.sum(axis=axes) for axes in ((1, 2), (0, 2), (0, 1)))
    index = [
        start + float(np.average(np.arange(len(profile)), weights=profile))
        for start, profile in zip(mask.start, profiles, strict=True)
    ]
    place: NDArray[np.float64] = grid.to_world(np.array([index]))[0]
    return place


def swapped_sides(found: Mapping[str, _Found], pairs: Sequence[Pair]) -> list[str]:
    """Report pairs whose left is nearer to the reference's right, and right to its left.

    World x runs to the patient's left, which tells whose left is on the wrong side.
    """
    wrong: dict[str, list[str]] = {}
    seen = 0
    for pair in pairs:
        left, right = found[pair.left], found[pair.right]
        ends = (left.prediction, right.prediction, left.reference, right.reference)
        if any(end is None for end in ends):
            continue
        seen += 1
        p_left, p_right, r_left, r_right = (np.asarray(end) for end in ends)
        straight = np.linalg.norm(p_left - r_left) + np.linalg.norm(p_right - r_right)
        crossed = np.linalg.norm(p_left - r_right) + np.linalg.norm(p_right - r_left)
        # A stray blob on the wrong side makes both alike; a swap makes one many times smaller.
        if crossed < straight / 2:
            side = "prediction" if r_left[0] > r_right[0] else "reference"
            wrong.setdefault(side, []).append(pair.name)
    return [
        f"left and right are swapped in {len(names)} of {seen} pairs ({', '.join(names)}): what "
        f"the {side} calls left lies on the patient's right; scored as it is"
        for side, names in wrong.items()
    ]
