"""Cases as published → a raw nnU-Net v2 dataset.

Each case becomes one image a channel (the MR moved onto the CT by the container's own
registration) and one label map. A case counts as done when its record exists; the
record is written last, so that a killed run leaves nothing that looks finished.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import SimpleITK as sitk
from pydantic import TypeAdapter

from oarseg import registration
from oarseg.cases.case import Case
from oarseg.cases.find_cases import find_cases
from oarseg.challenges.challenge import Challenge
from oarseg.errors import InputError, OarsegError
from oarseg.imaging.bspline import read_transform
from oarseg.imaging.transform import Transform
from oarseg.imaging.volume import Volume, to_sitk
from oarseg.inference.channels import build_channels, read_images
from oarseg.labels.find_labels import LabelFiles
from oarseg.model.agreement import dataset_record
from oarseg.model.manifest import ChannelRecipe
from oarseg.training.label_sources import find_sources, merged_classes, read_training_labels
from oarseg.training.presence import Presence, find_contradictions, read_presence

log = logging.getLogger(__name__)

RECORDS = "oarseg_cases"
ENDING = ".nrrd"
Source = Literal["register", "files"]


@dataclass(frozen=True)
class PreparedCase:
    """What one case's preparation found.

    Attributes:
        overlap_voxels: voxels whose claims no label fits, which the rule decided.
        missing: organs that the labels tell nothing of.
        registration: verdict and reasons; None without an MR.
        contradictions: between the masks and the table of what lies in the field.
        unlabelled: labels that the case cannot tell from another one; see
            ``sources.merged_classes``.
    """

    name: str
    shape: tuple[int, int, int]
    overlap_voxels: int
    missing: tuple[str, ...]
    registration: str | None
    contradictions: tuple[str, ...] = ()
    unlabelled: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class CaseJob:
    """Everything a worker process needs for one case."""

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


def default_recipes(challenge: Challenge) -> tuple[ChannelRecipe, ...]:
    """Channels of a challenge: CT as it is, MR standardised and optional."""
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
    workers: int = 1,
    progress: Callable[[str], None] = log.info,
) -> tuple[PreparedCase, ...]:
    """Turn a data set in the challenge's layout into a raw nnU-Net dataset.

    Args:
        data: folder with one folder a case.
        out: folder ``Dataset<nnn>_<name>``; made if missing, continued if begun.
        challenge: names the sockets and the structures.
        labels: folder of the labels, if they do not lie beside the images.
        labelled: table (CSV) of cases and organs, 0 where nobody has looked for the organ.
        transforms: ``register`` finds each MR's place; ``files`` reads
            ``<case>_ct_to_mr.tfm`` beside the images (phantoms, own registrations).
        resample: bring images that should lie on the reference's grid onto it.
        method: of ``registration.register``; inference should use the same.
        workers: cases at a time, a process each.
        progress: called with one line a case.

    Raises:
        InputError: ``out`` is not named as nnU-Net wants it, or no case can be used.
    """
    _check_name(out)
    presence = _presence(data, challenge)
    told = read_presence(labelled, challenge) if labelled else {}
    recipes = default_recipes(challenge)
    required = frozenset(recipe.name for recipe in recipes if not recipe.optional)
    found = find_cases(data, challenge, required=required)
    for problem in found.problems:
        progress(f"{problem.name}: left out: {problem.message}")
    for folder in ("imagesTr", "labelsTr", RECORDS):
        (out / folder).mkdir(parents=True, exist_ok=True)
    sources = find_sources(labels or data, challenge, progress=progress)
    jobs = [
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
            labelled=told.get(case.name, {}),
        )
        for case in found.cases
        if case.name.casefold() in sources
    ]
    for case in found.cases:
        if case.name.casefold() not in sources:
            progress(f"{case.name}: left out: found no labels of it")
    done = _run_all(jobs, workers=workers, progress=progress)
    if not done:
        raise InputError(f"{data}: expected at least one usable case, found none")
    _write_dataset_json(out, challenge, recipes, cases=done)
    return done


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
    jobs: Sequence[CaseJob], *, workers: int, progress: Callable[[str], None]
) -> tuple[PreparedCase, ...]:
    done: list[PreparedCase] = []
    todo: list[CaseJob] = []
    for job in jobs:
        record = _read_record(job)
        if record:
            done.append(record)
        else:
            todo.append(job)
    if done:
        progress(f"{len(done)} cases were finished by an earlier run")
    with ProcessPoolExecutor(max_workers=workers) as pool:
        futures = {pool.submit(prepare_case, job): job for job in todo}
        for future in as_completed(futures):
            name = futures[future].case.name
            try:
                prepared = future.result()
            except OarsegError as error:
                progress(f"{name}: left out: {error}")
                continue
            done.append(prepared)
            progress(f"{name}: {_summary(prepared)} ({len(done)}/{len(jobs)})")
    return tuple(sorted(done, key=lambda case: case.name))


def _summary(case: PreparedCase) -> str:
    parts = [f"{case.overlap_voxels} overlapping voxels decided"]
    if case.missing:
        parts.append(f"no mask of {', '.join(case.missing)}")
    parts += case.contradictions
    parts.append(f"registration {case.registration}" if case.registration else "no MR")
    return "; ".join(parts)


def prepare_case(job: CaseJob) -> PreparedCase:
    """Write one case's channels and labels, then its record.

    Raises:
        OarsegError: the case cannot be used; says why.
    """
    names = [recipe.name for recipe in job.recipes]
    images = read_images(job.case, job.challenge, names)
    grid = images.turn.grid(images.stored)
    labels = read_training_labels(job.labels, job.challenge, images.stored, told=job.labelled)
    verdicts: list[str] = []
    channels = build_channels(
        images.volumes,
        job.recipes,
        job.challenge,
        files=job.case.files,
        align=lambda recipe, ct, mr: _align(job, recipe, ct, mr, verdicts),
        resample=job.resample,
    )
    for index, array in enumerate(channels):
        name = f"{job.case.name}_{index:04d}{ENDING}"
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
    )
    _write_text(_record_path(job), json.dumps(asdict(record)))
    return record


def _unknown(job: CaseJob, missing: tuple[str, ...]) -> tuple[str, ...]:
    """The organs that may be anywhere in a case, as nobody has looked for them."""
    if job.challenge.data_set.missing_mask == "unknown":
        return missing
    return tuple(name for name in missing if job.labelled.get(name) == 0)


def _align(
    job: CaseJob, recipe: ChannelRecipe, ct: Volume, mr: Volume, verdicts: list[str]
) -> Transform | None:
    """Register an MR, or read the user's transform; notes the verdict."""
    if job.transforms == "files":
        folder = job.case.files[recipe.name].parent
        verdicts.append("taken from file")
        return read_transform(folder / f"{job.case.name}_ct_to_mr.tfm")
    found = registration.register_mr(ct, mr, method=job.method)
    if found.verdict.status == "failed":
        verdicts.append("failed, trained on as absent")
        return None
    verdicts.append(found.verdict.status)
    return found.transform


