"""What an installation is made of, as a CycloneDX 1.6 document.

Run inside the image by ``export.sh``, so that it tells what is there and not what was asked
for: Debian's packages from dpkg's own list, Python's from their metadata, the interpreter,
and every file of the shipped weights with its SHA-256. Code that a wheel carries within
itself (CUDA's libraries have wheels of their own) is not told apart from the wheel. Equal
images give equal documents: no date, no serial number. Format:
https://cyclonedx.org/docs/1.6/json.
"""

from __future__ import annotations

import json
import platform
import re
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any
from urllib.parse import quote

from oarseg import __version__
from oarseg.model.bundle import file_sha256
from oarseg.model.manifest import MANIFEST

DPKG_STATUS = Path("/var/lib/dpkg/status")
OS_RELEASE = Path("/etc/os-release")
WEIGHTS = Path(__file__).resolve().parents[2] / "weights"
# What CycloneDX takes for an SPDX expression without knowing every licence.
EXPRESSION = re.compile(r"[A-Za-z0-9.+-]+( (AND|OR|WITH) [A-Za-z0-9.+-]+)*")

Component = dict[str, Any]


def document(*, status: Path, release: Path, weights: Path) -> dict[str, Any]:
    """The whole document.

    Args:
        status: dpkg's list of packages; none are told where it is missing.
        release: the file that names the distribution.
        weights: folder of the shipped model.

    Raises:
        OSError: a file cannot be read.
    """
    parts = [
        _component("application", "python", platform.python_version(), "generic"),
        *_debian(status, _distribution(release)),
        *_python(distributions()),
        *_model(weights),
    ]
    own = _component("application", "oarseg", __version__, "generic")
    unique = {part["bom-ref"]: part for part in parts}
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": own | {"licenses": [{"license": {"id": "Apache-2.0"}}]},
        },
        "components": [unique[reference] for reference in sorted(unique)],
    }


def _component(kind: str, name: str, version: str, ecosystem: str, query: str = "") -> Component:
    purl = f"pkg:{ecosystem}/{quote(name.lower(), safe='/')}@{quote(version, safe='')}{query}"
    leaf = name.rpartition("/")[2]
    return {"type": kind, "bom-ref": purl, "name": leaf, "version": version, "purl": purl}


def _distribution(release: Path) -> tuple[str, str]:
    """Such as ("debian", "12")."""
    lines = release.read_text(encoding="utf-8").splitlines() if release.is_file() else []
    told = {key: value.strip('"') for key, _, value in (line.partition("=") for line in lines)}
    return told.get("ID", "linux"), told.get("VERSION_ID", "")


def _debian(status: Path, distribution: tuple[str, str]) -> Iterator[Component]:
    if not status.is_file():
        return
    family, release = distribution
    for paragraph in status.read_text(encoding="utf-8", errors="replace").split("\n\n"):
        found = dict(re.findall(r"(?m)^([A-Za-z-]+): (.*)$", paragraph))
        if not found.get("Status", "").endswith(" installed"):
            continue
        query = f"?arch={found['Architecture']}&distro={family}-{release}"
        yield _component("library", f"{family}/{found['Package']}", found["Version"], "deb", query)


def _python(found: Iterable[Distribution]) -> Iterator[Component]:
    for distribution in found:
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"])
        part = _component("library", name, distribution.version, "pypi")
        licence = _licence(distribution)
        yield part | {"licenses": [licence]} if licence else part


def _licence(distribution: Distribution) -> dict[str, Any] | None:
    """The licence as an expression, or in the words of the package."""
    told = distribution.metadata.json
    expression = str(told.get("license_expression", ""))
    if EXPRESSION.fullmatch(expression):
        return {"expression": expression}
    classified = [
        line.rpartition(" :: ")[2]
        for line in told.get("classifier", [])
        if line.startswith("License :: ")
    ]
    words = expression or "; ".join(classified) or str(told.get("license", "")).strip()
    return {"license": {"name": words.splitlines()[0][:200]}} if words else None


def _model(weights: Path) -> Iterator[Component]:
    manifest = weights / MANIFEST
    licence = json.loads(manifest.read_text(encoding="utf-8"))["licence"]
    for path in sorted(weights.iterdir()):
        if path.suffix == ".onnx" or path.name == MANIFEST:
            digest = file_sha256(path)
            part = _component("machine-learning-model", path.name, digest[:12], "generic")
            hashes = [{"alg": "SHA-256", "content": digest}]
            yield part | {"hashes": hashes, "licenses": [{"license": {"name": licence}}]}


def write_sbom() -> None:
    """Write the document of this installation to standard output."""
    found = document(status=DPKG_STATUS, release=OS_RELEASE, weights=WEIGHTS)
    sys.stdout.write(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    write_sbom()
