"""Draw parts that only some challenges need: hippocampi, ears, jaw joints, tumours, nodes.

They are painted over the general anatomy, each only if the challenge needs its organ.
Their draws have names of their own, so that they change nothing else.
"""

from __future__ import annotations

from collections.abc import Container

from oarseg.imaging.volume import Vector
from oarseg.phantom.patient.head import SIDES
from oarseg.phantom.patient.parts import Draws, Part, fill, plus
from oarseg.phantom.patient.shapes import Ellipsoid, Rippled, Tube, Union


def draw_extra_parts(d: Draws, owners: Container[str]) -> tuple[Part, ...]:
    """Draw the extra parts that have one of these owners, in painting order."""
    every = [*_temporal(d), *_ears(d), *_tumours(d)]
    return tuple(part for part in every if part.owner in owners)


def _temporal(d: Draws) -> list[Part]:
    """Draw the hippocampi and the temporomandibular joints."""
    parts: list[Part] = []
    for name, s in SIDES:
        shift, size = d.shift("Hippocampus" + name), d.growth("Hippocampus" + name)
        path = [plus(p, shift) for p in ((s * 24, -14, 19), (s * 29, 0, 21), (s * 27, 16, 26))]
        horn = Tube(tuple(path), (6.0 * size, 6.5 * size, 5.0 * size))
        parts.append(fill(horn, "hippocampus", organ="Hippocampus_" + name))
        dx, dy, dz = d.shift("Bone_Mandible")
        disc = Ellipsoid((s * 50 + dx, -13 + dy, -11 + dz), (8.5, 8.0, 3.2))
        parts.append(fill(disc, "joint", organ="Joint_TM_" + name))
    return parts


def _ears(d: Draws) -> list[Part]:
    """Draw what lies in the petrous bone, besides the cochlea."""
    parts: list[Part] = []
    for name, s in SIDES:
        move = d.shift("Ear" + name, 0.5)

        def at(x: float, y: float, z: float, *, s: float = s, move: Vector = move) -> Vector:
            return plus((s * x, y, z), move)

        canal = Tube((at(17, 1, 3), at(22.5, -3.5, 2)), (2.4, 2.1))
        vestibule = Ellipsoid(at(31, 1.5, 2), (3.4, 3.4, 3.6))
        drum = Ellipsoid(at(40, -2, -3), (3.8, 5.0, 6.0))
        tube = Tube((at(37, -7, -5), at(28, -17, -8)), (2.0, 1.8))
        parts += [
            fill(canal, "csf", organ="Canal_Auditory_" + name),
            fill(vestibule, "csf", organ="Vestibule_" + name),
            fill(drum, "air", organ="Cavity_Tympanic_" + name),
            fill(tube, "mucosa", organ="Tube_Eustachian_" + name),
        ]
    return parts


def _tumours(d: Draws) -> list[Part]:
    """Draw a tumour of the nasopharynx with its nodes, and one of the lung."""
    side = 1.0 if d.chance("GTVp/side", 0.5) else -1.0
    size = d.growth("GTVp", 0.3)
    middle = plus((side * 4, -25, -18), d.shift("GTVp", 2.0))
    lobe = plus(middle, (side * 12, 4, -9))
    mass = Union(
        (
            Ellipsoid(middle, (23 * size, 18 * size, 17 * size)),
            Ellipsoid(lobe, (14 * size, 14 * size, 15 * size)),
        ),
        blend=8.0,
    )
    parts = [fill(Rippled(mass, 1.2, 14.0), "tumour", organ="GTVp"), *_nodes(d, side)]
    s = 1.0 if d.chance("GTV_Lung/side", 0.5) else -1.0
    radius = 19.0 * d.growth("GTV_Lung", 0.5)
    centre = plus((s * 74, 8, -330), d.shift("GTV_Lung", 9.0))
    lump = Ellipsoid(centre, (radius * 1.1, radius, radius * 0.95))
    parts.append(fill(Rippled(lump, 1.5, 17.0), "tumour", organ="GTV_Lung"))
    return parts


def _nodes(d: Draws, side: float) -> list[Part]:
    """Draw nodes along the veins, at least one of them on the tumour's side."""
    parts: list[Part] = []
    for name, s in SIDES:
        for level, (x, y, z) in enumerate(((41, -2, -62), (39, -7, -86), (37, -9, -110))):
            key = f"GTVn{name}{level}"
            sure = level == 0 and s == side
            if sure or d.chance(key, 0.4):
                node = d.blob(key, (s * x, y, z), (10.0, 11.0, 13.0))
                parts.append(fill(node, "node", organ="GTVn"))
    return parts
