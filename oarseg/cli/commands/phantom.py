"""The command ``oarseg phantom``."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from oarseg.cli.options import (
    MOST_CASES,
    MOST_SEED,
    MOST_THREADS,
    Subparsers,
    add_challenge,
    chosen_challenge,
    number_above,
    number_within,
    whole_number,
)

logger = logging.getLogger(__name__)


def add_phantom(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """Add ``oarseg phantom``."""
    parser = commands.add_parser("phantom", help="make synthetic cases whose truth is known")
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument(
        "--seed",
        type=whole_number(0, MOST_SEED),
        default=0,
        help="seed of the first case (default: 0)",
    )
    parser.add_argument(
        "--cases",
        type=whole_number(1, MOST_CASES),
        default=1,
        help="number of cases; each takes the next seed (default: 1)",
    )
    parser.add_argument(
        "--size",
        choices=("tiny", "small", "medium", "median", "maximum"),
        default="small",
        help="size of the images; median and maximum are the data set's (default: small)",
    )
    parser.add_argument(
        "--layout",
        choices=("dataset", "platform"),
        default="dataset",
        help="folders as in the published data set (default), or as the platform gives them",
    )
    add_challenge(parser)
    parser.add_argument(
        "--share",
        type=number_above(0, most=1),
        default=1.0,
        help="fraction of the organs that is labelled in each case, for training on partial labels "
        "(default: 1)",
    )
    parser.add_argument(
        "--neck-flexion",
        type=number_within(-10, 10),
        default=0.0,
        metavar="DEG",
        help="bend the neck between CT and MR (default: 0)",
    )
    parser.add_argument(
        "--randomise",
        type=whole_number(0, 2),
        default=0,
        metavar="LEVEL",
        help="vary patients and scans: 0 little (default), 1 more, 2 as far as real ones do",
    )
    parser.add_argument("--no-mr", action="store_true", help="write no MR")
    parser.add_argument(
        "--workers",
        type=whole_number(1, MOST_THREADS),
        default=1,
        help="cases made in parallel (default: 1)",
    )
    parser.set_defaults(command=run_phantom)


def run_phantom(arguments: argparse.Namespace) -> int:
    """Write phantoms and print their folders."""
    from oarseg.phantom import write_cases

    folders = write_cases(
        arguments.out,
        seeds=range(arguments.seed, arguments.seed + arguments.cases),
        size=arguments.size,
        layout=arguments.layout,
        challenge=chosen_challenge(arguments),
        share=arguments.share,
        neck_flexion_deg=arguments.neck_flexion,
        with_mr=not arguments.no_mr,
        randomise=arguments.randomise,
        workers=arguments.workers,
        progress=logger.info,
    )
    for folder in folders:
        print(folder)
    return 0
