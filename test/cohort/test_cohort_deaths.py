"""What is killed in a cohort, and what that costs; the networks only wait."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cohort_fakes import coordinator_command, make_cohort, processes_of, worker_command

from oarseg.cohort.feeding import MEASURED_CASES
from oarseg.cohort.ledger import ATTEMPT_FILES, Attempt, CohortLedger, Host, Outcome
from oarseg.cohort.manner import Manner, read_manner
from oarseg.cohort.plan import FOLDER, Plan

CASES = 12
# For a hang to end; nothing is judged by it.
PATIENCE_S = 900
# Nothing is taken over: a heartbeat that is late on a busy machine must cost no attempt.
PATIENT = Manner(attempts=3, lease_s=600.0, feeders=0)
# Short, so that what is dead is taken over soon; long against a heartbeat that is late.
QUICK = Manner(attempts=3, lease_s=6.0, feeders=0)


@pytest.fixture
def cohort(tmp_path: Path) -> tuple[Plan, Path]:
    return make_cohort(tmp_path, cases=CASES, manner=PATIENT)


@pytest.fixture
def quick_cohort(tmp_path: Path) -> tuple[Plan, Path]:
    """One whose leases are soon over."""
    return make_cohort(tmp_path, cases=CASES, manner=QUICK)


def start_coordinator(output: Path, workers: int, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(coordinator_command(output, workers), env=os.environ | environment)


def start_worker(output: Path, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        worker_command(output, os.getpid()), env=os.environ | environment, start_new_session=True
    )


def wait_for(found: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not found():
        assert time.monotonic() < end
        time.sleep(0.02)


def done(output: Path) -> int:
    return len(list((output / FOLDER / "done").glob("*.json")))


def attempts(output: Path) -> int:
    return len(list((output / FOLDER / ATTEMPT_FILES).glob("*")))


def prepared(notes: Path) -> int:
    """How many cases have begun in the processes that compute them."""
    return notes.read_text().count("prepares ") if notes.is_file() else 0


def check_all_done(output: Path, *, most_attempts: int) -> None:
    assert done(output) == CASES
    assert attempts(output) <= most_attempts
    assert len(list((output / "images").iterdir())) == CASES
    assert list((output / FOLDER / "stage").iterdir()) == []


def ledger_of(output: Path) -> CohortLedger:
    found = CohortLedger(output, lease_s=read_manner(output).lease_s)
    found.prepare()
    return found


def test_two_workers_do_each_case_once(cohort: tuple[Plan, Path]) -> None:
    _, output = cohort
    assert start_coordinator(output, 2).wait(PATIENCE_S) == 0
    check_all_done(output, most_attempts=CASES)
    records = json.loads((output / "results.json").read_text())
    assert [len(record["outputs"]) for record in records] == [1] * CASES


def test_nothing_to_do_is_quick(cohort: tuple[Plan, Path]) -> None:
    _, output = cohort
    assert start_coordinator(output, 2).wait(PATIENCE_S) == 0
    before_s = cpu_seconds()
    assert start_coordinator(output, 2).wait(PATIENCE_S) == 0
    assert cpu_seconds() - before_s < 10
    assert attempts(output) == CASES


def cpu_seconds() -> float:
    """Of the processes that have ended: other than on a clock, a busy machine adds nothing."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_a_killed_worker_costs_one_attempt(quick_cohort: tuple[Plan, Path]) -> None:
    _, output = quick_cohort
    ledger_of(output)
    first = start_worker(output, FAKE_SECONDS="0.5")
    wait_for(lambda: done(output) >= 1)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert start_worker(output).wait(PATIENCE_S) == 0
    # Its process that computes may have outlived it for a moment, and written to its stage once
    # more: run, which ends a cohort, sweeps.
    assert start_coordinator(output, 1).wait(PATIENCE_S) == 0
    check_all_done(output, most_attempts=CASES + 1)


def test_a_killed_coordinator_leaves_no_orphan_and_a_rerun_ends_it(
    quick_cohort: tuple[Plan, Path],
) -> None:
    _, output = quick_cohort
    first = start_coordinator(output, 2, FAKE_SECONDS="0.5")
    wait_for(lambda: done(output) >= 2)
    first.kill()
    first.wait()
    before = done(output)
    wait_for(lambda: not processes_of(output))
    assert done(output) >= before
    assert start_coordinator(output, 2).wait(PATIENCE_S) == 0
    check_all_done(output, most_attempts=CASES + 2)


