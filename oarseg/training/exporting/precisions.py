"""Write a fold in each precision, and keep those that agree with torch."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import onnxruntime

from oarseg.errors import WeightsError
from oarseg.imaging.arrays import Image
from oarseg.inference.engines.choice import F32_MIN_AGREEMENT, F32_MIN_DICE
from oarseg.inference.engines.cuda_choice import F16_MIN_AGREEMENT, F16_MIN_DICE
from oarseg.inference.engines.onnx_runtime import CUDA_PROVIDER, NoCudaError
from oarseg.inference.engines.openvino import has_bf16
from oarseg.model.entries.networks import Arithmetic, ModelFile, Parity, Precision, Runtime
from oarseg.training.exporting.network_file import write_onnx
from oarseg.training.exporting.parity import (
    Patches,
    compare_with_torch,
    figures_text,
    network_outputs,
)
from oarseg.training.nnunet_files.checkpoint import Checkpoint, build_network
from oarseg.training.nnunet_files.results_folder import Results

log = logging.getLogger(__name__)

LOGITS = "logits.npy"


@dataclass(frozen=True)
class Bar:
    """Agreement with torch in float32 that a precision needs in order to be written."""

    argmax_agreement: float
    min_dice: float


BARS: dict[Precision, Bar] = {
    "fp32": Bar(F32_MIN_AGREEMENT, F32_MIN_DICE),
    "fp16": Bar(F16_MIN_AGREEMENT, F16_MIN_DICE),
}


def write_fold(
    results: Results,
    checkpoint: Checkpoint,
    stem: Path,
    samples: Patches,
    precisions: Sequence[Precision],
) -> Iterator[tuple[Precision, list[Parity]]]:
    """Write a fold in each precision; yield those that reach their bars, with their figures."""
    wanted = network_outputs(build_network(results, checkpoint), samples, stem.with_name(LOGITS))
    for precision in precisions:
        file = stem.with_name(f"{stem.name}_{precision}.onnx")
        log.info("%s: exporting, then comparing with torch", file.name)
        write_onnx(build_network(results, checkpoint), file, results, precision)
        found = _compared(file, samples, wanted, precision)
        if found:
            yield precision, found


def _compared(file: Path, samples: Patches, wanted: Image, precision: Precision) -> list[Parity]:
    """Compare a file in every library that may run it here; return [] if it misses its bar."""
    found = [compare_with_torch(file, samples, wanted)]
    if not _passes(found[0], precision):
        return []
    # Recorded in any case: inference chooses library and arithmetic by these figures.
    for runtime, how in _other_runs(precision):
        try:
            found.append(compare_with_torch(file, samples, wanted, runtime=runtime, arithmetic=how))
        except NoCudaError as why:
            log.warning("%s: not compared on the GPU: %s", file.name, why)
    return found


def _other_runs(precision: Precision) -> Iterator[tuple[Runtime, Arithmetic]]:
    """Yield the other ways in which inference may run a file of a precision, if this machine can.

    A file in half precision is run on a GPU without its conversions round normalisations. On the
    CPU that shows that the graph is right; on a GPU, that its kernels are.
    """
    cuda = CUDA_PROVIDER in onnxruntime.get_available_providers()
    if precision == "fp16":
        yield "onnxruntime", "f16"
        if cuda:
            yield "cuda", "f16"
        return
    yield "openvino", "f32"
    if has_bf16():
        yield "openvino", "bf16"
    if cuda:
        yield "cuda", "tf32"


def _passes(parity: Parity, precision: Precision) -> bool:
    bar = BARS[precision]
    good = parity.argmax_agreement >= bar.argmax_agreement and parity.min_dice >= bar.min_dice
    if not good and precision == "fp32":
        raise WeightsError(f"{parity.file}: ONNX differs from torch: {figures_text(parity)}")
    if not good:
        log.warning("%s: left out, below its bar: %s", parity.file, figures_text(parity))
    return good


def whole_precisions(models: Sequence[ModelFile], folds: Sequence[str]) -> list[ModelFile]:
    """Keep only precisions that every fold has; a mixed ensemble would not be one model."""
    count = {p: sum(model.precision == p for model in models) for p in get_args(Precision)}
    return [model for model in models if count[model.precision] == len(folds)]
