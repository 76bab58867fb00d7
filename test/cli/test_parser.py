"""What the command line says: each option's meaning and default, and what was mistyped."""

from __future__ import annotations

import argparse
import json

import pytest
from command_lines import command_parsers

import oarseg
from oarseg.cli import main
from oarseg.cli.main import LOG_FORMAT_VARIABLE

OPTIONS = [(parser.prog, action) for _, parser in command_parsers() for action in parser._actions]


@pytest.mark.parametrize(("command", "action"), OPTIONS, ids=lambda v: getattr(v, "dest", str(v)))
def test_every_option_has_a_text_and_its_default(command: str, action: argparse.Action) -> None:
    if isinstance(action, argparse._SubParsersAction):
        return
    assert action.help, command
    if action.nargs != 0 and action.option_strings and not action.required:
        assert action.help is argparse.SUPPRESS or "default" in action.help, command


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("segment --regoin body", "oarseg segment: error: unrecognized arguments: --regoin body; "
         "did you mean --region?"),
        ("segment --regoin=body", "did you mean --region?"),
        ("segmnt", "did you mean segment?"),
        ("segment --region bdoy", "did you mean body?"),
        ("segment --log-format json", "--log-format json; give --log-format before COMMAND"),
        ("segment --verbose", "unrecognized arguments: --verbose; give --verbose before COMMAND"),
        ("segment --zzz", "oarseg segment: error: unrecognized arguments: --zzz"),
        ("segment --time-limit -3", "argument --time-limit: expected a number above 0"),
        ("", "the following arguments are required: COMMAND"),
    ],
)  # fmt: skip
def test_what_is_mistyped(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(line.split())
    assert left.value.code == 2
    usage, _, last = capsys.readouterr().err.strip().rpartition("\n")
    assert usage.startswith("usage: oarseg")
    assert message in last


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"oarseg {oarseg.__version__}\n"
    assert main(["--version", "--json"]) == 0
    versions = json.loads(capsys.readouterr().out)
    assert versions["oarseg"] == oarseg.__version__
    assert {"python", "numpy", "SimpleITK", "openvino"} <= set(versions)


def test_log_lines_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--log-format", "json", "export", "nowhere\u00e9"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    entry = json.loads(line)
    assert list(entry) == ["time", "level", "message"]
    assert entry["level"] == "ERROR"
    assert entry["message"].startswith("nowhere\u00e9: expected a results folder")


def test_a_log_format_that_is_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(LOG_FORMAT_VARIABLE, "xml")
    with pytest.raises(SystemExit):
        main(["challenges"])
    message = "OARSEG_LOG_FORMAT: expected one of text, json, found 'xml'"
    assert message in capsys.readouterr().err
