"""The plan of a cohort: its cases, and everything that decides what their labels are."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
from collections.abc import Container, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import AfterValidator, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from oarseg.cases.case import Case
from oarseg.cases.dicom_cases import WantedSeries
from oarseg.cases.find_cases import find_cases
from oarseg.cases.places import COHORT, NAME_BYTES, RESULTS, is_case_name
from oarseg.challenges.challenge import Challenge
from oarseg.challenges.structures import STRICT
from oarseg.cohort.inputs import Input, planned_inputs
from oarseg.errors import InputError
from oarseg.imaging.files.read_scan import Limits
from oarseg.model import bundle
from oarseg.model.agreement import challenge_of
from oarseg.model.manifest import Exactness, Region
from oarseg.plausibility.repair import Repair
from oarseg.registration import Method
from oarseg.results.dicom.segmentation import SegmentationForm
from oarseg.results.folder import replace_text
from oarseg.results.write_case import check_output
from oarseg.workflows.dicom_outputs import check_objects
from oarseg.workflows.settings import Settings

FOLDER: Final = Path(COHORT)
PLAN: Final = FOLDER / "plan.json"
FORMAT: Final = 1
# Ten times the largest cohort known, with long names.
LARGEST_PLAN_BYTES: Final = 256 << 20
# What the cohort's own files add to a case's name: the number of an attempt, `.json`, a token.
LONGEST_ENDING: Final = 15
LONGEST_NAME_SHOWN: Final = 200


@dataclass(frozen=True, config=STRICT, kw_only=True)
class CohortOptions:
    """The user's choices that change what is written; each as in ``Settings``.

    Attributes:
        repair, report: see ``Settings.repair`` and ``report_pages``.
        rtstruct, dicom_seg: the DICOM objects to write.
        series, mr_series: see ``WantedSeries``.
    """

    challenge: str | None = None
    region: Region | None = None
    precision: Exactness | None = None
    mirroring: bool | None = None
    resample: bool = False
    assume_hu: bool = False
    max_voxels: int = 2 * 10**9
    max_gib: float = 8.0
    registration: Method = "rigid"
    repair: tuple[Repair, ...] = ()
    report: bool = False
    rtstruct: bool = False
    dicom_seg: SegmentationForm | None = None
    series: tuple[str, ...] = ()
    mr_series: tuple[str, ...] = ()


def _case_name(name: str) -> str:
    if not is_case_name(name) or len(name.encode()) > NAME_BYTES - LONGEST_ENDING:
        raise ValueError("expected a name that files can have")
    return name


@dataclass(frozen=True, config=STRICT)
class PlannedCase:
    """A case of the plan.

    Attributes:
        name: unique in the cohort, and a file's name.
        files: channel → file, or series of DICOM.
        problem: why it cannot be one; empty if it can.
    """

    name: Annotated[str, AfterValidator(_case_name)]
    files: dict[str, Input] = dataclasses.field(default_factory=dict)
    problem: str = ""


def _distinct(cases: tuple[PlannedCase, ...]) -> tuple[PlannedCase, ...]:
    if len({case.name for case in cases}) < len(cases):
        raise ValueError("expected a name of its own for each case")
    return cases


@dataclass(frozen=True, config=STRICT)
class Plan:
    """A cohort.

    Attributes:
        format: of the file.
        input: the input folder, absolute.
        weights: the model's folder, absolute.
        manifest: SHA-256 of its manifest.
        challenge: SHA-256 of the challenge's rules.
        options: see there.
        cases: in order.
    """

    format: int
    input: str
    weights: str
    manifest: str
    challenge: str
    options: CohortOptions
    cases: Annotated[tuple[PlannedCase, ...], AfterValidator(_distinct)]

    def differences(self, other: Plan) -> Iterator[str]:
        """Yield what makes another plan another run, in words; nothing if it is the same."""
        if self.input != other.input:
            yield f"input {self.input}, not {other.input}"
        if self.manifest != other.manifest:
            yield f"weights {self.weights} ({self.manifest[:12]}), not {other.manifest[:12]}"
        if self.challenge != other.challenge:
            yield "another challenge, or another version of its rules"
        mine, others = dataclasses.asdict(self.options), dataclasses.asdict(other.options)
        for name, value in mine.items():
            if value != others[name]:
                yield f"{name} {value}, not {others[name]}"

    def settings(self, output: Path, *, device: Any, threads: int) -> Settings:
        """Return the settings of a worker that writes to ``output``."""
        chosen = dataclasses.asdict(self.options)
        limits = Limits(chosen.pop("max_voxels"), math.ceil(chosen.pop("max_gib") * (1 << 30)))
        wanted = WantedSeries(chosen.pop("series"), chosen.pop("mr_series"))
        return Settings(
            input=Path(self.input),
            output=output,
            weights=Path(self.weights),
            device=device,
            threads=threads,
            limits=limits,
            series=wanted,
            report_pages=chosen.pop("report"),
            structure_set=chosen.pop("rtstruct"),
            segmentation=chosen.pop("dicom_seg"),
            **chosen,
        )


_PLAN: Final = TypeAdapter(Plan)


def make_plan(source: Path, weights: Path, options: CohortOptions) -> Plan:
    """Pair the cases of a folder; no image is opened, of DICOM the headers are read.

    Raises:
        OarsegError: no case, or a model that cannot be used.
    """
    model = bundle.load_bundle(weights)
    options = settled(options)
    rules = challenge_of(model, options.challenge)
    root, folder = _text_of(source.resolve()), _text_of(weights.resolve())
    plan = Plan(FORMAT, root, folder, model.sha256, rules_sha256(rules), options, ())
    settings = plan.settings(Path("unused"), device="cpu", threads=1)
    check_objects(settings, rules)
    required = frozenset(c.name for c in model.manifest.channels if not c.optional)
    required |= {rules.reference.channel}
    found = find_cases(source, rules, required=required, wanted=settings.series)
    cases = {case.name: _planned(case, source) for case in found.cases}
    for problem in found.problems:
        name = _free_name(problem.name, cases)
        cases[name] = PlannedCase(name, problem=plain_text(problem.message))
    return replace(plan, cases=tuple(cases[name] for name in sorted(cases)))


def _planned(case: Case, source: Path) -> PlannedCase:
    try:
        return PlannedCase(case.name, planned_inputs(case, source))
    except InputError as error:
        return PlannedCase(case.name, problem=str(error))


def _free_name(wanted: str, taken: Container[str]) -> str:
    """Return a name for what is no case: files in the cohort's folder are called so."""
    shown = "".join(c if c.isprintable() and c != "/" else "?" for c in wanted)
    text = shown.encode()[:LONGEST_NAME_SHOWN].decode(errors="ignore")
    name, number = shown, 0
    while name != text or not is_case_name(name) or name in taken:
        digest = hashlib.sha256(f"{number} {wanted}".encode(errors="backslashreplace"))
        text = name = f"{text[:64]}-{digest.hexdigest()[:12]}"
        number += 1
    return name


