"""The command ``oarseg picture``."""

from __future__ import annotations

import argparse
from pathlib import Path

from oarseg.challenges.catalogue import DEFAULT_CHALLENGE
from oarseg.cli.options import Subparsers, add_challenge, chosen_challenge
from oarseg.errors import InputError


def add_picture(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """Add ``oarseg picture``."""
    parser = commands.add_parser("picture", help="draw a segmented case as PNG")
    parser.add_argument("--input", type=Path, required=True, help="folder of cases")
    parser.add_argument("--output", type=Path, required=True, help="the output folder of segment")
    parser.add_argument("--png", type=Path, required=True, help="file to write")
    parser.add_argument("--case", help="name of the case (default: the first)")
    add_challenge(parser, default=None, without=f"the one in the report, else {DEFAULT_CHALLENGE}")
    parser.set_defaults(command=run_picture)


def run_picture(arguments: argparse.Namespace) -> int:
    """Draw one case: CT and moved MR in three planes, with the masks."""
    from oarseg.cases.find_cases import find_cases
    from oarseg.results.case_picture import case_picture, write_png

    rules = chosen_challenge(arguments, outputs=arguments.output, case=arguments.case)
    required = frozenset({rules.reference.channel})
    cases = {c.name: c for c in find_cases(arguments.input, rules, required=required).cases}
    name = arguments.case or next(iter(cases), "")
    if name not in cases:
        raise InputError(f"case {name!r}: expected one of {', '.join(cases) or 'none'}")
    write_png(case_picture(cases[name], arguments.output, rules), arguments.png)
    print(arguments.png)
    return 0
