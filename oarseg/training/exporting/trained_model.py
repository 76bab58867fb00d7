"""What is known of a trained model before anything of it is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from oarseg.challenges.challenge import Challenge
from oarseg.model.conditioning import Conditioning
from oarseg.model.entries.channels import Channel
from oarseg.model.entries.cross_validation import CrossValidation
from oarseg.model.manifest import KeepLargest, Label
from oarseg.training.nnunet_files.checkpoint import Checkpoint
from oarseg.training.nnunet_files.results_folder import Results


@dataclass(frozen=True)
class Interface:
    """A model's channels and labels, known before anything is exported."""

    channels: tuple[Channel, ...]
    labels: tuple[Label, ...]
    regions: bool


@dataclass(frozen=True)
class TrainedModel:
    """A results folder that can be exported.

    Attributes:
        checkpoints: one per fold, in the order of the ensemble.
        challenge: what it was trained for.
        conditioning: what was done to its training images before nnU-Net.
        stage: the stage before, of a cascade.
        postprocessing: what nnU-Net found to improve its label maps.
        cross_validation: what training left of the folds' Dice.
    """

    results: Results
    interface: Interface
    checkpoints: Mapping[str, Checkpoint]
    challenge: Challenge
    conditioning: Conditioning
    stage: TrainedModel | None = None
    postprocessing: tuple[KeepLargest, ...] = ()
    cross_validation: CrossValidation | None = None
