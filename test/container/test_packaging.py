"""What the package, the image and continuous integration are promised to hold."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from oarseg import __version__

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LINES = (ROOT / "requirements.txt").read_text()
PIN = re.compile(r"^([a-z0-9-]+)==(\S+) \\\n((?: {4}--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.M)
PINS = {name: version for name, version, _ in PIN.findall(LINES)}
CONTAINER = [
    Requirement(r) for r in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["gpu"]
]

SCRIPTS = ["build.sh", "export.sh", *(f".ci/{path.name}" for path in (ROOT / ".ci").iterdir())]


@pytest.mark.parametrize("wanted", CONTAINER, ids=str)
def test_container_has_an_allowed_version_of_each_dependency(wanted: Requirement) -> None:
    assert wanted.specifier.contains(PINS[canonicalize_name(wanted.name)])


def test_every_line_of_the_requirements_is_a_pin_with_hashes_or_a_comment() -> None:
    rest = PIN.sub("", LINES)
    assert [line for line in rest.splitlines() if not line.lstrip().startswith("#")] == []


def test_header_has_the_command_and_no_package_index() -> None:
    assert "uv pip compile pyproject.toml --extra gpu" in LINES
    assert "://" not in LINES


def test_container_has_one_onnxruntime_and_no_torch() -> None:
    """The two onnxruntime packages overwrite each other's files."""
    assert {"onnxruntime", "torch", "nnunetv2", "onnx"}.isdisjoint(PINS)


def test_torch_is_named_beside_nnunet() -> None:
    """Otherwise the installer may bring another torch along."""
    train = PROJECT["optional-dependencies"]["train"]
    assert "torch==2.13.0" in train
    assert "nnunetv2==2.8.1" in train


def test_cuda_libraries_are_of_cuda_12() -> None:
    cuda = [name for name in PINS if name.startswith(("nvidia-", "cupy-"))]
    assert len(cuda) > 5
    assert [name for name in cuda if not name.endswith(("-cu12", "-cuda12x"))] == []


def test_build_context_is_an_allow_list() -> None:
    rules = [r for r in (ROOT / ".dockerignore").read_text().splitlines() if r[:1] not in ("", "#")]
    assert rules[0] == "*"
    assert {r[1:] for r in rules if r[0] == "!"} == {
        "requirements.txt",
        "process.py",
        "oarseg",
        "weights",
    }


SCRIPTS = [
    "build.sh",
    "export.sh",
    *sorted(f".ci/{path.name}" for path in (ROOT / ".ci").iterdir()),
]


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_strict_and_executable(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)
    assert "\nset -euo pipefail\n" in (ROOT / script).read_text()


def scripted(tmp_path: Path, *command: str) -> list[str]:
    """What a script asks of Docker, a line each, where a stand-in notes it."""
    (tmp_path / "bin").mkdir()
    stand_in = tmp_path / "bin" / "docker"
    stand_in.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/asked\n')
    stand_in.chmod(0o755)
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        [ROOT / command[0], *command[1:]],
        check=True,
        capture_output=True,
        env=os.environ | {"PATH": path},
    )
    return (tmp_path / "asked").read_text().splitlines()


def test_an_image_without_weights_is_built_and_saved_under_a_name_of_its_own(
    tmp_path: Path,
) -> None:
    dist = tmp_path / "dist"
    asked = scripted(tmp_path, "export.sh", "image", str(dist), "--without-weights")
    name = f"oarseg:{__version__}-without-weights"
    assert [line.split()[0] for line in asked] == ["build", "save", "run"]
    assert f"--tag {name} --build-arg WITH_WEIGHTS=0" in asked[0]
    assert ":latest" not in asked[0]
    assert asked[1] == f"save {name}"
    assert f" {name} -m " in asked[2]
    stem = f"oarseg-{__version__}-without-weights"
    assert {path.name for path in dist.iterdir()} == {
        "SHA256SUMS",
        f"{stem}.tar.gz",
        f"{stem}.cdx.json",
    }


def test_an_image_with_weights_is_saved_as_it_was_built(tmp_path: Path) -> None:
    asked = scripted(tmp_path, "export.sh", "image", str(tmp_path / "dist"))
    assert [line.split()[0] for line in asked] == ["save", "run"]
    assert asked[0] == f"save oarseg:{__version__}"


def test_the_image_holds_the_weights_unless_told_otherwise() -> None:
    text = (ROOT / "Dockerfile").read_text()
    copied, left_out = text.index("COPY weights"), text.index('[ "$WITH_WEIGHTS" = 1 ] ||')
    assert copied < text.index("ARG WITH_WEIGHTS=1") < left_out < text.rindex("FROM ")


def test_make_run_says_where_the_command_is() -> None:
    """Without it, the first command of the documents is not found."""
    recipe = (ROOT / "Makefile").read_text().partition("\nrun:")[2].partition("\n\n")[0]
    assert recipe.splitlines()[-1] == (
        "\t@echo 'Results: out/. For other commands: $(BIN)/oarseg --help'"
    )
    assert ".venv/bin/oarseg" in (ROOT / "docs/from-data-to-container.md").read_text()
