"""Opens an ensemble on a CUDA GPU, if there is one that works."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType

import onnxruntime

from oarseg.errors import DeviceError
from oarseg.inference.engines.buffers import allocate_buffers
from oarseg.inference.engines.onnx_runtime import CUDA_PROVIDER, NoCudaError, OnnxEngine
from oarseg.inference.engines.protocol import first_line
from oarseg.model.bundle import Bundle
from oarseg.model.manifest import Precision


@dataclass(frozen=True)
class CudaFolds:
    """The ensemble on a GPU.

    Attributes:
        folds: one engine a fold, in the manifest's order.
        xp: CuPy, the array module of their tiles and logits.
    """

    folds: tuple[OnnxEngine, ...]
    xp: ModuleType


def open_cuda(bundle: Bundle, precision: Precision, threads: int) -> CudaFolds:
    """Load every fold onto the GPU and run the first one on a tile.

    Raises:
        NoCudaError: there is no GPU, or it does not work.
        WeightsError: a file does not fit the manifest.
    """
    xp = _load_cupy()
    onnxruntime.preload_dlls()
    try:
        shared = allocate_buffers(bundle.manifest, xp)
        folds = tuple(
            OnnxEngine(path, shared.tile, shared.logits, threads=threads, xp=xp)
            for path in bundle.paths(precision)
        )
        folds[0](shared.tile)
    except _device_errors(xp) as error:
        raise NoCudaError(first_line(error)) from error
    return CudaFolds(folds, xp)


def _load_cupy() -> ModuleType:
    """Import CuPy, where ONNX Runtime has CUDA at all."""
    if CUDA_PROVIDER not in onnxruntime.get_available_providers():
        raise NoCudaError("this onnxruntime has no CUDA provider")
    try:
        return importlib.import_module("cupy")
    except ImportError as error:
        raise NoCudaError(f"CuPy cannot be loaded: {first_line(error)}") from error


def _device_errors(xp: ModuleType) -> tuple[type[Exception], ...]:
    """The exceptions of a driver, a GPU or its memory that fails."""
    failed: type[Exception] = xp.cuda.runtime.CUDARuntimeError
    return (DeviceError, MemoryError, failed)
