"""The Dice of each organ in nnU-Net's cross-validation, from what training left in each fold.

``nnUNetv2_train`` ends with a segmentation of the fold's validation cases, and writes their Dice to
``fold_<name>/validation/summary.json``. Each case is segmented by the one fold that has not seen
it. Where an organ is neither in the truth nor found, nnU-Net writes NaN and leaves the case out of
its means, and where it is in one of the two only, the Dice is 0; so it is here.
"""

from __future__ import annotations

import logging
import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from oarseg.challenges.challenge import Challenge
from oarseg.challenges.structures import Organ
from oarseg.errors import InputError
from oarseg.model.entries.cross_validation import CrossValidation, ValidatedDice
from oarseg.training.nnunet_files.dataset_file import DatasetFile
from oarseg.training.nnunet_files.json_file import READ, invalid, read_json_object, shown
from oarseg.training.nnunet_files.results_folder import Results, Which
from oarseg.training.partial import unlabelled_of

log = logging.getLogger(__name__)

SUMMARY: Final = "validation/summary.json"
REMEDY: Final = "let 'nnUNetv2_train --val' write it again, or remove it"
MOST_VALIDATED: Final = 100_000
STATEMENT: Final = (
    "Dice of nnU-Net's cross-validation: each case segmented by the one fold that had not seen it, "
    "before any postprocessing; not the Dice of the ensemble, which is usually a little better"
)
# Labels that are counted as one, such as (1, 2): nnU-Net's name of a region.
LabelSet = frozenset[int]
# A Dice by case and labels.
Scores = dict[str, dict[LabelSet, float]]


@dataclass(frozen=True, config=READ)
class _Metrics:
    Dice: Annotated[float, Field(strict=True)] | None

    @property
    def dice(self) -> float | None:
        """The Dice; None where the organ is on neither side."""
        return None if self.Dice is None or math.isnan(self.Dice) else self.Dice


@dataclass(frozen=True, config=READ)
class _Case:
    prediction_file: Annotated[str, Field(min_length=1, max_length=4096)]
    metrics: Annotated[dict[str, _Metrics], Field(max_length=512)]


@dataclass(frozen=True, config=READ)
class _Summary:
    metric_per_case: Annotated[tuple[_Case, ...], Field(max_length=MOST_VALIDATED)]


class _NoneError(Exception):
    """Says why there is no cross-validation."""


def cross_validation_of(
    results: Results, challenge: Challenge, folds: Sequence[str], which: Which
) -> CrossValidation:
    """Collect the cross-validated Dice of a challenge's organs; with a reason where there is none.

    An organ that no label or region of the training is, such as one of a pair that was merged or a
    union of labels, has none: it cannot be had of the Dice of others.

    Args:
        results: a results folder.
        challenge: names the organs.
        folds: those that are exported.
        which: the checkpoint that is exported.

    Raises:
        InputError: a summary is damaged.
    """
    try:
        return CrossValidation(STATEMENT, tuple(_rows(results, challenge, folds, which)))
    except _NoneError as why:
        log.info("no cross-validated Dice: %s", why)
        return CrossValidation(f"none: {why}")


def _rows(
    results: Results, challenge: Challenge, folds: Sequence[str], which: Which
) -> Iterator[ValidatedDice]:
    if which != "final":
        raise _NoneError("nnU-Net validated the last checkpoints, these are the best ones")
    if "all" in folds:
        raise _NoneError("fold all was trained on its own validation cases")
    unnumbered = [fold for fold in folds if not fold.isdecimal()]
    if unnumbered:
        raise _NoneError(f"fold {unnumbered[0]} is no number, so that it is not known what it saw")
    scores = _read_folds(results, folds)
    found = [row for organ in challenge.organs if (row := _row(organ, results.dataset, scores))]
    if not found:
        raise _NoneError("no organ of the challenge was validated as a label or region by itself")
    yield from found


def _row(organ: Organ, dataset: DatasetFile, scores: Scores) -> ValidatedDice | None:
    labels = _trained_as(organ, dataset)
    values = [case[labels] for case in scores.values() if labels in case]
    if not values:
        return None
    deviation = round(statistics.stdev(values), 4) if len(values) > 1 else None
    return ValidatedDice(organ.name, len(values), round(statistics.fmean(values), 4), deviation)


def _trained_as(organ: Organ, dataset: DatasetFile) -> LabelSet:
    """Return the training's labels for an organ; none of them where it had another class."""
    merged = dataset.oarseg.classes
    if merged is None:
        return frozenset(organ.labels)
    # Numbered anew; a class that holds both organs of a pair is neither of them.
    return frozenset(
        number for number, values in enumerate(merged) if frozenset(values) == set(organ.labels)
    )


def _read_folds(results: Results, folds: Sequence[str]) -> Scores:
    document = read_json_object(results.folder / "dataset.json")
    unknown = _unlabelled(results.folder / "dataset.json", document)
    scores: Scores = {}
    for fold in folds:
        path = results.folder / f"fold_{fold}" / SUMMARY
        if not path.is_file():
            raise _NoneError(f"fold {fold} has no {SUMMARY}")
        for name, case in _read_summary(path, results.dataset.file_ending).items():
            if name in scores:
                # As of folds that were drawn by hand.
                raise _NoneError("some cases were validated by two folds")
            # What was not contoured is absent from the truth, and yet in the patient.
            left_out = unknown.get(name, frozenset())
            scores[name] = {k: dice for k, dice in case.items() if not k & left_out}
    return scores


def _read_summary(path: Path, ending: str) -> Scores:
    try:
        summary = TypeAdapter(_Summary).validate_python(read_json_object(path))
    except ValidationError as error:
        raise InputError(f"{invalid(path, error)}; {REMEDY}") from error
    except InputError as error:
        raise InputError(f"{error}; {REMEDY}") from error
    scores: Scores = {}
    for case in summary.metric_per_case:
        file = PurePosixPath(case.prediction_file.replace("\\", "/")).name
        scores[file.removesuffix(ending)] = dict(_case_scores(path, case))
    if len(scores) != len(summary.metric_per_case):
        raise InputError(f"{path}: metric_per_case: expected each case once; {REMEDY}")
    return scores


def _case_scores(path: Path, case: _Case) -> Iterator[tuple[LabelSet, float]]:
    for name, metrics in case.metrics.items():
        if metrics.dice is None:
            continue
        if not 0 <= metrics.dice <= 1:
            raise InputError(
                f"{path}: Dice of {shown(name)}: expected 0 to 1, found {metrics.dice!r}; {REMEDY}"
            )
        yield _labels_of(path, name), metrics.dice


def _labels_of(path: Path, name: str) -> LabelSet:
    """Read nnU-Net's name of a label, ``3``, or of a region, ``(1, 2)``."""
    if not re.fullmatch(r"[0-9]{1,3}|\([0-9]{1,3}(, [0-9]{1,3})*,?\)", name):
        raise InputError(
            f"{path}: metrics: expected labels or regions, found {shown(name)}; {REMEDY}"
        )
    return frozenset(int(digits) for digits in re.findall("[0-9]+", name))


def _unlabelled(path: Path, document: Mapping[str, Any]) -> dict[str, LabelSet]:
    """Return the labels that each case lacks in its truth, and those that they hide in there."""
    try:
        return {
            case: (frozenset(given) | frozenset(given.values())) - {0}
            for case, given in unlabelled_of(document).items()
        }
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: oarseg.unlabelled: expected labels by case, found another value; prepare the "
            "data set again"
        ) from error
