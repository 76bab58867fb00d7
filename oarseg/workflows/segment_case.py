"""Segment one case, from its files to its outputs; the only module that orders the steps."""

from __future__ import annotations

import logging
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from oarseg import registration
from oarseg.cases.case import Case
from oarseg.errors import DeviceError, RegistrationError
from oarseg.imaging.orientation import Turn
from oarseg.imaging.transform import Transform
from oarseg.imaging.volume import Grid, Volume
from oarseg.inference.body import body_box, find_body
from oarseg.inference.channels import build_channels, is_registered, read_images
from oarseg.inference.deadline import Deadline
from oarseg.inference.engines import choice
from oarseg.inference.engines.choice import Engines
from oarseg.inference.engines.cuda import free_device_bytes
from oarseg.inference.footprint import BlockMask
from oarseg.inference.preprocessing import IndexBox, NetworkInput
from oarseg.inference.preprocessing import preprocess as preprocess
from oarseg.inference.streaming import buffer_bytes
from oarseg.inference.streaming import segment_streaming as stream
from oarseg.model.manifest import ChannelRecipe
from oarseg.results import write_case
from oarseg.system import memory
from oarseg.system.log import ProgressLine
from oarseg.system.usage import resident_mib
from oarseg.workflows.dicom_outputs import check_segmentation_memory, dicom_request
from oarseg.workflows.effort import Computation
from oarseg.workflows.forecast import forecast_memory
from oarseg.workflows.judge_organs import centre_of_body, judge_organs
from oarseg.workflows.report import Notes, case_report, organ_volumes_cm3, warn_of_empty
from oarseg.workflows.report_pages import drop_page
from oarseg.workflows.settings import RunDescription

# Of a GPU's free memory: the networks take workspace while they run.
DEVICE_SHARE = 0.5

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SegmentedCase:
    """A case that was written.

    Attributes:
        label_file: the challenge's label file.
        engines: those to go on with; the CPU's if the GPU failed on the way.
    """

    label_file: Path
    engines: Engines


def segment_case(
    case: Case,
    run: RunDescription,
    output: Path,
    *,
    engines: Engines,
    deadline: Deadline | None = None,
) -> SegmentedCase:
    """Segment one case and write its outputs.

    Args:
        case: its input files.
        run: what is the same for every case.
        output: the output folder.
        engines: the networks, opened on the device to try first.
        deadline: the time limit, shared by the cases that are left; None without one.

    Raises:
        OarsegError: the case cannot be segmented; nothing of it is in ``output``.
    """
    notes = Notes()
    if run.challenge.notice:
        notes.warnings.append(run.challenge.notice)
    prepared = _prepare(case, run, notes)
    with notes.steps.step("segmentation"):
        predicted = _predict_labels(case, prepared, run, notes, engines, deadline)
    grid, turn, body = prepared.stored, prepared.turn, prepared.body
    labels = Volume(turn.back(predicted.labels), grid)
    del prepared
    body_mm = None if body is None else centre_of_body(body, turn.grid(grid))
    with notes.steps.step("checks"):
        labels = judge_organs(labels, case, run, notes, body_mm=body_mm)
    volumes_cm3 = organ_volumes_cm3(labels.array, run.challenge, grid)
    warn_of_empty(volumes_cm3, notes)
    with ExitStack() as stack:
        with notes.steps.step("writing"):
            staged = stack.enter_context(
                write_case.stage_outputs(
                    output,
                    case=case,
                    challenge=run.challenge,
                    labels=labels,
                    dicom=dicom_request(case, run),
                )
            )
        drop_page(output, case.name)
        written = staged.commit(case_report(case, run, predicted.used, notes, volumes_cm3))
    log.info(
        "%s: written to %s in %.1f s, peak memory %.0f MiB",
        case.name,
        output,
        sum(step.seconds for step in notes.steps.done),
        notes.steps.peak_mib,
    )
    return SegmentedCase(written[0], predicted.kept)


@dataclass(frozen=True)
class _Prepared:
    """The network's input, and what maps its answer back onto the CT.

    Attributes:
        network: the preprocessed channels.
        stored: the CT's grid as its file has it.
        turn: from the stored grid to the one whose axes the network knows.
        body: the blocks that hold the patient; None where no body was found.
    """

    network: NetworkInput
    stored: Grid
    turn: Turn
    body: BlockMask | None


@dataclass(frozen=True, eq=False)
class _Predicted:
    """A label map, and the engines that computed it and that the next case begins with."""

    labels: NDArray[np.uint8]
    used: Engines
    kept: Engines


def _predict_labels(
    case: Case,
    prepared: _Prepared,
    run: RunDescription,
    notes: Notes,
    engines: Engines,
    deadline: Deadline | None,
) -> _Predicted:
    """Compute the label map; on the CPU if the GPU fails and the user named no device."""
    try:
        used = Computation(prepared.network, prepared.body, run, notes).choose(engines, deadline)
        notes.joint = notes.joint or _overflows_device(used, prepared.network, run)
        with ProgressLine(f"{case.name}: tiles") as progress:
            labels = stream(
                prepared.network,
                used.folds,
                run.weights.manifest,
                effort=notes.effort,
                joint=notes.joint,
                mask=prepared.body,
                progress=progress,
                threads=run.threads,
                xp=used.xp,
            )
        return _Predicted(labels, used, engines)
    except (DeviceError, MemoryError) as error:
        if run.settings.device != "auto" or engines.choice.device == "cpu":
            raise
        notes.warn(f"the GPU failed ({error}); this case is computed on the CPU from its start")
        engines = choice.open_engines(
            run.weights, exactness=run.precision, device="cpu", threads=run.threads
        )
    return _predict_labels(case, prepared, run, notes, engines, deadline)


