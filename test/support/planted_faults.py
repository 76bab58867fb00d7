"""Faults of a label map that a physicist would see, planted into a good one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from oarseg.challenges.challenge import Challenge
from oarseg.imaging.volume import Volume

Labels = NDArray[np.uint8]
ISLAND = 20


def swap_parotids(labels: Labels, label: Callable[[str], int]) -> None:
    """Give each parotid the other's label."""
    left, right = labels == label("Parotid_L"), labels == label("Parotid_R")
    labels[left], labels[right] = label("Parotid_R"), label("Parotid_L")


def plant_island(labels: Labels, label: Callable[[str], int]) -> None:
    """Add 20 voxels of the left parotid far from it, in background."""
    z, _, x = (int(v) for v in np.argwhere(labels == label("Parotid_L")).mean(0))
    # In air or muscle behind the neck, well inside the image.
    spot = labels[z : z + 2, -12:-10, x : x + 5]
    assert spot.size == ISLAND
    assert not spot.any()
    spot[...] = label("Parotid_L")


def cut_cord(labels: Labels, label: Callable[[str], int]) -> None:
    """Let the cord go on to the first slice, as the field of view would cut it."""
    cord = labels == label("SpinalCord")
    low = int(np.flatnonzero(cord.any(axis=(1, 2)))[0])
    below = labels[:low]
    below[(below == 0) & cord[low]] = label("SpinalCord")


def double_mandible(labels: Labels, label: Callable[[str], int]) -> None:
    """Thicken the mandible into background until it has twice its volume."""
    mandible = labels == label("Bone_Mandible")
    wanted = 2 * int(mandible.sum())
    distance = ndimage.distance_transform_edt(~mandible)
    distance[labels > 0] = np.where(mandible[labels > 0], 0, np.inf)
    nearest = np.argsort(distance, axis=None, kind="stable")[:wanted]
    labels.reshape(-1)[nearest] = label("Bone_Mandible")


def empty_slice(labels: Labels, label: Callable[[str], int]) -> None:
    """Empty the slice through the middle of the brainstem."""
    planes = np.flatnonzero((labels == label("Brainstem")).any(axis=(1, 2)))
    plane = labels[planes[len(planes) // 2]]
    plane[plane == label("Brainstem")] = 0


# Fault → what it does, the check that it is to raise, and the organs.
FAULTS: dict[str, tuple[Callable[[Labels, Callable[[str], int]], None], str, tuple[str, ...]]] = {
    "swapped parotids": (swap_parotids, "side", ("Parotid_L", "Parotid_R")),
    "an island of 20 voxels": (plant_island, "parts", ("Parotid_L",)),
    "a cord cut by the field": (cut_cord, "cut", ("SpinalCord",)),
    "a doubled mandible": (double_mandible, "volume", ("Bone_Mandible",)),
    "an emptied slice": (empty_slice, "gap", ("Brainstem",)),
}


def with_fault(labels: Volume, fault: str, challenge: Challenge) -> Volume:
    """Return a copy of a label map with one of ``FAULTS``."""
    array = np.ascontiguousarray(labels.array).copy()
    FAULTS[fault][0](array, lambda name: challenge.structure(name).label)
    return labels.with_array(array)
