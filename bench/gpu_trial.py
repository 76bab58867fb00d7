"""Opens the shipped ensemble on the GPU, which tries everything on one tile first.

python bench/gpu_trial.py --device cuda
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

from gpu_card import found_versions, say

from oarseg.inference.engines.choice import open_engines
from oarseg.model.bundle import load_bundle

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Open, and say what was opened and how long it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--weights", type=Path, default=ROOT / "weights")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.DEBUG)
    say(versions=found_versions())
    start = time.perf_counter()
    opened = open_engines(load_bundle(arguments.weights), device=arguments.device)
    say(
        opening_s=round(time.perf_counter() - start, 2),
        engine=opened.choice.engine,
        arithmetic=opened.choice.arithmetic,
        reason=opened.choice.reason,
    )


if __name__ == "__main__":
    main()
