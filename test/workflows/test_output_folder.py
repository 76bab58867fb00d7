"""Two runs in one output folder, one after the other or at once, and what hostile hands left."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from oarseg.cases.case import Case, label_path
from oarseg.cases.find_cases import Found, find_cases
from oarseg.challenges import catalogue
from oarseg.cli import main
from oarseg.errors import InputError, OutputError
from oarseg.inference.engines.choice import DeviceChoice, Engines
from oarseg.model.manifest import RunDefaults
from oarseg.results import space
from oarseg.results.lock import lock_output
from oarseg.workflows import segment_folder
from oarseg.workflows.output_plan import plan_outputs
from oarseg.workflows.segment_case import SegmentedCase
from oarseg.workflows.settings import Settings
from oarseg.workflows.supervisor import Finished, Journal

RULES = catalogue.load_challenge("han_seg")
NO_ENGINES = Engines(DeviceChoice("cpu", "openvino", "a stand-in"), ())
Segment = Callable[[Case, Any, Path], Path]


def put(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def write_outputs(case: Case, output: Path, text: str) -> Path:
    """All that a case leaves, without computing anything."""
    label_file = label_path(case, RULES)
    report = {"case": case.name, "label_file": str(label_file)}
    inputs = {name: path.name for name, path in case.files.items()}
    for name, content in {
        f"oar_masks/{case.name}.seg.nrrd": text,
        f"oar_masks/{case.name}/mask": text,
        f"reports/{case.name}.json": json.dumps(report | {"inputs": inputs}),
        str(label_file): text,
    }.items():
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).write_text(content)
    return output / label_file


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder ``in`` with cases a to c, and a run whose segmentation is a stand-in."""
    put(tmp_path, *(f"in/images/ct/{name}_CT.mha" for name in "abc"))
    facts = {"channels": (), "warning": "", "run": RunDefaults()}
    bundle = type("Bundle", (), {"manifest": type("Manifest", (), facts)})
    monkeypatch.setattr(segment_folder.bundle, "load_bundle", lambda _: bundle)
    monkeypatch.setattr(segment_folder, "challenge_of", lambda *_: replace(RULES, notice=""))
    monkeypatch.setattr(segment_folder._Run, "_open_engines", lambda *_: NO_ENGINES)
    return tmp_path


def segment(
    work: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    *,
    fails: str = "",
    journal: Journal | None = None,
) -> list[str]:
    """Run; returns the cases that failed."""

    def stand_in(case: Case, _: object, output: Path, **__: object) -> SegmentedCase:
        if case.name in fails:
            raise InputError(f"{case.name}: {text} failed")
        if case.name == "stop":
            raise KeyboardInterrupt
        return SegmentedCase(write_outputs(case, output, text), NO_ENGINES)

    monkeypatch.setattr(segment_folder, "segment_case", stand_in)
    settings = Settings(work / "in", work / "out", work)
    return [failure.case for failure in segment_folder.segment_folder(settings, journal)]


def listed(output: Path) -> list[str]:
    entries = json.loads((output / "results.json").read_text())
    return [
        entry["outputs"][0]["filename"] if entry["outputs"] else entry["error_messages"][0]
        for entry in entries
    ]


def contents(output: Path) -> dict[str, str]:
    return {
        str(path.relative_to(output)): path.read_text()
        for path in output.rglob("*")
        if path.is_file() and path.suffix not in (".json",)
    }


A, B, C = (f"{name}_seg.mha" for name in "abc")


