"""What is HU and what is not: no phantom's CT is refused, every known corruption is."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from oarseg.challenges import catalogue
from oarseg.errors import InputError
from oarseg.imaging.files.read_scan import check_ct, check_distinct, check_mr
from oarseg.imaging.grids import crop_volume
from oarseg.imaging.hounsfield import are_same_image, is_surely_hu, judge_hu
from oarseg.imaging.volume import Grid, Volume
from oarseg.phantom import PhantomSpec, make_phantom

Array = NDArray[Any]
SEEDS = range(10)
HEAD, CHEST = "han_seg", "structseg_thoracic_oar"
PATH = Path("x.mha")


@cache
def images(challenge: str, seed: int) -> dict[str, Volume]:
    """A phantom's images; every third with metal, the MR only where it is looked at."""
    spec = PhantomSpec(seed, "tiny", metal=seed % 3 == 0, with_mr=challenge == HEAD)
    return make_phantom(spec, catalogue.load_challenge(challenge)).images


def ct(challenge: str, seed: int) -> Array:
    return images(challenge, seed)["CT"].array


def known() -> tuple[str, ...]:
    names = catalogue.challenge_names()
    return tuple(name for name in names if catalogue.load_challenge(name).structures)


@pytest.mark.parametrize("challenge", known())
def test_no_ct_of_a_phantom_is_refused_or_doubted(challenge: str) -> None:
    """Thirteen seeds of all challenges, 117 CTs with those of contrast, were judged once."""
    for seed in SEEDS[:5]:
        for channel, image in images(challenge, seed).items():
            if channel != "MR_T1":
                assert judge_hu(image.array).status == "right", (seed, channel)


def rim(array: Array, value: int) -> Array:
    """A round field in a square plane."""
    y, x = (np.arange(n) - (n - 1) / 2 for n in array.shape[1:])
    outside = (y[:, None] / (len(y) / 2)) ** 2 + (x / (len(x) / 2)) ** 2 > 1
    filled = array.copy()
    filled[:, outside] = value
    return filled


