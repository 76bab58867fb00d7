"""Overlapping organs ↔ labels that exclude each other.

A voxel that several organs claim gets the label whose organs are just these. Where no
label is, the one that differs in the fewest organs, and among equals the one with the
smallest organ; so, where organs may not overlap at all, the smaller organ wins: small
ones lose their meaning when a neighbour takes voxels from them.
"""

from __future__ import annotations

from collections.abc import Container, Mapping

import numpy as np
from numpy.typing import NDArray

from oarseg.challenges.challenge import Challenge
from oarseg.errors import InputError

Codes = NDArray[np.uint64]
MOST = 64


class Exclusive:
    """The rule for one challenge.

    A voxel's claims are a code whose bit k stands for the challenge's organ k.

    Args:
        challenge: its organs and labels.
        sizes: how large each organ is, by name, in any unit; missing ones are largest.
        known: the organs that the claims tell of; None for all. Labels that differ in
            others only are told apart by having the fewest of these.

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
        if len(organs) > MOST:
            raise InputError(
                f"challenge {challenge.name}: at most {MOST} organs can share voxels, "
                f"found {len(organs)}"
            )
        self._sizes = [sizes.get(organ.name, float("inf")) for organ in organs]
        self._members = {
            structure.label: frozenset(
                k for k, organ in enumerate(organs) if structure.label in organ.labels
            )
            for structure in challenge.structures
        }
        self._told = frozenset(
            k for k, organ in enumerate(organs) if known is None or organ.name in known
        )
        self._found = {0: 0}

    def label(self, code: int) -> int:
        """The label for one code of claims."""
        if code not in self._found:
            self._found[code] = self._find(_bits(code))
        return self._found[code]

    def fits(self, code: int) -> bool:
        """Whether a label stands for just these claims."""
        claims = _bits(code)
        return code == 0 or any(claims == m & self._told for m in self._members.values())

    def _find(self, claims: frozenset[int]) -> int:
        def worse(label: int) -> tuple[int, int, float, int]:
            members = self._members[label]
            smallest = min(self._sizes[k] for k in members & claims)
            told = len((members & self._told) ^ claims)
            return told, len(members - self._told), smallest, -label

        return min((k for k, members in self._members.items() if members & claims), key=worse)

    def labels(self, codes: Codes) -> tuple[NDArray[np.uint8], int]:
        """Label map of an array of codes, and how many voxels no label fits exactly."""
        found, inverse = np.unique(codes, return_inverse=True)
        values = np.array([self.label(int(code)) for code in found], np.uint8)
        doubtful = np.array([not self.fits(int(code)) for code in found])
        inverse = inverse.reshape(codes.shape)
        return values[inverse], int(np.count_nonzero(doubtful[inverse]))


def _bits(code: int) -> frozenset[int]:
    return frozenset(k for k in range(MOST) if code >> k & 1)
