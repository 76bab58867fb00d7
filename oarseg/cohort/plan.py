"""The plan of a cohort: its cases, and everything that decides what their labels are."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from oarseg.cases.case import Case
from oarseg.cases.find_cases import find_cases
from oarseg.cases.places import COHORT, safe_relative_path
from oarseg.challenges.challenge import Challenge
from oarseg.challenges.structures import STRICT
from oarseg.errors import InputError
from oarseg.imaging.files.read_scan import Limits
from oarseg.model import bundle
from oarseg.model.agreement import challenge_of
from oarseg.model.manifest import Exactness, Region
from oarseg.registration import Method
from oarseg.results.folder import replace_text
from oarseg.workflows.settings import Settings

FOLDER: Final = Path(COHORT)
PLAN: Final = FOLDER / "plan.json"
FORMAT: Final = 1
# Ten times the largest cohort known, with long names.
LARGEST_PLAN_BYTES: Final = 256 << 20


@dataclass(frozen=True, config=STRICT, kw_only=True)
class CohortOptions:
    """The user's choices that change labels; each as in ``Settings``."""

    challenge: str | None = None
    region: Region | None = None
    precision: Exactness | None = None
    mirroring: bool | None = None
    resample: bool = False
    assume_hu: bool = False
    max_voxels: int = 2 * 10**9
    max_gib: float = 8.0
    registration: Method = "rigid"


def _inside(path: str) -> str:
    if safe_relative_path(path) is None:
        raise ValueError("expected a path inside the input folder")
    return path


@dataclass(frozen=True, config=STRICT)
class InputFile:
    """A file of a case as it was when the plan was made.

    Attributes:
        path: below the input folder.
        size: in bytes.
        mtime_ns: time of its last change.
    """

    path: Annotated[str, AfterValidator(_inside)]
    size: int
    mtime_ns: int


@dataclass(frozen=True, config=STRICT)
class PlannedCase:
    """A case of the plan.

    Attributes:
        name: unique in the cohort, and a file's name.
        files: channel → file.
        problem: why it cannot be one; empty if it can.
    """

    name: Annotated[str, Field(min_length=1)]
    files: dict[str, InputFile] = dataclasses.field(default_factory=dict)
    problem: str = ""

    def case(self, root: Path) -> Case:
        """Return the case with its files."""
        return Case(self.name, {channel: root / f.path for channel, f in self.files.items()})


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
    cases: tuple[PlannedCase, ...]

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
        return Settings(
            input=Path(self.input),
            output=output,
            weights=Path(self.weights),
            device=device,
            threads=threads,
            limits=limits,
            **chosen,
        )


_PLAN: Final = TypeAdapter(Plan)


def make_plan(source: Path, weights: Path, options: CohortOptions) -> Plan:
    """Pair the cases of a folder; no image is opened.

    Raises:
        OarsegError: no case, or a model that cannot be used.
    """
    model = bundle.load_bundle(weights)
    rules = challenge_of(model, options.challenge)
    required = frozenset(c.name for c in model.manifest.channels if not c.optional)
    found = find_cases(source, rules, required=required | {rules.reference.channel})
    if any(case.series for case in found.cases):
        raise InputError(
            f"{source}: expected images in files, found DICOM; a cohort of DICOM cannot be planned "
            "yet: convert it, or use oarseg segment"
        )
    root = source.resolve()
    cases = [PlannedCase(case.name, _files(case, source)) for case in found.cases]
    problems = [PlannedCase(problem.name, problem=problem.message) for problem in found.problems]
    return Plan(
        FORMAT,
        str(root),
        str(weights.resolve()),
        model.sha256,
        rules_sha256(rules),
        options,
        tuple(sorted([*cases, *problems], key=lambda case: case.name)),
    )


def rules_sha256(rules: Challenge) -> str:
    """Return the hash of a challenge's rules."""
    text = TypeAdapter(Challenge).dump_json(rules)
    return hashlib.sha256(text).hexdigest()


def _files(case: Case, root: Path) -> dict[str, InputFile]:
    found = {}
    for channel, path in case.files.items():
        stat = os.stat(path)
        below = str(path.relative_to(root))
        found[channel] = InputFile(below, stat.st_size, stat.st_mtime_ns)
    return found


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


def check_same_run(new: Plan, output: Path) -> None:
    """Make sure that a folder's cohort, if there is one, is the same run.

    Raises:
        InputError: it is another; the message says in what they differ.
    """
    if not (output / PLAN).is_file():
        return
    different = list(new.differences(read_plan(output)))
    if different:
        raise InputError(
            f"{output}: expected the settings of the cohort in it, found {'; '.join(different)}; "
            "pass the same, or another --output"
        )
