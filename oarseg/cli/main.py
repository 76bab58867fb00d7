"""Contour CT and MR for radiotherapy, and train, export and evaluate the models that do."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence

from oarseg import __version__
from oarseg.cli.challenges import add_challenges
from oarseg.cli.interrupts import INTERRUPTED
from oarseg.cli.phantom import add_phantom
from oarseg.cli.picture import add_picture
from oarseg.cli.register import add_register
from oarseg.cli.scores import add_evaluate, add_rank
from oarseg.cli.segment import add_segment, run_segment
from oarseg.cli.training import add_export, add_prepare, add_train
from oarseg.errors import OarsegError
from oarseg.system import log

Command = Callable[[argparse.Namespace], int]
logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    A mistake of the user gives one line on stderr and status 1, Ctrl-C one line and status
    130; a bug keeps its traceback. ``segment`` prints no data, so its progress goes to
    stdout: platforms treat everything on stderr as a problem.
    """
    log.open_closed_streams()
    arguments = build_parser().parse_args(argv)
    log.configure_logging(
        verbose=arguments.verbose, information_to_stdout=arguments.command is run_segment
    )
    try:
        command: Command = arguments.command
        return command(arguments)
    except OarsegError as error:
        logger.error("%s", error)
        return 1
    except KeyboardInterrupt:
        logger.error("interrupted")
        return INTERRUPTED


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    parser = argparse.ArgumentParser(prog="oarseg", description=__doc__)
    parser.add_argument("--version", action="version", version=f"oarseg {__version__}")
    parser.add_argument(
        "--verbose", action="store_true", help="log more details; give it before COMMAND"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (
        add_segment,
        add_challenges,
        add_phantom,
        add_prepare,
        add_train,
        add_export,
        add_register,
        add_picture,
        add_evaluate,
        add_rank,
    ):
        add(commands)
    return parser
