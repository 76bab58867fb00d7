"""Merge overlapping organs into mutually exclusive labels.

A voxel that several organs claim gets the label of exactly these organs. If there is none,
it gets the label that differs in the fewest organs; among equals, the one with the smallest
organ. Where organs may not overlap at all, the smaller one therefore wins: a small organ
suffers most from voxels lost to a neighbour.
"""

from __future__ import annotations

from collections.abc import Container, Mapping

import numpy as np
from numpy.typing import NDArray

from oarseg.challenges.challenge import Challenge
from oarseg.errors import InputError

Codes = NDArray[np.uint64]
MAX_ORGANS = 64


class Exclusive:
    """Choose the label of a voxel from the organs that claim it.

    The claims of a voxel are a code whose bit k stands for the challenge's organ k.

    Args:
        challenge: organs and labels.
        sizes: size of each organ by name, in any unit; missing ones count as largest.
        known: the organs that are labelled in the case; None for all. Among labels that
            differ only in other organs, the one with the fewest of these is taken.

    Raises:
        InputError: more than 64 organs.
    """

    def __init__(
        self,
        challenge: Challenge,
        sizes: Mapping[str, float],
        *,
        known: Container[str] | None = None,
    ) -> None:
        organs = challenge.organs
        if len(organs) > MAX_ORGANS:
            raise InputError(
                f"challenge {challenge.name}: at most {MAX_ORGANS} organs can share voxels, "
                f"found {len(organs)}"
            )
        self._sizes = [sizes.get(organ.name, float("inf")) for organ in organs]
        self._members = {
            structure.label: frozenset(
                k for k, organ in enumerate(organs) if structure.label in organ.labels
            )
            for structure in challenge.structures
        }
        self._known = frozenset(
            k for k, organ in enumerate(organs) if known is None or organ.name in known
        )
        self._label_of_code = {0: 0}

    def label(self, code: int) -> int:
        """Return the label for a code of claims."""
        if code not in self._label_of_code:
            self._label_of_code[code] = self._choose_label(_split_bits(code))
        return self._label_of_code[code]

    def fits(self, code: int) -> bool:
        """Whether a label stands for exactly these claims."""
        claims = _split_bits(code)
        return code == 0 or any(claims == m & self._known for m in self._members.values())

    def _choose_label(self, claims: frozenset[int]) -> int:
        def badness(label: int) -> tuple[int, int, float, int]:
            members = self._members[label]
            smallest = min(self._sizes[k] for k in members & claims)
            differing = len((members & self._known) ^ claims)
            return differing, len(members - self._known), smallest, -label

        return min((k for k, members in self._members.items() if members & claims), key=badness)

    def labels(self, codes: Codes) -> tuple[NDArray[np.uint8], int]:
        """Return the label map of an array of codes, and how many voxels no label fits exactly."""
        found, inverse = np.unique(codes, return_inverse=True)
        values = np.array([self.label(int(code)) for code in found], np.uint8)
        doubtful = np.array([not self.fits(int(code)) for code in found])
        inverse = inverse.reshape(codes.shape)
        return values[inverse], int(np.count_nonzero(doubtful[inverse]))


def _split_bits(code: int) -> frozenset[int]:
    return frozenset(k for k in range(MAX_ORGANS) if code >> k & 1)
