"""The list of what the image is made of: valid, complete, and equal for equal contents."""

from __future__ import annotations

import json
from importlib.metadata import distributions, version
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


COPYRIGHT = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
License: LGPL-2.1+

Files: tests/*
License: MIT

Files: debian/*
License: LGPL-2.1+

License: Permission to use, copy, modify, and distribute this software is granted
"""


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("sbom")
    (folder / "status").write_text(STATUS)
    (folder / "doc" / "libc6").mkdir(parents=True)
    (folder / "doc" / "libc6" / "copyright").write_text(COPYRIGHT)
    (folder / "os-release").write_text('NAME="Debian"\nID=debian\nVERSION_ID="12"\n')
    return sbom.document(
        status=folder / "status",
        copyrights=folder / "doc",
        release=folder / "os-release",
        weights=ROOT / "weights",
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
        sbom.document(
            status=tmp_path / "none",
            copyrights=tmp_path / "none",
            release=tmp_path / "none",
            weights=ROOT / "weights",
        )
    )
    assert not any(reference.startswith("pkg:deb/") for reference in found)
    assert f"pkg:pypi/numpy@{version('numpy')}" in found


def licences(document: dict[str, object], purl: str) -> list[dict[str, object]]:
    (part,) = (p for p in document["components"] if p["purl"].startswith(purl))  # type: ignore[attr-defined]
    found: list[dict[str, object]] = part["licenses"]
    return found


def test_debian_s_licences_are_those_of_the_copyright_file(document: dict[str, object]) -> None:
    assert licences(document, "pkg:deb/debian/libc6@") == [
        {"license": {"name": "LGPL-2.1+"}},
        {"license": {"id": "MIT"}},
    ]


@pytest.mark.parametrize(
    ("text", "licences"),
    [
        ("see /usr/share/common-licenses/GPL-2.", ["GPL-2"]),
        (
            "/usr/share/common-licenses/LGPL, and\n/usr/share/common-licenses/GPL-3\n",
            ["LGPL", "GPL-3"],
        ),
        ("A licence of its own.", ["see {}"]),
    ],
)
def test_a_copyright_file_in_words(tmp_path: Path, text: str, licences: list[str]) -> None:
    file = tmp_path / "copyright"
    file.write_text(text)
    expected = [{"license": {"name": name.format(file)}} for name in licences]
    assert sbom._debian_licences(file) == expected


def test_python_and_the_weights_have_licences(document: dict[str, object]) -> None:
    assert licences(document, "pkg:generic/python@") == [{"license": {"id": "PSF-2.0"}}]
    assert licences(document, "pkg:generic/manifest.json@") == [{"license": {"id": "Apache-2.0"}}]


@pytest.mark.parametrize(
    ("metadata", "licence"),
    [
        (
            "License-Expression: MIT OR Apache-2.0\nLicense: other",
            {"expression": "MIT OR Apache-2.0"},
        ),
        # The expression of a time before there was a field for it.
        ("License: MPL-2.0 AND MIT", {"expression": "MPL-2.0 AND MIT"}),
        (
            "License: LicenseRef-Vendor\nClassifier: License :: Other/Proprietary License",
            {"expression": "LicenseRef-Vendor"},
        ),
        # One word, but not an identifier: the classifier says more.
        (
            "License: Apache\nClassifier: License :: OSI Approved :: Apache Software License",
            {"license": {"name": "Apache Software License"}},
        ),
        ("License: 3-Clause BSD License", {"license": {"name": "3-Clause BSD License"}}),
        ("Summary: silent", None),
    ],
)
def test_licence_of_a_python_package(
    tmp_path: Path, metadata: str, licence: dict[str, object] | None
) -> None:
    folder = tmp_path / "some-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(
        f"Metadata-Version: 2.4\nName: some\nVersion: 1.0\n{metadata}\n"
    )
    (part,) = sbom._python(distributions(path=[str(tmp_path)]))
    assert part.get("licenses") == ([licence] if licence else None)