def _overflows_device(engines: Engines, network: NetworkInput, run: RunDescription) -> bool:
    """Tell whether a sum for each fold would not fit into the GPU's memory."""
    manifest = run.weights.manifest
    if engines.xp is np or len(engines.folds) == 1:
        return False
    shape = network.placement.network_shape
    separate = buffer_bytes(shape, manifest, sums=len(engines.folds))
    return separate > DEVICE_SHARE * free_device_bytes(engines.xp)


def _prepare(case: Case, run: RunDescription, notes: Notes) -> _Prepared:
    """Read, register and preprocess a case; the images are freed on return."""
    rules, settings = run.challenge, run.settings
    reference = rules.reference.channel
    recipes = [channel.recipe for channel in run.weights.manifest.channels]
    with notes.steps.step("reading"):
        images = read_images(
            case,
            rules,
            [recipe.name for recipe in recipes],
            optional=[recipe.name for recipe in recipes if recipe.optional],
            limits=settings.limits,
            assume_hu=settings.assume_hu,
            conditioning=run.weights.manifest.conditioning,
            warn=notes.warn,
        )
        ct = images.volumes[reference]
        held = sum(image.array.nbytes for image in images.volumes.values())
        check_segmentation_memory(ct.grid, run, freed=held)
        body = None if run.region == "all" else find_body(ct)
    if body is None and run.region != "all":
        notes.warn("no body found in the CT: the whole image is segmented")
    box = body_box(body, ct.grid) if run.region == "body" else None
    notes.joint = _must_join(ct, images.volumes, box, run)
    for recipe in recipes:
        if recipe.name not in images.volumes:
            notes.warn(f"no {recipe.name}: segmented from the {reference} alone")
    registering = any(is_registered(name, rules) for name in images.volumes)
    with notes.steps.step("registration") if registering else nullcontext():
        channels = build_channels(
            images.volumes,
            recipes,
            rules,
            files=case.files,
            align=lambda recipe, fixed, mr: _align(recipe, fixed, mr, run, notes),
            resample=settings.resample,
        )
    with notes.steps.step("preprocessing"):
        network = preprocess(
            channels,
            ct.grid.spacing_mm,
            run.weights.manifest,
            box=box,
            threads=run.threads,
        )
    return _Prepared(network, images.stored, images.turn, body)


def _must_join(
    ct: Volume, images: dict[str, Volume], box: IndexBox | None, run: RunDescription
) -> bool:
    """Compare the memory that the case will need with what there is, before the work.

    Returns:
        Whether the folds share one sum: where each fold's own would not fit, or the run is to
        be fast.

    Raises:
        ResourceError: memory does not do for one sum either.
    """
    depth, height, width = ct.grid.shape
    others = [image for image in images.values() if image is not ct]
    separate, joint = (
        forecast_memory(
            ct.grid,
            manifest=run.weights.manifest,
            box=box or ((0, depth), (0, height), (0, width)),
            mr_voxels=sum(other.grid.voxels for other in others),
            images_bytes=sum(image.array.nbytes for image in (ct, *others)),
            activations=run.activations,
            joint=shared,
        )
        for shared in (False, True)
    )
    room = memory.tightest_room()
    join = len(run.weights.manifest.folds) > 1 and (
        run.precision == "fast" or separate.bytes > room.left
    )
    forecast = joint if join else separate
    log.debug("forecast: %.0f MiB on top of %.0f MiB", forecast.bytes / 2**20, resident_mib())
    hint = ", use --region body" if box is None and run.challenge.reference.modality == "CT" else ""
    memory.check_memory(forecast, room=room, hint=hint)
    return join


def _align(
    recipe: ChannelRecipe, ct: Volume, mr: Volume, run: RunDescription, notes: Notes
) -> Transform | None:
    """Register an MR to the CT; None where that failed and the model can do without it.

    Raises:
        RegistrationError: it failed, and the model cannot.
    """
    found = registration.register_mr(ct, mr, method=run.settings.registration, threads=run.threads)
    notes.registration = registration.registration_record(found)
    verdict = found.verdict
    log.info("registration %s (score %.3f)", verdict.status, verdict.score)
    reasons = "; ".join(verdict.reasons)
    if verdict.status == "failed":
        if not recipe.optional:
            raise RegistrationError(
                f"{recipe.name}: could not be registered to the CT ({reasons}); check that "
                "both are of this patient, the model does not work without it"
            )
        notes.warn(f"{recipe.name} not used, registration failed: {reasons}")
        return None
    if verdict.status == "doubtful":
        notes.warn(f"{recipe.name}: registration is doubtful: {reasons}; check the masks")
    return found.transform
