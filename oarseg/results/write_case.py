"""Write a case's outputs: label file, Slicer segmentation, masks, DICOM objects and report."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from oarseg.cases.case import Case, mask_name, output_paths
from oarseg.cases.places import EARLIER, HIDDEN, IMAGES, MASKS, REPORTS, masks_path
from oarseg.challenges.challenge import Challenge, Organ
from oarseg.errors import OutputError
from oarseg.imaging.volume import Grid, Volume
from oarseg.labels.boxes import Box, enclosing_box, label_boxes
from oarseg.labels.deflate import Deflated, Zeros, deflate_array, deflate_mask, deflate_planes
from oarseg.labels.write_labels import (
    Segment,
    layers_of,
    segmentation_fields,
    write_channels,
    write_label_file,
    write_nrrd,
)
from oarseg.results import staging
from oarseg.results.dicom.write_objects import DicomRequest, write_objects
from oarseg.results.folder import (
    EntryKind,
    entry_kind,
    explained_refusal,
    list_folder,
    remove_empty_folder,
    remove_entry,
    write_new_text,
)

# Compression releases the interpreter's lock; more threads than this wait for the disk.
THREADS = 2


def check_output(output: Path) -> None:
    """Make sure, before any work, that the output folder exists and is writable.

    Raises:
        OutputError: it cannot be made, a file in it cannot be written, or a link lies where
            outputs go.
    """
    probe = Path(HIDDEN, "probe")
    with explained_refusal(output):
        output.mkdir(parents=True, exist_ok=True)
        for folder in (IMAGES, MASKS, REPORTS, EARLIER):
            list_folder(output, Path(folder))
        remove_entry(output, probe)
        write_new_text(output, probe, "\0")
        remove_entry(output, probe)
        remove_empty_folder(output, probe.parent)


def check_places(output: Path, case: Case, challenge: Challenge) -> None:
    """Make sure, before a case is computed, that its outputs can be put in place.

    Raises:
        OutputError: something else lies there, or a link on the way.
    """
    expected: dict[Path, EntryKind] = dict.fromkeys(output_paths(case, challenge), "file")
    expected[masks_path(case.name)] = "folder"
    with explained_refusal(output):
        for path, kind in expected.items():
            found = entry_kind(output, path)
            if found not in (kind, "none", "link"):
                raise OutputError(
                    f"{output / path}: expected a {kind} of this case or nothing, found a "
                    f"{found}; move it away, or pass another --output"
                )


@dataclass(frozen=True)
class StagedOutputs:
    """A case's label file, segmentation and masks, written but not yet in place.

    Attributes:
        case: the case's name.
        stage: the folder that holds them until then.
        files: where each of them goes, relative to the output folder; the label file first.
        report_file: the report's path.
        placed: files and folders to rename into place, in this order.
    """

    case: str
    stage: staging.CaseStage
    files: tuple[Path, ...]
    report_file: Path
    placed: tuple[Path, ...]

    def commit(self, report: Mapping[str, Any]) -> tuple[Path, ...]:
        """Write the report and rename everything into place, all or nothing.

        Returns:
            The files in place, the challenge's label file first, the report last.

        Raises:
            OutputError: a file cannot be written or renamed; all is as it was.
        """
        output = self.stage.output
        with explained_refusal(output):
            self.stage.write_text(self.report_file, json.dumps(report, indent=1) + "\n")
            self.stage.commit(self.placed)
            staging.remove_aside(output, self.case)
        return tuple(output / file for file in (*self.files, self.report_file))


@contextmanager
def stage_outputs(
    output: Path,
    *,
    case: Case,
    challenge: Challenge,
    labels: Volume,
    dicom: DicomRequest | None = None,
    beside: Callable[[Path, Grid], Sequence[str]] | None = None,
) -> Iterator[StagedOutputs]:
    """Write a case's label file, Slicer segmentation, masks and DICOM objects to a stage.

    The report, written later, can thus give the time that this took. Outputs that are not
    committed are removed.

    Args:
        output: the output folder.
        case: names the files.
        challenge: names folder, structures and codes.
        labels: label map on the reference image's grid, uint8.
        dicom: the DICOM objects to write beside the masks.
        beside: writes more files into the masks' folder, and returns their names.

    Raises:
        OutputError: disk full, read-only, or whatever the system says; nothing new is
            left in ``output``.
        ValueError: labels that the challenge does not have, or not uint8.
    """
    _check_labels(labels, challenge)
    whole, masks, report_file, label_file = output_paths(case, challenge)
    with explained_refusal(output):
        output.mkdir(parents=True, exist_ok=True)
    with explained_refusal(output), staging.stage_case(output, case.name) as stage:
        for file in (label_file, whole, masks / "mask", report_file):
            (stage.new / file).parent.mkdir(parents=True, exist_ok=True)
        labels = labels.with_array(np.ascontiguousarray(labels.array))
        boxes = _organ_boxes(labels, challenge)
        folder = stage.new / masks
        names = _write_labels(
            labels, challenge, boxes, stage.new / label_file, stage.new / whole, folder
        )
        if dicom is not None:
            names += write_objects(
                folder,
                case.name,
                labels=labels.array,
                organs=challenge.organs,
                boxes=boxes,
                request=dicom,
            )
        if beside is not None:
            names += beside(folder, labels.grid)
        yield StagedOutputs(
            case.name,
            stage,
            files=(label_file, whole, *(masks / name for name in names)),
            report_file=report_file,
            placed=(whole, masks, report_file, label_file),
        )


def write_case(
    output: Path,
    *,
    case: Case,
    challenge: Challenge,
    labels: Volume,
    report: Mapping[str, Any],
) -> tuple[Path, ...]:
    """Write all outputs of a case at once: label file, Slicer segmentation, masks and report.

    Args:
        output: the output folder.
        case: names the files.
        challenge: names folder, structures and codes.
        labels: label map on the reference image's grid, uint8.
        report: JSON that lies beside the masks.

    Returns:
        The files in place, the challenge's label file first.

    Raises:
        OutputError: disk full, read-only, or whatever the system says; nothing new is
            left in ``output``.
        ValueError: labels that the challenge does not have, or not uint8.
    """
    with stage_outputs(output, case=case, challenge=challenge, labels=labels) as staged:
        return staged.commit(report)


def _check_labels(labels: Volume, challenge: Challenge) -> None:
    count = len(challenge.structures)
    if labels.array.dtype != np.uint8 or int(labels.array.max()) > count:
        raise ValueError(
            f"expected uint8 labels 0–{count}, found {labels.array.dtype} "
            f"up to {labels.array.max()}"
        )


def _organ_boxes(labels: Volume, challenge: Challenge) -> list[Box | None]:
    by_label = label_boxes(labels.array, len(challenge.structures))
    return [
        enclosing_box(by_label[label - 1] for label in organ.labels) for organ in challenge.organs
    ]


def _write_labels(
    labels: Volume,
    challenge: Challenge,
    boxes: Sequence[Box | None],
    label_file: Path,
    whole: Path,
    masks: Path,
) -> list[str]:
    """Write the label file, the segmentation and the masks; returns the masks' names."""
    organs = challenge.organs
    zeros = Zeros(labels.array.shape[2])
    with ThreadPoolExecutor(THREADS) as pool:

        def compressed(organ: Organ, box: Box | None) -> Deflated:
            return deflate_mask(labels.array, organ.labels, box=box, zeros=zeros)

        bodies = list(pool.map(compressed, organs, boxes))
        body = deflate_array(labels.array, pool)
        if challenge.output.form == "channels":
            frameless = challenge.output.identity_frame
            write_channels(label_file, labels.grid, bodies, identity_frame=frameless)
        else:
            write_label_file(label_file, labels, body)
        if challenge.overlapping:
            _write_layers(whole, labels, organs, boxes, pool)
        else:
            segments = [
                Segment(o, b, value=o.labels[0]) for o, b in zip(organs, boxes, strict=True)
            ]
            write_nrrd(whole, labels.grid, body, segmentation_fields(segments))
        return _write_masks(masks, labels.grid, organs, boxes, bodies, pool)


