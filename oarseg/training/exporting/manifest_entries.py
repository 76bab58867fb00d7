"""Describe trained models as a manifest: of one, of a cascade, of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version

from oarseg import __version__
from oarseg.model import agreement
from oarseg.model.entries.cross_validation import CrossValidation
from oarseg.model.entries.networks import ModelFile, Parity, Stage
from oarseg.model.manifest import (
    FORMAT_VERSION,
    Manifest,
    RunDefaults,
    describe_member,
    describe_network,
)
from oarseg.training.exporting.trained_model import TrainedModel

RUNTIMES = ("onnxruntime", "openvino")
NOT_STATED = "not stated"
OF_SEVERAL = "none: of several configurations whose probabilities are averaged"


@dataclass(frozen=True)
class Card:
    """Description of a model in words, for the manifest.

    Attributes:
        name: start of each ONNX file's name, so that a single file can be identified.
        run: defaults of a run, for platforms that pass no options.
    """

    title: str = NOT_STATED
    warning: str = "Not validated for clinical use."
    training: str = NOT_STATED
    licence: str = NOT_STATED
    name: str = "model"
    run: RunDefaults = field(default_factory=RunDefaults)

    @property
    def left_out(self) -> tuple[str, ...]:
        """What the user did not state."""
        stated = {"title": self.title, "training": self.training, "licence": self.licence}
        return tuple(key for key, text in stated.items() if text == NOT_STATED)


def outline(model: TrainedModel, card: Card) -> Manifest:
    """Describe a model before it is written."""
    file = ModelFile(f"{card.name}_fold_0_fp32.onnx", "0" * 64, "0", "fp32")
    stage = None if model.stage is None else outline(model.stage, card)
    return with_stage(describe_manifest(model, card, [file], []), model, stage)


def describe_manifest(
    model: TrainedModel,
    card: Card,
    models: Sequence[ModelFile],
    figures: Sequence[Parity],
) -> Manifest:
    """The manifest of an export; it mirrors along the axes that every fold allows."""
    results, interface = model.results, model.interface
    settings = results.settings
    axes = set.intersection(*(set(c.mirror_axes) for c in model.checkpoints.values()))
    if settings.flat:
        axes = {axis + 1 for axis in axes}
    kept = {file.file for file in models}
    return Manifest(
        format_version=FORMAT_VERSION,
        challenge=model.challenge.name,
        title=card.title,
        warning=card.warning,
        channels=interface.channels,
        spacing_mm=settings.spacing,
        patch_size=settings.patch_size,
        transpose_forward=results.plans.transpose_forward,
        data_resampling=settings.resampling_fn_data_kwargs.recipe(),
        logits_resampling=settings.resampling_fn_probabilities_kwargs.recipe(),
        labels=interface.labels,
        regions=interface.regions,
        mirror_axes=tuple(sorted(axes)),
        models=tuple(models),
        parity=tuple(parity for parity in figures if parity.file in kept),
        training=card.training,
        licence=card.licence,
        versions={
            "oarseg": __version__,
            **{name: version(name) for name in ("nnunetv2", "torch", *RUNTIMES)},
        },
        own_challenge=agreement.own_facts(model.challenge),
        run=_run_defaults(model, card),
        conditioning=model.conditioning,
        configuration=results.configuration,
        postprocessing=model.postprocessing,
        cross_validation=model.cross_validation,
    )


def _run_defaults(model: TrainedModel, card: Card) -> RunDefaults:
    """Choose the region if the user did not: every voxel for what was trained in stock nnU-Net."""
    if card.run.region is not None or model.results.dataset.oarseg.is_there:
        return card.run
    return replace(card.run, region="all")


def with_stage(manifest: Manifest, model: TrainedModel, stage: Manifest | None) -> Manifest:
    """Complete a cascade's manifest by that of the stage before it."""
    if stage is None:
        return manifest
    results = model.results
    how = results.settings.resampling_fn_seg_kwargs.recipe()
    return replace(manifest, stage=Stage(describe_network(stage), results.hints, how))


def join_members(manifests: Sequence[Manifest]) -> Manifest:
    """Make one manifest of several configurations' own."""
    first, *others = manifests
    if not others:
        return first
    return replace(
        first,
        further=tuple(describe_member(other) for other in others),
        cross_validation=CrossValidation(OF_SEVERAL),
    )
