"""Convert a published data set to a raw nnU-Net v2 dataset.

Each case becomes one image per channel (the MR registered to the CT as inference does it)
and one label map. A case is finished when its record exists; the record is written last, so
that a killed run leaves nothing that looks finished.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import SimpleITK as sitk
from pydantic import TypeAdapter, ValidationError

from oarseg import registration
from oarseg.cases.case import Case, CaseProblem
from oarseg.cases.find_cases import find_cases
from oarseg.challenges.challenge import Challenge
from oarseg.errors import InputError, OarsegError
from oarseg.imaging.bspline import read_transform
from oarseg.imaging.slabs import whole_image
from oarseg.imaging.transform import Transform
from oarseg.imaging.volume import Volume, to_sitk
from oarseg.inference.channels import build_channels, read_images
from oarseg.labels.find_labels import LabelFiles
from oarseg.model.agreement import dataset_record
from oarseg.model.entries.channels import ChannelRecipe
from oarseg.system.process_pool import run_in_processes
from oarseg.training.preparation.dataset_origin import (
    Options,
    check_options,
    check_sources,
    check_strays,
    digest_sources,
    prepare_options,
    recipe_records,
    write_whole_text,
)
from oarseg.training.preparation.label_sources import (
    find_sources,
    find_structure_sources,
    merged_classes,
    read_training_labels,
)
from oarseg.training.preparation.presence import Presence, find_contradictions, read_presence

log = logging.getLogger(__name__)

RECORDS = "oarseg_cases"
ENDING = ".nrrd"
Source = Literal["register", "files"]


@dataclass(frozen=True)
class PreparedCase:
    """The record of a prepared case.

    Attributes:
        overlap_voxels: see ``TrainingLabels``.
        missing: organs without any label information.
        registration: the verdict; None without an MR.
        contradictions: between the masks and the table of what lies in the field of view.
        unlabelled: labels that the case cannot distinguish from another one; see
            ``label_sources.merged_classes``.
        warnings: changes made, or images left out, while reading.
        sources: source file → SHA-256; see ``dataset_origin.digest_sources``.
    """

    name: str
    shape: tuple[int, int, int]
    overlap_voxels: int
    missing: tuple[str, ...]
    registration: str | None
    contradictions: tuple[str, ...] = ()
    unlabelled: dict[int, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    sources: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PreparedDataset:
    """The cases of a dataset, and those that could not be used.

    Attributes:
        cases: sorted by name.
        left_out: the other cases, each with the reason.
    """

    cases: tuple[PreparedCase, ...]
    left_out: tuple[CaseProblem, ...]


# The usual windows: 400 HU about 40, and 2000 HU about 500.
SOFT_WINDOW_HU = (-160.0, 240.0)
BONE_WINDOW_HU = (-500.0, 1500.0)


@dataclass(frozen=True)
class CaseJob:
    """The input of a worker process for one case."""

    case: Case
    labels: LabelFiles
    challenge: Challenge
    recipes: tuple[ChannelRecipe, ...]
    out: Path
    transforms: Source
    resample: bool
    presence: Presence
    labelled: Presence
    method: registration.Method = "rigid"


def windowed_recipes(challenge: Challenge) -> tuple[ChannelRecipe, ...]:
    """Define a challenge's channels with two windows of the reference CT in its place.

    Raises:
        InputError: the reference image is no CT.
    """
    socket = challenge.reference
    if socket.modality != "CT":
        raise InputError(
            f"--ct-windows: challenge {challenge.name} begins with {socket.channel}, which is no CT"
        )
    windows = tuple(
        ChannelRecipe(socket.channel, window_hu=window)
        for window in (SOFT_WINDOW_HU, BONE_WINDOW_HU)
    )
    return tuple(
        windowed
        for recipe in default_recipes(challenge)
        for windowed in (windows if recipe.name == socket.channel else (recipe,))
    )


def default_recipes(challenge: Challenge) -> tuple[ChannelRecipe, ...]:
    """Define a challenge's channels: CTs unchanged, registered MRs standardised and optional."""
    return tuple(
        ChannelRecipe(socket.channel, standardise="mean_one", optional=True)
        if socket.modality == "MR" and socket.placed == "registered"
        else ChannelRecipe(socket.channel)
        for socket in challenge.sockets
    )


