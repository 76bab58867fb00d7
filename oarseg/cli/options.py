"""Options that several subcommands share."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable
from pathlib import Path

from oarseg.cases.places import REPORTS, report_path
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
    parser: argparse.ArgumentParser,
    *,
    default: str | None = DEFAULT_CHALLENGE,
    without: str = "what the data is for",
) -> None:
    """Add the options that choose a challenge.

    Args:
        parser: of the command.
        default: the challenge without the option; None lets the command find it.
        without: what a command takes that finds it, for the help.
    """
    known = ", ".join(catalogue.challenge_names())
    parser.add_argument(
        "--challenge",
        default=default,
        metavar="NAME|FILE.toml",
        help=f"{known}, or a file of your own (default: {default or without})",
    )
    parser.add_argument(
        "--label-table",
        type=Path,
        metavar="FILE",
        help="your labels, TOML or nnU-Net's dataset.json, for a challenge without any (han5k)",
    )


def chosen_challenge(
    arguments: argparse.Namespace, *, outputs: Path | None = None, case: str | None = None
) -> Challenge:
    """The challenge that the options choose; says what its users must know.

    Args:
        arguments: the command line's.
        outputs: what ``segment`` wrote; its reports name the challenge where no option does.
        case: whose report to read; None reads them all.

    Raises:
        InputError: no such challenge, a broken file, a label table is missing, or the
            reports name several challenges.
    """
    name = arguments.challenge
    if name is None and outputs is not None:
        name = reported_challenge(outputs, case)
    rules = catalogue.load_challenge(name or DEFAULT_CHALLENGE, table=arguments.label_table)
    if not rules.structures:
        raise InputError(
            f"challenge {rules.name}: takes its labels from you; pass --label-table with a TOML "
            "table or nnU-Net's dataset.json"
        )
    say_notice(rules)
    return rules


def reported_challenge(outputs: Path, case: str | None = None) -> str | None:
    """The challenge that reports in an output folder name; None where there is none.

    Raises:
        InputError: they name several, or one that is not the package's own.
    """
    files = [outputs / report_path(case)] if case else sorted((outputs / REPORTS).glob("*.json"))
    named = {name: file for file in files if (name := _challenge_of_report(file))}
    if len(named) > 1:
        raise InputError(
            f"{outputs / REPORTS}: expected reports of one challenge, found "
            f"{', '.join(sorted(named))}; pass --challenge, and give the outputs of one"
        )
    for name, file in named.items():
        if name not in catalogue.challenge_names():
            raise InputError(
                f"{file}: names challenge {name!r}, which is not the package's own; pass "
                "--challenge with its TOML file"
            )
    return next(iter(named), None)


def _challenge_of_report(file: Path) -> str | None:
    try:
        report = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        # Missing, or not a report of ours: it names nothing.
        return None
    name = report.get("challenge") if isinstance(report, dict) else None
    return name if isinstance(name, str) else None


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
