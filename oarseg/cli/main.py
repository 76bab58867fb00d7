"""The command line: one subcommand a job, each a few lines that call the package."""

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
from oarseg.cli.scores import _add_evaluate, _add_rank
from oarseg.cli.segment import add_segment, run_segment
from oarseg.cli.training import _add_export, _add_prepare, _add_train
from oarseg.errors import OarsegError
from oarseg.system import log

Command = Callable[[argparse.Namespace], int]
logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns the exit status.

    What the user did wrong ends as one line on stderr and status 1, Ctrl-C as one and
    status 130; a defect of ours keeps its traceback. ``segment`` has no data to print:
    its information goes to stdout, as platforms take all that comes on stderr for trouble.
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
    """The parser of all subcommands."""
    parser = argparse.ArgumentParser(prog="oarseg", description=__doc__)
    parser.add_argument("--version", action="version", version=f"oarseg {__version__}")
    parser.add_argument("--verbose", action="store_true", help="log details")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (
        add_segment,
        add_challenges,
        add_phantom,
        _add_prepare,
        _add_train,
        _add_export,
        add_register,
        add_picture,
        _add_evaluate,
        _add_rank,
    ):
        add(commands)
    return parser
