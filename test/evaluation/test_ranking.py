"""The ranking, by hand and against scipy."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from oarseg.challenges.challenge import Evaluation
from oarseg.cli import main
from oarseg.errors import InputError
from oarseg.evaluation.metrics import Definition
from oarseg.evaluation.ranking import Standings, format_ranking, rank_submissions
from oarseg.evaluation.scoring import Score
from oarseg.evaluation.tables import Spread, read_csv, write_csv
from oarseg.evaluation.two_models import holm_rejections, p_better, paired_gains

STRUCTURES = ("A", "B", "C")
CASES = 14


def scores(
    quality: float,
    *,
    seed: int = 0,
    better_on: str = "",
    worse_on: str = "",
    definition: Definition = "surface-distance",
) -> list[Score]:
    """Scores of a submission: what is common to all is drawn from a seed, the rest is its own."""
    common, own = np.random.default_rng(99), np.random.default_rng(seed)
    found = []
    for case in range(CASES):
        for structure in STRUCTURES:
            shift = 0.2 * (structure in better_on) - 0.2 * (structure in worse_on)
            dice = quality + shift + common.uniform(-0.1, 0.1) + own.uniform(-0.01, 0.01)
            found.append(
                Score(
                    f"case_{case:02d}",
                    structure,
                    "scored",
                    definition,
                    dsc=dice,
                    hd95_mm=10 * (1 - dice),
                )
            )
    return found


def ranked(
    tmp_path: Path,
    *,
    rules: Evaluation | None = None,
    common: bool = False,
    **submissions: list[Score],
) -> Standings:
    paths = []
    for name, content in submissions.items():
        paths.append(tmp_path / f"{name}.csv")
        write_csv(paths[-1], content)
    return rank_submissions(paths, evaluation=rules or Evaluation(), draws=200, common=common)


def test_three_submissions_in_their_order(tmp_path: Path) -> None:
    ranking = ranked(
        tmp_path,
        worst=scores(0.5, seed=1),
        best=scores(0.7, seed=2),
        middle=scores(0.6, seed=3),
    )
    assert [standing.name for standing in ranking.standings] == ["best", "middle", "worst"]
    assert [standing.place for standing in ranking.standings] == [1, 2, 3]
    assert [standing.points["dsc"] for standing in ranking.standings] == [2, 1, 0]
    assert [standing.mean_rank for standing in ranking.standings] == [1.0, 2.0, 3.0]
    assert ranking.standings[0].interval == (1, 1)
    assert ranking.standings[0].first == 1.0
    assert ranking.standings[0].means["dsc"] == pytest.approx(
        np.mean([s.dsc for s in scores(0.7, seed=2)])
    )
    assert (ranking.cases, ranking.scores, ranking.verdicts) == (CASES, CASES * 3, ())


def test_without_a_difference_the_mean_decides_and_the_bootstrap_doubts(tmp_path: Path) -> None:
    ranking = ranked(tmp_path, one=scores(0.6, seed=1), other=scores(0.6, seed=2))
    first, second = ranking.standings
    assert [standing.points["dsc"] for standing in ranking.standings] == [0, 0]
    assert first.mean_rank == second.mean_rank == 1.5
    assert first.means["dsc"] > second.means["dsc"]
    assert first.interval == second.interval == (1, 2)
    assert 0.5 < first.first < 1.0
    assert first.first + second.first == pytest.approx(1.0)


def test_verdict_names_the_structures(tmp_path: Path) -> None:
    ranking = ranked(
        tmp_path, new=scores(0.6, seed=1, better_on="A", worse_on="C"), old=scores(0.6, seed=2)
    )
    dice, distance = ranking.verdicts
    assert (dice.better, dice.worse, dice.undecided) == (("A",), ("C",), ("B",))
    assert (distance.better, distance.worse) == (("A",), ("C",))
    assert dice.text() == (
        "new against old by dsc: better on 1 (A), worse on 1 (C), no evidence on 1 "
        "(α = 0.05, Holm-corrected over 3 structures)"
    )


def test_too_few_cases_are_told(tmp_path: Path) -> None:
    few = [s for s in scores(0.9) if s.case < "case_05"]
    other = [s for s in scores(0.2, seed=2) if s.case < "case_05"]
    verdict = ranked(tmp_path, one=few, other=other).verdicts[0]
    # Five cases: the smallest two-sided p is 2/2⁵ = 0.0625.
    assert verdict.undecided == STRUCTURES
    assert "too few cases" in verdict.text()


def test_what_one_lacks_counts_as_missed_and_is_told(tmp_path: Path) -> None:
    whole = scores(0.6, seed=2)
    better = scores(0.7, seed=1)
    lacking = [
        s for s in better if s.case > "case_06" and (s.structure, s.case) != ("B", "case_09")
    ]
    ranking = ranked(tmp_path, lacking=lacking, whole=whole)
    assert [standing.name for standing in ranking.standings] == ["whole", "lacking"]
    assert (ranking.scores, ranking.cases, ranking.left_out) == (CASES * 3, CASES, 0)
    last = ranking.standings[1]
    assert (last.lacking, last.lacking_cases) == (22, tuple(f"case_{n:02d}" for n in range(7)))
    assert (last.infinite["hd95_mm"], ranking.standings[0].infinite["hd95_mm"]) == (22, 0)
    assert last.means["dsc"] == pytest.approx(sum(s.dsc for s in lacking) / (CASES * 3))
    text = format_ranking(ranking)
    assert "lacking lacks 22 scores that others have, with whole cases among them (case_00" in text
    assert "(22 infinite)" in text
    ranking = ranked(tmp_path, common=True, lacking=lacking, whole=whole)
    assert [standing.name for standing in ranking.standings] == ["lacking", "whole"]
    assert (ranking.scores, ranking.cases, ranking.left_out) == (20, 7, 22)
    assert "22 left out, which not all submissions have" in format_ranking(ranking)


@pytest.mark.parametrize(
    ("figure", "value"), [("reference_cm3", 3.1), ("kept", 0.5), ("tolerance_mm", 2.0)]
)
def test_other_references_fields_or_tolerances_are_refused(
    tmp_path: Path, figure: str, value: float
) -> None:
    both = [replace(s, reference_cm3=3.0, tolerance_mm=1.0) for s in scores(0.6)]
    other = [replace(both[0], **{figure: value}), *both[1:]]
    ranked(tmp_path, one=both, other=both)
    with pytest.raises(InputError, match=rf"same references.* found {figure} .* A of case_00"):
        ranked(tmp_path, one=both, other=other)


def score(case: str, structure: str, dice: float, nsd: float, hd95_mm: float = 1.0) -> Score:
    return Score(case, structure, "scored", "surface-distance", dsc=dice, nsd=nsd, hd95_mm=hd95_mm)


def test_ranks_over_organs_and_metrics_by_hand(tmp_path: Path) -> None:
    # Organ A: one 0.8, two 0.7, three 0.7. Organ B: one 0.1, two 0.3, three 0.2.
    one = [score("1", "A", 0.9, 0.9), score("2", "A", 0.7, 0.9), score("1", "B", 0.1, 0.1)]
    two = [score("1", "A", 0.6, 0.8), score("2", "A", 0.8, 0.8), score("1", "B", 0.3, 0.2)]
    three = [score("1", "A", 0.8, 0.7), score("2", "A", 0.6, 0.7), score("1", "B", 0.2, 0.3)]
    rules = Evaluation(ranked=("dsc", "nsd"), ranking="organ_ranks")
    ranking = ranked(tmp_path, rules=rules, one=one, two=two, three=three)
    # Dice: A 1, 2½, 2½ and B 3, 1, 2. NSD: A 1, 2, 3 and B 3, 2, 1.
    assert [(s.name, s.points) for s in ranking.standings] == [
        ("two", {"dsc": 1.75, "nsd": 2.0}),
        ("one", {"dsc": 2.0, "nsd": 2.0}),
        ("three", {"dsc": 2.25, "nsd": 2.0}),
    ]
    assert [s.mean_rank for s in ranking.standings] == [1.875, 2.0, 2.125]
    assert "mean organ rank nsd" in format_ranking(ranking)


def test_weighted_means_by_hand(tmp_path: Path) -> None:
    one = [score("1", "A", 0.9, 1, 4.0), score("2", "A", 0.7, 1, 2.0), score("1", "B", 0.3, 1, 9.0)]
    two = [score("1", "A", 0.7, 1, 5.0), score("2", "A", 0.7, 1, 5.0), score("1", "B", 0.9, 1, 1.0)]
    rules = Evaluation(ranking="weighted_means", weights={"A": 100.0, "B": 50.0})
    ranking = ranked(tmp_path, rules=rules, one=one, two=two)
    # Dice (2·0.8 + 0.3)/3 and (2·0.7 + 0.9)/3; HD95 (2·3 + 9)/3 and (2·5 + 1)/3.
    first, second = ranking.standings
    assert (first.name, second.name) == ("two", "one")
    assert first.points == pytest.approx({"dsc": 2.3 / 3, "hd95_mm": 11 / 3})
    assert second.points == pytest.approx({"dsc": 1.9 / 3, "hd95_mm": 5.0})
    assert (first.mean_rank, second.mean_rank) == (1.0, 2.0)
    # Whoever misses an organ comes last by distance, however near the others are.
    missed = [*two[:2], Score("1", "B", "missed", "surface-distance", dsc=0.0, hd95_mm=math.inf)]
    first, second = ranked(tmp_path, rules=rules, one=one, two=missed).standings
    assert (first.name, second.points["hd95_mm"], second.mean_rank) == ("one", math.inf, 2.0)


def test_missed_structures_count_as_worst(tmp_path: Path) -> None:
    missing = [
        Score(s.case, s.structure, "missed", s.definition, dsc=0.0, hd95_mm=math.inf, nsd=0.0)
        for s in scores(0.6)
    ]
    first, last = ranked(tmp_path, missing=missing, poor=scores(0.3, seed=1)).standings
    assert (first.name, first.points, last.points) == (
        "poor",
        {"dsc": 1, "hd95_mm": 1},
        {"dsc": 0, "hd95_mm": 0},
    )


def test_gains_by_hand() -> None:
    one = np.array([0.5, 0.5, math.nan, 3.0, math.inf])
    other = np.array([0.4, 0.7, 0.5, math.inf, math.inf])
    np.testing.assert_allclose(paired_gains(one, other, "dsc"), [0.1, -0.2, 0, -1e9, 0])
    np.testing.assert_allclose(paired_gains(one, other, "hd95_mm"), [-0.1, 0.2, 0, 1e9, 0])


def test_p_is_that_of_the_signed_rank_test() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(0.3, 1.0, (5, 20))
    rows[0] = 0.0
    rows[1, :4] = 0.0
    found = p_better(rows)
    assert found[0] == 1.0
    for row, p in zip(rows[1:], found[1:], strict=True):
        expected = stats.wilcoxon(row[row != 0], alternative="greater", method="asymptotic")
        assert p == pytest.approx(expected.pvalue)
    # All five of one sign: one of 2⁵ equally likely signs.
    assert float(p_better(np.arange(1.0, 6.0), exact=True)) == pytest.approx(1 / 32)


def test_holm_by_hand() -> None:
    # 0.01 ≤ 0.05/4, 0.015 ≤ 0.05/3, 0.03 > 0.05/2: from there on nothing is rejected.
    assert holm_rejections([0.03, 0.01, 0.04, 0.015], 0.05) == [False, True, False, True]
    assert holm_rejections([], 0.05) == []


def test_csv_comes_back_as_it_was(tmp_path: Path) -> None:
    written = [
        Score("case_01", "A", "missed", "medpy", dsc=0.0, hd95_mm=math.inf, note='a "b", c'),
        Score("case_01", "B", "scored", "medpy", dsc=1 / 3, hd95_mm=0.1, nsd=0.7, kept=0.25),
    ]
    write_csv(tmp_path / "a.csv", written)
    assert repr(read_csv(tmp_path / "a.csv")) == repr(tuple(written))


def test_spread_by_hand() -> None:
    assert Spread.of([1.0, 3.0, math.nan, math.inf]) == Spread(2.0, math.sqrt(2.0))
    assert math.isnan(Spread.of([]).mean)


def test_bad_files_are_named(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", scores(0.5))
    write_csv(tmp_path / "b.csv", scores(0.5, definition="medpy"))
    with pytest.raises(InputError, match="two or more CSV files of different names"):
        rank_submissions([tmp_path / "a.csv"], evaluation=Evaluation())
    with pytest.raises(InputError, match="one definition of HD95, found medpy, surface-distance"):
        rank_submissions([tmp_path / "a.csv", tmp_path / "b.csv"], evaluation=Evaluation())
    (tmp_path / "c.csv").write_text("case,dice\n1,2\n")
    with pytest.raises(InputError, match=r"c.csv: expected the columns .*definition"):
        rank_submissions([tmp_path / "a.csv", tmp_path / "c.csv"], evaluation=Evaluation())
    text = (tmp_path / "a.csv").read_text().replace("scored", "great", 1)
    (tmp_path / "d.csv").write_text(text)
    with pytest.raises(InputError, match=r"d.csv: expected a row of .* in line 2"):
        rank_submissions([tmp_path / "a.csv", tmp_path / "d.csv"], evaluation=Evaluation())
    with pytest.raises(InputError, match=r"e.csv: expected a CSV file"):
        rank_submissions([tmp_path / "a.csv", tmp_path / "e.csv"], evaluation=Evaluation())


def test_command_prints_ranking_and_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = []
    for name, quality in (("new", 0.7), ("old", 0.6)):
        paths.append(tmp_path / name / "scores.csv")
        paths[-1].parent.mkdir()
        write_csv(paths[-1], scores(quality))
    assert main(["rank", *map(str, paths), "--draws", "50"]) == 0
    printed = capsys.readouterr().out
    assert "| 1 | 1–1 | 100% | new | 1 | " in printed
    assert "new against old by hd95_mm: better on 3 (A, B, C), worse on 0" in printed


@pytest.mark.parametrize("cases", [0, 1, 2, 3])
@pytest.mark.parametrize("dice", [0.5, 0.6, 0.7])
@pytest.mark.parametrize("common", [False, True])
def test_a_structure_that_few_cases_share(
    tmp_path: Path, cases: int, dice: float, common: bool
) -> None:
    """Structure X of so many cases that both have; the second always has 0.6."""

    def with_few(quality: float, first: int) -> list[Score]:
        few = [
            Score(f"case_{case:02d}", "X", "scored", "surface-distance", dsc=quality, hd95_mm=4.0)
            for case in range(first, first + cases)
        ]
        return scores(0.6) + few

    ranking = ranked(tmp_path, one=with_few(dice, 0), other=with_few(0.6, 0), common=common)
    verdict = ranking.verdicts[0]
    assert "X" in (verdict.undecided if cases else (*verdict.untested, "X"))
    # Cases that only one of them has.
    ranked(tmp_path, one=with_few(dice, 0), other=with_few(0.6, 1), common=common)


@pytest.mark.parametrize(("gain", "expected"), [(0.1, 0.5), (0.0, 1.0), (-0.1, 1.0)])
def test_p_of_a_single_pair(gain: float, expected: float) -> None:
    assert p_better(np.array([gain]), exact=True) == expected
    np.testing.assert_array_equal(p_better(np.array([[gain], [0.0]]), exact=True), [expected, 1.0])
