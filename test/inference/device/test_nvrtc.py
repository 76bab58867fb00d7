"""NVIDIA's own compiler takes the kernels; it needs no GPU."""

from __future__ import annotations

import ctypes
import importlib.util
import re
from pathlib import Path

import pytest

from oarseg.inference.device.kernels import CONVERSIONS, SOURCE

# T4, A10G, H100 and H200.
CARDS = ("75", "86", "90")
# As CuPy calls it.
OPTIONS = ("-ftz=true", "--std=c++17")


def library() -> ctypes.CDLL:
    spec = importlib.util.find_spec("nvidia.cuda_nvrtc")
    assert spec is not None
    (folder,) = spec.submodule_search_locations or ()
    (path,) = (p for p in Path(folder, "lib").glob("libnvrtc.so.*") if ".alt." not in p.name)
    return ctypes.CDLL(str(path))


def text_of(nvrtc: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> str:
    size = ctypes.c_size_t()
    assert getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size)) == 0
    buffer = ctypes.create_string_buffer(size.value)
    assert getattr(nvrtc, f"nvrtcGet{what}")(program, buffer) == 0
    return buffer.value.decode()


def compiled(source: str, card: str) -> tuple[str, str]:
    """The machine's text, empty if there is none, and what the compiler says."""
    nvrtc, program = library(), ctypes.c_void_p()
    assert not nvrtc.nvrtcCreateProgram(
        ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None
    )
    options = [option.encode() for option in (f"-arch=compute_{card}", *OPTIONS)]
    status = nvrtc.nvrtcCompileProgram(
        program, len(options), (ctypes.c_char_p * len(options))(*options)
    )
    said = text_of(nvrtc, program, "ProgramLog")
    return ("" if status else text_of(nvrtc, program, "PTX")), said


@pytest.mark.parametrize("card", CARDS)
def test_the_kernels_compile_without_a_word(card: str) -> None:
    machine, said = compiled(CONVERSIONS + SOURCE, card)
    assert said == ""
    assert re.findall(r"\.entry (\w+)", machine) == [
        "add_logits",
        "add_tile",
        "finish_plane",
        "paint_plane",
    ]


def test_no_product_is_fused_with_a_sum() -> None:
    machine, _ = compiled(CONVERSIONS + SOURCE, CARDS[0])
    operations = set(re.findall(r"\b(?:fma|mad|mul|add|div)\.[a-z.]*f(?:16|32|64)\b", machine))
    assert operations == {
        "add.rn.ftz.f32",
        "mul.rn.ftz.f32",
        "div.rn.ftz.f32",
        "add.rn.f64",
        "mul.rn.f64",
    }
    plain = SOURCE.replace("__fadd_rn(widen(sums[sum]), __fmul_rn(logit, share[voxel]))",
                           "widen(sums[sum]) + logit * share[voxel]")  # fmt: skip
    assert plain != SOURCE
    assert "fma.rn.ftz.f32" in compiled(CONVERSIONS + plain, CARDS[0])[0]


def test_a_mistake_is_seen() -> None:
    machine, said = compiled(SOURCE, CARDS[0])
    assert machine == ""
    assert 'identifier "widen" is undefined' in said
