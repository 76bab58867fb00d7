"""A case's outputs: label file, Slicer segmentation, masks and report; and ``results.json``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from oarseg.cases.case import Case, label_path
from oarseg.cases.places import MASKS, REPORTS, RESULTS, safe_relative_path
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

# Compression lets go of the interpreter's lock; more threads than this wait for the disk.
THREADS = 2


@dataclass(frozen=True)
class Record:
    """What became of one case, for ``results.json``.

    Attributes:
        case: its name.
        inputs: channel name → file; empty where the files did not make a case.
        label_file: the label file, if it was written.
        error_messages: sentences for the user; empty for a case that was written.
    """

    case: str
    inputs: Mapping[str, Path] = field(default_factory=dict)
    label_file: Path | None = None
    error_messages: tuple[str, ...] = ()


def check_output(output: Path) -> None:
    """Make sure, before any work, that the output folder exists and takes files.

    Raises:
        OutputError: it cannot be made, or a file in it cannot be written.
    """
    probe = output / f"{staging.PARTIAL}probe"
    with _explained(output):
        output.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"\0")
        probe.unlink()


@dataclass(frozen=True)
class StagedOutputs:
    """A case's label file, segmentation and masks, written but not in place yet.

    Attributes:
        case: the case's name.
        stage: the folder in which they wait.
        files: where each of them goes, relative to the output folder; the label file first.
        report_file: where the report goes.
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
        with _explained(output):
            staging.write_text(self.stage.new / self.report_file, _json(report))
            self.stage.commit(self.placed)
            staging.remove_aside(output, self.case)
        return tuple(output / file for file in (*self.files, self.report_file))


@contextmanager
def stage_outputs(
    output: Path, *, case: Case, challenge: Challenge, labels: Volume
) -> Iterator[StagedOutputs]:
    """Write a case's label file, Slicer segmentation and masks beside their places.

    The report can then tell how long that took. Nothing is left of what was not committed.

    Args:
        output: the output folder.
        case: names the files.
        challenge: names folder, structures and codes.
        labels: label map on the reference image's grid, uint8.

    Raises:
        OutputError: disk full, read-only, or whatever the system says; nothing new is
            left in ``output``.
        ValueError: labels that the challenge does not have, or not uint8.
    """
    _check_labels(labels, challenge)
    label_file = label_path(case, challenge)
    whole, masks, report_file = _places(case.name)
    with _explained(output), staging.stage_case(output, case.name) as stage:
        for file in (label_file, whole, masks / "mask", report_file):
            (stage.new / file).parent.mkdir(parents=True, exist_ok=True)
        names = _write_labels(
            labels, challenge, stage.new / label_file, stage.new / whole, stage.new / masks
        )
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


def set_case_aside(output: Path, name: str, label_file: Path | None) -> str | None:
    """Move a case's outputs of an earlier run out of the way, to ``earlier/<case>``.

    Args:
        output: the output folder.
        name: the case's.
        label_file: where its label file would be, relative to ``output``, if that is known.

    Returns:
        A sentence for the user where there are such outputs.

    Raises:
        OutputError: they cannot be moved.
    """
    whole, masks, report = _places(name)
    files = {whole, masks, report, *filter(None, (label_file, _told(output / report)))}
    with _explained(output):
        if not staging.move_aside(output, name, files):
            return None
    return f"its outputs of an earlier run are in {Path(staging.EARLIER, name)}"


def _places(name: str) -> tuple[Path, Path, Path]:
    """Segmentation, masks and report of a case."""
    return Path(MASKS, f"{name}.seg.nrrd"), Path(MASKS, name), Path(REPORTS, f"{name}.json")


def _told(report: Path) -> Path | None:
    """The label file that an earlier run's report names."""
    try:
        document = json.loads(report.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        # No earlier run, or not a report of ours: there is nothing to learn from it.
        return None
    return safe_relative_path(document.get("label_file")) if isinstance(document, dict) else None


def write_results(output: Path, records: Sequence[Record]) -> Path:
    """Replace ``results.json`` by one that tells of these cases.

    The layout is that of evalutils 0.4, with the input types of the HaN-Seg example.

    Raises:
        OutputError: the file cannot be written; an older one is left as it was.
    """
    path = output / RESULTS
    draft = output / f"{staging.PARTIAL}{RESULTS}"
    with _explained(path):
        try:
            staging.write_text(draft, _json([_entry(record) for record in records]))
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        staging.sync_folder(output)
    return path


def _entry(record: Record) -> dict[str, Any]:
    label_file = record.label_file
    return {
        "outputs": [_file("metaio_image", label_file)] if label_file else [],
        "inputs": [
            _file(f"metaio_{channel.lower().replace('_', '')}_image", path)
            for channel, path in record.inputs.items()
        ],
        "error_messages": list(record.error_messages),
    }


def _file(kind: str, path: Path) -> dict[str, str]:
    return {"type": kind, "filename": path.name}


def _check_labels(labels: Volume, challenge: Challenge) -> None:
    count = len(challenge.structures)
    if labels.array.dtype != np.uint8 or int(labels.array.max()) > count:
        raise ValueError(
            f"expected uint8 labels 0–{count}, found {labels.array.dtype} "
            f"up to {labels.array.max()}"
        )


def _write_labels(
    labels: Volume, challenge: Challenge, label_file: Path, whole: Path, masks: Path
) -> list[str]:
    """Write the label file, the segmentation and the masks; returns the masks' names."""
    labels = labels.with_array(np.ascontiguousarray(labels.array))
    organs = challenge.organs
    by_label = label_boxes(labels.array, len(challenge.structures))
    boxes = [enclosing_box(by_label[label - 1] for label in organ.labels) for organ in organs]
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
        name = f"{folder.name}_OAR_{organ.name}.seg.nrrd"
        write_nrrd(folder / name, grid, body, segmentation_fields([Segment(organ, box)]))
        return name

    return list(pool.map(write, organs, boxes, bodies))


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn the system's refusal to write into one sentence."""
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise OutputError(
            f"{path}: expected a folder that can be written, found "
            f"{error.strerror or error}{where}; free space, or pass another --output"
        ) from error


def _json(document: Any) -> str:
    return json.dumps(document, indent=1) + "\n"
