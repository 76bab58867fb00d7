"""Subcommands about cases rather than models: challenges, phantoms, pictures."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from oarseg.challenges import challenge
from oarseg.challenges.challenge import Challenge
from oarseg.cli.options import add_challenge, chosen_challenge
from oarseg.errors import InputError

logger = logging.getLogger(__name__)
Subparsers = argparse._SubParsersAction  # argparse names no public type for it


def add_challenges(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """``oarseg challenges``."""
    parser = commands.add_parser("challenges", help="list the challenges, or check a file of one")
    parser.add_argument("file", nargs="?", help="a name or FILE.toml: tell all of it")
    parser.add_argument("--label-table", type=Path, metavar="FILE")
    parser.set_defaults(command=challenges)


def challenges(arguments: argparse.Namespace) -> int:
    """Print the challenges, one a line, or one of them in full."""
    if arguments.file is None:
        for name in challenge.names():
            print(_line(challenge.load(name)))
        return 0
    print(_whole(challenge.load(arguments.file, table=arguments.label_table)))
    return 0


def _line(rules: Challenge) -> str:
    images = " + ".join(socket.channel for socket in rules.sockets)
    organs = f"{len(rules.organs)} organs" if rules.organs else "your own labels"
    return f"{rules.name:22s} {rules.title} ({images}; {organs})"


def _whole(rules: Challenge) -> str:
    output = rules.output
    where = output.path or f"images/{output.slug}/<name of the CT>{output.ending}"
    lines = [
        f"{rules.name}: {rules.title}",
        *([f"note: {rules.notice}"] if rules.notice else []),
        *(
            f"input: {s.channel} ({s.modality}) in images/{s.slug}/"
            + (f", in a data set {s.file}{rules.data_set.ending}" if s.file else "")
            for s in rules.sockets
        ),
        f"output: {where} ({'a channel an organ' if output.form == 'channels' else 'label map'})",
        f"labels of a model: {len(rules.structures)}",
        *(
            f"{number:4d} {organ.name}"
            + (f" = {' + '.join(map(str, organ.labels))}" if rules.overlapping else "")
            for number, organ in enumerate(rules.organs, start=1)
        ),
    ]
    return "\n".join(lines)


def add_phantom(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """``oarseg phantom``."""
    parser = commands.add_parser("phantom", help="make cases with known truth")
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--seed", type=int, default=0, help="first seed")
    parser.add_argument("--cases", type=int, default=1, help="cases, a seed each")
    parser.add_argument(
        "--size", choices=("tiny", "small", "medium", "median", "maximum"), default="small"
    )
    parser.add_argument("--layout", choices=("dataset", "platform"), default="dataset")
    add_challenge(parser)
    parser.add_argument(
        "--share",
        type=float,
        default=1.0,
        help="of the organs that are labelled in a case, for training on partial labels",
    )
    parser.add_argument("--neck-flexion", type=float, default=0.0, metavar="DEG")
    parser.add_argument("--no-mr", action="store_true")
    parser.add_argument("--workers", type=int, default=1)
    parser.set_defaults(command=phantom)


def phantom(arguments: argparse.Namespace) -> int:
    """Write phantoms and print their folders."""
    from oarseg.phantom import write_cases

    folders = write_cases(
        arguments.out,
        seeds=range(arguments.seed, arguments.seed + arguments.cases),
        size=arguments.size,
        layout=arguments.layout,
        challenge=chosen_challenge(arguments),
        share=arguments.share,
        neck_flexion_deg=arguments.neck_flexion,
        with_mr=not arguments.no_mr,
        workers=arguments.workers,
        progress=logger.info,
    )
    for folder in folders:
        print(folder)
    return 0


def add_picture(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """``oarseg picture``."""
    parser = commands.add_parser("picture", help="draw a segmented case as PNG")
    parser.add_argument("--input", type=Path, required=True, help="folder of cases")
    parser.add_argument("--output", type=Path, required=True, help="what segment wrote")
    parser.add_argument("--png", type=Path, required=True)
    parser.add_argument("--case", help="default: the first")
    add_challenge(parser)
    parser.set_defaults(command=picture)


def picture(arguments: argparse.Namespace) -> int:
    """Draw one case: CT and moved MR in three planes, with the masks."""
    from oarseg.cases.find_cases import find_cases
    from oarseg.results.case_picture import case_picture, write_png

    rules = chosen_challenge(arguments)
    required = frozenset({rules.reference.channel})
    cases = {c.name: c for c in find_cases(arguments.input, rules, required=required).cases}
    name = arguments.case or next(iter(cases), "")
    if name not in cases:
        raise InputError(f"case {name!r}: expected one of {', '.join(cases) or 'none'}")
    write_png(case_picture(cases[name], arguments.output, rules), arguments.png)
    print(arguments.png)
    return 0
