"""Writing phantoms as the data set or the platform lays out its cases.

A case's number is its seed, so that cases written by several calls into one folder
never clash and every file tells its seed. The tables at the root are rebuilt from the
``_truth.json`` files found there and therefore always list every case of the folder.

Data set::

    OAR_data.csv  patient_data.csv
    case_07/case_07_IMG_CT.nrrd  case_07_IMG_MR_T1.nrrd
            case_07_OAR_<name>.seg.nrrd     one a structure, none where it is absent
            case_07_truth.json  case_07_ct_to_mr.tfm

Platform::

    images/ct/case_07_CT.mha  images/t1-mri/case_07_MR_T1.mha
    truth/case_07/label.nrrd  truth/case_07/case_07_truth.json  …_ct_to_mr.tfm
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.ndimage import find_objects

from oarseg.challenges.catalogue import load_challenge
from oarseg.challenges.challenge import Challenge, Structure
from oarseg.errors import InputError, OutputError
from oarseg.imaging.volume import Grid, Volume
from oarseg.phantom import published
from oarseg.phantom.case import Phantom, PhantomSpec, Truth, make_phantom
from oarseg.phantom.files import save
from oarseg.phantom.profile import make_case

Layout = Literal["dataset", "platform"]
HAN_SEG = "han_seg"
Extent = tuple[int, ...]


@dataclass(frozen=True)
class Job:
    """One case to write."""

    out: Path
    spec: PhantomSpec
    layout: Layout
    challenge: Challenge | None = None
    share: float = 1.0

    @property
    def name(self) -> str:
        """The case's name."""
        seed = self.spec.seed
        return (
            case_name(seed) if self.challenge is None else published.case_name(self.challenge, seed)
        )


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
    workers: int = 1,
    progress: Callable[[str], None] | None = None,
) -> list[Path]:
    """Make one case a seed and write it below ``out``.

    Args:
        out: the data set's root, made if need be.
        seeds: one case each; a case's number is its seed.
        size: a name of ``case.SIZES``.
        layout: "dataset" or "platform".
        challenge: whose images and labels to make; None for HaN-Seg's.
        share: of the organs that are labelled in a case of a data set of masks.
        neck_flexion_deg: bend of the neck added between CT and MR.
        with_mr: whether to write MRs.
        workers: processes; each makes one case at a time.
        progress: called with one line when a case is written.

    Returns:
        The folders that hold each case's truth, in the order of ``seeds``.

    Raises:
        InputError: an unknown size or layout, a bad or repeated seed.
        OutputError: the folder cannot be written.
    """
    if layout not in ("dataset", "platform"):
        raise InputError(f"layout {layout!r}: expected dataset or platform")
    if len(set(seeds)) != len(seeds):
        raise InputError("seeds: each may be given once, as it is the case's number")
    if not 0.0 < share <= 1.0:
        raise InputError(f"share {share:g}: expected more than 0 and at most 1")
    own = None if challenge is None or challenge.name == HAN_SEG else challenge
    specs = [PhantomSpec(seed, size, neck_flexion_deg, with_mr) for seed in seeds]
    try:
        out.mkdir(parents=True, exist_ok=True)
        jobs = [Job(out, spec, layout, own, share) for spec in specs]
        written = _run(jobs, workers, progress)
        if layout == "dataset" and own is None:
            write_tables(out)
    except OSError as error:
        raise OutputError(f"{out}: expected a writable folder: {error}") from error
    return written


def _run(jobs: list[Job], workers: int, progress: Callable[[str], None] | None) -> list[Path]:
    tell = progress or (lambda _line: None)
    if workers <= 1 or len(jobs) <= 1:
        folders = []
        for job in jobs:
            folders.append(write_case(job))
            tell(f"{job.name} written")
        return folders
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(write_case, job): job for job in jobs}
        for done in as_completed(running):
            done.result()
            tell(f"{running[done].name} written")
        return [future.result() for future in running]


def case_name(seed: int) -> str:
    """``case_07`` for seed 7, ``case_1234`` for seed 1234."""
    return f"{load_challenge('han_seg').case_prefix}{seed:02d}"


def write_case(job: Job) -> Path:
    """Make and write one case; the truth is written last and marks a complete case."""
    folder, truth = _write_images(job)
    if truth.mr_field_mm is not None or job.challenge is None:
        truth.ct_to_mr.write(folder / f"{job.name}_ct_to_mr.tfm")
    text = json.dumps(truth_record(job.name, truth), indent=1)
    (folder / f"{job.name}_truth.json").write_text(text + "\n", encoding="utf-8")
    return folder


