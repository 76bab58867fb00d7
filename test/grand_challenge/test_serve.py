"""The server of the platform's invoke mode, asked by a real HTTP client."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import nnunet_oracle as oracle
import pytest

from oarseg.phantom import write_cases

PATIENCE_S = 120
LABELS = "images/head_neck_oar/case_03_seg.mha"


@dataclass(frozen=True)
class Server:
    """A server that runs, and its folders."""

    process: subprocess.Popen[str]
    port: int
    input: Path
    output: Path
    log: list[str]

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, str]:
        """Status and text of one request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read().decode().strip()
        finally:
            connection.close()

    def wait_until_ready(self) -> None:
        end = time.monotonic() + PATIENCE_S
        while not self.is_ready():
            assert time.monotonic() < end, self.log
            time.sleep(0.05)

    def is_ready(self) -> bool:
        """Whether it answers, and answers that its networks are open."""
        try:
            return self.ask("GET", "/health")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    @property
    def worker(self) -> int:
        """Process number of the worker."""
        pid = self.process.pid
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
        (number,) = text.split()
        return int(number)

    def invoke_aside(self, found: list[tuple[int, str]]) -> threading.Thread:
        """Invoke in a thread, and return once a case is in work."""
        lines = len(self.log)

        def ask() -> None:
            # A server that ends closes the connection.
            with suppress(OSError, http.client.HTTPException):
                found.append(self.ask("POST", "/invoke"))

        thread = threading.Thread(target=ask)
        thread.start()
        end = time.monotonic() + PATIENCE_S
        while not any("INFO case " in line for line in self.log[lines:]):
            assert time.monotonic() < end, self.log
            time.sleep(0.01)
        return thread


def start(folder: Path, *more: str, weights: Path) -> Server:
    """Start a server of its own on a free port."""
    line = [
        sys.executable, "-m", "oarseg.cli", "serve", "--input", str(folder / "input"),
        "--output", str(folder / "output"), "--weights", str(weights), "--device", "cpu",
        "--registration", "none", "--host", "127.0.0.1", "--port", "0", *more,
    ]  # fmt: skip
    (folder / "output").mkdir(exist_ok=True)
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    log: list[str] = []
    for text in process.stdout:
        log.append(text)
        found = re.search(r"listening on 127\.0\.0\.1 port (\d+)", text)
        if found:
            break
    else:
        raise AssertionError("".join(log))
    stream = process.stdout
    threading.Thread(target=lambda: log.extend(stream), daemon=True).start()
    return Server(process, int(found[1]), folder / "input", folder / "output", log)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return oracle.write_han_seg_weights(tmp_path_factory.mktemp("weights"), folds=1)


@pytest.fixture(scope="module")
def server(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    write_cases(folder / "phantoms", seeds=[3], size="tiny", layout="platform")
    shutil.copytree(folder / "phantoms" / "images" / "ct", folder / "input" / "images" / "ct")
    running = start(folder, weights=weights)
    yield running
    running.process.kill()
    running.process.wait()


def rename_ct(server: Server, name: str) -> None:
    (path,) = (server.input / "images" / "ct").iterdir()
    path.rename(path.with_name(name))


def test_an_invocation_writes_and_the_next_begins_with_an_empty_folder(server: Server) -> None:
    (server.output / "of_the_user.txt").write_text("kept")
    assert server.ask("POST", "/invoke")[0] in (201, 503)
    server.wait_until_ready()
    assert server.ask("POST", "/invoke") == (201, "written")
    assert (server.output / LABELS).is_file()
    worker = server.worker
    rename_ct(server, "case_09_CT.mha")
    try:
        assert server.ask("POST", "/invoke") == (201, "written")
        images = [path.name for path in (server.output / LABELS).parent.iterdir()]
        assert images == ["case_09_seg.mha"]
        assert not (server.output / "earlier").exists()
        assert (server.output / "of_the_user.txt").read_text() == "kept"
    finally:
        rename_ct(server, "case_03_CT.mha")
    assert server.worker == worker


def test_a_failing_invocation_is_told_and_costs_no_other(server: Server) -> None:
    server.wait_until_ready()
    worker, path = server.worker, server.input / "images" / "ct" / "case_03_CT.mha"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    try:
        status, text = server.ask("POST", "/invoke")
    finally:
        path.write_bytes(content)
    assert status == 500
    assert text.startswith("case_03: ")
    assert any(f" ERROR {text}" in line for line in server.log)
    assert not (server.output / LABELS).exists()
    assert server.ask("POST", "/invoke") == (201, "written")
    assert server.worker == worker


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("POST", "/health", 405),
        ("GET", "/invoke", 405),
        ("POST", "/invoke/../../etc/passwd", 404),
        ("PUT", "/invoke", 405),
        ("DELETE", "/health", 405),
        ("BREW", "/coffee", 404),
        ("POST", "/invoke?x=1", 404),
    ],
)
def test_what_is_no_request_of_the_platform(
    server: Server, method: str, path: str, status: int
) -> None:
    server.wait_until_ready()
    before = sorted(server.output.rglob("*"))
    assert server.ask(method, path)[0] == status
    assert sorted(server.output.rglob("*")) == before


