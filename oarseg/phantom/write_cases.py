"""Write phantoms as their challenge publishes its cases, or as the platform provides them.

A case's number is its seed, so cases that several calls write into one folder never
clash. ``<case>_truth.json`` holds what is known of a case, ``<case>_ct_to_mr.tfm`` the
transform if the challenge has an MR.

Data set, a folder each case, as the challenge's ``[data_set]`` says::

    case_07/case_07_IMG_CT.nrrd  case_07_IMG_MR_T1.nrrd  case_07_OAR_<organ>.seg.nrrd …
    segrap_0007/image.nii.gz  image_contrast.nii.gz  Brain.nii.gz …
    7/data.nii.gz  label.nii.gz

Platform::

    images/ct/case_07_CT.mha  images/t1-mri/case_07_MR_T1.mha
    truth/case_07/label.nrrd

A mask of zeros says that the organ is absent, no mask that nobody has looked; where a
table tells which organs are present, absent ones have no mask. Tables at the root are
rebuilt from the truth files below it, so they always list every case.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import find_objects

from oarseg.challenges.catalogue import DEFAULT_CHALLENGE, load_challenge
from oarseg.challenges.challenge import Challenge, Organ, Socket
from oarseg.errors import InputError, OutputError
from oarseg.imaging.volume import Volume, set_geometry
from oarseg.phantom.case import Phantom, make_phantom
from oarseg.phantom.spec import PhantomSpec
from oarseg.system.process_pool import run_in_processes

Layout = Literal["dataset", "platform"]


@dataclass(frozen=True)
class PhantomJob:
    """One case to write; ``share`` is the fraction of its organs that are labelled."""

    out: Path
    spec: PhantomSpec
    layout: Layout
    challenge: Challenge
    share: float = 1.0

    @property
    def name(self) -> str:
        """The case's name."""
        digits = self.challenge.data_set.digits
        return f"{self.challenge.case_prefix}{self.spec.seed:0{digits}d}"


def write_cases(
    out: Path,
    *,
    seeds: Sequence[int],
    size: str = "small",
    layout: Layout = "dataset",
    challenge: Challenge | None = None,
    share: float = 1.0,
    neck_flexion_deg: float = 0.0,
    with_mr: bool = True,
    randomise: int = 0,
    workers: int = 1,
    progress: Callable[[str], None] | None = None,
) -> list[Path]:
    """Make one case per seed and write it below ``out``.

    Args:
        out: the data set's root, made if need be.
        seeds: each is a case's number, too.
        size: one of ``spec.CT_SIZES``.
        layout: "dataset" or "platform".
        challenge: whose images and labels to make; None for HaN-Seg's.
        share: fraction of the organs that are labelled in a case, drawn for each case;
            for data sets of masks without a table of the organs that are present.
        neck_flexion_deg: neck flexion added between CT and MR.
        with_mr: whether to write MRs.
        randomise: level of randomisation, one of ``spec.RANDOMISE_LEVELS``.
        workers: processes; each makes one case at a time.
        progress: called with one line for each case written.

    Returns:
        The folders that hold each case's truth, in the order of ``seeds``.

    Raises:
        InputError: an unknown size or layout, a bad or repeated seed, an organ or an
            image that phantoms do not know.
        OutputError: the folder cannot be written.
    """
    if layout not in ("dataset", "platform"):
        raise InputError(f"layout {layout!r}: expected dataset or platform")
    if len(set(seeds)) != len(seeds):
        raise InputError("seeds: each may be given once, as it is the case's number")
    if not 0.0 < share <= 1.0:
        raise InputError(f"share {share:g}: expected more than 0 and at most 1")
    challenge = challenge or load_challenge(DEFAULT_CHALLENGE)
    specs = [
        PhantomSpec(seed, size, neck_flexion_deg, with_mr, randomise=randomise) for seed in seeds
    ]
    try:
        out.mkdir(parents=True, exist_ok=True)
        jobs = [PhantomJob(out, spec, layout, challenge, share) for spec in specs]
        written = _run(jobs, workers, progress or (lambda _line: None))
        if layout == "dataset":
            write_tables(out, challenge)
    except OSError as error:
        raise OutputError(f"{out}: expected a writable folder: {error}") from error
    return written


