"""The command ``oarseg submission``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from oarseg.challenges.challenge import Challenge
from oarseg.cli.options import Subparsers, add_largest, largest_image
from oarseg.errors import InputError
from oarseg.model.model_folder import default_weights

if TYPE_CHECKING:
    from oarseg.grand_challenge.written import WrittenFile


def add_submission(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """Add ``oarseg submission``."""
    parser = commands.add_parser(
        "submission",
        help="tell an algorithm's settings on Grand Challenge, or what it takes of an output",
    )
    parser.add_argument(
        "--weights",
        type=Path,
        help="weights folder, with manifest.json (default: as for oarseg segment)",
    )
    parser.add_argument(
        "--challenge",
        metavar="NAME|FILE.toml",
        help="must be the one that the weights are for (default: that one)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="list the files of this folder of results, and what the platform takes; status 1 if "
        "it would refuse them (default: tell the settings)",
    )
    parser.add_argument(
        "--expected",
        type=Path,
        metavar="FOLDER",
        help="with --output: compare its label files with those of this folder; status 1 if a "
        "voxel differs (default: none)",
    )
    parser.add_argument(
        "--several",
        action="store_true",
        help="with --output: the run had several cases, each of which is a job on the platform",
    )
    add_largest(parser, default="the challenge's, where it is known")
    parser.set_defaults(command=run_submission)


def run_submission(arguments: argparse.Namespace) -> int:
    """Print settings or verdicts; return 1 if the platform would refuse what was written."""
    from oarseg.grand_challenge.algorithm import algorithm_settings
    from oarseg.model import bundle
    from oarseg.model.agreement import challenge_of

    largest = largest_image(arguments)
    for option in ("expected", "several"):
        if getattr(arguments, option) and not arguments.output:
            raise InputError(f"--{option}: expected --output with it; it is about that folder")
    weights = bundle.load_bundle(arguments.weights or default_weights())
    rules = challenge_of(weights, arguments.challenge)
    if arguments.output:
        return _print_written(arguments, rules)
    for line in algorithm_settings(weights, rules, largest=largest).lines():
        print(line)
    return 0


def _print_written(arguments: argparse.Namespace, rules: Challenge) -> int:
    from oarseg.grand_challenge.written import compare_labels, judge_written, list_written

    written = list_written(arguments.output, rules)
    for line in _table(written):
        print(line)
    verdict = judge_written(written, rules, several=arguments.several)
    print(f"Grand Challenge: {verdict.text}")
    different = False
    expected = arguments.expected
    for comparison in compare_labels(arguments.output, expected, rules) if expected else ():
        print(f"compared: {comparison.line()}")
        different |= comparison.differing != 0
    return int(different or not verdict.taken)


def _table(written: Sequence[WrittenFile]) -> Iterator[str]:
    """Yield a line for each file, or for all of a folder that fare alike."""
    groups = [
        (folder, verdict, list(files))
        for (folder, verdict), files in groupby(written, lambda f: (f.path.parent, f.verdict))
    ]
    rows = [
        (
            f"{files[0].path}" if len(files) == 1 else f"{folder}/ ({len(files)} files)",
            verdict,
            files,
        )
        for folder, verdict, files in groups
    ]
    width = max((len(name) for name, _, _ in rows), default=0)
    for name, verdict, files in rows:
        yield f"{name:{width}} {sum(file.bytes for file in files):>12,} bytes  {verdict}"
