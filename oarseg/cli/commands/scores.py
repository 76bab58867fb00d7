"""The commands ``oarseg evaluate`` and ``oarseg rank``."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from oarseg.challenges.catalogue import DEFAULT_CHALLENGE
from oarseg.challenges.challenge import Challenge
from oarseg.cli.options import (
    MOST_SEED,
    MOST_THREADS,
    Subparsers,
    add_challenge,
    chosen_challenge,
    number_above,
    say_notice,
    whole_number,
)
from oarseg.errors import InputError

if TYPE_CHECKING:
    from oarseg.evaluation.calibrate import HeldOut
    from oarseg.evaluation.evaluate import Summary
    from oarseg.model.bundle import Bundle

logger = logging.getLogger(__name__)


def add_evaluate(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """Add ``oarseg evaluate``."""
    parser = commands.add_parser(
        "evaluate",
        help="score predictions against references",
        description="Score predictions against references. Both may have any of these layouts: "
        "images/<output slug>/*, oar_masks/<case>/*, <case>/<case>_OAR_<structure>.seg.nrrd, "
        "<case>/<structure>.nii.gz, <case>/label.nrrd, <case>.nii.gz; also .mha, .nrrd, .nii. "
        "A label file may be a label map, a 4-D image with one channel per organ, or a Slicer "
        "segmentation.",
    )
    parser.add_argument("predictions", type=Path, help="folder of label maps or masks")
    parser.add_argument(
        "references", type=Path, help="folder of the true ones; cases are paired by name"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for tables and plot")
    add_challenge(
        parser,
        default=None,
        without=f"the one in the predictions' reports, else {DEFAULT_CHALLENGE}",
    )
    parser.add_argument(
        "--definition",
        choices=("surface-distance", "medpy", "evalutils"),
        default="surface-distance",
        help="definition of HD95; results can differ by 100 mm (default: surface-distance)",
    )
    parser.add_argument(
        "--mr-field",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="score only the MR's field of view: a folder with <case>_truth.json, or with the MRs "
        "and <case>_ct_to_mr.tfm or reports/<case>.json; may be repeated (default: everything)",
    )
    parser.add_argument(
        "--missing",
        choices=("missed", "skip"),
        help="count a case without a usable prediction as missed, or leave it out (default: the "
        "challenge's rule)",
    )
    parser.add_argument(
        "--resample",
        action="store_true",
        help="resample predictions on another grid than the reference's, by nearest neighbour",
    )
    parser.add_argument(
        "--calibrate",
        type=Path,
        metavar="WEIGHTS",
        help="weights folder of the model that made the predictions, of cases that none of its "
        "folds was trained on: learn what Dice to expect by how far the folds agree, and write "
        "calibration.json there (default: none)",
    )
    parser.add_argument(
        "--insert",
        type=Path,
        metavar="FILE.md",
        help="also write the table between <!-- scores --> and <!-- /scores --> of this file "
        "(default: none)",
    )
    parser.add_argument(
        "--threads",
        type=whole_number(1, MOST_THREADS),
        default=2,
        help="structures scored in parallel (default: 2)",
    )
    parser.add_argument("--no-plot", action="store_true", help="write no plot")
    parser.set_defaults(command=run_evaluate)


def run_evaluate(arguments: argparse.Namespace) -> int:
    """Score predictions; print the rules, the main figures and the files written."""
    from oarseg.evaluation import tables
    from oarseg.evaluation.evaluate import EvaluationSettings
    from oarseg.evaluation.evaluate import evaluate_folders as run

    calibrating = _begin_calibration(arguments)
    if calibrating is not None and arguments.challenge is None and not arguments.label_table:
        rules = calibrating.challenge
        say_notice(rules)
    else:
        rules = chosen_challenge(arguments, outputs=arguments.predictions)
    summary = run(
        arguments.predictions,
        arguments.references,
        challenge=rules,
        out=arguments.out,
        settings=EvaluationSettings(
            definition=arguments.definition,
            missing=arguments.missing,
            mr_field=tuple(arguments.mr_field),
            resample=arguments.resample,
            threads=arguments.threads,
            plot=not arguments.no_plot,
            insert=arguments.insert,
        ),
        progress=logger.info,
    )
    for rule in summary.rules:
        print(rule)
    for problem in summary.problems:
        logger.warning("%s: %s", problem.name, problem.message)
    print(tables.format_headline(summary.lines, rules, summary.scores))
    for file in summary.files:
        print(file)
    if calibrating is not None:
        _calibrate(calibrating, summary, rules)
    return 0


@dataclass(frozen=True)
class _Calibrating:
    """The model to calibrate, its challenge, and what its reports say."""

    weights: Bundle
    challenge: Challenge
    held_out: HeldOut


def _begin_calibration(arguments: argparse.Namespace) -> _Calibrating | None:
    """Read model and reports before the long work; None where nothing is to be calibrated."""
    from oarseg.evaluation.calibrate import read_held_out
    from oarseg.model.agreement import challenge_of
    from oarseg.model.bundle import read_manifest
    from oarseg.model.calibration import check_writable

    if arguments.calibrate is None:
        return None
    if arguments.mr_field:
        raise InputError(
            "--calibrate: expected without --mr-field, as folds are compared in the whole image; "
            "pass one of the two"
        )
    weights = read_manifest(arguments.calibrate)
    check_writable(weights.folder)
    challenge = challenge_of(weights, arguments.challenge)
    return _Calibrating(weights, challenge, read_held_out(arguments.predictions, weights))


def _calibrate(model: _Calibrating, summary: Summary, rules: Challenge) -> None:
    """Write the calibration, and print what it expects of each organ."""
    from oarseg.evaluation.calibrate import calibrate_model, unreported_cases
    from oarseg.model.calibration import FEWEST_CASES, write_calibration

    for problem in model.held_out.problems:
        logger.warning("%s: %s", problem.name, problem.message)
    for case in unreported_cases(model.held_out, summary.scores, summary.unanswered):
        logger.warning("%s: expected a report of this case, found none; not calibrated by", case)
    found, left_out = calibrate_model(
        model.weights,
        model.held_out,
        summary.scores,
        challenge=rules,
        unanswered=summary.unanswered,
    )
    if left_out:
        logger.warning(
            "not calibrated, for fewer than %d cases: %s", FEWEST_CASES, ", ".join(left_out)
        )
    for row in found.organs:
        ends = row.lowest_agreement, row.highest_agreement
        agreement, dice = _range_text(ends), _range_text([row.expected(end).dice for end in ends])
        print(
            f"{row.organ}: {row.cases} cases, agreement {agreement}, expected DC {dice}, error "
            f"{row.error:.3f}"
        )
    print(write_calibration(found, model.weights.folder))


def _range_text(ends: Sequence[float | None]) -> str:
    return " to ".join(f"{end:.3f}" for end in ends if end is not None)


def add_rank(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """Add ``oarseg rank``."""
    parser = commands.add_parser("rank", help="rank models by their scores")
    parser.add_argument(
        "csvs",
        type=Path,
        nargs="+",
        metavar="CSV",
        help="scores.csv that evaluate wrote, one per model",
    )
    add_challenge(parser)
    parser.add_argument(
        "--common",
        action="store_true",
        help="compare only scores that all models have; otherwise a score that one of them lacks "
        "counts as missed",
    )
    parser.add_argument(
        "--alpha",
        type=number_above(0, most=1),
        default=0.05,
        help="significance level of the tests (default: 0.05)",
    )
    parser.add_argument(
        "--draws",
        type=whole_number(1, 10**9),
        default=1000,
        help="bootstrap draws of the cases (default: 1000)",
    )
    parser.add_argument(
        "--seed",
        type=whole_number(0, MOST_SEED),
        default=0,
        help="seed of the bootstrap (default: 0)",
    )
    parser.set_defaults(command=run_rank)


def run_rank(arguments: argparse.Namespace) -> int:
    """Print the ranking as a Markdown table and, for two models, a verdict."""
    from oarseg.evaluation.ranking import format_ranking
    from oarseg.evaluation.ranking import rank_submissions as run

    ranking = run(
        arguments.csvs,
        evaluation=chosen_challenge(arguments).evaluation,
        alpha=arguments.alpha,
        draws=arguments.draws,
        seed=arguments.seed,
        common=arguments.common,
    )
    print(format_ranking(ranking))
    return 0
