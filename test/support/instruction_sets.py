"""The instruction sets that the tests run on, and the bfloat16 of CPUs that this one is not."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from numpy.typing import NDArray
from openvino import opset13 as op

# What decides how floats are summed and rounded, in the order they came to x86.
TELLING = (
    "avx",
    "f16c",
    "fma",
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "avx_vnni",
    "amx_bf16",
)
# What makes the libraries use less than the CPU has.
LIMITS = (
    "ATEN_CPU_CAPABILITY",
    "DNNL_MAX_CPU_ISA",
    "GLIBC_TUNABLES",
    "NPY_DISABLE_CPU_FEATURES",
    "ONEDNN_MAX_CPU_ISA",
    "OPENBLAS_CORETYPE",
)
CAPABILITIES = "OPTIMIZATION_CAPABILITIES"
PRECISION = "INFERENCE_PRECISION_HINT"
# x·(2¹⁶+1) − (x·(2¹⁶+1) − x) keeps the upper 8 of float32's 24 bits: bfloat16's (Veltkamp).
SPLITTER = np.float32(2**16 + 1)

_get_property, _compile = openvino.Core.get_property, openvino.Core.compile_model


def cpu_flags() -> frozenset[str]:
    """The instruction sets of the CPU, in the kernel's words."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return frozenset(next((x for x in lines if x.startswith("flags")), ":").split(":")[1].split())


@lru_cache
def bfloat16_in_hardware() -> bool:
    """Whether OpenVINO finds bfloat16 here, whatever a test pretends."""
    return "BF16" in _get_property(openvino.Core(), "CPU", CAPABILITIES)


def described() -> str:
    """One line on what the suite runs on."""
    flags = cpu_flags()
    sets = " ".join(name for name in TELLING if name in flags) or "none beyond SSE"
    how = "in hardware" if bfloat16_in_hardware() else "emulated"
    limits = [f"{name}={os.environ[name]}" for name in LIMITS if name in os.environ]
    told = f"; limited by {', '.join(limits)}" if limits else ""
    return f"instruction sets: {sets}; bfloat16 {how} where a test takes the other CPU{told}"


def pretend(monkeypatch: pytest.MonkeyPatch, *, bfloat16: bool) -> None:
    """Let OpenVINO be on a CPU with or without bfloat16, in its answers and its arithmetic.

    Where the CPU lacks it, every tensor is rounded to bfloat16 between operations, as AMX
    does: products summed in float32, stored in 16 bits.
    """

    def get_property(self: Any, device: str, name: str) -> Any:
        found = _get_property(self, device, name)
        if name != CAPABILITIES:
            return found
        return [x for x in found if x != "BF16"] + ["BF16"] * bfloat16

    def compile_model(self: Any, model: Any, device: str, config: dict[str, Any]) -> Any:
        if config.get(PRECISION) == "bf16" and not bfloat16_in_hardware():
            model, config = in_bfloat16(model), config | {PRECISION: "f32"}
        return _compile(self, model, device, config)

    monkeypatch.setattr(openvino.Core, "get_property", get_property)
    monkeypatch.setattr(openvino.Core, "compile_model", compile_model)


def in_bfloat16(model: openvino.Model) -> openvino.Model:
    """A model that rounds its weights and every operation's result to bfloat16."""
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Result":
            continue
        for output in node.outputs():
            if output.get_element_type() == openvino.Type.f32:
                _round(node, output)
    return openvino.Model(model.get_results(), model.get_parameters())


def _round(node: openvino.Node, output: Any) -> None:
    readers = list(output.get_target_inputs())
    if node.get_type_name() == "Constant":
        rounded = op.constant(to_bfloat16(node.data))
    else:
        scaled = op.multiply(output, op.constant(SPLITTER))
        rounded = op.subtract(scaled, op.subtract(scaled, output))
    for reader in readers:
        reader.replace_source_output(rounded.output(0))


def to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The nearest values of bfloat16."""
    scaled = values * SPLITTER
    return np.asarray(scaled - (scaled - values), np.float32)
