"""Log lines, and progress where there is no terminal and where there is one."""

from __future__ import annotations

import io
import logging
import re
import sys
import time

import pytest

from oarseg.system import log


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_lines_are_plain(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure_logging()
    logging.getLogger("oarseg.anything").info("hello %s", "there")
    logging.getLogger("oarseg.anything").debug("not this")
    (line,) = lines(capsys)
    assert re.fullmatch(r"\d\d:\d\d:\d\d INFO hello there", line)


def test_configured_twice_still_says_it_once(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure_logging()
    log.configure_logging(verbose=True)
    log.LOGGER.debug("once")
    assert len(lines(capsys)) == 1


def test_progress_without_terminal(capsys: pytest.CaptureFixture[str], clock: list[float]) -> None:
    log.configure_logging()
    with log.ProgressLine("tiles") as progress:
        # Done, seconds: a line needs a tenth more and ten seconds more.
        for done, clock[0] in ((4, 1.0), (5, 11.0), (9, 12.0), (10, 22.0), (39, 23.0), (40, 24.0)):
            progress(done, 40)
    assert [line.split(" ", 2)[2] for line in lines(capsys)] == [
        "tiles: 5 of 40 (12 %)",
        "tiles: 10 of 40 (25 %)",
        "tiles: 40 of 40 (100 %)",
    ]


def test_progress_on_a_terminal_is_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    log.configure_logging()
    with log.ProgressLine("tiles") as progress:
        progress(1, 2)
        log.LOGGER.info("between")
        progress(2, 2)
    shown = screen.getvalue()
    assert "tiles" in shown
    assert re.search(r"\d INFO between\n", shown)


class ClosedPipe(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


def test_a_log_that_nobody_reads_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", ClosedPipe())
    log.configure_logging()
    log.LOGGER.info("unheard")


def test_two_handlers_keep_their_parts_beside_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, warnings = Terminal(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    log.configure_logging()
    second = logging.StreamHandler(warnings)
    second.setLevel(logging.WARNING)
    log.LOGGER.addHandler(second)
    with log.ProgressLine("tiles") as progress:
        progress(1, 2)
        log.LOGGER.info("information")
        log.LOGGER.warning("a warning")
    assert warnings.getvalue() == "a warning\n"
    assert re.search(r"INFO information\n", screen.getvalue())


def test_information_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure_logging(verbose=True, information_to_stdout=True)
    for level in ("debug", "info", "warning", "error"):
        getattr(log.LOGGER, level)(level)
    shown = capsys.readouterr()
    assert [line.split()[1] for line in shown.out.splitlines()] == ["DEBUG", "INFO"]
    assert [line.split()[1] for line in shown.err.splitlines()] == ["WARNING", "ERROR"]


def test_what_a_stream_cannot_encode_is_written_in_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(raw, encoding="ascii"))
    log.configure_logging()
    log.LOGGER.warning("labels 0–30")
    assert raw.getvalue().endswith(b"WARNING labels 0\\u201330\n")
