"""Options that several commands share."""

from __future__ import annotations

import argparse
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path

from oarseg.cases.places import REPORTS, report_path
from oarseg.challenges import catalogue
from oarseg.challenges.catalogue import DEFAULT_CHALLENGE
from oarseg.challenges.challenge import Challenge, LargestImage
from oarseg.errors import InputError
from oarseg.model.model_folder import LONGEST_RUN_S

Subparsers = argparse._SubParsersAction  # argparse names no public type for it

logger = logging.getLogger(__name__)


# Far more than any machine has, far less than any library's integers can hold.
MOST_THREADS = 4096
MOST_CASES = 10**6
MOST_SEED = 2**32 - 1
MOST_VOXELS_ALONG = 10**5


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """Make an argparse type: a whole number within limits, which may be written as "2e9"."""

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
    """Make an argparse type: a finite number above one limit and up to another."""
    return _number(
        lambda value: least < value <= most, f"a number above {least:g}, at most {most:g}"
    )


def number_within(least: float, most: float) -> Callable[[str], float]:
    """Make an argparse type: a number within two limits, both included."""
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


seconds = number_above(0, most=LONGEST_RUN_S)


def add_run_defaults(parser: argparse._ActionsContainer) -> None:
    """Add the choices of ``segment`` that a model can bring defaults for.

    Args:
        parser: a parser, or a group of its arguments.
    """
    parser.add_argument(
        "--region",
        choices=("body", "full", "all"),
        help="body: crop to the patient; full: nnU-Net's tiles over the whole image, background "
        "outside the patient; all: every tile and voxel, as stock nnU-Net (default: the model's, "
        "else body, or all where the model's first image is no CT)",
    )
    parser.add_argument(
        "--precision",
        choices=("exact", "fast"),
        help="exact: nnU-Net's answer on every CPU; fast: bfloat16 where that agrees well enough "
        "(default: the model's, else exact)",
    )
    parser.add_argument(
        "--mirroring",
        action=argparse.BooleanOptionalAction,
        help="average over the flips that the model was trained for, as nnU-Net does (default: "
        "the model's, else yes)",
    )
    parser.add_argument(
        "--time-limit",
        type=seconds,
        metavar="SECONDS",
        help="time for a whole run; less is computed if it would not suffice (default: the "
        "environment's OARSEG_TIME_LIMIT, else the model's, else none)",
    )


def slug(text: str) -> str:
    """Parse the platform's name of an input or output."""
    if re.fullmatch(r"[a-z0-9][a-z0-9_-]*", text) is None:
        raise argparse.ArgumentTypeError(
            f"expected a slug of the platform, of lower-case letters, digits, - and _, found "
            f"{text!a}"
        )
    return text


def add_largest(parser: argparse.ArgumentParser, *, default: str) -> None:
    """Add ``--largest`` and ``--spacing``.

    Args:
        parser: the command's parser.
        default: what holds without them, for the help.
    """
    parser.add_argument(
        "--largest",
        type=whole_number(1, MOST_VOXELS_ALONG),
        nargs=3,
        metavar=("Z", "Y", "X"),
        help=f"voxels of the largest reference image (default: {default})",
    )
    parser.add_argument(
        "--spacing",
        type=number_above(0, most=1000),
        nargs=3,
        metavar=("Z", "Y", "X"),
        help=f"its voxels' size in mm, with --largest (default: {default})",
    )


def largest_image(arguments: argparse.Namespace) -> LargestImage | None:
    """Return the largest image that the options tell; None without them.

    Raises:
        InputError: one of them is given without the other.
    """
    if (arguments.largest is None) != (arguments.spacing is None):
        raise InputError("--largest and --spacing: expected both or none")
    if arguments.largest is None:
        return None
    return LargestImage(tuple(arguments.largest), tuple(arguments.spacing))


