"""Calibrate a model on cases that none of its folds has seen: their reports, and their scores."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import Annotated, Final

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from oarseg.cases.case import CaseProblem
from oarseg.cases.places import REPORTS
from oarseg.challenges.challenge import Challenge
from oarseg.errors import InputError
from oarseg.evaluation.expected_dice import calibrate_organ
from oarseg.evaluation.scoring import Score
from oarseg.model.bundle import Bundle
from oarseg.model.calibration import (
    FEWEST_CASES,
    Calibration,
    HowCompared,
    OrganCalibration,
)
from oarseg.model.entries.refusal import first_problem
from oarseg.model.entries.value_types import Share
from oarseg.model.manifest import Region

LARGEST_REPORT_BYTES: Final = 16 << 20
_READ: Final = ConfigDict(extra="ignore")


@dataclass(frozen=True, config=_READ)
class _Model:
    manifest_sha256: str


@dataclass(frozen=True, config=_READ)
class _Effort:
    mirroring: Annotated[bool, Field(strict=True)]
    step: float


@dataclass(frozen=True, config=_READ)
class _Agreement:
    folds: int
    mean_pairwise_dice: dict[str, Share | None]


@dataclass(frozen=True, config=_READ)
class _Repair:
    asked: tuple[str, ...]


@dataclass(frozen=True, config=_READ)
class _Report:
    """What is needed of a report."""

    case: str
    model: _Model
    effort: _Effort
    region: Region
    repair: _Repair | None = None
    fold_agreement: _Agreement | None = None


@plain_dataclass(frozen=True)
class HeldOut:
    """How far the folds agreed on cases that they have not seen.

    Attributes:
        agreement: by the case's name in small letters, then by organ.
        compared: how the folds were run, the same for all.
        problems: cases that were left out.
    """

    agreement: Mapping[str, Mapping[str, float | None]]
    compared: HowCompared
    problems: tuple[CaseProblem, ...]


def read_held_out(predictions: Path, weights: Bundle) -> HeldOut:
    """Read the reports of segmented cases.

    Args:
        predictions: the output folder of ``oarseg segment``.
        weights: the model, by which all have to be segmented.

    Raises:
        InputError: no report, a damaged one, two of one case, one of another model, or folds that
            were run in different ways.
    """
    # Other systems leave hidden files beside a file, such as ._case_01.json.
    files = sorted(p for p in (predictions / REPORTS).glob("*.json") if p.name[0] != ".")
    reports = {path: _read_report(path) for path in files}
    if not reports:
        raise InputError(
            f"{predictions / REPORTS}: expected reports of 'oarseg segment' to calibrate by, found "
            "none; pass its output folder"
        )
    _refuse_twice(reports)
    for path, report in reports.items():
        if report.model.manifest_sha256 != weights.sha256:
            raise InputError(
                f"{path}: expected a case segmented by the model in {weights.folder}, found "
                "another's manifest_sha256; segment the case again, or pass its model"
            )
    usable = {path: how for path, r in reports.items() if (how := _how_compared(path, r))}
    if not usable:
        raise InputError(
            f"{predictions / REPORTS}: expected fold_agreement in reports, found none; it needs "
            "two folds of one configuration, each with its own sums (docs/report.md)"
        )
    first, *others = usable
    for path in others:
        if usable[path] != usable[first]:
            raise InputError(
                f"{path}: expected folds, mirroring, step, region and repair as in {first}, found "
                "others; segment all cases alike, without a time limit"
            )
    problems = [
        CaseProblem(report.case, "its folds were not compared; left out of the calibration")
        for path, report in reports.items()
        if path not in usable
    ]
    agreement = {
        reports[path].case.casefold(): found.mean_pairwise_dice
        for path in usable
        if (found := reports[path].fold_agreement) is not None
    }
    return HeldOut(agreement, usable[first], tuple(problems))


def calibrate_model(
    weights: Bundle,
    held_out: HeldOut,
    scores: Sequence[Score],
    *,
    challenge: Challenge,
    unanswered: Collection[str],
) -> tuple[Calibration, tuple[str, ...]]:
    """Learn what Dice to expect of each organ.

    A case counts for an organ where at least one fold found the organ and it has a Dice.

    Args:
        weights: the model.
        held_out: of the cases that were scored.
        scores: of each case and organ.
        challenge: names the organs.
        unanswered: cases without a usable prediction.

    Returns:
        The calibration, and the organs that have too few cases.

    Raises:
        InputError: no organ has enough.
    """
    pairs = _join(held_out, [score for score in scores if score.case not in unanswered])
    rows: list[OrganCalibration] = []
    left_out: list[str] = []
    for organ in challenge.organs:
        given = pairs[organ.name]
        row = calibrate_organ(organ.name, [a for a, _ in given], [d for _, d in given])
        if row is None:
            left_out.append(organ.name)
        else:
            rows.append(row)
    if not rows:
        most = max((len(given) for given in pairs.values()), default=0)
        raise InputError(
            f"{weights.folder}: expected an organ with a Dice and the folds' agreement in at least "
            f"{FEWEST_CASES} cases to calibrate by, found {most}; segment and contour more cases"
        )
    return Calibration(1, weights.sha256, held_out.compared, tuple(rows)), tuple(left_out)


def unreported_cases(
    held_out: HeldOut, scores: Sequence[Score], unanswered: Collection[str]
) -> tuple[str, ...]:
    """Return the scored cases with a prediction and no report, by name."""
    known = {*held_out.agreement, *(problem.name.casefold() for problem in held_out.problems)}
    scored = {score.case for score in scores} - set(unanswered)
    return tuple(sorted(case for case in scored if case.casefold() not in known))


def _join(held_out: HeldOut, scores: Sequence[Score]) -> dict[str, list[tuple[float, float]]]:
    """Return agreement and Dice of each case, by organ."""
    pairs: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for score in scores:
        agreed = held_out.agreement.get(score.case.casefold(), {}).get(score.structure)
        if agreed is not None and score.status != "unusable" and math.isfinite(score.dsc):
            pairs[score.structure].append((agreed, score.dsc))
    return pairs


def _refuse_twice(reports: Mapping[Path, _Report]) -> None:
    """Refuse two reports of a case: which of them is of its label map cannot be told."""
    seen: dict[str, Path] = {}
    for path, report in reports.items():
        other = seen.setdefault(report.case.casefold(), path)
        if other != path:
            raise InputError(
                f"{path}: expected one report of each case, found another of the same in {other}; "
                "remove the one that is not of the case's label map"
            )


def _how_compared(path: Path, report: _Report) -> HowCompared | None:
    """Return how a report's folds were run; None where they were not compared."""
    if report.fold_agreement is None:
        return None
    try:
        return HowCompared(
            folds=report.fold_agreement.folds,
            mirroring=report.effort.mirroring,
            step=report.effort.step,
            region=report.region,
            repair=() if report.repair is None else report.repair.asked,
        )
    except ValidationError as error:
        raise _damaged(path, error) from error


def _read_report(path: Path) -> _Report:
    try:
        if not path.is_file():
            raise InputError(f"{path}: expected a report of 'oarseg segment', found no file")
        with path.open("rb") as stream:
            text = stream.read(LARGEST_REPORT_BYTES + 1)
        if len(text) > LARGEST_REPORT_BYTES:
            raise InputError(f"{path}: expected a report of 'oarseg segment', found a larger file")
        return TypeAdapter(_Report).validate_json(text)
    except OSError as error:
        raise InputError(f"{path}: expected a readable file, found {error.strerror}") from error
    except ValidationError as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: ValidationError) -> InputError:
    return InputError(f"{path}: {first_problem(error)}; segment the case again")
