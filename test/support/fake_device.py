"""A GPU that is not there: CuPy's functions as far as they are used, on NumPy's arrays.

Arrays of the host and of the device do not mix, as with CuPy. Kernels run from their own source
text (``cuda_source``). What a GPU spends is counted, its memory is limited, and any call can be
made to fail as CuPy or ONNX Runtime fails; then, as after a sticky CUDA error, every call fails.
"""

from __future__ import annotations

import ctypes
import math
import sys
import weakref
from collections.abc import Callable, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from cuda_source import CudaFunction, parse_kernels
from onnxruntime.capi.onnxruntime_pybind11_state import Fail

from oarseg.inference.device.gpu import Gpu, open_gpu
from oarseg.inference.device.kernels import CONVERSIONS

REFUSAL = (
    "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a "
    "NumPy array explicitly."
)
_PARSED: dict[str, dict[str, CudaFunction]] = {}


def _foreign(name: str, module: str, base: type[Exception] = RuntimeError) -> type[Exception]:
    """A class of exceptions as another package defines it."""
    return type(name, (base,), {"__module__": module})


# Of CuPy 13 and 14, by their modules.
CUDA_RUNTIME = _foreign("CUDARuntimeError", "cupy_backends.cuda.api.runtime")
CUDA_DRIVER = _foreign("CUDADriverError", "cupy_backends.cuda.api.driver")
CUBLAS = _foreign("CUBLASError", "cupy_backends.cuda.libs.cublas")
CUDNN = _foreign("CuDNNError", "cupy_backends.cuda.libs.cudnn")
NVRTC = _foreign("NVRTCError", "cupy_backends.cuda.libs.nvrtc")
COMPILE = _foreign("CompileException", "cupy.cuda.compiler", Exception)
OUT_OF_MEMORY = _foreign("OutOfMemoryError", "cupy.cuda.memory", MemoryError)
CUPY_ERRORS = (CUDA_RUNTIME, CUDA_DRIVER, CUBLAS, CUDNN, NVRTC, COMPILE, OUT_OF_MEMORY)
STICKY = "cudaErrorIllegalAddress: an illegal memory access was encountered"


class FakeArray:
    """An array on the device."""

    def __init__(self, device: FakeDevice, host: np.ndarray[Any, Any]) -> None:
        """Wrap what stands for the device's memory."""
        self.device = device
        self.host = host
        self.shape, self.dtype, self.size, self.nbytes = (
            host.shape,
            host.dtype,
            host.size,
            host.nbytes,
        )

    @property
    def data(self) -> Any:
        """The pointer that ONNX Runtime is given."""
        return SimpleNamespace(ptr=self.host.ctypes.data)

    def __len__(self) -> int:
        return len(self.host)

    def __getitem__(self, where: Any) -> FakeArray:
        assert not isinstance(where, FakeArray)
        part = self.host[where]
        assert part.base is not None, "only views: anything else is a kernel of CuPy's own"
        return FakeArray(self.device, part)

    def view(self, kind: Any) -> FakeArray:
        """The same bytes as another type."""
        return FakeArray(self.device, self.host.view(kind))

    def reshape(self, *shape: Any) -> FakeArray:
        """The same elements in another shape."""
        part = self.host.reshape(*shape)
        assert np.shares_memory(part, self.host)
        return FakeArray(self.device, part)

    def set(self, host: np.ndarray[Any, Any]) -> None:
        """Copy from the host."""
        assert isinstance(host, np.ndarray)
        assert (host.shape, host.dtype) == (self.shape, self.dtype)
        self.device.called("upload")
        self.device.uploaded += host.nbytes
        self.host[...] = host

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError(REFUSAL)

    def __array_ufunc__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")


class FakeStream:
    """A stream: everything of the device has to be called within it."""

    def __init__(self, device: FakeDevice) -> None:
        """Make a stream that is not entered."""
        self._device = device
        self.ptr = id(self)

    def __enter__(self) -> FakeStream:
        self._device.streams.append(self)
        return self

    def __exit__(self, *_: Any) -> None:
        assert self._device.streams.pop() is self

    def synchronize(self) -> None:
        """Wait."""
        self._device.called("synchronise")


