"""What the package, the image and continuous integration are promised to hold."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
import tomllib
from pathlib import Path

import docker_engine
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
        "requirements-cpu.txt",
        "docker",
        "process.py",
        "oarseg",
        "weights",
    }


SCRIPTS = [
    ".image.sh",
    "build.sh",
    "export.sh",
    "test_run.sh",
    *sorted(f".ci/{path.name}" for path in (ROOT / ".ci").iterdir()),
]


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_strict_and_executable(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)
    assert "\nset -euo pipefail\n" in (ROOT / script).read_text()


def run_script(
    tmp_path: Path, *command: str, answer: str = "", cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a script where a stand-in notes what is asked of Docker, and answers each the same."""
    (tmp_path / "bin").mkdir(exist_ok=True)
    stand_in = tmp_path / "bin" / "docker"
    stand_in.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/asked\n{answer}\n')
    stand_in.chmod(0o755)
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [ROOT / command[0], *command[1:]],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": path},
        cwd=cwd,
    )


# There is no image at all.
NO_IMAGE = 'case "$1 $2" in "image inspect") exit 1;; esac'


def scripted(tmp_path: Path, *command: str, answer: str = "", cwd: Path | None = None) -> list[str]:
    """What a script that succeeds asks of Docker, a line each, but for versions and labels."""
    done = run_script(tmp_path, *command, answer=answer, cwd=cwd)
    assert done.returncode == 0, done.stderr
    asked = (tmp_path / "asked").read_text().splitlines()
    return [line for line in asked if not line.startswith(("image inspect ", "info", "version"))]


def test_an_image_without_weights_is_built_and_saved_under_a_name_of_its_own(
    tmp_path: Path,
) -> None:
    dist = tmp_path / "dist"
    asked = scripted(tmp_path, "export.sh", "image", str(dist), "--without-weights")
    name = f"oarseg:{__version__}-without-weights"
    assert [line.split()[0] for line in asked] == ["build", "save", "run"]
    assert f"--build-arg WITH_WEIGHTS=0 --tag {name} ." in asked[0]
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


