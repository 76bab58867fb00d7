"""Contour CT and MR for radiotherapy, and train, export and evaluate the models that do."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence

from oarseg import __version__
from oarseg.cli.commands.challenges import add_challenges
from oarseg.cli.commands.cohort import add_cohort
from oarseg.cli.commands.phantom import add_phantom
from oarseg.cli.commands.picture import add_picture
from oarseg.cli.commands.register import add_register
from oarseg.cli.commands.report import add_report
from oarseg.cli.commands.scores import add_evaluate, add_rank
from oarseg.cli.commands.segment import add_segment, run_segment
from oarseg.cli.commands.serve import add_serve, run_serve
from oarseg.cli.commands.submission import add_submission
from oarseg.cli.commands.training import add_export, add_prepare, add_train
from oarseg.cli.interrupts import INTERRUPTED
from oarseg.cli.parser import CommandParser
from oarseg.errors import OarsegError
from oarseg.system import log
from oarseg.system.versions import package_versions

LOG_FORMAT_VARIABLE = "OARSEG_LOG_FORMAT"
Command = Callable[[argparse.Namespace], int]
# What the extra "train" installs and this package imports.
TRAINING_PACKAGES = {
    "batchgenerators",
    "batchgeneratorsv2",
    "dynamic_network_architectures",
    "nnunetv2",
    "onnx",
    "onnxscript",
    "torch",
}
logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    A mistake of the user gives one line on stderr and status 1, Ctrl-C one line and status
    130; a bug keeps its traceback. ``segment`` prints no data, so its progress goes to
    stdout: platforms treat everything on stderr as a problem.
    """
    log.open_closed_streams()
    log.escape_unknown_characters()
    parser = build_parser()
    line = list(sys.argv[1:] if argv is None else argv)
    arguments = parser.parse_args(line, argparse.Namespace(line=line))
    if arguments.version:
        return _print_version(as_json=arguments.json)
    if arguments.named is None:
        parser.error("the following arguments are required: COMMAND")
    if arguments.log_format not in log.FORMATS:  # argparse does not check a default
        parser.error(
            f"{LOG_FORMAT_VARIABLE}: expected one of {', '.join(log.FORMATS)}, found "
            f"{arguments.log_format!a}"
        )
    log.configure_logging(
        verbose=arguments.verbose,
        information_to_stdout=arguments.command in (run_segment, run_serve),
        form=arguments.log_format,
    )
    try:
        return _run_command(arguments)
    except OarsegError as error:
        logger.error("%s", error)
        return 1
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in TRAINING_PACKAGES:
            raise
        logger.error(
            "expected the packages of training, found no %s; install them with "
            "pip install 'oarseg[cpu,train]', or make .venv/dev.stamp in a checkout",
            error.name,
        )
        return 1
    except BrokenPipeError:
        # Commands print once their work is done; nobody is left to read that.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        logger.error("interrupted")
        return INTERRUPTED


def _print_version(*, as_json: bool) -> int:
    print(json.dumps(package_versions(more=True)) if as_json else f"oarseg {__version__}")
    return 0


def _run_command(arguments: argparse.Namespace) -> int:
    command: Command = arguments.command
    status = command(arguments)
    if command is not run_segment:  # which prints log lines only, and they may be lost
        sys.stdout.flush()
    return status


class _BelowParser(CommandParser):
    """The parser of a command, which has the options of all commands before it."""

    above = frozenset({"--json", "--log-format", "--verbose", "--version"})


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    parser: argparse.ArgumentParser = CommandParser(prog="oarseg", description=__doc__)
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.add_argument(
        "--json", action="store_true", help="with --version: of the packages used too, as JSON"
    )
    parser.add_argument(
        "--verbose", action="store_true", help="log more details; give it before COMMAND"
    )
    parser.add_argument(
        "--log-format",
        choices=log.FORMATS,
        default=os.environ.get(LOG_FORMAT_VARIABLE, "text"),
        help="of log lines: text or one JSON object a line; give it before COMMAND (default: "
        f"the environment's {LOG_FORMAT_VARIABLE}, else text)",
    )
    below: type[argparse.ArgumentParser] = _BelowParser
    commands = parser.add_subparsers(metavar="COMMAND", dest="named", parser_class=below)
    for add in (
        add_segment,
        add_challenges,
        add_phantom,
        add_prepare,
        add_train,
        add_export,
        add_register,
        add_picture,
        add_report,
        add_evaluate,
        add_rank,
        add_submission,
        add_cohort,
        add_serve,
    ):
        add(commands)
    return parser
