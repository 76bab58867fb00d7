"""``results.json``: what it says at every instant, what it costs, and what a kill leaves."""

from __future__ import annotations

import errno
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from oarseg.errors import OutputError
from oarseg.results import results_file
from oarseg.results.results_file import (
    Record,
    complete_results,
    open_results_file,
    read_kept_records,
    write_results,
)

FILES = {"CT": Path("/input/a_CT.mha"), "MR_T1": Path("/input/a_MR.mha")}
CASES = "abcdefgh"


def good(output: Path, case: str, *, text: str = "") -> Record:
    """A record, and the files that it stands for."""
    files = (f"oar_masks/{case}.seg.nrrd", f"oar_masks/{case}/mask", f"images/x/{case}.mha")
    for name in files:
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).write_text(text)
    inputs = {channel: Path(f"{case}_{channel}.mha") for channel in ("CT", "MR_T1")}
    report = {"case": case, "label_file": f"images/x/{case}.mha"}
    report["inputs"] = {channel: path.name for channel, path in inputs.items()}  # type: ignore[assignment]
    (output / "reports").mkdir(exist_ok=True)
    (output / f"reports/{case}.json").write_text(json.dumps(report))
    return Record(case, inputs, output / files[2])


def listed(output: Path) -> list[str]:
    """The label files that results.json lists, or the failed cases' messages."""
    document = json.loads((output / "results.json").read_text())
    return [
        entry["outputs"][0]["filename"] if entry["outputs"] else entry["error_messages"][0]
        for entry in document
    ]


def test_good_and_failed_cases(tmp_path: Path) -> None:
    write_results(
        tmp_path,
        [
            Record("a", FILES, tmp_path / "images/head_neck_oar/a_seg.mha").entry,
            Record("b", error_messages=("b_MR.mha: expected the CT",)).entry,
        ],
    )
    assert json.loads((tmp_path / "results.json").read_text()) == [
        {
            "outputs": [{"type": "metaio_image", "filename": "a_seg.mha"}],
            "inputs": [
                {"type": "metaio_ct_image", "filename": "a_CT.mha"},
                {"type": "metaio_mrt1_image", "filename": "a_MR.mha"},
            ],
            "error_messages": [],
        },
        {"outputs": [], "inputs": [], "error_messages": ["b_MR.mha: expected the CT"]},
    ]
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.json"]