def _run(jobs: list[PhantomJob], workers: int, progress: Callable[[str], None]) -> list[Path]:
    if workers <= 1 or len(jobs) <= 1:
        folders = []
        for job in jobs:
            folders.append(write_phantom(job))
            progress(f"{job.name} written")
        return folders
    written = {}
    for job, future in run_in_processes(write_phantom, jobs, workers, keep_killed=True):
        try:
            written[job.name] = future.result()
        except BrokenProcessPool as error:
            raise OutputError(
                f"{job.name}: its process was killed, as happens where memory runs out"
            ) from error
        progress(f"{job.name} written")
    return [written[job.name] for job in jobs]


def write_phantom(job: PhantomJob) -> Path:
    """Make and write one case; return the folder of its truth.

    The truth is written last and marks a complete case.
    """
    phantom = make_phantom(job.spec, job.challenge)
    if job.layout == "platform":
        folder = _write_platform(job, phantom)
    else:
        folder = _write_data_set(job, phantom)
    if any(socket.modality == "MR" for socket in job.challenge.sockets):
        phantom.truth.ct_to_mr.write(folder / f"{job.name}_ct_to_mr.tfm")
    # Matrices by rows; points x y z in mm, LPS.
    text = json.dumps({"case": job.name, **asdict(phantom.truth)}, indent=1)
    (folder / f"{job.name}_truth.json").write_text(text + "\n", encoding="utf-8")
    return folder


def _write_platform(job: PhantomJob, phantom: Phantom) -> Path:
    for socket in job.challenge.sockets:
        if socket.channel in phantom.images:
            folder = job.out / "images" / socket.slug
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{job.name}{_platform_suffix(socket)}.mha"
            write_volume(phantom.images[socket.channel], path)
    truth = job.out / "truth" / job.name
    truth.mkdir(parents=True, exist_ok=True)
    write_volume(phantom.labels, truth / "label.nrrd")
    return truth


def _platform_suffix(socket: Socket) -> str:
    """The suffix that is the channel's name, or else the first."""
    own = f"_{socket.channel}"
    return own if own in socket.suffixes else next(iter(socket.suffixes), own)


def _write_data_set(job: PhantomJob, phantom: Phantom) -> Path:
    folder = job.out / job.name
    folder.mkdir(parents=True, exist_ok=True)
    data_set = job.challenge.data_set
    for socket in job.challenge.sockets:
        if socket.channel in phantom.images:
            suffix = next(iter(socket.suffixes), f"_{socket.channel}")
            stem = socket.file or job.name + suffix
            write_volume(phantom.images[socket.channel], folder / f"{stem}{data_set.ending}")
    if data_set.labels == "map":
        write_volume(phantom.labels, folder / data_set.map)
    else:
        _write_masks(job, phantom, folder)
    return folder


def _write_masks(job: PhantomJob, phantom: Phantom, folder: Path) -> None:
    """Write the masks of the organs that are labelled, and remove any others."""
    data_set = job.challenge.data_set
    written = _labelled_organs(job)
    if data_set.presence or data_set.missing_mask == "absent":
        written = [organ for organ in written if phantom.truth.presence[organ.name] > 0]
    boxes = find_objects(phantom.labels.array)
    for organ in job.challenge.organs:
        name = data_set.mask.replace("{case}", job.name).replace("{structure}", organ.name)
        if organ not in written:
            (folder / name).unlink(missing_ok=True)
            continue
        inside = np.zeros(256, np.uint8)
        inside[list(organ.labels)] = 1
        mask = inside[phantom.labels.array]
        own = [boxes[k - 1] for k in organ.labels if k <= len(boxes) and boxes[k - 1]]
        fields = _slicer_fields(organ, mask.shape, own) if name.endswith(".seg.nrrd") else {}
        write_volume(phantom.labels.with_array(mask), folder / name, fields)


