"""One run at a time in an output folder; the second says whose it is."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
from pathlib import Path

import pytest

from oarseg.errors import OutputError
from oarseg.results import lock
from oarseg.results.lock import lock_output


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def held_by_child(output: Path) -> tuple[int, int]:
    """A process that holds a folder until it is killed, and a pipe that it closes with."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with lock_output(output):
            os.write(writing, b"x")
            signal.pause()
    os.close(writing)
    assert os.read(reading, 1) == b"x"
    return child, reading


def test_nothing_is_left_of_a_lock(tmp_path: Path) -> None:
    with lock_output(tmp_path):
        assert (tmp_path / ".oarseg/lock").is_file()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_made_for_nothing_is_removed(tmp_path: Path) -> None:
    with lock_output(tmp_path / "out"):
        pass
    assert not (tmp_path / "out").exists()
    with lock_output(tmp_path / "out"):
        (tmp_path / "out/results.json").touch()
    assert (tmp_path / "out/results.json").is_file()


def test_the_second_run_says_who_holds_it_and_changes_nothing(tmp_path: Path) -> None:
    child, reading = held_by_child(tmp_path)
    (tmp_path / "results.json").write_text("[]")
    before = snapshot(tmp_path)
    with pytest.raises(OutputError) as caught, lock_output(tmp_path):
        pass
    since = json.loads((tmp_path / ".oarseg/lock").read_text())["since"]
    assert str(caught.value) == (
        f"{tmp_path}: expected a folder that no other run writes to, found one in use by process "
        f"{child} on {socket.gethostname()} since {since}; wait for its end, or pass another "
        "--output"
    )
    assert snapshot(tmp_path) == before
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reading)
    # The lock ends with its holder, however that ended.
    with lock_output(tmp_path):
        assert json.loads((tmp_path / ".oarseg/lock").read_text())["pid"] == os.getpid()


def test_a_child_that_ends_does_not_let_go(tmp_path: Path) -> None:
    with lock_output(tmp_path):
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        with pytest.raises(OutputError, match="in use by process"), lock_output(tmp_path):
            pass


def test_a_worker_that_returns_through_the_block_does_not_let_go(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    with lock_output(tmp_path):
        child = os.fork()
        if child != 0:
            os.waitpid(child, 0)
            assert (tmp_path / ".oarseg/lock").is_file()
            with pytest.raises(OutputError, match="in use"), lock_output(tmp_path):
                pass
    if child == 0:
        os._exit(0)
    os.close(reading)
    os.close(writing)


def test_a_lock_that_was_removed_between_opening_and_locking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its holder removes it at the end; who waited for that inode must take the new one."""
    real, calls = fcntl.flock, []

    def late(handle: int, operation: int) -> None:
        if not calls:
            (tmp_path / ".oarseg/lock").unlink()
        calls.append(handle)
        real(handle, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with lock_output(tmp_path):
        assert len(calls) == 2
        with pytest.raises(OutputError, match="in use"), lock_output(tmp_path):
            pass


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 4096, b'{"pid": "a\\nb"}', b"7"])
def test_a_holder_that_cannot_be_read(tmp_path: Path, content: bytes) -> None:
    with lock_output(tmp_path):
        (tmp_path / ".oarseg/lock").write_bytes(content)
        with pytest.raises(OutputError, match="in use by another run; wait"), lock_output(tmp_path):
            pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_locks(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: int,
) -> None:
    def refused(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock.fcntl, "flock", refused)
    with lock_output(tmp_path):
        pass
    assert "its file system has no locks" in caplog.text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [".oarseg", ".oarseg/lock"])
def test_a_planted_link_is_not_followed(tmp_path: Path, name: str) -> None:
    outside, output = tmp_path / "outside", tmp_path / "output"
    outside.mkdir()
    (outside / "lock").write_text("not ours")
    (output / name).parent.mkdir(parents=True)
    (output / name).symlink_to(outside / "lock" if "lock" in name else outside)
    with pytest.raises(OutputError, match="found a link"), lock_output(output):
        pass
    assert (outside / "lock").read_text() == "not ours"


def test_a_second_name_of_a_file_elsewhere_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("not ours")
    (tmp_path / "output/.oarseg").mkdir(parents=True)
    (tmp_path / "output/.oarseg/lock").hardlink_to(tmp_path / "outside")
    with (
        pytest.raises(OutputError, match="one with a second name"),
        lock_output(tmp_path / "output"),
    ):
        pass
    assert (tmp_path / "outside").read_text() == "not ours"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(OutputError, match="expected a folder that can be written, found"),
        lock_output(tmp_path / "file/below"),
    ):
        pass
