"""Count what the checks raise on phantoms, clean and with planted faults.

    python bench/plausibility.py --seeds 50 --out bench/results

On clean phantoms, what the truth knows of is told apart: organs that the field of view cuts, and
organs that the patient lacks.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

from planted_faults import FAULTS, with_fault

from oarseg.challenges.catalogue import load_challenge
from oarseg.challenges.challenge import Challenge
from oarseg.imaging.volume import Volume
from oarseg.phantom.case import Phantom, make_phantom
from oarseg.phantom.spec import PhantomSpec
from oarseg.plausibility.checks import Finding, find_implausible
from oarseg.plausibility.measure import measure_organs

FIRST_SEED = 200


def findings(labels: Volume, ct: Volume, challenge: Challenge) -> set[Finding]:
    """What the checks raise."""
    limits = challenge.plausibility
    measured = measure_organs(labels, challenge.organs, limits, image=ct)
    if measured is None:
        raise ValueError("too ragged")
    # The words may differ where the fault changes the volume or the frame a little.
    return {replace(found, message="") for found in find_implausible(measured, limits)}


def known(phantom: Phantom) -> set[Finding]:
    """What is truly there: organs that the field cuts, and missing ones."""
    kinds = {0.5: "cut", 0.0: "missing"}
    return {
        Finding("cut" if kinds[value] == "cut" else "missing", (organ,), "")
        for organ, value in phantom.truth.presence.items()
        if value in kinds
    }


def table(seeds: int, size: str, randomise: int) -> Iterator[str]:
    """Write the table, in Markdown."""
    challenge = load_challenge("han_seg")
    clean: Counter[str] = Counter()
    silent = 0
    own, more = Counter[str](), Counter[str]()
    others: dict[str, Counter[str]] = {fault: Counter() for fault in FAULTS}
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        phantom = make_phantom(PhantomSpec(seed, size, with_mr=False, randomise=randomise))
        before = findings(phantom.labels, phantom.ct, challenge)
        unknown = before - known(phantom)
        silent += not unknown
        clean.update(f"{found.check}: {', '.join(found.organs)}" for found in unknown)
        for fault, (_, check, organs) in FAULTS.items():
            labels = with_fault(phantom.labels, fault, challenge)
            raised = findings(labels, phantom.ct, challenge) - before
            mine = {found for found in raised if (found.check, found.organs) == (check, organs)}
            own[fault] += bool(mine)
            more[fault] += bool(raised - mine)
            others[fault].update(f"{f.check} of {', '.join(f.organs)}" for f in raised - mine)
    yield f"{seeds} phantoms of size {size}, level {randomise}, seeds from {FIRST_SEED}.\n\n"
    yield f"Clean: {silent} of {seeds} raise nothing but organs that are truly cut or missing.\n\n"
    yield "| raised on clean phantoms | phantoms |\n|---|---|\n"
    yield from (f"| {text} | {count} |\n" for text, count in clean.most_common())
    yield "\n| planted fault | raises its check | raises another too | which |\n|---|---|---|---|\n"
    for fault in FAULTS:
        which = ", ".join(f"{text} ({count})" for text, count in others[fault].most_common(3))
        yield f"| {fault} | {own[fault]} of {seeds} | {more[fault]} of {seeds} | {which} |\n"


def main() -> None:
    """Print the table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--size", default="small")
    parser.add_argument("--randomise", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    text = "".join(table(arguments.seeds, arguments.size, arguments.randomise))
    print(text)
    if arguments.out is not None:
        path = arguments.out / f"{date.today()}-plausibility.md"
        path.write_text(f"# Checks of organs\n\n{text}", encoding="utf-8")


if __name__ == "__main__":
    main()
