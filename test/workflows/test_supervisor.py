"""A worker that dies costs its case, not the run; a signal is answered at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from oarseg.workflows import supervisor

ROOT = Path(__file__).resolve().parents[2]
# What stands for a run: cases a, b and c; dies at one of them, and prints the outcome.
PROGRAM = """
import os, sys, time
from pathlib import Path
from oarseg.system import log
from oarseg.workflows import supervisor
from oarseg.workflows.journal import Finished
from oarseg.workflows.supervisor import TimeLimit

output, at, how = Path(sys.argv[1]), sys.argv[2], sys.argv[3]

supervisor.LEAST_GRACE_S = 1.0
limit = TimeLimit(float(sys.argv[4]), time.monotonic()) if len(sys.argv) > 4 else None

def work(journal):
    for case in "abc":
        if journal.outcome(case):
            journal.finished[case] = journal.outcome(case)
            continue
        journal.begins(case)
        if case == at and how == "sleep":
            (output / ".oarseg/stage/b").mkdir(parents=True)
            print("asleep", flush=True)
            time.sleep(60)
        if case == at and how == "exit":
            raise SystemExit(7)
        if case == at and how == "once":
            if case not in journal.crashes:
                os.kill(os.getpid(), 11)
        elif case == at:
            os.kill(os.getpid(), int(how))
        journal.ends(case, Finished(f"{case}.mha"))
        journal.finished[case] = Finished(f"{case}.mha")
    print({c: f.label_file or f.messages[0] for c, f in journal.finished.items()}, flush=True)
    return 3

if at == "start":
    def work(journal, signal=int(how)):
        os.kill(os.getpid(), signal)
