"""The steps of the release workflow, run in order as they are written there.

In a copy of the checkout, where tests and package are stand-ins, since continuous integration runs
them, and so are Docker and GitHub. What one step leaves, the next one finds, or it fails.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from checkouts import copy_checkout
from docker_engine import ROOT

from oarseg import __version__

WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())
JOB = WORKFLOW["jobs"]["release"]
# As GitHub starts a shell that a workflow names, and one that it does not.
SHELLS = {
    "bash": ("bash", "--noprofile", "--norc", "-eo", "pipefail"),
    None: ("bash", "-e"),
}
PACKAGE = f"""#!/usr/bin/env bash
mkdir -p dist/python
touch dist/python/oarseg-{__version__}-py3-none-any.whl dist/python/oarseg-{__version__}.tar.gz
"""
STAND_IN = """#!/usr/bin/env bash
echo "${0##*/} $*" >>"$ASKED"
"""
# GitHub's client takes no file that is not there.
GITHUB = (
    STAND_IN
    + """
for word in "$@"; do case $word in dist/*|*.md) [ -f "$word" ] || exit 1;; esac; done
"""
)
VALUES = {
    "github.ref_name": f"v{__version__}",
    "vars.REGISTRY": "registry.example/Team/oarseg",
    "secrets.REGISTRY_USER": "somebody",
    "secrets.REGISTRY_TOKEN": "a token",
    "secrets.GITHUB_TOKEN": "another token",
}


@dataclass(frozen=True)
class Runner:
    """What stands for GitHub's machine."""

    checkout: Path
    tools: Path

    def run(self, step: dict[str, Any], **more: str) -> subprocess.CompletedProcess[str]:
        """Run a step, with the variables that the workflow gives it."""
        named = (JOB.get("env") or {}) | (step.get("env") or {})
        given = {name: filled_in(value) for name, value in named.items()} | more
        shell = step.get("shell") or WORKFLOW.get("defaults", {}).get("run", {}).get("shell")
        return subprocess.run(
            [*SHELLS[shell], "-c", filled_in(step["run"])],
            cwd=self.checkout,
            env=os.environ
            | given
            | {
                "PATH": f"{self.tools}{os.pathsep}{os.environ['PATH']}",
                "ASKED": str(self.tools / "asked"),
            },
            capture_output=True,
            text=True,
            check=False,
        )

    def asked(self, tool: str) -> list[str]:
        """What was asked of a tool, a line each."""
        lines = (self.tools / "asked").read_text().splitlines()
        return [line for line in lines if line.split()[0] == tool]


def filled_in(text: str) -> str:
    return re.sub(r"\$\{\{ ([\w.]+) \}\}", lambda found: VALUES[found[1]], text)


def steps() -> list[dict[str, Any]]:
    return [step for step in JOB["steps"] if "run" in step]


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    checkout = copy_checkout(tmp_path / "checkout")
    changes = checkout / "CHANGELOG.md"
    dated = re.sub(r"(?m)^(## \[.*\] – )unreleased$", r"\g<1>2026-12-01", changes.read_text())
    changes.write_text(dated)
    tools = tmp_path / "tools"
    tools.mkdir()
    for path, text in {
        checkout / ".ci" / "run": STAND_IN,
        checkout / ".ci" / "package": PACKAGE,
        tools / "docker": STAND_IN,
        tools / "sudo": STAND_IN,
        tools / "gh": GITHUB,
    }.items():
        path.write_text(text)
        path.chmod(0o755)
    return Runner(checkout, tools)


def test_a_tag_becomes_a_release(runner: Runner) -> None:
    for step in steps():
        done = runner.run(step)
        assert done.returncode == 0, f"{step}\n{done.stdout}{done.stderr}"
    (tests,) = runner.asked("run")
    assert tests.strip() == "run"
    (release,) = runner.asked("gh")
    assert release.startswith(f"gh release create v{__version__} --verify-tag ")
    attached = {Path(word).name for word in release.split() if word.startswith("dist/release/")}
    assert attached == {
        f"oarseg-{__version__}-py3-none-any.whl",
        f"oarseg-{__version__}.tar.gz",
        f"oarseg-{__version__}.cdx.json",
        f"oarseg-weights-{__version__}.tar.gz",
        "SHA256SUMS",
    }
    assert "### Added" in (runner.checkout / "notes.md").read_text()
    pushed = [line.split()[-1] for line in runner.asked("docker") if line.split()[1] == "push"]
    assert pushed == [f"registry.example/team/oarseg:{tag}" for tag in (__version__, "latest")]
    # What is kept with the run is there.
    (kept,) = (step["with"]["path"].split() for step in JOB["steps"] if "upload" in str(step))
    for pattern in kept:
        assert list(runner.checkout.glob(pattern)), pattern


def test_a_wrong_tag_ends_it_before_anything_else(runner: Runner) -> None:
    number, check = next((n, s) for n, s in enumerate(steps()) if "check-release" in s["run"])
    assert runner.run(check, TAG="v99.0").returncode == 1
    # What comes before makes room, and no more.
    assert [step["run"].split()[:2] for step in steps()[:number]] == [["sudo", "rm"]]


def test_the_image_is_pushed_only_where_there_is_a_registry() -> None:
    (push,) = (step for step in JOB["steps"] if "push-image" in step.get("run", ""))
    assert push["if"] == "vars.REGISTRY != ''"
