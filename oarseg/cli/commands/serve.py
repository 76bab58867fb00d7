"""The command ``oarseg serve``, which the image runs where its label says ``invoke``."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace

from oarseg.cli.commands.segment import add_segment_arguments, segment_settings, time_limit
from oarseg.cli.options import Subparsers, whole_number
from oarseg.grand_challenge.server import PORT, Service, serve
from oarseg.model.model_folder import default_weights
from oarseg.results.lock import lock_output
from oarseg.workflows.supervisor import TimeLimit


def add_serve(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """Add ``oarseg serve``."""
    parser = commands.add_parser(
        "serve", help="segment a folder on each POST /invoke, as Grand Challenge may ask"
    )
    add_segment_arguments(parser)
    # Anywhere: the platform's runner asks from outside the container's own network.
    parser.add_argument("--host", default="0.0.0.0", help="to listen on (default: every address)")
    parser.add_argument(
        "--port",
        type=whole_number(0, 65535),
        default=PORT,
        help=f"to listen on (default: {PORT}); 0 takes a free one, which the log names",
    )
    # Of the worker, which the server starts.
    parser.add_argument("--answers", type=whole_number(0, 10**6), help=argparse.SUPPRESS)
    parser.set_defaults(command=run_serve)


def run_serve(arguments: argparse.Namespace) -> int:
    """Serve until a signal comes."""
    weights = arguments.weights or default_weights()
    seconds = time_limit(arguments, weights)
    if arguments.answers is not None:
        # Imported in the worker only: the server stays small.
        from oarseg.grand_challenge.worker import serve_invocations

        settings = replace(segment_settings(arguments, weights), time_limit_s=seconds)
        return serve_invocations(settings, sys.stdin, arguments.answers)
    command = [sys.executable, "-m", "oarseg.cli", *arguments.line, "--answers"]
    with lock_output(arguments.output):
        pass  # a folder that cannot be written is told now
    service = Service(
        command,
        arguments.output,
        lambda: None if seconds is None else TimeLimit(seconds, time.monotonic()),
    )
    return serve(service, host=arguments.host, port=arguments.port)
