"""What a run will do to the output folder, compared before any work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from oarseg.cases.admission import fault_message
from oarseg.cases.case import Case, CaseProblem, label_path, output_paths
from oarseg.cases.find_cases import Found
from oarseg.cases.places import fold_path, masks_path, report_path, segmentation_path
from oarseg.challenges.challenge import Challenge
from oarseg.results.earlier import EarlierOutputs
from oarseg.results.results_file import Record, read_kept_records


@dataclass(frozen=True)
class OutputPlan:
    """The cases of a run, and what an earlier run left in its folder.

    Attributes:
        cases: to segment.
        problems: what is no case, or would overwrite an earlier run's case of another name.
        kept: records of an earlier run that still hold, by case.
        earlier: outputs of earlier runs in the places of these cases.
    """

    cases: tuple[Case, ...]
    problems: tuple[CaseProblem, ...]
    kept: Mapping[str, Record]
    earlier: EarlierOutputs


def plan_outputs(output: Path, challenge: Challenge, found: Found) -> OutputPlan:
    """Compare the places of all outputs, of this run's cases and of those that are kept.

    Args:
        output: the output folder, which nothing else writes to.
        challenge: gives the names of label files.
        found: this run's cases and problems.

    Raises:
        OutputError: a link lies in the way.
    """
    kept = _kept_records(output, challenge, found.cases)
    names = {case.name for case in found.cases}
    owners = {
        fold_path(path): name
        for name, record in kept.items()
        if name not in names
        for path in _paths_of(record, output)
    }
    taken = {case.name: owner for case in found.cases if (owner := _owner(case, challenge, owners))}
    refused = [_refuse(case, challenge, taken) for case in found.cases if case.name in taken]
    cases = tuple(case for case in found.cases if case.name not in taken)
    for case in cases:
        owners |= {fold_path(path): case.name for path in output_paths(case, challenge)}
    problems = (*found.problems, *refused)
    for problem in problems:
        kept.pop(problem.name, None)
    return OutputPlan(cases, problems, kept, EarlierOutputs(output, challenge, owners))


def _kept_records(output: Path, challenge: Challenge, cases: tuple[Case, ...]) -> dict[str, Record]:
    """An earlier run's records, without those that this run makes untrue before its end."""
    kept = read_kept_records(output)
    for case in cases:
        # An image in another format gives a label file of another name.
        if case.name in kept and kept[case.name].label_file != output / label_path(case, challenge):
            del kept[case.name]
    return kept


def _paths_of(record: Record, output: Path) -> tuple[Path, ...]:
    name = record.case
    own = (segmentation_path(name), masks_path(name), report_path(name))
    return (*own, record.label_file.relative_to(output)) if record.label_file else own


def _owner(case: Case, challenge: Challenge, owners: Mapping[Path, str]) -> str | None:
    """The earlier run's case that has one of this case's outputs."""
    folded = (fold_path(path) for path in output_paths(case, challenge))
    return next((owners[path] for path in folded if path in owners), None)


def _refuse(case: Case, challenge: Challenge, owners: Mapping[str, str]) -> CaseProblem:
    message = fault_message(
        case.files[challenge.reference.channel],
        expected="an output name of its own",
        found=f"one that case {owners[case.name]!r} of an earlier run has",
        do="rename the file, or pass another --output",
    )
    return CaseProblem(case.name, message)
