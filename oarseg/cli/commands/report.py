"""The command ``oarseg report``."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from oarseg.challenges.catalogue import DEFAULT_CHALLENGE
from oarseg.cli.options import Subparsers, add_challenge, chosen_challenge

logger = logging.getLogger(__name__)


def add_report(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """Add ``oarseg report``."""
    parser = commands.add_parser("report", help="write pages by which to accept or refuse cases")
    parser.add_argument("--input", type=Path, required=True, help="folder of cases")
    parser.add_argument("--output", type=Path, required=True, help="the output folder of segment")
    add_challenge(parser, default=None, without=f"the one in the reports, else {DEFAULT_CHALLENGE}")
    parser.set_defaults(command=run_report)


def run_report(arguments: argparse.Namespace) -> int:
    """Write ``reports/<case>.html`` for each case; return 0 only if all have pictures."""
    from oarseg.workflows.review.report_pages import write_pages

    rules = chosen_challenge(arguments, outputs=arguments.output)
    written = write_pages(arguments.input, arguments.output, rules)
    for file in written.files:
        print(file)
    for case, message in written.failures.items():
        logger.error("%s: %s", case, message)
    return 1 if written.failures else 0
