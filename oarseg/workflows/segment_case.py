"""Segment one case: the only module that knows the order of the steps."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oarseg import registration
from oarseg.cases.case import Case
from oarseg.challenges.challenge import Socket
from oarseg.errors import DeviceError, NonFiniteError, RegistrationError
from oarseg.imaging.files import read_scan
from oarseg.imaging.orientation import Turn, for_networks
from oarseg.imaging.volume import Grid, Volume
from oarseg.inference.body import body_box, find_body
from oarseg.inference.channels import TRAINING_RANGE_HU, absent_channel, aligned_channel, mr_channel
from oarseg.inference.deadline import choose_effort, describe_losses
from oarseg.inference.engines import choice
from oarseg.inference.footprint import BlockMask
from oarseg.inference.preprocessing import IndexBox, NetworkInput
from oarseg.inference.preprocessing import preprocess as preprocess
from oarseg.inference.streaming import Effort
from oarseg.inference.streaming import segment_streaming as stream
from oarseg.model.manifest import Channel
from oarseg.results import write_case
from oarseg.system import memory
from oarseg.system.log import ProgressLine
from oarseg.system.usage import Step, peak_mib, resident_mib
from oarseg.workflows.forecast import forecast_memory
from oarseg.workflows.report import Notes, Setting, case_report, organ_volumes_cm3, warn_of_empty
from oarseg.workflows.settings import Model

log = logging.getLogger(__name__)


def segment_case(case: Case, model: Model, output: Path) -> Path:
    """Segment one case and write its outputs.

    Returns:
        The challenge's label file.

    Raises:
        OarsegError: the case cannot be segmented; nothing of it is in ``output``.
    """
    notes = Notes()
    if model.challenge.notice:
        notes.warnings.append(model.challenge.notice)
    prepared = _prepare(case, model, notes)
    with notes.steps.step("segmentation"):
        labels = _segmented(case, prepared, model, notes)
    grid = prepared.stored
    labels = prepared.turn.back(labels)
    del prepared
    structures = organ_volumes_cm3(labels, model.challenge, grid)
    warn_of_empty(structures, notes)
    start = time.perf_counter()

    def told() -> dict[str, Any]:
        notes.steps.done.append(Step("writing", time.perf_counter() - start, peak_mib()))
        chosen = model.settings
        setting = Setting(
            model.weights,
            model.challenge,
            model.engines,
            model.threads,
            chosen.region,
            chosen.assume_hu,
        )
        return case_report(case, setting, notes, structures)

    written = write_case.write_case(
        output, case=case, challenge=model.challenge, labels=Volume(labels, grid), report=told
    )
    log.info(
        "%s: written to %s in %.1f s, peak memory %.0f MiB",
        case.name,
        output,
        sum(step.seconds for step in notes.steps.done),
        notes.steps.peak_mib,
    )
    return written[0]


@dataclass(frozen=True)
class _Prepared:
    """A case as the network sees it, and the way back.

    Attributes:
        network: its channels.
        stored: the CT's grid as its file has it.
        turn: from there to the grid of the network's side.
        body: where the patient is; None where no body was found.
    """

    network: NetworkInput
    stored: Grid
    turn: Turn
    body: BlockMask | None


def _segmented(case: Case, prepared: _Prepared, model: Model, notes: Notes) -> NDArray[np.uint8]:
    """The label map; on the CPU if the GPU fails on the way and any device will do."""
    manifest = model.weights.manifest
    try:
        _choose_effort(prepared, model, notes)
        with ProgressLine(f"{case.name}: tiles") as progress:
            return stream(
                prepared.network,
                model.engines.folds,
                manifest,
                effort=notes.effort,
                mask=prepared.body,
                progress=progress,
                threads=model.threads,
                xp=model.engines.xp,
            )
    except (DeviceError, MemoryError) as error:
        if model.settings.device != "auto" or model.engines.choice.device == "cpu":
            raise
        notes.warn(f"the GPU failed ({error}); this case is computed on the CPU from its start")
        model.engines = choice.open_engines(model.weights, device="cpu", threads=model.threads)
    return _segmented(case, prepared, model, notes)


def _choose_effort(prepared: _Prepared, model: Model, notes: Notes) -> None:
    """Everything, or as much as the time limit leaves time for."""
    manifest = model.weights.manifest
    whole = Effort(mirror=model.settings.mirroring and bool(manifest.mirror_axes))
    notes.effort = whole
    if model.deadline is None:
        return
    left = model.deadline.left()
    notes.effort, expected = choose_effort(
        left,
        prepared.network,
        model.engines,
        manifest,
        whole=whole,
        mask=prepared.body,
        threads=model.threads,
    )
    notes.given_up = describe_losses(whole, notes.effort, len(model.engines.folds))
    if notes.given_up:
        notes.warn(f"to meet the time limit, left out: {', '.join(notes.given_up)}")
    if expected > left:
        notes.warn(
            f"even so about {expected:.0f} s are needed and {left:.0f} s are left: the time limit "
            "will be missed; give more time, a GPU or more CPUs"
        )


def _prepare(case: Case, model: Model, notes: Notes) -> _Prepared:
    """Everything up to the network; the images are freed on return."""
    reference = model.challenge.reference.channel
    with notes.steps.step("reading"):
        used = {reference, *(channel.name for channel in model.weights.manifest.channels)}
        stored = {
            name: image
            for name, path in case.files.items()
            if name in used and (image := _read_channel(name, path, model, notes)) is not None
        }
        for name, image in stored.items():
            if model.challenge.socket(name).modality != "CT":
                read_scan.check_distinct(stored[reference], image, case.files[name])
        grid = stored[reference].grid
        orientation = model.challenge.orientation
        turn = for_networks(grid, orientation)
        images = {
            name: for_networks(image.grid, orientation).volume(image)
            for name, image in stored.items()
        }
        del stored
        ct = images[reference]
        body = find_body(ct)
    if body is None:
        notes.warn("no body found in the CT: the whole image is segmented")
    box = body_box(body, ct.grid) if model.settings.region == "body" else None
    _check_memory(ct, images, box, model)
    channels: list[NDArray[Any]] = []
    for channel in model.weights.manifest.channels:
        image = images.pop(channel.name, None)
        if channel.name == reference:
            channels.append(ct.array)
        elif image is None:
            notes.warn(f"no {channel.name}: segmented from the {reference} alone")
            channels.append(absent_channel(ct.grid, channel.recipe))
        elif model.challenge.socket(channel.name).placed == "same_grid":
            channels.append(_aligned(channel, ct, image, case, model))
        else:
            channels.append(_moved(channel, ct, image, model, notes))
    with notes.steps.step("preprocessing"):
        network = preprocess(
            channels,
            ct.grid.spacing_mm,
            model.weights.manifest,
            box=box,
            threads=model.threads,
        )
    return _Prepared(network, grid, turn, body)


def _check_memory(
    ct: Volume, images: dict[str, Volume], box: IndexBox | None, model: Model
) -> None:
    """Say now that memory will not do, instead of being killed in the middle.

    Raises:
        ResourceError: it will not.
    """
    depth, height, width = ct.grid.shape
    others = [image for image in images.values() if image is not ct]
    forecast = forecast_memory(
        ct.grid,
        manifest=model.weights.manifest,
        box=box or ((0, depth), (0, height), (0, width)),
        mr_voxels=sum(other.grid.voxels for other in others),
        images_bytes=sum(image.array.nbytes for image in (ct, *others)),
        activations=model.activations,
    )
    log.debug("forecast: %.0f MiB on top of %.0f MiB", forecast.bytes / 2**20, resident_mib())
    memory.check_memory(forecast, hint=", use --region body" if box is None else "")


def _read_channel(name: str, path: Path, model: Model, notes: Notes) -> Volume | None:
    """Read an image; None where it is optional and its values are not finite."""
    try:
        return _read(model.challenge.socket(name), path, model, notes)
    except NonFiniteError as error:
        if not any(c.name == name and c.optional for c in model.weights.manifest.channels):
            raise
        notes.warn(f"{name} not used: {error}")
        return None


def _read(socket: Socket, path: Path, model: Model, notes: Notes) -> Volume:
    limits = model.settings.limits
    if socket.modality != "CT":
        return read_scan.read_mr(path, limits=limits, warn=notes.warn)
    return read_scan.read_ct(
        path, limits=limits, assume_hu=model.settings.assume_hu, warn=notes.warn
    )


def _aligned(channel: Channel, ct: Volume, image: Volume, case: Case, model: Model) -> NDArray[Any]:
    """An image that shares the CT's grid, or is resampled onto it if the user wants that."""
    is_ct = model.challenge.socket(channel.name).modality == "CT"
    return aligned_channel(
        image,
        ct.grid,
        path=case.files[channel.name],
        outside=TRAINING_RANGE_HU[0] if is_ct else channel.absent_value,
        resample=model.settings.resample,
    )


def _moved(channel: Channel, ct: Volume, mr: Volume, model: Model, notes: Notes) -> NDArray[Any]:
    """An MR on the CT's grid; absent where its registration failed."""
    with notes.steps.step("registration"):
        method = model.settings.registration
        found = registration.register_mr(ct, mr, method=method, threads=model.threads)
        notes.registration = registration.registration_record(found)
        verdict = found.verdict
        log.info("registration %s (score %.3f)", verdict.status, verdict.score)
        reasons = "; ".join(verdict.reasons)
        if verdict.status == "failed":
            if not channel.optional:
                raise RegistrationError(
                    f"{channel.name}: could not be registered to the CT ({reasons}); check that "
                    "both are of this patient, the model does not work without it"
                )
            notes.warn(f"{channel.name} not used, registration failed: {reasons}")
            return absent_channel(ct.grid, channel.recipe)
        if verdict.status == "doubtful":
            notes.warn(f"{channel.name}: registration is doubtful: {reasons}; check the masks")
        return mr_channel(mr, found.transform, ct.grid, channel.recipe)