def test_a_case_that_kills_is_given_up_after_its_attempts(cohort: tuple[Plan, Path]) -> None:
    _, output = cohort
    assert start_coordinator(output, 2, FAKE_POISON="case_05").wait(PATIENCE_S) == 1
    assert done(output) == CASES - 1
    (record,) = (output / FOLDER / "quarantined").iterdir()
    assert record.name == "case_05.json"
    numbers = ledger_of(output).attempt_numbers("case_05")
    assert numbers == [1, 2, 3]
    # It holds over reruns.
    assert start_coordinator(output, 1).wait(PATIENCE_S) == 1
    assert ledger_of(output).attempt_numbers("case_05") == [1, 2, 3]


def test_a_full_disk_stops_the_run_and_charges_nobody(
    cohort: tuple[Plan, Path], tmp_path: Path
) -> None:
    _, output = cohort
    full = tmp_path / "full"
    full.touch()
    assert start_coordinator(output, 2, FAKE_FULL=str(full)).wait(PATIENCE_S) == 1
    assert (done(output), attempts(output)) == (0, 0)
    full.unlink()
    assert start_coordinator(output, 2, FAKE_FULL=str(full)).wait(PATIENCE_S) == 0
    check_all_done(output, most_attempts=CASES)


def test_a_worker_that_was_stopped_past_its_lease_changes_nothing(
    quick_cohort: tuple[Plan, Path],
) -> None:
    _, output = quick_cohort
    ledger_of(output)
    first = start_worker(output, FAKE_SECONDS="1")
    wait_for(lambda: attempts(output) >= 1)
    os.killpg(first.pid, signal.SIGSTOP)
    assert start_worker(output).wait(PATIENCE_S) == 0
    check_all_done_but_stages(output)
    before = {path: path.read_bytes() for path in (output / "images").iterdir()}
    os.killpg(first.pid, signal.SIGCONT)
    assert first.wait(PATIENCE_S) == 0
    assert {path: path.read_bytes() for path in (output / "images").iterdir()} == before
    check_all_done(output, most_attempts=CASES + 1)


def check_all_done_but_stages(output: Path) -> None:
    assert done(output) == CASES
    assert len(list((output / "images").iterdir())) == CASES


def test_a_signal_gives_back_what_is_in_work(cohort: tuple[Plan, Path]) -> None:
    _, output = cohort
    running = start_coordinator(output, 2, FAKE_SECONDS="30")
    wait_for(lambda: attempts(output) == 2)
    running.send_signal(signal.SIGTERM)
    assert running.wait(PATIENCE_S) == 128 + signal.SIGTERM
    assert attempts(output) == 0
    wait_for(lambda: not processes_of(output))


def test_signals_that_go_to_all_processes_charge_nobody(
    cohort: tuple[Plan, Path], tmp_path: Path
) -> None:
    """As a terminal sends them that is closed, and Slurm when it takes a job's machine away."""
    _, output = cohort
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        notes = tmp_path / f"notes_{number}"
        running = subprocess.Popen(
            coordinator_command(output, 2),
            env=os.environ | {"FAKE_SECONDS": "30", "FAKE_NOTES": str(notes)},
            start_new_session=True,
        )
        # A signal before a process knows of it is another matter.
        wait_for(lambda path=notes: prepared(path) == 2)
        os.killpg(running.pid, number)
        assert running.wait(PATIENCE_S) == 128 + number
        assert attempts(output) == 0
        wait_for(lambda: not processes_of(output))


def test_no_process_of_a_cohort_has_a_socket(cohort: tuple[Plan, Path], tmp_path: Path) -> None:
    """So nothing listens, on any interface, and no network is needed."""
    _, output = cohort
    notes = tmp_path / "notes"
    running = start_coordinator(output, 1, FAKE_SECONDS="30", FAKE_NOTES=str(notes))
    # An attempt begins before the process is there that computes it.
    wait_for(lambda: prepared(notes) == 1)
    processes = processes_of(output)
    assert len(processes) == 3
    opened = [os.readlink(fd) for pid in processes for fd in Path(f"/proc/{pid}/fd").iterdir()]
    assert any(name.startswith("pipe:") for name in opened)
    assert not [name for name in opened if name.startswith("socket:")]
    running.terminate()
    running.wait(PATIENCE_S)


def test_a_worker_that_is_killed_again_and_again_is_begun_again(tmp_path: Path) -> None:
    """Four kills, of one case perhaps: the number of cases that are done never falls."""
    manner = Manner(attempts=9, lease_s=QUICK.lease_s, feeders=0)
    _, output = make_cohort(tmp_path, cases=CASES, manner=manner)
    running = start_coordinator(output, 1, FAKE_SECONDS="0.3")
    seen = 0
    for _ in range(4):
        wait_for(lambda before=seen: done(output) > before)
        seen = done(output)
        for pid in processes_of(output, "work"):
            os.kill(pid, signal.SIGKILL)
        assert done(output) >= seen
    assert running.wait(PATIENCE_S) == 0
    check_all_done(output, most_attempts=CASES + 4)


