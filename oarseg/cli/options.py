"""Options that several subcommands share."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from pathlib import Path

from oarseg.challenges import catalogue
from oarseg.challenges.catalogue import DEFAULT_CHALLENGE
from oarseg.challenges.challenge import Challenge
from oarseg.errors import InputError

Subparsers = argparse._SubParsersAction  # argparse names no public type for it

logger = logging.getLogger(__name__)


# Far beyond any machine, and far below what a library could not count with.
MOST_THREADS = 4096
MOST_CASES = 10**6
MOST_SEED = 2**32 - 1


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """Make an option's type: a whole number within limits; "2e9" is one too."""

    def parse(text: str) -> int:
        number = _whole(text)
        if number is None or not least <= number <= most:
            raise argparse.ArgumentTypeError(
                f"expected a whole number from {least} to {most}, found {text!r}"
            )
        return number

    return parse


def _whole(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        value = float(text)
    except ValueError:
        return None
    return int(value) if value.is_integer() else None


def number_above(least: float, *, most: float) -> Callable[[str], float]:
    """Make an option's type: a finite number above one limit and up to another."""
    return _number(
        lambda value: least < value <= most, f"a number above {least:g}, at most {most:g}"
    )


def number_within(least: float, most: float) -> Callable[[str], float]:
    """Make an option's type: a number between two limits, both allowed."""
    return _number(lambda value: least <= value <= most, f"a number from {least:g} to {most:g}")


def _number(allowed: Callable[[float], bool], expected: str) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        # No comparison holds for NaN.
        if not allowed(value):
            raise argparse.ArgumentTypeError(f"expected {expected}, found {text!r}")
        return value

    return parse


def add_threads(parser: argparse.ArgumentParser) -> None:
    """Add ``--threads``, where 0 stands for every core."""
    parser.add_argument(
        "--threads",
        type=whole_number(0, MOST_THREADS),
        default=0,
        metavar="N",
        help="0: every core there is",
    )


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
