"""Segment every case of a folder; what fails costs one case."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from oarseg.cases.case import Case, CaseProblem, label_path
from oarseg.cases.find_cases import find_cases
from oarseg.cases.places import COHORT
from oarseg.challenges.challenge import Challenge
from oarseg.errors import DeviceError, InputError, OarsegError, OutputError
from oarseg.imaging.files.dicom.series import DicomSeries
from oarseg.imaging.files.locate import locate_voxels
from oarseg.imaging.files.pixels import printable_path
from oarseg.inference.deadline import Deadline
from oarseg.inference.engines import choice
from oarseg.inference.engines.choice import Device, Engines
from oarseg.model import bundle
from oarseg.model.agreement import challenge_of
from oarseg.results import staging, write_case
from oarseg.results.lock import lock_output
from oarseg.results.results_file import Record, ResultsFile, complete_results, open_results_file
from oarseg.results.space import DiskFullError, check_disk, check_space
from oarseg.system.cpus import available_cpus
from oarseg.workflows.dicom_outputs import check_objects, check_reference
from oarseg.workflows.journal import Finished, Journal
from oarseg.workflows.output_plan import OutputPlan, plan_outputs
from oarseg.workflows.review.report_pages import (
    drop_index,
    drop_page,
    write_case_page,
    write_failure_page,
    write_index,
)
from oarseg.workflows.segment_case import gpu_failed, segment_case
from oarseg.workflows.settings import RunDescription, Settings, describe_run

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure:
    """A case that could not be segmented, and why."""

    case: str
    message: str

    def one_line(self, *, failed: int) -> str:
        """The last line on stderr: this failure, and how many there were."""
        rest = f" ({failed} cases failed; results.json lists them)" if failed > 1 else ""
        return f"{self.case}: {self.message}{rest}"


@dataclass
class OpenNetworks:
    """The networks of a process, which stay open from case to case and from run to run.

    Attributes:
        engines: None before the first case that needs them.
        activations: bytes that a network allocates while it runs and frees afterwards.
        on_cpu: the CPU was asked for.
        usable: no GPU has failed in this process.
    """

    engines: Engines | None = None
    activations: int = 0
    on_cpu: bool = False
    usable: bool = True

    def are_for(self, device: Device) -> bool:
        """Return whether they are open and on this device."""
        return self.engines is not None and (device == "cpu") == self.on_cpu

    def open(self, run: RunDescription, device: Device) -> Engines:
        """Open them on a device, in place of those that are open."""
        self.engines, self.on_cpu = None, device == "cpu"
        self.engines = choice.open_engines(
            run.weights,
            exactness=run.precision,
            device=device,
            threads=run.settings.threads,
            mirroring=run.mirroring,
            adds=run.adds,
        )
        self.activations = choice.activation_bytes(
            self.engines, run.weights.manifest, mean=run.precision == "fast"
        )
        return self.engines

    def replace(self, engines: Engines) -> None:
        """Go on with other networks, such as the CPU's after a GPU failed."""
        if self.engines is not None and self.engines.choice.device != engines.choice.device:
            self.usable = False
        self.engines = engines


def segment_folder(
    settings: Settings, journal: Journal | None = None, *, networks: OpenNetworks | None = None
) -> tuple[Failure, ...]:
    """Segment every case of the input folder, whatever happens to the others.

    Args:
        settings: what to do.
        networks: those of a former run with the same model and settings, to go on with.
        journal: cases that a former process has finished, and where to report on these. Its
            supervisor holds the output folder; without a supervisor, this function does.

    Returns:
        The cases that failed; ``results.json`` lists them too.

    Raises:
        OarsegError: nothing can be done at all: no case, no weights, no output folder, or
            one that another run writes to.
    """
    networks = networks or OpenNetworks()
    if journal is not None and journal.pipe is not None:
        return _segment_folder(settings, journal, networks)
    with lock_output(settings.output):
        return _segment_folder(settings, journal or Journal(), networks)


def _segment_folder(
    settings: Settings, journal: Journal, networks: OpenNetworks
) -> tuple[Failure, ...]:
    weights = bundle.load_bundle(settings.weights)
    rules = challenge_of(weights, settings.challenge)
    threads = settings.threads or available_cpus()
    description = replace(
        describe_run(settings, weights, rules, threads=threads),
        supervised=journal.pipe is not None,
        # In case it is they that crashed.
        adds=not journal.crashes,
    )
    if rules.notice:
        log.warning("%s: %s", rules.title, rules.notice)
    required = frozenset(c.name for c in weights.manifest.channels if not c.optional)
    check_objects(settings, rules)
    found = find_cases(
        settings.input,
        rules,
        required=required | {rules.reference.channel},
        wanted=settings.series,
    )
    _log_ignored(found.ignored)
    _check_output(settings)
    if weights.manifest.warning:
        log.warning("weights %s: %s", weights.manifest.title, weights.manifest.warning)
    staging.recover_cases(settings.output)
    complete_results(settings.output)
    plan = plan_outputs(settings.output, rules, found)
    records = [_record_problem(problem, plan) for problem in plan.problems]
    with open_results_file(settings.output, kept=plan.kept, records=records) as results:
        plan.earlier.move_pending()
        run = _Run(description, plan, journal, results, networks)
        failures = [*map(_failure, records), *run.segment_cases()]
    plan.earlier.move_pending()
    _write_review(settings, failures)
    return tuple(failures)


