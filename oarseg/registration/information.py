"""The similarity score of registration: overlap × normalised mutual information.

score = overlap · 2·I(CT; MR) / (H(CT) + H(MR))

I and H are the mutual information and the entropies of intensity classes over the voxels
common to both images. Overlap is the fraction of the MR's patient inside the CT's field of
view; it keeps poses with a small chance overlap from winning. The quotient (symmetric
uncertainty; see Studholme et al., Pattern Recognition 1999, for related measures) is in
[0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, special

from oarseg.imaging.arrays import Image
from oarseg.imaging.rigid import RigidTransform
from oarseg.imaging.volume import Grid, Volume
from oarseg.registration.coarse import CoarseCt, CoarseMr

FINE_CT_EDGES_HU = (
    -800, -500, -250, -150, -110, -80, -50, -20, 0, 20, 40, 60, 80, 110, 150, 200, 300, 450, 700,
    1100,
)  # fmt: skip
FINE_MR_CLASSES = 16

Counts = NDArray[np.float64]


@dataclass(frozen=True)
class OverlapScore:
    """Score and overlap of a pose, both in [0, 1]."""

    value: float
    overlap: float


def mr_edges(mr: CoarseMr, classes: int) -> NDArray[np.float64]:
    """Return edges that split the patient into classes of equal volume, with one for air."""
    values = mr.field.array[mr.foreground]
    inner = np.quantile(values, np.arange(1, classes - 1) / (classes - 1))
    return np.concatenate([[float(values.min())], inner])


def symmetric_uncertainty(joint: Counts) -> NDArray[np.float64]:
    """Compute the symmetric uncertainty of joint histograms (..., CT classes, MR classes).

    In [0, 1]; 0 for a histogram with fewer than two classes.
    """
    total = np.maximum(joint.sum((-2, -1)), 1)
    ct = _entropy(joint.sum(-1), total)
    mr = _entropy(joint.sum(-2), total)
    both = _entropy(joint.reshape(*joint.shape[:-2], joint.shape[-2] * joint.shape[-1]), total)
    shared: Counts = 2 * np.maximum(ct + mr - both, 0) / np.maximum(ct + mr, 1e-9)
    return shared


def _entropy(counts: Counts, total: Counts) -> Counts:
    return cast(Counts, special.entr(counts / total[..., None]).sum(-1))


class Scorer:
    """Score poses on the coarse grids, always over the same MR voxels."""

    def __init__(self, ct: CoarseCt, mr: CoarseMr) -> None:
        self._ct = ct.body
        self._mr_grid = mr.field.grid
        self._seen = ~np.isnan(mr.field.array)
        self._foreground = mr.foreground
        self._mr_class = np.digitize(mr.field.array, mr_edges(mr, FINE_MR_CLASSES))

    def __call__(self, transform: RigidTransform) -> OverlapScore:
        """Score a transform from CT world points to MR world points."""
        hu = sample_at(self._ct, self._mr_grid, transform.inverse())
        common = self._seen & ~np.isnan(hu)
        overlap = float(common[self._foreground].mean())
        rows, columns = len(FINE_CT_EDGES_HU) + 1, FINE_MR_CLASSES
        pair = np.digitize(hu[common], FINE_CT_EDGES_HU) * columns + self._mr_class[common]
        joint = np.bincount(pair, minlength=rows * columns).reshape(rows, columns)
        return OverlapScore(overlap * float(symmetric_uncertainty(joint.astype(float))), overlap)


def sample_at(image: Volume, grid: Grid, transform: RigidTransform) -> Image:
    """Sample ``image`` linearly at ``transform`` of each point of ``grid``; NaN outside it."""
    linear, offset = grid.index_to_world()
    first = image.grid.to_index(transform.apply(offset[None]))[0]
    steps = image.grid.to_index(transform.apply(linear.T + offset)) - first
    values = ndimage.affine_transform(
        image.array, steps.T, first, grid.shape, order=1, mode="constant", cval=np.nan,
        prefilter=False,
    )  # fmt: skip
    return cast(Image, values)
