"""nnU-Net checkpoints → ONNX files and a manifest, each file compared with torch."""

from __future__ import annotations

import copy
import logging
import shutil
import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import torch
from pydantic import TypeAdapter

from oarseg import __version__
from oarseg.challenges.challenge import Challenge
from oarseg.errors import InputError, WeightsError
from oarseg.imaging.arrays import Image
from oarseg.inference.engines.choice import F32_MIN_AGREEMENT, F32_MIN_DICE
from oarseg.inference.engines.openvino import has_bf16
from oarseg.model import agreement
from oarseg.model.bundle import file_sha256
from oarseg.model.manifest import (
    FORMAT_VERSION,
    MANIFEST,
    Arithmetic,
    Channel,
    ChannelRecipe,
    Label,
    Manifest,
    ModelFile,
    Normalisation,
    Parity,
    Precision,
    Resampling,
    write_manifest,
)
from oarseg.training.checkpoint import (
    Checkpoint,
    Results,
    build_network,
    fold_checkpoints,
    open_results,
    read_checkpoint,
)
from oarseg.training.parity import (
    Patches,
    compare_with_torch,
    figures_text,
    network_outputs,
    smooth_noise,
)

log = logging.getLogger(__name__)

LOGITS = "logits.npy"
RUNTIMES = ("onnxruntime", "openvino")
SCHEMES = {
    "CTNormalization": "ct",
    "ZScoreNormalization": "zscore",
    "NoNormalization": "none",
    "RescaleTo01Normalization": "rescale_0_1",
    "RGBTo01Normalization": "rgb_0_1",
}


@dataclass(frozen=True)
class Bar:
    """What a precision must reach against torch in float32 to be written."""

    argmax_agreement: float
    min_dice: float


BARS: dict[Precision, Bar] = {"fp32": Bar(F32_MIN_AGREEMENT, F32_MIN_DICE), "fp16": Bar(0.99, 0.98)}


@dataclass(frozen=True)
class Interface:
    """What a model takes and gives, known before anything is exported."""

    channels: tuple[Channel, ...]
    labels: tuple[Label, ...]
    regions: bool


@dataclass(frozen=True)
class Card:
    """What the manifest says of a model in words.

    Attributes:
        name: begins the name of each ONNX file, so that a file tells what it is alone.
    """

    title: str
    warning: str
    training: str
    licence: str
    name: str = "model"


class HalfNetwork(torch.nn.Module):
    """A network in half precision with float32 input, output and normalisation.

    Instance normalisation sums squares over a whole patch, which overflows half
    precision: the cause of the all-black masks that half-precision exports give.
    """

    def __init__(self, network: torch.nn.Module) -> None:
        """Convert a copy of a network."""
        super().__init__()
        self.network = copy.deepcopy(network).half()
        for module in list(self.network.modules()):
            for name, child in module.named_children():
                if isinstance(child, torch.nn.InstanceNorm3d):
                    setattr(module, name, Float32Norm(child.float()))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits, float32."""
        logits: torch.Tensor = self.network(image.half())
        return logits.float()


class Float32Norm(torch.nn.Module):
    """A normalisation computed in float32 inside a half-precision network."""

    def __init__(self, norm: torch.nn.Module) -> None:
        """Wrap a normalisation layer."""
        super().__init__()
        self.norm = norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise in float32 and return half precision."""
        result: torch.Tensor = self.norm(x.float())
        return result.half()


