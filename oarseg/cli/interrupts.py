"""Ctrl-C: one line from the command, nothing from its worker processes.

A terminal sends SIGINT to all of them, and each would print a traceback of its own.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Final

INTERRUPTED: Final = 130  # as shells give it: 128 + SIGINT


def silence_spawned_worker() -> None:
    """Let SIGINT end this process without a word, if it is a worker that was spawned.

    Such a worker imports the command line again, and nothing else of ours.
    """
    # multiprocessing knows a parent only once the import is done.
    if "--multiprocessing-fork" in sys.orig_argv:
        _end_by_default()


def silence_forked_workers() -> None:
    """Let SIGINT end every process that is forked from now on without a word."""
    os.register_at_fork(after_in_child=_end_by_default)


def _end_by_default() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