@pytest.mark.parametrize(
    ("options", "name", "build"),
    [
        (("--cpu",), "-cpu", "requirements-cpu.txt"),
        (("--invoke", "--cpu"), "-cpu-invoke", "API_METHOD=invoke"),
        (("--without-weights", "--cpu"), "-cpu-without-weights", "WITH_WEIGHTS=0"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_any_image_is_exported_under_its_name(
    tmp_path: Path, options: tuple[str, ...], name: str, build: str
) -> None:
    dist = tmp_path / "dist"
    asked = scripted(tmp_path, "export.sh", *options, "image", str(dist))
    assert build in asked[0]
    assert asked[1] == f"save oarseg:{__version__}{name}"
    assert (dist / f"oarseg-{__version__}{name}.tar.gz").is_file()
    assert f" --tag oarseg:{__version__}{name} ." in scripted(tmp_path, "build.sh", *options)[-1]


@pytest.mark.parametrize("script", ["export.sh", "test_run.sh"])
def test_an_image_that_is_not_there_is_built(tmp_path: Path, script: str) -> None:
    (tmp_path / "cases" / "images").mkdir(parents=True)
    arguments = ("sbom", "dist") if script == "export.sh" else ("cases",)
    asked = scripted(tmp_path, script, *arguments, answer=NO_IMAGE, cwd=tmp_path)
    assert [line.split()[0] for line in asked[:2]] == ["build", "run"]


@pytest.mark.parametrize(
    "command", [("build.sh",), ("export.sh", "image", "dist"), ("test_run.sh", "cases")]
)
@pytest.mark.parametrize("there", [True, False])
def test_without_an_engine_it_is_said_in_one_line(
    tmp_path: Path, command: tuple[str, ...], there: bool
) -> None:
    (tmp_path / "cases").mkdir()
    (tmp_path / "tools").mkdir()
    for tool in ("bash", "dirname", "realpath", "sed", "mkdir", "tail"):
        (tmp_path / "tools" / tool).symlink_to(str(shutil.which(tool)))
    if there:
        stand_in = tmp_path / "tools" / "docker"
        stand_in.write_text("#!/bin/sh\necho 'Cannot connect to the Docker daemon' >&2\nexit 1\n")
        stand_in.chmod(0o755)
    done = subprocess.run(
        [tmp_path / "tools" / "bash", ROOT / command[0], *command[1:]],
        check=False,
        capture_output=True,
        text=True,
        env={"PATH": str(tmp_path / "tools")},
        cwd=tmp_path,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    wanted = "found: Cannot connect to the Docker daemon" if there else "found no docker command"
    assert wanted in line


def source_hash() -> str:
    told = subprocess.run(
        ["bash", "-c", ". ./.image.sh; source_hash"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return told.stdout.strip()


def test_the_image_without_cuda_has_a_name_and_pins_of_its_own(tmp_path: Path) -> None:
    asked = scripted(tmp_path, "build.sh", "--cpu")[-1]
    assert f"REQUIREMENTS=requirements-cpu.txt --tag oarseg:{__version__}-cpu ." in asked
    assert ":latest" not in asked
    pins = {name for name, _, _ in PIN.findall((ROOT / "requirements-cpu.txt").read_text())}
    assert {"onnxruntime", "openvino", "itk-elastix"} <= pins
    assert not any(name.startswith(("nvidia", "cupy", "onnxruntime-gpu")) for name in pins)


def test_an_image_that_serves_says_so_in_its_name(tmp_path: Path) -> None:
    asked = scripted(tmp_path, "build.sh", "--cpu", "--invoke", "--pull")[-1]
    assert f"API_METHOD=invoke --tag oarseg:{__version__}-cpu-invoke --pull ." in asked
    text = (ROOT / "Dockerfile").read_text()
    assert 'org.grand-challenge.api-method="${API_METHOD}"' in text


def test_an_image_older_than_the_code_is_told(tmp_path: Path) -> None:
    export = ("export.sh", "image", str(tmp_path / "dist"))
    stale = run_script(tmp_path, *export)
    assert f"warning: oarseg:{__version__} is older than the code" in stale.stderr
    fresh = run_script(tmp_path, *export, answer=f"echo {source_hash()}")
    assert "warning" not in fresh.stderr
    built = scripted(tmp_path, "build.sh")[-1]
    assert f"--label oarseg.source={source_hash()}" in built


def test_the_export_takes_a_teams_weights_and_ends_with_what_to_do(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    dist = tmp_path / "dist"
    export = ("export.sh", "all", str(dist), "--weights", str(folder))
    none = run_script(tmp_path, *export)
    assert none.returncode == 2
    assert "expected a folder with manifest.json" in none.stderr
    (folder / "manifest.json").write_text("{}")
    done = run_script(tmp_path, *export)
    assert done.returncode == 0, done.stderr
    assert f"Models: upload {dist}/oarseg-weights-{__version__}.tar.gz" in done.stdout
    with tarfile.open(dist / f"oarseg-weights-{__version__}.tar.gz") as archive:
        assert archive.getnames() == [".", "./manifest.json"]
    asked = (tmp_path / "asked").read_text().splitlines()[-1]
    assert asked.endswith(f"oarseg:{__version__} -m oarseg.cli submission")
    assert f"--volume {folder}:/opt/ml/model:ro" in asked


def test_each_job_runs_as_the_platform_would(tmp_path: Path) -> None:
    cases, out = tmp_path / "cases", tmp_path / "out"
    for name in ("a", "b"):
        (cases / name / "images").mkdir(parents=True)
    (cases / "notes").mkdir()
    asked = scripted(tmp_path, "test_run.sh", str(cases), "-", str(out), answer="echo runc")
    runs = [line for line in asked if ":/input:ro" in line]
    assert [line.split()[0] for line in asked[:1]] == ["build"]
    assert len(runs) == 2
    for line, name in zip(runs, ("a", "b"), strict=True):
        assert " ".join(docker_engine.FLAGS[:8]) in line
        assert "--memory 16g --memory-swap 16g" in line
        assert f"{cases / name}:/input:ro" in line
        assert f"{out / name}:/output" in line
        assert "--gpus" not in line
    assert sum("submission --output /output" in line for line in asked) == 2


def test_a_job_that_fails_fails_the_run(tmp_path: Path) -> None:
    (tmp_path / "cases" / "images").mkdir(parents=True)
    arguments = ("test_run.sh", str(tmp_path / "cases"), "-", str(tmp_path / "out"))
    done = run_script(tmp_path, *arguments, answer='case "$*" in *:/input:ro*) exit 3;; esac')
    assert done.returncode == 1
    assert "cases: exit status 3" in done.stdout
    assert run_script(tmp_path, "test_run.sh").returncode == 2
    nowhere = run_script(tmp_path, *arguments[:2], str(tmp_path / "nowhere"))
    assert (nowhere.returncode, "expected a folder, found none" in nowhere.stderr) == (2, True)
    no_weights = run_script(tmp_path, *arguments[:2], str(tmp_path / "cases"))
    assert no_weights.returncode == 2
    assert "cases: expected a folder with manifest.json" in no_weights.stderr


def test_paths_with_blanks_from_another_folder(tmp_path: Path) -> None:
    (tmp_path / "my cases" / "a b" / "images").mkdir(parents=True)
    (tmp_path / "my model").mkdir()
    (tmp_path / "my model" / "manifest.json").write_text("{}")
    asked = scripted(tmp_path, "test_run.sh", "my cases", "my model", "my out", cwd=tmp_path)
    (run,) = (line for line in asked if ":/input:ro" in line)
    assert f"--volume {tmp_path}/my model:/opt/ml/model:ro" in run
    assert f"--volume {tmp_path}/my cases/a b:/input:ro" in run
    assert f"--volume {tmp_path}/my out/a b:/output" in run


def test_cases_as_in_a_data_set_are_one_run_of_several(tmp_path: Path) -> None:
    (tmp_path / "imagesTs").mkdir()
    asked = scripted(tmp_path, "test_run.sh", "imagesTs", "-", "out", cwd=tmp_path)
    assert f"{tmp_path}/imagesTs:/input:ro" in asked[1]
    assert asked[2].endswith("submission --output /output --several")


def test_a_run_begins_with_an_empty_folder_and_loses_no_earlier_one(tmp_path: Path) -> None:
    """Otherwise an image from before would pass for one of a job that failed."""
    (tmp_path / "case" / "images").mkdir(parents=True)
    command = ("test_run.sh", "case", "-", "out")
    for _ in range(3):
        scripted(tmp_path, *command, cwd=tmp_path)
        assert list((tmp_path / "out" / "case").iterdir()) == []
        (tmp_path / "out" / "case" / "seg.mha").touch()
    assert [len(list((tmp_path / "out" / f"case.{n}").iterdir())) for n in (1, 2)] == [1, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cases", "-", "out", "."), "/a: expected a folder, found none"),
        (("cases", "-", "cases"), "cases: expected another folder than that of the cases"),
        (("co:lon",), "co:lon: expected a path without a colon, which Docker cannot mount"),
        (("cases", "-", "out:put"), "out:put: expected a path without a colon"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_folders_are_checked_before_anything_runs(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    for name in ("cases/a/images", "co:lon/images"):
        (tmp_path / name).mkdir(parents=True)
    done = run_script(tmp_path, "test_run.sh", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    asked = tmp_path / "asked"
    assert not asked.exists() or " run " not in asked.read_text()


def test_a_server_is_asked_as_the_platform_would(tmp_path: Path) -> None:
    (tmp_path / "cases" / "images").mkdir(parents=True)
    command = ("test_run.sh", "--invoke", "--cpu", "cases")
    asked = " ".join(scripted(tmp_path, *command, answer="echo runc", cwd=tmp_path))
    image = f"oarseg:{__version__}-cpu-invoke"
    steps = ["build ", "run --detach ", f":/output {image} ", "exec ", 'ask("POST", "/invoke")']
    steps += ["stop --time 5 ", "logs ", "rm --force ", f"{image} -m oarseg.cli submission"]
    places = [asked.find(step) for step in steps]
    assert -1 not in places
    assert places == sorted(places)
    # Its exit status is the invocation's.
    failing = 'case "$1" in exec) exit 1;; esac'
    done = run_script(tmp_path, *command, answer=failing, cwd=tmp_path)
    assert (done.returncode, "exit status 1" in done.stdout) == (1, True)


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
