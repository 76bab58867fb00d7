"""Stock nnU-Net and ``oarseg export`` with ``oarseg segment``, files in, files out, as a table.

    python bench/parity.py --scale 2 --out bench/results

Each model is a results folder as nnU-Net writes it, with networks that have learnt for a few
seconds: exported without an option, run on an image of each axis ``--scale`` times as long as in
the tests, and compared with nnUNetPredictor on the same files. Above one voxel in 100,000 (at
least one), the exit status is 1.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import stock_models
from stock_models import StockModel

from oarseg.labels.dice import count_labels, dice_by_label


@dataclass(frozen=True)
class Row:
    """What one model showed.

    Attributes:
        differing: voxels whose labels are not nnU-Net's.
        dice: the lowest of all structures.
        structures: how many nnU-Net found.
    """

    model: StockModel
    differing: int
    voxels: int
    dice: float
    structures: int

    @property
    def passed(self) -> bool:
        """Whether only ties differ."""
        return self.differing <= max(1, self.voxels // 100_000)


def main() -> int:
    """Run the models and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=int, default=2, help="of the tests' images (default: 2)")
    parser.add_argument("--models", nargs="+", metavar="NAME", help="default: all")
    parser.add_argument("--out", type=Path, help="folder for the table")
    arguments = parser.parse_args()
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
    chosen = (
        [stock_models.named(name) for name in arguments.models]
        if arguments.models
        else stock_models.MODELS
    )
    rows = []
    for model in chosen:
        rows.append(measure(model.enlarged(arguments.scale)))
        print(line(rows[-1]), flush=True)
    text = table(rows, arguments.scale)
    print(text)
    if arguments.out:
        path = arguments.out / f"{datetime.date.today()}-parity.md"
        path.write_text(text + "\n", encoding="utf-8")
    return 0 if all(row.passed for row in rows) else 1


def measure(model: StockModel) -> Row:
    """Both answers to one model's case, compared."""
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = stock_models.answers(model, Path(folder))
    dice = dice_by_label(ours, theirs, labels=255)
    there = count_labels(theirs, 256)[1:] > 0
    return Row(
        model,
        int(np.count_nonzero(ours != theirs)),
        ours.size,
        float(np.min(dice[there], initial=1.0)),
        int(np.count_nonzero(there)),
    )


def table(rows: Sequence[Row], scale: int) -> str:
    """The rows as Markdown."""
    packages = ("nnunetv2", "torch", "openvino")
    differing, voxels = sum(row.differing for row in rows), sum(row.voxels for row in rows)
    return "\n".join(
        (
            f"oarseg against stock nnU-Net, files in, files out, {datetime.date.today()}",
            "",
            f"`python bench/parity.py --scale {scale}`; "
            + ", ".join(f"{name} {version(name)}" for name in packages),
            "",
            f"{len(rows)} models, {differing} of {voxels:,} voxels differ.",
            "",
            "| model | channels | folds | image (z, y, x) | structures | voxels that differ "
            "| lowest Dice |",
            "|---|---:|---:|---|---:|---:|---:|",
            *map(line, rows),
        )
    )


def line(row: Row) -> str:
    """A model's row."""
    model, recipe = row.model, row.model.recipe
    shape = "×".join(str(length) for length in model.shape)
    return (
        f"| {model.name} | {len(recipe.channels)} | {recipe.folds} | {shape} | {row.structures} "
        f"| {row.differing} | {row.dice:.5f} |"
    )


if __name__ == "__main__":
    sys.exit(main())
