"""What the package, the image and continuous integration are promised to hold."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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