def prepare_dataset(
    data: Path,
    out: Path,
    *,
    challenge: Challenge,
    labels: Path | None = None,
    labelled: Path | None = None,
    transforms: Source = "register",
    resample: bool = False,
    method: registration.Method = "rigid",
    ct_windows: bool = False,
    workers: int = 1,
    progress: Callable[[str], None] = log.info,
    warn: Callable[[str], None] = log.warning,
) -> PreparedDataset:
    """Convert a data set in the challenge's layout to a raw nnU-Net dataset.

    Args:
        data: folder with one folder per case.
        out: folder ``Dataset<nnn>_<name>``; created, or continued if it holds cases.
        challenge: names the sockets and the structures.
        labels: folder of the labels, if they do not lie beside the images.
        labelled: table (CSV) of cases and organs, 0 where nobody has contoured the organ.
        transforms: ``register`` registers each MR; ``files`` reads
            ``<case>_ct_to_mr.tfm`` beside the images (phantoms, registrations of your own).
        resample: resample images onto the reference's grid where they should share it.
        method: of ``registration.register_mr``; inference should use the same.
        ct_windows: two channels of the reference CT, windows of soft tissue and bone.
        workers: number of processes; each prepares one case at a time.
        progress: called with one line per case.
        warn: called with one line for each case that is left out.

    Raises:
        InputError: ``out`` is not named as nnU-Net wants it, holds cases of another data
            set, of other options or of files that have changed since, or no case can be
            used.
    """
    _check_name(out)
    presence = _presence(data, challenge)
    contoured = read_presence(labelled, challenge) if labelled else {}
    recipes = windowed_recipes(challenge) if ct_windows else default_recipes(challenge)
    required = frozenset(recipe.name for recipe in recipes if not recipe.optional)
    found = find_cases(data, challenge, required=required)
    sources, faults = find_structure_sources(labels or data, found.cases, challenge)
    if not sources and not faults:
        sources = find_sources(labels or data, challenge, progress=progress)
    left_out = [*found.problems, *faults]
    faulty = {fault.name for fault in faults}
    jobs: list[CaseJob] = []
    for case in found.cases:
        if case.name in faulty:
            continue
        if case.name.casefold() not in sources:
            left_out.append(CaseProblem(case.name, "found no labels of it"))
            continue
        jobs.append(
            CaseJob(
                case=case,
                labels=sources[case.name.casefold()],
                challenge=challenge,
                recipes=recipes,
                out=out,
                transforms=transforms,
                method=method,
                resample=resample,
                presence=presence.get(case.name, {}),
                labelled=contoured.get(case.name, {}),
            )
        )
    for problem in left_out:
        warn(f"{problem.name}: left out: {problem.message}")
    options = prepare_options(
        challenge, recipes, transforms=transforms, registration=method, resample=resample
    )
    done = _continue_dataset(data, out, jobs, options)
    todo = [job for job in jobs if job.case.name not in {case.name for case in done}]
    if done:
        progress(f"{len(done)} cases were finished by an earlier run")
    prepared, failed = _run_all(todo, workers=workers, progress=progress, warn=warn)
    cases = tuple(sorted((*done, *prepared), key=lambda case: case.name))
    if not cases:
        raise InputError(f"{data}: expected at least one usable case, found none")
    _write_dataset_json(out, challenge, recipes, cases=cases)
    return PreparedDataset(cases, (*left_out, *failed))


def _continue_dataset(
    data: Path, out: Path, jobs: Sequence[CaseJob], options: Options
) -> list[PreparedCase]:
    """Make the folders; return the cases that an earlier run has finished.

    Raises:
        InputError: the folder holds cases of other options, files or data sets.
    """
    for folder in ("imagesTr", "labelsTr", RECORDS):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for remnant in (out / RECORDS).glob("tmp-*"):
        remnant.unlink()
    there = _cases_there(out)
    check_options(out, options, begun=bool(there))
    check_strays(out, data, there=there, usable=[job.case.name for job in jobs])
    done = []
    for job in jobs:
        record = _read_record(job)
        if record is not None:
            check_sources(out, job.case.name, recorded=record.sources, found=_digest_sources(job))
            done.append(record)
    return done


def _cases_there(out: Path) -> set[str]:
    """The cases that a dataset has images, labels or a record of."""
    images = {path.name[: -len(f"_0000{ENDING}")] for path in (out / "imagesTr").iterdir()}
    labels = {path.name.removesuffix(ENDING) for path in (out / "labelsTr").iterdir()}
    return images | labels | {path.stem for path in (out / RECORDS).iterdir()}