def plain_text(message: str) -> str:
    """Return a message as JSON can hold it: file names may be no text."""
    return message.encode(errors="backslashreplace").decode()


def _text_of(path: Path) -> str:
    """Return a path as a plan can hold it.

    Raises:
        InputError: it is no text.
    """
    if not str(path).isprintable():
        raise InputError(
            f"{str(path)!a}: expected a folder with a printable path, found another; rename it"
        )
    return str(path)


def settled(options: CohortOptions) -> CohortOptions:
    """Return options that mean the same in every working directory.

    Raises:
        InputError: the challenge's file has a path that is no text.
    """
    named = options.challenge
    if named is None or not named.endswith(".toml"):
        return options
    return replace(options, challenge=_text_of(Path(named).resolve()))


def rules_sha256(rules: Challenge) -> str:
    """Return the hash of a challenge's rules."""
    text = TypeAdapter(Challenge).dump_json(rules)
    return hashlib.sha256(text).hexdigest()


def write_plan(output: Path, plan: Plan) -> None:
    """Write the plan into the output folder, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    replace_text(output, PLAN, _PLAN.dump_json(plan).decode() + "\n")


def read_plan(output: Path) -> Plan:
    """Read the plan of an output folder.

    Raises:
        InputError: there is none, or it is damaged.
    """
    path = output / PLAN
    try:
        with path.open("rb") as stream:
            text = stream.read(LARGEST_PLAN_BYTES + 1)
    except OSError as error:
        raise InputError(
            f"{path}: expected a cohort's plan, cannot read it ({error.strerror}); make one with "
            "oarseg cohort plan"
        ) from error
    try:
        plan = _PLAN.validate_json(text)
    except ValidationError as error:
        raise InputError(
            f"{path}: expected a cohort's plan, found {error.error_count()} faults in it; make it "
            "anew with oarseg cohort plan"
        ) from error
    if plan.format != FORMAT:
        raise InputError(f"{path}: expected format {FORMAT}, found {plan.format}")
    return plan


def check_folder(new: Plan, output: Path) -> None:
    """Make sure that an output folder can be a plan's.

    Raises:
        InputError: it is the input folder, or holds another run; the message says in what they
            differ.
        OutputError: it cannot be written to, or a link lies where outputs go.
    """
    check_output(output)
    if os.path.samefile(new.input, output):
        raise InputError(
            f"{output}: expected an output folder of its own, found the input folder; pass "
            "another --output"
        )
    if (output / PLAN).is_file():
        check_same_run(new, read_plan(output), output)
    elif (output / RESULTS).exists():
        raise InputError(
            f"{output}: expected a cohort's output folder, or an empty one, found that of oarseg "
            "segment; pass another --output"
        )


def check_same_run(new: Plan, old: Plan, output: Path) -> None:
    """Make sure that a plan is the same run as the one in its output folder.

    Raises:
        InputError: it is another; the message says in what they differ.
    """
    different = list(new.differences(old))
    if different:
        raise InputError(
            f"{output}: expected the settings of the cohort in it, found {'; '.join(different)}; "
            "pass the same, or another --output"
        )
