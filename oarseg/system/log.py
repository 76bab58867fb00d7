"""Logging, configured once, and progress: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import time
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, Literal, Self, TextIO

from tqdm import tqdm

LOGGER = logging.getLogger("oarseg")
Form = Literal["text", "json"]
FORMATS: Final = ("text", "json")
SECONDS_BETWEEN_LINES = 10.0
FRACTION_BETWEEN_LINES = 0.1


class _Handler(logging.Handler):
    """Write records to the current stdout or stderr, above a progress bar rather than across it.

    ``tqdm.contrib.logging`` redirects only a logger's first console handler and removes the
    others while a bar is shown, so a second handler for warnings would lose its records.

    Args:
        information_to_stdout: write records below WARNING to stdout; all others go to stderr.
    """

    def __init__(self, *, information_to_stdout: bool) -> None:
        super().__init__()
        self._information_to_stdout = information_to_stdout

    def emit(self, record: logging.LogRecord) -> None:
        informs = self._information_to_stdout and record.levelno < logging.WARNING
        stream = sys.stdout if informs else sys.stderr
        try:
            tqdm.write(_printable(self.format(record), stream), file=stream)
            stream.flush()
        except OSError:
            # Full, or its reader is gone. What waits in the buffer would fail again at exit,
            # and a log that nobody reads must not end a run nor change its status.
            _discard(stream)
        except Exception:
            self.handleError(record)


class _JsonFormatter(logging.Formatter):
    """Format a record as one line of JSON, in ASCII whatever the locale."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def _printable(text: str, stream: TextIO) -> str:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _discard(stream: TextIO) -> None:
    """Redirect a stream to the null device."""
    try:
        number = stream.fileno()
    except (OSError, ValueError):
        # Not a system file; nothing is flushed at exit.
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)


def open_closed_streams() -> None:
    """Open stdin, stdout and stderr on the null device if the process was started without them.

    Otherwise the next files that it opens get their descriptors, and a library's output would
    end up in those files.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # In this order each takes the lowest free number, which is its own.
            nowhere = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, open(nowhere, mode, encoding="utf-8"))  # noqa: SIM115


def escape_unknown_characters() -> None:
    """Print what the locale's encoding lacks as escapes, so that printing ends no command."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def configure_logging(
    *, verbose: bool = False, information_to_stdout: bool = False, form: Form = "text"
) -> None:
    """Send the package's log to stderr.

    Calling it again replaces the former configuration.

    Args:
        verbose: also log details for debugging.
        information_to_stdout: send only warnings and errors to stderr, the rest to stdout.
        form: ``text`` for ``HH:MM:SS LEVEL message``; ``json`` for an object a line with
            ``time`` (ISO 8601, UTC), ``level``, ``message`` and, for a bug, ``traceback``.
    """
    handler = _Handler(information_to_stdout=information_to_stdout)
    text = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")
    handler.setFormatter(_JsonFormatter() if form == "json" else text)
    LOGGER.handlers[:] = [handler]
    LOGGER.setLevel(logging.DEBUG if verbose else logging.INFO)
    LOGGER.propagate = False


class ProgressLine:
    """Report the progress of a step; call it with (units done, units in all).

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
