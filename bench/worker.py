"""One program on one case, in a process of its own; its figures as JSON on the last line.

python bench/worker.py ours --case build/bench/cases/small --weights weights --region body \
        --labels labels.npy
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import cases
import numpy as np
from gpu_card import PeakMemory

from oarseg.imaging.volume import Grid, Volume
from oarseg.inference import preprocessing, streaming
from oarseg.inference.engines import choice
from oarseg.inference.region.body import body_box, find_body
from oarseg.model import bundle
from oarseg.system.cpus import available_cpus
from oarseg.system.usage import Steps


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("who", choices=("ours", "peer"))
    parser.add_argument("--case", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--torch", action="store_true", help="ours, with nnU-Net's own networks")
    parser.add_argument("--fast", action="store_true", help="ours, with --precision fast")
    parser.add_argument(
        "--networks", default="shipped", choices=("shipped", "toy", *cases.LARGE), help="which"
    )
    parser.add_argument("--region", choices=("full", "body", "whole"), required=True)
    # whole: every tile, whether the body is in it or not
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=available_cpus())
    parser.add_argument("--memory-gib", type=float, help="RLIMIT_DATA, as the platform sets it")
    parser.add_argument("--labels", type=Path, required=True, help="where the label map goes")
    arguments = parser.parse_args()
    if arguments.memory_gib:
        limit = int(arguments.memory_gib * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    spacing_mm = tuple(json.loads((arguments.case / "spacing.json").read_text()))
    images = [np.load(arguments.case / name) for name in ("ct.npy", "mr.npy")]
    steps = Steps()
    compute = ours if arguments.who == "ours" else peer
    with PeakMemory() if arguments.device == "cuda" else nullcontext() as memory:
        labels = compute(images, spacing_mm, arguments, steps)
    np.save(arguments.labels, labels.astype(np.uint8))
    print(json.dumps(figures(steps) | ({"gpu_mib": memory.mib} if memory else {})))


def figures(steps: Steps) -> dict[str, Any]:
    """Seconds and MiB, of all and of each step."""
    return {
        "seconds": round(sum(step.seconds for step in steps.done), 2),
        "peak_mib": round(steps.peak_mib),
        "steps": [[s.name, round(s.seconds, 2), round(s.peak_mib)] for s in steps.done],
    }


def ours(
    images: list[Any], spacing_mm: Any, arguments: argparse.Namespace, steps: Steps
) -> np.ndarray[Any, Any]:
    """This project's inference."""
    weights = bundle.load_bundle(arguments.weights)
    with steps.step("networks"):
        opened = choice.open_engines(
            weights,
            exactness="fast" if arguments.fast else "exact",
            device=arguments.device,
            threads=arguments.threads,
        )
        folds = torch_engines(arguments) if arguments.torch else opened.take(mean=arguments.fast)
    grid = Grid(images[0].shape, spacing_mm)
    with steps.step("preprocessing"):
        body = None if arguments.region == "whole" else find_body(Volume(images[0], grid))
        net_input = preprocessing.preprocess(
            images,
            spacing_mm,
            weights.manifest,
            box=body_box(body, grid) if arguments.region == "body" else None,
            threads=arguments.threads,
        )
        images.clear()
    with steps.step("segmentation"):
        return streaming.segment_streaming(
            net_input,
            folds,
            weights.manifest,
            joint=arguments.fast,
            mask=body,
            threads=arguments.threads,
            gpu=None if arguments.torch else opened.gpu,
        )


def torch_engines(arguments: argparse.Namespace) -> Any:
    """nnU-Net's networks in this project's inference: all else being equal, so must the labels."""
    import nnunet_peer

    return nnunet_peer.engines(torch_predictor(arguments))


def torch_predictor(arguments: argparse.Namespace) -> Any:
    """nnU-Net's predictor on the weights folder's networks."""
    import nnunet_peer

    made = {"shipped": None, "toy": {}, **cases.LARGE}[arguments.networks]
    return nnunet_peer.predictor(
        bundle.load_bundle(arguments.weights),
        threads=arguments.threads,
        architecture=nnunet_peer.SHIPPED if made is None else made,
        device=arguments.device,
    )


def peer(
    images: list[Any], spacing_mm: Any, arguments: argparse.Namespace, steps: Steps
) -> np.ndarray[Any, Any]:
    """nnUNetPredictor; with ``--region body`` on the box that ours takes."""
    predictor = torch_predictor(arguments)
    grid = Grid(images[0].shape, spacing_mm)
    box = None
    if arguments.region == "body":
        box = body_box(find_body(Volume(images[0], grid)), grid)
    where = tuple(slice(*interval) for interval in box) if box else (slice(None),) * 3
    with steps.step("all"):
        stacked = np.stack([image[where].astype(np.float32) for image in images])
        images.clear()
        labels = np.zeros(grid.shape, np.uint8)
        # A wall clock of its own: torch's threads are not Python's.
        start = time.perf_counter()
        labels[where] = predictor.predict_single_npy_array(stacked, {"spacing": list(spacing_mm)})
        print(f"predict_single_npy_array: {time.perf_counter() - start:.1f} s", flush=True)
    return labels


if __name__ == "__main__":
    main()