@pytest.mark.parametrize(
    "head",
    [
        "Content-Length: 99999999999",
        "Content-Length: -1",
        "Content-Length: 1e3",
        "Transfer-Encoding: chunked",
    ],
)
def test_a_body_that_is_too_large_or_endless_is_refused(server: Server, head: str) -> None:
    server.wait_until_ready()
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as client:
        client.sendall(f"POST /invoke HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n".encode())
        assert client.recv(100).startswith(b"HTTP/1.1 400 ")


def test_a_second_invocation_meanwhile_is_a_conflict(server: Server) -> None:
    server.wait_until_ready()
    found: list[tuple[int, str]] = []
    thread = server.invoke_aside(found)
    assert server.ask("POST", "/invoke")[0] == 409
    assert server.ask("GET", "/health")[0] == 200
    thread.join(PATIENCE_S)
    assert found == [(201, "written")]


def test_a_worker_that_is_killed_costs_its_invocation_only(server: Server) -> None:
    server.wait_until_ready()
    found: list[tuple[int, str]] = []
    thread = server.invoke_aside(found)
    os.kill(server.worker, signal.SIGKILL)
    thread.join(PATIENCE_S)
    ((status, text),) = found
    assert status == 500
    assert "memory ran out" in text or "killed by signal 9" in text
    assert not [p for p in server.output.rglob("*") if p.name.startswith(".") and p.is_dir()]
    assert server.ask("POST", "/invoke") == (201, "written")


def test_many_idle_connections_keep_nobody_out_for_long(server: Server) -> None:
    server.wait_until_ready()
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(40)]
    try:
        for client in idle:
            client.close()
        server.wait_until_ready()
    finally:
        for client in idle:
            client.close()


def test_a_signal_ends_it_within_five_seconds(server: Server, weights: Path) -> None:
    folder = server.output.parent / "other"
    shutil.copytree(server.input, folder / "input")
    other = start(folder, weights=weights)
    other.wait_until_ready()
    thread = other.invoke_aside([])
    before = time.monotonic()
    other.process.send_signal(signal.SIGTERM)
    assert other.process.wait(PATIENCE_S) == 128 + signal.SIGTERM
    assert time.monotonic() - before < 5
    thread.join(PATIENCE_S)
    assert [path for path in other.output.rglob("*.mha")] == []


def test_a_time_limit_is_each_invocations_own(server: Server, weights: Path) -> None:
    folder = server.output.parent / "limited"
    shutil.copytree(server.input, folder / "input")
    limited = start(folder, "--time-limit", "60", weights=weights)
    try:
        limited.wait_until_ready()
        time.sleep(1)
        for _ in range(2):
            assert limited.ask("POST", "/invoke") == (201, "written")
    finally:
        limited.process.kill()
        limited.process.wait()


def test_a_model_that_cannot_be_used_ends_it(server: Server, weights: Path) -> None:
    folder = server.output.parent / "broken"
    shutil.copytree(weights, folder / "weights")
    (folder / "weights" / "manifest.json").write_text("{}")
    (folder / "input").mkdir()
    broken = start(folder, weights=folder / "weights")
    assert broken.process.wait(PATIENCE_S) == 1
    assert any("manifest.json" in line for line in broken.log)
