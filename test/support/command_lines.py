"""All commands that the help names, those inside others included."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from oarseg.cli.main import build_parser

Words = tuple[str, ...]


def command_parsers() -> Iterator[tuple[Words, argparse.ArgumentParser]]:
    """Yield the words of each command and its parser; none for the one above them."""
    yield from _below((), build_parser())


def _below(
    words: Words, parser: argparse.ArgumentParser
) -> Iterator[tuple[Words, argparse.ArgumentParser]]:
    yield words, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for named in action._choices_actions:
                yield from _below((*words, named.dest), action.choices[named.dest])
