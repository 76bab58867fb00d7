"""What a release, the hooks and the workflows are promised to do."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from oarseg import __version__

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
LINT = (ROOT / "Makefile").read_text().split("\nlint:")[1].split("\n\n")[0]


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def steps(workflow: Path) -> list[dict[str, Any]]:
    return [step for job in read_yaml(workflow)["jobs"].values() for step in job["steps"]]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """What check-release looks at, ready for a release."""
    for file in (".ci/check-release", "oarseg/__init__.py", "CITATION.cff"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    (tmp_path / "CHANGELOG.md").write_text(
        f"# Changelog\n\n## [{__version__}] – 2026-12-01\n\n### Added\n- This.\n\n"
        "## [0.0.1] – 2026-01-01\n- That.\n"
    )
    return tmp_path


def check_release(project: Path, tag: str = f"v{__version__}") -> tuple[int, str, str]:
    done = subprocess.run(
        [project / ".ci" / "check-release", tag], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_release_notes_are_the_version_s_section(project: Path) -> None:
    assert check_release(project) == (0, "\n### Added\n- This.\n\n", "")


def test_a_tag_of_another_version_is_refused(project: Path) -> None:
    code, out, error = check_release(project, "v99.0")
    assert (code, out) == (1, "")
    assert f"tag v99.0: expected v{__version__}" in error


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("## [0.0.1] – 2026-01-01\n", f"expected a section [{__version__}], found none"),
        (f"## [{__version__}] – unreleased\n", "expected the day of the release"),
    ],
)
def test_a_changelog_that_is_not_ready_is_refused(project: Path, text: str, message: str) -> None:
    (project / "CHANGELOG.md").write_text(text)
    code, _, error = check_release(project)
    assert code == 1
    assert message in error


def test_a_citation_of_another_version_is_refused(project: Path) -> None:
    (project / "CITATION.cff").write_text("version: 0.0.1\n")
    code, _, error = check_release(project)
    assert code == 1
    assert f"expected version: {__version__}, found version: 0.0.1" in error


def test_release_files_are_those_that_can_be_attached(tmp_path: Path) -> None:
    (tmp_path / "python").mkdir()
    attached = ["oarseg-1.whl", "oarseg-1.tar.gz", "oarseg-1.cdx.json", "oarseg-weights-1.tar.gz"]
    for name in attached:
        (tmp_path / ("python" if name in attached[:2] else ".") / name).write_text(name)
    (tmp_path / "oarseg-1.tar.gz").write_text("the image, of the same name as the sdist")
    subprocess.run([ROOT / ".ci" / "release-files", tmp_path], check=True)
    release = tmp_path / "release"
    assert {path.name for path in release.iterdir()} == {*attached, "SHA256SUMS"}
    assert (release / "oarseg-1.tar.gz").read_text() == "oarseg-1.tar.gz"
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=release, check=True)


def test_citation_names_this_version() -> None:
    citation = read_yaml(ROOT / "CITATION.cff")
    assert citation["version"] == __version__
    assert citation["license"] == "Apache-2.0"
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_run_what_there_is(workflow: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    for step in steps(workflow):
        assert re.fullmatch(r"actions/[\w-]+@v\d+", step.get("uses", "actions/none@v0"))
        command = step.get("run", "")
        for script in re.findall(r"(?:^|\s)((?:\.ci|\.)/[\w.-]+)", command):
            assert os.access(ROOT / script, os.X_OK), script
        if command.startswith("make "):
            # Words with "=" set variables.
            assert {word for word in command.split()[1:] if "=" not in word} <= targets


def test_the_audit_is_of_every_image_s_pins_and_takes_no_silence_for_a_pass() -> None:
    audit = read_yaml(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]["audit"]["steps"]
    commands = [step["run"].split() for step in audit if "pip-audit" in step.get("run", "")]
    audited = {command[command.index("--requirement") + 1] for command in commands}
    assert audited == {path.name for path in ROOT.glob("requirements*.txt")}
    assert all({"--strict", "--require-hashes"} <= set(command) for command in commands)


def test_only_a_tag_releases() -> None:
    release = read_yaml(ROOT / ".github" / "workflows" / "release.yml")
    # YAML 1.1 reads the key `on` as true.
    assert release[True] == {"push": {"tags": ["v*"]}}
    assert release["permissions"] == {"contents": "read"}


def test_hooks_are_the_checks_of_make_lint() -> None:
    (repository,) = read_yaml(ROOT / ".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    for hook in repository["hooks"]:
        assert hook["language"] == "system"
        command = hook["entry"].removeprefix(".venv/bin/").removesuffix(" --force-exclude")
        assert f"$(BIN)/{command}" in LINT
    assert len(repository["hooks"]) == LINT.count("$(BIN)/")


def test_versions_that_are_claimed_are_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    claimed = re.findall(r"Python :: (3\.\d+)", " ".join(project["classifiers"]))
    matrix = read_yaml(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]["versions"]["strategy"]
    assert claimed == ["3.11", *matrix["matrix"]["python"]]
