"""The run on a GPU, without one: its steps, its tables, its networks and the comparison."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from fake_device import FakeDevice, install

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))

import gpu_all  # noqa: E402
import gpu_card  # noqa: E402
import gpu_case  # noqa: E402
import gpu_compare  # noqa: E402
import gpu_networks  # noqa: E402
import gpu_sweep  # noqa: E402
from gpu_all import Step  # noqa: E402
from gpu_networks import Plan  # noqa: E402

SMALL = Plan((8, 16, 16), (1, 2), (4, 8), classes=3)


def python(code: str, name: str = "a step", limit_s: float = 60, **more: Any) -> Step:
    return Step(name, [sys.executable, "-c", code], limit_s, **more)


def run(folder: Path, *steps: Step, left_s: float = 300) -> dict[str, Any]:
    document = gpu_all.heading(left_s)
    environment = gpu_all.environment(folder / "site")
    end_s = time.monotonic() + left_s
    stem = folder / "2026-01-01-gpu-cuda"
    gpu_all.run_steps(steps, end_s=end_s, environment=environment, document=document, stem=stem)
    written: dict[str, Any] = json.loads(stem.with_suffix(".json").read_text())
    assert written == document
    return written


def test_a_step_says_what_it_measured_and_how_it_ended(tmp_path: Path) -> None:
    code = "print('FIGURES {\"a\": 1}'); print('words'); print('FIGURES {\"b\": \"x\"}')"
    (row,) = run(tmp_path, python(code))["steps"]
    assert row["status"] == "done"
    assert row["figures"] == {"a": 1, "b": "x"}
    assert row["note"] == "words"


def test_a_step_that_fails_is_a_row_and_not_the_end(tmp_path: Path) -> None:
    broken = python("print('FIGURES {\"a\": 1}'); raise ValueError('so it is')", "broken")
    absent = Step("absent", ["/no/such/program"], 5)
    first, second, third = run(tmp_path, broken, absent, python("", "last"))["steps"]
    assert first["status"] == "failed with status 1"
    assert first["figures"] == {"a": 1}
    assert first["note"].endswith("ValueError: so it is")
    assert (second["status"], third["status"]) == ("failed", "done")
    assert "No such file" in second["note"]


def test_a_step_out_of_time_keeps_its_figures_and_ends_with_its_children(tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    child = f"import time, pathlib; time.sleep(3); pathlib.Path({str(alive)!r}).touch()"
    code = (
        "import subprocess, sys, time; print('FIGURES {\"a\": 1}', flush=True);"
        f"subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    )
    begin = time.monotonic()
    (row,) = run(tmp_path, python(code, limit_s=1.5))["steps"]
    assert row["status"] == "out of time at 2 s"
    assert row["figures"] == {"a": 1}
    time.sleep(max(0.0, 5 - (time.monotonic() - begin)))
    assert not alive.exists()


def test_a_run_that_is_stopped_ends_its_step(tmp_path: Path) -> None:
    begun, alive = tmp_path / "begun", tmp_path / "alive"
    step = (
        f"import pathlib, time; pathlib.Path({str(begun)!r}).touch(); time.sleep(3);"
        f"pathlib.Path({str(alive)!r}).touch()"
    )
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'bench')!r}); import gpu_all;"
        f"gpu_all.steps = lambda *_: [gpu_all.Step('x', [sys.executable, '-c', {step!r}], 60)];"
        f"sys.argv = ['gpu_all.py', '--out', {str(tmp_path)!r}]; sys.exit(gpu_all.main())"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    while not begun.exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    assert process.wait(30) == 128 + signal.SIGTERM
    time.sleep(3.5)
    assert not alive.exists()


def test_what_there_is_no_time_or_no_program_for_is_not_begun(tmp_path: Path) -> None:
    late = python("raise SystemExit(1)", "late", least_s=400)
    without = python("raise SystemExit(1)", "without", needs="no-such-program")
    first, second = run(tmp_path, late, without)["steps"]
    assert first["status"] == "not begun in time"
    assert (second["status"], second["note"]) == ("skipped", "no-such-program is not there")


def test_tables_are_written_after_every_step(tmp_path: Path) -> None:
    code = (
        "import json, sys; found = json.load(open(sys.argv[1]));"
        "print('FIGURES ' + json.dumps({'rows': len(found['steps'])}))"
    )
    stem = tmp_path / "2026-01-01-gpu-cuda"
    look = Step("look", [sys.executable, "-c", code, f"{stem}.json"], 60)
    steps = run(tmp_path, python("", "first"), look, replace(look, name="again"))["steps"]
    assert [step["figures"] for step in steps] == [{}, {"rows": 1}, {"rows": 2}]
    text = stem.with_suffix(".md").read_text()
    assert "| look | done |" in text
    assert "| rows | 2 |" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"{stem.name}.json",
        f"{stem.name}.md",
    ]


def test_steps_find_the_wheels_before_the_machines_packages(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site/numpy.py").write_text("carried = True")
    (row,) = run(tmp_path, python("import numpy; assert numpy.carried"))["steps"]
    assert row["status"] == "done"


def test_the_figures_of_nnunet_beside_are_read_from_its_table(tmp_path: Path) -> None:
    runs = {
        "body": {"seconds": 2.0, "gpu_mib": 10, "steps": [], "agreement": {"differ_in_body": 3}},
        "peer": {"failed": "out of memory at 16 GiB"},
    }
    path = tmp_path / "table.json"
    path.write_text(json.dumps({"rows": {"small": runs}}))
    rows = run(tmp_path, python("", reads=path), python("", reads=tmp_path / "none"))["steps"]
    assert rows[0]["figures"] == {
        "small: body: seconds": 2.0,
        "small: body: gpu_mib": 10,
        "small: body: differ_in_body": 3,
        "small: peer: failed": "out of memory at 16 GiB",
    }
    assert rows[1]["figures"] == {}


def test_all_steps_fit_the_ten_minutes_one_by_one() -> None:
    steps = gpu_all.steps("cuda", Path("site"), Path("wheels"), Path("out"))
    assert gpu_all.LIMIT_S == 600
    assert len({step.name for step in steps}) == len(steps)
    for step in steps:
        assert step.least_s <= step.limit_s <= 300
        scripts = [part for part in step.command if part.endswith(".py")]
        assert all(Path(script).is_file() for script in scripts)


def test_a_machine_without_a_card_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_all.heading(1)["card"] == {"name": "no card: FileNotFoundError"}


def test_the_card_is_what_nvidia_smi_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text(
        '#!/bin/sh\n[ "$1" = --query-gpu=memory.used ] && echo 513 || echo "T4, 580.1, 15360, 7.5"'
    )
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert gpu_card.used_mib() == 513
    assert gpu_card.describe_card() == {
        "name": "T4",
        "driver": "580.1",
        "memory_mib": "15360",
        "compute": "7.5",
    }


def test_peak_memory_is_what_was_added() -> None:
    readings = iter([100, 300, 250])
    peak = gpu_card.PeakMemory(lambda: next(readings, 120), every_s=0.01)
    with peak:
        time.sleep(0.2)
    assert peak.mib == 200


# ---- networks and sweep ----


@pytest.mark.parametrize(
    ("patch", "strides"),
    [
        ((64, 192, 160), [(1, 1, 1), *[(2, 2, 2)] * 4, (1, 2, 2)]),
        ((128, 128, 128), [(1, 1, 1), *[(2, 2, 2)] * 5]),
    ],
)
def test_networks_shrink_as_nnunets_do(patch: gpu_networks.Shape, strides: list[Any]) -> None:
    assert list(Plan(patch).strides) == strides


@pytest.mark.parametrize(("size", "millions"), [("30M", 30), ("100M", 100)])
def test_networks_have_the_size_that_they_are_called_by(size: str, millions: int) -> None:
    features, convolutions = gpu_networks.FEATURES, gpu_networks.CONVOLUTIONS[size]
    before, count = 2, 0
    for after, number in zip(features, convolutions, strict=True):
        count += 27 * (before * after + (number - 1) * after * after)
        before = after
    for after in reversed(features[:-1]):
        count += 8 * before * after + 27 * (2 * after * after + after * after)
        before = after
    assert math.isclose(count / 1e6, millions, rel_tol=0.12)


def test_a_network_is_the_same_in_every_arithmetic(tmp_path: Path) -> None:
    image = np.random.default_rng(0).standard_normal((1, 2, *SMALL.patch)).astype(np.float32)
    answers = []
    for arithmetic in ("fp32", "fp16", "fp16-lean"):
        path = tmp_path / f"{arithmetic}.onnx"
        plan = replace(SMALL, arithmetic=arithmetic)
        parameters = gpu_networks.write_network(path, plan)
        model = onnx.load(path)
        onnx.checker.check_model(model)
        assert [opset.version for opset in model.opset_import] == [17]
        assert parameters == sum(math.prod(w.dims) for w in model.graph.initializer)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        answers.append(session.run(None, {"image": image})[0])
    assert answers[0].shape == (1, 3, *SMALL.patch)
    for answer in answers[1:]:
        assert answer.dtype == np.float32
        assert np.allclose(answer, answers[0], atol=0.05 * np.abs(answers[0]).max())
        assert not np.array_equal(answer, answers[0])


def test_the_sweep_begins_with_what_tells_most() -> None:
    every = list(gpu_sweep.combinations())
    assert every[0].name == "30M 64×192×160 fp16-lean batch 1"
    assert len({combination.name for combination in every}) == len(every)
    for size, patch in (("30M", "64×192×160"), ("100M", "128×128×128")):
        for rest in ("fp32 batch 1", "tf32 batch 1", "fp16 batch 1", "fp16-lean batch 2"):
            assert f"{size} {patch} {rest}" in {combination.name for combination in every}
    assert gpu_sweep.tf32(every[0]) == {"use_tf32": "1"}


@pytest.mark.parametrize("batch", [1, 2])
def test_a_combination_is_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(gpu_sweep, "LEAST_S", 0.0)
    found = gpu_sweep.milliseconds(replace(SMALL, batch=batch), tmp_path, "cpu", {})
    assert isinstance(found, float)
    assert found > 0
    assert len(list(tmp_path.iterdir())) == 1


def test_a_combination_that_fails_says_why(tmp_path: Path) -> None:
    found = gpu_sweep.milliseconds(SMALL, tmp_path, "cuda", {})
    assert found == "failed: ONNX Runtime could not start its CUDA provider"


def test_the_sweep_ends_in_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu_sweep.py", "--device", "cpu", "--seconds", "-1"])
    gpu_sweep.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(list(gpu_sweep.combinations()))
    assert all(line.endswith(': "not begun in time"}') for line in lines)


# ---- the case ----


def test_a_case_of_random_networks_on_a_gpu_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = FakeDevice()
    install(monkeypatch, device)
    used = iter(range(1, 10_000_000))
    monkeypatch.setattr(gpu_card.PeakMemory.__init__, "__defaults__", (lambda: next(used), 0.01))
    bundle = gpu_case.write_ensemble(tmp_path, replace(SMALL, classes=31), 2)
    assert [fold.fold for fold in bundle.manifest.models] == ["0", "1"]
    found = [gpu_case.run(bundle, (12, 20, 24), "cuda", joint=joint) for joint in (False, True)]
    for figures in found:
        assert figures["tiles"] == 2 * 2 * 2
        assert 0 < figures["network_share"] < 1
        assert figures["peak_mib"] > 0
    again = gpu_case.run(bundle, (12, 20, 24), "cuda", joint=False)
    assert again["labels"] == found[0]["labels"]


# ---- the comparison ----


def document(**changes: Any) -> dict[str, Any]:
    figures = {
        "case": {"seconds": 10.0, "network_s": 9.0, "network_share": 0.9, "labels": "abcd"},
        "beside nnU-Net": {"small: body: seconds": 5.0, "small: body: differ_in_body": 3},
        "sweep": {"30M": 50.0, "100M": "failed: memory"},
    }
    for name, value in changes.items():
        step, figure = name.split("__")
        figures[step.replace("_", " ")][figure.replace("_of_", ": ")] = value
    steps = [{"name": n, "status": "done", "figures": f} for n, f in figures.items()]
    return {"card": {"name": "T4"}, "steps": steps}


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, ""),
        ({"case__seconds": 11.0, "sweep__30M": 56.0}, ""),
        ({"case__network_share": 0.1}, ""),
        ({"sweep__100M": 99.0}, ""),
        ({"case__network_s": 10.5}, "case: network_s: 9.0 → 10.5: slower"),
        ({"sweep__30M": 58.0}, "sweep: 30M: 50.0 → 58.0: slower"),
        (
            {"sweep__30M": "failed: memory"},
            "sweep: 30M: 50.0 → failed: memory: was measured before, now failed: memory",
        ),
        ({"case__labels": "efgh"}, "case: labels: abcd → efgh: the labels changed"),
    ],
)
def test_slower_networks_and_changed_labels_are_faults(changes: dict[str, Any], fault: str) -> None:
    found = gpu_compare.compare(document(), document(**changes))
    assert found == ([fault] if fault else [])


def test_labels_that_differ_from_nnunets_otherwise_than_before_are_a_fault() -> None:
    new = document()
    new["steps"][1]["figures"] = {"small: body: seconds": 5.0, "small: body: differ_in_body": 4}
    (fault,) = gpu_compare.compare(document(), new)
    assert fault == ("beside nnU-Net: small: body: differ_in_body: 3 → 4: the labels changed")


def test_a_step_that_is_done_no_more_is_a_fault() -> None:
    failed, gone = document(), document()
    failed["steps"][0]["status"] = "failed with status 1"
    gone["steps"] = gone["steps"][1:]
    assert "case: done before, now failed with status 1" in gpu_compare.compare(document(), failed)
    assert "case: done before, now left out" in gpu_compare.compare(document(), gone)
    assert gpu_compare.compare(failed, document()) == []


@pytest.fixture
def compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., SimpleNamespace]:
    def run(*arguments: str, **files: dict[str, Any]) -> SimpleNamespace:
        for name, content in files.items():
            path = tmp_path / f"{name.replace('_', '-')}.json"
            path.write_text(json.dumps(content))
        monkeypatch.setattr(sys, "argv", ["gpu_compare.py", *arguments])
        monkeypatch.chdir(tmp_path)
        return SimpleNamespace(status=gpu_compare.main(), printed=capsys.readouterr().out)

    return run


def test_the_newest_run_of_the_same_card_is_compared(
    compared: Callable[..., SimpleNamespace],
) -> None:
    old = document(case__network_s=1.0)
    other = document(case__network_s=1.0) | {"card": {"name": "A10G"}}
    files = {"a1_gpu_x": old, "a2_gpu_x": document(), "a3_gpu_x": other, "a4_gpu_x": document()}
    found = compared("--folder", ".", "a4-gpu-x.json", **files)
    assert (found.status, found.printed) == (0, "a2-gpu-x.json → a4-gpu-x.json: 0 faults\n\n")
    found = compared("a1-gpu-x.json", "a4-gpu-x.json", **files)
    assert found.status == 1
    assert "case: network_s: 1.0 → 9.0: slower" in found.printed


def test_the_first_run_of_a_card_has_nothing_to_be_compared_with(
    compared: Callable[..., SimpleNamespace],
) -> None:
    found = compared("--folder", ".", "a1-gpu-x.json", a1_gpu_x=document())
    assert (found.status, found.printed) == (0, "no older run of this card: nothing to compare\n")
