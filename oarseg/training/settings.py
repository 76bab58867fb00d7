"""Settings of our trainer, stored in nnU-Net's plans file.

nnU-Net constructs a trainer from the plans, the fold and the dataset alone. Settings
under the key ``oarseg`` of the plans reach it on every way of starting it, resuming and
``nnUNetv2_train`` included, and are saved with each checkpoint.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from oarseg.challenges.structures import STRICT
from oarseg.errors import InputError

PLANS_KEY = "oarseg"
Probability = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, config=STRICT)
class TrainerSettings:
    """Settings of ``OarsegTrainer``; the defaults are nnU-Net's.

    Attributes:
        epochs, iterations, validation_iterations: length of the training.
        optimizer: nnU-Net's SGD, or AdamW, which gets further in short trainings.
        learning_rate: initial rate of the polynomial schedule.
        restarts: epochs at which the schedule starts again. A short training often learns
            small structures only after a restart.
        oversample_foreground: share of patches centred on a structure.
        probabilistic_oversampling: draw that share patch by patch. nnU-Net's fixed share
            is rounded to whole patches: of two patches 0.75 would be both.
        class_weight_power: cross-entropy weighs a structure by (median volume / its
            volume) to this power; 0 is nnU-Net's plain one. At about 0.5 a short training
            finds structures of a few voxels.
        mirroring: ``no_sagittal`` mirrors along every axis but left–right, since a
            mirrored left organ is a right one; ``none`` mirrors along no axis.
        augmentation: nnU-Net's own, or a lighter one for trainings on few cores.
        modality_dropout: probability that a patch loses its optional channels, so
            that one model serves cases with and without them.
        reference_dropout: probability that a patch which keeps its optional channels loses
            all the others (0, as the network sees it) instead.
        contrast_windows: probability that a channel of a patch is clipped to a drawn window
            and bent by a gamma.
        resampled_tissues: probability that a patch's labels get other means, so that the
            network does not rely on the organs' contrast.
        blurred: probability that a patch is blurred, all its channels alike.
        optional_channels: index and absent value (as the network sees it) of each.
        bfloat16_on_cpu: autocast to bfloat16 where the CPU trains and computes in it;
            elsewhere it would be emulated, many times slower.
        merge_pairs: left and right organ of a pair are one class, and ``segment`` tells the sides
            by anatomy: a quarter fewer classes, and no side to learn.
        seed: of the initial weights, of dropout and of drawn contrast, plus the fold.
        deterministic: draw every patch and its augmentation from the seed too, in one order
            and in the training's own process, so that a training can be repeated to the bit
            on the same machine with the same ``--threads``, also after it was interrupted.
            Slower where workers would augment beside it.
    """

    epochs: int = 1000
    iterations: int = 250
    validation_iterations: int = 50
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 1e-2
    restarts: tuple[int, ...] = ()
    oversample_foreground: Probability = 0.33
    probabilistic_oversampling: bool = False
    class_weight_power: Probability = 0.0
    mirroring: Literal["no_sagittal", "none"] = "no_sagittal"
    augmentation: Literal["nnunet", "light"] = "nnunet"
    modality_dropout: Probability = 0.0
    reference_dropout: Probability = 0.0
    contrast_windows: Probability = 0.0
    resampled_tissues: Probability = 0.0
    blurred: Probability = 0.0
    optional_channels: tuple[tuple[int, float], ...] = ()
    bfloat16_on_cpu: bool = False
    merge_pairs: bool = False
    seed: Annotated[int, Field(ge=0)] = 0
    deterministic: bool = False


def settings_of(plans: dict[str, Any]) -> TrainerSettings:
    """Return the settings in a plans document, or the defaults if it has none."""
    return TypeAdapter(TrainerSettings).validate_python(plans.get(PLANS_KEY, {}))


def as_document(settings: TrainerSettings) -> dict[str, Any]:
    """Convert settings to JSON values."""
    document: dict[str, Any] = TypeAdapter(TrainerSettings).dump_python(settings, mode="json")
    return document


def parse_settings(
    text: str,
    *,
    base: TrainerSettings,
    optional_channels: tuple[tuple[int, float], ...],
    epochs: int | None = None,
) -> TrainerSettings:
    """Parse settings from the command line's JSON.

    Args:
        text: a JSON object with any of the settings.
        base: values of the settings that the text does not name.
        optional_channels: the dataset's, used unless the text names some.
        epochs: overrides the number in the text.

    Raises:
        InputError: the text is not JSON, or a setting is unknown or has an invalid value.
    """
    try:
        told = json.loads(text)
        values = as_document(base) | {"optional_channels": optional_channels} | told
        if epochs is not None:
            values["epochs"] = epochs
        return TypeAdapter(TrainerSettings).validate_python(values)
    except (json.JSONDecodeError, TypeError) as error:
        raise InputError(f"--settings: expected a JSON object, found {text!r}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"--settings: {where}: {first['msg']}") from error
