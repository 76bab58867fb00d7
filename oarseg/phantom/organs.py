"""The organs that phantoms know: which voxels of a painted patient are which organ.

A voxel belongs to its owner, the part painted last. An organ consists of owners, clipped
by shapes or not; unlike owners, organs may overlap.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from oarseg.imaging.arrays import Mask
from oarseg.phantom.patient.head import SIDES
from oarseg.phantom.patient.shapes import Ellipsoid, HalfSpace, Solid, Stack
from oarseg.phantom.patient.structures import VOLUMES_CM3
from oarseg.phantom.scanner import Slab

Window = tuple[slice, slice, slice]
CHEST_ORGANS = frozenset({"Lung_L", "Lung_R", "Heart", "GTV_Lung"})
# The owner of voxels that no numbered part owns.
OTHER = ""


@dataclass(frozen=True)
class Term:
    """Voxels of some owners, clipped by a shape if there is one."""

    owners: tuple[str, ...]
    inside: Solid | None = None

    def select(self, slab: Slab, numbers: Mapping[str, int]) -> tuple[Window, Mask] | None:
        """Return the window of the slab that the term may lie in, and its mask there."""
        z, y, x = (slice(0, count) for count in slab.owners.shape)
        window = slab.window(self.inside.box) if self.inside else (z, y, x)
        if window is None:
            return None
        owned = np.zeros(256, bool)
        owned[[numbers[owner] if owner else 0 for owner in self.owners]] = True
        mask: Mask = owned[slab.owners[window]] & (slab.skin[window] < 0)
        if self.inside:
            xyz = (coordinate[window] for coordinate in slab.coordinates)
            mask &= self.inside.distance(*xyz) < 0
        return window, mask


@dataclass(frozen=True)
class PhantomOrgan:
    """An organ as phantoms outline it.

    Attributes:
        terms: their union is the organ.
        volume_cm3: typical volume; where organs exclude each other, the smaller one takes
            the voxel.
    """

    terms: tuple[Term, ...]
    volume_cm3: float

    @property
    def shaped(self) -> bool:
        """Whether a shape clips any of its owners."""
        return any(term.inside for term in self.terms)

    @property
    def owners(self) -> frozenset[str]:
        """The owners that must be painted for it."""
        return frozenset(owner for term in self.terms for owner in term.owners if owner)

    def mask(self, slab: Slab, numbers: Mapping[str, int]) -> Mask:
        """Return the organ's mask of a painted slab."""
        mask = np.zeros(slab.owners.shape, bool)
        for term in self.terms:
            if selected := term.select(slab, numbers):
                mask[selected[0]] |= selected[1]
        return mask


def _of_owners(*owners: str, cm3: float) -> PhantomOrgan:
    return PhantomOrgan((Term(owners),), cm3)


@lru_cache(maxsize=1)
def known_organs() -> dict[str, PhantomOrgan]:
    """Return every organ that phantoms know, by name."""
    lenses = {"Eye_AL": ("Lens_L",), "Eye_AR": ("Lens_R",)}
    known = {
        name: _of_owners(name, *lenses.get(name, ()), cm3=volumes[1])
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
    half = HalfSpace((-s, 0.0, 0.0), 0.0)
    joint = Ellipsoid((s * 50, -13, -14), (9, 9, 8))
    single = {
        "Hippocampus": 4.5, "Lens": 0.25, "Canal_Auditory": 0.2, "Cavity_Tympanic": 0.5,
        "Vestibule": 0.18, "Tube_Eustachian": 0.2, "Mastoid": 14.0, "Lung": 1700.0,
    }  # fmt: skip
    return {
        **{f"{stem}_{name}": _of_owners(f"{stem}_{name}", cm3=v) for stem, v in single.items()},
        f"Eye_{name}": _of_owners(f"Eye_A{name}", f"Eye_P{name}", f"Lens_{name}", cm3=9.0),
        f"Lobe_Temporal_{name}": PhantomOrgan(
            (Term(("Brain", f"Hippocampus_{name}"), lobe),), 100.0
        ),
        f"Ear_Middle_{name}": PhantomOrgan(
            (Term((OTHER, *ear, *near), petrous), Term(tuple(ear))), 1.4
        ),
        f"Ear_Internal_{name}": _of_owners(f"Cochlea_{name}", f"Vestibule_{name}", cm3=0.35),
        f"Mandible_{name}": PhantomOrgan((Term(("Bone_Mandible",), half),), 45.0),
        f"Joint_TM_{name}": PhantomOrgan(
            (Term((OTHER, "Bone_Mandible"), joint), Term((f"Joint_TM_{name}",))), 2.0
        ),
    }


def _brain() -> dict[str, PhantomOrgan]:
    inside = ("Brain", "Brainstem", "OpticChiasm", "Hippocampus_L", "Hippocampus_R")
    return {"Brain": _of_owners(*inside, cm3=1120.0)}


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
        "Trachea": PhantomOrgan((Term(("Airway",), HalfSpace((0.0, 0.0, 1.0), -129.0)),), 37.0),
    }


def _chest() -> dict[str, PhantomOrgan]:
    return {
        "Heart": _of_owners("Heart", cm3=800.0),
        "Esophagus": _of_owners("Esophagus_S", "Esophagus_Lower", cm3=18.0),
        "SpinalCord_Whole": _of_owners("SpinalCord", "SpinalCord_Lower", cm3=29.0),
        "GTVp": _of_owners("GTVp", cm3=40.0),
        "GTVn": _of_owners("GTVn", cm3=28.0),
        "GTV_Lung": _of_owners("GTV_Lung", cm3=30.0),
    }
