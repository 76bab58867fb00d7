"""Segment one case: the only module that knows the order of the steps."""

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
from oarseg.inference.deadline import choose_effort, describe_losses
from oarseg.inference.engines import choice
from oarseg.inference.footprint import BlockMask
from oarseg.inference.preprocessing import IndexBox, NetworkInput
from oarseg.inference.preprocessing import preprocess as preprocess
from oarseg.inference.streaming import Effort
from oarseg.inference.streaming import segment_streaming as stream
from oarseg.model.manifest import ChannelRecipe
from oarseg.results import write_case
from oarseg.system import memory
from oarseg.system.log import ProgressLine
from oarseg.system.usage import resident_mib
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
    with ExitStack() as stack:
        with notes.steps.step("writing"):
            staged = stack.enter_context(
                write_case.stage_outputs(
                    output, case=case, challenge=model.challenge, labels=Volume(labels, grid)
                )
            )
        setting = Setting(
            model.weights,
            model.challenge,
            model.engines,
            model.threads,
            model.settings.region,
            model.settings.assume_hu,
        )
        written = staged.commit(case_report(case, setting, notes, structures))
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
    rules, settings = model.challenge, model.settings
    reference = rules.reference.channel
    recipes = [channel.recipe for channel in model.weights.manifest.channels]
    with notes.steps.step("reading"):
        images = read_images(
            case,
            rules,
            [recipe.name for recipe in recipes],
            optional=[recipe.name for recipe in recipes if recipe.optional],
            limits=settings.limits,
            assume_hu=settings.assume_hu,
            warn=notes.warn,
        )
        ct = images.volumes[reference]
        body = find_body(ct)
    if body is None:
        notes.warn("no body found in the CT: the whole image is segmented")
    box = body_box(body, ct.grid) if settings.region == "body" else None
    _check_memory(ct, images.volumes, box, model)
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
            align=lambda recipe, fixed, mr: _align(recipe, fixed, mr, model, notes),
            resample=settings.resample,
        )
    with notes.steps.step("preprocessing"):
        network = preprocess(
            channels,
            ct.grid.spacing_mm,
            model.weights.manifest,
            box=box,
            threads=model.threads,
        )
    return _Prepared(network, images.stored, images.turn, body)


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


def _align(
    recipe: ChannelRecipe, ct: Volume, mr: Volume, model: Model, notes: Notes
) -> Transform | None:
    """Register an MR to the CT; None where that failed and the model can do without it.

    Raises:
        RegistrationError: it failed, and the model cannot.
    """
    found = registration.register_mr(
        ct, mr, method=model.settings.registration, threads=model.threads
    )
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