def tight(array: Array) -> Array:
    """The field ends inside the body on all four sides."""
    y, x = (np.flatnonzero((array > -200).any(axis=axes)) for axes in ((0, 2), (0, 1)))
    rows = slice(y[0] + len(y) // 4, y[-1] - len(y) // 4)
    return array[:, rows, x[0] + len(x) // 4 : x[-1] - len(x) // 4]


def noisy(array: Array) -> Array:
    return array + np.random.default_rng(0).normal(0, 40, array.shape).astype(np.float32)


GOOD: dict[str, Callable[[Array], Array]] = {
    "padded with -2000": lambda a: rim(a, -2000),
    "padded with -3024": lambda a: rim(a, -3024),
    "padded with 0": lambda a: rim(a, 0),
    "clipped to -1000 … 1500": lambda a: np.clip(a, -1000, 1500),
    "noise of 40 HU": noisy,
    "lower third": lambda a: a[: len(a) // 3],
    "middle third": lambda a: a[len(a) // 3 : 2 * len(a) // 3],
    "head alone": lambda a: a[2 * len(a) // 3 :],
    "air at -980": lambda a: np.where(a < -950, a + 20, a),
    "feet first": lambda a: a[::-1, ::-1],
    "sagittal planes first": lambda a: a.transpose(2, 0, 1),
    "unsigned, air at 0 lost": lambda a: np.clip(a, -1000, None),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_scanners_and_tools_do_to_a_good_ct_is_not_doubted(name: str) -> None:
    for challenge, seed in product((HEAD, CHEST), SEEDS):
        changed = GOOD[name](ct(challenge, seed).astype(np.float32))
        assert judge_hu(changed).status == "right", (challenge, seed)


@pytest.mark.parametrize("challenge", [HEAD, CHEST])
def test_a_ct_cropped_to_the_body_is_at_most_doubted(challenge: str) -> None:
    for seed in SEEDS:
        assert judge_hu(tight(ct(challenge, seed))).status != "wrong", seed
    volume = make_phantom(PhantomSpec(1, "small", with_mr=False)).ct
    inside = np.argwhere(volume.array[20:-20, 30:-30, 30:-30] > -200) + np.array([20, 30, 30])
    rng, reach, found = np.random.default_rng(0), np.array([12, 20, 20]), []
    for at in rng.choice(inside, 150):
        low, high = np.maximum(at - reach, 0), at + reach
        part = crop_volume(volume, tuple(low.tolist()), tuple(high.tolist())).array
        if (part < -300).mean() < 0.01:
            found.append(judge_hu(part).status)
    assert len(found) > 10
    assert set(found) <= {"right", "doubtful"}


def board(size: int) -> Callable[[Array], Array]:
    return lambda a: np.where((np.indices(a.shape) // size).sum(0) % 2, 40, -1000)


def drawn(draw: Callable[[np.random.Generator, tuple[int, ...]], Array]) -> Callable[..., Array]:
    return lambda a: draw(np.random.default_rng(0), a.shape)


BAD: dict[str, Callable[[Array], Array]] = {
    "× 10": lambda a: a * 10,
    "× 10, clipped": lambda a: np.clip(a * 10, -1024, 3000),
    "+ 1024, rim of -1024": lambda a: rim(a + 1024, -1024),
    "+ 1024": lambda a: a + 1024,
    "+ 1000": lambda a: a + 1000,
    "raw 0 … 4095": lambda a: np.clip(a + 1024, 0, 4095),
    "× 2": lambda a: a * 2,
    "× 0.5": lambda a: a * 0.5,
    "inverted": lambda a: -a,
    "inverted from its maximum": lambda a: a.max() - a,
    "normal noise": drawn(lambda rng, shape: rng.normal(0, 400, shape)),
    "uniform noise": drawn(lambda rng, shape: rng.uniform(-1024, 3000, shape)),
    "its voxels in any order": lambda a: (
        np.random.default_rng(0).permutation(a.ravel()).reshape(a.shape)
    ),
    "checkerboard": board(1),
    "checkerboard of blocks": board(4),
    "0 … 1": lambda a: (a - a.min()) / np.ptp(a),
    "a window in bytes": lambda a: np.clip((a + 160) * 255 / 400, 0, 255).astype(np.uint8),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_hu_is_refused(name: str) -> None:
    for challenge, seed in product((HEAD, CHEST), SEEDS):
        changed = BAD[name](ct(challenge, seed).astype(np.float64))
        verdict = judge_hu(changed)
        assert (verdict.status, bool(verdict.reason)) == ("wrong", True), (challenge, seed)
        assert not is_surely_hu(changed)


def test_an_mr_is_no_ct_and_a_ct_no_mr() -> None:
    for seed in SEEDS:
        both = images(HEAD, seed)
        volume = both["MR_T1"]
        with pytest.raises(
            InputError, match=r"found .* no air and no fat; rescale it to HU, check"
        ):
            check_ct(volume, PATH)
        assert check_mr(volume, PATH) is volume
        with pytest.raises(InputError) as caught:
            check_mr(both["CT"], PATH)
        assert str(caught.value) == (
            "x.mha: expected an MR, found a CT: values in HU, air near -1000 and soft tissue near "
            "40; give the MR, and check that CT and MR are not exchanged"
        )


@pytest.mark.parametrize("scale", [1.0, -1.0, 0.01])
@pytest.mark.parametrize("shift", [0.0, 1024.0])
def test_the_ct_once_more_is_no_mr(scale: float, shift: float) -> None:
    """Also one that was cropped to the body, whose values alone do not say what it is."""
    whole = images(HEAD, 1)["CT"].array.astype(np.float32)
    for array in (whole, tight(whole)):
        image = Volume(array, Grid(array.shape, (1.0, 1.0, 1.0)))
        again = image.with_array(scale * array + shift)
        if scale < 0:
            check_distinct(image, again, PATH)
            continue
        with pytest.raises(InputError, match=r"x\.mha: expected an MR, found the CT's own voxels;"):
            check_distinct(image, again, PATH)


def test_another_image_on_the_ct_s_grid_is_not_the_ct() -> None:
    one, other = (images(HEAD, seed)["CT"].array for seed in (1, 2))
    contrast = images("segrap_oar", 1)
    assert not are_same_image(one, other)
    assert not are_same_image(one, one[:-1])
    assert not are_same_image(one, np.where(one > -300, np.abs(one), 0))
    assert not are_same_image(contrast["CT"].array, contrast["CT_contrast"].array)


def test_doubt_is_a_warning_and_assumed_hu_another() -> None:
    told: list[str] = []
    x = np.arange(-50.0, 100.0, 10.0, np.float32)
    volume = Volume(np.broadcast_to(x, (15, 15, 15)).copy(), Grid((15, 15, 15), (1.0, 1.0, 1.0)))
    assert check_ct(volume, PATH, warn=told.append) is volume
    assert told == ["x.mha: may not be in HU: values -50 to 90, no air; check the masks"]
    told.clear()
    raw = volume.with_array(volume.array + 1024)
    check_ct(raw, PATH, assume_hu=True, warn=told.append)
    assert told[0].startswith("x.mha: taken as HU as was asked: values 974 to 1114, ")


@pytest.mark.parametrize(("offset", "status"), [(0, "doubtful"), (1024, "wrong")])
def test_a_fill_of_zero_can_be_left_out(offset: int, status: str) -> None:
    """A brain of 10 to 60 HU in zeros has no air; stored as raw values it is no CT in HU."""
    brain = np.zeros((16, 64, 64), np.int16)
    ramp = np.linspace(10, 60, 40)
    brain[3:13, 12:52, 12:52] = offset + ramp[:, None] / 2 + ramp / 2
    assert judge_hu(brain, zero_is_fill=True).status == status
