"""Chooses the library that runs an ensemble: CUDA, OpenVINO or ONNX Runtime.

A file has one input ``image`` (1, channels, *patch) and one output ``logits``
(1, classes, *patch), both float32 and static, whatever its inner precision.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from oarseg.errors import ResourceError
from oarseg.inference.device.faults import device_faults
from oarseg.inference.device.gpu import Gpu
from oarseg.inference.device.hosted_engine import HostedEngine
from oarseg.inference.engines.buffers import allocate_logits, allocate_sums, allocate_tile
from oarseg.inference.engines.cuda import open_cuda
from oarseg.inference.engines.cuda_choice import (
    CudaForm,
    choose_form,
    is_measured,
    reference_form,
)
from oarseg.inference.engines.forms import Networks, separate_networks
from oarseg.inference.engines.onnx_runtime import NoCudaError, OnnxEngine
from oarseg.inference.engines.openvino import OpenVinoEngine, has_bf16, openvino_fault
from oarseg.inference.engines.openvino_sums import OpenVinoSums, graph_rounds
from oarseg.inference.engines.protocol import Engine, run_once
from oarseg.model.bundle import Bundle
from oarseg.model.entries.networks import Arithmetic, ModelFile, Precision
from oarseg.model.manifest import Exactness, Manifest
from oarseg.system.cpus import available_cpus
from oarseg.system.usage import PeakWatch, resident_mib

Device = Literal["auto", "cuda", "cpu"]
Backend = Literal["auto", "cuda", "openvino", "onnxruntime"]

# bfloat16 is used if every class has at least this Dice to float32.
BF16_MIN_DICE = 0.995
# A runtime is used if its float32 agrees with torch at least this well.
F32_MIN_AGREEMENT, F32_MIN_DICE = 0.9999, 0.999
_NAMES: dict[Arithmetic, Literal["float32", "bfloat16"]] = {"f32": "float32", "bf16": "bfloat16"}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DeviceChoice:
    """The device, library and arithmetic that run the networks, and the reason.

    Attributes:
        options: of the library, where it takes any.
    """

    device: Literal["cuda", "cpu"]
    engine: Literal["cuda", "openvino", "onnxruntime"]
    reason: str
    arithmetic: Literal["float32", "bfloat16", "float16", "tf32"] = "float32"
    options: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Engines:
    """An ensemble that is ready to run.

    Attributes:
        choice: device and library.
        networks: the folds, apart or in one graph.
        gpu: where their tiles and logits lie; None for the host.
        measured: the export compared this arithmetic with torch's; otherwise a case has to.
        before: those of the stage before, if these are a cascade.
        further: those of other configurations, whose probabilities are averaged with these.
    """

    choice: DeviceChoice
    networks: Networks
    gpu: Gpu | None = None
    measured: bool = True
    before: Engines | None = None
    further: tuple[Engines, ...] = ()

    @property
    def members(self) -> tuple[Engines, ...]:
        """Those whose probabilities are averaged, in the order of ``Manifest.members``."""
        return (replace(self, further=()), *self.further)

    @property
    def all(self) -> tuple[Engines, ...]:
        """Every configuration's, in the order of ``Manifest.networks``."""
        pairs = ((member.before, member) for member in self.members)
        return tuple(engines for pair in pairs for engines in pair if engines is not None)

    @property
    def folds(self) -> int:
        """Number of folds."""
        return self.networks.folds

    def as_measured(self) -> Engines:
        """Return the same, known to agree with float32."""
        before = None if self.before is None else self.before.as_measured()
        further = tuple(engines.as_measured() for engines in self.further)
        return replace(self, measured=True, before=before, further=further)

    def hosted(self) -> Engines:
        """Return the same with tiles and logits on the host, for where sums have to lie there."""
        if all(engines.gpu is None for engines in self.all):
            return self
        before = None if self.before is None else self.before.hosted()
        others = replace(self, before=before, further=tuple(e.hosted() for e in self.further))
        if (gpu := self.gpu) is None:
            return others

        def open_form(folds: int, mean: bool) -> list[HostedEngine]:
            return [HostedEngine(engine, gpu) for engine in self.take(folds, mean=mean)]

        return replace(others, networks=Networks(self.folds, open_form), gpu=None)

    def take(self, folds: int | None = None, *, mean: bool = False) -> tuple[Engine, ...]:
        """Return engines of the first folds, of all if None; see ``Networks.take``.

        Raises:
            DeviceError: they had to be opened in another form, and the GPU failed.
        """
        wanted = self.folds if folds is None else folds
        if self.gpu is None:
            return self.networks.take(wanted, mean=mean)
        with device_faults("when its networks were opened"):
            return self.networks.take(wanted, mean=mean)