class FakeDevice(ModuleType):
    """Stands for the module CuPy, and counts.

    Attributes:
        calls: the name of each call so far: launch, upload, download, synchronise, allocate.
        uploaded, downloaded: bytes, both ways.
        held, peak: bytes of device memory, now and at most.
        memory: bytes that the device has.
        fail_at: number of the call that fails, from 1 on; None for none.
        fault: what is raised then.
    """

    def __init__(self, *, memory: int = 1 << 34, fail_at: int | None = None) -> None:
        """Make a device."""
        super().__init__("cupy")
        self.calls: list[str] = []
        self.uploaded = self.downloaded = self.held = self.peak = 0
        self.memory = memory
        self.fail_at = fail_at
        self.fault: Exception = CUDA_RUNTIME(STICKY)
        self.streams: list[FakeStream] = []
        self.options: dict[str, str] = {}
        self.pinned: list[memoryview] = []
        self.cuda = SimpleNamespace(
            runtime=SimpleNamespace(CUDARuntimeError=CUDA_RUNTIME, memGetInfo=self._free_memory),
            Stream=self._stream,
            get_current_stream=lambda: self.streams[-1],
            alloc_pinned_memory=self._pinned,
        )

    def called(self, what: str) -> None:
        """Count a call, which fails if it is its turn or a former one has failed."""
        self.calls.append(what)
        if self.fail_at is not None and len(self.calls) >= self.fail_at:
            raise Fail(f"CUDA failure 700: {STICKY}") if what in ("session", "run") else self.fault
        if what in ("launch", "upload", "download"):
            assert self.streams, f"{what} on the default stream, which nothing waits for"

    def count(self, what: str) -> int:
        """How many calls of a name there were."""
        return self.calls.count(what)

    def _free_memory(self) -> tuple[int, int]:
        self.called("memory")
        return self.memory - self.held, self.memory

    def _stream(self, *, non_blocking: bool) -> FakeStream:
        assert non_blocking
        self.called("stream")
        return FakeStream(self)

    def _pinned(self, size: int) -> memoryview:
        self.called("pin")
        return memoryview(bytearray(size))

    def _allocated(self, host: np.ndarray[Any, Any]) -> FakeArray:
        self.called("allocate")
        if self.held + host.nbytes > self.memory:
            raise OUT_OF_MEMORY(f"Out of memory allocating {host.nbytes:,} bytes")
        self.held += host.nbytes
        self.peak = max(self.peak, self.held)
        weakref.finalize(host, self._free, host.nbytes)
        return FakeArray(self, host)

    def _free(self, size: int) -> None:
        self.held -= size

    def zeros(self, shape: Any, dtype: Any) -> FakeArray:
        """Allocate zeros."""
        return self._allocated(np.zeros(shape, dtype))

    def empty(self, shape: Any, dtype: Any) -> FakeArray:
        """Allocate; what is in it shows if it is used."""
        size = math.prod(shape) if isinstance(shape, Sequence) else shape
        garbage = np.full(size * np.dtype(dtype).itemsize, 0xFF, np.uint8)
        return self._allocated(garbage.view(dtype).reshape(shape).copy())

    def asarray(self, host: np.ndarray[Any, Any]) -> FakeArray:
        """Allocate and upload."""
        assert isinstance(host, np.ndarray)
        made = self._allocated(np.zeros(host.shape, host.dtype))
        made.set(np.ascontiguousarray(host))
        return made

    def asnumpy(self, array: FakeArray) -> np.ndarray[Any, Any]:
        """Wait and download."""
        assert isinstance(array, FakeArray)
        self.called("download")
        self.downloaded += array.nbytes
        return array.host.copy()

    def get_default_memory_pool(self) -> Any:
        """CuPy's pool, which holds nothing back."""
        return SimpleNamespace(free_bytes=lambda: 0)

    def RawModule(self, *, code: str) -> Any:  # noqa: N802
        """Compile."""
        self.called("compile")
        assert code.startswith(CONVERSIONS)
        text = code.removeprefix(CONVERSIONS)
        functions = _PARSED.setdefault(text, parse_kernels(text))
        return SimpleNamespace(get_function=lambda name: self._kernel(functions[name]))

    def _kernel(self, function: CudaFunction) -> Callable[..., None]:
        def launch(grid: tuple[int], block: tuple[int], arguments: Sequence[Any]) -> None:
            self.called("launch")
            for argument in arguments:
                assert not isinstance(argument, np.ndarray), "an array of the host"
            passed = [a.host if isinstance(a, FakeArray) else a for a in arguments]
            function.run(grid[0], block[0], passed)

        return launch


