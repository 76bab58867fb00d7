"""Numbers that options take, and the sentence about those that they do not."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from command_lines import command_parsers

from oarseg.cli import main
from oarseg.cli.commands.segment import repairs
from oarseg.cli.options import number_above, number_within, slug, whole_number

NONSENSE = ("nan", "inf", "-inf", "soon", "", "1e400", "-1")


@pytest.mark.parametrize(
    ("text", "expected"), [("1", 1), ("2e3", 2000), ("2000", 2000), (" 7 ", 7), ("7.0", 7)]
)
def test_whole_numbers(text: str, expected: int) -> None:
    assert whole_number(1, 2000)(text) == expected


@pytest.mark.parametrize("text", [*NONSENSE, "0", "2001", "1.5", "9" * 5000])
def test_what_is_no_whole_number_within_the_limits(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected a whole number from 1 to 2000"):
        whole_number(1, 2000)(text)


@pytest.mark.parametrize("text", [*NONSENSE, "0", "8.01"])
def test_what_is_no_number_within_the_limits(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected a number above 0, at most 8, "):
        number_above(0, most=8)(text)
    assert number_above(0, most=8)("8") == 8.0


def test_both_limits_are_allowed() -> None:
    assert (number_within(-10, 10)("-10"), number_within(-10, 10)("10")) == (-10.0, 10.0)
    with pytest.raises(argparse.ArgumentTypeError, match=r"expected a number from -10 to 10, "):
        number_within(-10, 10)("nan")


def numeric_options() -> list[tuple[str, str, int]]:
    """Every option of every command that takes numbers, and how many, found by its type."""
    return [
        (
            " ".join(words),
            action.option_strings[0],
            action.nargs if type(action.nargs) is int else 1,
        )
        for words, parser in command_parsers()
        for action in parser._actions
        if action.type not in (None, Path, str, slug) and action.option_strings
    ]


@pytest.mark.parametrize(("command", "option", "count"), numeric_options())
@pytest.mark.parametrize("text", ["nan", "inf", "-1000000000"])
def test_every_numeric_option_refuses_what_is_no_number(
    command: str, option: str, count: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"{option}={text}"] if count == 1 else [option, *[text] * count]
    with pytest.raises(SystemExit) as caught:
        main([*command.split(), *words])
    assert caught.value.code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"argument {option}: expected a " in last
    assert last.endswith(f"found '{text}'")


def test_the_numeric_options_are_found() -> None:
    assert {
        ("segment", "--max-gib"),
        ("segment", "--max-voxels"),
        ("segment", "--threads"),
        ("segment", "--time-limit"),
        ("rank", "--alpha"),
    } <= {(command, option) for command, option, _ in numeric_options()}


@pytest.mark.parametrize(
    ("text", "expected"),
    [("lr", ("lr",)), ("components,lr", ("components", "lr")), ("lr,lr", ("lr",))],
)
def test_repairs(text: str, expected: tuple[str, ...]) -> None:
    assert repairs(text) == expected


@pytest.mark.parametrize("text", ["", "LR", "lr components", "lr,", "all"])
def test_what_is_no_repair(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected a list of lr and components"):
        repairs(text)
