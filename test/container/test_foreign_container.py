"""The commands of docs/foreign-models.md, as they are written there: results folder to masks."""

from __future__ import annotations

from pathlib import Path

import foreign_models as foreign
import nnunet_oracle as oracle
import numpy as np
import pytest
from docker_engine import ROOT, open_to_all
from page_commands import page_commands, run_line

PAGE = ROOT / "docs" / "foreign-models.md"
SPACING = (2.0, 1.0, 1.0)


def test_readme_has_the_same_commands() -> None:
    assert "\n".join(page_commands(PAGE)) in (ROOT / "README.md").read_text()


@pytest.mark.usefixtures("image")
def test_three_commands_from_training_to_masks(tmp_path: Path) -> None:
    model = foreign.Foreign(
        oracle.Recipe(
            SPACING,
            labels={"background": 0, "PTV": [1, 2, 3], "CTV": [2, 3], "GTV": 3},
            region_order=(1, 2, 3),
        ),
        ("CBCT", "MR"),
    )
    results = foreign.write_results(model, tmp_path / "nnUNet_results")
    (tmp_path / "nnUNet_results" / "scratch").rename(tmp_path / "scratch")
    images = oracle.images((20, 40, 36), 2, seed=3)
    files = foreign.write_images(
        images, tmp_path / "imagesTs", ending=".nii.gz", spacing_mm=SPACING
    )
    (tmp_path / "out").mkdir()
    (tmp_path / "build.sh").write_text(f'exec "{ROOT}/build.sh" "$@"\n')
    (tmp_path / "build.sh").chmod(0o755)
    lines = page_commands(PAGE)
    assert len(lines) <= 3
    for line in lines:
        run_line(line, tmp_path)
        open_to_all(tmp_path / "imagesTs")
    wanted = tmp_path / "wanted.nii.gz"
    foreign.nnunets_answer(results, files, wanted, folds=("0",))
    theirs = foreign.read_labels(wanted)
    ours = foreign.read_labels(tmp_path / "out" / "patient_1.nii.gz")
    # Two logits of which half precision makes one value fall otherwise on another CPU.
    assert np.count_nonzero(ours != theirs) <= 1
    mask = tmp_path / "out" / "oar_masks" / "patient_1" / "patient_1_OAR_PTV.seg.nrrd"
    assert np.array_equal(foreign.read_labels(mask) > 0, ours > 0)
