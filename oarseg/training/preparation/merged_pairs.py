"""A raw data set in which the two organs of a pair are one class, for ``merge_pairs``.

nnU-Net wants labels without gaps, so they are numbered anew; ``oarseg.classes`` in the new
``dataset.json`` says what each number stands for. Export keeps that in the manifest, and
``segment`` tells the sides by anatomy.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from oarseg.challenges.pairs import name_pairs
from oarseg.errors import InputError
from oarseg.training.nnunet_files.dataset_file import BACKGROUND, DatasetFile, read_dataset_file
from oarseg.training.nnunet_files.json_file import read_json_object
from oarseg.training.nnunet_files.own_challenge import noted_challenge
from oarseg.training.preparation.dataset_origin import write_whole_text

log = logging.getLogger(__name__)

MERGED = "merged"
# Label values of the raw data set that become one class, for each class in order.
Classes = tuple[tuple[int, ...], ...]


def merge_pairs(raw: Path, work: Path) -> Path:
    """Write the data set with merged pairs, or what is left to be written of it.

    Args:
        raw: data set that ``oarseg prepare`` wrote.
        work: the training's folder, in which the new one lies; images are linked.

    A case in which one organ of a pair is contoured and the other is not teaches neither: the
    class would be wrong on one side.

    Returns:
        The new data set's folder, of the same name.

    Raises:
        InputError: its labels are regions, organs of it overlap, it has no pair, ``prepare``
            did not write it, or the folder has another data set's images.
    """
    dataset = read_dataset_file(raw / "dataset.json")
    classes = _classes(raw, dataset)
    document = _merged_document(raw, dataset, classes)
    out = work / MERGED / raw.name
    (out / "labelsTr").mkdir(parents=True, exist_ok=True)
    _link_images(raw, out)
    for label in sorted((raw / "labelsTr").iterdir()):
        if label.name.endswith(dataset.file_ending):
            case = label.name.removesuffix(dataset.file_ending)
            table = _table(classes, document["oarseg"]["unlabelled"].get(case, {}))
            _merge_file(label, out / "labelsTr" / label.name, table)
    write_whole_text(out / "dataset.json", json.dumps(document, indent=1))
    return out


def _link_images(raw: Path, out: Path) -> None:
    """Link to the images of the raw data set.

    Raises:
        InputError: the images there are another data set's, whose merged labels lie there too.
    """
    images, wanted = out / "imagesTr", raw / "imagesTr"
    try:
        images.symlink_to(os.path.abspath(wanted), target_is_directory=True)
    except FileExistsError:
        there = images.resolve()
        if there != wanted.resolve():
            raise InputError(
                f"{images}: expected the images of {raw}, found {there} of an earlier training; "
                f"pass another --work, or remove {out} if the data set was only moved"
            ) from None


def check_work(raw: Path, preprocessed: Path) -> None:
    """Refuse a work folder whose cases were preprocessed with other classes.

    Raises:
        InputError: they were; nnU-Net would train on a mixture.
    """
    there = preprocessed / "dataset.json"
    if there.is_file() and read_dataset_file(there).labels != (
        read_dataset_file(raw / "dataset.json").labels
    ):
        raise InputError(
            f"{preprocessed}: expected cases with the labels of {raw / 'dataset.json'}, found "
            "others; pass another --work for a training with merge_pairs, or without"
        )


def _classes(raw: Path, dataset: DatasetFile) -> Classes:
    """Tell which labels make up each class, background first."""
    path = raw / "dataset.json"
    if not dataset.oarseg.is_there or dataset.oarseg.classes is not None:
        raise InputError(f"{path}: expected a data set of 'oarseg prepare' for merge_pairs")
    if dataset.has_regions or noted_challenge(dataset, path).overlapping:
        raise InputError(f"{path}: expected organs that do not overlap for merge_pairs")
    value_of = {name: value for name, value in dataset.labels.items() if isinstance(value, int)}
    partner = {value_of[left]: value_of[right] for left, right in name_pairs(value_of)}
    if not partner:
        raise InputError(f"{path}: expected a left and a right organ for merge_pairs, found none")
    rights = set(partner.values())
    return tuple(
        (value, partner[value]) if value in partner else (value,)
        for value in dataset.values
        if value not in rights
    )


def _merged_document(raw: Path, dataset: DatasetFile, classes: Classes) -> dict[str, Any]:
    document = read_json_object(raw / "dataset.json")
    names = {label.value: label.name for label in dataset.classes}
    labels = {
        "+".join(names[value] for value in values): number for number, values in enumerate(classes)
    }
    record = dict(document["oarseg"])
    record["classes"] = [list(values) for values in classes]
    listed: Mapping[str, Mapping[str, int]] = record.get("unlabelled", {})
    record["unlabelled"] = {
        case: _merged_unlabelled(case, given, classes) for case, given in listed.items()
    }
    return document | {"labels": {BACKGROUND: 0} | labels, "oarseg": record}


def _merged_unlabelled(
    case: str, given: Mapping[str, int], classes: Sequence[tuple[int, ...]]
) -> dict[str, int]:
    """Number the classes that a case cannot distinguish from others; half a pair counts as none."""
    number_of = {value: number for number, values in enumerate(classes) for value in values}
    unknown = {int(label) for label in given}
    halves = [values for values in classes if 0 < len(unknown & set(values)) < len(values)]
    if halves:
        log.warning(
            "%s: one organ of a pair is contoured and the other is not, so that the case teaches "
            "neither: labels %s",
            case,
            ", ".join("+".join(map(str, values)) for values in halves),
        )
    return {str(number_of[int(label)]): number_of[kept] for label, kept in given.items()}


def _table(classes: Sequence[tuple[int, ...]], unlabelled: Mapping[str, int]) -> NDArray[np.uint8]:
    """Make the table from a label to the class that stands for it in a case."""
    table = np.zeros(256, np.uint8)
    for number, values in enumerate(classes):
        table[list(values)] = unlabelled.get(str(number), number)
    return table


def _merge_file(source: Path, target: Path, table: NDArray[np.uint8]) -> None:
    """Write a label file with other numbers, unless a newer one is there."""
    if target.is_file() and target.stat().st_mtime_ns > source.stat().st_mtime_ns:
        return
    image = sitk.ReadImage(str(source))
    merged = sitk.GetImageFromArray(table[sitk.GetArrayFromImage(image).astype(np.uint8)])
    merged.CopyInformation(image)
    begun = target.with_name(f".begun_{target.name}")
    sitk.WriteImage(merged, str(begun), useCompression=True)
    begun.replace(target)
