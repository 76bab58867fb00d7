"""Cases as published → a raw nnU-Net v2 dataset.

Each case becomes one image a channel (the MR moved onto the CT by the container's own
registration) and one label map. A case counts as done when its record exists; the
record is written last, so that a killed run leaves nothing that looks finished.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from pydantic import TypeAdapter
from scipy.ndimage import find_objects

from oarseg import reading, registration
from oarseg.agreement import dataset_record
from oarseg.bundle import ChannelRecipe
from oarseg.cases import Case, find_cases
from oarseg.challenge import Challenge
from oarseg.channels import absent_channel, ct_channel, mr_channel
from oarseg.errors import InputError, OarsegError
from oarseg.orientation import for_networks
from oarseg.rigid import RigidTransform
from oarseg.training.presence import Presence, contradictions, read_presence
from oarseg.volume import Grid, Volume, grid_of, to_sitk

log = logging.getLogger(__name__)

RECORDS = "oarseg_cases"
ENDING = ".nrrd"
MASK_ENDING = ".seg.nrrd"
Source = Literal["register", "files"]


@dataclass(frozen=True)
class PreparedCase:
    """What one case's preparation found.

    Attributes:
        overlap_voxels: voxels that several masks claimed and the rule decided.
        missing: structures without a mask file.
        registration: verdict and reasons; None without an MR.
        contradictions: between the masks and the table of what lies in the field.
    """

    name: str
    shape: tuple[int, int, int]
    overlap_voxels: int
    missing: tuple[str, ...]
    registration: str | None
    contradictions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    """Everything a worker process needs for one case."""

    case: Case
    challenge: Challenge
    recipes: tuple[ChannelRecipe, ...]
    out: Path
    transforms: Source
    presence: Presence


def default_recipes(challenge: Challenge) -> tuple[ChannelRecipe, ...]:
    """Channels of a challenge: CT as it is, MR standardised and optional."""
    return tuple(
        ChannelRecipe(socket.channel, standardise="mean_one", optional=True)
        if socket.modality == "MR"
        else ChannelRecipe(socket.channel)
        for socket in challenge.sockets
    )


def prepare(
    data: Path,
    out: Path,
    *,
    challenge: Challenge,
    transforms: Source = "register",
    workers: int = 1,
    progress: Callable[[str], None] = log.info,
) -> tuple[PreparedCase, ...]:
    """Turn a data set in the challenge's layout into a raw nnU-Net dataset.

    Args:
        data: folder with one folder a case.
        out: folder ``Dataset<nnn>_<name>``; made if missing, continued if begun.
        challenge: names the sockets and the structures.
        transforms: ``register`` finds each MR's place; ``files`` reads
            ``<case>_ct_to_mr.tfm`` beside the images (phantoms, own registrations).
        workers: cases at a time, a process each.
        progress: called with one line a case.

    Raises:
        InputError: ``out`` is not named as nnU-Net wants it, or no case can be used.
    """
    _check_name(out)
    presence = _presence(data, challenge)
    found = find_cases(data, challenge, required=frozenset({challenge.reference.channel}))
    for problem in found.problems:
        progress(f"{problem.name}: left out: {problem.message}")
    for folder in ("imagesTr", "labelsTr", RECORDS):
        (out / folder).mkdir(parents=True, exist_ok=True)
    recipes = default_recipes(challenge)
    jobs = [
        Job(case, challenge, recipes, out, transforms, presence.get(case.name, {}))
        for case in found.cases
    ]
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
    jobs: Sequence[Job], *, workers: int, progress: Callable[[str], None]
) -> tuple[PreparedCase, ...]:
    done: list[PreparedCase] = []
    todo: list[Job] = []
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


def prepare_case(job: Job) -> PreparedCase:
    """Write one case's channels and labels, then its record.

    Raises:
        OarsegError: the case cannot be used; says why.
    """
    reference = job.challenge.reference
    ct_path = job.case.files[reference.channel]
    ct = reading.read_ct(ct_path)
    labels, overlap, missing = merge_masks(
        mask_files(ct_path.parent, job.challenge), job.challenge, ct.grid
    )
    turn = for_networks(ct.grid, job.challenge.orientation)
    verdicts = []
    for index, recipe in enumerate(job.recipes):
        array, verdict = _channel(job, recipe, ct)
        verdicts += [verdict] if verdict else []
        name = f"{job.case.name}_{index:04d}{ENDING}"
        _write(turn.volume(Volume(array, ct.grid)), job.out / "imagesTr" / name)
    name = f"{job.case.name}{ENDING}"
    _write(turn.volume(Volume(labels, ct.grid)), job.out / "labelsTr" / name)
    record = PreparedCase(
        job.case.name,
        ct.grid.shape,
        overlap,
        missing,
        "; ".join(verdicts) or None,
        contradictions(job.presence, missing),
    )
    _write_text(_record_path(job), json.dumps(asdict(record)))
    return record


def _channel(job: Job, recipe: ChannelRecipe, ct: Volume) -> tuple[NDArray[Any], str | None]:
    if recipe.name == job.challenge.reference.channel:
        return ct_channel(ct), None
    path = job.case.files.get(recipe.name)
    if path is None:
        return absent_channel(ct.grid, recipe), None
    mr = reading.read_mr(path)
    if job.transforms == "files":
        transform = RigidTransform.read(path.parent / f"{job.case.name}_ct_to_mr.tfm")
        verdict = "taken from file"
    else:
        result = registration.register(ct, mr)
        transform, verdict = result.transform, result.verdict.status
        if verdict == "failed":
            return absent_channel(ct.grid, recipe), "failed, trained on as absent"
    # Three decimals are below any scanner's noise and let the file compress.
    return np.round(mr_channel(mr, transform, ct.grid, recipe), 3), verdict


def mask_files(folder: Path, challenge: Challenge) -> dict[str, Path]:
    """Structure name → mask file in a case's folder.

    Raises:
        InputError: a mask of a structure that the challenge does not have.
    """
    known = {structure.name for structure in challenge.structures}
    files: dict[str, Path] = {}
    for path in sorted(folder.glob(f"*_OAR_*{MASK_ENDING}")):
        name = path.name.removesuffix(MASK_ENDING).split("_OAR_", 1)[1]
        if name not in known:
            raise InputError(
                f"{path}: structure {name!r} is not one of {challenge.name}'s "
                f"{len(known)}; rename or remove the file"
            )
        files[name] = path
    return files


def merge_masks(
    files: Mapping[str, Path], challenge: Challenge, grid: Grid
) -> tuple[NDArray[np.uint8], int, tuple[str, ...]]:
    """Binary masks → one label map; where masks overlap the smaller structure wins.

    Small structures lose their meaning when a neighbour takes voxels from them; large
    ones hardly change. Structures of equal volume: the higher label wins.

    Returns:
        (labels (z, y, x) uint8, voxels claimed more than once, structures without file)

    Raises:
        InputError: a mask on another grid than the CT.
    """
    pieces = {name: _read_mask(path, grid) for name, path in files.items()}
    order = sorted(pieces, key=lambda n: (-pieces[n].voxels, challenge.structure(n).label))
    labels = np.zeros(grid.shape, dtype=np.uint8)
    for name in order:
        labels[pieces[name].box][pieces[name].mask] = challenge.structure(name).label
    claimed = sum(piece.voxels for piece in pieces.values())
    overlap = claimed - int(np.count_nonzero(labels))
    missing = tuple(s.name for s in challenge.structures if s.name not in files)
    return labels, overlap, missing


@dataclass(frozen=True)
class _Piece:
    """A mask within its bounding box; thirty whole ones would be gigabytes."""

    box: tuple[slice, ...]
    mask: NDArray[np.bool_]
    voxels: int


def _read_mask(path: Path, grid: Grid) -> _Piece:
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise InputError(f"{path}: expected a readable mask, could not read it") from error
    if image.GetDimension() != 3 or not grid_of(image).matches(grid):
        raise InputError(
            f"{path}: expected the CT's grid {grid.shape}, found another; "
            "resample the mask onto the CT"
        )
    mask = np.asarray(sitk.GetArrayViewFromImage(image) != 0)
    found = find_objects(mask.view(np.uint8))
    box = found[0] if found else (slice(0, 0),) * 3
    return _Piece(box, mask[box].copy(), int(np.count_nonzero(mask)))


def _record_path(job: Job) -> Path:
    return job.out / RECORDS / f"{job.case.name}.json"


def _read_record(job: Job) -> PreparedCase | None:
    path = _record_path(job)
    if not path.is_file():
        return None
    return TypeAdapter(PreparedCase).validate_json(path.read_text(encoding="utf-8"))


def _write(volume: Volume, path: Path) -> None:
    temporary = path.with_name(f"tmp-{os.getpid()}-{path.name}")
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
    names = {
        str(i): "noNorm" if recipe.standardise == "mean_one" else recipe.name
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
            "unlabelled": _unlabelled(challenge, cases),
        },
    }
    _write_text(out / "dataset.json", json.dumps(document, indent=1))


def _unlabelled(challenge: Challenge, cases: Sequence[PreparedCase]) -> dict[str, list[int]]:
    """Case → labels that its background may hold, as it has no mask of them."""
    if challenge.data_set.missing_mask == "absent":
        return {}
    return {
        case.name: [challenge.structure(name).label for name in case.missing]
        for case in cases
        if case.missing
    }
