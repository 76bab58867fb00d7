"""The image as the platform runs it, on a real engine: `make container-test`.

Without an engine every test here fails, as it should: nothing else shows that the image
works. `make gpu-test` runs the last test, on a GPU.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import docker_engine
import numpy as np
import pytest
import SimpleITK as sitk
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from docker_engine import ROOT, Result
from numpy.typing import NDArray

from oarseg import __version__
from oarseg.challenges import catalogue

RULES = catalogue.load_challenge("han_seg")
IMAGES = ROOT / "test" / "images"
FOREIGN_UID = "12345:12345"
LARGEST_IMAGE = 4.5e9
# The runs of one machine agree to the byte; another CPU may round otherwise.
LEAST_DICE = 0.99

Say = Callable[[str], None]
container = pytest.mark.container


@pytest.fixture(scope="session")
def ct() -> Path:
    """The shipped case's CT."""
    (path,) = (IMAGES / RULES.reference.slug).iterdir()
    return path


@pytest.fixture(scope="session")
def expected() -> NDArray[np.uint8]:
    (path,) = (p for p in (ROOT / "test" / "expected").rglob("*") if p.suffix in (".mha", ".nrrd"))
    return labels_of(path)


@pytest.fixture(scope="session")
def runs(image: str, tmp_path_factory: pytest.TempPathFactory, say: Say) -> dict[str, Result]:
    """The shipped case, as the image's own user and as one that it does not know."""
    found = {}
    for user in ("", FOREIGN_UID):
        folder = tmp_path_factory.mktemp("run")
        options = ("--user", user, *without_shell(folder)) if user else ()
        found[user] = docker_engine.run(IMAGES, folder, *options)
        say(f"user {user or 'of the image'}: {spent(found[user])}")
    return found


def without_shell(folder: Path) -> tuple[str, ...]:
    """Options that lay an empty file over each shell of the image."""
    nothing = folder / "nothing"
    nothing.touch(mode=0o444)
    shells = ("/usr/bin/dash", "/usr/bin/bash")
    return tuple(part for shell in shells for part in ("--volume", f"{nothing}:{shell}:ro"))


@pytest.fixture(params=["", FOREIGN_UID], ids=["own-user", "foreign-uid"])
def result(request: pytest.FixtureRequest, runs: dict[str, Result]) -> Result:
    done = runs[request.param]
    assert done.status == 0, done.log
    return done