def no_space(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_results_are_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_results_file(tmp_path, kept={}) as results:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", no_space)
            with pytest.raises(OutputError, match=r"results\.json: expected a folder that can be"):
                results.write()
            with pytest.raises(OutputError, match="journal: expected a folder that can be written"):
                results.append(Record("a", error_messages=("no",)))
        assert (tmp_path / "results.json").read_text() == "[]\n"
        assert not (tmp_path / ".oarseg/draft-results.json").exists()


def test_a_finished_run_leaves_results_alone(tmp_path: Path) -> None:
    with open_results_file(tmp_path, kept={}) as results:
        for case in CASES:
            results.append(good(tmp_path, case))
            assert (tmp_path / ".oarseg/journal").is_file()
    assert listed(tmp_path) == [f"{case}.mha" for case in CASES]
    assert not (tmp_path / ".oarseg").exists()


def test_a_run_that_ends_in_an_error_lists_what_it_recorded(tmp_path: Path) -> None:
    def interrupted() -> None:
        with open_results_file(tmp_path, kept={}) as results:
            for case in CASES:
                results.append(good(tmp_path, case))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert listed(tmp_path) == [f"{case}.mha" for case in CASES]


class Counted:
    """What a run writes, in bytes, as the system is asked to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bytes = 0
        real = os.fdopen

        def opened(handle: int, mode: str = "r", **options: Any) -> Any:
            stream = real(handle, mode, **options)
            if "w" in mode:
                write, lines = stream.write, stream.writelines
                stream = _Stream(stream, write, lines, self)
            return stream

        monkeypatch.setattr(os, "fdopen", opened)


class _Stream:
    def __init__(self, stream: Any, write: Any, lines: Any, count: Counted) -> None:
        self._stream, self._write, self._lines, self._count = stream, write, lines, count

    def write(self, text: str) -> None:
        self._count.bytes += len(text)
        self._write(text)

    def writelines(self, lines: list[str]) -> None:
        self._count.bytes += sum(map(len, lines))
        self._lines(lines)

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@pytest.mark.parametrize("failing", [False, True])
def test_what_a_cohort_costs_grows_with_its_cases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: bool
) -> None:
    """HaN5K's 3,346 cases; rewriting the file for each wrote 1.7 GB."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    written = []
    for cases in (1673, 3346):
        output = tmp_path / str(cases)
        output.mkdir()
        kept = {f"old{i}": Record(f"old{i}", FILES, Path(f"old{i}.mha")) for i in range(cases)}
        counted = Counted(monkeypatch)
        with open_results_file(output, kept=kept if failing else {}) as results:
            for i in range(cases):
                label_file = None if failing else Path(f"RADCURE-{i:04}.nii.gz")
                messages = ("no GPU",) if failing else ()
                results.append(Record(f"old{i}", FILES, label_file, messages))
                if results.is_due:
                    results.write()
        final = (output / "results.json").stat().st_size
        assert len(json.loads((output / "results.json").read_text())) == cases
        # A few times the final size: 5 for growth by a quarter, the last time, the journal.
        assert counted.bytes < 9 * final
        written.append(counted.bytes)
    assert written[1] < 2.4 * written[0]


def test_small_runs_are_listed_at_once(tmp_path: Path) -> None:
    with open_results_file(tmp_path, kept={}) as results:
        for number, case in enumerate("abcde", 1):
            results.append(good(tmp_path, case))
            assert results.is_due
            results.write()
            assert len(listed(tmp_path)) == number


def run(output: Path, text: str, cases: str = CASES) -> None:
    """A run over cases; b fails, and e of a second run."""
    complete_results(output)
    kept = read_kept_records(output)
    with open_results_file(output, kept=kept) as results:
        for case in cases:
            if case == "b":
                results.append(Record("b", error_messages=("b failed",)))
            else:
                results.append(good(output, case, text=text))
            if results.is_due:
                results.write()


def killed(output: Path, function: str, step: int) -> bool:
    """A run whose process dies before the n-th call of a function of the system."""
    child = os.fork()
    if child == 0:
        real, calls = getattr(os, function), iter(range(10**6))

        def counted(*args: Any, **options: Any) -> Any:
            if next(calls) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **options)

        setattr(os, function, counted)
        run(output, "new")
        os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


@pytest.mark.parametrize("function", ["rename", "fsync", "fdopen", "unlink", "rmdir"])
@pytest.mark.parametrize("rerun", [False, True])
def test_killed_at_any_step(tmp_path: Path, function: str, rerun: bool) -> None:
    """No record that was made is lost, none of an earlier run before it is replaced, and what
    is listed is there."""
    for step in range(1000):
        output = tmp_path / str(step)
        output.mkdir()
        if rerun:
            run(output, "old", "acdefgh")
        was = {"acdefgh"[i] for i in range(7)} if rerun else set()
        if not killed(output, function, step):
            break
        if (output / "results.json").exists():
            assert {name[0] for name in listed(output)} >= was
        complete_results(output)
        if (output / "results.json").exists():
            names = listed(output)
            assert len(names) == len(set(names))
            for name in names:
                assert name == "b failed" or (output / "images/x" / name).is_file()
            assert {name[0] for name in names} >= was
        assert not (output / ".oarseg/journal").exists()
    assert step > 0
    assert sorted(name[0] for name in listed(output)) == list(CASES)


