"""Whether the values of an image are Hounsfield units, by their histogram.

A CT in HU has its most common value in the air around the patient, near −1000, or, cropped
to the patient, in soft tissue or lung; its soft tissue lies near 40, or near −100 where fat
prevails; its neighbours are alike. Values that were shifted, scaled or inverted, and those
of an MR, break one of these rules. A constant fill at the lowest value, such as the −1024
or −3024 outside a round field, is left out before they are applied.

The limits are set wide of what was found in phantoms (``oarseg phantom``: 117 CTs of size
tiny, seeds 0 to 12 of all challenges, and two of size small) and in an average of real head
CTs (Rorden et al., NeuroImage 2012, once its stretched scale was undone): air near −1000,
−985 in the average; soft tissue at 20 to 60; at least 68 % of what is denser than −300
within ±150; neighbours that correlate by 0.94 or more, 3 % of them or fewer on either side
of −300. A good CT must not be refused: where a rule could fail for one, as all those about
air do for a CT that was cropped to the body, the verdict is "doubtful".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from oarseg.imaging.arrays import Image as Values
from oarseg.imaging.intensities import BODY_HU

Span = tuple[float, float]

AIR_PEAK_HU: Span = (-1100.0, -930.0)
LOWEST_USUAL_AIR_HU = -1060.0
LUNG_PEAK_HU: Span = (-930.0, -600.0)
SOFT_PEAK_HU: Span = (-200.0, 160.0)
# From fat to muscle; the narrower −50 to 100 holds all but the obese.
USUAL_SOFT_PEAK_HU: Span = (-150.0, 110.0)
SOFT_TISSUE_HU: Span = (-200.0, 200.0)
# From air to soft tissue, which a shift leaves as it is.
AIR_TO_SOFT_HU: Span = (900.0, 1150.0)
LEAST_BONE_HU = 150.0
SMALLEST_RANGE_HU = 12.0
BIN_HU = 20.0
HISTOGRAM_HU: Span = (-4000.0, 6000.0)

# Shares, of the voxels that are no fill unless said otherwise.
FILL_SHARE = 0.01
TISSUE_SHARE = 0.01
AIR_SHARE = 0.001
SOFT_OF_TISSUE_SHARE = 0.15
SHIFTED_SOFT_SHARE = 0.02
NEGATIVE_SHARE = 0.002
BONE_SHARE = 0.6
# Of neighbours: correlation, and the share on either side of −300.
WRONG_CORRELATION = 0.1
DOUBTFUL_CORRELATION = 0.3
CROSSING_SHARE = 0.1
SMALLEST_SAMPLE = 4096
SAMPLE = 500_000

Status = Literal["right", "doubtful", "wrong"]


@dataclass(frozen=True)
class HuVerdict:
    """Whether values are HU.

    Attributes:
        status: ``right``, ``doubtful`` or ``wrong``.
        reason: what speaks against it, in words that follow "found"; "" if nothing does.
    """

    status: Status
    reason: str = ""


RIGHT = HuVerdict("right")


def judge_hu(array: NDArray[Any], *, zero_is_fill: bool = False) -> HuVerdict:
    """Return whether an image is a CT in HU.

    Args:
        array: (z, y, x), finite; half a million of its voxels are looked at.
        zero_is_fill: leave zeros out where they fill the image's corners, as in images that
            were masked or padded.
    """
    sample = _draw_sample(array)
    kept = sample
    if zero_is_fill and sample.any() and _is_filled_with_zero(array):
        kept = sample[sample != 0.0]
    values = _without_fill(kept)
    verdicts = (
        _judge_neighbours(sample),
        _judge_range(kept, values),
        _judge_peaks(kept, values),
    )
    for status in ("wrong", "doubtful"):
        for verdict in verdicts:
            if verdict.status == status:
                return verdict
    return RIGHT


def _is_filled_with_zero(array: NDArray[Any]) -> bool:
    """Return whether all eight corners are exactly 0."""
    return not array[np.ix_(*((0, -1),) * 3)].any()


def is_surely_hu(array: NDArray[Any]) -> bool:
    """Return whether an image can be nothing but a CT in HU, with air, skin and soft tissue."""
    values = _without_fill(_draw_sample(array))
    between = (values > AIR_PEAK_HU[0]) & (values < BODY_HU)
    return float(between.mean()) >= TISSUE_SHARE and judge_hu(array).status == "right"


def are_same_image(ct: NDArray[Any], other: NDArray[Any]) -> bool:
    """Return whether another image is the CT itself, perhaps shifted or scaled.

    Args:
        ct: (z, y, x).
        other: of any shape; one that differs cannot be the same.
    """
    if ct.shape != other.shape:
        return False
    one, two = _draw_sample(ct), _draw_sample(other)
    body = one > BODY_HU
    if np.array_equal(one, two):
        return True
    if np.count_nonzero(body) < 2 or min(np.ptp(one[body]), np.ptp(two[body])) == 0:
        return False
    return bool(np.corrcoef(one[body], two[body])[0, 1] > 0.9999)


def _draw_sample(array: NDArray[Any]) -> Values:
    """Return voxels in whole rows, spread over the image."""
    planes, rows = array.shape[:2]
    per_axis = np.sqrt(max(1.0, array.size / SAMPLE))
    steps = (int(np.ceil(min(per_axis, planes))), int(np.ceil(min(per_axis, rows))))
    return cast(Values, array[:: steps[0], :: steps[1]].astype(np.float32))


def _without_fill(sample: Values) -> Values:
    """Return the values but those of a constant fill at the lowest, unless it is all there is."""
    flat = sample.ravel()
    lowest = flat == flat.min()
    if not FILL_SHARE <= lowest.mean() < 1.0:
        return flat
    return cast(Values, flat[~lowest])


def _judge_neighbours(sample: Values) -> HuVerdict:
    """Judge whether neighbours along x are alike."""
    if sample.size < SMALLEST_SAMPLE:
        return RIGHT
    held = np.clip(sample, -1024.0, 1000.0)
    one, two = held[..., :-1].ravel(), held[..., 1:].ravel()
    crossings = float(((one > BODY_HU) != (two > BODY_HU)).mean())
    if crossings > CROSSING_SHARE:
        return HuVerdict("wrong", f"air and tissue side by side in {crossings:.0%} of the voxels")
    if min(np.ptp(one), np.ptp(two)) == 0:
        return RIGHT
    correlation = float(np.corrcoef(one, two)[0, 1])
    if correlation < WRONG_CORRELATION:
        return HuVerdict("wrong", "neighbouring voxels that have nothing in common, as in noise")
    if correlation < DOUBTFUL_CORRELATION:
        return HuVerdict("doubtful", "neighbouring voxels that have little in common")
    return RIGHT


def _judge_range(sample: Values, values: Values) -> HuVerdict:
    """Judge how far the values reach."""
    low, high = np.percentile(values, (1, 99))
    if high - low < SMALLEST_RANGE_HU and np.ptp(sample) < 500.0:
        return HuVerdict("wrong", f"values {sample.min():g} to {sample.max():g}")
    return RIGHT


def _judge_peaks(sample: Values, values: Values) -> HuVerdict:
    tissue = values[values > BODY_HU]
    found = f"values {sample.min():g} to {sample.max():g}"
    if tissue.size < TISSUE_SHARE * values.size:
        return HuVerdict("wrong", f"{found}, {tissue.size / values.size:.1%} of them tissue")
    peak, soft = _find_peak(values), _find_peak(tissue)
    if not any(_lies_within(peak, span) for span in (AIR_PEAK_HU, LUNG_PEAK_HU, SOFT_PEAK_HU)):
        return HuVerdict("wrong", f"{found}, most of them near {peak:g}")
    shares = float(((tissue >= SOFT_TISSUE_HU[0]) & (tissue <= SOFT_TISSUE_HU[1])).mean())
    if not _lies_within(soft, SOFT_PEAK_HU) or shares < SOFT_OF_TISSUE_SHARE:
        return HuVerdict("wrong", f"{found}, tissue near {soft:g}, {shares:.0%} of it soft")
    if _lies_within(peak, SOFT_PEAK_HU):
        verdict = _judge_without_air(sample, values, peak, found)
        if verdict:
            return verdict
    if not _lies_within(soft, USUAL_SOFT_PEAK_HU):
        return HuVerdict("doubtful", f"soft tissue near {soft:g}")
    if peak < LOWEST_USUAL_AIR_HU:
        return HuVerdict("doubtful", f"air near {peak:g}")
    return RIGHT


def _judge_without_air(sample: Values, values: Values, peak: float, found: str) -> HuVerdict | None:
    """Judge an image whose most common value, which is no air, could be soft tissue or not."""
    above = values[(values > peak + AIR_TO_SOFT_HU[0]) & (values < peak + AIR_TO_SOFT_HU[1])]
    below = values[(values > peak + 400.0) & (values < peak + 800.0)]
    # Bone grows rarer with its density, tissue above shifted air does not.
    if above.size > max(SHIFTED_SOFT_SHARE * values.size, below.size):
        shift = _find_peak(above)
        return HuVerdict("wrong", f"{found}, most of them near {peak:g} and near {shift:g}")
    air = (sample >= AIR_PEAK_HU[0]) & (sample <= LUNG_PEAK_HU[1])
    if air.mean() >= AIR_SHARE:
        return None
    filled = bool((sample == sample.min()).mean() >= FILL_SHARE)
    bright = float(np.percentile(values, 99)) > LEAST_BONE_HU
    # A window's lower bound may be a fill too, and is fat; that of a round field is not.
    negative = (sample < 0.0) & (sample > AIR_PEAK_HU[1])
    if float(negative.mean()) < NEGATIVE_SHARE and (bright or filled):
        return HuVerdict("wrong", f"{found}, no air and no fat")
    if float((values > LEAST_BONE_HU).mean()) > BONE_SHARE:
        return HuVerdict("wrong", f"{found}, no air and most of them bone")
    return HuVerdict("doubtful", f"{found}, no air")


def _find_peak(values: Values) -> float:
    """Return the centre of the most common stretch of three bins."""
    low, high = HISTOGRAM_HU
    edges = np.arange(low - BIN_HU / 2, high + BIN_HU, BIN_HU)
    counts = np.histogram(np.clip(values, low, high), bins=edges)[0]
    smooth = np.convolve(counts, (0.5, 1.0, 0.5), mode="same")
    return float(edges[int(smooth.argmax())] + BIN_HU / 2)


def _lies_within(value: float, span: Span) -> bool:
    return span[0] <= value <= span[1]
