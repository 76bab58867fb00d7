"""Options that several subcommands share."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from oarseg.challenges import catalogue
from oarseg.challenges.catalogue import DEFAULT_CHALLENGE
from oarseg.challenges.challenge import Challenge
from oarseg.errors import InputError

Subparsers = argparse._SubParsersAction  # argparse names no public type for it

logger = logging.getLogger(__name__)


def add_challenge(
    parser: argparse.ArgumentParser, *, default: str | None = DEFAULT_CHALLENGE
) -> None:
    """Options that choose a challenge."""
    known = ", ".join(catalogue.challenge_names())
    parser.add_argument(
        "--challenge",
        default=default,
        metavar="NAME|FILE.toml",
        help=f"{known}, or a file of your own (default: {default or 'what the data is for'})",
    )
    parser.add_argument(
        "--label-table",
        type=Path,
        metavar="FILE",
        help="your labels, TOML or nnU-Net's dataset.json, for a challenge without any (han5k)",
    )


def chosen_challenge(arguments: argparse.Namespace) -> Challenge:
    """The challenge that the options choose; says what its users must know.

    Raises:
        InputError: no such challenge, a broken file, or a label table is missing.
    """
    rules = catalogue.load_challenge(arguments.challenge, table=arguments.label_table)
    if not rules.structures:
        raise InputError(
            f"challenge {rules.name}: takes its labels from you; pass --label-table with a TOML "
            "table or nnU-Net's dataset.json"
        )
    say_notice(rules)
    return rules


def say_notice(rules: Challenge) -> None:
    """Log what a challenge's users must know."""
    if rules.notice:
        logger.warning("%s: %s", rules.title, rules.notice)


def add_registration_argument(parser: argparse.ArgumentParser) -> None:
    """``--registration``, the same wherever an MR is brought onto a CT."""
    parser.add_argument(
        "--registration",
        choices=("rigid", "bspline", "none"),
        default="rigid",
        help="bspline: refine the rigid pose where that helps; none: trust the headers",
    )
