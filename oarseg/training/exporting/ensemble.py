"""Write a weights folder from results folders of nnU-Net."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from pydantic import ValidationError

from oarseg.challenges.challenge import Challenge
from oarseg.errors import InputError
from oarseg.model.bundle import file_sha256
from oarseg.model.entries.networks import ModelFile, Parity, Precision
from oarseg.model.manifest import Manifest, write_manifest
from oarseg.training.exporting.install import install_files
from oarseg.training.exporting.manifest_entries import (
    Card,
    describe_manifest,
    join_members,
    outline,
    with_stage,
)
from oarseg.training.exporting.parity import patches_from, smooth_noise
from oarseg.training.exporting.precisions import whole_precisions, write_fold
from oarseg.training.exporting.read_model import read_model
from oarseg.training.exporting.trained_model import TrainedModel
from oarseg.training.nnunet_files.json_file import invalid
from oarseg.training.nnunet_files.results_folder import Which


def export_ensemble(
    folder: Path,
    out: Path,
    *,
    card: Card,
    more: Sequence[Path] = (),
    folds: Sequence[str] = (),
    checkpoint: Which = "final",
    challenge: Challenge | None = None,
    preprocessed: Path | None = None,
    postprocessing: Path | Literal["auto", "none"] = "auto",
    precisions: Sequence[Precision] = get_args(Precision),
) -> Manifest:
    """Write a weights folder from a results folder, or from several.

    Args:
        folder: nnU-Net's ``<trainer>__<plans>__<configuration>``; of a cascade the stage before
            is taken from the folder beside it.
        out: the weights folder; replaced only once everything has succeeded.
        card: title, warning, training data and licence in words.
        more: results folders of other configurations, whose probabilities are averaged with the
            first's.
        folds: names of the folds, as in ``fold_<name>``; empty takes those that are finished.
        checkpoint: each fold's last or best.
        challenge: the challenge that the model was trained for; None takes the one that
            ``prepare`` noted, or else makes one of ``dataset.json``.
        preprocessed: cases to compare on, see ``patches_from``; None uses smooth noise.
        postprocessing: nnU-Net's ``postprocessing.json``; ``auto`` takes the one that it left in
            ``folder`` for these folds, if it is there.
        precisions: precisions to try; one below its bar is left out.

    Raises:
        InputError: a results folder cannot be exported, or they are not of one data set.
        WeightsError: float32 itself differs from torch, or the model is not one for the
            challenge.
    """
    # What was determined for one configuration is not for its average with others.
    steps = "none" if more and postprocessing == "auto" else postprocessing
    models = [
        read_model(
            each,
            folds=folds,
            checkpoint=checkpoint,
            challenge=challenge,
            card=card,
            postprocessing=steps if number == 0 else "none",
        )
        for number, each in enumerate((folder, *more))
    ]
    _check_together(models, card)
    several = len(models) > 1 or models[0].stage is not None
    if preprocessed and several:
        raise InputError(
            f"{preprocessed}: the cases of one configuration do not do for several; leave "
            "--preprocessed out to compare on noise"
        )
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as scratch:
        exporter = _Exporter(Path(scratch), card, preprocessed, precisions, several)
        manifest = join_members([exporter.manifest_of(model) for model in models])
        write_manifest(manifest, Path(scratch))
        install_files(Path(scratch), out, manifest)
    return manifest


@dataclass
class _Exporter:
    """Writes the networks of several results folders, each folder's once.

    Attributes:
        folder: to write to.
        several: there is more than one configuration.
    """

    folder: Path
    card: Card
    preprocessed: Path | None
    precisions: Sequence[Precision]
    several: bool
    done: dict[Path, Manifest] = field(default_factory=dict)

    def manifest_of(self, model: TrainedModel) -> Manifest:
        """Write a model's networks, and its stage's; return their manifest."""
        stage = None if model.stage is None else self.manifest_of(model.stage)
        source = model.results.folder.resolve()
        if source not in self.done:
            self.done[source] = self._written(model)
        return with_stage(self.done[source], model, stage)

    def _written(self, model: TrainedModel) -> Manifest:
        results = model.results
        samples = (
            patches_from(self.preprocessed, results) if self.preprocessed else smooth_noise(results)
        )
        files: list[ModelFile] = []
        figures: list[Parity] = []
        for fold, read in model.checkpoints.items():
            stem = self.folder / f"{self._name(model)}_fold_{fold}"
            for precision, parity in write_fold(results, read, stem, samples, self.precisions):
                file = stem.with_name(parity[0].file)
                files.append(ModelFile(file.name, file_sha256(file), fold, precision))
                figures.extend(parity)
        kept = whole_precisions(files, tuple(model.checkpoints))
        return describe_manifest(model, self.card, kept, figures)

    def _name(self, model: TrainedModel) -> str:
        """Begin the files' names so that those of two folders differ."""
        if not self.several:
            return self.card.name
        return f"{self.card.name}_{len(self.done) + 1}_{model.results.configuration}"


def _check_together(models: Sequence[TrainedModel], card: Card) -> None:
    """Make sure that models can be averaged, and what is made of them can be described.

    Raises:
        InputError: they are of different data sets, or a cascade's stage cannot be used.
    """
    first = models[0]
    folders = [model.results.folder.resolve() for model in models]
    again = next((folder for folder in folders if folders.count(folder) > 1), None)
    if again is not None:
        raise InputError(f"{again}: expected each model once, found it twice; name it once")
    stages = [model.stage for model in models if model.stage is not None]
    for other in [*models[1:], *stages]:
        same = (
            [c.recipe for c in other.interface.channels]
            == [c.recipe for c in first.interface.channels]
            and other.interface.labels == first.interface.labels
            and other.interface.regions == first.interface.regions
        )
        if not same:
            raise InputError(
                f"{other.results.folder}: expected the channels and labels of "
                f"{first.results.folder}, found others; only models of one data set are averaged"
            )
        if other.conditioning != first.conditioning:
            raise InputError(
                f"{other.results.folder}: expected images read as for {first.results.folder}, "
                "found another image_reader_writer in plans.json, or other preparation; train "
                "both on one data set"
            )
    try:
        join_members([outline(model, card) for model in models])
    except ValidationError as error:
        raise invalid(first.results.folder, error, inside="the model") from error