def add_threads(parser: argparse.ArgumentParser) -> None:
    """Add ``--threads``, where 0 means all cores that this process may use."""
    parser.add_argument(
        "--threads",
        type=whole_number(0, MOST_THREADS),
        default=0,
        metavar="N",
        help="CPU threads (default: 0, all cores that this process may use)",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add ``--device``."""
    parser.add_argument(
        "--device",
        choices=("auto", "cuda", "cpu"),
        default="auto",
        help="auto (default): a CUDA GPU if one works, else the CPU",
    )


def add_challenge(
    parser: argparse.ArgumentParser,
    *,
    default: str | None = DEFAULT_CHALLENGE,
    without: str = "the one that the dataset was prepared for",
) -> None:
    """Add the options that choose a challenge.

    Args:
        parser: the command's parser.
        default: the challenge if the option is not given; None if the command finds it.
        without: which challenge the command then finds, for the help.
    """
    known = ", ".join(catalogue.challenge_names())
    parser.add_argument(
        "--challenge",
        default=default,
        metavar="NAME|FILE.toml",
        help=f"{known}, or your own file (default: {default or without})",
    )
    add_label_table(parser)


def add_label_table(parser: argparse.ArgumentParser) -> None:
    """Add ``--label-table``, for challenges whose labels the user brings."""
    parser.add_argument(
        "--label-table",
        type=Path,
        metavar="FILE",
        help="your labels, as TOML or nnU-Net's dataset.json, for a challenge that defines none "
        "(han5k; default: none)",
    )


def chosen_challenge(
    arguments: argparse.Namespace, *, outputs: Path | None = None, case: str | None = None
) -> Challenge:
    """Load the challenge that the options choose, and log its notice.

    Args:
        arguments: the parsed command line.
        outputs: output folder of ``segment``; its reports name the challenge if no option does.
        case: the case whose report is read; None reads all reports.

    Raises:
        InputError: there is no such challenge, its file is invalid, its label table is
            missing, or the reports name several challenges.
    """
    name = arguments.challenge
    if name is None and outputs is not None:
        name = reported_challenge(outputs, case)
    rules = catalogue.load_challenge(name or DEFAULT_CHALLENGE, table=arguments.label_table)
    if not rules.structures:
        raise InputError(
            f"challenge {rules.name}: takes its labels from you; pass --label-table with TOML "
            "or nnU-Net's dataset.json"
        )
    say_notice(rules)
    return rules


def reported_challenge(outputs: Path, case: str | None = None) -> str | None:
    """Return the challenge that the reports in an output folder name; None without reports.

    Raises:
        InputError: they name several challenges, or one that is not in the package.
    """
    files = [outputs / report_path(case)] if case else sorted((outputs / REPORTS).glob("*.json"))
    named = {name: file for file in files if (name := _challenge_of_report(file))}
    if len(named) > 1:
        raise InputError(
            f"{outputs / REPORTS}: expected reports of one challenge, found "
            f"{', '.join(sorted(named))}; pass --challenge and a folder with its outputs only"
        )
    for name, file in named.items():
        if name not in catalogue.challenge_names():
            raise InputError(
                f"{file}: names challenge {name!r}, which is not in the package; pass "
                "--challenge with its TOML file"
            )
    return next(iter(named), None)


def _challenge_of_report(file: Path) -> str | None:
    try:
        report = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        # Missing, or not one of our reports: it names no challenge.
        return None
    name = report.get("challenge") if isinstance(report, dict) else None
    return name if isinstance(name, str) else None


def say_notice(rules: Challenge) -> None:
    """Log the challenge's notice, if it has one."""
    if rules.notice:
        logger.warning("%s: %s", rules.title, rules.notice)


def add_series(parser: argparse.ArgumentParser) -> None:
    """Add ``--series`` and ``--mr-series``, which choose among several series of DICOM."""
    parser.add_argument(
        "--series",
        action="append",
        default=[],
        metavar="UID",
        help="take this CT series of DICOM and no study without a named one; may be repeated "
        "(default: the only one of each study)",
    )
    parser.add_argument(
        "--mr-series",
        action="append",
        default=[],
        metavar="UID",
        help="take this MR series of DICOM, from any study of the CT's patient, or none if it is "
        "'none'; may be repeated (default: the only one of the CT's study)",
    )


def add_registration_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--registration``, which is the same in every command that registers an MR."""
    parser.add_argument(
        "--registration",
        choices=("rigid", "bspline", "none"),
        default="rigid",
        help="how to register the MR: rigid (default); bspline, which refines the rigid pose where "
        "that helps; none, which trusts the headers",
    )