def test_a_rerun_that_stops_keeps_what_the_first_run_finished(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert segment(work, monkeypatch, "first") == []
    put(work / "in", "images/ct/stop_CT.mha")
    (work / "in/images/ct/c_CT.mha").rename(work / "in/images/ct/z_CT.mha")
    with pytest.raises(KeyboardInterrupt):
        segment(work, monkeypatch, "second")
    # a and b are of the second run, c of the first and not in this one's input.
    assert listed(work / "out") == [A, B, C]
    found = contents(work / "out")
    assert found[f"images/head_neck_oar/{A}"] == "second"
    assert found[f"images/head_neck_oar/{C}"] == "first"
    assert not (work / "out/.oarseg").exists()


def test_a_case_that_fails_anew_is_unlisted_and_set_aside(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment(work, monkeypatch, "first")
    assert segment(work, monkeypatch, "second", fails="b") == ["b"]
    assert listed(work / "out") == [A, "b: second failed", C]
    entries = json.loads((work / "out/results.json").read_text())
    assert entries[1]["error_messages"][1] == "its outputs of an earlier run are in earlier/b"
    mine = sorted(name for name in contents(work / "out") if "b" in Path(name).name[:1])
    assert mine == [f"earlier/b/images/head_neck_oar/{B}", "earlier/b/oar_masks/b.seg.nrrd"]
    assert (work / "out/earlier/b/oar_masks/b/mask").read_text() == "first"


def test_an_image_in_another_format_leaves_no_old_label_file(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment(work, monkeypatch, "first")
    (work / "in/images/ct/b_CT.mha").rename(work / "in/images/ct/b_CT.nrrd")
    segment(work, monkeypatch, "second")
    assert listed(work / "out") == [A, "b_seg.nrrd", C]
    names = {path.name for path in (work / "out/images/head_neck_oar").iterdir()}
    assert names == {A, "b_seg.nrrd", C}


def test_a_run_into_a_folder_in_use_changes_nothing(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment(work, monkeypatch, "first")
    before = contents(work / "out")
    with (
        lock_output(work / "out"),
        pytest.raises(OutputError, match=r"found one in use by process \d+ on .* since "),
    ):
        segment(work, monkeypatch, "second")
    assert contents(work / "out") == before


def test_the_command_asks_for_the_folder_before_anything_else(
    work: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with lock_output(work / "out"):
        arguments = ["--input", work / "in", "--output", work / "out", "--weights", work / "none"]
        assert main(["segment", *map(str, arguments)]) == 1
        assert "in use by process" in capfd.readouterr().err
        assert [path.name for path in (work / "out/.oarseg").iterdir()] == ["lock"]


def test_a_supervised_worker_takes_no_lock_of_its_own(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its supervisor holds it."""
    with lock_output(work / "out"), (work / "pipe").open("wb") as pipe:
        journal = Journal({"a": Finished(messages=("killed",))}, pipe.fileno())
        assert segment(work, monkeypatch, "first", journal=journal) == ["a"]
    assert listed(work / "out") == ["killed", B, C]


@pytest.mark.parametrize("name", ["images", "oar_masks", "reports", "earlier", ".oarseg"])
def test_a_planted_link_ends_the_run_before_any_case(
    work: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (work / "out").mkdir()
    (work / "outside").mkdir()
    (work / "out" / name).symlink_to(work / "outside")
    with pytest.raises(OutputError, match=f"{name}: expected a folder, found a link"):
        segment(work, monkeypatch, "first")
    assert list((work / "outside").iterdir()) == []
    assert [path.name for path in (work / "out").iterdir()] == [name]


def test_a_link_in_the_place_of_a_label_file_costs_nothing_outside(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (work / "precious").write_text("not ours")
    put(work / "out", "images/head_neck_oar/x")
    (work / "out/images/head_neck_oar" / A).symlink_to(work / "precious")
    (work / "out/results.json").symlink_to(work / "precious")
    assert segment(work, monkeypatch, "first") == []
    assert (work / "precious").read_text() == "not ours"
    assert not (work / "out/images/head_neck_oar" / A).is_symlink()


def test_a_forged_report_moves_no_other_case(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It claims another case's label file, results.json, and a file that nobody knows."""
    segment(work, monkeypatch, "first")
    put(work / "out", "images/head_neck_oar/precious.mha")
    for name in (f"images/head_neck_oar/{B}", "results.json", "images/head_neck_oar/precious.mha"):
        report = {"case": "a", "label_file": name, "inputs": {"CT": "a_CT.mha"}}
        (work / "out/reports/a.json").write_text(json.dumps(report))
        assert segment(work, monkeypatch, "second", fails="a") == ["a"]
        assert listed(work / "out") == ["a: second failed", B, C]
        assert (work / "out/images/head_neck_oar/precious.mha").is_file()


def test_a_name_that_no_file_can_have_costs_that_case_only(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "n" * 248
    put(work / "in", f"images/t1-mri/{long}.mha", f"images/ct/{long[:-10]}.mha")
    assert sorted(segment(work, monkeypatch, "first")) == [long[:-10], long]
    assert listed(work / "out")[-3:] == [A, B, C]


def test_what_is_no_image_is_counted_in_the_log(
    work: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put(work / "in", "images/ct/Thumbs.db", "images/ct/README")
    with caplog.at_level("INFO"):
        assert segment(work, monkeypatch, "first") == []
    assert "2 files beside the images are none, left out: README, Thumbs.db" in caplog.text


def test_the_input_folder_is_no_output_folder(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (work / "out").symlink_to(work / "in")
    with pytest.raises(InputError, match="expected an output folder of its own, found the input"):
        segment(work, monkeypatch, "first")


def test_a_full_disk_stops_the_run_before_the_next_case(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment(work, monkeypatch, "first", fails="c")
    begun: list[str] = []
    free = iter([10 * space.RESERVE_BYTES, 0, 0, 0])
    monkeypatch.setattr(space, "free_bytes", lambda _: next(free))

    def stand_in(case: Case, _: object, output: Path, **__: object) -> SegmentedCase:
        begun.append(case.name)
        return SegmentedCase(write_outputs(case, output, "second"), NO_ENGINES)

    monkeypatch.setattr(segment_folder, "segment_case", stand_in)
    settings = Settings(work / "in", work / "out", work)
    monkeypatch.setattr(segment_folder, "_check_space", lambda *_: None)
    failures = segment_folder.segment_folder(settings)
    assert begun == ["a"]
    assert [failure.case for failure in failures] == ["b", "c"]
    assert all("No space left on device; free space" in f.message for f in failures)
    # What the first run made of b stays, and stays listed.
    assert set(listed(work / "out")) == {A, B, failures[1].message}


def test_cases_that_no_time_was_left_for_keep_an_earlier_run_s_outputs(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment(work, monkeypatch, "first", fails="c")
    finished = {"a": Finished(messages=("too late for a",))}
    journal = Journal(finished, over=Finished(messages=("too late",)))
    assert segment(work, monkeypatch, "second", journal=journal) == ["a", "b", "c"]
    assert sorted(listed(work / "out")) == sorted(["too late for a", B, "too late"])
    assert not (work / "out/oar_masks/a").exists()
    assert (work / "out/oar_masks/b/mask").read_text() == "first"


def test_a_case_of_an_earlier_run_is_not_overwritten_by_another(tmp_path: Path) -> None:
    """The label file of a_seg.mha is that of a_CT.mha too."""
    put(tmp_path, "in/images/ct/a_CT.mha", "in/images/ct/b_CT.mha")
    output = tmp_path / "out"
    write_outputs(Case("a_seg", {"CT": Path("a_seg.mha")}), output, "first")
    entry = {"outputs": [{"type": "metaio_image", "filename": "a_seg.mha"}], "error_messages": []}
    entry["inputs"] = [{"type": "metaio_ct_image", "filename": "a_seg.mha"}]
    (output / "results.json").write_text(json.dumps([entry]))
    found = find_cases(tmp_path / "in", RULES, required=frozenset({"CT"}))
    plan = plan_outputs(output, RULES, found)
    assert [case.name for case in plan.cases] == ["b"]
    (problem,) = plan.problems
    assert "found one that case 'a_seg' of an earlier run has; rename the file" in problem.message
    assert sorted(plan.kept) == ["a_seg"]


def test_a_plan_for_an_empty_folder_keeps_nothing(tmp_path: Path) -> None:
    plan = plan_outputs(tmp_path, RULES, Found((), ()))
    assert (plan.cases, plan.problems, dict(plan.kept)) == ((), (), {})
