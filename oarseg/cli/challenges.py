"""The command ``oarseg challenges``."""

from __future__ import annotations

import argparse

from oarseg.challenges import catalogue
from oarseg.challenges.challenge import Challenge
from oarseg.cli.options import Subparsers, add_label_table


def add_challenges(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """Add ``oarseg challenges``."""
    parser = commands.add_parser("challenges", help="list the challenges, or check a TOML file")
    parser.add_argument(
        "file",
        nargs="?",
        metavar="NAME|FILE.toml",
        help="show everything about this challenge; a file is checked first (default: list all)",
    )
    add_label_table(parser)
    parser.set_defaults(command=run_challenges)


def run_challenges(arguments: argparse.Namespace) -> int:
    """Print all challenges, one per line, or one of them in full."""
    if arguments.file is None:
        for name in catalogue.challenge_names():
            print(_line(catalogue.load_challenge(name)))
        return 0
    print(_whole(catalogue.load_challenge(arguments.file, table=arguments.label_table)))
    return 0


def _line(rules: Challenge) -> str:
    images = " + ".join(socket.channel for socket in rules.sockets)
    organs = f"{len(rules.organs)} organs" if rules.organs else "your own labels"
    return f"{rules.name:22s} {rules.title} ({images}; {organs})"


def _whole(rules: Challenge) -> str:
    output = rules.output
    where = output.path or f"images/{output.slug}/<name of the CT>{output.ending}"
    form = "one channel per organ" if output.form == "channels" else "label map"
    lines = [
        f"{rules.name}: {rules.title}",
        *([f"note: {rules.notice}"] if rules.notice else []),
        *(
            f"input: {s.channel} ({s.modality}) in images/{s.slug}/"
            + (f", in a data set {s.file}{rules.data_set.ending}" if s.file else "")
            for s in rules.sockets
        ),
        f"output: {where} ({form})",
        f"labels of a model: {len(rules.structures)}",
        *(
            f"{number:4d} {organ.name}"
            + (f" = {' + '.join(map(str, organ.labels))}" if rules.overlapping else "")
            for number, organ in enumerate(rules.organs, start=1)
        ),
    ]
    return "\n".join(lines)
