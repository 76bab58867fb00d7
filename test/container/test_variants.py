"""The image without CUDA, which serves in the platform's invoke mode too: `make container-test`."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import docker_engine
import nnunet_oracle as oracle
import pytest
from docker_engine import FLAGS

from oarseg import __version__
from oarseg.phantom import write_cases

CPU = f"oarseg:{__version__}-cpu"
SERVING = f"oarseg:{__version__}-cpu-invoke"
LARGEST_CPU_IMAGE = 1.2e9
INVOCATIONS = 20
# Between the third and the last invocation: what allocators still take, and no more.
MOST_GROWTH = 1.03
PATIENCE_S = 120
# A client in the container itself, which has no network: status and text of one request, or 0
# where nobody listens yet.
CLIENT = """
import http.client, json, sys
connection = http.client.HTTPConnection("127.0.0.1", 4743, timeout=120)
try:
    connection.request(*sys.argv[1:3])
    answer = connection.getresponse()
    print(json.dumps([answer.status, answer.read().decode()]))
except ConnectionRefusedError:
    print(json.dumps([0, ""]))
"""

pytestmark = pytest.mark.container
Say = Callable[[str], None]


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny case, CT and MR, and tiny networks for it."""
    folder = tmp_path_factory.mktemp("tiny")
    write_cases(folder / "input", seeds=[3], size="tiny", layout="platform")
    shutil.rmtree(folder / "input" / "truth")
    (folder / "weights").mkdir()
    oracle.write_han_seg_weights(folder / "weights", folds=1)
    return docker_engine.open_to_all(folder)


@pytest.mark.parametrize("registration", ["rigid", "bspline"])
def test_without_cuda_it_is_small_and_lacks_nothing(
    phantoms: Path, registration: str, tmp_path: Path, say: Say
) -> None:
    docker_engine.build("--cpu")
    size = docker_engine.image_size(CPU)
    say(f"image {CPU}: {size / 1e9:.2f} GB uncompressed")
    assert size <= LARGEST_CPU_IMAGE
    options = ("--volume", f"{phantoms / 'weights'}:/opt/ml/model:ro")
    done = docker_engine.run_on(
        phantoms / "input",
        tmp_path,
        *options,
        arguments=("--registration", registration),
        image=CPU,
    )
    assert done.status == 0, done.log
    report = done.report()
    assert report["device"]["device"] == "cpu"
    assert report["registration"]["status"] in ("good", "doubtful")


def entry(key: str, slug: str, path: str, **given: object) -> dict[str, object]:
    """An entry of inputs.json as the platform's template has it."""
    kind = "Image" if "image" in given else "Value"
    named = {"slug": slug, "kind": kind, "super_kind": kind, "relative_path": path}
    empty: dict[str, object] = {"file": None, "image": None, "value": None}
    return {key: named | {"example_value": None}, **empty, **given}


