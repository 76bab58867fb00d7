"""How far a network's answer depends on where its tiles lie: cropped, uncropped, shifted.

    python bench/region.py --seeds 300 301 302 --out bench/results

Three label maps of each phantom, by the same networks: on nnU-Net's own tiles over the whole
image (``full``); cropped to the body's box (``body``, the default); and ``full`` again after
``--air`` voxels of air were laid before the first slice, row and column, which changes nothing
but where the tiles lie. What the last two differ in from the first is compared structure by
structure, and each of the three with the phantom's truth.
"""

from __future__ import annotations

import argparse
import datetime
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from cases import ROOT, phantom_channels

from oarseg.imaging.volume import Volume
from oarseg.inference import preprocessing, streaming
from oarseg.inference.engines import choice
from oarseg.inference.region.body import body_box, find_body
from oarseg.labels.dice import dice_by_label
from oarseg.model import bundle
from oarseg.phantom import PhantomSpec
from oarseg.system.cpus import available_cpus

AIR_HU = -1000
MIN_VOXELS = 200


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[300, 301, 302])
    parser.add_argument("--size", default="small")
    parser.add_argument("--air", type=int, default=5)
    parser.add_argument("--weights", type=Path, default=ROOT / "weights")
    parser.add_argument("--threads", type=int, default=available_cpus())
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
    weights = bundle.load_bundle(arguments.weights)
    opened = choice.open_engines(weights, device="cpu", threads=arguments.threads)
    found = []
    for seed in arguments.seeds:
        found.append(Answers.of(PhantomSpec(seed, arguments.size), weights, opened, arguments))
        print(seed, *(f"{name} {value:.4f}" for name, value in found[-1].means().items()))
    text = table(found, arguments, weights.manifest.title)
    print(text)
    if arguments.out:
        path = arguments.out / f"{datetime.date.today()}-region.md"
        path.write_text(text + "\n", encoding="utf-8")


class Answers:
    """Dice of one phantom's label maps with each other and with the truth, per structure."""

    def __init__(self, maps: dict[str, Any], truth: Any) -> None:
        large = np.bincount(truth.ravel(), minlength=31)[1:] >= MIN_VOXELS
        pairs = {
            "body, full": (maps["body"], maps["full"]),
            "shifted, full": (maps["shifted"], maps["full"]),
            **{f"{name}, truth": (labels, truth) for name, labels in maps.items()},
        }
        self.dice = {
            name: np.where(large, dice_by_label(*pair, labels=30), np.nan)
            for name, pair in pairs.items()
        }

    @classmethod
    def of(
        cls, spec: PhantomSpec, weights: Any, opened: Any, arguments: argparse.Namespace
    ) -> Answers:
        """Segment one phantom three times."""
        seen = phantom_channels(spec, weights.manifest.channels[1].recipe)
        grid, air = seen.ct.grid, arguments.air
        ct, mr = seen.ct.array, seen.mr
        before = [(air, 0)] * 3

        def run(ct: Any, mr: Any, *, crop: bool) -> Any:
            where = replace(grid, shape=ct.shape)
            body = find_body(Volume(ct, where))
            net_input = preprocessing.preprocess(
                [ct, mr],
                grid.spacing_mm,
                weights.manifest,
                box=body_box(body, where) if crop else None,
                threads=arguments.threads,
            )
            return streaming.segment_streaming(
                net_input, opened.take(), weights.manifest, mask=body, threads=arguments.threads
            )

        shifted = run(np.pad(ct, before, constant_values=AIR_HU), np.pad(mr, before), crop=False)
        maps = {
            "full": run(ct, mr, crop=False),
            "body": run(ct, mr, crop=True),
            "shifted": shifted[air:, air:, air:],
        }
        return cls(maps, seen.truth)

    def means(self) -> dict[str, float]:
        """Over the structures."""
        return {name: float(np.nanmean(dice)) for name, dice in self.dice.items()}


def table(found: list[Answers], arguments: argparse.Namespace, title: str) -> str:
    """Markdown: a line a pair, over phantoms and structures."""
    seeds = ", ".join(map(str, arguments.seeds))
    lines = [
        f"{len(found)} phantoms (size {arguments.size}, seeds {seeds}), {title}, "
        f"{datetime.date.today()}; structures of at least {MIN_VOXELS} voxels; "
        f"`python bench/region.py`, shifted: {arguments.air} voxels of air before each axis",
        "",
        "| label maps | mean Dice | median | 5th percentile | worst |",
        "|---|---|---|---|---|",
    ]
    for name in found[0].dice:
        dice = np.concatenate([answers.dice[name] for answers in found])
        dice = dice[~np.isnan(dice)]
        lines.append(
            f"| {name} | {dice.mean():.4f} | {np.median(dice):.4f} | "
            f"{np.percentile(dice, 5):.4f} | {dice.min():.4f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
