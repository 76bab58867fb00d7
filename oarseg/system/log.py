"""Logging, configured once, and progress: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

LOGGER = logging.getLogger("oarseg")
SECONDS_BETWEEN_LINES = 10.0
FRACTION_BETWEEN_LINES = 0.1


class _Handler(logging.Handler):
    """Write records to the current stderr, above a progress bar rather than across it.

    ``tqdm.contrib.logging`` redirects only a logger's first console handler and removes the
    others while a bar is shown, so a second handler for warnings would lose its records.
    """

    def emit(self, record: logging.LogRecord) -> None:
        try:
            tqdm.write(self.format(record), file=sys.stderr)
        except Exception:
            # A log that cannot be written, such as a closed pipe, must not end a run.
            self.handleError(record)


def configure_logging(*, verbose: bool = False) -> None:
    """Send the package's log to stderr as ``HH:MM:SS LEVEL message``.

    Calling it again replaces the former configuration.

    Args:
        verbose: also what helps to find a fault.
    """
    handler = _Handler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    LOGGER.handlers[:] = [handler]
    LOGGER.setLevel(logging.DEBUG if verbose else logging.INFO)
    LOGGER.propagate = False


class ProgressLine:
    """How far a step has come; call it with (units done, units in all).

    Off a terminal a line is logged when another tenth of the work is done and ten
    seconds have passed since the last line, and at the end.

    Args:
        title: what is being done.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._bar = tqdm(desc=title, leave=False) if sys.stderr.isatty() else None
        self._last_done = 0
        self._last_time = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, done: int, total: int) -> None:
        """Report that ``done`` units of ``total`` are done."""
        if self._bar is not None:
            self._bar.total = total
            self._bar.update(done - self._last_done)
            self._last_done = done
        elif self._is_due(done, total):
            self._last_done, self._last_time = done, time.monotonic()
            percent = 100 * done // total
            LOGGER.info("%s: %d of %d (%d %%)", self._title, done, total, percent)

    def _is_due(self, done: int, total: int) -> bool:
        if done >= total:
            return True
        more = (done - self._last_done) / total >= FRACTION_BETWEEN_LINES
        return more and time.monotonic() - self._last_time >= SECONDS_BETWEEN_LINES