@pytest.mark.parametrize("key", ["socket", "interface"])
@pytest.mark.parametrize("mode", ["exec", "invoke"])
def test_the_templates_own_layout(phantoms: Path, key: str, mode: str, tmp_path: Path) -> None:
    """As do_test_run.sh has it: test/input/interf0 with its list, interf1 with other sockets."""
    image = {"name": "the_original_filename_of_the_file_that_was_uploaded.suffix"}
    ct = entry(key, "ct-image", "images/ct", image=image)
    mr = entry(key, "t1-mri", "images/t1-mri", image=image)
    age = entry(key, "age-in-years", "age-in-years.json", value=61)
    for name, listed in (("interf0", [ct, mr, age]), ("interf1", [age, ct])):
        job = tmp_path / "input" / name
        shutil.copytree(phantoms / "input" / "images", job / "images")
        (job / "age-in-years.json").write_text("61")
        (job / "inputs.json").write_text(json.dumps(listed))
    docker_engine.open_to_all(tmp_path / "input")
    options = ["--cpu", "--invoke"] if mode == "invoke" else ["--cpu"]
    folders = [tmp_path / "input", phantoms / "weights", tmp_path / "output"]
    done = subprocess.run(
        [docker_engine.ROOT / "test_run.sh", *options, *folders],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("a job that writes this is taken") == 2
    assert done.stdout.count("exit status 0") == 2
    assert done.stdout.count("POST /invoke: 201 written") == 2 * (mode == "invoke")
    used = {}
    for name in ("interf0", "interf1"):
        (report,) = (tmp_path / "output" / name / "reports").glob("*.json")
        used[name] = json.loads(report.read_text())["registration"]
    assert used["interf0"]["status"] in ("good", "doubtful")
    assert used["interf1"] is None or used["interf1"].get("status") is None


@dataclass(frozen=True)
class Container:
    """A container that serves."""

    name: str
    ct: Path
    output: Path

    def ask(self, method: str, path: str) -> tuple[int, str]:
        """Ask it from inside, as there is no network."""
        python = ("/opt/venv/bin/python", "-c", CLIENT)
        told = docker_engine.docker("exec", self.name, *python, method, path)
        status, text = json.loads(told)
        return status, text.strip()

    def wait_until_ready(self) -> None:
        end = time.monotonic() + PATIENCE_S
        while self.ask("GET", "/health")[0] != 200:
            assert time.monotonic() < end
            time.sleep(0.2)

    def resident_kib(self) -> int:
        """What the server and its worker hold."""
        script = "cat /proc/[0-9]*/status"
        told = docker_engine.docker("exec", self.name, "sh", "-c", script)
        return sum(int(line.split()[1]) for line in told.splitlines() if line.startswith("VmRSS"))


@pytest.fixture
def serving(phantoms: Path, tmp_path: Path) -> Iterator[Container]:
    docker_engine.build("--cpu", "--invoke")
    label = '{{index .Config.Labels "org.grand-challenge.api-method"}}'
    told = docker_engine.docker("image", "inspect", "--format", label, SERVING)
    assert told.strip() == "invoke"
    shutil.copytree(phantoms / "input" / "images" / "ct", tmp_path / "input" / "images" / "ct")
    docker_engine.open_to_all(tmp_path / "input")
    output = tmp_path / "output"
    output.mkdir()
    output.chmod(0o777)
    name = f"oarseg-test-{uuid.uuid4().hex[:12]}"
    docker_engine.docker(
        *("run", "--detach", "--name", name, *FLAGS, "--volume", f"{output}:/output"),
        *("--volume", f"{tmp_path / 'input'}:/input:ro"),
        *("--volume", f"{phantoms / 'weights'}:/opt/ml/model:ro", SERVING),
    )
    (ct,) = (tmp_path / "input" / "images" / "ct").iterdir()
    yield Container(name, ct, output)
    docker_engine.docker("rm", "--force", name)


def test_it_serves_one_invocation_after_the_other(serving: Container, say: Say) -> None:
    serving.wait_until_ready()
    held, content = [], serving.ct.read_bytes()
    for number in range(INVOCATIONS):
        if number == INVOCATIONS // 2:
            serving.ct.write_bytes(content[:-100])
            status, text = serving.ask("POST", "/invoke")
            assert (status, text[:9]) == (500, "case_03: ")
            serving.ct.write_bytes(content)
        assert serving.ask("POST", "/invoke") == (201, "written")
        assert [path.name for path in serving.output.glob("images/*/*")] == ["case_03_seg.mha"]
        held.append(serving.resident_kib())
    say(f"resident after each invocation, MiB: {[kib >> 10 for kib in held]}")
    assert held[-1] <= held[2] * MOST_GROWTH
    assert serving.ask("GET", "/")[0] == 404
    start = time.monotonic()
    docker_engine.docker("stop", "--time", "60", serving.name)
    assert time.monotonic() - start < 5


def test_a_case_in_work_is_not_disturbed_and_ends_with_the_container(serving: Container) -> None:
    # A case that takes long enough to be interrupted.
    serving.ct.unlink()
    (shipped,) = (docker_engine.ROOT / "test" / "images" / "ct").iterdir()
    shutil.copy(shipped, serving.ct.parent)
    docker_engine.open_to_all(serving.ct.parent)
    serving.wait_until_ready()

    def ask() -> None:
        # A server that ends closes the connection.
        with contextlib.suppress(RuntimeError):
            serving.ask("POST", "/invoke")

    first = threading.Thread(target=ask)
    first.start()
    end = time.monotonic() + PATIENCE_S
    while " case " not in docker_engine.docker("logs", serving.name):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert serving.ask("POST", "/invoke")[0] == 409
    assert serving.ask("GET", "/health")[0] == 200
    start = time.monotonic()
    docker_engine.docker("stop", "--time", "60", serving.name)
    assert time.monotonic() - start < 5
    first.join(PATIENCE_S)
    state = ("inspect", "--format", "{{.State.ExitCode}}", serving.name)
    assert docker_engine.docker(*state).strip() == "143"
    assert list(serving.output.rglob("*.mha")) == []
