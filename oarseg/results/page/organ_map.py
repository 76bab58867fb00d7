"""All organs of a case as one array of codes, also where they overlap."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oarseg.challenges.structures import Organ
from oarseg.errors import InputError
from oarseg.imaging.orientation import Turn
from oarseg.imaging.volume import Shape
from oarseg.labels.boxes import Box, enclosing_box, label_boxes
from oarseg.labels.open_masks import Masks
from oarseg.results.page.greys import COMPRESSION

MOST_CODES = 256


@dataclass(frozen=True, eq=False)
class OrganMap:
    """Organs at the image's own resolution, cropped to what there is of them.

    Attributes:
        start: first voxel of the box, (z, y, x).
        codes: (z, y, x); 0 where there is no organ.
        members: organ → the codes that it consists of.
        boxes: organ → its box in the whole image; None for one without a voxel.
    """

    start: Shape
    codes: NDArray[np.uint8]
    members: tuple[tuple[int, ...], ...]
    boxes: tuple[Box | None, ...]

    def packed(self) -> bytes:
        """Return the codes, deflated."""
        return zlib.compress(np.ascontiguousarray(self.codes).tobytes(), COMPRESSION)


def map_organs(masks: Masks, organs: Sequence[Organ], shape: Shape, turn: Turn) -> OrganMap:
    """Give each combination of organs that occurs a code.

    Args:
        masks: one side of a case.
        organs: to map.
        shape: of the image as it is stored.
        turn: from the stored image to the one that is shown.

    Raises:
        InputError: a mask cannot be read, or more combinations occur than can be told apart.
    """
    codes = np.zeros(shape, np.uint8)
    combinations: list[frozenset[int]] = [frozenset()]
    for number, organ in enumerate(organs):
        mask = masks.mask(organ)
        if mask is None or mask.voxels == 0:
            continue
        part = codes[
            tuple(slice(a, a + n) for a, n in zip(mask.start, mask.array.shape, strict=True))
        ]
        inside = part[mask.array]
        part[mask.array] = _joined_codes(inside, number, combinations)[inside]
    upright = turn.array(codes)
    by_code = label_boxes(upright, len(combinations) - 1)
    members = [
        tuple(code for code, combined in enumerate(combinations) if number in combined)
        for number in range(len(organs))
    ]
    boxes = [enclosing_box(by_code[code - 1] for code in codes_of) for codes_of in members]
    whole = enclosing_box(boxes) or (slice(0, 1),) * 3
    start = (whole[0].start, whole[1].start, whole[2].start)
    return OrganMap(start, upright[whole], tuple(members), tuple(boxes))


def _joined_codes(
    inside: NDArray[np.uint8], number: int, combinations: list[frozenset[int]]
) -> NDArray[np.uint8]:
    """Return code → the code with one organ more, adding those that are new."""
    table = np.zeros(256, np.uint8)
    for code in np.flatnonzero(np.bincount(inside, minlength=256)):
        combined = combinations[code] | {number}
        if combined not in combinations:
            combinations.append(combined)
        if len(combinations) > MOST_CODES:
            raise InputError(
                f"the organs overlap in more than {MOST_CODES - 1} ways, too many for a page"
            )
        table[code] = combinations.index(combined)
    return table
