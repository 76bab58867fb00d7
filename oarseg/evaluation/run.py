"""``oarseg evaluate``: folders of predictions and references → scores, tables and a plot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from oarseg import __version__
from oarseg.cases import CaseProblem
from oarseg.challenge import Challenge
from oarseg.errors import InputError, OutputError
from oarseg.evaluation import table
from oarseg.evaluation.field import Fields
from oarseg.evaluation.labels import open_masks, read_grid
from oarseg.evaluation.layouts import FoundLabels, LabelFiles, find_labels
from oarseg.evaluation.metrics import DEFINITIONS, Definition
from oarseg.evaluation.plot import write_plot
from oarseg.evaluation.scoring import CaseScores, Score, Sides, score_case

CSV, JSON, MARKDOWN, PLOT = "scores.csv", "summary.json", "table.md", "plot.png"


@dataclass(frozen=True)
class Settings:
    """How to score.

    Attributes:
        definition: of HD95 and the mean surface distance.
        mr_field: folder that tells the MR's field of every case; see ``field.Fields``.
        resample: bring predictions on other grids onto the reference's.
        threads: structures that are scored at once.
        plot: whether to draw.
    """

    definition: Definition = "surface-distance"
    mr_field: Path | None = None
    resample: bool = False
    threads: int = 2
    plot: bool = True


@dataclass(frozen=True)
class Summary:
    """What ``evaluate`` found.

    Attributes:
        scores: one a case and structure.
        lines: one a structure or pair.
        problems: by case; a sentence for the user each.
        rules: what the figures mean.
        files: what was written.
    """

    scores: tuple[Score, ...]
    lines: tuple[table.Line, ...]
    problems: tuple[CaseProblem, ...]
    rules: tuple[str, ...]
    files: tuple[Path, ...]


def evaluate(
    predictions: Path,
    references: Path,
    *,
    challenge: Challenge,
    out: Path,
    settings: Settings | None = None,
    progress: Callable[[str], None] | None = None,
) -> Summary:
    """Score every case that both folders hold, and write CSV, JSON, Markdown and a plot.

    Cases are paired by name. What keeps a case or a structure from being scored is told
    in ``problems``; the rest is scored.

    Args:
        predictions, references: folders in any layout of ``layouts``.
        challenge: its structures and rules.
        out: folder for the results, made if need be.
        settings: how to score.
        progress: called with one line when a case is done.

    Raises:
        InputError: no labels in a folder, no case in both, none that could be scored, or
            an unknown definition.
        OutputError: the results cannot be written.
    """
    how = settings or Settings()
    if how.definition not in DEFINITIONS:
        raise InputError(f"definition {how.definition!r}: expected {', '.join(DEFINITIONS)}")
    pairs, problems = _paired(
        find_labels(predictions, challenge), find_labels(references, challenge)
    )
    scores: list[Score] = []
    for prediction, reference in pairs:
        try:
            done = _case(prediction, reference, challenge, how)
        except InputError as error:
            problems.append(CaseProblem(reference.case, str(error)))
            continue
        scores += done.scores
        problems += [CaseProblem(reference.case, message) for message in done.problems]
        if progress:
            progress(f"{reference.case} scored")
    if not scores:
        reason = f": {problems[0].name}: {problems[0].message}" if problems else ""
        raise InputError(f"{predictions}: expected cases of {references}, could score none{reason}")
    return _write(tuple(scores), tuple(problems), challenge, out, how)


def _paired(
    predictions: FoundLabels, references: FoundLabels
) -> tuple[list[tuple[LabelFiles, LabelFiles]], list[CaseProblem]]:
    """Cases of both sides by name, and what is wrong with the others."""
    problems = [
        *(CaseProblem(p.name, f"prediction: {p.message}") for p in predictions.problems),
        *(CaseProblem(p.name, f"reference: {p.message}") for p in references.problems),
    ]
    named = {problem.name.casefold() for problem in problems}
    mine = {files.key: files for files in predictions.cases}
    theirs = {files.key: files for files in references.cases}
    for one, other, side in ((mine, theirs, "reference"), (theirs, mine, "prediction")):
        for key, files in one.items():
            if key not in other and key not in named:
                message = f"{files.first}: expected a {side} of the same name, found none"
                problems.append(CaseProblem(files.case, message))
    return [(mine[key], theirs[key]) for key in theirs if key in mine], problems


def _case(
    prediction: LabelFiles, reference: LabelFiles, challenge: Challenge, how: Settings
) -> CaseScores:
    grid = read_grid(reference.first)
    field = Fields(how.mr_field, challenge).of(reference.case) if how.mr_field else None
    sides = Sides(
        prediction=open_masks(prediction, challenge, grid, resample=how.resample),
        reference=open_masks(reference, challenge, grid, resample=False),
        grid=grid,
        field=field,
    )
    return score_case(
        reference.case, sides, challenge, definition=how.definition, threads=how.threads
    )


def _write(
    scores: tuple[Score, ...],
    problems: tuple[CaseProblem, ...],
    challenge: Challenge,
    out: Path,
    how: Settings,
) -> Summary:
    lines = table.summarise(scores, challenge)
    rules = table.definitions(challenge, how.definition, in_field=how.mr_field is not None)
    named = [f"{problem.name}: {problem.message}" for problem in problems]
    cases = len({score.case for score in scores})
    title = f"{challenge.title}: {cases} case{'' if cases == 1 else 's'}"
    record = {
        "oarseg": __version__,
        "challenge": challenge.name,
        "cases": cases,
        "definition": how.definition,
        "rules": rules,
        "status": dict(Counter(score.status for score in scores)),
        "mean_over_structures": {
            metric: table.overall(lines, challenge, metric) for metric in table.METRICS
        },
        "structures": [table.line_record(line) for line in lines],
        "problems": [{"case": p.name, "message": p.message} for p in problems],
    }
    text = table.markdown(lines, challenge, title=title, rules=rules, problems=named)
    files = [out / CSV, out / JSON, out / MARKDOWN]
    try:
        out.mkdir(parents=True, exist_ok=True)
        table.write_csv(files[0], scores)
        table.write_json(files[1], record)
        files[2].write_text(text, encoding="utf-8")
        if how.plot:
            files.append(out / PLOT)
            write_plot(files[3], scores, challenge, title=title)
    except OSError as error:
        raise OutputError(f"{out}: expected a writable folder: {error}") from error
    return Summary(scores, lines, problems, tuple(rules), tuple(files))
