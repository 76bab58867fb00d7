"""A challenge made from nnU-Net's dataset.json, for a model that was trained for none.

Inputs lie as nnU-Net wants them, ``<case>_0000<ending>``, ``<case>_0001<ending>`` … in one
folder, or in the platform's sockets; the label map is ``<case><ending>``. Regions become
organs that share labels.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Final, Literal

from pydantic import ValidationError

from oarseg.challenges import catalogue
from oarseg.challenges.challenge import Challenge, DataSet, Output, Socket
from oarseg.challenges.label_table import distinct_colour
from oarseg.challenges.plain_names import distinct_names, file_names, slug_names
from oarseg.challenges.structures import Organ, Structure
from oarseg.errors import InputError
from oarseg.training.nnunet_files.dataset_file import DatasetFile, read_dataset_file
from oarseg.training.nnunet_files.json_file import invalid

log = logging.getLogger(__name__)

DATASET_NAME: Final = re.compile(r"Dataset\d{3,}_.+")
# What nnU-Net's readers and ours have in common, and what training data are then written as.
FILE_ENDINGS: Final[dict[str, Literal[".mha", ".nrrd", ".nii.gz"]]] = {
    ".mha": ".mha",
    ".nrrd": ".nrrd",
    ".nii.gz": ".nii.gz",
    ".nii": ".nii.gz",
}


def challenge_of_file(path: Path) -> Challenge:
    """Return the challenge of a ``dataset.json``; see ``noted_challenge``.

    Raises:
        InputError: the file cannot be read, or no challenge can be made of it.
    """
    return noted_challenge(read_dataset_file(path), path)


def noted_challenge(dataset: DatasetFile, path: Path) -> Challenge:
    """Return the challenge that ``oarseg prepare`` noted, or else one made of the data set.

    Raises:
        InputError: see ``challenge_from_dataset``.
    """
    record = dataset.oarseg
    if record.own_challenge is not None:
        return record.own_challenge
    if record.challenge is not None:
        return catalogue.load_challenge(record.challenge)
    return challenge_from_dataset(dataset, path)


def challenge_from_dataset(dataset: DatasetFile, path: Path) -> Challenge:
    """Make a challenge from a data set's description.

    Args:
        dataset: the content of the file.
        path: where it lies, which names the challenge, and for messages.

    Raises:
        InputError: its images are of a format that is not read, or its labels cannot be
            those of a challenge.
    """
    ending = dataset.file_ending.lower()
    if ending not in FILE_ENDINGS:
        raise InputError(
            f"{path}: file_ending: expected one of {', '.join(FILE_ENDINGS)}, found "
            f"{dataset.file_ending!a}; a model of such images cannot be used"
        )
    name = dataset_name(dataset, path)
    _warn_of_strange_paint(dataset, path)
    try:
        return Challenge(
            name=name,
            title=name,
            sockets=_sockets(dataset),
            output=Output(path="{case}" + ending),
            data_set=DataSet(ending=FILE_ENDINGS[ending], labels="map", map="label" + ending),
            structures=_structures(dataset),
            overlapping=_organs(dataset),
        )
    except ValidationError as error:
        raise invalid(path, error, inside="the challenge made of it") from error


def _warn_of_strange_paint(dataset: DatasetFile, path: Path) -> None:
    """Warn of regions that are painted with a label of others: organs are unions of labels."""
    strange = [
        f"{region.name} with {region.value}"
        for region in dataset.classes
        if dataset.has_regions and region.value not in region.members
    ]
    if strange:
        log.warning(
            "%s: regions_class_order paints %s, which is none of its labels: the label map is "
            "nnU-Net's, but masks, volumes and scores go by the labels in it",
            path,
            ", ".join(strange),
        )


def dataset_name(dataset: DatasetFile, path: Path) -> str:
    """Return the data set's name: that of its folder, or the one in its file."""
    parents = [parent.name for parent in path.resolve().parents]
    named = next((parent for parent in parents if DATASET_NAME.fullmatch(parent)), None)
    told = dataset.name if isinstance(dataset.name, str) and dataset.name.isprintable() else None
    return file_names([named or told or parents[0]])[0].replace("+", "_")


def channel_names(dataset: DatasetFile) -> tuple[str, ...]:
    """Return the names of the channels, each its own: nnU-Net takes two of one name."""
    return distinct_names(dataset.channels)


def _sockets(dataset: DatasetFile) -> tuple[Socket, ...]:
    names = channel_names(dataset)
    return tuple(
        Socket(
            slug=slug,
            channel=channel,
            modality=_modality(dataset.channels[number]),
            suffixes=(f"_{number:04d}",),
            reference=number == 0,
            placed="same_grid",
        )
        for number, (slug, channel) in enumerate(zip(slug_names(names), names, strict=True))
    )


def _modality(name: str) -> str:
    """Return a channel's kind of values; nnU-Net knows a CT by its name in any case."""
    return name.upper() if name.casefold() in ("ct", "mr") else name


def _structures(dataset: DatasetFile) -> tuple[Structure, ...]:
    """Make the values of the label map; regions leave them without a name of their own."""
    if dataset.has_regions:
        last = max((*dataset.values, *(dataset.regions_class_order or ())))
        named = [(value, f"label_{value}") for value in range(1, last + 1)]
    else:
        classes = dataset.classes
        names = file_names([label.name for label in classes])
        named = [
            (label.value, name)
            for label, name in zip(classes, names, strict=True)
            if label.value != 0
        ]
    return tuple(
        Structure(label=value, name=name, colour=distinct_colour(number))
        for number, (value, name) in enumerate(named)
    )


def _organs(dataset: DatasetFile) -> tuple[Organ, ...]:
    if not dataset.has_regions:
        return ()
    regions = dataset.classes
    names = file_names([region.name for region in regions])
    return tuple(
        Organ(name=name, labels=region.members, colour=distinct_colour(number))
        for number, (name, region) in enumerate(zip(names, regions, strict=True))
    )
