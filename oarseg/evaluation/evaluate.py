"""Score folders of predictions against references; write tables and a plot.

This is ``oarseg evaluate``. A case is scored in ``scoring``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from oarseg import __version__
from oarseg.cases.case import CaseProblem
from oarseg.challenges.challenge import Challenge
from oarseg.errors import InputError, OutputError
from oarseg.evaluation import tables
from oarseg.evaluation.metrics import DEFINITIONS, Definition
from oarseg.evaluation.mr_field import MrFieldFinder
from oarseg.evaluation.plot import write_plot
from oarseg.evaluation.scoring import Score, Sides, score_case
from oarseg.labels.find_labels import FoundLabels, LabelFiles, find_labels
from oarseg.labels.open_masks import Masks, NoMasks, Target, open_masks, read_grid

CSV, JSON, MARKDOWN, PLOT = "scores.csv", "summary.json", "table.md", "plot.png"
COUNTS_AS_MISSED = "all of it counts as missed"


@dataclass(frozen=True)
class EvaluationSettings:
    """How to score.

    Attributes:
        definition: definition of HD95 and of the mean surface distance.
        missing: rule for a case without a usable prediction; None takes the challenge's.
        mr_field: folders with the MR's field of view for every case; see
            ``mr_field.MrFieldFinder``.
        resample: resample predictions on other grids onto the reference's.
        threads: structures scored in parallel.
        plot: whether to draw the plot.
        insert: Markdown file, such as the model card, that receives the table between its
            marks.
    """

    definition: Definition = "surface-distance"
    missing: Literal["missed", "skip"] | None = None
    mr_field: tuple[Path, ...] = ()
    resample: bool = False
    threads: int = 2
    plot: bool = True
    insert: Path | None = None


@dataclass(frozen=True)
class Summary:
    """Result of ``evaluate_folders``.

    Attributes:
        scores: one per case and structure.
        lines: one per structure or pair.
        problems: one sentence for the user each, with the case.
        unanswered: cases without a usable prediction, counted as missed.
        rules: meaning of the figures, one sentence each.
        files: the files written.
    """

    scores: tuple[Score, ...]
    lines: tuple[tables.Line, ...]
    problems: tuple[CaseProblem, ...]
    unanswered: tuple[str, ...]
    rules: tuple[str, ...]
    files: tuple[Path, ...]


def evaluate_folders(
    predictions: Path,
    references: Path,
    *,
    challenge: Challenge,
    out: Path,
    settings: EvaluationSettings | None = None,
    progress: Callable[[str], None] | None = None,
) -> Summary:
    """Score every case of the references, and write CSV, JSON, Markdown and a plot.

    Cases are paired by name. The challenge's rule decides whether a case without a usable
    prediction counts as missed or is left out. Whatever cannot be scored becomes one of
    ``problems``; the rest is scored.

    Args:
        predictions, references: folders in any layout of ``labels.find_labels``.
        challenge: structures and scoring rules.
        out: folder for the results, created if needed.
        settings: how to score.
        progress: called with one line after each case.

    Raises:
        InputError: a folder without labels, no common case, no case that could be scored,
            or an unknown definition.
        OutputError: the results cannot be written.
    """
    chosen = settings or EvaluationSettings()
    if chosen.definition not in DEFINITIONS:
        raise InputError(f"definition {chosen.definition!r}: expected {', '.join(DEFINITIONS)}")
    if chosen.insert:
        tables.split_at_marks(chosen.insert)
    if chosen.missing:
        rules = replace(challenge.evaluation, missing_case=chosen.missing)
        challenge = replace(challenge, evaluation=rules)
    pairs, problems = _pair_cases(
        find_labels(predictions, challenge),
        find_labels(references, challenge),
        missed=challenge.evaluation.missing_case == "missed",
    )
    results: list[_Result] = []
    for prediction, reference in pairs:
        result = _score_pair(prediction, reference, challenge, chosen)
        results.append(result)
        problems += [CaseProblem(reference.case, message) for message in result.problems]
        if progress:
            progress(f"{reference.case} scored" if result.scores else f"{reference.case} left out")
    if not any(result.scores and result.answered for result in results):
        reason = f": {problems[0].name}: {problems[0].message}" if problems else ""
        raise InputError(f"{predictions}: expected cases of {references}, could score none{reason}")
    return _write_results(results, tuple(problems), challenge, out, chosen)


def _pair_cases(
    predictions: FoundLabels, references: FoundLabels, *, missed: bool
) -> tuple[list[tuple[LabelFiles | None, LabelFiles]], list[CaseProblem]]:
    """Pair each reference with its prediction; report the cases without a partner."""
    problems = [
        *(CaseProblem(p.name, f"prediction: {p.message}") for p in predictions.problems),
        *(CaseProblem(p.name, f"reference: {p.message}") for p in references.problems),
    ]
    named = {problem.name.casefold() for problem in problems}
    mine = {files.key: files for files in predictions.cases}
    theirs = {files.key: files for files in references.cases}
    for key, files in mine.items():
        if key not in theirs and key not in named:
            message = f"{files.first}: expected a reference of the same name, found none"
            problems.append(CaseProblem(files.case, f"{message}; left out"))
    for key, files in theirs.items():
        if key not in mine:
            found = "no usable one" if key in named else "none"
            message = f"{files.first}: expected a prediction of the same name, found {found}"
            message += f"; {COUNTS_AS_MISSED}" if missed else "; left out"
            problems.append(CaseProblem(files.case, message))
    pairs = [(mine.get(key), files) for key, files in theirs.items() if missed or key in mine]
    return pairs, problems


@dataclass(frozen=True)
class _Result:
    """Scores of a case, if any, and whether its prediction was usable."""

    case: str
    scores: tuple[Score, ...]
    problems: tuple[str, ...]
    answered: bool


def _score_pair(
    prediction: LabelFiles | None,
    reference: LabelFiles,
    challenge: Challenge,
    chosen: EvaluationSettings,
) -> _Result:
    case = reference.case
    try:
        grid = read_grid(reference.first)
        target = Target(grid, chosen.resample, challenge.output.identity_frame)
        field = MrFieldFinder(chosen.mr_field, challenge).find(case) if chosen.mr_field else None
        with ThreadPoolExecutor(1) as pool:
            opening = pool.submit(_open_prediction, prediction, challenge, target)
            expected = open_masks(reference, challenge, replace(target, resample=False))
            masks, problem = opening.result()
    except InputError as error:
        return _Result(case, (), (str(error),), answered=False)
    answered = not isinstance(masks, NoMasks)
    if not answered and challenge.evaluation.missing_case == "skip":
        return _Result(case, (), (f"prediction: {problem}; left out",), answered)
    problems = [f"prediction: {problem}; {COUNTS_AS_MISSED}"] if problem else []
    done = score_case(
        case,
        Sides(masks, expected, grid, field),
        challenge,
        definition=chosen.definition,
        threads=chosen.threads,
    )
    return _Result(case, done.scores, (*problems, *done.problems), answered)


def _open_prediction(
    files: LabelFiles | None, challenge: Challenge, target: Target
) -> tuple[Masks, str | None]:
    """Open the masks of a prediction; without usable ones, return why."""
    if files is None:
        return NoMasks("no case"), None
    try:
        return open_masks(files, challenge, target), None
    except InputError as error:
        return NoMasks("no usable file"), str(error)


def _write_results(
    results: Sequence[_Result],
    problems: tuple[CaseProblem, ...],
    challenge: Challenge,
    out: Path,
    chosen: EvaluationSettings,
) -> Summary:
    scores = tuple(score for result in results for score in result.scores)
    unanswered = tuple(r.case for r in results if r.scores and not r.answered)
    lines = tables.summarise_scores(scores, challenge)
    rules = tables.describe_metrics(challenge, chosen.definition, in_field=bool(chosen.mr_field))
    named = [f"{problem.name}: {problem.message}" for problem in problems]
    cases = len({score.case for score in scores})
    title = f"{challenge.title}: {cases} case{'' if cases == 1 else 's'}"
    title += f", {len(unanswered)} of them without a usable prediction" if unanswered else ""
    record = {
        "oarseg": __version__,
        "challenge": challenge.name,
        "cases": cases,
        "cases_without_prediction": list(unanswered),
        "definition": chosen.definition,
        "rules": rules,
        "status": dict(Counter(score.status for score in scores)),
        "mean_over_structures": {
            metric: tables.overall_mean(lines, challenge, metric) for metric in tables.METRICS
        },
        "structures": [tables.line_record(line) for line in lines],
        "problems": [{"case": p.name, "message": p.message} for p in problems],
    }
    text = tables.format_markdown(lines, challenge, title=title, rules=rules, problems=named)
    files = [out / CSV, out / JSON, out / MARKDOWN]
    try:
        out.mkdir(parents=True, exist_ok=True)
        tables.write_csv(files[0], scores)
        tables.write_json(files[1], record)
        files[2].write_text(text, encoding="utf-8")
        if chosen.plot:
            files.append(out / PLOT)
            write_plot(files[3], scores, challenge, title=title)
        if chosen.insert:
            tables.insert_between_marks(
                chosen.insert, tables.scores_table(lines, challenge, rules=rules)
            )
            files.append(chosen.insert)
    except OSError as error:
        raise OutputError(f"{out}: expected a writable folder: {error}") from error
    return Summary(scores, lines, problems, unanswered, tuple(rules), tuple(files))
