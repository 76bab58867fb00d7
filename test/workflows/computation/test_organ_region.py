"""``--region organs``: what a first look found is labelled as the whole body would be."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nnunet_oracle as oracle
import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from oarseg.errors import InputError
from oarseg.inference.region.footprint import BlockMask
from oarseg.inference.region.localiser import OrganRegion
from oarseg.phantom import write_cases
from oarseg.workflows.computation import organ_region
from oarseg.workflows.segment_folder import segment_folder
from oarseg.workflows.settings import Settings, check_first_look


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CT alone, so that nothing is registered."""
    folder = tmp_path_factory.mktemp("phantom")
    write_cases(folder, seeds=[3], size="tiny", layout="platform")
    for mr in (folder / "images/t1-mri").iterdir():
        mr.unlink()
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folds of random weights, which find organs all over the body."""
    return oracle.write_han_seg_weights(tmp_path_factory.mktemp("weights"), folds=2)


Segment = Callable[..., tuple[NDArray[Any], dict[str, Any]]]


@pytest.fixture
def segment(case: Path, weights: Path, tmp_path: Path) -> Segment:
    def run(region: str, **more: Any) -> tuple[NDArray[Any], dict[str, Any]]:
        output = tmp_path / region
        asked = Settings(case, output, weights, device="cpu", threads=2)
        assert segment_folder(replace(asked, region=region, **more)) == ()
        (labels,) = (output / "images/head_neck_oar").iterdir()
        report = json.loads(next((output / "reports").glob("*.json")).read_text())
        return sitk.GetArrayFromImage(sitk.ReadImage(str(labels))), report

    return run


def upper_half(body: BlockMask) -> BlockMask:
    blocks = body.blocks.copy()
    blocks[: len(blocks) // 2] = False
    return replace(body, blocks=blocks)


@pytest.fixture
def seen_above(monkeypatch: pytest.MonkeyPatch) -> None:
    """A first look that found organs in the upper half only."""

    def find(*given: Any) -> OrganRegion:
        return OrganRegion(upper_half(given[3]), 5, 10, 2, 0)

    monkeypatch.setattr(organ_region, "find_organ_region", find)


def test_where_organs_are_all_over_the_labels_are_the_bodys(segment: Segment) -> None:
    whole, _ = segment("body")
    part, report = segment("organs")
    assert np.array_equal(part, whole)
    look = report["first_look"]
    assert look["tiles"] == look["body_tiles"] >= look["look_tiles"]
    assert (report["region"], look["whole_body"]) == ("organs", False)


@pytest.mark.usefixtures("seen_above")
def test_an_organ_that_goes_on_beyond_the_region_is_not_cut(segment: Segment) -> None:
    whole, _ = segment("body")
    part, report = segment("organs")
    assert np.array_equal(part, whole)
    assert report["first_look"]["whole_body"] is True
    assert any("reaches the edge" in warning for warning in report["warnings"])


@pytest.mark.usefixtures("seen_above")
def test_nothing_is_labelled_beyond_the_region(
    segment: Segment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(organ_region, "reaches_edge", lambda *_: False)
    whole, plain = segment("body")
    part, report = segment("organs")
    changed = np.flatnonzero((part != whole).any(axis=(1, 2)))
    first = int(np.flatnonzero(part.any(axis=(1, 2)))[0])
    assert changed.size
    assert changed.max() < first  # below the region only
    assert np.array_equal(part[first:], whole[first:])
    assert (plain["first_look"], report["first_look"]["tiles"]) == (None, 5)


def test_a_look_that_finds_nothing_leaves_the_body(
    segment: Segment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(organ_region, "find_organ_region", lambda *_: None)
    whole, _ = segment("body")
    part, report = segment("organs")
    assert np.array_equal(part, whole)
    assert report["first_look"] is None
    assert any("found no organ" in warning for warning in report["warnings"])


@pytest.mark.usefixtures("seen_above")
def test_a_time_limit_counts_again_for_the_whole_body(segment: Segment) -> None:
    _, report = segment("organs", time_limit_s=3000.0)
    assert report["first_look"]["whole_body"] is True
    assert report["effort"]["left_out"] == []


def test_what_a_first_look_cannot_bound_is_refused(case: Path, weights: Path) -> None:
    asked = Settings(case, case / "out", weights, region="organs", probabilities=("Brainstem",))
    with pytest.raises(InputError, match="pass --region body with --probabilities"):
        segment_folder(asked)


def test_several_configurations_are_refused() -> None:
    two = SimpleNamespace(networks=(1, 2))
    with pytest.raises(InputError, match="one configuration, and the model has 2"):
        check_first_look(two, probabilities=False)
