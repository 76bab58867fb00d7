"""Label a phantom as a challenge does."""

from __future__ import annotations

import numpy as np

from oarseg.challenges.challenge import Challenge, Organ
from oarseg.challenges.overlaps import Exclusive
from oarseg.errors import InputError
from oarseg.imaging.arrays import Labels
from oarseg.phantom.organs import CHEST_ORGANS, PhantomOrgan, known_organs
from oarseg.phantom.scanner import Slab


class Labelling:
    """The organs that a challenge outlines, as phantoms know them.

    Attributes:
        owners: owner of a part → the number painted for it.
        of_chest: whether any of the organs lies in the chest.

    Raises:
        InputError: the challenge has no labels, or an organ that phantoms do not know.
    """

    def __init__(self, challenge: Challenge) -> None:
        if not challenge.structures:
            raise InputError(
                f"challenge {challenge.name} has no labels of its own; pass --label-table"
            )
        organs = {organ.name: _known_organ(organ) for organ in challenge.organs}
        needed = frozenset().union(*(organ.owners for organ in organs.values()))
        self.owners = {name: number for number, name in enumerate(sorted(needed), start=1)}
        self.of_chest = any(organ.phantom_name in CHEST_ORGANS for organ in challenge.organs)
        self._organs = list(organs.values())
        sizes = {name: organ.volume_cm3 for name, organ in organs.items()}
        self._rule = Exclusive(challenge, sizes) if challenge.overlapping else None
        # The smaller organ takes the voxel, so it is painted last.
        pairs = zip((organ.labels[0] for organ in challenge.organs), self._organs, strict=True)
        self._falling = sorted(pairs, key=lambda pair: -pair[1].volume_cm3)

    def label_slab(self, slab: Slab) -> Labels:
        """Return the challenge's label map of a painted slab."""
        if self._rule is not None:
            codes = np.zeros(slab.owners.shape, np.uint64)
            for bit, organ in enumerate(self._organs):
                codes[organ.mask(slab, self.owners)] |= np.uint64(1 << bit)
            return self._rule.labels(codes)[0]
        if not any(organ.shaped for organ in self._organs):
            return self._label_of_owner()[slab.owners]
        labels = np.zeros(slab.owners.shape, np.uint8)
        for label, organ in self._falling:
            labels[organ.mask(slab, self.owners)] = label
        return labels

    def _label_of_owner(self) -> Labels:
        """Look-up table from owners' numbers to labels, where no shape decides."""
        table = np.zeros(256, np.uint8)
        for label, organ in self._falling:
            table[[self.owners[owner] for owner in organ.owners]] = label
        return table


def _known_organ(organ: Organ) -> PhantomOrgan:
    known = known_organs()
    if organ.phantom_name not in known:
        raise InputError(
            f"organ {organ.name!r}: phantoms do not know {organ.phantom_name!r}; set its "
            f"key 'phantom' to one of {', '.join(sorted(known))}"
        )
    return known[organ.phantom_name]
