"""Handle Ctrl-C: the command prints one line, its worker processes print nothing.

A terminal sends SIGINT to all of them, and each would otherwise print its own traceback.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

INTERRUPTED: Final = 130  # as in shells: 128 + SIGINT


def silence_spawned_worker() -> None:
    """Let SIGINT end this process silently if it is a spawned worker.

    Such a worker imports the command line again, and no other module of this package. What runs in
    the background of a script ignores SIGINT from its start, and its workers go on doing so.
    """
    # multiprocessing knows the parent only after the import.
    spawned = "--multiprocessing-fork" in sys.orig_argv
    if spawned and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def quiet_forked_workers(*, kept: bool = False) -> Iterator[None]:
    """Keep processes forked inside the ``with`` block silent on SIGINT.

    Args:
        kept: let them ignore SIGINT and run until this process ends them. nnU-Net's data
            loaders need that, since they report workers that have died. Otherwise SIGINT
            ends them.
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
