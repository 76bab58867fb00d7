"""The folder of a cohort, with no process beside this one."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cohort_fakes import make_cohort

from oarseg.cohort.coordinate import reopen_changed
from oarseg.cohort.inputs import InputFile
from oarseg.cohort.ledger import (
    ATTEMPT_FILES,
    Attempt,
    CohortLedger,
    Host,
    LeaseWatch,
    Outcome,
)
from oarseg.cohort.manner import Manner
from oarseg.cohort.plan import FOLDER, Plan, PlannedCase, read_plan
from oarseg.cohort.stages import StageFolders
from oarseg.errors import InputError, OutputError

LEASE_S = 60.0
HERE = Host("a", 1)


@pytest.fixture
def cohort(tmp_path: Path) -> tuple[Plan, CohortLedger]:
    plan, output = make_cohort(tmp_path, cases=3, manner=Manner(lease_s=LEASE_S))
    ledger = CohortLedger(output, lease_s=LEASE_S)
    ledger.prepare()
    return plan, ledger


@pytest.fixture
def ledger(cohort: tuple[Plan, CohortLedger]) -> CohortLedger:
    return cohort[1]


def stage(ledger: CohortLedger, case: str = "case_00", text: str = "new") -> Outcome:
    """An attempt that has written its outputs, and its outcome, not recorded yet."""
    attempt = ledger.take(case, most=3)
    assert attempt is not None
    folder = ledger.stages.folder(attempt.name)
    for name in (f"images/{case}.mha", f"oar_masks/{case}/organ.nrrd"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(text)
    outputs = (f"images/{case}.mha", f"oar_masks/{case}")
    return Outcome(
        case=case, attempt=attempt.number, worker=HERE, label_file=outputs[0], outputs=outputs
    )


def texts(output: Path, case: str = "case_00") -> list[str]:
    return [
        (output / name).read_text()
        for name in (f"images/{case}.mha", f"oar_masks/{case}/organ.nrrd")
    ]


def stages_left(ledger: CohortLedger) -> list[str]:
    return sorted(os.listdir(ledger.output / FOLDER / "stage"))


# Leases, on clocks of the test's own


def watched() -> tuple[Callable[[int, float], bool], Callable[[float], None]]:
    """Whether a lease of a minute is over, and the passing of time."""
    time_s = [1000.0]
    watch = LeaseWatch(lambda: time_s[0])

    def wait(seconds: float) -> None:
        time_s[0] += seconds

    def is_over(beaten_ns: int, now_s: float) -> bool:
        return watch.is_over("a.1", beaten_ns, now_s, lease_s=LEASE_S)

    return is_over, wait


@pytest.mark.parametrize("jump_s", [0, 86400, -86400])
def test_a_clock_that_jumps_ends_no_lease(jump_s: int) -> None:
    """The server's clock jumps; the holder renews its lease four times in its length."""
    is_over, wait = watched()
    server_s = 1e9
    for beat in range(20):
        if beat == 10:
            server_s += jump_s
        beaten_ns = int((server_s + 15 * beat) * 1e9)
        for later in (0, 7, 14):
            # Just after the jump, the last heartbeat seems a day old.
            now_s = server_s + 15 * beat + later + (jump_s if beat == 9 else 0)
            assert not is_over(beaten_ns, now_s)
            wait(5)


@pytest.mark.parametrize(("jump_s", "seconds"), [(0, 61), (86400, 31), (-86400, 61)])
def test_the_lease_of_the_dead_ends_whatever_the_clock_says(jump_s: int, seconds: int) -> None:
    is_over, wait = watched()
    beaten_ns = int(1e9 * 1e9)
    assert not is_over(beaten_ns, 1e9)
    wait(seconds - 2)
    assert not is_over(beaten_ns, 1e9 + seconds - 2 + jump_s)
    wait(3)
    assert is_over(beaten_ns, 1e9 + seconds + 1 + jump_s)


