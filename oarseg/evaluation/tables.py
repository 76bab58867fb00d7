"""Write scores as CSV, JSON and Markdown; read the CSV back."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np

from oarseg.challenges.challenge import Challenge, Evaluation
from oarseg.errors import InputError
from oarseg.evaluation.metrics import DEFINITIONS, Definition
from oarseg.evaluation.scoring import Score, ScoreStatus

SCORE_COLUMNS = tuple(field.name for field in fields(Score))
TEXTS = ("case", "structure", "status", "definition", "note")
NUMBERS = tuple(name for name in SCORE_COLUMNS if name not in TEXTS)
METRICS = ("dsc", "hd95_mm", "nsd", "msd_mm", "volume_difference_cm3")
# ``insert_between_marks`` writes between these.
MARKS = ("<!-- scores -->", "<!-- /scores -->")
HD95_WORDS: dict[Definition, str] = {
    "surface-distance": (
        "HD95: 95th percentile of surface distances weighted by surface area, the greater of "
        "both directions (as google-deepmind's surface-distance)"
    ),
    "medpy": (
        "HD95: 95th percentile of the distances of border voxels, both directions together "
        "(as medpy)"
    ),
    "evalutils": (
        "HD95: the distance of border voxels of rank 95 %, the greater of both directions "
        "(as evalutils)"
    ),
}


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (n − 1) of the finite values; NaN without any."""

    mean: float
    sd: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Compute both over the values that are neither NaN nor infinite."""
        finite = np.array([value for value in values if math.isfinite(value)])
        mean = float(finite.mean()) if finite.size else math.nan
        return cls(mean, float(finite.std(ddof=1)) if finite.size > 1 else math.nan)


@dataclass(frozen=True)
class Line:
    """Summary of a structure or pair over all cases.

    Attributes:
        name: name of the structure or pair.
        n: number of scores; for a pair, both sides count.
        missed: how many of these the prediction lacks or has in no usable file.
        not_scored: number of cases extra, outside the field or unusable.
        dsc, hd95_mm, nsd, msd_mm, volume_difference_cm3: see ``metrics``.
    """

    name: str
    n: int
    missed: int
    not_scored: int
    dsc: Spread
    hd95_mm: Spread
    nsd: Spread
    msd_mm: Spread
    volume_difference_cm3: Spread


def summarise_scores(scores: Sequence[Score], challenge: Challenge) -> tuple[Line, ...]:
    """Summarise each structure in the challenge's order, a pair before its two sides."""
    pairs = {pair.left: pair for pair in challenge.evaluation.pairs}
    lines = []
    for organ in challenge.organs:
        pair = pairs.get(organ.name)
        if pair:
            lines.append(_summarise_group(pair.name, scores, {pair.left, pair.right}))
        lines.append(_summarise_group(organ.name, scores, {organ.name}))
    return tuple(lines)


def _summarise_group(name: str, scores: Sequence[Score], structures: set[str]) -> Line:
    mine = [score for score in scores if score.structure in structures]
    scored = [score for score in mine if not math.isnan(score.dsc)]
    return Line(
        name,
        n=len(scored),
        missed=sum(score.status in ("missed", "unusable") for score in scored),
        not_scored=sum(math.isnan(score.dsc) and score.status != "absent" for score in mine),
        **{metric: Spread.of(getattr(s, metric) for s in scored) for metric in METRICS},
    )


def overall_mean(lines: Sequence[Line], challenge: Challenge, metric: str) -> float:
    """Return the challenge's weighted mean over the structures' means; NaN without any.

    Pairs are not counted again; structures without a finite mean are left out.
    """
    rules = challenge.evaluation
    means = {line.name: getattr(line, metric).mean for line in lines}
    known = [o.name for o in challenge.organs if math.isfinite(means.get(o.name, math.nan))]
    if not known:
        return math.nan
    weights = [rules.weight_of(name) for name in known]
    return float(np.average([means[name] for name in known], weights=weights))