def _write_review(settings: Settings, failures: Sequence[Failure]) -> None:
    """Write the pages of failed cases and the index; remove pages of what failed otherwise."""
    messages = {failure.case: failure.message for failure in failures}
    try:
        for case, message in messages.items():
            if settings.report_pages:
                write_failure_page(settings.output, case, (message,))
            else:
                drop_page(settings.output, case)
        if settings.report_pages:
            write_index(settings.output, messages)
        else:
            drop_index(settings.output)
    except OutputError as error:
        log.warning("the pages of failed cases and the index are not complete: %s", error)


def _failure(record: Record) -> Failure:
    return Failure(record.case, record.error_messages[0])


def _log_ignored(ignored: Sequence[Path]) -> None:
    if ignored:
        names = ", ".join(printable_path(path.name) for path in ignored[:5])
        rest = " …" if len(ignored) > 5 else ""
        log.info("%d files beside the images are none, left out: %s%s", len(ignored), names, rest)


def _check_output(settings: Settings) -> None:
    """Make sure that the output folder takes files, and is not the input.

    Raises:
        OutputError: it does not.
        InputError: label files could replace those of the data set.
    """
    write_case.check_output(settings.output)
    if (settings.output / COHORT).exists():
        raise InputError(
            f"{settings.output}: expected an output folder of oarseg segment, found a cohort's; "
            "go on with oarseg cohort run, or pass another --output"
        )
    if os.path.samefile(settings.input, settings.output):
        raise InputError(
            f"{settings.output}: expected an output folder of its own, found the input folder; "
            "pass another --output"
        )