def open_engines(
    bundle: Bundle,
    *,
    exactness: Exactness = "exact",
    device: Device = "auto",
    backend: Backend = "auto",
    threads: int = 0,
    mean: bool | None = None,
    mirroring: bool = False,
    adds: bool = True,
) -> Engines:
    """Load every fold of each of a model's configurations onto the best device available.

    Args:
        bundle: the weights.
        exactness: ``exact`` computes in float32 on any CPU; ``fast`` in bfloat16, where the
            CPU has it and the manifest does not speak against it. On a GPU both take the
            file in half precision, as nnU-Net's autocast does there.
        device: ``auto`` takes CUDA if it works, else the CPU; ``cuda`` fails if it does not
            work.
        backend: the library, for tests and comparisons; ``auto`` takes the fastest.
        threads: CPU threads; 0 takes all that this process may use.
        mean: open the form of the folds' mean first; None does so if the run is to be fast.
        mirroring: logits will be averaged over the flips that the model allows, so that networks
            cannot add them up themselves.
        adds: networks add up their tiles themselves where they can.

    Raises:
        ResourceError: ``cuda`` was requested and does not work.
        InputError: the environment's options of CUDA are broken.
        WeightsError: a file cannot be loaded or does not fit the manifest.
    """
    mean = exactness == "fast" if mean is None else mean
    threads = threads or available_cpus()
    return _open_configurations(
        bundle,
        lambda part: _open_configuration(
            part,
            exactness,
            device,
            backend,
            threads,
            mean,
            adds=adds and not (mirroring and part.manifest.mirror_axes),
        ),
    )


def _open_configurations(bundle: Bundle, open_one: Callable[[Bundle], Engines]) -> Engines:
    """Open each configuration once, also where one is a member and the stage of another."""
    opened: dict[tuple[ModelFile, ...], Engines] = {}

    def engines_of(part: Bundle) -> Engines:
        files = part.manifest.models
        if files not in opened:
            opened[files] = open_one(part)
        before = part.before
        return (
            opened[files] if before is None else replace(opened[files], before=engines_of(before))
        )

    first, *others = (engines_of(member) for member in bundle.members)
    return replace(first, further=tuple(others))


def _open_configuration(
    bundle: Bundle,
    exactness: Exactness,
    device: Device,
    backend: Backend,
    threads: int,
    mean: bool,
    *,
    adds: bool,
) -> Engines:
    """Load one configuration's folds, which add up their tiles where they can, if asked to."""
    reason = "the CPU was asked for"
    if device != "cpu" and backend in ("auto", "cuda"):
        form = choose_form(bundle.manifest, exactness)
        try:
            return _log_choice(_open_cuda(bundle, form, threads, mean=mean))
        except NoCudaError as why:
            if device == "cuda" or backend == "cuda":
                raise ResourceError(
                    f"--device {device}: expected a working CUDA GPU, found none ({why}); "
                    "pass the GPU to the container or use --device cpu"
                ) from why
            reason = f"no GPU: {why}"
    return _log_choice(_open_cpu(bundle, exactness, backend, threads, reason, mean=mean, adds=adds))


def open_reference(bundle: Bundle, *, threads: int) -> Engines:
    """Load every fold onto the GPU in float32 without TF32, which other arithmetics are held to.

    Raises:
        NoCudaError: the model has no such files, or they cannot be opened.
        WeightsError: a file does not fit the manifest.
    """

    def open_one(part: Bundle) -> Engines:
        form = reference_form(part.manifest)
        if form is None:
            raise NoCudaError("the model has no float32 files")
        return _open_cuda(part, form, threads, mean=False)

    return _open_configurations(bundle, open_one)


def _log_choice(engines: Engines) -> Engines:
    choice = engines.choice
    log.info("device %s, engine %s: %s", choice.device, choice.engine, choice.reason)
    return engines


def activation_bytes(engines: Engines, manifest: Manifest, *, mean: bool = False) -> int:
    """Measure the host memory that a network takes while it runs, in bytes.

    The first engine of each configuration is run on an empty tile. Memory that it keeps is part of
    the process's size. They take turns: the largest counts.
    """
    pairs = zip(engines.all, manifest.networks, strict=True)
    return max(_activation_bytes(part, network, mean=mean) for part, network in pairs)


def _activation_bytes(engines: Engines, manifest: Manifest, *, mean: bool) -> int:
    first, *_ = engines.take(mean=mean)
    with PeakWatch(every_s=0.001) as watch:
        if engines.gpu is None:
            run_once(first, allocate_tile(manifest))
        else:
            with engines.gpu.stream:
                run_once(first, allocate_tile(manifest, engines.gpu.xp))
    first.rest()
    return max(0, round((watch.mib - resident_mib()) * 2**20))


def _precision(bundle: Bundle, wanted: Precision) -> Precision:
    """Return ``wanted`` if the ensemble has it, else the other precision."""
    if any(model.precision == wanted for model in bundle.manifest.models):
        return wanted
    return "fp32" if wanted == "fp16" else "fp16"