def test_a_lease_is_as_long_as_its_holder_knows(
    ledger: CohortLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run has shortened it since the worker of another machine began."""
    attempt = ledger.take("case_00", most=3)
    assert attempt is not None
    hasty = CohortLedger(ledger.output, lease_s=1)
    assert hasty.take("case_00", most=3) is None
    real = time.monotonic
    monkeypatch.setattr(hasty, "_watch", LeaseWatch(lambda: real() + later[0]))
    later = [0.0]
    for later[0] in (0.0, 20.0):  # longer than its own, shorter than the holder's
        assert hasty.take("case_00", most=3) is None
    later[0] = LEASE_S + 30
    assert hasty.take("case_00", most=3) == attempt.following


def test_what_is_known_to_be_dead_is_taken_over_at_once(ledger: CohortLedger) -> None:
    attempt = ledger.take("case_00", most=3)
    assert attempt is not None
    ledger.expire(attempt)
    assert ledger.take("case_00", most=3) == Attempt("case_00", 2)


# Attempts


def test_a_disk_that_is_full_makes_no_attempt(
    ledger: CohortLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file can be made on a full disk, and nothing written to it."""
    real = os.fdopen

    def full(handle: int, *arguments: Any) -> Any:
        os.close(handle)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("oarseg.cohort.ledger.os.fdopen", full)
    with pytest.raises(OutputError, match="No space left on device"):
        ledger.take("case_00", most=3)
    monkeypatch.setattr("oarseg.cohort.ledger.os.fdopen", real)
    assert ledger.attempt_numbers("case_00") == []


def test_who_only_looks_needs_no_leave_to_write(
    ledger: CohortLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    assert ledger.take("case_01", most=3) is not None
    monkeypatch.setattr("oarseg.cohort.ledger.Path.touch", refuse)
    states = ledger.states(["case_00", "case_01"], outcomes=True)
    assert [found.state for found in states.values()] == ["waiting", "running"]
    with pytest.raises(OutputError, match="No such file"):
        CohortLedger(ledger.output / "nowhere", lease_s=1).states([])


NAMES = ("a", "a.1", "a.1.1", "-rf", "two words", " blank ", "Müller ☢", "'\"$(id);`", ".hidden")


def test_names_of_cases_are_only_names(ledger: CohortLedger) -> None:
    """Also where one ends as another's attempts do."""
    for name in NAMES:
        ledger.record("done", stage(ledger, name, name))
    for name in NAMES:
        assert ledger.attempt_numbers(name) == [1]
        found = ledger.outcome(name)
        assert found is not None
        ledger.place(found[1])
        assert texts(ledger.output, name) == [name, name]
    assert {state.state for state in ledger.states(NAMES).values()} == {"done"}


# Outputs


def test_outputs_are_placed_once_however_many_place_them(ledger: CohortLedger) -> None:
    """Beside each other, and over what lies there."""
    for round_ in range(20):
        case = f"case_{round_}"
        for path in ("images", f"oar_masks/{case}"):
            (ledger.output / path).mkdir(parents=True, exist_ok=True)
        (ledger.output / f"images/{case}.mha").write_text("old")
        (ledger.output / f"oar_masks/{case}/organ.nrrd").write_text("old")
        outcome = stage(ledger, case)
        assert ledger.record("done", outcome)
        threads = [threading.Thread(target=ledger.place, args=[outcome]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert texts(ledger.output, case) == ["new", "new"]
    assert stages_left(ledger) == []


def test_what_another_has_just_placed_is_put_back(
    ledger: CohortLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One stands still after it has found something in the way, and another places the case."""
    outcome = stage(ledger)
    (ledger.output / "oar_masks/case_00").mkdir(parents=True)
    (ledger.output / "oar_masks/case_00/organ.nrrd").write_text("old")
    real = StageFolders.aside

    def meanwhile(self: StageFolders, name: str) -> Path:
        monkeypatch.setattr(StageFolders, "aside", real)
        CohortLedger(ledger.output, lease_s=LEASE_S).place(outcome)
        return real(self, name)

    monkeypatch.setattr(StageFolders, "aside", meanwhile)
    ledger.place(outcome)
    assert texts(ledger.output) == ["new", "new"]


def test_a_link_in_the_way_of_outputs_is_not_followed(ledger: CohortLedger, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (ledger.output / "images").symlink_to(elsewhere)
    outcome = stage(ledger)
    assert ledger.record("done", outcome)
    with pytest.raises(OutputError, match="links below the output folder are not followed"):
        ledger.place(outcome)
    assert list(elsewhere.iterdir()) == []
    (ledger.output / "images").unlink()
    ledger.recover()
    assert texts(ledger.output) == ["new", "new"]


def test_a_link_in_place_of_the_cohorts_folders_is_refused(
    ledger: CohortLedger, tmp_path: Path
) -> None:
    (ledger.output / FOLDER / "stage").rmdir()
    (ledger.output / FOLDER / "stage").symlink_to(tmp_path)
    with pytest.raises(OutputError, match="links below the output folder are not followed"):
        ledger.prepare()


def test_a_worker_that_must_stop_after_its_outcome_loses_no_outputs(ledger: CohortLedger) -> None:
    outcome = stage(ledger)
    assert ledger.record("done", outcome)
    ledger.give_back(Attempt("case_00", 1))
    ledger.recover()
    assert texts(ledger.output) == ["new", "new"]
    assert ledger.attempt_numbers("case_00") == [1]


def test_what_the_dead_have_left_is_swept_and_what_others_write_is_not(
    ledger: CohortLedger,
) -> None:
    assert ledger.record("done", stage(ledger, "case_00"))
    for case in ("case_00", "case_01"):
        attempt = Attempt(case, 1 if case == "case_01" else 2)
        path = ledger.output / FOLDER / ATTEMPT_FILES / attempt.name
        path.write_text("{}")
        os.utime(path, (1, 1))
        ledger.stages.folder(attempt.name).mkdir()
    alive = ledger.take("case_02", most=3)
    assert alive is not None
    ledger.stages.folder(alive.name).mkdir()
    ledger.recover()
    ledger.sweep()
    # The second attempt at a case that is done; the last one of a case that is not may still be
    # of somebody who stands still.
    assert stages_left(ledger) == ["case_01.1", "case_02.1"]


@pytest.mark.parametrize(
    "change",
    [
        {"outputs": ["../../elsewhere"]},
        {"outputs": ["/etc/passwd"]},
        {"label_file": "../label.mha"},
        {"case": "case_01"},
        {"attempt": "x"},
        {"more": 1},
    ],
)
def test_a_record_that_was_edited_is_refused(ledger: CohortLedger, change: dict[str, Any]) -> None:
    assert ledger.record("done", stage(ledger))
    path = ledger.output / FOLDER / "done" / "case_00.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(OutputError, match="expected the record of a case, found something else"):
        ledger.recover()
    assert not (ledger.output / "images").exists()


def test_no_case_costs_a_look_at_all_the_others(
    ledger: CohortLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From its attempt to its outputs nothing is listed that grows with the cohort."""
    listed: list[str] = []
    real = os.scandir

    def noted(path: Any = ".") -> Any:
        shown = os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else os.fspath(path)
        listed.append(Path(shown).name)
        return real(path)

    monkeypatch.setattr(os, "scandir", noted)
    outcome = stage(ledger)
    assert ledger.record("done", outcome)
    ledger.place(outcome)
    grow = {"attempt", "stage", "done", "failed", "quarantined", "images", "oar_masks", "reports"}
    assert "case_00.1" in listed  # the stage, as it is removed
    # Folders of these names in the stage hold only what is the case's.
    assert [name for name in listed if name in grow - {"images", "oar_masks"}] == []


# Plans


@pytest.mark.parametrize("name", ["../case", "a/b", "", "..", "a\nb", "x" * 250, "case_00"])
def test_a_plan_that_was_edited_names_no_file_elsewhere_and_none_twice(
    cohort: tuple[Plan, CohortLedger], name: str
) -> None:
    _, ledger = cohort
    path = ledger.output / FOLDER / "plan.json"
    path.write_text(path.read_text().replace('"name":"case_01"', f'"name":{json.dumps(name)}'))
    with pytest.raises(InputError, match="found 1 faults in it; make it anew"):
        read_plan(ledger.output)


def reopened(ledger: CohortLedger, plan: Plan, new: Plan | None = None) -> list[str]:
    return reopen_changed(ledger, plan, new or plan, retry_quarantined=False)


def test_a_case_that_failed_for_want_of_memory_is_tried_again_on_the_next_run(
    cohort: tuple[Plan, CohortLedger],
) -> None:
    plan, ledger = cohort
    outcome = Outcome(
        case="case_00", attempt=1, worker=HERE, message="why", digests={"CT": "d"}, again=True
    )
    assert ledger.record("failed", outcome)
    end_of_other = Outcome(
        case="case_01", attempt=1, worker=HERE, message="why", digests={"CT": "d"}
    )
    assert ledger.record("failed", end_of_other)
    assert reopened(ledger, plan) == ["case_00"]
    assert ledger.outcome("case_00") is None


def test_a_file_that_could_not_be_read_is_tried_again_on_the_next_run(
    cohort: tuple[Plan, CohortLedger],
) -> None:
    """What forbade it leaves neither size nor time of the file another."""
    plan, ledger = cohort
    outcome = Outcome(case="case_00", attempt=1, worker=HERE, message="Permission denied")
    assert ledger.record("failed", outcome)
    assert reopened(ledger, plan) == ["case_00"]


def test_a_case_that_was_given_up_is_tried_again_when_its_file_has_changed(
    cohort: tuple[Plan, CohortLedger],
) -> None:
    plan, ledger = cohort
    outcome = Outcome(case="case_00", attempt=3, worker=HERE, message="3 attempts")
    assert ledger.record("quarantined", outcome)
    assert reopened(ledger, plan) == []
    file = plan.cases[0].files["CT"]
    assert isinstance(file, InputFile)
    changed = PlannedCase("case_00", {"CT": InputFile(file.path, file.size + 1, 1)})
    new = Plan(**{**vars(plan), "cases": (changed, *plan.cases[1:])})
    assert reopened(ledger, plan, new) == ["case_00"]


def test_a_done_case_whose_outputs_were_removed_is_computed_again(
    cohort: tuple[Plan, CohortLedger],
) -> None:
    plan, ledger = cohort
    outcome = stage(ledger)
    assert ledger.record("done", outcome)
    assert reopened(ledger, plan) == []  # still in its stage
    ledger.place(outcome)
    assert reopened(ledger, plan) == []
    (ledger.output / outcome.label_file).unlink()
    assert reopened(ledger, plan) == ["case_00"]
    # What is left of it is set aside, and does not pass for the new result.
    assert not (ledger.output / "oar_masks" / "case_00").exists()
    aside = list((ledger.output / FOLDER / "reopened").rglob("organ.nrrd"))
    assert [path.read_text() for path in aside] == ["new"]
