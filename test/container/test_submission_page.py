"""The commands of docs/submission.md, as they are written there: results folder to upload."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import foreign_models as foreign
import nnunet_oracle as oracle
import numpy as np
import pytest
from checkouts import copy_checkout
from docker_engine import ROOT, open_to_all
from numpy.typing import NDArray
from page_commands import page_commands, run_line

from oarseg import __version__

PAGE = ROOT / "docs" / "submission.md"
RESULTS = Path("nnUNet_results", "Dataset007_Ours", "nnUNetTrainer__nnUNetPlans__3d_fullres")
SPACING = (2.0, 1.0, 1.0)
MOST_COMMANDS = 6
# The largest file is compressed as fast as it can be: this is not what takes a CI's time.
FAST = {"GZIP": "-1", "PIGZ": "-1"}


def test_the_way_is_short_and_starts_with_nothing_installed() -> None:
    lines = page_commands(PAGE)
    assert len(lines) <= MOST_COMMANDS
    assert lines[0] == "make .venv/dev.stamp"
    assert str(RESULTS) in lines[1]


@pytest.mark.usefixtures("image")
def test_from_a_results_folder_to_an_upload(tmp_path: Path) -> None:
    checkout = copy_checkout(tmp_path / "a checkout")
    files = write_cases(checkout / "cases", write_results(checkout), tmp_path)
    said = {line.split()[0]: run_line(line, checkout, **FAST) for line in page_commands(PAGE)}
    for case, file in files.items():
        (ours,) = (checkout / "test_out" / case / "images" / "head-neck-segmentation").iterdir()
        assert ours.suffix == ".mha"
        # Two logits of which half precision makes one value fall otherwise on another CPU.
        assert np.count_nonzero(foreign.read_labels(ours) != file) <= 1
    assert "a job that writes this is taken" in said["./test_run.sh"]
    assert said["./test_run.sh"].count("exit status 0") == len(files)
    dist = checkout / "dist"
    names = {f"oarseg-{__version__}.{ending}" for ending in ("tar.gz", "cdx.json")}
    names |= {f"oarseg-weights-{__version__}.tar.gz", "SHA256SUMS"}
    assert {path.name for path in dist.iterdir()} == names
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=dist, check=True)
    settings = said["./export.sh"].partition("3. Algorithm, Settings:")[2]
    assert "images/ct (CT), images/t1-mri (MR T1)" in settings
    assert "images/head-neck-segmentation" in settings
    assert "GiB for 200×512×512 voxels" in settings


def write_results(checkout: Path) -> Path:
    """Write a stock results folder where the page has it."""
    recipe = oracle.Recipe(SPACING, labels={"background": 0, "Cord": 1, "Gland": 2})
    model = foreign.Foreign(recipe, ("CT", "MR T1"), ".mha")
    written = foreign.write_results(model, checkout / "training")
    (checkout / RESULTS).parent.mkdir(parents=True)
    return written.rename(checkout / RESULTS)


def write_cases(cases: Path, results: Path, scratch: Path) -> dict[str, NDArray[np.uint8]]:
    """Write two jobs, one with the platform's list; returns nnU-Net's label maps."""
    found = {}
    for number, case in enumerate(("patient_1", "patient 2")):
        images = oracle.images((20, 40, 36), 2, seed=number)
        files = foreign.write_images(
            images, scratch / "imagesTs", ending=".mha", spacing_mm=SPACING, case=case
        )
        foreign.nnunets_answer(results, files, wanted := scratch / "wanted.mha", folds=("0",))
        found[case] = foreign.read_labels(wanted)
        for file, slug in zip(files, ("ct", "t1-mri"), strict=True):
            (cases / case / "images" / slug).mkdir(parents=True)
            shutil.copy(file, cases / case / "images" / slug / f"{number}-{slug}.mha")
    sockets = [("ct-image", "images/ct"), ("t1-mri", "images/t1-mri")]
    listed = [
        {"socket": {"slug": slug, "relative_path": path}, "image": {"name": "x.mha"}}
        for slug, path in sockets
    ]
    (cases / "patient 2" / "inputs.json").write_text(json.dumps(listed))
    open_to_all(cases)
    return found