def test_records_survive_a_kill_before_they_are_listed(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        with open_results_file(tmp_path, kept={}) as results:
            for case in CASES:
                results.append(good(tmp_path, case))
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert listed(tmp_path) == []
    complete_results(tmp_path)
    assert listed(tmp_path) == [f"{case}.mha" for case in CASES]
    assert not (tmp_path / ".oarseg").exists()


def test_a_line_that_broke_off_costs_no_other(tmp_path: Path) -> None:
    with open_results_file(tmp_path, kept={}) as results:
        results.append(good(tmp_path, "a"))
        results.append(good(tmp_path, "c"))
        journal = (tmp_path / ".oarseg/journal").read_text()
    (tmp_path / ".oarseg").mkdir()
    (tmp_path / ".oarseg/journal").write_text(journal[:-20] + "\n7\n{}\n[]\n" + "[" * 10**5)
    complete_results(tmp_path)
    assert listed(tmp_path) == ["a.mha"]


def test_a_case_that_fails_anew_is_no_longer_listed(tmp_path: Path) -> None:
    run(tmp_path, "old", "ac")
    with open_results_file(tmp_path, kept=read_kept_records(tmp_path)) as results:
        assert results.keeps("a")
        results.append(Record("a", error_messages=("a failed",)))
        assert not results.keeps("a")
        assert listed(tmp_path) == ["a.mha", "c.mha"]
    assert listed(tmp_path) == ["a failed", "c.mha"]


@pytest.mark.parametrize(
    "gone", ["images/x/a.mha", "oar_masks/a.seg.nrrd", "oar_masks/a", "reports/a.json"]
)
def test_a_case_is_kept_only_if_its_outputs_are_there(tmp_path: Path, gone: str) -> None:
    run(tmp_path, "old", "ac")
    assert sorted(read_kept_records(tmp_path)) == ["a", "c"]
    (tmp_path / gone).rename(tmp_path / "elsewhere")
    assert sorted(read_kept_records(tmp_path)) == ["c"]
    (tmp_path / gone).symlink_to(tmp_path / "elsewhere")
    assert sorted(read_kept_records(tmp_path)) == ["c"]


def test_a_case_is_kept_only_if_it_was_listed(tmp_path: Path) -> None:
    run(tmp_path, "old", "a")
    good(tmp_path, "c")
    assert sorted(read_kept_records(tmp_path)) == ["a"]


@pytest.mark.parametrize("text", ["", "{", "7", "{}", "[7, [], {}]", "[" * 10**5, "\xff"])
def test_results_that_are_none_keep_nothing(tmp_path: Path, text: str) -> None:
    run(tmp_path, "old", "a")
    (tmp_path / "results.json").write_bytes(text.encode("latin-1"))
    assert read_kept_records(tmp_path) == {}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("case", "c"),
        ("label_file", "../a.mha"),
        ("label_file", 7),
        ("inputs", []),
        ("inputs", {"CT": 7}),
    ],
)
def test_a_report_that_is_none_keeps_nothing(tmp_path: Path, key: str, value: object) -> None:
    run(tmp_path, "old", "a")
    path = tmp_path / "reports/a.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    assert read_kept_records(tmp_path) == {}


@pytest.mark.parametrize("name", ["results.json", ".oarseg/journal", ".oarseg/draft-results.json"])
@pytest.mark.parametrize("hard", [False, True])
def test_a_planted_link_is_not_written_through(tmp_path: Path, name: str, hard: bool) -> None:
    outside, output = tmp_path / "outside", tmp_path / "output"
    outside.write_text('[{"outputs": [7]}]')
    (output / name).parent.mkdir(parents=True)
    (output / name).hardlink_to(outside) if hard else (output / name).symlink_to(outside)
    run(output, "new", "a")
    assert outside.read_text() == '[{"outputs": [7]}]'
    assert listed(output) == ["a.mha"]


def test_a_journal_beyond_its_limit_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results_file, "RESULTS_BYTES", 100)
    (tmp_path / ".oarseg").mkdir()
    (tmp_path / ".oarseg/journal").write_text(" " * 101)
    complete_results(tmp_path)
    assert list(tmp_path.iterdir()) == []
