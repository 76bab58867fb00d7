"""Segment cases: the only file that knows the order of the steps."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from oarseg.cases.case import Case, CaseProblem, label_path
from oarseg.cases.find_cases import find_cases
from oarseg.challenges.challenge import Challenge
from oarseg.errors import OarsegError
from oarseg.inference.deadline import Deadline
from oarseg.inference.engines import choice
from oarseg.model import bundle
from oarseg.model.agreement import challenge_of
from oarseg.model.bundle import Bundle
from oarseg.model.model_folder import find_model
from oarseg.results import write_case
from oarseg.results.write_case import Record
from oarseg.system.cpus import available_cpus
from oarseg.workflows.segment_case import segment_case
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
    """The platform's model folder when there is anything in it, else the shipped weights.

    Raises:
        WeightsError: what is in it is no model, or there is none at all.
    """
    return find_model(PLATFORM_WEIGHTS, SHIPPED_WEIGHTS)


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
    weights = bundle.load_bundle(settings.weights)
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
        known = journal.outcome(case.name)
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
    threads = settings.threads or available_cpus()
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
    earlier = (
        write_case.set_case_aside(output, problem.name, None) if _is_name(problem.name) else None
    )
    return Record(problem.name, error_messages=_messages(problem.message, earlier))


def _is_name(name: str) -> bool:
    """Whether a name can be that of a case, and so of files."""
    return name.isprintable() and name not in ("", ".", "..") and "/" not in name


def _known(case: Case, known: Finished, rules: Challenge, output: Path) -> Record:
    """The record of a case that a former process has finished, or that ended it."""
    if known.label_file is not None:
        return Record(case.name, case.files, Path(known.label_file))
    earlier = write_case.set_case_aside(output, case.name, label_path(case, rules))
    return Record(case.name, case.files, error_messages=_messages(known.messages[0], earlier))


def _messages(cause: str, earlier: str | None) -> tuple[str, ...]:
    return (cause, earlier) if earlier else (cause,)


def _attempt(case: Case, model: Model, output: Path) -> Record:
    """Segment one case; what goes wrong ends in its record, not in the other cases."""
    log.info("case %s", case.name)
    earlier = None
    try:
        earlier = write_case.set_case_aside(output, case.name, label_path(case, model.challenge))
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
