"""What phantoms can outline, by name: which voxels of a painted patient are which organ.

A voxel belongs to whatever was painted last, its owner. An organ is made of owners, of
shapes, or of both; unlike owners, organs may overlap.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from oarseg.phantom.patient.head import SIDES
from oarseg.phantom.patient.shapes import Ellipsoid, Half, Shape, Stack
from oarseg.phantom.patient.structures import VOLUMES_CM3
from oarseg.phantom.scanner import Slab

Mask = NDArray[np.bool_]
Window = tuple[slice, slice, slice]
CHEST_ORGANS = frozenset({"Lung_L", "Lung_R", "Heart", "GTV_Lung"})
# What nobody has painted as an organ of its own.
OTHER = ""


@dataclass(frozen=True)
class Term:
    """Voxels of some owners, within a shape if there is one."""

    owners: tuple[str, ...]
    inside: Shape | None = None

    def found(self, slab: Slab, numbers: Mapping[str, int]) -> tuple[Window, Mask] | None:
        """The window of the slab that it can lie in, and its voxels there."""
        z, y, x = (slice(0, count) for count in slab.labels.shape)
        window = slab.window(self.inside.box) if self.inside else (z, y, x)
        if window is None:
            return None
        owned = np.zeros(256, bool)
        owned[[numbers[owner] if owner else 0 for owner in self.owners]] = True
        mask: Mask = owned[slab.labels[window]] & (slab.skin[window] < 0)
        if self.inside:
            xyz = (coordinate[window] for coordinate in slab.coordinates)
            mask &= self.inside.distance(*xyz) < 0
        return window, mask


@dataclass(frozen=True)
class PhantomOrgan:
    """How a phantom outlines one organ.

    Attributes:
        terms: its voxels are those of any of them.
        volume_cm3: about; of organs that exclude each other the smaller takes the voxel.
    """

    terms: tuple[Term, ...]
    volume_cm3: float

    @property
    def shaped(self) -> bool:
        """Whether a shape, too, decides what belongs to it."""
        return any(term.inside for term in self.terms)

    @property
    def owners(self) -> frozenset[str]:
        """Everything that has to be painted for it."""
        return frozenset(owner for term in self.terms for owner in term.owners if owner)

    def mask(self, slab: Slab, numbers: Mapping[str, int]) -> Mask:
        """The organ's voxels of a painted slab."""
        mask = np.zeros(slab.labels.shape, bool)
        for term in self.terms:
            if found := term.found(slab, numbers):
                mask[found[0]] |= found[1]
        return mask


def _made_of(*owners: str, cm3: float) -> PhantomOrgan:
    return PhantomOrgan((Term(owners),), cm3)


@lru_cache(maxsize=1)
def known_organs() -> dict[str, PhantomOrgan]:
    """Every organ that phantoms know, by name."""
    finer = {"Eye_AL": ("Lens_L",), "Eye_AR": ("Lens_R",)}
    known = {
        name: _made_of(name, *finer.get(name, ()), cm3=volumes[1])
        for name, volumes in VOLUMES_CM3.items()
    }
    for name, s in SIDES:
        known |= _paired(name, s)
    return known | _brain() | _throat() | _chest()


def _paired(name: str, s: float) -> dict[str, PhantomOrgan]:
    """Organs of one side of the head."""
    lobe = Ellipsoid((s * 48, -8, 20), (27, 42, 26))
    petrous = Ellipsoid((s * 32, -3, 0), (11, 6.5, 6.5))
    ear = [f"{part}_{name}" for part in ("Cochlea", "Canal_Auditory")]
    near = [f"{part}_{name}" for part in ("Vestibule", "Cavity_Tympanic", "Tube_Eustachian")]
    half = Half((-s, 0.0, 0.0), 0.0)
    joint = Ellipsoid((s * 50, -13, -14), (9, 9, 8))
    single = {
        "Hippocampus": 4.5, "Lens": 0.25, "Canal_Auditory": 0.2, "Cavity_Tympanic": 0.5,
        "Vestibule": 0.18, "Tube_Eustachian": 0.2, "Mastoid": 14.0, "Lung": 1700.0,
    }  # fmt: skip
    return {
        **{f"{stem}_{name}": _made_of(f"{stem}_{name}", cm3=v) for stem, v in single.items()},
        f"Eye_{name}": _made_of(f"Eye_A{name}", f"Eye_P{name}", f"Lens_{name}", cm3=9.0),
        f"Lobe_Temporal_{name}": PhantomOrgan(
            (Term(("Brain", f"Hippocampus_{name}"), lobe),), 100.0
        ),
        f"Ear_Middle_{name}": PhantomOrgan(
            (Term((OTHER, *ear, *near), petrous), Term(tuple(ear))), 1.4
        ),
        f"Ear_Internal_{name}": _made_of(f"Cochlea_{name}", f"Vestibule_{name}", cm3=0.35),
        f"Mandible_{name}": PhantomOrgan((Term(("Bone_Mandible",), half),), 45.0),
        f"Joint_TM_{name}": PhantomOrgan(
            (Term((OTHER, "Bone_Mandible"), joint), Term((f"Joint_TM_{name}",))), 2.0
        ),
    }


def _brain() -> dict[str, PhantomOrgan]:
    inside = ("Brain", "Brainstem", "OpticChiasm", "Hippocampus_L", "Hippocampus_R")
    return {"Brain": _made_of(*inside, cm3=1120.0)}


def _throat() -> dict[str, PhantomOrgan]:
    larynx = Stack(
        (
            (-129.0, 0.0, -29.0, 14.0, 13.0, 12.0),
            (-115.0, 0.0, -31.0, 19.0, 19.0, 13.0),
            (-100.0, 0.0, -31.0, 20.0, 22.0, 13.0),
            (-86.0, 0.0, -29.0, 18.0, 18.0, 9.0),
        )
    )
    wall = Stack(
        (
            (-126.0, 0.0, -15.0, 14.5, 5.0, 6.0),
            (-100.0, 0.0, -19.0, 16.0, 5.5, 7.0),
            (-75.0, 0.0, -18.0, 16.0, 5.0, 7.0),
            (-40.0, 0.0, -17.0, 16.0, 5.0, 7.0),
            (-24.0, 0.0, -22.0, 15.0, 6.0, 10.0),
        )
    )
    voice = ("Larynx_SG", "Glottis", "Arytenoid")
    return {
        "Larynx": PhantomOrgan((Term((OTHER, "Airway", *voice), larynx), Term(voice)), 54.0),
        "Musc_Constrict": PhantomOrgan((Term((OTHER,), wall),), 19.0),
        "Trachea": PhantomOrgan((Term(("Airway",), Half((0.0, 0.0, 1.0), -129.0)),), 37.0),
    }


def _chest() -> dict[str, PhantomOrgan]:
    return {
        "Heart": _made_of("Heart", cm3=800.0),
        "Esophagus": _made_of("Esophagus_S", "Esophagus_Lower", cm3=18.0),
        "SpinalCord_Whole": _made_of("SpinalCord", "SpinalCord_Lower", cm3=29.0),
        "GTVp": _made_of("GTVp", cm3=40.0),
        "GTVn": _made_of("GTVn", cm3=28.0),
        "GTV_Lung": _made_of("GTV_Lung", cm3=30.0),
    }