def _digest_sources(job: CaseJob) -> dict[str, str]:
    """Hash what a case is made of.

    Raises:
        InputError: a file cannot be read.
    """
    names = {recipe.name for recipe in job.recipes}
    files = {
        f"{channel} {path.name}": path
        for channel, path in job.case.files.items()
        if channel in names - job.case.series.keys()
    }
    for channel in names & job.case.series.keys():
        series = job.case.series[channel]
        uids = series.sop_instance_uids
        files |= {f"{channel} {u}": p for u, p in zip(uids, series.files, strict=True)}
    files |= {f"label {path.name}": path for path in job.labels.files}
    if job.transforms == "files":
        paths = [_transform_path(job, name) for name in sorted(names & job.case.files.keys())]
        files |= {f"transform {path.name}": path for path in paths if path.is_file()}
    rows = {
        "table of what is labelled": job.labelled,
        "table of what is in the field": job.presence,
    }
    try:
        return digest_sources(files, rows)
    except OSError as error:
        raise InputError(
            f"{error.filename}: expected a readable file, found {error.strerror}; check the file"
        ) from error


def _presence(data: Path, challenge: Challenge) -> dict[str, dict[str, float]]:
    name = challenge.data_set.presence
    path = data / name if name else None
    return read_presence(path, challenge) if path is not None and path.is_file() else {}


def _check_name(out: Path) -> None:
    digits = out.name[7:10]
    if not (out.name.startswith("Dataset") and digits.isdigit() and out.name[10:11] == "_"):
        raise InputError(
            f"{out}: expected a folder named Dataset<nnn>_<name>, as nnU-Net finds it by that; "
            "for example Dataset101_HaNSeg"
        )


def _run_all(
    jobs: Sequence[CaseJob],
    *,
    workers: int,
    progress: Callable[[str], None],
    warn: Callable[[str], None],
) -> tuple[list[PreparedCase], list[CaseProblem]]:
    """Prepare cases; a failure affects its own case only."""
    done: list[PreparedCase] = []
    failed: list[CaseProblem] = []

    def finish(job: CaseJob, future: Future[PreparedCase]) -> None:
        message = _failure(job, future)
        if message is None:
            done.append(future.result())
            progress(f"{job.case.name}: {_summary(done[-1])} ({len(done)}/{len(jobs)})")
            return
        _remove_outputs(job)
        failed.append(CaseProblem(job.case.name, message))
        warn(f"{job.case.name}: left out: {message}")

    for job, future in run_in_processes(prepare_case, jobs, workers):
        finish(job, future)
    # A killed worker breaks the pool, and with it the cases that waited. Alone in a pool, a
    # case breaks only itself.
    finished = {case.name for case in done} | {problem.name for problem in failed}
    for job in jobs:
        if job.case.name not in finished:
            for _, future in run_in_processes(prepare_case, [job], 1, keep_killed=True):
                finish(job, future)
    return done, failed


def _failure(job: CaseJob, future: Future[PreparedCase]) -> str | None:
    """Say why a case was not prepared; None where it was."""
    error = future.exception()
    if error is None:
        return None
    if isinstance(error, OarsegError):
        return str(error)
    if isinstance(error, BrokenProcessPool):
        return "its process was killed, as happens where memory runs out; give it more memory"
    if isinstance(error, MemoryError):
        return "not enough memory for this case; give it more, or take fewer --workers"
    # A defect of ours must not cost the user the other cases; the traceback stays.
    log.error("%s", job.case.name, exc_info=error)
    return f"internal error ({type(error).__name__}: {error}); please report it"


def _remove_outputs(job: CaseJob) -> None:
    """Remove what there is of a case that was not finished: nnU-Net would train on it."""
    name = job.case.name
    for index in range(len(job.recipes)):
        (job.out / "imagesTr" / f"{name}_{index:04d}{ENDING}").unlink(missing_ok=True)
    (job.out / "labelsTr" / f"{name}{ENDING}").unlink(missing_ok=True)


def _summary(case: PreparedCase) -> str:
    parts = [f"{case.overlap_voxels} overlapping voxels decided"]
    if case.missing:
        parts.append(f"no mask of {', '.join(case.missing)}")
    parts += case.contradictions
    parts += case.warnings
    parts.append(f"registration {case.registration}" if case.registration else "no MR")
    return "; ".join(parts)