def _labelled_organs(job: PhantomJob) -> list[Organ]:
    """Draw the organs that are labelled in a case, at least one."""
    organs = list(job.challenge.organs)
    if job.share >= 1.0 or job.challenge.data_set.presence:
        return organs
    rng = np.random.default_rng(np.random.SeedSequence([job.spec.seed, 61]))
    chosen = rng.random(len(organs)) < job.share
    chosen[int(rng.integers(len(organs)))] = True
    return [organ for organ, kept in zip(organs, chosen, strict=True) if kept]


def _slicer_fields(
    organ: Organ, shape: Sequence[int], boxes: Sequence[tuple[slice, ...]]
) -> dict[str, str]:
    """Return the NRRD fields by which 3D Slicer opens a mask as a segmentation.

    Args:
        organ: the segment.
        shape: voxels (z, y, x).
        boxes: bounding boxes (z, y, x) of the organ's labels; none if it is absent.
    """
    red, green, blue = (value / 255 for value in organ.colour)
    whole = " ".join(f"0 {count - 1}" for count in reversed(shape))
    sides = list(zip(*boxes, strict=True)) or [(slice(0, 0),)] * 3
    ends = ((min(s.start for s in side), max(s.stop for s in side) - 1) for side in sides[::-1])
    return {
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_MasterRepresentation": "Binary labelmap",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
        "Segment0_ID": organ.name,
        "Segment0_Name": organ.name,
        "Segment0_NameAutoGenerated": "0",
        "Segment0_Color": f"{red:.6g} {green:.6g} {blue:.6g}",
        "Segment0_ColorAutoGenerated": "0",
        "Segment0_LabelValue": "1",
        "Segment0_Layer": "0",
        "Segment0_Extent": " ".join(f"{first} {last}" for first, last in ends),
        "Segment0_Tags": f"Segmentation.ReferenceExtent:{whole}|",
    }


def write_volume(volume: Volume, path: Path, fields: dict[str, str] | None = None) -> None:
    """Write a volume compressed; ``fields`` are added to the header.

    Raises:
        OutputError: the file cannot be written.
    """
    image = set_geometry(sitk.GetImageFromArray(volume.array), volume.grid)
    for key, value in (fields or {}).items():
        image.SetMetaData(key, value)
    try:
        sitk.WriteImage(image, str(path), useCompression=True)
    except RuntimeError as error:
        raise OutputError(f"{path}: expected to write an image, could not: {error}") from error


def write_tables(out: Path, challenge: Challenge) -> None:
    """Write the tables at the data set's root, if it has any, with a row for each case.

    The table of organs has a column for each: 1 in the field of view, 0.5 cut by its edge,
    0 absent. The table of patients has gender (M or F) and age in years.
    """
    data_set = challenge.data_set
    if not (data_set.presence or data_set.patients):
        return
    truths = out.glob(f"{challenge.case_prefix}*/*_truth.json")
    texts = (path.read_text(encoding="utf-8") for path in truths)
    records = sorted(map(json.loads, texts), key=lambda record: int(record["seed"]))
    if data_set.presence:
        names = [organ.name for organ in challenge.organs]
        rows = ([r["case"], *(f"{r['presence'][n]:g}" for n in names)] for r in records)
        _write_csv(out / data_set.presence, ["case", *names], rows)
    if data_set.patients:
        people = ([r["case"], r["sex"], r["age"]] for r in records)
        _write_csv(out / data_set.patients, ["case", "gender", "age"], people)


def _write_csv(path: Path, header: list[str], rows: Iterable[list[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
