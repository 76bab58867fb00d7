"""Segment cases: the only file that knows the order of the steps."""

from __future__ import annotations

import logging
import platform
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from oarseg import __version__, bundle, engines, reading, registration, writing
from oarseg.agreement import challenge_of
from oarseg.blocks import BlockMask
from oarseg.bundle import Bundle, Channel
from oarseg.cases import Case, CaseProblem, find_cases, label_path
from oarseg.challenge import Challenge, Socket
from oarseg.channels import HU_RANGE, absent_channel, aligned_channel, mr_channel
from oarseg.errors import OarsegError, RegistrationError
from oarseg.log import Progress
from oarseg.orientation import Turn, for_networks
from oarseg.preprocessing import NetworkInput
from oarseg.preprocessing import prepare as preprocess
from oarseg.region import body_box, find_body
from oarseg.steps import Step, Steps, peak_mib
from oarseg.streaming import segment as stream
from oarseg.supervisor import Finished, Journal
from oarseg.volume import Grid, Volume
from oarseg.writing import Record

log = logging.getLogger(__name__)

Region = Literal["body", "full"]

PLATFORM_WEIGHTS = Path("/opt/ml/model")
SHIPPED_WEIGHTS = Path(__file__).resolve().parent.parent / "weights"
PACKAGES = (
    "numpy",
    "scipy",
    "SimpleITK",
    "itk-elastix",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
)


@dataclass(frozen=True)
class Settings:
    """What the user chose.

    Attributes:
        challenge: a challenge's name or TOML file; None takes the one the weights are for.
        threads: 0 takes every core this process may use.
        region: ``body`` crops to the patient before the network, ``full`` lays nnU-Net's
            own tiles over the whole image. Either way tiles without a voxel of the body
            are left out, and outside the body all is background.
        resample: bring images that should lie on the reference's grid onto it.
        assume_hu: take a CT's values for Hounsfield units, whatever they look like.
        limits: what the headers of input files may promise.
        registration: how the MR is brought onto the CT, see ``registration.register``.
    """

    input: Path
    output: Path
    weights: Path
    challenge: str | None = None
    device: Literal["auto", "cuda", "cpu"] = "auto"
    threads: int = 0
    region: Region = "body"
    resample: bool = False
    assume_hu: bool = False
    limits: reading.Limits = field(default_factory=reading.Limits)
    registration: registration.Method = "rigid"


@dataclass(frozen=True)
class Failure:
    """A case that could not be segmented, and why."""

    case: str
    message: str

    def one_line(self, *, failed: int) -> str:
        """The last line on stderr: this failure, and how many there were."""
        rest = f" ({failed} cases failed; results.json lists them)" if failed > 1 else ""
        return f"{self.case}: {self.message}{rest}"


@dataclass(frozen=True)
class Model:
    """Everything that is loaded once and serves every case."""

    weights: Bundle
    challenge: Challenge
    engines: engines.Engines
    threads: int
    settings: Settings


@dataclass
class Notes:
    """What a case's report gathers on the way."""

    steps: Steps = field(default_factory=Steps)
    warnings: list[str] = field(default_factory=list)
    registration: dict[str, Any] | None = None

    def warn(self, message: str) -> None:
        """Log a warning and keep it for the report."""
        log.warning("%s", message)
        self.warnings.append(message)


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
    writing.check_output(settings.output)
    if weights.manifest.warning:
        log.warning("weights %s: %s", weights.manifest.title, weights.manifest.warning)
    writing.write_results(settings.output, ())
    records = [_problem(problem, settings.output) for problem in found.problems]
    writing.write_results(settings.output, records)
    journal = journal or Journal()
    model = None
    for case in found.cases:
        known = journal.finished.get(case.name)
        if known is None:
            model = model or _model(settings, weights, rules)
            journal.begins(case.name)
            record = _attempt(case, model, settings.output)
            label_file = str(record.label_file) if record.label_file else None
            journal.ends(case.name, Finished(label_file, record.error_messages))
        else:
            record = _known(case, known, rules, settings.output)
        records.append(record)
        writing.write_results(settings.output, records)
    return tuple(Failure(r.case, r.error_messages[0]) for r in records if r.error_messages)


def _model(settings: Settings, weights: Bundle, rules: Challenge) -> Model:
    opened = engines.open_engines(weights, device=settings.device, threads=settings.threads)
    threads = settings.threads or engines.available_cpus()
    return Model(weights, rules, opened, threads, settings)


