"""Ctrl-C: one line from the command, nothing from its worker processes.

A terminal sends SIGINT to all of them, and each would print a traceback of its own.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

INTERRUPTED: Final = 130  # as shells give it: 128 + SIGINT


def silence_spawned_worker() -> None:
    """Let SIGINT end this process without a word, if it is a worker that was spawned.

    Such a worker imports the command line again, and nothing else of ours.
    """
    # multiprocessing knows a parent only once the import is done.
    if "--multiprocessing-fork" in sys.orig_argv:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def quiet_forked_workers(*, kept: bool = False) -> Iterator[None]:
    """Keep processes that are forked meanwhile quiet at SIGINT.

    Args:
        kept: they stay until this process ends them, as nnU-Net's loaders expect, which
            report workers that have ended; otherwise SIGINT ends them.
    """
    global _forked
    before, _forked = _forked, signal.SIG_IGN if kept else signal.SIG_DFL
    try:
        yield
    finally:
        _forked = before


_forked: signal.Handlers | None = None


def _set_handler() -> None:
    if _forked is not None:
        signal.signal(signal.SIGINT, _forked)


os.register_at_fork(after_in_child=_set_handler)
