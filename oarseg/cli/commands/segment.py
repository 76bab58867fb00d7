"""The command ``oarseg segment``, which ``process.py`` runs too."""

from __future__ import annotations

import argparse
import logging
import math
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from oarseg.cli.options import (
    add_device,
    add_registration_argument,
    add_run_defaults,
    add_series,
    add_threads,
    number_above,
    seconds,
    whole_number,
)
from oarseg.errors import InputError
from oarseg.model.model_folder import default_weights, time_limit_of
from oarseg.results.lock import lock_output
from oarseg.system.usage import process_age_s
from oarseg.workflows import supervisor
from oarseg.workflows.journal import Journal
from oarseg.workflows.supervisor import TimeLimit

if TYPE_CHECKING:
    from oarseg.workflows.settings import Settings

VARIABLE = "OARSEG_TIME_LIMIT"
REPAIRS = ("lr", "components")
logger = logging.getLogger(__name__)


def add_segment(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``oarseg segment``."""
    parser = commands.add_parser("segment", help="segment every case of a folder")
    add_segment_arguments(parser)
    parser.set_defaults(command=run_segment)


def add_segment_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``oarseg segment``, which ``process.py`` takes too."""
    parser.add_argument(
        "--input", type=Path, default=Path("/input"), help="folder of cases (default: /input)"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("/output"), help="folder for results (default: /output)"
    )
    parser.add_argument(
        "--weights",
        type=Path,
        help="weights folder, with manifest.json (default: /opt/ml/model if anything is in it, "
        "else the shipped one)",
    )
    parser.add_argument(
        "--challenge",
        metavar="NAME|FILE.toml",
        help="must be the one that the weights are for (default: that one)",
    )
    parser.add_argument(
        "--resample",
        action="store_true",
        help="resample images that should be on the CT's grid and are not",
    )
    parser.add_argument(
        "--assume-hu", action="store_true", help="accept a CT's values as HU without a check"
    )
    parser.add_argument(
        "--max-voxels",
        type=whole_number(1, 10**15),
        default=2 * 10**9,
        metavar="N",
        help="refuse an image with more voxels (default: 2e9)",
    )
    parser.add_argument(
        "--max-gib",
        type=number_above(0, most=2**20),
        default=8.0,
        metavar="N",
        help="refuse an image with more GiB of voxels, as stored (default: 8)",
    )
    add_device(parser)
    add_threads(parser)
    add_run_defaults(parser)
    add_registration_argument(parser)
    _add_dicom_arguments(parser)
    _add_review_arguments(parser)
    _add_probabilities(parser)
    add_series(parser)


def _add_dicom_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rtstruct",
        action="store_true",
        help="write an RT Structure Set beside the masks of each case; its CT must be DICOM",
    )
    parser.add_argument(
        "--dicom-seg",
        choices=("binary", "labelmap"),
        nargs="?",
        const="binary",
        help="write a DICOM Segmentation too (default: none), binary unless labelmap is asked for; "
        "its CT must be DICOM, and the extra oarseg[dicom-seg] installed",
    )


def _add_review_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--report",
        action="store_true",
        help="write reports/<case>.html too, a page to accept or refuse a case by",
    )
    parser.add_argument(
        "--repair",
        type=repairs,
        default=(),
        metavar="lr,components",
        help="lr: give parts of paired organs on the wrong side of the patient the other's label; "
        "components: remove stray parts (default: nothing is changed)",
    )


def _add_probabilities(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--probabilities",
        nargs="+",
        default=(),
        metavar="ORGAN",
        help="write the probability of being one of these organs, a file each, beside the masks "
        "(default: none)",
    )


def repairs(text: str) -> tuple[str, ...]:
    """Parse what to repair, for argparse."""
    asked = tuple(dict.fromkeys(text.split(",")))
    if not set(asked) <= set(REPAIRS):
        raise argparse.ArgumentTypeError(
            f"expected a list of {' and '.join(REPAIRS)} with commas between, found {text!r}"
        )
    return asked


def time_limit(arguments: argparse.Namespace, weights: Path) -> float | None:
    """Return the time limit in seconds: the option's, the environment's or the model's.

    Raises:
        InputError: the environment variable is not a valid number of seconds.
    """
    text = os.environ.get(VARIABLE, "")
    if arguments.time_limit is not None:
        limit: float = arguments.time_limit
        return limit
    if not text:
        return time_limit_of(weights)
    try:
        return seconds(text)
    except argparse.ArgumentTypeError as error:
        raise InputError(f"{VARIABLE}: {error}; correct it, or leave it unset") from error


def run_segment(arguments: argparse.Namespace) -> int:
    """Segment the cases of a folder; return 0 only if every case was written."""
    # Measured before any worker starts: a second one has only the time that the first left.
    started_s = time.monotonic() - process_age_s()
    weights = arguments.weights or default_weights()
    limit_s = time_limit(arguments, weights)
    # The supervisor holds the lock, so that no other run can start between two workers.
    with lock_output(arguments.output):
        return supervisor.run_supervised(
            lambda journal: _segment(arguments, weights, journal, limit_s, started_s),
            output=arguments.output,
            limit=None if limit_s is None else TimeLimit(limit_s, started_s),
        )


def _segment(
    arguments: argparse.Namespace,
    weights: Path,
    journal: Journal,
    limit_s: float | None,
    started_s: float,
) -> int:
    # Imported in the worker only: the supervisor stays small.
    from oarseg.workflows import segment_folder

    settings = replace(
        segment_settings(arguments, weights), time_limit_s=limit_s, started_s=started_s
    )
    failures = segment_folder.segment_folder(settings, journal)
    if failures:
        logger.error("%s", failures[-1].one_line(failed=len(failures)))
    return 1 if failures else 0


def segment_settings(arguments: argparse.Namespace, weights: Path) -> Settings:
    """Return the settings that the options say, without the time limit."""
    from oarseg.cases.dicom_cases import WantedSeries
    from oarseg.imaging.files.read_scan import Limits
    from oarseg.workflows.settings import Settings

    return Settings(
        input=arguments.input,
        output=arguments.output,
        weights=weights,
        challenge=arguments.challenge,
        device=arguments.device,
        threads=arguments.threads,
        region=arguments.region,
        precision=arguments.precision,
        mirroring=arguments.mirroring,
        resample=arguments.resample,
        assume_hu=arguments.assume_hu,
        limits=Limits(arguments.max_voxels, math.ceil(arguments.max_gib * (1 << 30))),
        registration=arguments.registration,
        structure_set=arguments.rtstruct,
        segmentation=arguments.dicom_seg,
        repair=arguments.repair,
        probabilities=tuple(arguments.probabilities),
        report_pages=arguments.report,
        series=WantedSeries(tuple(arguments.series), tuple(arguments.mr_series)),
    )
