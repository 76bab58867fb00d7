"""Time a step of the shipped network's training in float32 and in bfloat16.

    python bench/step_time.py

prints JSON: processor seconds of the fastest of some steps of the network alone, by arithmetic.
Processor seconds, since others may keep the machine busy. ``weights.py`` trains in the faster one:
in bfloat16 where the CPU has matrix units for it, but without them float32 may be faster.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import torch

from oarseg.training.planning import PRESETS
from weights import untrained_network

ARITHMETIC = {"float32": False, "bfloat16": True}


def step_seconds(network: Any, *, bfloat16: bool, steps: int) -> float:
    """Return the processor seconds of the fastest of some forward and backward passes."""
    patch = PRESETS["oarsegSmall"]
    generator = torch.Generator().manual_seed(0)
    image = torch.randn((patch.batch_size, 2, *patch.patch_size), generator=generator)
    seconds = []
    for _ in range(steps):
        started = time.process_time()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
            outputs = network(image)
        torch.stack([output.float().square().mean() for output in outputs]).sum().backward()
        seconds.append(time.process_time() - started)
    return min(seconds)


def main() -> None:
    """Print the seconds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=4)
    told = parser.parse_args()
    network = untrained_network()
    found = {
        name: round(step_seconds(network, bfloat16=bfloat16, steps=told.steps), 3)
        for name, bfloat16 in ARITHMETIC.items()
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
