"""Read a results folder of nnU-Net, and refuse what cannot be exported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from oarseg.challenges.challenge import Challenge
from oarseg.errors import InputError
from oarseg.imaging.orientation import Axes
from oarseg.model import agreement
from oarseg.model.conditioning import Conditioning, prepared_conditioning
from oarseg.model.manifest import KeepLargest
from oarseg.training.exporting.channels import model_channels
from oarseg.training.exporting.manifest_entries import Card, outline
from oarseg.training.exporting.trained_model import Interface, TrainedModel
from oarseg.training.nnunet_files.checkpoint import build_network, read_checkpoint
from oarseg.training.nnunet_files.json_file import invalid, shown
from oarseg.training.nnunet_files.own_challenge import noted_challenge
from oarseg.training.nnunet_files.postprocessing import find_postprocessing, read_postprocessing
from oarseg.training.nnunet_files.results_folder import (
    Results,
    Which,
    finished_folds,
    fold_checkpoints,
    open_results,
)
from oarseg.training.validation_summaries import cross_validation_of

# nnU-Net's readers of volumes, and the axes to which they turn an image. The Nibabel ones
# turn round the order of the axes, so that all give what SimpleITK gives.
READERS: dict[str, Axes] = {
    "SimpleITKIO": "stored",
    "SimpleITKIOWithReorient": "RAS",
    "NibabelIO": "stored",
    "NibabelIOWithReorient": "RAS",
}


def read_model(
    folder: Path,
    *,
    card: Card,
    folds: Sequence[str] = (),
    checkpoint: Which = "final",
    challenge: Challenge | None = None,
    postprocessing: Path | Literal["auto", "none"] = "auto",
) -> TrainedModel:
    """Read and check everything that an export needs, before the long work.

    Raises:
        InputError: the results folder cannot be exported.
        WeightsError: the model is not one for the challenge.
    """
    results = open_results(folder)
    rules = challenge or trained_challenge(results)
    try:
        interface = Interface(
            model_channels(results, rules), results.dataset.classes, results.dataset.has_regions
        )
        agreement.check_agreement(interface, rules, source=str(folder))
        paths = fold_checkpoints(results, folds or finished_folds(results, checkpoint), checkpoint)
        checkpoints = {fold: read_checkpoint(path) for fold, path in paths.items()}
        how = _conditioning(results, rules)
        agreement.check_region(card.run.region, rules)
        stage = _read_stage(
            results, card=card, folds=tuple(paths), checkpoint=checkpoint, challenge=rules
        )
        steps = _postprocessing(results, tuple(checkpoints), postprocessing)
        known = cross_validation_of(results, rules, tuple(checkpoints), checkpoint)
        model = TrainedModel(results, interface, checkpoints, rules, how, stage, steps, known)
        outline(model, card)  # what inference would refuse
    except ValidationError as error:
        raise invalid(folder, error, inside="the model") from error
    for read in model.checkpoints.values():
        build_network(results, read)
    return model


def _read_stage(
    results: Results,
    *,
    card: Card,
    folds: Sequence[str],
    checkpoint: Which,
    challenge: Challenge,
) -> TrainedModel | None:
    """Read the stage before a cascade, with the cascade's folds as nnU-Net's instructions say."""
    folder = results.stage_folder
    if folder is None:
        return None
    if results.dataset.oarseg.classes is not None:
        # Its channels are numbered as classes, and the stage's label map as the challenge's labels.
        raise InputError(
            f"{results.folder}: expected no cascade of merged pairs; export another configuration"
        )
    if not folder.is_dir():
        raise InputError(
            f"{results.folder}: is a cascade, expected its stage before in {folder}, found none; "
            "put that results folder beside it"
        )
    before = open_results(folder)
    # Looked at before it is read, as a stage may name itself, or a cascade that names it.
    if before.stage_folder is not None or before.dataset.labels != results.dataset.labels:
        raise InputError(
            f"{folder}: expected a stage with the labels of {results.folder.name} and none before "
            "it, found another; retrain the cascade on it"
        )
    return read_model(
        folder,
        card=card,
        folds=folds,
        checkpoint=checkpoint,
        challenge=challenge,
        postprocessing="none",
    )


def _postprocessing(
    results: Results, folds: Sequence[str], chosen: Path | Literal["auto", "none"]
) -> tuple[KeepLargest, ...]:
    """Read the file that was named, or the one that lies there."""
    if chosen == "none":
        return ()
    if results.dataset.oarseg.classes is not None:
        # Of a class that holds both organs of a pair it would leave one.
        if chosen != "auto":
            raise InputError(
                f"{chosen}: expected no postprocessing for a model with merged pairs; pass "
                "--postprocessing none, and --repair components to oarseg segment"
            )
        return ()
    path = find_postprocessing(results, folds) if chosen == "auto" else chosen
    if path is None:
        return ()
    painted = {label.value for label in results.dataset.classes}
    return read_postprocessing(path, painted | set(results.dataset.values))


def trained_challenge(results: Results) -> Challenge:
    """Return the challenge that ``prepare`` noted, or else one made of ``dataset.json``.

    Raises:
        InputError: none can be made.
    """
    return noted_challenge(results.dataset, results.folder / "dataset.json")


def _conditioning(results: Results, challenge: Challenge) -> Conditioning:
    """Tell what was done to the training images: by ``prepare``, or by nnU-Net's reader."""
    if results.dataset.oarseg.is_there:
        return prepared_conditioning(challenge)
    return Conditioning(axes=_axes(results))


def _axes(results: Results) -> Axes:
    reader = results.plans.image_reader_writer
    if reader not in READERS:
        raise InputError(
            f"{results.folder / 'plans.json'}: image_reader_writer: expected one of "
            f"{', '.join(READERS)}, found {shown(reader)}; a model of such images cannot be used"
        )
    return READERS[reader]
