"""The process that computes, without its networks."""

from __future__ import annotations

import errno
import io
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cohort_fakes import make_cohort

from oarseg.cases.case import Case
from oarseg.cohort.manner import Manner
from oarseg.cohort.plan import Plan
from oarseg.cohort.segmenter import Segmenter, answer_requests
from oarseg.errors import DeviceError, InputError, OutputError, ResourceError

CASES = 4
SHORT = "needs 9 GiB"


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return make_cohort(tmp_path, cases=CASES, manner=Manner())[0]


class Fake(Segmenter):
    """Calls a function where a case would be segmented."""

    def __init__(self, plan: Plan, work: Callable[[Case], None]) -> None:
        super().__init__(plan, None, None)  # type: ignore[arg-type]
        self._work = work

    def _segment(self, case: Case, stage: Path) -> dict[str, Any]:
        self._work(case)
        return {"label_file": "a", "outputs": ["a"]}


def answers_of(segmenter: Segmenter, plan: Plan, *, feeders: int) -> dict[str, dict[str, Any]]:
    reading, writing = os.pipe()
    lines = [json.dumps({"case": case.name, "stage": "unused"}) + "\n" for case in plan.cases]
    answer_requests(segmenter, io.StringIO("".join(lines)), writing, feeders=feeders)
    os.close(writing)
    with os.fdopen(reading) as stream:
        ready, *answers = map(json.loads, stream)
    assert ready == {"ready": True}
    return {answer["case"]: answer for answer in answers}


def test_a_case_that_fits_alone_only_is_computed_alone(plan: Plan) -> None:
    inside: list[str] = []
    together = threading.Barrier(CASES, timeout=30)
    met = threading.local()

    def work(case: Case) -> None:
        inside.append(case.name)
        try:
            if not getattr(met, "once", False):
                met.once = True
                together.wait()  # all are in work
            if case.name == "case_02" and len(inside) > 1:
                raise ResourceError(SHORT)
        finally:
            inside.remove(case.name)

    answers = answers_of(Fake(plan, work), plan, feeders=CASES - 1)
    assert {name: answer.get("message") for name, answer in answers.items()} == dict.fromkeys(
        (case.name for case in plan.cases), None
    )


def test_a_case_that_fits_nowhere_fails_at_once_and_no_other(plan: Plan) -> None:
    def work(case: Case) -> None:
        if case.name == "case_02":
            raise ResourceError(SHORT)

    answers = answers_of(Fake(plan, work), plan, feeders=0)
    assert (answers["case_02"]["message"], answers["case_02"]["blame"]) == (SHORT, "memory")
    assert sum("message" in answer for answer in answers.values()) == 1


@pytest.mark.parametrize(
    ("error", "blame"),
    [
        (InputError("x"), "case"),
        (MemoryError(), "memory"),
        (ResourceError("x"), "memory"),
        (DeviceError("x"), "gpu"),
        (OutputError("x"), "machine"),
        (OSError(errno.ESTALE, "Stale file handle"), "machine"),
        (KeyError("x"), "case"),
    ],
)
def test_who_is_to_blame(plan: Plan, error: Exception, blame: str) -> None:
    def work(_: Case) -> None:
        raise error

    answer = Fake(plan, work).segment("case_00", Path("unused"))
    assert answer["blame"] == blame
    assert len(answer["digests"]["CT"]) == 64


def test_a_file_that_changes_while_it_is_computed_fails_its_case(plan: Plan) -> None:
    """Else the digest would be of other content than the labels."""

    def work(case: Case) -> None:
        if case.name == "case_01":
            case.files["CT"].write_bytes(b"other")

    fake = Fake(plan, work)
    assert "message" not in fake.segment("case_00", Path("unused"))
    answer = fake.segment("case_01", Path("unused"))
    assert answer["blame"] == "case"
    assert "found it changed while it was read" in answer["message"]


@pytest.mark.parametrize("kind", ["pipe", "link", "gone"])
def test_what_a_file_has_become_since_the_plan_fails_its_case(
    plan: Plan, tmp_path: Path, kind: str
) -> None:
    """A pipe would be waited for for ever, and a link may lead anywhere."""
    path = Path(plan.input, "case_00_CT.mha")
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        (tmp_path / "away").write_bytes(b"0")
        path.symlink_to(tmp_path / "away")
    answer = Fake(plan, lambda _: None).segment("case_00", Path("unused"))
    expected = {"pipe": "a pipe or device", "link": "a link that leaves it", "gone": "No such file"}
    assert expected[kind] in answer["message"]
    assert answer["blame"] == "case"


def test_an_input_folder_that_is_no_longer_mounted_charges_no_case(plan: Plan) -> None:
    for path in Path(plan.input).iterdir():
        path.unlink()
    fake = Fake(plan, lambda _: None)
    answer = fake.segment("case_00", Path("unused"))
    assert (answer["blame"], answer["digests"]) == ("machine", {})
    assert "found an empty one; mount it" in answer["message"]
    Path(plan.input).rmdir()
    assert fake.segment("case_00", Path("unused"))["blame"] == "machine"