log.configure_logging()
sys.exit(supervisor.run_supervised(work, output=output, limit=limit))
"""


def start(output: Path, at: str, how: object, *limit: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(output), at, str(how), *map(str, limit)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def outcome(output: Path, at: str, how: object, *limit: object) -> tuple[int, str, str]:
    process = start(output, at, how, *limit)
    stdout, stderr = process.communicate(timeout=120)
    return process.returncode, stdout.strip(), stderr


def test_status_and_outcome_are_the_worker_s(tmp_path: Path) -> None:
    status, printed, _ = outcome(tmp_path, "none", 0)
    assert status == 3
    assert printed == "{'a': 'a.mha', 'b': 'b.mha', 'c': 'c.mha'}"


@pytest.mark.parametrize("at", ["a", "b", "c"])
def test_a_crash_costs_one_case(tmp_path: Path, at: str) -> None:
    status, printed, stderr = outcome(tmp_path, at, int(signal.SIGSEGV))
    assert status == 3
    message = "a library crashed (signal 11, SIGSEGV); please report it with these files"
    expected = {case: message if case == at else f"{case}.mha" for case in "abc"}
    assert dict(eval(printed)) == expected
    assert f"{at}: {message}" in stderr


def test_a_case_in_which_a_library_crashed_is_begun_once_more(tmp_path: Path) -> None:
    """And the log has the stacks, which are all that tells where."""
    status, printed, stderr = outcome(tmp_path, "b", "once")
    assert status == 3
    assert printed == "{'a': 'a.mha', 'b': 'b.mha', 'c': 'c.mha'}"
    message = "a library crashed (signal 11, SIGSEGV); please report it with these files"
    assert f"WARNING b: {message}; begun again" in stderr
    assert "Fatal Python error: Segmentation fault" in stderr
    assert "in work" in stderr


def test_a_case_that_was_killed_is_not_begun_again(tmp_path: Path) -> None:
    _, _, stderr = outcome(tmp_path, "b", int(signal.SIGKILL))
    assert "begun again" not in stderr


def test_a_kill_is_told_as_one(tmp_path: Path) -> None:
    _, printed, _ = outcome(tmp_path, "b", int(signal.SIGKILL))
    assert "killed " in eval(printed)["b"]
    assert "memory" in eval(printed)["b"]


def test_a_crash_before_any_case_ends_the_run(tmp_path: Path) -> None:
    status, _, stderr = outcome(tmp_path, "start", int(signal.SIGABRT))
    assert status == 1
    assert stderr.rstrip().endswith(
        "before a case was begun: a library crashed (signal 6, SIGABRT); please report it with "
        "these files"
    )


def test_the_time_limit_ends_a_worker_whatever_it_is_in(tmp_path: Path) -> None:
    """The finished case is kept, the one in work fails, the last one is not begun."""
    begin = time.monotonic()
    status, printed, stderr = outcome(tmp_path, "b", "sleep", 5)
    assert time.monotonic() - begin < 50, "the worker sleeps for 60 s"
    assert status == 3
    more = "; give more time, a GPU or more CPUs"
    assert dict(eval(printed.removeprefix("asleep\n"))) == {
        "a": "a.mha",
        "b": f"the time limit of 5 s passed while this case was segmented{more}",
        "c": f"the time limit of 5 s passed before this case was begun{more}",
    }
    assert "b: the time limit of 5 s passed while this case was segmented" in stderr
    assert list(tmp_path.iterdir()) == []


def test_a_run_within_its_time_limit_is_not_touched(tmp_path: Path) -> None:
    status, printed, _ = outcome(tmp_path, "none", 0, 1000)
    assert status == 3
    assert printed == "{'a': 'a.mha', 'b': 'b.mha', 'c': 'c.mha'}"


@pytest.mark.parametrize(("seconds", "grace"), [(1, 10), (60, 10), (600, 60)])
def test_the_grace_of_a_time_limit(seconds: float, grace: float) -> None:
    limit = supervisor.TimeLimit(seconds, 1000.0)
    assert limit.grace_s == grace
    assert limit.end_s == 1000 + seconds + grace


def test_an_exit_status_is_passed_on(tmp_path: Path) -> None:
    assert outcome(tmp_path, "b", "exit")[0] == 7


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_at_once(tmp_path: Path, number: signal.Signals) -> None:
    process = start(tmp_path, "b", "sleep")
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "asleep\n"
    begin = time.monotonic()
    process.send_signal(number)
    assert process.wait(60) == 128 + number
    assert time.monotonic() - begin < 20
    last = process.stderr.read().rstrip().splitlines()[-1]
    assert last.endswith(
        f"stopped by signal {int(number)}; nothing of the unfinished case was written"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_signal_completes_results(tmp_path: Path) -> None:
    """What was recorded and not listed yet is listed when the run was stopped."""
    entry = {"outputs": [{"type": "metaio_image", "filename": "a.mha"}]}
    (tmp_path / ".oarseg").mkdir()
    (tmp_path / ".oarseg/journal").write_text(json.dumps({"case": "a", "entry": entry}) + "\n")
    process = start(tmp_path, "b", "sleep")
    assert process.stdout is not None
    assert process.stdout.readline() == "asleep\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert json.loads((tmp_path / "results.json").read_text()) == [entry]
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_a_crash_before_any_case_completes_results(tmp_path: Path) -> None:
    (tmp_path / ".oarseg").mkdir()
    (tmp_path / ".oarseg/journal").write_text('{"case": "a", "entry": {}}\n')
    assert outcome(tmp_path, "start", int(signal.SIGABRT))[0] == 1
    assert json.loads((tmp_path / "results.json").read_text()) == [{}]


def test_an_output_folder_that_cannot_be_tidied_ends_with_the_same_status(tmp_path: Path) -> None:
    (tmp_path / ".oarseg").symlink_to(tmp_path)
    status, _, stderr = outcome(tmp_path, "start", int(signal.SIGABRT))
    assert status == 1
    assert ".oarseg: expected a folder, found a link" in stderr
    assert "Traceback" not in stderr


def write_cgroup(root: Path, limit: int, kills: int, *, version: int) -> None:
    """A container's limit and what the kernel counts, as each version of cgroups has it."""
    if version == 2:
        files = {"max": limit, "current": 1 << 20, "stat": "inactive_file 0"}
        files["events"] = f"low 0\nhigh 0\nmax 3\noom 1\noom_kill {kills}"
    else:
        root = root / "memory"
        root.mkdir()
        files = {"limit_in_bytes": limit, "usage_in_bytes": 1 << 20}
        files["stat"] = "total_inactive_file 0"
        files["oom_control"] = f"oom_kill_disable 0\nunder_oom 0\noom_kill {kills}"
    for name, text in files.items():
        (root / f"memory.{name}").write_text(f"{text}\n")


@pytest.mark.parametrize("version", [1, 2])
def test_memory_limit_and_kills_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    monkeypatch.setattr(supervisor, "CGROUP_ROOT", tmp_path)
    assert supervisor.memory_kills() == 0
    assert supervisor._memory_limit_mib() is None
    write_cgroup(tmp_path, 700 << 20, 1, version=version)
    assert supervisor.memory_kills() == 1
    assert supervisor.explain_death(signal.SIGKILL, out_of_memory=True) == (
        "killed because memory ran out, which is limited to 700 MiB; give it more, or crop "
        "the images"
    )


def test_the_supervisor_imports_nothing_heavy() -> None:
    code = (
        "import sys, oarseg.cli\n"
        "heavy = {'numpy', 'scipy', 'SimpleITK', 'itk', 'onnxruntime'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