def _problem(problem: CaseProblem, output: Path) -> Record:
    """The record of what is no case; outputs of that name, when it was one, go aside."""
    earlier = writing.set_aside(output, problem.name, None) if _is_name(problem.name) else None
    return Record(problem.name, error_messages=_messages(problem.message, earlier))


def _is_name(name: str) -> bool:
    """Whether a name can be that of a case, and so of files."""
    return name.isprintable() and name not in ("", ".", "..") and "/" not in name


def _known(case: Case, known: Finished, rules: Challenge, output: Path) -> Record:
    """The record of a case that a former process has finished, or that ended it."""
    if known.label_file is not None:
        return Record(case.name, case.files, Path(known.label_file))
    earlier = writing.set_aside(output, case.name, label_path(case, rules))
    return Record(case.name, case.files, error_messages=_messages(known.messages[0], earlier))


def _messages(cause: str, earlier: str | None) -> tuple[str, ...]:
    return (cause, earlier) if earlier else (cause,)


def _attempt(case: Case, model: Model, output: Path) -> Record:
    """Segment one case; what goes wrong ends in its record, not in the other cases."""
    log.info("case %s", case.name)
    earlier = None
    try:
        earlier = writing.set_aside(output, case.name, label_path(case, model.challenge))
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
    with notes.steps.step("segmentation"), Progress(f"{case.name}: tiles") as progress:
        labels = stream(
            prepared.network,
            model.engines.folds,
            model.weights.manifest,
            mask=prepared.body,
            progress=progress,
            threads=model.threads,
        )
    grid = prepared.stored
    labels = prepared.turn.back(labels)
    del prepared
    structures = _volumes_cm3(labels, model, grid)
    _warn_of_empty(structures, notes)
    start = time.perf_counter()

    def report() -> dict[str, Any]:
        notes.steps.done.append(Step("writing", time.perf_counter() - start, peak_mib()))
        return _report(case, model, notes, structures)

    written = writing.write_case(
        output, case=case, challenge=model.challenge, labels=Volume(labels, grid), report=report
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
        body = find_body(ct)
        if body is None:
            notes.warn("no body found in the CT: the whole image is segmented")
        network = preprocess(
            channels,
            ct.grid.spacing_mm,
            model.weights.manifest,
            box=body_box(body, ct.grid) if model.settings.region == "body" else None,
            threads=model.threads,
        )
    return _Prepared(network, grid, turn, body)


def _read(socket: Socket, path: Path, model: Model, notes: Notes) -> Volume:
    limits = model.settings.limits
    if socket.modality != "CT":
        return reading.read_mr(path, limits=limits)
    return reading.read_ct(path, limits=limits, assume_hu=model.settings.assume_hu, warn=notes.warn)


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
        found = registration.register(
            ct, mr, method=model.settings.registration, threads=model.threads
        )
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


def _volumes_cm3(labels: NDArray[np.uint8], model: Model, grid: Grid) -> dict[str, float]:
    """Volume of each organ, by name."""
    count = np.bincount(labels.ravel(), minlength=256)
    return {
        organ.name: round(float(count[list(organ.labels)].sum()) * grid.voxel_volume_mm3 / 1000, 3)
        for organ in model.challenge.organs
    }


def _warn_of_empty(volumes_cm3: dict[str, float], notes: Notes) -> None:
    empty = [name for name, volume in volumes_cm3.items() if volume == 0]
    if empty:
        notes.warn(f"not found in the images: {', '.join(empty)}")


def _report(
    case: Case, model: Model, notes: Notes, volumes_cm3: dict[str, float]
) -> dict[str, Any]:
    manifest, choice = model.weights.manifest, model.engines.choice
    return {
        "case": case.name,
        "inputs": {name: path.name for name, path in case.files.items()},
        "label_file": str(label_path(case, model.challenge)),
        "challenge": model.challenge.name,
        "model": {
            "title": manifest.title,
            "warning": manifest.warning,
            "manifest_sha256": model.weights.sha256,
            "folds": manifest.folds,
        },
        "device": asdict(choice),
        "threads": model.threads,
        "region": model.settings.region,
        "assume_hu": model.settings.assume_hu,
        "registration": notes.registration,
        "steps": [
            {"name": s.name, "seconds": round(s.seconds, 2), "peak_mib": round(s.peak_mib)}
            for s in notes.steps.done
        ],
        "volumes_cm3": volumes_cm3,
        "warnings": notes.warnings,
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    found = {"oarseg": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):  # onnxruntime comes under one of two names
            found[name] = version(name)
    return found