def fast_arithmetic(manifest: Manifest) -> Arithmetic:
    """Choose bfloat16 if this CPU has it and no fold was found to lose by it, else float32."""
    return "bf16" if has_bf16() and not _loses_in_bf16(manifest) else "f32"


def is_measured_in_bf16(manifest: Manifest) -> bool:
    """Tell whether the export compared every fold in bfloat16, which takes a CPU that has it."""
    files = {model.file for model in manifest.models if model.precision == "fp32"}
    return bool(files) and files <= {p.file for p in manifest.parity if p.arithmetic == "bf16"}


def _loses_in_bf16(manifest: Manifest) -> bool:
    return any(p.arithmetic == "bf16" and p.min_dice < BF16_MIN_DICE for p in manifest.parity)


def openvino_answers(manifest: Manifest) -> bool:
    """Tell whether OpenVINO's float32 agrees with torch, or was not compared at export."""
    return all(
        parity.argmax_agreement >= F32_MIN_AGREEMENT and parity.min_dice >= F32_MIN_DICE
        for parity in manifest.parity
        if parity.runtime == "openvino" and parity.arithmetic == "f32"
    )


def _open_cpu(
    bundle: Bundle,
    exactness: Exactness,
    backend: Backend,
    threads: int,
    reason: str,
    *,
    mean: bool,
    adds: bool,
) -> Engines:
    paths = bundle.paths(_precision(bundle, "fp32"))
    reason = f"{reason}; {threads} thread(s)"
    against = None if backend == "openvino" else _objection_to_openvino(bundle.manifest)
    if backend in ("auto", "openvino") and against is None:
        precision = fast_arithmetic(bundle.manifest) if exactness == "fast" else "f32"
        reason = f"{reason}; {precision}"
        return _open_openvino(bundle, paths, threads, precision, reason, mean=mean, adds=adds)
    if against:
        reason += f"; {against}"
    tile, logits = allocate_tile(bundle.manifest), allocate_logits(bundle.manifest)
    folds = [OnnxEngine(path, tile, logits, threads=threads) for path in paths]
    return Engines(DeviceChoice("cpu", "onnxruntime", reason), separate_networks(folds))


def _objection_to_openvino(manifest: Manifest) -> str | None:
    """Say why OpenVINO is not used; empty if it is not installed, None if it is used."""
    if importlib.util.find_spec("openvino") is None:
        return ""
    if not openvino_answers(manifest):
        return "the export found OpenVINO to differ from torch"
    fault = openvino_fault()
    return f"OpenVINO cannot be loaded ({fault})" if fault else None


def _open_openvino(
    bundle: Bundle,
    paths: Sequence[Path],
    threads: int,
    precision: Arithmetic,
    reason: str,
    *,
    mean: bool,
    adds: bool,
) -> Engines:
    """Open the folds apart, or, where one sum of all is enough, in one graph of their mean.

    A graph of all folds apart takes as long as folds that take turns, and more memory.
    """
    open_files = _opener(bundle.manifest, threads, precision, adds=adds)

    def open_form(folds: int, mean: bool) -> list[Engine]:
        groups = [paths[:folds]] if mean else [[path] for path in paths[:folds]]
        return [open_files(files) for files in groups]

    networks = Networks(len(paths), open_form)
    networks.take(len(paths), mean=mean)
    measured = precision == "f32" or is_measured_in_bf16(bundle.manifest)
    choice = DeviceChoice("cpu", "openvino", reason, _NAMES[precision])
    return Engines(choice, networks, measured=measured)


def _opener(
    manifest: Manifest, threads: int, precision: Arithmetic, *, adds: bool
) -> Callable[[Sequence[Path]], Engine]:
    """Return what opens folds, or the mean of several, on OpenVINO with common buffers.

    Where OpenVINO rounds as nnU-Net does, the networks add up their tiles themselves if asked to.
    """
    tile, logits = allocate_tile(manifest), allocate_logits(manifest)
    if not adds or not graph_rounds(precision):
        return lambda files: OpenVinoEngine(
            files, tile, logits, threads=threads, mean=True, precision=precision
        )
    sums = allocate_sums(manifest)
    return lambda files: OpenVinoSums(
        files, tile, logits, sums, threads=threads, precision=precision
    )


def _open_cuda(bundle: Bundle, form: CudaForm, threads: int, *, mean: bool) -> Engines:
    opened = open_cuda(bundle, form, threads, mean=mean)
    choice = DeviceChoice(
        "cuda", "cuda", f"the GPU works; {form.text}", form.arithmetic, dict(form.options)
    )
    measured = is_measured(bundle.manifest, form)
    return Engines(choice, opened.networks, opened.gpu, measured)
