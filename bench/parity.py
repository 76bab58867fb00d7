"""The parity tests' cases at a larger size, ours against nnUNetPredictor, as a table.

    python bench/parity.py --scale 2 --out bench/results

Every case of ``test_parity.py`` with each axis of its image ``--scale`` times as long:
networks that have learnt for a few seconds, exported to ONNX, and the same checkpoints in
nnU-Net. A case below the tests' bars makes the exit status 1.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import tempfile
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import parity_cases
from nnunet_oracle import images, make

from oarseg.labels.dice import dice_by_label


@dataclass(frozen=True)
class Row:
    """What one case showed.

    Attributes:
        differing: voxels, between the exported networks in our pipeline and nnU-Net.
        differing_alike: the same with nnU-Net's own torch networks in our pipeline.
        dice: the worst of the structures large enough.
    """

    name: str
    shape: tuple[int, ...]
    differing: int
    differing_alike: int
    equal: float
    dice: float
    structures: int

    @property
    def passed(self) -> bool:
        """Whether the tests' bars hold."""
        return self.equal >= parity_cases.AGREEMENT and self.dice >= parity_cases.DICE


def main() -> int:
    """Run the cases and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=int, default=2)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
    rows = [run(enlarged(case, arguments.scale)) for case in parity_cases.CASES]
    text = table(rows, arguments.scale)
    print(text)
    if arguments.out:
        path = arguments.out / f"{datetime.date.today()}-parity.md"
        path.write_text(text + "\n", encoding="utf-8")
    return 0 if all(row.passed for row in rows) else 1


def enlarged(case: parity_cases.Parity, scale: int) -> parity_cases.Parity:
    """The case with a larger image."""
    depth, height, width = (length * scale for length in case.shape)
    return replace(case, shape=(depth, height, width), margin=case.margin * scale)


def run(case: parity_cases.Parity) -> Row:
    """Both answers to one case, compared."""
    with tempfile.TemporaryDirectory() as scratch:
        oracle = make(case.recipe, Path(scratch))
        channels = images(case.shape, len(case.recipe.channels), margin=case.margin)
        theirs = oracle.predict(channels, case.spacing_mm, case.mirror)
        mine = parity_cases.ours(oracle, channels, case)
        alike = parity_cases.ours(oracle, channels, case, oracle.engines())
    largest = max(case.values)
    dice = dice_by_label(mine, theirs, labels=largest)
    counted = np.bincount(theirs.ravel(), minlength=largest + 1)[1:] > parity_cases.SMALLEST
    differing = int(np.count_nonzero(mine != theirs))
    return Row(
        case.name,
        case.shape,
        differing,
        int(np.count_nonzero(alike != theirs)),
        1 - differing / mine.size,
        float(np.min(dice[counted])),
        int(counted.sum()),
    )


def table(rows: list[Row], scale: int) -> str:
    """The rows as Markdown."""
    packages = ("nnunetv2", "torch", "onnxruntime", "openvino")
    lines = [
        f"oarseg against nnUNetPredictor on the same checkpoints, {datetime.date.today()}",
        "",
        f"`python bench/parity.py --scale {scale}`; "
        + ", ".join(f"{name} {version(name)}" for name in packages),
        "",
        "The last column: nnU-Net's own torch networks in our pipeline, not the exported ones.",
        "",
        "| case | image (z, y, x) | voxels that differ | equal, % | worst Dice | structures "
        "| differ, same networks |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        shape = "×".join(str(length) for length in row.shape)
        lines.append(
            f"| {row.name} | {shape} | {row.differing} | {100 * row.equal:.4f} | "
            f"{row.dice:.5f} | {row.structures} | {row.differing_alike} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
