"""The image without CUDA, which serves in the platform's invoke mode too: `make container-test`."""

from __future__ import annotations

import json
import shutil
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
    end = time.monotonic() + PATIENCE_S
    while serving.ask("GET", "/health")[0] != 200:
        assert time.monotonic() < end
        time.sleep(0.2)
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
