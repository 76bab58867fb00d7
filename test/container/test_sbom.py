"""The list of what the image is made of: valid, complete, and equal for equal contents."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from oarseg import __version__
from oarseg.cli import sbom

ROOT = Path(__file__).resolve().parents[2]
STATUS = """\
Package: libc6
Status: install ok installed
Architecture: amd64
Multi-Arch: same
Version: 2.36-9+deb12u10
Description: GNU C Library
 More of it.

Package: gone
Status: deinstall ok config-files
Architecture: all
Version: 1:2.0
"""


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("sbom")
    (folder / "status").write_text(STATUS)
    (folder / "os-release").write_text('NAME="Debian"\nID=debian\nVERSION_ID="12"\n')
    return sbom.document(
        status=folder / "status", release=folder / "os-release", weights=ROOT / "weights"
    )


def references(document: dict[str, object]) -> list[str]:
    return [part["purl"] for part in document["components"]]  # type: ignore[index, attr-defined]


def test_it_is_valid(document: dict[str, object]) -> None:
    errors = JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document))
    assert errors is None, errors


def test_it_tells_of_every_kind(document: dict[str, object]) -> None:
    found = references(document)
    assert "pkg:deb/debian/libc6@2.36-9%2Bdeb12u10?arch=amd64&distro=debian-12" in found
    assert f"pkg:pypi/numpy@{version('numpy')}" in found
    assert f"pkg:pypi/itk-elastix@{version('itk-elastix')}" in found
    assert not any("gone" in reference for reference in found)
    onnx = {path.name for path in (ROOT / "weights").glob("*.onnx")}
    named = {part.split("/")[1].split("@")[0] for part in found if ".onnx@" in part}
    assert named == onnx
    assert document["metadata"]["component"]["version"] == __version__  # type: ignore[index]


def test_it_tells_each_once(document: dict[str, object]) -> None:
    found = references(document)
    assert found == sorted(set(found))


def test_without_dpkg_only_debian_s_packages_are_missing(tmp_path: Path) -> None:
    found = references(
        sbom.document(status=tmp_path / "none", release=tmp_path / "none", weights=ROOT / "weights")
    )
    assert not any(reference.startswith("pkg:deb/") for reference in found)
    assert f"pkg:pypi/numpy@{version('numpy')}" in found