@pytest.fixture(scope="session")
def tarball(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights as export.sh packs them for the platform."""
    return export_weights(tmp_path_factory.mktemp("export"))


def export_weights(folder: Path) -> Path:
    subprocess.run([ROOT / "export.sh", "weights", folder], check=True, capture_output=True)
    return folder / f"oarseg-weights-{__version__}.tar.gz"


def spent(done: Result) -> str:
    """Seconds, and the larger of the peaks that the report and the kernel tell."""
    told = done.report()["peak_mib"] if done.status == 0 else 0
    return f"{done.seconds:.1f} s, peak memory {max(done.peak_mib, told):.0f} MiB"


def labels_of(path: Path) -> NDArray[np.uint8]:
    return np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(str(path))))


def geometry(image: sitk.Image) -> tuple[tuple[float, ...], ...]:
    return image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection()


def dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    total = int(one.sum()) + int(other.sum())
    return 2 * int((one & other).sum()) / total if total else 1.0


def label_file(done: Result) -> Path:
    return done.only_file(f"images/{RULES.output.slug}")


def case_name(done: Result) -> str:
    return done.only_file("reports").stem


def assert_agrees(found: NDArray[np.uint8], expected: NDArray[np.uint8]) -> float:
    """Every structure as expected; returns the least Dice."""
    assert found.shape == expected.shape
    scores = {s.name: dice(found == s.label, expected == s.label) for s in RULES.structures}
    assert {name: d for name, d in scores.items() if d < LEAST_DICE} == {}
    return min(scores.values())


@container
def test_image_is_small(image: str) -> None:
    assert (
        int(docker_engine.docker("image", "inspect", "--format", "{{.Size}}", image))
        < LARGEST_IMAGE
    )


@container
def test_image_is_configured_for_the_platform(image: str) -> None:
    (facts,) = json.loads(docker_engine.docker("image", "inspect", image))
    config = facts["Config"]
    assert (facts["Os"], facts["Architecture"]) == ("linux", "amd64")
    assert config["User"] == "1000:1000"
    assert config["Entrypoint"] == ["/opt/venv/bin/python", "/opt/app/process.py"]
    assert config["Labels"]["org.opencontainers.image.version"] == __version__
    assert f"oarseg:{__version__}" in facts["RepoTags"]


@container
def test_image_holds_no_tools_to_gain_rights_or_install(image: str) -> None:
    script = """
        find / -xdev -type f -perm /6000
        for tool in gcc cc c++ make pip pip3 git curl wget; do command -v $tool; done
        for module in pip torch nnunetv2 onnx; do
            /opt/venv/bin/python -c "import $module" 2>/dev/null && echo $module
        done
        find /opt/app /opt/venv -xdev ! -type l -perm /0022
        find / -xdev \\( -name pip.conf -o -name .netrc -o -name .pypirc -o -name 'id_[re]*' \\)
        grep -rl 'PRIVATE KEY-----' /etc /opt/app /root /home /tmp
        true
    """
    arguments = ("--rm", "--network", "none", "--user", "0", "--entrypoint", "sh", image)
    assert docker_engine.docker("run", *arguments, "-c", script) == ""


@container
def test_environment_holds_no_secret(image: str) -> None:
    (facts,) = json.loads(docker_engine.docker("image", "inspect", image))
    names = {entry.partition("=")[0] for entry in facts["Config"]["Env"]}
    secret = re.compile("TOKEN|SECRET|PASSW|KEY|CREDENTIAL|PROXY|INDEX", re.IGNORECASE)
    # The signing keys of Python's releases are public.
    assert {name for name in names if secret.search(name)} <= {"GPG_KEY"}


@container
def test_layers_name_no_package_index(image: str) -> None:
    history = docker_engine.docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", image)
    assert "index-url" not in history
    assert "://" not in history


@container
def test_only_the_files_of_the_contract_are_written(result: Result, ct: Path) -> None:
    name = case_name(result)
    stem = ct.name.replace(RULES.output.replace, RULES.output.by)
    masks = [f"oar_masks/{name}/{name}_OAR_{s.name}.seg.nrrd" for s in RULES.structures]
    assert result.files() == sorted(
        [
            f"images/{RULES.output.slug}/{stem}",
            "results.json",
            f"reports/{name}.json",
            f"oar_masks/{name}.seg.nrrd",
            *masks,
        ]
    )


@container
def test_labels_lie_on_the_ct_grid(result: Result, ct: Path) -> None:
    image = sitk.ReadImage(str(label_file(result)))
    assert geometry(image) == geometry(sitk.ReadImage(str(ct)))
    assert image.GetPixelID() == sitk.sitkUInt8
    values = np.unique(sitk.GetArrayFromImage(image))
    assert set(values.tolist()) <= {0, *(s.label for s in RULES.structures)}
    assert len(values) > 1
    assert label_file(result).stat().st_size < image.GetNumberOfPixels() / 4


@container
def test_labels_agree_with_the_expected_file(
    result: Result, expected: NDArray[np.uint8], say: Say
) -> None:
    found = labels_of(label_file(result))
    least = assert_agrees(found, expected)
    differing = int((found != expected).sum())
    say(f"against test/expected: least Dice {least:.4f}, {differing} voxels differ")


@container
def test_each_mask_is_its_label(result: Result) -> None:
    labels = labels_of(label_file(result))
    name = case_name(result)
    for structure in RULES.structures:
        path = result.output / "oar_masks" / name / f"{name}_OAR_{structure.name}.seg.nrrd"
        assert np.array_equal(labels_of(path), labels == structure.label), structure.name


@container
def test_combined_segmentation_names_every_structure(result: Result) -> None:
    whole = sitk.ReadImage(str(result.output / "oar_masks" / f"{case_name(result)}.seg.nrrd"))
    names = {
        whole.GetMetaData(key)
        for key in whole.GetMetaDataKeys()
        if key.startswith("Segment") and key.endswith("_Name")
    }
    assert names == {s.name for s in RULES.structures}


@container
def test_results_list_the_case(result: Result, ct: Path) -> None:
    (record,) = json.loads((result.output / "results.json").read_text())
    assert record["error_messages"] == []
    assert ct.name in [entry["filename"] for entry in record["inputs"]]
    assert [entry["filename"] for entry in record["outputs"]] == [label_file(result).name]


@container
def test_run_says_that_it_took_the_cpu_and_why(result: Result) -> None:
    assert "device cpu" in result.log
    assert "no GPU" in result.log
    assert result.report()["device"]["device"] == "cpu"


@container
def test_no_shell_is_needed(image: str, runs: dict[str, Result], tmp_path: Path) -> None:
    """The run as a foreign uid had none."""
    options = ("--rm", "--network", "none", *without_shell(tmp_path), "--entrypoint", "/bin/sh")
    with pytest.raises(RuntimeError):
        docker_engine.docker("run", *options, image, "-c", "true")
    assert runs[FOREIGN_UID].status == 0


@container
def test_sbom_lists_what_is_in_the_image(image: str, tmp_path: Path) -> None:
    subprocess.run([ROOT / "export.sh", "sbom", tmp_path], check=True, capture_output=True)
    text = (tmp_path / f"oarseg-{__version__}.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    parts = json.loads(text)["components"]
    assert [part["purl"] for part in parts if not part.get("licenses")] == []
    purls = [part["purl"] for part in parts]
    listed = {unquote(purl.partition("?")[0]) for purl in purls}
    query = ("--rm", "--network", "none", "--entrypoint", "dpkg-query", image)
    names = docker_engine.docker("run", *query, "-W", "-f", "${Package}\\n").split()
    assert len(names) > 50
    debian = {purl.split("/")[2].partition("@")[0] for purl in listed if purl.startswith("pkg:deb")}
    assert debian == set(names)
    pins = re.findall(r"(?m)^([a-z0-9-]+)==(\S+)", (ROOT / "requirements.txt").read_text())
    # Pinned because pip wants them, and taken out of the image (docker/prune.py).
    left_out = {"openvino-telemetry", "nvidia-nvjitlink-cu12"}
    wanted = {f"pkg:pypi/{name}@{v}" for name, v in pins if name not in left_out}
    assert listed >= wanted
    assert f"oarseg-{__version__}.cdx.json" in (tmp_path / "SHA256SUMS").read_text()


@container
def test_runs_give_the_same_bytes(runs: dict[str, Result]) -> None:
    one, other = (label_file(done).read_bytes() for done in runs.values())
    assert one == other


@container
def test_weights_tarball_is_the_same_whoever_packs_it(tarball: Path, tmp_path: Path) -> None:
    again = export_weights(tmp_path)
    assert again.read_bytes() == tarball.read_bytes()
    with tarfile.open(tarball) as archive:
        members = archive.getmembers()
    assert {m.name for m in members if m.isfile()} == {
        f"./{p.relative_to(ROOT / 'weights')}" for p in (ROOT / "weights").rglob("*") if p.is_file()
    }
    assert all((m.uid, m.gid, m.isfile() or m.isdir()) == (0, 0, True) for m in members)


@container
def test_uploaded_weights_take_precedence(
    image: str, tarball: Path, tmp_path: Path, say: Say
) -> None:
    model = tmp_path / "model"
    with tarfile.open(tarball) as archive:
        archive.extractall(model, filter="data")
    manifest = model / "manifest.json"
    facts = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(facts | {"title": "uploaded to the platform"}))
    done = docker_engine.run(
        IMAGES, tmp_path, "--volume", f"{docker_engine.open_to_all(model)}:/opt/ml/model:ro"
    )
    say(f"weights at /opt/ml/model: {spent(done)}")
    assert done.status == 0, done.log
    assert done.report()["model"]["title"] == "uploaded to the platform"


def no_case(images: Path, ct: Path) -> str:
    shutil.rmtree(images)
    images.mkdir()
    return "/input"


def truncated(images: Path, ct: Path) -> str:
    path = images / RULES.reference.slug / ct.name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return ct.name


def mr_alone(images: Path, ct: Path) -> str:
    shutil.rmtree(images / RULES.reference.slug)
    return next((images / "t1-mri").iterdir()).name


@container
@pytest.mark.parametrize("spoil", [no_case, truncated, mr_alone])
def test_bad_input_ends_in_one_sentence(
    spoil: Callable[[Path, Path], str], image: str, ct: Path, tmp_path: Path
) -> None:
    images = Path(shutil.copytree(IMAGES, tmp_path / "images"))
    named = spoil(images, ct)
    done = docker_engine.run(images, tmp_path)
    assert done.status == 1, done.log
    assert named in done.last_line
    assert "Traceback" not in done.log
    # A list of what failed, at most; no image, no mask, nothing half-written.
    assert set(done.files()) <= {"results.json"}


@container
def test_unwritable_output_ends_in_one_sentence(image: str, tmp_path: Path) -> None:
    done = docker_engine.run(IMAGES, tmp_path, arguments=("--output", "/opt/app/out"))
    assert done.status == 1, done.log
    assert "/opt/app/out" in done.last_line
    assert "Traceback" not in done.log


@pytest.mark.gpu
def test_gpu_gives_the_expected_labels(
    image: str, expected: NDArray[np.uint8], tmp_path: Path, say: Say
) -> None:
    done = docker_engine.run(IMAGES, tmp_path, "--gpus", "all")
    say(f"GPU: {spent(done)}")
    assert done.status == 0, done.log
    assert done.report()["device"]["device"] == "cuda", done.log
    assert_agrees(labels_of(label_file(done)), expected)