def export_ensemble(
    folder: Path,
    out: Path,
    *,
    folds: Sequence[str],
    challenge: Challenge,
    card: Card,
    patches: Patches | None = None,
    precisions: Sequence[Precision] = get_args(Precision),
) -> Manifest:
    """Write a weights folder from a results folder.

    Args:
        folder: nnU-Net's ``<trainer>__<plans>__<configuration>``.
        out: the weights folder; replaced when everything succeeded.
        folds: their names, as in ``fold_<name>``.
        challenge: what the labels are for.
        card: title, warning, training data and licence in words.
        patches: network inputs to compare on; None takes smooth noise.
        precisions: those to try; one that misses its bar is left out.

    Raises:
        InputError: the results folder cannot be exported.
        WeightsError: float32 itself differs from torch, or the model is not one for the
            challenge.
    """
    results = open_results(folder)
    interface = Interface(
        _channels(results, challenge), _labels(results), results.labels.has_regions
    )
    agreement.check_agreement(interface, challenge, source=str(folder))
    checkpoints = {
        fold: read_checkpoint(path) for fold, path in fold_checkpoints(results, folds).items()
    }
    for checkpoint in checkpoints.values():
        build_network(results, checkpoint)  # one of another plan is refused before the long work
    samples = patches or smooth_noise(results)
    models: list[ModelFile] = []
    figures: list[Parity] = []
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as scratch:
        for fold, checkpoint in checkpoints.items():
            stem = Path(scratch) / f"{card.name}_fold_{fold}"
            for precision, parity in _written(results, checkpoint, stem, samples, precisions):
                file = stem.with_name(parity[0].file)
                models.append(ModelFile(file.name, file_sha256(file), fold, precision))
                figures.extend(parity)
        models = _whole_precisions(models, folds)
        axes = set.intersection(*(set(c.mirror_axes) for c in checkpoints.values()))
        manifest = describe_manifest(results, challenge, card, interface, models, figures, axes)
        write_manifest(manifest, Path(scratch))
        _install(Path(scratch), out, manifest)
    return manifest


def _written(
    results: Results,
    checkpoint: Checkpoint,
    stem: Path,
    samples: Patches,
    precisions: Sequence[Precision],
) -> Iterator[tuple[Precision, list[Parity]]]:
    """Write a fold in each precision; those that reached their bars, with their figures."""
    wanted = network_outputs(build_network(results, checkpoint), samples, stem.with_name(LOGITS))
    for precision in precisions:
        file = stem.with_name(f"{stem.name}_{precision}.onnx")
        write_onnx(build_network(results, checkpoint), file, results, precision)
        found = _compared(file, samples, wanted, precision)
        if found:
            yield precision, found


def _compared(file: Path, samples: Patches, wanted: Image, precision: Precision) -> list[Parity]:
    """A file's figures in all that may run it on this machine; none if it misses its bar."""
    found = [compare_with_torch(file, samples, wanted)]
    if not _passes(found[0], precision):
        return []
    if precision == "fp32":
        # Kept whatever they are: inference decides by them what to run the file in.
        arithmetics: tuple[Arithmetic, ...] = ("f32", "bf16") if has_bf16() else ("f32",)
        for how in arithmetics:
            found.append(
                compare_with_torch(file, samples, wanted, runtime="openvino", arithmetic=how)
            )
            log.info("%s: %s", file.name, figures_text(found[-1]))
    return found


def _passes(parity: Parity, precision: Precision) -> bool:
    bar = BARS[precision]
    good = parity.argmax_agreement >= bar.argmax_agreement and parity.min_dice >= bar.min_dice
    log.info("%s: %s%s", parity.file, figures_text(parity), "" if good else ": below its bar")
    if not good and precision == "fp32":
        raise WeightsError(f"{parity.file}: ONNX differs from torch: {figures_text(parity)}")
    return good


def _whole_precisions(models: Sequence[ModelFile], folds: Sequence[str]) -> list[ModelFile]:
    """Only precisions that every fold has; a mixed ensemble would not be one model."""
    count = {p: sum(model.precision == p for model in models) for p in get_args(Precision)}
    return [model for model in models if count[model.precision] == len(folds)]


