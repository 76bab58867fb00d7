"""The commands ``oarseg evaluate`` and ``oarseg rank``."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from oarseg.challenges.catalogue import DEFAULT_CHALLENGE
from oarseg.cli.options import (
    MOST_SEED,
    MOST_THREADS,
    Subparsers,
    add_challenge,
    chosen_challenge,
    number_above,
    whole_number,
)

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
    return 0


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
