"""Phantoms of any challenge: its images and its labels, of one and the same patient.

The patient of a seed is HaN-Seg's. What a challenge outlines besides is painted over it,
a second CT is taken with contrast, and challenges of the chest look further down.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from oarseg.challenges.challenge import Challenge, Socket
from oarseg.challenges.overlaps import Exclusive
from oarseg.errors import InputError
from oarseg.imaging.volume import Volume
from oarseg.phantom.case import (
    CHEST_SIZES,
    PhantomSpec,
    Truth,
    ct_grid,
    ct_to_mr,
    mr_grid,
    presence_of,
    truth_of,
)
from oarseg.phantom.organs import CHEST, PhantomOrgan, organs
from oarseg.phantom.patient import extras
from oarseg.phantom.patient.anatomy import Anatomy, build
from oarseg.phantom.patient.parts import Draws
from oarseg.phantom.scanner import CtScanner, Labels, MrScanner, Slab, View

CONTRAST_STREAM = 111


@dataclass(frozen=True)
class ProfileCase:
    """A challenge's case.

    Attributes:
        images: channel name → image.
        labels: label map on the reference's grid.
        truth: what is known of it.
    """

    images: dict[str, Volume]
    labels: Volume
    truth: Truth


class Profile:
    """What a challenge asks of a phantom.

    Raises:
        InputError: an organ or an image that phantoms do not know.
    """

    def __init__(self, challenge: Challenge) -> None:
        if not challenge.structures:
            raise InputError(
                f"challenge {challenge.name} has no labels of its own; pass --label-table"
            )
        known = organs()
        self.challenge = challenge
        self._organs: list[PhantomOrgan] = []
        for organ in challenge.organs:
            if organ.phantom_name not in known:
                raise InputError(
                    f"organ {organ.name!r}: phantoms do not know {organ.phantom_name!r}; set its "
                    f"key 'phantom' to one of {', '.join(sorted(known))}"
                )
            self._organs.append(known[organ.phantom_name])
        needed = frozenset().union(*(organ.owners for organ in self._organs))
        self.owners = {name: number for number, name in enumerate(sorted(needed), start=1)}
        self.of_chest = any(organ.phantom_name in CHEST for organ in challenge.organs)
        names = [organ.name for organ in challenge.organs]
        sizes = {n: o.volume_cm3 for n, o in zip(names, self._organs, strict=True)}
        self._rule = Exclusive(challenge, sizes) if challenge.overlapping else None

    def labels(self, slab: Slab) -> Labels:
        """The challenge's labels of a painted slab."""
        if self._rule is None:
            return self._painted(slab)
        codes = np.zeros(slab.labels.shape, np.uint64)
        for bit, organ in enumerate(self._organs):
            codes[organ.mask(slab, self.owners)] |= np.uint64(1 << bit)
        found: NDArray[np.uint8] = self._rule.labels(codes)[0]
        return found

    def _painted(self, slab: Slab) -> Labels:
        """Organs that exclude each other: the smaller takes the voxel."""
        result = np.zeros(slab.labels.shape, np.uint8)
        pairs = zip(self.challenge.organs, self._organs, strict=True)
        for facts, organ in sorted(pairs, key=lambda pair: -pair[1].volume_cm3):
            result[organ.mask(slab, self.owners)] = facts.labels[0]
        return result


def make_case(spec: PhantomSpec, challenge: Challenge) -> ProfileCase:
    """Make a challenge's case of a seed and size.

    Raises:
        InputError: an organ or an image that phantoms do not know.
    """
    profile = Profile(challenge)
    anatomy = build(spec.seed)
    extra = extras.parts(Draws(spec.seed), profile.owners)
    anatomy = replace(anatomy, parts=(*anatomy.parts, *extra))
    sizes = CHEST_SIZES if profile.of_chest else None
    grid = ct_grid(spec, anatomy, chest_sizes=sizes)
    view = View(anatomy, grid, numbers=profile.owners)
    scanner = CtScanner.of(spec.seed, anatomy)
    several = sum(socket.modality == "CT" for socket in challenge.sockets) > 1
    if several:
        scanner = replace(scanner, contrast=False)
    ct, labels = scanner.scan(view, describe=profile.labels)
    images = {challenge.reference.channel: ct}
    transform = ct_to_mr(spec, anatomy)
    for socket in challenge.sockets:
        if socket.modality == "MR" and spec.with_mr:
            images[socket.channel] = _mr(spec, anatomy, socket)
        elif socket.modality == "CT" and not socket.reference:
            enhanced = replace(scanner, contrast=True, stream=CONTRAST_STREAM)
            images[socket.channel] = enhanced.scan(view)[0]
    mr = next((images.get(s.channel) for s in challenge.sockets if s.modality == "MR"), None)
    presence = presence_of(labels, challenge)
    return ProfileCase(images, labels, truth_of(spec, anatomy, transform, presence, mr))


def _mr(spec: PhantomSpec, anatomy: Anatomy, socket: Socket) -> Volume:
    if socket.placed != "registered":
        raise InputError(f"channel {socket.channel}: phantoms have no MR on the CT's grid")
    transform = ct_to_mr(spec, anatomy)
    grid = mr_grid(spec, anatomy, transform)
    view = View(anatomy, grid, transform.inverse(), spec.neck_flexion_deg)
    return MrScanner.of(spec.seed).scan(view)
