"""Which exceptions are a GPU's."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import onnxruntime
import pytest
from fake_device import CUPY_ERRORS
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, RuntimeException

from oarseg.errors import DeviceError, InferenceError
from oarseg.inference.device.faults import device_faults, is_device_fault
from oarseg.inference.engines.onnx_runtime import NoCudaError


def raised_in(module: str, code: str) -> Callable[[], None]:
    """A function of another package that raises."""
    there = ModuleType(module)
    exec(f"def fail():\n    {code}", there.__dict__)
    found: Callable[[], None] = there.__dict__["fail"]
    return found


def translated(fail: Callable[[], None]) -> str:
    with pytest.raises(DeviceError) as caught, device_faults("in a test"):
        fail()
    assert caught.value.__cause__ is not None
    return str(caught.value)


@pytest.mark.parametrize("kind", CUPY_ERRORS, ids=lambda kind: kind.__name__)
def test_every_exception_of_cupy_is_a_device_error(kind: type[Exception]) -> None:
    def fail() -> None:
        raise kind("status 700\nmore")

    assert translated(fail) == (
        "the GPU failed in a test: status 700; use --device cpu or another GPU"
    )


def test_a_class_derived_from_cupys_is_one_too() -> None:
    assert is_device_fault(type("Own", (CUPY_ERRORS[0],), {"__module__": "elsewhere"})())


@pytest.mark.parametrize("kind", [Fail, RuntimeException, NoCudaError])
def test_onnx_runtimes_exceptions_are_device_errors(kind: type[Exception]) -> None:
    def fail() -> None:
        raise kind("CUDNN_STATUS_EXECUTION_FAILED")

    assert "CUDNN_STATUS_EXECUTION_FAILED" in translated(fail)


@pytest.mark.parametrize(
    ("module", "code"),
    [
        # As CuPy says that a library is not there, and that page-locked memory ran out.
        (
            "cupy_backends.cuda._softlink",
            "raise RuntimeError('CuPy failed to load libnvrtc.so.12')",
        ),
        ("cupy.cuda.compiler", "raise OSError(28, 'No space left on device')"),
        ("cupy.cuda.pinned_memory", "raise MemoryError"),
        ("onnxruntime.capi.onnxruntime_inference_collection", "raise RuntimeError('EP failed')"),
    ],
)
def test_what_such_a_package_raises_of_pythons_own_is_one_too(module: str, code: str) -> None:
    assert translated(raised_in(module, code)).startswith("the GPU failed in a test: ")


@pytest.mark.parametrize(
    ("module", "code", "kind"),
    [
        ("cupy._core.core", "raise TypeError('Implicit conversion')", TypeError),
        ("oarseg.inference.streaming", "raise RuntimeError('a defect')", RuntimeError),
        ("numpy", "raise MemoryError", MemoryError),
        ("cupyish", "raise RuntimeError", RuntimeError),
    ],
)
def test_defects_and_the_hosts_memory_are_not(
    module: str, code: str, kind: type[Exception]
) -> None:
    with pytest.raises(kind) as caught, device_faults("in a test"):
        raised_in(module, code)()
    assert type(caught.value) is kind


def test_errors_of_this_program_pass_unchanged() -> None:
    with pytest.raises(InferenceError, match="^beyond half$"), device_faults("in a test"):
        raise InferenceError("beyond half")


def test_a_real_session_that_fails_is_a_device_error(tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "broken.onnx").write_bytes(b"no network")
    assert "broken.onnx" in translated(
        lambda: onnxruntime.InferenceSession(str(tmp_path / "broken.onnx"))
    )
