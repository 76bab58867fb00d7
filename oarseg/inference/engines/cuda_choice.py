"""Chooses the arithmetic of an ensemble on a CUDA GPU, by what the export found of it there.

Half precision is taken as nnU-Net's autocast takes it, with the normalisations in half precision
too (``model.lean``). In float32, TF32 counts as an arithmetic of its own. What no export has run on
a GPU is compared with float32 on tiles of the first case (``workflows.computation.effort``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from oarseg.inference.engines.cuda_options import TF32, asked_options
from oarseg.model.entries.networks import Arithmetic, Precision
from oarseg.model.manifest import Exactness, Manifest

# Half precision and TF32 are used on a GPU if they agree with torch's float32 at least this well.
F16_MIN_AGREEMENT, F16_MIN_DICE = 0.99, 0.98
TF32_MIN_AGREEMENT, TF32_MIN_DICE = 0.999, 0.995
_BARS: Final[dict[Arithmetic, tuple[float, float]]] = {
    "f16": (F16_MIN_AGREEMENT, F16_MIN_DICE),
    "tf32": (TF32_MIN_AGREEMENT, TF32_MIN_DICE),
}
# EXHAUSTIVE asks cuDNN's heuristics in its mode B; DEFAULT is the slow way out.
_DEFAULTS: Final = {"cudnn_conv_algo_search": "EXHAUSTIVE"}


@dataclass(frozen=True)
class CudaForm:
    """How networks are run on a GPU.

    Attributes:
        precision: of the files.
        lean: normalise in half precision too.
        options: of the provider; ``use_tf32`` is always among them.
    """

    precision: Precision
    lean: bool
    options: Mapping[str, str]

    @property
    def arithmetic(self) -> Literal["float16", "tf32", "float32"]:
        """The arithmetic, for the report."""
        if self.precision == "fp16":
            return "float16"
        return "tf32" if self.options[TF32] == "1" else "float32"

    @property
    def text(self) -> str:
        """The form in words, for the report."""
        if self.precision == "fp32":
            return f"fp32, TF32 {'on' if self.arithmetic == 'tf32' else 'off'}"
        return f"fp16, normalised in {'half precision' if self.lean else 'float32'}"


def cuda_settings(*, tf32: bool) -> dict[str, str]:
    """Return the options of the provider, those of the environment first.

    Half precision wants TF32 as well: without it, ONNX Runtime also leaves out the tensor cores'
    plans for half precision.

    Raises:
        InputError: the environment's options are broken.
    """
    return {**_DEFAULTS, TF32: str(int(tf32)), **asked_options()}


def choose_form(manifest: Manifest, exactness: Exactness) -> CudaForm:
    """Choose the files and the provider's options.

    Args:
        manifest: the model.
        exactness: ``fast`` allows TF32 where there is no file in half precision.

    Raises:
        InputError: the environment's options are broken.
    """
    has = {model.precision for model in manifest.models}
    if "fp16" in has and not ("fp32" in has and _loses(manifest, "f16", "cuda")):
        lean = not _loses(manifest, "f16", "onnxruntime", "cuda")
        return CudaForm("fp16", lean, cuda_settings(tf32=True))
    tf32 = exactness == "fast" and not _loses(manifest, "tf32", "cuda")
    return CudaForm("fp32", False, cuda_settings(tf32=tf32))


def reference_form(manifest: Manifest) -> CudaForm | None:
    """Return the form that others are judged by: float32 without TF32; None without such files."""
    if all(model.precision == "fp16" for model in manifest.models):
        return None
    return CudaForm("fp32", False, {**cuda_settings(tf32=False), TF32: "0"})


def is_measured(manifest: Manifest, form: CudaForm) -> bool:
    """Tell whether the export ran every file of a form on a GPU, or there is no need to."""
    if form.arithmetic == "float32":
        return True
    wanted: Arithmetic = "f16" if form.arithmetic == "float16" else "tf32"
    files = {model.file for model in manifest.models if model.precision == form.precision}
    return files <= {
        p.file for p in manifest.parity if (p.runtime, p.arithmetic) == ("cuda", wanted)
    }


def _loses(manifest: Manifest, arithmetic: Arithmetic, *runtimes: str) -> bool:
    """Tell whether the export found a file below an arithmetic's bar."""
    agreement, dice = _BARS[arithmetic]
    return any(
        p.argmax_agreement < agreement or p.min_dice < dice
        for p in manifest.parity
        if p.arithmetic == arithmetic and p.runtime in runtimes
    )
