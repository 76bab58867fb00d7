"""Segment cases: the only file that knows the order of the steps."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oarseg import registration
from oarseg.cases.find_cases import Case, CaseProblem, find_cases, label_path
from oarseg.challenges.challenge import Challenge, Socket
from oarseg.errors import DeviceError, OarsegError, RegistrationError
from oarseg.imaging.files import read_scan
from oarseg.imaging.orientation import Turn, for_networks
from oarseg.imaging.volume import Grid, Volume
from oarseg.inference.body import body_box, find_body
from oarseg.inference.channels import HU_RANGE, absent_channel, aligned_channel, mr_channel
from oarseg.inference.deadline import Deadline, choose, given_up
from oarseg.inference.engines import choice
from oarseg.inference.footprint import BlockMask
from oarseg.inference.preprocessing import Box, NetworkInput
from oarseg.inference.preprocessing import prepare as preprocess
from oarseg.inference.streaming import Effort
from oarseg.inference.streaming import segment as stream
from oarseg.model import manifest as bundle
from oarseg.model.agreement import challenge_of
from oarseg.model.manifest import Bundle, Channel
from oarseg.results import write_case
from oarseg.results.write_case import Record
from oarseg.system import memory
from oarseg.system.log import Progress
from oarseg.system.usage import Step, peak_mib, resident_mib
from oarseg.workflows.forecast import need
from oarseg.workflows.report import Notes, Setting, organ_volumes_cm3, report, warn_of_empty
from oarseg.workflows.settings import Model, Settings
from oarseg.workflows.supervisor import Finished, Journal

log = logging.getLogger(__name__)

PLATFORM_WEIGHTS = Path("/opt/ml/model")
SHIPPED_WEIGHTS = Path(__file__).resolve().parents[2] / "weights"


@dataclass(frozen=True)
class Failure:
    """A case that could not be segmented, and why."""

    case: str
    message: str

    def one_line(self, *, failed: int) -> str:
        """The last line on stderr: this failure, and how many there were."""
        rest = f" ({failed} cases failed; results.json lists them)" if failed > 1 else ""
        return f"{self.case}: {self.message}{rest}"


def default_weights() -> Path:
    """The platform's model folder when it holds a manifest, else the shipped weights."""
    if (PLATFORM_WEIGHTS / bundle.MANIFEST).is_file():
        return PLATFORM_WEIGHTS
    return SHIPPED_WEIGHTS


def segment_folder(settings: Settings, journal: Journal | None = None) -> tuple[Failure, ...]:
    """Segment every case of the input folder, whatever happens to the others.

    Args:
        settings: what to do.
        journal: cases that a former process has finished, and where to tell of these.

    Returns:
        The cases that failed; ``results.json`` lists them too.

    Raises:
        OarsegError: nothing can be done at all: no case, no weights, no output folder.
    """
    weights = bundle.load(settings.weights)
    rules = challenge_of(weights, settings.challenge)
    if rules.notice:
        log.warning("%s: %s", rules.title, rules.notice)
    required = frozenset(c.name for c in weights.manifest.channels if not c.optional)
    found = find_cases(settings.input, rules, required=required | {rules.reference.channel})
    write_case.check_output(settings.output)
    if weights.manifest.warning:
        log.warning("weights %s: %s", weights.manifest.title, weights.manifest.warning)
    write_case.write_results(settings.output, ())
    records = [_problem(problem, settings.output) for problem in found.problems]
    write_case.write_results(settings.output, records)
    journal = journal or Journal()
    model = None
    for number, case in enumerate(found.cases):
        known = journal.finished.get(case.name)
        if known is None:
            model = model or _model(settings, weights, rules)
            model.deadline = _deadline(settings, found.cases[number:], journal)
            journal.begins(case.name)
            record = _attempt(case, model, settings.output)
            label_file = str(record.label_file) if record.label_file else None
            journal.ends(case.name, Finished(label_file, record.error_messages))
        else:
            record = _known(case, known, rules, settings.output)
        records.append(record)
        write_case.write_results(settings.output, records)
    return tuple(Failure(r.case, r.error_messages[0]) for r in records if r.error_messages)


def _model(settings: Settings, weights: Bundle, rules: Challenge) -> Model:
    opened = choice.open_engines(weights, device=settings.device, threads=settings.threads)
    threads = settings.threads or choice.available_cpus()
    activations = choice.activation_bytes(opened, weights.manifest)
    return Model(weights, rules, opened, threads, settings, activations)


