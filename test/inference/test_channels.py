"""The network's channels, on images small enough to derive them by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import SimpleITK as sitk

from oarseg.cases.case import Case
from oarseg.challenges import catalogue
from oarseg.challenges.challenge import Challenge
from oarseg.errors import InputError
from oarseg.imaging.rigid import RigidTransform
from oarseg.imaging.slabs import whole_image
from oarseg.imaging.transform import Transform
from oarseg.imaging.volume import Grid, Volume
from oarseg.inference.channels import build_channels, read_images
from oarseg.model.conditioning import Conditioning
from oarseg.model.entries.channels import ChannelRecipe

GRID = Grid((2, 2, 3), (1.0, 1.0, 1.0))
CT = ChannelRecipe("CT")
MR = ChannelRecipe("MR_T1", optional=True, absent_value=-5.0)
FILES = {"CT": Path("ct.mha"), "MR_T1": Path("mr.mha")}


def rules(placed: str) -> Challenge:
    """HaN-Seg, or a challenge like it whose MR lies on the CT's grid."""
    han_seg = catalogue.load_challenge("han_seg")
    sockets = tuple(replace(s, placed=placed) for s in han_seg.sockets)  # type: ignore[arg-type]
    return replace(han_seg, sockets=sockets)


def ct() -> Volume:
    return Volume(np.arange(12, dtype=np.int16).reshape(GRID.shape) * 400 - 1024, GRID)


def mr(shift_mm: float = 0.0) -> Volume:
    values = np.arange(1, 13, dtype=np.float32).reshape(GRID.shape)
    return Volume(values, replace(GRID, origin_mm=(shift_mm, 0.0, 0.0)))


def never(*_: object) -> Transform | None:
    raise AssertionError("nothing is to be registered here")


def test_the_ct_keeps_values_and_dtype_and_a_missing_image_is_absent() -> None:
    images = {"CT": ct()}
    built = build_channels(
        images, [CT, MR], rules("registered"), files=FILES, align=never, resample=False
    )
    channels = [whole_image(channel) for channel in built]
    assert channels[0].dtype == np.int16
    assert np.array_equal(channels[0], ct().array)
    assert channels[1].dtype == np.float32
    assert np.all(channels[1] == -5.0)
    assert images == {}


@pytest.mark.parametrize("found", [RigidTransform(), None])
def test_a_registered_image_or_none(found: Transform | None) -> None:
    (built,) = build_channels(
        {"CT": ct(), "MR_T1": mr(1.0)},
        [MR],
        rules("registered"),
        files=FILES,
        align=lambda *_: found,
        resample=False,
    )
    channel = whole_image(built)
    if found is None:
        assert np.all(channel == -5.0)
    else:
        # One voxel to the left in x: the first column is outside the MR.
        assert channel[0, 0].tolist() == [-5.0, 1.0, 2.0]


def test_an_image_on_the_reference_s_grid() -> None:
    def build(image: Volume, *, resample: bool) -> list[float]:
        (channel,) = build_channels(
            {"CT": ct(), "MR_T1": image},
            [MR],
            rules("same_grid"),
            files=FILES,
            align=never,
            resample=resample,
        )
        return list(whole_image(channel)[0, 0].tolist())

    assert build(mr(), resample=False) == [1.0, 2.0, 3.0]
    # What stands outside is the channel's own absent value, for training too.
    assert build(mr(1.0), resample=True) == [-5.0, 1.0, 2.0]
    with pytest.raises(InputError, match=r"mr\.mha: expected the reference image's grid"):
        build(mr(1.0), resample=False)


@pytest.mark.parametrize(("axes", "told"), [("RAS", 1), ("stored", 0)])
def test_a_file_without_an_orientation_that_matters_is_told(
    tmp_path: Path, axes: Literal["RAS", "stored"], told: int
) -> None:
    path = tmp_path / "ct.nii"
    sitk.WriteImage(sitk.GetImageFromArray(np.arange(64, dtype=np.int16).reshape(4, 4, 4)), path)
    header = bytearray(path.read_bytes())
    header[252:256] = bytes(4)  # the codes of quaternion and matrix
    path.write_bytes(header)
    warnings: list[str] = []
    read_images(
        Case("a", {"CT": path}),
        rules("same_grid"),
        ["CT"],
        assume_hu=True,
        conditioning=Conditioning(axes=axes),
        warn=warnings.append,
    )
    assert sum("ct.nii: its header gives no orientation" in text for text in warnings) == told
