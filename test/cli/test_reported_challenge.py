"""Which challenge a command takes where no option names one."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from oarseg.cli import main, options
from oarseg.cli.main import build_parser
from oarseg.errors import InputError


def report(output: Path, case: str, challenge: object) -> None:
    (output / "reports").mkdir(parents=True, exist_ok=True)
    (output / f"reports/{case}.json").write_text(json.dumps({"challenge": challenge}))


def chosen(
    challenge: str | None, output: Path, case: str | None = None, table: Path | None = None
) -> str:
    arguments = argparse.Namespace(challenge=challenge, label_table=table)
    return options.chosen_challenge(arguments, outputs=output, case=case).name


def test_the_report_names_the_challenge(tmp_path: Path) -> None:
    report(tmp_path, "a", "segrap_oar")
    assert chosen(None, tmp_path) == "segrap_oar"
    assert chosen(None, tmp_path, "a") == "segrap_oar"
    assert chosen("structseg_lung_gtv", tmp_path) == "structseg_lung_gtv"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"challenge": 7}', "[" * 100_000])
def test_without_a_report_it_is_han_seg(tmp_path: Path, text: str) -> None:
    assert chosen(None, tmp_path) == "han_seg"
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/a.json").write_text(text)
    assert chosen(None, tmp_path) == "han_seg"


def test_reports_that_do_not_decide(tmp_path: Path) -> None:
    report(tmp_path, "a", "segrap_oar")
    report(tmp_path, "b", "segrap_gtv")
    with pytest.raises(InputError, match="reports of one challenge, found segrap_gtv, segrap_oar"):
        chosen(None, tmp_path)
    assert chosen(None, tmp_path, "b") == "segrap_gtv"
    report(tmp_path, "b", "our_own")
    with pytest.raises(InputError, match=r"b\.json: names challenge 'our_own'.*--challenge"):
        chosen(None, tmp_path, "b")


@pytest.mark.parametrize(
    "command",
    [
        ("picture", "--input", "i", "--output", "o", "--png", "p"),
        ("evaluate", "p", "r", "--out", "o"),
    ],
)
def test_commands_that_read_outputs_have_no_challenge_of_their_own(
    command: tuple[str, ...],
) -> None:
    assert build_parser().parse_args(command).challenge is None


def test_evaluate_and_picture_take_the_reports_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both ask for a label table, which only the challenge of the report needs."""
    report(tmp_path, "a", "han5k")
    inputs = str(tmp_path)
    assert main(["evaluate", inputs, inputs, "--out", inputs]) == 1
    assert main(["picture", "--input", inputs, "--output", inputs, "--png", inputs]) == 1
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    assert all("ERROR challenge han5k: takes its labels from you" in line for line in told)