def format_headline(lines: Sequence[Line], challenge: Challenge, scores: Sequence[Score]) -> str:
    """Format the means over structures as one line, with the number of infinite distances."""
    dice, distance, nsd = (overall_mean(lines, challenge, m) for m in ("dsc", "hd95_mm", "nsd"))
    infinite = sum(math.isinf(score.hd95_mm) for score in scores)
    left_out = f" ({infinite} infinite ones left out)" if infinite else ""
    return (
        f"mean over structures: DC {100 * dice:.1f} %, HD95 {distance:.1f} mm{left_out}, "
        f"NSD {100 * nsd:.1f} %"
    )


def describe_metrics(challenge: Challenge, definition: Definition, *, in_field: bool) -> list[str]:
    """Describe the figures and the rules applied, one sentence each."""
    rules = challenge.evaluation
    return [
        "DC: Dice coefficient of the voxels",
        HD95_WORDS[definition],
        f"NSD: normalised surface Dice at {rules.tolerance_mm:g} mm"
        + _in_brackets(f"{name} {mm:g} mm" for name, mm in rules.tolerances_mm.items()),
        "MSD: mean surface distance, by the same surfaces as HD95",
        "ΔV: predicted minus reference volume",
        "± : standard deviation with n − 1",
        "mean over structures: of their means, each "
        + (
            f"weighted with 1{_in_brackets(f'{n} {w:g}' for n, w in rules.weights.items())}"
            if rules.weights
            else "once"
        ),
        *_describe_field_rule(rules, in_field=in_field),
        *_describe_empty_rules(rules),
    ]


def _describe_field_rule(rules: Evaluation, *, in_field: bool) -> list[str]:
    if not in_field:
        return ["field: the whole of the reference's grid"]
    return [
        "field: both sides are cut to the MR's field of view; a structure is scored if more "
        f"than {100 * rules.min_kept:g} % of its reference volume lies there"
    ]


def _describe_empty_rules(rules: Evaluation) -> list[str]:
    skipped = "not scored"
    infinite = math.isinf(rules.missed_distance_mm)
    return [
        "only the reference has the structure (missed): DC 0, NSD 0, distances "
        + ("infinite: counted, not averaged" if infinite else f"{rules.missed_distance_mm:g} mm"),
        "only the prediction has it (extra): "
        + (skipped if rules.reference_empty == "skip" else "scored as missed"),
        f"neither has it: {skipped if rules.both_empty == 'skip' else 'DC 1, NSD 1, distances 0'}",
        "no usable prediction of a case or structure: "
        + (skipped if rules.missing_case == "skip" else "missed"),
    ]


def _in_brackets(parts: Iterable[str]) -> str:
    text = ", ".join(parts)
    return f" ({text})" if text else ""


