"""``oarseg evaluate`` and ``oarseg rank``."""

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


def _add_evaluate(commands: Subparsers[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "evaluate",
        help="score predictions against references",
        description="Score predictions against references. Layouts of either side: "
        "images/<output slug>/*, oar_masks/<case>/*, <case>/<case>_OAR_<structure>.seg.nrrd, "
        "<case>/<structure>.nii.gz, <case>/label.nrrd, <case>.nii.gz; also .mha, .nrrd, .nii. "
        "A label file may be a label map, 4-D with a channel an organ, or a Slicer segmentation.",
    )
    parser.add_argument("predictions", type=Path, help="label maps or masks, any known layout")
    parser.add_argument("references", type=Path, help="the same; cases are paired by name")
    parser.add_argument("--out", type=Path, required=True, help="folder for table and plot")
    add_challenge(
        parser,
        default=None,
        without=f"what the predictions' reports name, else {DEFAULT_CHALLENGE}",
    )
    parser.add_argument(
        "--definition",
        choices=("surface-distance", "medpy", "evalutils"),
        default="surface-distance",
        help="whose HD95; they can differ by 100 mm",
    )
    parser.add_argument(
        "--mr-field",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="cut to the MR's field: folder with <case>_truth.json, or with the MR and "
        "<case>_ct_to_mr.tfm or reports/<case>.json; may be given again",
    )
    parser.add_argument(
        "--missing",
        choices=("missed", "skip"),
        help="what a case without a usable prediction counts; default: the challenge's rule",
    )
    parser.add_argument("--resample", action="store_true", help="accept other grids")
    parser.add_argument(
        "--insert",
        type=Path,
        metavar="FILE.md",
        help="also write the table between <!-- scores --> and <!-- /scores --> of this file",
    )
    parser.add_argument("--threads", type=whole_number(1, MOST_THREADS), default=2)
    parser.add_argument("--no-plot", action="store_true")
    parser.set_defaults(command=run_evaluate)


def run_evaluate(arguments: argparse.Namespace) -> int:
    """Score predictions, and print what the figures mean and where the results are."""
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


def _add_rank(commands: Subparsers[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("rank", help="rank models by their scores")
    parser.add_argument("csvs", type=Path, nargs="+", metavar="CSV", help="of evaluate")
    add_challenge(parser)
    parser.add_argument(
        "--common",
        action="store_true",
        help="compare only what all have; else what one lacks counts as missed",
    )
    parser.add_argument("--alpha", type=number_above(0, most=1), default=0.05)
    parser.add_argument(
        "--draws", type=whole_number(1, 10**9), default=1000, help="of the bootstrap over cases"
    )
    parser.add_argument("--seed", type=whole_number(0, MOST_SEED), default=0)
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
