"""A worker whose GPU fails is replaced: that case on the CPU, the next one on the GPU again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from oarseg.workflows.supervisor import MOST_GPU_FAILURES

ROOT = Path(__file__).resolve().parents[2]
# What stands for a run: on a GPU, the cases that are named fail in that way.
PROGRAM = """
import os, sys
from pathlib import Path
from oarseg.system import log
from oarseg.workflows import supervisor
from oarseg.workflows.supervisor import Finished

output, cases, fail, how = Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]

def stop(journal, case):
    if how == "leave":
        journal.leaves_gpu(case, "the GPU failed: out of memory")
    if how == "exit badly":
        try:
            journal.leaves_gpu(case, "the GPU failed: out of memory")
        finally:
            os.kill(os.getpid(), 11)
    os.kill(os.getpid(), int(how))

def work(journal):
    on_gpu = False
    for case in cases:
        if journal.outcome(case):
            continue
        wanted = not journal.no_gpu and case not in journal.gpu_failures
        if wanted and not on_gpu:
            journal.tries_gpu()
            if "?" in fail:
                stop(journal, case)
        on_gpu = wanted
        journal.begins(case, on_gpu=on_gpu)
        if on_gpu and case in fail:
            stop(journal, case)
        if not on_gpu and "!" in fail:
            os.kill(os.getpid(), 11)
        done = Finished(f"{case} on the {'GPU' if on_gpu else 'CPU'}")
        journal.ends(case, done)
        journal.finished[case] = done
    print({c: f.label_file or f.messages[0] for c, f in journal.finished.items()}, flush=True)
    print(journal.no_gpu, flush=True)
    return 3

log.configure_logging()
sys.exit(supervisor.run_supervised(work, output=output))
"""


def outcome(output: Path, cases: str, fail: str, how: object) -> tuple[dict[str, str], str, str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(output), cases, fail, str(how)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 3, done.stderr
    cases_line, no_gpu = done.stdout.splitlines()
    return eval(cases_line), no_gpu, done.stderr


@pytest.mark.parametrize("how", ["leave", "exit badly", int(signal.SIGSEGV), int(signal.SIGABRT)])
@pytest.mark.parametrize("fail", ["a", "b", "c"])
def test_a_case_whose_gpu_failed_is_computed_on_the_cpu_and_no_other(
    tmp_path: Path, fail: str, how: object
) -> None:
    found, no_gpu, _ = outcome(tmp_path, "abc", fail, how)
    expected = {case: f"{case} on the {'CPU' if case == fail else 'GPU'}" for case in "abc"}
    assert found == expected
    assert no_gpu == ""


def test_a_gpu_that_fails_again_and_again_is_not_tried_any_more(tmp_path: Path) -> None:
    found, no_gpu, stderr = outcome(tmp_path, "abcdef", "abde", "leave")
    assert MOST_GPU_FAILURES == 3
    on_cpu = {case for case, text in found.items() if text.endswith("CPU")}
    assert on_cpu == set("abdef")
    assert no_gpu == "it failed in 3 cases before"
    assert stderr.count("the GPU is not tried again: it failed in 3 cases before") == 1


def test_a_crash_while_the_gpu_is_opened_gives_every_case_to_the_cpu(tmp_path: Path) -> None:
    found, no_gpu, _ = outcome(tmp_path, "abc", "?", int(signal.SIGSEGV))
    assert found == {case: f"{case} on the CPU" for case in "abc"}
    assert no_gpu == "a library crashed (signal 11, SIGSEGV); please report it with these files"


def test_memory_that_ran_out_is_not_the_gpus_failure(tmp_path: Path) -> None:
    found, _, _ = outcome(tmp_path, "abc", "b", int(signal.SIGKILL))
    assert found["a"] == "a on the GPU"
    assert found["b"].startswith("killed ")
    assert found["c"] == "c on the GPU"


def test_a_crash_on_the_cpu_costs_its_case_after_the_gpu_was_left(tmp_path: Path) -> None:
    found, _, _ = outcome(tmp_path, "abc", "b!", "leave")
    assert found["a"] == "a on the GPU"
    assert found["b"].startswith("a library crashed (signal 11")
    assert found["c"] == "c on the GPU"
