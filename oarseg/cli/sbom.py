"""Software bill of materials of an installation, as a CycloneDX 1.6 document.

``export.sh`` runs it inside the image, so that it lists what is installed rather than what
was requested: Debian packages from dpkg's status file, Python packages from their metadata,
the interpreter, and every file of the shipped weights with its SHA-256. Libraries bundled
inside a wheel are not listed separately (CUDA's libraries have wheels of their own). Equal
images give equal documents, without a date or serial number. Format:
https://cyclonedx.org/docs/1.6/json.

``cyclonedx-py environment`` lists Python packages only, 32 of the image's 171 components.
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
from oarseg.model.model_folder import MANIFEST

DPKG_STATUS = Path("/var/lib/dpkg/status")
OS_RELEASE = Path("/etc/os-release")
COPYRIGHTS = Path("/usr/share/doc")
WEIGHTS = Path(__file__).resolve().parents[2] / "weights"
# The form of an SPDX expression, whatever the identifiers in it.
EXPRESSION = re.compile(r"[A-Za-z0-9.+-]+( (AND|OR|WITH) [A-Za-z0-9.+-]+)*")
# Older packages describe their licence in free text; these texts are SPDX identifiers.
SPDX = frozenset(
    {
        "0BSD",
        "Apache-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "CC0-1.0",
        "ISC",
        "MIT",
        "MPL-2.0",
        "PSF-2.0",
        "Zlib",
    }
)
# Longest licence name accepted from a Debian copyright file; a longer line is licence text.
LONGEST_LICENCE_NAME = 48

Component = dict[str, Any]
Licence = dict[str, Any]


def document(*, status: Path, copyrights: Path, release: Path, weights: Path) -> dict[str, Any]:
    """Return the whole document.

    Args:
        status: dpkg's status file; without it no Debian package is listed.
        copyrights: folder of ``<package>/copyright``, where Debian keeps licences.
        release: the os-release file, which names the distribution.
        weights: folder of the shipped model.

    Raises:
        OSError: a file cannot be read.
    """
    parts = [
        _component("application", "python", platform.python_version(), "generic")
        | {"licenses": [{"license": {"id": "PSF-2.0"}}]},
        *_debian(status, _distribution(release), copyrights),
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
    """Return the distribution's name and version, such as ("debian", "12")."""
    lines = release.read_text(encoding="utf-8").splitlines() if release.is_file() else []
    fields = {key: value.strip('"') for key, _, value in (line.partition("=") for line in lines)}
    return fields.get("ID", "linux"), fields.get("VERSION_ID", "")


def _debian(status: Path, distribution: tuple[str, str], copyrights: Path) -> Iterator[Component]:
    if not status.is_file():
        return
    family, release = distribution
    for paragraph in status.read_text(encoding="utf-8", errors="replace").split("\n\n"):
        found = dict(re.findall(r"(?m)^([A-Za-z-]+): (.*)$", paragraph))
        if not found.get("Status", "").endswith(" installed"):
            continue
        query = f"?arch={found['Architecture']}&distro={family}-{release}"
        part = _component("library", f"{family}/{found['Package']}", found["Version"], "deb", query)
        licences = _debian_licences(copyrights / found["Package"] / "copyright")
        yield part | {"licenses": licences} if licences else part


def _debian_licences(file: Path) -> list[Licence]:
    """Return the licences that a package's copyright file names, in the file's order.

    Machine-readable files (https://www.debian.org/doc/packaging-manuals/copyright-format) name
    them in ``License`` fields; others refer to the texts in ``/usr/share/common-licenses``.
    """
    if not file.is_file():
        return []
    text = file.read_text(encoding="utf-8", errors="replace")
    if re.search(r"(?mi)^Format:.*copyright-format", text):
        found = re.findall(r"(?mi)^License:[ \t]*(\S.*?)[ \t]*$", text)
        names = [name for name in found if len(name) <= LONGEST_LICENCE_NAME]
    else:
        names = re.findall(r"/common-licenses/([A-Za-z]+(?:-[0-9.]*[0-9])?)", text)
    return [_named(name) for name in dict.fromkeys(names)] or [_named(f"see {file}")]


def _python(found: Iterable[Distribution]) -> Iterator[Component]:
    for distribution in found:
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"])
        part = _component("library", name, distribution.version, "pypi")
        licence = _licence(distribution)
        yield part | {"licenses": [licence]} if licence else part


def _licence(distribution: Distribution) -> Licence | None:
    """Return the licence as an SPDX expression, or else in the package's own words."""
    metadata = distribution.metadata.json
    expression = str(metadata.get("license_expression", ""))
    if EXPRESSION.fullmatch(expression):
        return {"expression": expression}
    words = str(metadata.get("license", "")).strip()
    if _is_spdx(words):
        return {"expression": words}
    classified = [
        line.rpartition(" :: ")[2]
        for line in metadata.get("classifier", [])
        if line.startswith("License :: ")
    ]
    words = expression or "; ".join(classified) or words
    return _named(words.splitlines()[0][:200]) if words else None


def _is_spdx(words: str) -> bool:
    """Return whether every identifier in the text is known to be an SPDX identifier."""
    return EXPRESSION.fullmatch(words) is not None and all(
        part in SPDX or part.startswith("LicenseRef-")
        for part in words.split()
        if part not in ("AND", "OR", "WITH")
    )


def _named(words: str) -> Licence:
    return {"license": {"id" if words in SPDX else "name": words}}


def _model(weights: Path) -> Iterator[Component]:
    manifest = weights / MANIFEST
    licence = json.loads(manifest.read_text(encoding="utf-8"))["licence"]
    for path in sorted(weights.iterdir()):
        if path.suffix == ".onnx" or path.name == MANIFEST:
            digest = file_sha256(path)
            part = _component("machine-learning-model", path.name, digest[:12], "generic")
            hashes = [{"alg": "SHA-256", "content": digest}]
            yield part | {"hashes": hashes, "licenses": [_named(licence)]}


def write_sbom() -> None:
    """Write the bill of materials of this installation to standard output."""
    found = document(status=DPKG_STATUS, copyrights=COPYRIGHTS, release=OS_RELEASE, weights=WEIGHTS)
    sys.stdout.write(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    write_sbom()
