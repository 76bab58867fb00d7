"""The command ``oarseg challenges``."""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

from oarseg.challenges import catalogue
from oarseg.challenges.challenge import Challenge, LargestImage, Socket
from oarseg.challenges.toml_text import challenge_toml
from oarseg.cli.options import Subparsers, add_label_table, add_largest, largest_image, slug
from oarseg.errors import InputError

HINTS = """\
# Yours to edit: the challenge's name and title, colours, rt_name and meaning of what is drawn, slug
# (the platform's name of an input; --input-slugs), and where the label map goes: [output]
# slug = "my-output" and ending = ".mha" instead of path (--output-slug) give
# images/my-output/<name of the image>.mha, as Grand Challenge wants it. Keys: docs/challenges.md.
"""


def add_challenges(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """Add ``oarseg challenges``."""
    parser = commands.add_parser("challenges", help="list the challenges, or check a TOML file")
    parser.add_argument(
        "file",
        nargs="?",
        metavar="NAME|FILE.toml",
        help="show everything about this challenge; a file is checked first (default: list all)",
    )
    parser.add_argument(
        "--from",
        type=Path,
        dest="dataset",
        metavar="dataset.json",
        help="print the challenge of an nnU-Net data set as TOML, to edit and pass as --challenge "
        "(default: none)",
    )
    parser.add_argument(
        "--input-slugs",
        type=slug,
        nargs="+",
        metavar="SLUG",
        help="with --from: the platform's names of the inputs, in the order of the channels "
        "(default: the channels' names, as in mr-t1)",
    )
    parser.add_argument(
        "--output-slug",
        type=slug,
        metavar="SLUG",
        help="with --from: the platform's name of the output (default: none; the label map is "
        "written beside the masks, where no platform takes it)",
    )
    add_largest(parser, default="unknown; with --from only, for oarseg submission")
    add_label_table(parser)
    parser.set_defaults(command=run_challenges)


def run_challenges(arguments: argparse.Namespace) -> int:
    """Print all challenges, one per line, or one of them in full."""
    largest = largest_image(arguments)
    if arguments.dataset is not None:
        _print_toml(arguments, largest)
    elif arguments.input_slugs or arguments.output_slug or largest:
        raise InputError(
            "--input-slugs, --output-slug, --largest: expected --from dataset.json with them; a "
            "challenge's own file has these as slug and largest"
        )
    elif arguments.file is None:
        for name in catalogue.challenge_names():
            print(_line(catalogue.load_challenge(name)))
    else:
        table = arguments.label_table
        print(describe_challenge(catalogue.load_challenge(arguments.file, table=table)))
    return 0


def _print_toml(arguments: argparse.Namespace, largest: LargestImage | None) -> None:
    # Imports nothing of torch; a data set's description is what training writes.
    from oarseg.grand_challenge.sockets import with_sockets
    from oarseg.training.nnunet_files.own_challenge import challenge_of_file

    if arguments.file is not None or arguments.label_table is not None:
        raise InputError("--from: expected alone; leave the challenge and --label-table out")
    path: Path = arguments.dataset
    path = path / "dataset.json" if path.is_dir() else path
    rules = with_sockets(
        challenge_of_file(path),
        inputs=arguments.input_slugs or (),
        output=arguments.output_slug,
        largest=largest,
    )
    toml = challenge_toml(rules)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # TOML is, whatever the locale
    print(f"# Made of {ascii(str(path))[1:-1]} by 'oarseg challenges --from'.")
    print(HINTS)
    print(toml, end="")


def _line(rules: Challenge) -> str:
    images = " + ".join(socket.channel for socket in rules.sockets)
    organs = f"{len(rules.organs)} organs" if rules.organs else "your own labels"
    return f"{rules.name:22s} {rules.title} ({images}; {organs})"


def describe_challenge(rules: Challenge) -> str:
    """Describe everything about a challenge, on several lines."""
    output = rules.output
    reference = rules.reference.channel
    where = output.path or f"images/{output.slug}/<name of the {reference}>{output.ending}"
    form = "one channel per organ" if output.form == "channels" else "label map"
    lines = [
        f"{rules.name}: {rules.title}",
        *([f"note: {rules.notice}"] if rules.notice else []),
        *(
            f"input: {s.channel} ({s.modality}) in images/{s.slug}/" + _in_a_folder(s, rules)
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


def _in_a_folder(socket: Socket, rules: Challenge) -> str:
    """Say what an image is called outside the platform."""
    if socket.file:
        return f", in a data set {socket.file}{rules.data_set.ending}"
    return f", in a folder <case>{socket.suffixes[0]}" if socket.suffixes else ""