def test_a_case_that_kills_takes_no_neighbour_along(tmp_path: Path) -> None:
    """With feeders several cases are in the process that it kills."""
    manner = Manner(attempts=3, lease_s=600.0, feeders=3)
    _, output = make_cohort(tmp_path, cases=CASES, manner=manner)
    assert start_coordinator(output, 1, FAKE_POISON="case_05").wait(PATIENCE_S) == 1
    assert done(output) == CASES - 1
    ledger = ledger_of(output)
    assert ledger.attempt_numbers("case_05") == [1, 2, 3]
    others = (len(ledger.attempt_numbers(f"case_{n:02d}")) for n in range(CASES) if n != 5)
    assert max(others) <= 2


def test_a_gpu_that_only_fails_stops_the_run_and_charges_nobody(
    cohort: tuple[Plan, Path],
) -> None:
    _, output = cohort
    assert start_coordinator(output, 1, FAKE_GPU="case_05").wait(PATIENCE_S) == 1
    assert (done(output), attempts(output)) == (CASES - 1, CASES - 1)


@pytest.mark.parametrize(
    ("feeders", "idle", "beside"), [(0, 2, False), (2, 0, True), (None, 2, True)]
)
def test_feeders_prepare_cases_while_the_network_computes(
    tmp_path: Path, feeders: int | None, idle: int, beside: bool
) -> None:
    """By the order of what happens. Left to itself, it measures the first cases alone."""
    notes = run_with_notes(tmp_path, 6, feeders, FAKE_IDLE=str(idle), FAKE_SECONDS="1")
    in_network, seen = 0, []
    for what, _, _ in notes:
        in_network += {"begins": 1, "ends": -1}.get(what, 0)
        assert in_network in (0, 1)
        seen.append(what == "prepares" and in_network == 1)
    assert any(seen) is beside
    if feeders is None:
        assert not any(seen[: 3 * MEASURED_CASES])


def test_two_feeders_take_at_most_065_of_the_time_of_none(tmp_path: Path) -> None:
    """Equal seconds in the network and beside it, in which nothing but sleep is done."""
    seconds = {}
    for feeders in (0, 2):
        notes = run_with_notes(tmp_path / str(feeders), CASES, feeders, FAKE_SECONDS="0.8")
        seconds[feeders] = notes[-1][2] - notes[0][2]
    assert seconds[2] <= 0.65 * seconds[0]


def run_with_notes(
    root: Path, cases: int, feeders: int | None, **environment: str
) -> list[tuple[str, str, float]]:
    """Have one worker work; returns what happened, in which case and when, in its order."""
    root.mkdir(exist_ok=True)
    manner = Manner(attempts=3, lease_s=600.0, feeders=feeders)
    _, output = make_cohort(root, cases=cases, manner=manner)
    ledger_of(output)
    path = root / "notes"
    assert start_worker(output, FAKE_NOTES=str(path), **environment).wait(PATIENCE_S) == 0
    lines = (line.split() for line in path.read_text().splitlines())
    return [(what, case, float(when)) for what, case, when in lines]


def test_a_crash_between_outcome_and_placing_is_recovered(cohort: tuple[Plan, Path]) -> None:
    _, output = cohort
    ledger = ledger_of(output)
    attempt = ledger.take("case_00", most=3)
    assert attempt == Attempt("case_00", 1)
    images = ledger.stages.folder(attempt.name) / "images"
    images.mkdir(parents=True)
    (images / "case_00.mha").write_text("labels")
    outcome = Outcome(
        case="case_00", attempt=1, worker=Host("a", 1), outputs=("images/case_00.mha",)
    )
    assert ledger.record("done", outcome)
    ledger.recover()
    ledger.recover()
    assert (output / "images" / "case_00.mha").read_text() == "labels"
    assert list((output / FOLDER / "stage").iterdir()) == []


def test_the_first_outcome_stands(cohort: tuple[Plan, Path]) -> None:
    _, output = cohort
    ledger = ledger_of(output)
    first = Outcome(case="case_00", attempt=1, worker=Host("a", 1))
    second = Outcome(case="case_00", attempt=2, worker=Host("b", 2))
    assert ledger.record("done", first)
    assert not ledger.record("done", second)
    assert not ledger.record("failed", second)
    assert ledger.outcome("case_00") == ("done", first)


def test_a_lease_belongs_to_one_worker(cohort: tuple[Plan, Path]) -> None:
    _, output = cohort
    one, other = ledger_of(output), ledger_of(output)
    attempt = one.take("case_00", most=3)
    assert attempt is not None
    assert other.take("case_00", most=3) is None
    assert one.beat(attempt)
    one.expire(attempt)
    following = other.take("case_00", most=3)
    assert following == Attempt("case_00", 2)
    assert not one.beat(attempt)
