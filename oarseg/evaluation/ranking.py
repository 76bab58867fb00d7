"""Rank submissions as the challenge does, and compare two of them by significance tests.

This is ``oarseg rank``; the ranking rules are in ``ranking_rules``. A bootstrap over cases
gives the uncertainty of each placement. Scores that a submission lacks while another has
them count as missed: failing on hard cases must not pay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from oarseg.challenges.challenge import Evaluation
from oarseg.errors import InputError
from oarseg.evaluation.evaluate import CSV
from oarseg.evaluation.ranking_rules import POINT_NAMES, Places, RankingSettings, rank_draws
from oarseg.evaluation.scoring import Score
from oarseg.evaluation.tables import read_csv
from oarseg.evaluation.two_models import LOWER_IS_BETTER, Comparison, compare_two
from oarseg.imaging.arrays import Doubles

# Values ranked at once in the bootstrap; bounds the memory.
CHUNK_ENTRIES = 1 << 21

Key = tuple[str, str]


@dataclass(frozen=True)
class Standing:
    """Placement of one submission.

    Attributes:
        name: name of the submission.
        means: metric → mean of its finite values.
        infinite: metric → number of infinite values.
        points: metric → points that the ranks derive from; see ``ranking_rules``.
        mean_rank: mean rank over the metrics.
        place: 1 is the best.
        interval: 95 % interval of the place in the bootstrap.
        first: fraction of the bootstrap in which it came first.
        lacking: number of scores it lacks; they count as missed.
        lacking_cases: cases without any score.
    """

    name: str
    means: Mapping[str, float]
    infinite: Mapping[str, int]
    points: Mapping[str, float]
    mean_rank: float
    place: int
    interval: tuple[int, int]
    first: float
    lacking: int
    lacking_cases: tuple[str, ...]


@dataclass(frozen=True)
class Standings:
    """Placements of all submissions.

    Attributes:
        standings: one per submission, best first.
        verdicts: for exactly two submissions, one per metric.
        points: name of the points.
        cases, scores: numbers compared.
        left_out: scores dropped because only some submissions have them.
    """

    standings: tuple[Standing, ...]
    verdicts: tuple[Comparison, ...]
    points: str
    cases: int
    scores: int
    left_out: int


@dataclass(frozen=True)
class _Table:
    """Scores of all submissions as one array.

    Attributes:
        names, metrics, cases, structures: names along the axes (submissions first).
        values: (metrics, submissions, cases, structures); NaN where none has a score.
        filled: for each submission, the scores it lacked that were filled in as missed.
        left_out: number of scores dropped.
    """

    names: tuple[str, ...]
    metrics: tuple[str, ...]
    cases: tuple[str, ...]
    structures: tuple[str, ...]
    values: Doubles
    filled: tuple[frozenset[Key], ...]
    left_out: int


def rank_submissions(
    csvs: Sequence[Path],
    *,
    evaluation: Evaluation,
    alpha: float = 0.05,
    draws: int = 1000,
    seed: int = 0,
    common: bool = False,
) -> Standings:
    """Rank submissions by the scores that ``evaluate`` wrote as CSV.

    Args:
        csvs: one file per submission. Its name is the file's, or the folder's if the file
            is called scores.csv.
        evaluation: the challenge's metrics, ranking rule, weights and missed distance.
        alpha: significance level of every test.
        draws: number of bootstrap draws over cases.
        seed: seed of the bootstrap.
        common: compare only scores that all submissions have.

    Raises:
        InputError: fewer than two files, equal names, different definitions of HD95,
            different references, fields or tolerances, or nothing to compare.
    """
    names = [path.resolve().parent.name if path.name == CSV else path.stem for path in csvs]
    if len(csvs) < 2 or len(set(names)) < len(names):
        raise InputError(
            f"{', '.join(map(str, csvs)) or 'no files'}: expected two or more CSV files of "
            "different names; rename them"
        )
    submissions = [read_csv(path) for path in csvs]
    _check_alike(names, submissions)
    table = _build_table(names, submissions, evaluation, common=common)
    weights = np.array([evaluation.weight_of(name) for name in table.structures])
    rules = RankingSettings(evaluation.ranking, evaluation.ranked, weights, alpha)
    count = len(table.cases)
    observed = rank_draws(table.values, np.arange(count)[None], rules)
    drawn = _bootstrap(table, np.random.default_rng(seed).integers(0, count, (draws, count)), rules)
    standings = [
        _summarise_submission(table, number, observed, drawn) for number in range(len(names))
    ]
    return Standings(
        tuple(sorted(standings, key=lambda standing: standing.place)),
        _compare_pair(table, alpha) if len(names) == 2 else (),
        POINT_NAMES[evaluation.ranking],
        count,
        int(np.count_nonzero(~np.isnan(table.values[0, 0]))),
        table.left_out,
    )


def _check_alike(names: Sequence[str], submissions: Sequence[Sequence[Score]]) -> None:
    """Refuse submissions scored differently or against different references."""
    used = {score.definition for scores in submissions for score in scores}
    if len(used) > 1:
        raise InputError(
            f"{', '.join(names)}: expected one definition of HD95, found "
            f"{', '.join(sorted(used))}; evaluate them all with one --definition"
        )
    keyed = [{(s.case, s.structure): s for s in scores} for scores in submissions]
    for (one, mine), (other, theirs) in combinations(zip(names, keyed, strict=True), 2):
        for key in mine.keys() & theirs.keys():
            for figure in ("reference_cm3", "kept", "tolerance_mm"):
                values = [getattr(scores[key], figure) for scores in (mine, theirs)]
                if not any(map(math.isnan, values)) and not math.isclose(*values, rel_tol=1e-6):
                    raise InputError(
                        f"{one}, {other}: expected scores against the same references, field "
                        f"and tolerances, found {figure} {values[0]:g} and {values[1]:g} for "
                        f"{key[1]} of {key[0]}; evaluate both in the same way"
                    )


def _build_table(
    names: Sequence[str],
    submissions: Sequence[Sequence[Score]],
    evaluation: Evaluation,
    *,
    common: bool,
) -> _Table:
    keyed = [
        {(s.case, s.structure): s for s in scores if not math.isnan(s.dsc)}
        for scores in submissions
    ]
    every = frozenset[Key]().union(*keyed)
    shared = every.intersection(*keyed)
    used = shared if common else every
    if not shared:
        raise InputError(f"{', '.join(names)}: expected scores of the same cases, found none")
    cases = tuple(sorted({case for case, _ in used}))
    order = dict.fromkeys(s.structure for scores in submissions for s in scores)
    columns = {structure: column for column, structure in enumerate(order)}
    rows = {case: row for row, case in enumerate(cases)}
    values = np.full((len(evaluation.ranked), len(names), len(rows), len(columns)), math.nan)
    for number, metric in enumerate(evaluation.ranked):
        worst = evaluation.missed_distance_mm if metric in LOWER_IS_BETTER else 0.0
        for submission, scores in enumerate(keyed):
            for case, structure in used:
                score = scores.get((case, structure))
                value = getattr(score, metric) if score else worst
                values[number, submission, rows[case], columns[structure]] = value
    return _Table(
        tuple(names),
        evaluation.ranked,
        cases,
        tuple(columns),
        values,
        tuple(used - scores.keys() for scores in keyed),
        len(every) - len(used),
    )


def _bootstrap(
    table: _Table, draws: NDArray[np.int64], rules: RankingSettings
) -> NDArray[np.int64]:
    """Return the places (submissions, draws) on cases drawn with replacement."""
    step = max(CHUNK_ENTRIES // max(table.values.size, 1), 1)
    parts = [
        rank_draws(table.values, draws[first : first + step], rules).places
        for first in range(0, len(draws), step)
    ]
    return np.concatenate(parts, axis=1)


def _summarise_submission(
    table: _Table, number: int, observed: Places, drawn: NDArray[np.int64]
) -> Standing:
    low, high = np.percentile(drawn[number], [2.5, 97.5], method="nearest")
    mine = dict(zip(table.metrics, table.values[:, number], strict=True))
    filled = table.filled[number]
    scored = (~np.isnan(table.values[0, number])).sum(axis=1)
    return Standing(
        name=table.names[number],
        means={metric: _finite_mean(values) for metric, values in mine.items()},
        infinite={metric: int(np.isinf(values).sum()) for metric, values in mine.items()},
        points={m: float(observed.points[n, number, 0]) for n, m in enumerate(table.metrics)},
        mean_rank=float(observed.mean_ranks[number, 0]),
        place=int(observed.places[number, 0]),
        interval=(int(low), int(high)),
        first=float(np.mean(drawn[number] == 1)),
        lacking=len(filled),
        lacking_cases=tuple(
            case
            for case, count in zip(table.cases, scored, strict=True)
            if sum(key[0] == case for key in filled) == count
        ),
    )


def _finite_mean(values: Doubles) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else math.nan


def _compare_pair(table: _Table, alpha: float) -> tuple[Comparison, ...]:
    first, second = table.names
    return tuple(
        compare_two(
            values, names=(first, second), structures=table.structures, metric=metric, alpha=alpha
        )
        for metric, values in zip(table.metrics, table.values, strict=True)
    )


def format_ranking(ranking: Standings) -> str:
    """Format a ranking as a Markdown table, followed by what was left out and the verdicts."""
    metrics = list(ranking.standings[0].means)
    head = ["place", "95 % of draws", "first in", "submission", "mean rank"]
    head += [c for metric in metrics for c in (f"mean {metric}", f"{ranking.points} {metric}")]
    rows = [head, ["---:", "---:", "---:", "---", *["---:"] * (len(head) - 4)]]
    for s in ranking.standings:
        low, high = s.interval
        row = [str(s.place), f"{low}–{high}", f"{s.first:.0%}", s.name, f"{s.mean_rank:g}"]
        for metric in metrics:
            infinite = f" ({s.infinite[metric]} infinite)" if s.infinite[metric] else ""
            row += [f"{s.means[metric]:.4g}{infinite}", f"{s.points[metric]:.4g}"]
        rows.append(row)
    parts = ["\n".join("| " + " | ".join(row) + " |" for row in rows)]
    counted = f"{ranking.scores} scores of {ranking.cases} cases compared"
    if ranking.left_out:
        counted += f"; {ranking.left_out} left out, which not all submissions have"
    parts += [
        counted,
        *_describe_lacking(ranking),
        *(verdict.text() for verdict in ranking.verdicts),
    ]
    return "\n\n".join(parts)


def _describe_lacking(ranking: Standings) -> list[str]:
    lines = []
    for standing in ranking.standings:
        if standing.lacking:
            text = f"{standing.name} lacks {standing.lacking} scores that others have"
            if standing.lacking_cases:
                text += f", with whole cases among them ({', '.join(standing.lacking_cases)})"
            lines.append(f"{text}: they count as missed; --common compares what all have")
    return lines
