"""The parser of the command line: what is mistyped is answered with what was meant."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, ClassVar, NoReturn

_CHOICE = re.compile(r"invalid choice: (?P<given>.+?) \(choose from (?P<choices>.+)\)$")


class CommandParser(argparse.ArgumentParser):
    """A parser that refuses unknown options itself, so that its own usage is shown.

    argparse collects what a command does not know and lets the parser of all commands refuse it.

    Attributes:
        above: options that belong before this command.
    """

    above: ClassVar[frozenset[str]] = frozenset()

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse; there are no unknown arguments left afterwards."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            meant = [self._suggest(text) for text in unknown if text.startswith("-")]
            self.error(" ".join(["unrecognized arguments:", *unknown]) + "".join(meant))
        return found, []

    def error(self, message: str) -> NoReturn:
        """Print the usage and the message, with the nearest choice, and exit with 2."""
        found = _CHOICE.search(message)
        if found:
            choices = re.findall(r"[\w.-]+", found["choices"])
            message += nearest(found["given"].strip("'\""), choices)
        super().error(message)

    def _suggest(self, text: str) -> str:
        name = text.partition("=")[0]
        if name in self.above:
            return f"; give {name} before COMMAND"
        # argparse itself knows no public way to its options.
        return nearest(name, self._option_string_actions)


def nearest(text: str, known: Iterable[str]) -> str:
    """Return the question whether the most similar of the known texts was meant, or nothing."""
    close = get_close_matches(text, list(known), n=1, cutoff=0.7)
    return f"; did you mean {close[0]}?" if close else ""