def _write_layers(
    path: Path,
    labels: Volume,
    organs: Sequence[Organ],
    boxes: Sequence[Box | None],
    pool: Executor,
) -> None:
    """Write overlapping organs as one Slicer segmentation of a few layers, plane by plane."""
    layers = layers_of(organs)
    segments = [
        Segment(organ, box, number, layer)
        for number, (organ, box, layer) in enumerate(zip(organs, boxes, layers, strict=True), 1)
    ]
    table = np.zeros((256, max(layers) + 1), np.uint8)
    for organ, segment in zip(organs, segments, strict=True):
        table[list(organ.labels), segment.layer] = segment.value
    # The layers are the fastest axis: each voxel's values lie together.
    body = deflate_planes(len(labels.array), lambda z: table[labels.array[z]], pool)
    fields = segmentation_fields(segments)
    write_nrrd(path, labels.grid, body, fields, layers=table.shape[1])


def _write_masks(
    folder: Path,
    grid: Grid,
    organs: Sequence[Organ],
    boxes: Sequence[Box | None],
    bodies: Sequence[Deflated],
    pool: Executor,
) -> list[str]:
    def write(organ: Organ, box: Box | None, body: Deflated) -> str:
        name = mask_name(folder.name, organ.name)
        write_nrrd(folder / name, grid, body, segmentation_fields([Segment(organ, box)]))
        return name

    return list(pool.map(write, organs, boxes, bodies))