@dataclass
class _Run:
    """The cases of one run, one after the other."""

    description: RunDescription
    plan: OutputPlan
    journal: Journal
    results: ResultsFile
    networks: OpenNetworks
    worn_out: bool = False

    def segment_cases(self) -> list[Failure]:
        """Segment all cases; returns those that failed."""
        known = [case for case in self.plan.cases if self.journal.outcome(case.name)]
        failures = self._record_known(known)
        for number, case in enumerate(self.plan.cases):
            if self.journal.outcome(case.name):
                continue
            try:
                record = self._begin(case, number)
            except DiskFullError as error:
                log.error("%s", error)
                return [*failures, *self._leave_out(self.plan.cases[number:], str(error))]
            self._keep(record)
            if record.error_messages:
                failures.append(_failure(record))
            elif self.settings.report_pages:
                # Once the case is recorded, so that nothing that happens here can undo it.
                self._write_page(case)
            if self.worn_out:
                self.journal.ends_worker()
        return failures

    def _record_known(self, cases: Sequence[Case]) -> list[Failure]:
        """Record cases that a former process has finished, that ended it, or never begun."""
        records = []
        for case in cases:
            known = self.journal.finished.get(case.name)
            if known is not None and known.label_file is not None:
                records.append(Record(case.name, case.files, Path(known.label_file)))
            elif known is not None:
                records.append(self._record_failure(case, known.messages[0]))
        self._keep(*records)
        failures = [_failure(record) for record in records if record.error_messages]
        if self.journal.over is None:
            return failures
        left = [case for case in cases if case.name not in self.journal.finished]
        return [*failures, *self._leave_out(left, self.journal.over.messages[0])]

    def _begin(self, case: Case, number: int) -> Record:
        """Segment a case, and report it to the supervisor.

        Raises:
            DiskFullError: there is no room for any case.
        """
        check_disk(self.settings.output)
        engines = self._open_engines(case)
        deadline = _deadline(self.settings, self.plan.cases[number:], self.journal)
        replaceable = engines.choice.device == "cuda" and self.settings.device == "auto"
        self.journal.begins(case.name, on_gpu=replaceable)
        record = self._attempt(case, engines, deadline)
        label_file = str(record.label_file) if record.label_file else None
        self.journal.ends(case.name, Finished(label_file, record.error_messages))
        return record

    @property
    def settings(self) -> Settings:
        """The user's choices."""
        return self.description.settings

    @property
    def rules(self) -> Challenge:
        """The challenge that the weights are for."""
        return self.description.challenge

    def _open_engines(self, case: Case) -> Engines:
        """Open the networks for the first case that needs them.

        A case in which the GPU has failed gets the CPU, and the next one the GPU again.
        """
        device = self.settings.device
        if device == "auto" and self._avoids_gpu(case):
            device = "cpu"
        if not self.networks.are_for(device) and device == "auto":
            self.journal.tries_gpu()
        engines = self.networks.engines
        if engines is None or not self.networks.are_for(device):
            engines = self.networks.open(self.description, device)
        self.description = replace(self.description, activations=self.networks.activations)
        return engines

    def _avoids_gpu(self, case: Case) -> bool:
        return bool(self.journal.no_gpu) or case.name in self.journal.gpu_failures

    def _keep(self, *records: Record) -> None:
        if not records:
            return
        self.results.append(*records)
        if self.results.is_due:
            self.results.write()
            self.plan.earlier.move_pending()

    def _leave_out(self, cases: Sequence[Case], message: str) -> list[Failure]:
        """Record cases that are not begun; what an earlier run made of them stays listed."""
        bare = [case for case in cases if not self.results.keeps(case.name)]
        self._keep(*(self._record_failure(case, message) for case in bare))
        return [Failure(case.name, message) for case in cases]

    def _record_failure(self, case: Case, message: str) -> Record:
        """Record a failed case, and get an earlier run's outputs of it out of their places."""
        earlier = self.plan.earlier
        # What is listed has to stay until it is no longer.
        move = earlier.set_aside_later if self.results.keeps(case.name) else earlier.set_aside
        aside = None
        try:
            aside = move(case.name, label_path(case, self.rules))
        except OutputError as error:
            log.error("%s: its outputs of an earlier run stay in place: %s", case.name, error)
        messages = (message, aside) if aside else (message,)
        return Record(case.name, case.files, error_messages=messages)

    def _attempt(self, case: Case, engines: Engines, deadline: Deadline | None) -> Record:
        """Segment one case; what goes wrong ends in its record, not in the other cases."""
        log.info("case %s", case.name)
        output = self.settings.output
        try:
            if not self.results.keeps(case.name):
                self.plan.earlier.set_aside(case.name, label_path(case, self.rules))
            check_reference(case, self.rules, self.settings)
            write_case.check_places(output, case, self.rules)
            _check_space(output, case, self.description)
            segmented = segment_case(
                case,
                self.description,
                output,
                engines=engines,
                deadline=deadline,
                warnings=(*self._gpu_warnings(case), *self._crash_warnings(case)),
            )
            self.networks.replace(segmented.engines)
            return Record(case.name, case.files, segmented.label_file)
        except DeviceError as error:
            message = str(error)
            if engines.choice.device == "cuda":
                self.networks.usable = False
                self._leave_gpu(case, message)
            log.error("%s: %s", case.name, message)
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
        return self._record_failure(case, message)

    def _write_page(self, case: Case) -> None:
        """Write the page of a case that was segmented, which a fault of the page does not undo."""
        try:
            write_case_page(case, self.settings.output, self.rules)
        except (OarsegError, MemoryError) as error:
            log.warning("%s: no page written: %s", case.name, error)

    def _leave_gpu(self, case: Case, message: str) -> None:
        """Let another worker go on: with this case on the CPU, or if that may not be with the next.

        This process cannot use the GPU any more. Without a supervisor it goes on as it can.
        """
        if not self.description.supervised:
            return
        if self.settings.device == "auto":
            log.warning("%s: %s", case.name, message)
            self.journal.leaves_gpu(case.name, message)
        self.worn_out = True

    def _gpu_warnings(self, case: Case) -> tuple[str, ...]:
        """Say why a case is not computed on the GPU that the run began with."""
        failures = self.journal.gpu_failures
        if case.name in failures:
            return (gpu_failed(failures[case.name]),)
        if self.journal.no_gpu and self.settings.device == "auto":
            return (f"computed on the CPU: the GPU is not tried, {self.journal.no_gpu}",)
        return ()

    def _crash_warnings(self, case: Case) -> tuple[str, ...]:
        reason = self.journal.crashes.get(case.name)
        return (f"{reason}; this case is begun again",) if reason else ()


def _check_space(output: Path, case: Case, run: RunDescription) -> None:
    """Make sure that the disk has room for a case's outputs, before it is computed.

    Raises:
        OutputError: it has not.
    """
    source = case.source(run.challenge.reference.channel)
    try:
        located = source if isinstance(source, DicomSeries) else locate_voxels(source)
        voxels = located.grid.voxels
    except InputError:
        # Reading the image says what is wrong with it.
        return
    check_space(output, case, run.challenge, voxels, probabilities=len(run.probabilities))


def _record_problem(problem: CaseProblem, plan: OutputPlan) -> Record:
    """Record what is no case; outputs of that name, from when it was one, go aside."""
    aside = None
    try:
        aside = plan.earlier.set_aside_later(problem.name)
    except OutputError as error:
        log.error("%s: its outputs of an earlier run stay in place: %s", problem.name, error)
    messages = (problem.message, aside) if aside else (problem.message,)
    return Record(problem.name, error_messages=messages)


def _deadline(settings: Settings, cases: Sequence[Case], journal: Journal) -> Deadline | None:
    """The time limit, shared by the cases that are left."""
    if settings.time_limit_s is None:
        return None
    left = sum(case.name not in journal.finished for case in cases)
    return Deadline(settings.time_limit_s, left, settings.started_s)