def write_csv(path: Path, scores: Iterable[Score]) -> None:
    """Write one row per case and structure; NaN is empty, infinity is "inf"."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(SCORE_COLUMNS)
        for score in scores:
            writer.writerow([_format_cell(getattr(score, name)) for name in SCORE_COLUMNS])


def _format_cell(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return "" if math.isnan(value) else repr(float(value))


def read_csv(path: Path) -> tuple[Score, ...]:
    """Read the scores that ``write_csv`` wrote.

    Raises:
        InputError: no such file, other columns, or an invalid cell.
    """
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected a CSV file of 'oarseg evaluate': {error}") from error
    missing = set(SCORE_COLUMNS) - set(rows[0] if rows else ())
    if missing:
        raise InputError(
            f"{path}: expected the columns of 'oarseg evaluate', found none called "
            f"{', '.join(sorted(missing))}; give its scores.csv"
        )
    return tuple(_parse_score(path, number, row) for number, row in enumerate(rows, start=2))


def _parse_score(path: Path, number: int, row: dict[str, str]) -> Score:
    known = row["definition"] in DEFINITIONS and row["status"] in get_args(ScoreStatus)
    try:
        values = {name: float(row[name]) if row[name] else math.nan for name in NUMBERS}
    except (ValueError, TypeError):
        known = False
    if not known:
        raise InputError(f"{path}: expected a row of 'oarseg evaluate' in line {number}")
    return Score(
        row["case"],
        row["structure"],
        cast(ScoreStatus, row["status"]),
        cast(Definition, row["definition"]),
        note=row["note"],
        **values,
    )


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a record as JSON; NaN and infinity, which JSON lacks, become null."""
    text = json.dumps(_replace_non_finite(record), indent=1, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def line_record(line: Line) -> dict[str, Any]:
    """Return a line as a dictionary for JSON."""
    return asdict(line)


def _replace_non_finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _replace_non_finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_replace_non_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def format_markdown(
    lines: Sequence[Line],
    challenge: Challenge,
    *,
    title: str,
    rules: Sequence[str],
    problems: Sequence[str],
) -> str:
    """Format a page with the table, the meaning of its figures, and the problems."""
    parts = [f"# {title}", scores_table(lines, challenge, rules=rules)]
    if problems:
        parts += ["## Problems", "\n".join(f"- {problem}" for problem in problems)]
    return "\n\n".join(parts) + "\n"


def scores_table(lines: Sequence[Line], challenge: Challenge, *, rules: Sequence[str]) -> str:
    """Format N and mean ± SD beside the published baseline, with the rules below."""
    baseline = challenge.evaluation.baseline
    head = ["Structure", "N", "DC (%)", "HD95 (mm)", "NSD (%)", "MSD (mm)", "ΔV (cm³)", "missed"]
    head += ["paper DC (%)", "paper HD95 (mm)"] if baseline else []
    rows = [[*_score_cells(line), *_baseline_cells(line, challenge)] for line in lines]
    rows.append(_overall_cells(lines, challenge, len(head)))
    align = ["---", *["---:"] * (len(head) - 1)]
    table = "\n".join("| " + " | ".join(row) + " |" for row in (head, align, *rows))
    meaning = [f"- {rule}" for rule in rules]
    if baseline:
        meaning.append(f"- paper: {challenge.evaluation.baseline_source}")
    return table + "\n\n" + "\n".join(meaning)


def insert_between_marks(path: Path, text: str) -> None:
    """Replace the text between the marks of a Markdown file.

    Raises:
        InputError: no such file, or not exactly one of each mark in it.
    """
    before, after = split_at_marks(path)
    path.write_text(f"{before}{MARKS[0]}\n\n{text}\n\n{MARKS[1]}{after}", encoding="utf-8")


def split_at_marks(path: Path) -> tuple[str, str]:
    """Return the text before the first mark and after the second.

    Raises:
        InputError: as ``insert_between_marks``.
    """
    try:
        page = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected a Markdown file to insert into: {error}") from error
    before, begin, rest = page.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not (begin and end) or MARKS[0] in rest or MARKS[1] in after:
        raise InputError(f"{path}: expected {MARKS[0]} and below it {MARKS[1]}, once each")
    return before, after


def _score_cells(line: Line) -> list[str]:
    return [
        line.name,
        str(line.n),
        _format_spread(line.dsc, 100),
        _format_spread(line.hd95_mm),
        _format_spread(line.nsd, 100),
        _format_spread(line.msd_mm, digits=2),
        _format_spread(line.volume_difference_cm3, digits=2),
        str(line.missed or ""),
    ]


def _baseline_cells(line: Line, challenge: Challenge) -> list[str]:
    if not challenge.evaluation.baseline:
        return []
    known = challenge.evaluation.baseline.get(line.name)
    if known is None:
        return ["–", "–"]
    return [_format_spread(Spread(*known.dsc_percent)), _format_spread(Spread(*known.hd95_mm))]


def _overall_cells(lines: Sequence[Line], challenge: Challenge, columns: int) -> list[str]:
    def mean(metric: str, factor: float = 1, digits: int = 1) -> str:
        return _format_number(overall_mean(lines, challenge, metric) * factor, digits)

    names = {organ.name for organ in challenge.organs}
    missed = sum(line.missed for line in lines if line.name in names)
    cells = ["**mean over structures**", "", mean("dsc", 100), mean("hd95_mm"), mean("nsd", 100)]
    cells += [mean("msd_mm", digits=2), mean("volume_difference_cm3", digits=2)]
    cells.append(str(missed or ""))
    return cells + [""] * (columns - len(cells))


def _format_spread(spread: Spread, factor: float = 1, *, digits: int = 1) -> str:
    if math.isnan(spread.mean):
        return "–"
    mean = _format_number(spread.mean * factor, digits)
    return (
        mean if math.isnan(spread.sd) else f"{mean} ± {_format_number(spread.sd * factor, digits)}"
    )


def _format_number(value: float, digits: int) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"