def _record_path(job: CaseJob) -> Path:
    return job.out / RECORDS / f"{job.case.name}.json"


def _read_record(job: CaseJob) -> PreparedCase | None:
    path = _record_path(job)
    if not path.is_file():
        return None
    return TypeAdapter(PreparedCase).validate_json(path.read_text(encoding="utf-8"))


def _write(volume: Volume, path: Path) -> None:
    # Beside the records: what a killed run leaves in imagesTr nnU-Net would take for a case.
    temporary = path.parent.parent / RECORDS / f"tmp-{os.getpid()}-{path.name}"
    sitk.WriteImage(to_sitk(volume), str(temporary), True, -1)
    temporary.replace(path)


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(f"tmp-{path.name}")
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(path)


def _write_dataset_json(
    out: Path,
    challenge: Challenge,
    recipes: Sequence[ChannelRecipe],
    *,
    cases: Sequence[PreparedCase],
) -> None:
    # nnU-Net reads a channel's name as its normalisation: a standardised MR needs none.
    # A second CT is a CT to it, whatever the challenge calls it.
    names = {
        str(i): "noNorm" if recipe.standardise == "mean_one" else _nnunets_name(challenge, recipe)
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
            "channels": TypeAdapter(tuple[ChannelRecipe, ...]).dump_python(
                tuple(recipes), mode="json"
            ),
            "unlabelled": {case.name: case.unlabelled for case in cases if case.unlabelled},
        },
    }
    _write_text(out / "dataset.json", json.dumps(document, indent=1))


def _nnunets_name(challenge: Challenge, recipe: ChannelRecipe) -> str:
    return "CT" if challenge.socket(recipe.name).modality == "CT" else recipe.name