def _deadline(settings: Settings, cases: Sequence[Case], journal: Journal) -> Deadline | None:
    """The time limit, shared by the cases that are left."""
    if settings.time_limit_s is None:
        return None
    left = sum(case.name not in journal.finished for case in cases)
    return Deadline(settings.time_limit_s, left, settings.started_s)


def _problem(problem: CaseProblem, output: Path) -> Record:
    """The record of what is no case; outputs of that name, when it was one, go aside."""
    earlier = write_case.set_aside(output, problem.name, None) if _is_name(problem.name) else None
    return Record(problem.name, error_messages=_messages(problem.message, earlier))


def _is_name(name: str) -> bool:
    """Whether a name can be that of a case, and so of files."""
    return name.isprintable() and name not in ("", ".", "..") and "/" not in name


def _known(case: Case, known: Finished, rules: Challenge, output: Path) -> Record:
    """The record of a case that a former process has finished, or that ended it."""
    if known.label_file is not None:
        return Record(case.name, case.files, Path(known.label_file))
    earlier = write_case.set_aside(output, case.name, label_path(case, rules))
    return Record(case.name, case.files, error_messages=_messages(known.messages[0], earlier))


def _messages(cause: str, earlier: str | None) -> tuple[str, ...]:
    return (cause, earlier) if earlier else (cause,)


def _attempt(case: Case, model: Model, output: Path) -> Record:
    """Segment one case; what goes wrong ends in its record, not in the other cases."""
    log.info("case %s", case.name)
    earlier = None
    try:
        earlier = write_case.set_aside(output, case.name, label_path(case, model.challenge))
        label_file = segment_case(case, model, output)
    except OarsegError as error:
        log.error("%s: %s", case.name, error)
        message = str(error)
    except MemoryError:
        message = "not enough memory for this case; give the container more, or crop the CT"
        log.exception("%s: %s", case.name, message)
    except Exception as error:
        # A defect of ours must not cost the user the other cases; the traceback stays.
        message = f"internal error ({type(error).__name__}: {error}); please report it"
        log.exception("%s: %s", case.name, message)
    else:
        return Record(case.name, case.files, label_file)
    return Record(case.name, case.files, error_messages=_messages(message, earlier))


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
        return report(case, setting, notes, structures)

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
        with Progress(f"{case.name}: tiles") as progress:
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
    notes.effort, expected = choose(
        left,
        prepared.network,
        model.engines,
        manifest,
        whole=whole,
        mask=prepared.body,
        threads=model.threads,
    )
    notes.given_up = given_up(whole, notes.effort, len(model.engines.folds))
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
            name: _read(model.challenge.socket(name), path, model, notes)
            for name, path in case.files.items()
            if name in used
        }
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


def _check_memory(ct: Volume, images: dict[str, Volume], box: Box | None, model: Model) -> None:
    """Say now that memory will not do, instead of being killed in the middle.

    Raises:
        ResourceError: it will not.
    """
    depth, height, width = ct.grid.shape
    others = [image for image in images.values() if image is not ct]
    forecast = need(
        ct.grid,
        manifest=model.weights.manifest,
        box=box or ((0, depth), (0, height), (0, width)),
        mr_voxels=sum(other.grid.voxels for other in others),
        images_bytes=sum(image.array.nbytes for image in (ct, *others)),
        activations=model.activations,
    )
    log.debug("forecast: %.0f MiB on top of %.0f MiB", forecast.bytes / 2**20, resident_mib())
    memory.check(forecast, hint=", use --region body" if box is None else "")


def _read(socket: Socket, path: Path, model: Model, notes: Notes) -> Volume:
    limits = model.settings.limits
    if socket.modality != "CT":
        return read_scan.read_mr(path, limits=limits)
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
        outside=HU_RANGE[0] if is_ct else channel.absent_value,
        resample=model.settings.resample,
    )


def _moved(channel: Channel, ct: Volume, mr: Volume, model: Model, notes: Notes) -> NDArray[Any]:
    """An MR on the CT's grid; absent where its registration failed."""
    with notes.steps.step("registration"):
        method = model.settings.registration
        found = registration.register(ct, mr, method=method, threads=model.threads)
        notes.registration = registration.record(found)
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
