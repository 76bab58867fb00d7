"""Segment every case of a folder; what fails costs one case."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from oarseg.cases.case import Case, CaseProblem, label_path
from oarseg.cases.find_cases import find_cases
from oarseg.challenges.challenge import Challenge
from oarseg.errors import InputError, OarsegError, OutputError
from oarseg.imaging.files.dicom.series import DicomSeries
from oarseg.imaging.files.locate import locate_voxels
from oarseg.imaging.files.pixels import printable_path
from oarseg.inference.deadline import Deadline
from oarseg.inference.engines import choice
from oarseg.inference.engines.choice import Engines
from oarseg.model import bundle
from oarseg.model.agreement import challenge_of
from oarseg.results import staging, write_case
from oarseg.results.lock import lock_output
from oarseg.results.results_file import Record, ResultsFile, complete_results, open_results_file
from oarseg.results.space import DiskFullError, check_disk, check_space
from oarseg.system.cpus import available_cpus
from oarseg.workflows.dicom_outputs import check_objects, check_reference
from oarseg.workflows.output_plan import OutputPlan, plan_outputs
from oarseg.workflows.report_pages import (
    drop_index,
    drop_page,
    write_case_page,
    write_failure_page,
    write_index,
)
from oarseg.workflows.segment_case import segment_case
from oarseg.workflows.settings import RunDescription, Settings, describe_run
from oarseg.workflows.supervisor import Finished, Journal

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


def segment_folder(settings: Settings, journal: Journal | None = None) -> tuple[Failure, ...]:
    """Segment every case of the input folder, whatever happens to the others.

    Args:
        settings: what to do.
        journal: cases that a former process has finished, and where to report on these. Its
            supervisor holds the output folder; without a supervisor, this function does.

    Returns:
        The cases that failed; ``results.json`` lists them too.

    Raises:
        OarsegError: nothing can be done at all: no case, no weights, no output folder, or
            one that another run writes to.
    """
    if journal is not None and journal.pipe is not None:
        return _segment_folder(settings, journal)
    with lock_output(settings.output):
        return _segment_folder(settings, journal or Journal())


def _segment_folder(settings: Settings, journal: Journal) -> tuple[Failure, ...]:
    weights = bundle.load_bundle(settings.weights)
    rules = challenge_of(weights, settings.challenge)
    threads = settings.threads or available_cpus()
    description = describe_run(settings, weights, rules, threads=threads)
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
        run = _Run(description, plan, journal, results)
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
    engines: Engines | None = None

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
        self._open_engines()
        deadline = _deadline(self.settings, self.plan.cases[number:], self.journal)
        self.journal.begins(case.name)
        record = self._attempt(case, deadline)
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

    def _open_engines(self) -> Engines:
        """Open the networks for the first case that needs them."""
        if self.engines is None:
            run = self.description
            self.engines = choice.open_engines(
                run.weights,
                exactness=run.precision,
                device=run.settings.device,
                threads=run.settings.threads,
            )
            activations = choice.activation_bytes(self.engines, run.weights.manifest)
            self.description = replace(run, activations=activations)
        return self.engines

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

    def _attempt(self, case: Case, deadline: Deadline | None) -> Record:
        """Segment one case; what goes wrong ends in its record, not in the other cases."""
        log.info("case %s", case.name)
        output = self.settings.output
        try:
            if not self.results.keeps(case.name):
                self.plan.earlier.set_aside(case.name, label_path(case, self.rules))
            check_reference(case, self.rules, self.settings)
            write_case.check_places(output, case, self.rules)
            _check_space(output, case, self.rules)
            engines = self._open_engines()
            segmented = segment_case(
                case, self.description, output, engines=engines, deadline=deadline
            )
            self.engines = segmented.engines
            return Record(case.name, case.files, segmented.label_file)
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


def _check_space(output: Path, case: Case, rules: Challenge) -> None:
    """Make sure that the disk has room for a case's outputs, before it is computed.

    Raises:
        OutputError: it has not.
    """
    source = case.source(rules.reference.channel)
    try:
        located = source if isinstance(source, DicomSeries) else locate_voxels(source)
        voxels = located.grid.voxels
    except InputError:
        # Reading the image says what is wrong with it.
        return
    check_space(output, case, rules, voxels)


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
