"""Turns every failure of a GPU, its driver and its libraries into one kind of error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from oarseg.errors import DeviceError, OarsegError
from oarseg.inference.engines.onnx_runtime import NoCudaError
from oarseg.inference.engines.protocol import first_line

# Packages whose exceptions are a GPU's: CuPy, the bindings that it uses, ONNX Runtime.
_PACKAGES = frozenset({"cupy", "cupy_backends", "cupyx", "cuda", "onnxruntime"})
# What such a package raises of Python's own where a library or memory is missing. Any other, as a
# TypeError, is a defect of ours.
_BORROWED = (RuntimeError, OSError, MemoryError)


@contextmanager
def device_faults(during: str) -> Iterator[None]:
    """Run a block in which a GPU is used.

    Args:
        during: what is done in it, for the message.

    Raises:
        DeviceError: CuPy, NVRTC, cuBLAS, cuDNN, the driver or ONNX Runtime failed.
    """
    try:
        yield
    except OarsegError:
        raise
    except Exception as error:
        if not (is_device_fault(error) or isinstance(error, NoCudaError)):
            raise
        raise DeviceError(
            f"the GPU failed {during}: {first_line(error)}; use --device cpu or another GPU"
        ) from error


def is_device_fault(error: BaseException) -> bool:
    """Tell whether an exception is a GPU's, by its class or by where it was raised."""
    if any(_package(kind.__module__) in _PACKAGES for kind in type(error).__mro__):
        return True
    return isinstance(error, _BORROWED) and _package(_raised_in(error)) in _PACKAGES


def _package(module: str) -> str:
    return module.partition(".")[0]


def _raised_in(error: BaseException) -> str:
    """Return the module of the innermost frame; compiled modules of Cython have frames too."""
    trace, module = error.__traceback__, ""
    while trace is not None:
        module = str(trace.tb_frame.f_globals.get("__name__", ""))
        trace = trace.tb_next
    return module