def write_onnx(
    network: torch.nn.Module, path: Path, results: Results, precision: Precision
) -> None:
    """Export one network with a static patch of one image: ``image`` → ``logits``."""
    model = HalfNetwork(network) if precision == "fp16" else network
    shape = (1, len(results.dataset["channel_names"]), *results.settings.patch_size)
    torch.onnx.export(
        model.eval(),
        (torch.zeros(shape),),
        str(path),
        input_names=["image"],
        output_names=["logits"],
        opset_version=18,
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def describe_manifest(
    results: Results,
    challenge: Challenge,
    card: Card,
    interface: Interface,
    models: Sequence[ModelFile],
    figures: Sequence[Parity],
    mirror_axes: Collection[int],
) -> Manifest:
    """The manifest of an export; ``mirror_axes`` are those that every fold allows."""
    settings = results.settings
    kept = {model.file for model in models}
    return Manifest(
        format_version=FORMAT_VERSION,
        challenge=challenge.name,
        title=card.title,
        warning=card.warning,
        channels=interface.channels,
        spacing_mm=tuple(settings.spacing),
        patch_size=tuple(settings.patch_size),
        transpose_forward=tuple(results.plans["transpose_forward"]),
        data_resampling=_resampling(settings.configuration, "resampling_fn_data"),
        logits_resampling=_resampling(settings.configuration, "resampling_fn_probabilities"),
        labels=interface.labels,
        regions=interface.regions,
        mirror_axes=tuple(sorted(mirror_axes)),
        models=tuple(models),
        parity=tuple(parity for parity in figures if parity.file in kept),
        training=card.training,
        licence=card.licence,
        versions={
            "oarseg": __version__,
            **{name: version(name) for name in ("nnunetv2", "torch", *RUNTIMES)},
        },
        own_challenge=agreement.own_facts(challenge),
    )


def _channels(results: Results, challenge: Challenge) -> tuple[Channel, ...]:
    names = results.dataset["channel_names"]
    told = results.dataset.get("oarseg", {}).get("channels")
    recipes = TypeAdapter(tuple[ChannelRecipe, ...]).validate_python(
        told if told is not None else [{"name": s.channel} for s in challenge.sockets]
    )
    if len(recipes) != len(names):
        raise InputError(
            f"{results.folder}: the model takes {len(names)} channels, challenge "
            f"{challenge.name} has {len(recipes)} inputs"
        )
    intensities = results.plans["foreground_intensity_properties_per_channel"]
    settings = results.settings
    return tuple(
        Channel(
            recipe.name,
            _normalisation(scheme, intensities.get(str(i), {}), masked),
            recipe.optional,
            recipe.absent_value,
            recipe.standardise,
        )
        for i, (recipe, scheme, masked) in enumerate(
            zip(recipes, settings.normalization_schemes, settings.use_mask_for_norm, strict=True)
        )
    )


def _normalisation(scheme: str, properties: dict[str, float], masked: bool) -> Normalisation:
    if scheme not in SCHEMES:
        raise InputError(f"normalisation {scheme}: supported are {', '.join(SCHEMES)}")
    if scheme != "CTNormalization":
        return Normalisation(SCHEMES[scheme], use_mask=masked)  # type: ignore[arg-type]
    return Normalisation(
        "ct",
        mean=properties["mean"],
        std=properties["std"],
        lower=properties["percentile_00_5"],
        upper=properties["percentile_99_5"],
    )


def _resampling(configuration: dict[str, Any], key: str) -> Resampling:
    function, options = configuration[key], configuration[f"{key}_kwargs"]
    if function != "resample_data_or_seg_to_shape":
        raise InputError(f"plans: {key} {function}: only nnU-Net's default can be exported")
    return Resampling(
        order=options["order"],
        order_z=options["order_z"],
        force_separate_z=options["force_separate_z"],
        separate_z_threshold=options.get("separate_z_anisotropy_threshold", 3.0),
    )


def _labels(results: Results) -> tuple[Label, ...]:
    labels = results.labels
    names = results.dataset["labels"]
    if labels.has_regions:
        regions = [name for name in names if name not in ("background", "ignore")]
        return tuple(
            Label(int(value), name)
            for value, name in zip(results.dataset["regions_class_order"], regions, strict=True)
        )
    by_value = {value: name for name, value in names.items() if name != "ignore"}
    return tuple(Label(int(value), by_value[value]) for value in labels.all_labels)


def _install(scratch: Path, out: Path, manifest: Manifest) -> None:
    """Move a finished export into place and remove what an earlier one left there."""
    out.mkdir(parents=True, exist_ok=True)
    keep = {model.file for model in manifest.models}
    for old in out.glob("*.onnx"):
        old.unlink()
    for name in [*sorted(keep), MANIFEST]:
        shutil.move(scratch / name, out / name)