def _write_images(job: Job) -> tuple[Path, Truth]:
    """Write a case's images and labels; returns the folder of its truth."""
    if job.challenge is None:
        phantom = make_phantom(job.spec)
        writer = _write_dataset if job.layout == "dataset" else _write_platform
        return writer(job.out, job.name, phantom), phantom.truth
    case = make_case(job.spec, job.challenge)
    if job.layout == "platform":
        return published.write_platform(job.out, job.challenge, case), case.truth
    folder = published.write_published(job.out, job.challenge, case, share=job.share)
    return folder, case.truth


def truth_record(name: str, truth: Truth) -> dict[str, Any]:
    """A case's truth as JSON: matrices by rows, points x y z in mm (LPS)."""
    return {"case": name, **asdict(truth)}


def _write_dataset(out: Path, name: str, phantom: Phantom) -> Path:
    folder = out / name
    folder.mkdir(exist_ok=True)
    save(phantom.ct, folder / f"{name}_IMG_CT.nrrd")
    if phantom.mr is not None:
        save(phantom.mr, folder / f"{name}_IMG_MR_T1.nrrd")
    extents = extents_of(phantom.labels)
    for structure in load_challenge("han_seg").structures:
        path = folder / f"{name}_OAR_{structure.name}.seg.nrrd"
        if phantom.truth.presence[structure.name] > 0:
            save_segment(phantom.labels, structure, extents[structure.label], path)
        else:
            path.unlink(missing_ok=True)
    return folder


def _write_platform(out: Path, name: str, phantom: Phantom) -> Path:
    challenge = load_challenge("han_seg")
    folder = out / "truth" / name
    images = out / "images"
    for channel, volume in (("CT", phantom.ct), ("MR_T1", phantom.mr)):
        if volume is not None:
            socket = images / challenge.socket(channel).slug
            socket.mkdir(parents=True, exist_ok=True)
            save(volume, socket / f"{name}_{channel}.mha")
    folder.mkdir(parents=True, exist_ok=True)
    save(phantom.labels, folder / "label.nrrd")
    return folder


def save_segment(labels: Volume, structure: Structure, extent: Extent, path: Path) -> None:
    """Write one structure as a binary mask that 3D Slicer opens as a segmentation."""
    mask = (labels.array == structure.label).view(np.uint8)
    save(labels.with_array(mask), path, _segment_fields(extent, labels.grid, structure))


def _segment_fields(extent: Extent, grid: Grid, structure: Structure) -> dict[str, str]:
    red, green, blue = (value / 255 for value in structure.colour)
    whole = " ".join(f"0 {count - 1}" for count in reversed(grid.shape))
    return {
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_MasterRepresentation": "Binary labelmap",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
        "Segment0_ID": structure.name,
        "Segment0_Name": structure.name,
        "Segment0_NameAutoGenerated": "0",
        "Segment0_Color": f"{red:.6g} {green:.6g} {blue:.6g}",
        "Segment0_ColorAutoGenerated": "0",
        "Segment0_LabelValue": "1",
        "Segment0_Layer": "0",
        "Segment0_Extent": " ".join(str(end) for end in extent),
        "Segment0_Tags": f"Segmentation.ReferenceExtent:{whole}|",
    }


def extents_of(labels: Volume) -> dict[int, Extent]:
    """First and last index along x, y, z of every label there is."""
    return {
        number: tuple(end for part in reversed(box) for end in (part.start, part.stop - 1))
        for number, box in enumerate(find_objects(labels.array), start=1)
        if box is not None
    }


def write_tables(out: Path) -> None:
    """Write ``OAR_data.csv`` and ``patient_data.csv`` for every case below ``out``.

    OAR_data: one row a case, one column a structure, 1 in the field, 0.5 partly in it,
    0 absent. patient_data: gender (M or F) and age in years.
    """
    records = sorted(map(_read_truth, out.glob("*/*_truth.json")), key=_number)
    names = [structure.name for structure in load_challenge("han_seg").structures]
    rows = [[r["case"], *(f"{r['presence'][n]:g}" for n in names)] for r in records]
    _write_csv(out / "OAR_data.csv", ["case", *names], rows)
    people = [[r["case"], r["sex"], str(r["age"])] for r in records]
    _write_csv(out / "patient_data.csv", ["case", "gender", "age"], people)


def _read_truth(path: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def _number(record: dict[str, Any]) -> int:
    return int(re.sub(r"\D", "", record["case"]))


def _write_csv(path: Path, header: list[str], rows: list[list[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