def prepare_case(job: CaseJob) -> PreparedCase:
    """Write one case's channels and labels, then its record.

    Raises:
        OarsegError: the case cannot be used.
    """
    names = [recipe.name for recipe in job.recipes]
    # Before reading: a file that changes meanwhile must not match its hash later.
    sources = _digest_sources(job)
    warnings: list[str] = []
    images = read_images(
        job.case,
        job.challenge,
        names,
        optional=[recipe.name for recipe in job.recipes if recipe.optional],
        warn=warnings.append,
    )
    grid = images.turn.grid(images.stored)
    labels = read_training_labels(job.labels, job.challenge, images.stored, labelled=job.labelled)
    verdicts: list[str] = []
    channels = build_channels(
        images.volumes,
        job.recipes,
        job.challenge,
        files=job.case.files,
        align=lambda recipe, ct, mr: _align(job, recipe, ct, mr, verdicts),
        resample=job.resample,
    )
    for index, channel in enumerate(channels):
        name = f"{job.case.name}_{index:04d}{ENDING}"
        array = np.ascontiguousarray(whole_image(channel))
        _write(Volume(array, grid), job.out / "imagesTr" / name)
    name = f"{job.case.name}{ENDING}"
    _write(Volume(images.turn.array(labels.array), grid), job.out / "labelsTr" / name)
    record = PreparedCase(
        job.case.name,
        images.stored.shape,
        labels.overlap_voxels,
        labels.missing,
        "; ".join(verdicts) or None,
        find_contradictions(job.presence, labels.missing),
        merged_classes(job.challenge, _unknown(job, labels.missing)),
        tuple(warnings),
        sources,
    )
    write_whole_text(_record_path(job), json.dumps(asdict(record)))
    return record


def _unknown(job: CaseJob, missing: tuple[str, ...]) -> tuple[str, ...]:
    """List the organs that may be anywhere in a case, as nobody has contoured them."""
    if job.challenge.data_set.missing_mask == "unknown":
        return missing
    return tuple(name for name in missing if job.labelled.get(name) == 0)


def _align(
    job: CaseJob, recipe: ChannelRecipe, ct: Volume, mr: Volume, verdicts: list[str]
) -> Transform | None:
    """Register an MR, or read the user's transform; append the verdict to ``verdicts``."""
    if job.transforms == "files":
        verdicts.append("taken from file")
        return read_transform(_transform_path(job, recipe.name))
    found = registration.register_mr(ct, mr, method=job.method)
    if found.verdict.status == "failed":
        verdicts.append("failed, trained on as absent")
        return None
    verdicts.append(found.verdict.status)
    return found.transform


def _transform_path(job: CaseJob, channel: str) -> Path:
    return job.case.files[channel].parent / f"{job.case.name}_ct_to_mr.tfm"


def _record_path(job: CaseJob) -> Path:
    return job.out / RECORDS / f"{job.case.name}.json"


def _read_record(job: CaseJob) -> PreparedCase | None:
    path = _record_path(job)
    if not path.is_file():
        return None
    try:
        return TypeAdapter(PreparedCase).validate_json(path.read_bytes())
    except ValidationError:
        # Damaged: the case is prepared anew.
        return None


def _write(volume: Volume, path: Path) -> None:
    # Next to the records: nnU-Net would take a partial file in imagesTr for a case.
    temporary = path.parent.parent / RECORDS / f"tmp-{os.getpid()}-{path.name}"
    sitk.WriteImage(to_sitk(volume), str(temporary), True, -1)
    temporary.replace(path)


def _write_dataset_json(
    out: Path,
    challenge: Challenge,
    recipes: Sequence[ChannelRecipe],
    *,
    cases: Sequence[PreparedCase],
) -> None:
    # nnU-Net derives the normalisation from a channel's name: a standardised MR needs none,
    # and a second CT is normalised as a CT, whatever the challenge calls it.
    names = {
        str(i): "noNorm"
        if recipe.standardise == "mean_one"
        else _nnunet_channel_name(challenge, recipe)
        for i, recipe in enumerate(recipes)
    }
    labels = {"background": 0} | {s.name: s.label for s in challenge.structures}
    document = {
        "channel_names": names,
        "labels": labels,
        "numTraining": len(cases),
        "file_ending": ENDING,
        "oarseg": {
            **dataset_record(challenge),
            "channels": recipe_records(recipes),
            "unlabelled": {case.name: case.unlabelled for case in cases if case.unlabelled},
        },
    }
    write_whole_text(out / "dataset.json", json.dumps(document, indent=1))


def _nnunet_channel_name(challenge: Challenge, recipe: ChannelRecipe) -> str:
    return "CT" if challenge.socket(recipe.name).modality == "CT" else recipe.name