class FakeGpuEngine:
    """An engine of the host behind the device's arrays, as ONNX Runtime's CUDA provider."""

    def __init__(self, engine: Any, device: FakeDevice) -> None:
        """Wrap an engine."""
        self.name = engine.name
        self.answers = engine.answers
        self._engine = engine
        self._device = device
        self._logits: FakeArray | None = None

    def __call__(self, tile: FakeArray) -> FakeArray:
        """Run, and wait once, as ONNX Runtime does at the end of a run."""
        assert isinstance(tile, FakeArray)
        self._device.called("run")
        logits = self._engine(tile.host)
        self._device.called("synchronise")
        if self._logits is None:
            self._logits = self._device.zeros(logits.shape, np.float32)
        self._logits.host[...] = logits
        return self._logits

    def rest(self) -> None:
        """Free nothing."""


class FakeSession:
    """ONNX Runtime's session on the CUDA provider: the CPU's, behind addresses of the device."""

    def __init__(self, device: FakeDevice, model: Any, options: Any, providers: Any) -> None:
        """Load a model; the options of its provider are kept in ``device.options``."""
        device.called("session")
        (name, cuda), _ = providers
        assert name == "CUDAExecutionProvider"
        self._options = device.options = dict(cuda)
        self._device = device
        self._real = _SESSION(model, options, providers=["CPUExecutionProvider"])

    def get_providers(self) -> list[str]:
        """Say that the GPU was taken."""
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def io_binding(self) -> Any:
        """Note what is bound, by name."""
        inputs: dict[str, Any] = {}
        outputs: dict[str, Any] = {}

        def bind(bound: dict[str, Any]) -> Callable[..., None]:
            def note(name: str, device: str, _: int, kind: Any, shape: Any, address: int) -> None:
                assert (device, kind) == ("cuda", np.float32)
                floats = (ctypes.c_float * math.prod(shape)).from_address(address)
                bound[name] = np.frombuffer(floats, np.float32).reshape(shape)

            return note

        return SimpleNamespace(
            inputs=inputs, outputs=outputs, bind_input=bind(inputs), bind_output=bind(outputs)
        )

    def run_with_iobinding(self, binding: Any) -> None:
        """Run, and wait for the stream once."""
        self._device.called("run")
        assert self._options["user_compute_stream"] == str(self._device.streams[-1].ptr)
        answers = self._real.run(list(binding.outputs), binding.inputs)
        self._device.called("synchronise")
        for array, answer in zip(binding.outputs.values(), answers, strict=True):
            array[...] = answer


_SESSION = onnxruntime.InferenceSession


def fake_gpu(**options: Any) -> tuple[FakeDevice, Gpu]:
    """Open a device that is not there; what that took is not counted."""
    device = FakeDevice(**options)
    gpu = open_gpu(device)
    device.calls.clear()
    return device, gpu


def install(monkeypatch: pytest.MonkeyPatch, device: FakeDevice) -> None:
    """Let CuPy and ONNX Runtime find this device."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.setitem(sys.modules, "cupy", device)
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda model, options, providers: (
            FakeSession(device, model, options, providers)
            if len(providers) > 1
            else _SESSION(model, options, providers=providers)
        ),
    )
