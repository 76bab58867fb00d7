"""Segment one case, from its files to its outputs; the only module that orders the steps."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oarseg import registration
from oarseg.cases.case import Case, probability_name
from oarseg.errors import DeviceError, RegistrationError
from oarseg.imaging.orientation import Turn
from oarseg.imaging.transform import Transform
from oarseg.imaging.volume import Grid, Volume
from oarseg.inference.channels import build_channels, is_registered, read_images
from oarseg.inference.confidence.agreement import FoldAgreement
from oarseg.inference.confidence.probabilities import Probabilities
from oarseg.inference.configurations.case_input import CaseInput
from oarseg.inference.configurations.case_input import preprocess_case as preprocess
from oarseg.inference.configurations.segment import segment_case_input as stream
from oarseg.inference.deadline import Deadline
from oarseg.inference.engines import choice
from oarseg.inference.engines.choice import Engines
from oarseg.inference.region.body import body_box, find_body
from oarseg.inference.region.footprint import BlockMask
from oarseg.model.entries.channels import ChannelRecipe
from oarseg.results import write_case
from oarseg.results.probability_files import write_probabilities
from oarseg.system.log import ProgressLine
from oarseg.workflows.computation.effort import Computation
from oarseg.workflows.computation.sums import CaseSize, place_sums
from oarseg.workflows.dicom_outputs import check_segmentation_memory, dicom_request
from oarseg.workflows.report import (
    Notes,
    agreement_record,
    case_report,
    expected_dice_record,
    organ_volumes_cm3,
    warn_of_empty,
)
from oarseg.workflows.review.judge_organs import centre_of_body, judge_organs
from oarseg.workflows.review.report_pages import drop_page
from oarseg.workflows.settings import RunDescription

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SegmentedCase:
    """A case that was written.

    Attributes:
        label_file: the challenge's label file.
        engines: those to go on with; the CPU's if the GPU failed on the way.
        memory_bytes: what it was forecast to take, its images included.
    """

    label_file: Path
    engines: Engines
    memory_bytes: int = 0


def segment_case(
    case: Case,
    run: RunDescription,
    output: Path,
    *,
    engines: Engines,
    deadline: Deadline | None = None,
    warnings: Sequence[str] = (),
    gate: AbstractContextManager[Any] | None = None,
) -> SegmentedCase:
    """Segment one case and write its outputs.

    Args:
        case: its input files.
        run: what is the same for every case.
        output: the output folder.
        engines: the networks, opened on the device to try first.
        deadline: the time limit, shared by the cases that are left; None without one.
        warnings: for the report, of what happened before.
        gate: held while the network runs, where several cases are in work at once.

    Raises:
        DeviceError: the GPU failed, and the case is not computed on the CPU here.
        OarsegError: the case cannot be segmented; nothing of it is in ``output``.
    """
    notes = Notes()
    for warning in warnings:
        notes.warn(warning)
    if run.challenge.notice:
        notes.warnings.append(run.challenge.notice)
    prepared = _prepare(case, run, notes, engines)
    with gate or nullcontext(), notes.steps.step("segmentation"):
        predicted = _predict_labels(case, prepared, run, notes, engines, deadline, output)
    grid, turn, body = prepared.stored, prepared.turn, prepared.body
    labels = Volume(turn.back(predicted.labels), grid)
    del prepared
    body_mm = None if body is None else centre_of_body(body, turn.grid(grid))
    with notes.steps.step("checks"):
        labels = judge_organs(labels, case, run, notes, body_mm=body_mm)
    volumes_cm3 = organ_volumes_cm3(labels.array, run.challenge, grid)
    warn_of_empty(volumes_cm3, notes)
    notes.expected_dice = expected_dice_record(run, notes.agreement, notes.effort, volumes_cm3)
    with ExitStack() as stack:
        with notes.steps.step("writing"):
            staged = stack.enter_context(
                write_case.stage_outputs(
                    output,
                    case=case,
                    challenge=run.challenge,
                    labels=labels,
                    dicom=dicom_request(case, run),
                    beside=_probability_writer(case, predicted.chances, turn),
                )
            )
        predicted.close()
        drop_page(output, case.name)
        written = staged.commit(case_report(case, run, predicted.used, notes, volumes_cm3))
    log.info(
        "%s: written to %s in %.1f s, peak memory %.0f MiB",
        case.name,
        output,
        sum(step.seconds for step in notes.steps.done),
        notes.steps.peak_mib,
    )
    return SegmentedCase(written[0], predicted.kept, notes.sums.memory_bytes)


@dataclass(frozen=True)
class _Prepared:
    """The network's input, and what maps its answer back onto the CT.

    Attributes:
        network: the preprocessed channels, for each configuration of the model.
        stored: the CT's grid as its file has it.
        turn: from the stored grid to the one whose axes the network knows.
        body: the blocks that hold the patient; None where no body was found.
        size: what its memory depends on.
    """

    network: CaseInput
    stored: Grid
    turn: Turn
    body: BlockMask | None
    size: CaseSize


@dataclass(frozen=True, eq=False)
class _Predicted:
    """A label map, and the engines that computed it and that the next case begins with.

    Attributes:
        chances: probabilities of the organs that were asked for; None without any.
    """

    labels: NDArray[np.uint8]
    used: Engines
    kept: Engines
    chances: Probabilities | None

    def close(self) -> None:
        """Give back the room of the probabilities, which are written or not wanted."""
        if self.chances is not None:
            self.chances.close()


def _predict_labels(
    case: Case,
    prepared: _Prepared,
    run: RunDescription,
    notes: Notes,
    engines: Engines,
    deadline: Deadline | None,
    output: Path,
) -> _Predicted:
    """Compute the label map; on the CPU if the GPU fails and this process may go on there.

    Raises:
        DeviceError: the GPU failed, and the user named it or a supervisor takes over.
    """
    on_gpu = engines.choice.device == "cuda"
    computation = Computation(prepared.network, prepared.body, run, notes)
    try:
        # Once a run: the next case begins with what was proven.
        engines = computation.prove(engines) if on_gpu else engines
        taken = engines if notes.sums.where == "gpu" else engines.hosted()
        used = computation.choose(taken, deadline)
        chances = _open_probabilities(prepared, run, output)
        labels = _segment(case, prepared, run, notes, used, chances)
        return _Predicted(labels, used, engines, chances)
    except DeviceError as error:
        if run.settings.device != "auto" or not on_gpu or run.supervised:
            raise
        notes.warn(gpu_failed(str(error)))
        engines = choice.open_engines(
            run.weights,
            exactness=run.precision,
            device="cpu",
            threads=run.threads,
            mirroring=run.mirroring,
            adds=run.adds,
        )
    notes.sums = place_sums(prepared.size.without_images(), engines, run)
    return _predict_labels(case, prepared, run, notes, engines, deadline, output)


def gpu_failed(reason: str) -> str:
    """Compose the warning of a case that is begun again on the CPU."""
    why = reason.removeprefix("the GPU failed ")
    return f"the GPU failed ({why}); this case is computed on the CPU from its start"


def _open_probabilities(
    prepared: _Prepared, run: RunDescription, output: Path
) -> Probabilities | None:
    if not run.probabilities:
        return None
    place, manifest = prepared.network.placement, run.weights.manifest
    return Probabilities(place, manifest, run.probabilities, output)


def _probability_writer(
    case: Case, chances: Probabilities | None, turn: Turn
) -> Callable[[Path, Grid], list[str]] | None:
    """Return what writes the probabilities beside the masks."""
    if chances is None:
        return None

    def write(folder: Path, grid: Grid) -> list[str]:
        names = {organ: probability_name(case.name, organ) for organ in chances.organs}
        for organ, name in names.items():
            write_probabilities(folder / name, grid, chances.planes(organ, turn))
        return list(names.values())

    return write


def _segment(
    case: Case,
    prepared: _Prepared,
    run: RunDescription,
    notes: Notes,
    engines: Engines,
    chances: Probabilities | None,
) -> NDArray[np.uint8]:
    sums, agreement = notes.sums, FoldAgreement(run.weights.manifest)
    with ProgressLine(f"{case.name}: tiles") as progress:
        labels = stream(
            prepared.network,
            engines,
            run.weights.manifest,
            effort=notes.effort,
            joint=sums.joint,
            mask=prepared.body,
            progress=progress,
            threads=run.threads,
            agreement=agreement,
            chances=chances,
        )
    manifest = run.weights.manifest
    folds = len(manifest.folds[: notes.effort.folds])
    notes.agreement = agreement_record(agreement, run.challenge, folds, manifest.pairs)
    return labels


def _prepare(case: Case, run: RunDescription, notes: Notes, engines: Engines) -> _Prepared:
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
    size = CaseSize(
        ct.grid,
        box,
        mr_voxels=sum(image.grid.voxels for image in images.volumes.values()) - ct.grid.voxels,
        images_bytes=held,
    )
    notes.sums = place_sums(size, engines, run)
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
    return _Prepared(network, images.stored, images.turn, body, size)


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
