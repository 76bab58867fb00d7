"""Draw the head: skull, brain, orbits, sinuses, nose, jaws, teeth and their structures."""

from __future__ import annotations

import math

from oarseg.imaging.volume import Vector
from oarseg.phantom.patient.parts import Draws, Part, fill, plus, round_rows
from oarseg.phantom.patient.shapes import (
    Arch,
    Cut,
    Ellipsoid,
    Rippled,
    Solid,
    Stack,
    Tube,
    Union,
    Without,
)

SIDES = (("L", 1.0), ("R", -1.0))
FLOOR_NORMAL: Vector = (0.0, -0.2425, -0.9701)  # the anterior and middle skull base


def head_skin(d: Draws) -> tuple[Solid, ...]:
    """Draw the skin of the head, to be merged with the neck's."""
    plump = d.uniform("plump", -1.5, 4.0)
    rows = (
        (-107.0, 0.0, -58.0, 12.0, 18.0, 20.0),
        (-100.0, 0.0, -48.0, 32.0, 42.0, 40.0),
        (-85.0, 0.0, -38.0, 48.0, 57.0, 45.0),
        (-65.0, 0.0, -31.0, 57.0, 66.0, 50.0),
        (-45.0, 0.0, -29.0, 64.0, 68.0, 56.0),
        (-20.0, 0.0, -27.0, 70.0, 67.0, 60.0),
        (0.0, 0.0, -23.0, 71.0, 69.0, 60.0),
        (25.0, 0.0, -19.0, 69.0, 73.0, 60.0),
    )
    face = Stack(tuple((z, x, y, rx + plump, f + 0.4 * plump, b) for z, x, y, rx, f, b in rows))
    shapes: list[Solid] = [Ellipsoid((0, 4, 38), (78, 98, 83)), face, nose(d)]
    for name, s in SIDES:
        lid = d.shift("Eye" + name)
        shapes.append(Ellipsoid(plus((s * 32, -80, 5), lid), (16, 13, 14)))
        shapes.append(Ellipsoid((s * 80, 9, -3), (5, 15, 28)))
    return tuple(shapes)


def nose(d: Draws) -> Tube:
    """Draw the nose; its tip is a landmark."""
    length = d.uniform("nose", -3.0, 4.0)
    return Tube(((0, -86, 6), (0, -97, -14), (0, -105 - length, -29)), (7, 9, 9.5))


def brain_shape() -> Union:
    """Return cerebrum, temporal lobes and cerebellum, which are the same in all patients."""
    cerebrum = Cut(Ellipsoid((0, 3, 50), (64, 82, 55)), FLOOR_NORMAL, -3.9)
    lobes = tuple(Ellipsoid((s * 40, -14, 14), (22, 28, 17)) for _, s in SIDES)
    return Union((cerebrum, *lobes, Ellipsoid((0, 32, -1), (46, 28, 23))), blend=5.0)


def skull_thickness(d: Draws) -> float:
    """Draw the distance from the brain's surface to the skull's outer one, in mm."""
    return d.uniform("skull", 6.8, 9.0)


def face_muscles(d: Draws) -> list[Part]:
    """Draw the muscles of the face and of mastication."""
    parts = [
        fill(Arch((0, -38, -58), (34, 54), 5.0, 24.0, back=0), "muscle"),
        fill(Arch((0, -36, -58), (39, 52), 5.0, 21.0, back=6), "muscle"),
        fill(Ellipsoid((0, -62, -88), (27, 26, 8)), "muscle"),
        fill(Ellipsoid((0, -84, -92), (20, 10, 12)), "muscle"),
    ]
    for name, s in SIDES:
        thin = d.growth("chewing" + name)
        tilt = ((0.97, 0.0, -0.24 * s), (0.0, 1.0, 0.0), (0.24 * s, 0.0, 0.97))
        parts += [
            fill(Ellipsoid((s * 66, -28, 26), (9 * thin, 32, 38)), "muscle"),
            fill(Ellipsoid((s * 54, -36, -44), (7 * thin, 17, 30)), "muscle"),
            fill(Ellipsoid((s * 37, -30, -46), (7 * thin, 13, 25), tilt), "muscle"),
            fill(Ellipsoid((s * 35, -27, -16), (15, 14 * thin, 9)), "muscle"),
            fill(Ellipsoid((s * 32, -84, 5), (16, 6, 13)), "muscle"),
            fill(Tube(((s * 46, -88, 16), (s * 55, -78, 4), (s * 48, -86, -14)), (4, 4, 4)), "fat"),
        ]
    return parts


def skull(d: Draws) -> list[Part]:
    """Draw skull, brain with its fluid spaces, and the dense skull base."""
    brain = brain_shape()
    thick = skull_thickness(d)
    table = ((thick, "cortical"), (thick - 2.2, "marrow"), (3.6, "cortical"), (1.5, "csf"))
    parts = [
        Part(brain, table),
        fill(Rippled(brain, 1.3, 13.0), "grey", organ="Brain"),
        Part(Rippled(brain, 1.6, 17.0), ((-4.5, "white"),), organ="Brain"),
        fill(Ellipsoid((0, -32, 4), (15, 16, 10), boxy=True), "bone"),
        fill(Tube(((0, -16, 12), (0, -3, -20)), (7, 6)), "bone"),
        fill(Ellipsoid((0, -26, 26), (14, 11, 8)), "csf", organ="Brain"),
        fill(Ellipsoid((0, 22, 2), (6, 4, 9)), "ventricle", organ="Brain"),
        fill(Tube(((0, -14, 40), (0, 6, 42)), (2.5, 3)), "ventricle", organ="Brain"),
    ]
    wide = d.uniform("ventricles", 4.0, 8.5)
    for name, s in SIDES:
        horn = ((s * 10, -30, 56), (s * 14, 10, 60), (s * 26, 36, 48), (s * 30, 8, 26))
        horns = Tube(horn, (wide, wide, wide + 1, wide - 2))
        parts.append(fill(horns, "ventricle", organ="Brain"))
        parts.append(fill(Tube(((s * 15, -13, 4), (s * 50, 9, -3)), (7.5, 11)), "dense"))
        mastoid = Ellipsoid((s * 53, 18, -17), (12, 14, 21))
        cells = Rippled(Ellipsoid((s * 53, 18, -15), (8, 10, 15)), 3.5, 7.0)
        organ = "Mastoid_" + name
        parts += [fill(mastoid, "bone", organ=organ), Part(cells, ((-2.0, "air"),), organ=organ)]
        parts.append(fill(Tube(((s * 44, 2, -3), (s * 79, 4, -6)), (3.5, 3.5)), "air"))
        parts += _cochlea(d, name, s)
    parts += _brainstem(d)
    return parts


def _brainstem(d: Draws) -> list[Part]:
    rows = (
        (-25.0, 0.0, 14.0, 6.5, 5.0, 5.0),
        (-12.0, 0.0, 9.0, 9.0, 7.5, 7.5),
        (0.0, 0.0, 4.0, 14.0, 11.0, 10.0),
        (12.0, 0.0, 0.0, 16.0, 12.0, 10.5),
        (22.0, 0.0, -3.0, 14.5, 10.5, 10.0),
        (33.0, 0.0, -5.0, 13.0, 8.0, 9.0),
    )
    stem = d.column("Brainstem", rows)
    return [Part(stem, ((3.0, "csf"),), organ="Brain"), fill(stem, "Brainstem", "Brainstem")]


def _cochlea(d: Draws, name: str, s: float) -> list[Part]:
    shape = d.blob("Cochlea" + name, (s * 25, -6, 1), (3.6, 3.2, 3.3))
    return [fill(shape, "Cochlea", "Cochlea_" + name)]


def orbits(d: Draws) -> list[Part]:
    """Draw the orbits: eyes, their muscles, nerves and glands."""
    parts: list[Part] = []
    for _, s in SIDES:
        front, apex = (s * 33.0, -84.0, 4.0), (s * 17.0, -42.0, 14.0)
        walls = Cut(Tube((front, apex), (21.0, 8.0)), (0.0, -1.0, 0.0), 80.0)
        fat = Cut(Tube((front, apex), (18.0, 5.0)), (0.0, -1.0, 0.0), 86.0)
        parts += [fill(walls, "bone"), fill(fat, "fat")]
        for dx, dz in ((11, 0), (-11, 0), (0, 11), (0, -11)):
            path = ((s * 32 + dx, -70, 5 + dz), (s * 28 + dx, -58, 7 + dz), (s * 18, -44, 13))
            parts.append(fill(Tube(path, (1.6, 2.3, 1.2)), "muscle"))
    for name, s in SIDES:
        parts += _eye(d, name, s)
    return parts


def _eye(d: Draws, name: str, s: float) -> list[Part]:
    centre = plus((s * 32, -76, 5), d.shift("Eye" + name))
    radius = 12.5 * d.growth("Eye", 0.08)
    globe = Ellipsoid(centre, (radius, radius * d.uniform("Eye/long", 0.98, 1.06), radius))
    edge = centre[1] - radius + 5.2 + d.normal("Eye/cap" + name, 0.4)
    front = Cut(globe, (0.0, 1.0, 0.0), edge)
    lens = Ellipsoid((centre[0], centre[1] - radius + 5.0, centre[2]), (4.6, 2.1, 4.6))
    gland = d.blob("Glnd_Lacrimal" + name, (s * 41.5, -75, 15), (4.3, 7.0, 5.4))
    back = (centre[0] - s * 1.5, centre[1] + radius - 0.5, centre[2])
    bend = plus((s * 26, -54, 8), d.shift("OpticNrv" + name, 0.7))
    path = (back, bend, (s * 18, -43, 14.5), (s * 12, -38, 21), (s * 6.5, -35.5, 25))
    size = 2.3 * d.growth("OpticNrv" + name, 0.1)
    eye = (fill(globe, "Eye_P", "Eye_P" + name), fill(front, "Eye_A", "Eye_A" + name))
    return [
        fill(gland, "Glnd_Lacrimal", "Glnd_Lacrimal_" + name),
        fill(Tube(path, (size,) * 5), "OpticNrv", "OpticNrv_" + name),
        *eye,
        fill(lens, "lens", "Eye_A" + name, organ="Lens_" + name),
    ]


def sella(d: Draws) -> list[Part]:
    """Draw pituitary and chiasm."""
    dx, dy, dz = d.shift("OpticChiasm", 0.8)
    arms = [
        Tube(((s * 7.5 + dx, -36 + dy, 24.5 + dz), (dx, -31 + dy, 27 + dz)), (1.9, 2.0))
        for _, s in SIDES
    ]
    arms += [
        Tube(((dx, -31 + dy, 27 + dz), (s * 9 + dx, -24 + dy, 28.5 + dz)), (2.0, 1.8))
        for _, s in SIDES
    ]
    chiasm = Union(tuple(arms), blend=1.0)
    gland = d.blob("Pituitary", (0, -24, 17), (5.4, 4.2, 3.7))
    return [
        fill(chiasm, "OpticChiasm", "OpticChiasm"),
        fill(gland, "Pituitary", "Pituitary"),
    ]


def sinuses(d: Draws) -> list[Part]:
    """Draw the facial bones and the air in them."""
    parts = [
        fill(Arch((0, -36, -42), (28, 43), 6.0, 8.0, back=4), "marrow"),
        fill(Ellipsoid((0, -60, -38.5), (25, 25, 3.2), boxy=True), "bone"),
        fill(Tube(((0, -84, 8), (0, -97, -8)), (4, 2)), "bone"),
    ]
    for name, s in SIDES:
        arch = ((s * 40, -78, -20), (s * 60, -56, -14), (s * 65, -30, -10), (s * 62, -4, -6))
        parts.append(Part(Tube(arch, (7, 4.5, 3.2, 4.5)), ((0.0, "cortical"), (-2.5, "marrow"))))
        wing = Tube(((s * 15, -36, -8), (s * 16, -34, -38)), (3, 2))
        cave = d.blob("antrum" + name, (s * 29, -60, -20), (13, 17, 15))
        parts += [fill(wing, "bone"), Part(cave, ((2.4, "bone"), (0.0, "mucosa"), (-1.2, "air")))]
        cells = Rippled(Ellipsoid((s * 8, -62, 8), (7, 20, 10), boxy=True), 2.0, 9.0)
        parts.append(Part(cells, ((1.0, "bone"), (-1.0, "air"))))
        if d.chance("frontal", 0.8):
            frontal = d.blob("frontal" + name, (s * 12, -86, 26), (9, 4, 9))
            parts.append(Part(frontal, ((1.5, "cortical"), (0.0, "air"))))
        for z, r in ((-26.0, 4.5), (-13.0, 3.4)):
            parts.append(fill(Tube(((s * 7, -86, z), (s * 7, -44, z)), (r * 0.7, r)), "mucosa"))
    sphenoid = d.blob("sphenoid", (0, -37, 4), (11, 10, 7))
    return [*parts, Part(sphenoid, ((1.5, "bone"), (0.0, "air")))]


def nasal_air(d: Draws) -> list[Part]:
    """Draw the air around septum and turbinates."""
    solid: list[Solid] = [Ellipsoid((d.normal("septum", 1.0), -62, -20), (1.4, 40, 24), boxy=True)]
    air: list[Solid] = [Ellipsoid((0, -60, -20), (13, 32, 15), boxy=True)]
    for name, s in SIDES:
        for z, r in ((-26.0, 4.4), (-13.0, 3.4)):
            r *= d.growth(f"turbinate{z}{name}", 0.25)
            solid.append(Tube(((s * 8, -84, z), (s * 8, -42, z)), (r * 0.7, r)))
        air.append(Tube(((s * 6, -106, -37), (s * 5, -86, -26)), (3.4, 4)))
    return [fill(Without(Union(tuple(air)), Union(tuple(solid))), "air")]


def mouth(d: Draws) -> list[Part]:
    """Draw oral cavity, lips and buccal mucosa."""
    cavity = d.blob("Cavity_Oral", (0, -53, -61), (28.5, 31, 23), boxy=True)
    moved = plus((0, -40, -58), d.shift("Lips"))
    lips = Cut(Arch(moved, (31, 49.5), 5.4 * d.growth("Lips"), 17.0), (0.0, 1.0, 0.0), -69.0)
    parts = [fill(cavity, "Cavity_Oral", "Cavity_Oral"), fill(lips, "Lips", "Lips")]
    for name, s in SIDES:
        place = plus((0, -36, -58), d.shift("BuccalMucosa" + name))
        sheet = Arch(place, (37, 51), 3.5 * d.growth("BuccalMucosa"), 15.5, rounding=1.5)
        middle = Cut(Cut(sheet, (-s, 0.0, 0.0), -8.0), (0.0, -1.0, 0.0), 70.0)
        lining = Cut(middle, (0.0, 1.0, 0.0), -38.0)
        parts.append(fill(lining, "BuccalMucosa", "BuccalMucosa"))
    return parts


def mandible(d: Draws) -> list[Part]:
    """Draw the mandible: body, rami, coronoid processes and condyles."""
    size = d.growth("Bone_Mandible", 0.12)
    dx, dy, dz = d.shift("Bone_Mandible")
    body = Arch(
        (dx, -22 + dy, -70 + dz), (40, 57), 5.4 * size, 12.5 * size, slope=0.29, back=4, rounding=4
    )
    shapes: list[Solid] = [body]
    for _, s in SIDES:
        lean = ((1.0, 0.0, 0.0), (0.0, 0.97, -0.24), (0.0, 0.24, 0.97))
        ramus = Ellipsoid((s * 46 + dx, -25 + dy, -46 + dz), (4.0 * size, 15, 24), lean, boxy=True)
        neck = ((s * 47 + dx, -20 + dy, -36 + dz), (s * 50 + dx, -13 + dy, -18 + dz))
        tip = ((s * 45 + dx, -34 + dy, -34 + dz), (s * 45 + dx, -38 + dy, -20 + dz))
        shapes += [ramus, Tube(neck, (4.0, 5.2)), Tube(tip, (4.0, 2.5))]
    layers = ((0.0, "Bone_Mandible"), (-2.4, "marrow"))
    return [Part(Union(tuple(shapes), blend=4.0), layers, "Bone_Mandible")]


def teeth(d: Draws, *, metal_rate: float | None = None) -> tuple[list[Part], tuple[Vector, ...]]:
    """Draw the teeth of both jaws; return their parts and the centres of metal crowns.

    Args:
        d: the patient's draws.
        metal_rate: fraction of teeth with a metal crown; None lets the seed decide.
    """
    dx, dy, dz = d.shift("Bone_Mandible")
    parts: list[Part] = []
    metal: list[Vector] = []
    filled = d.uniform("metal", 0.0, 1.0)
    rate = 0.0 if filled < 0.55 else 0.06 if filled < 0.8 else 0.2
    rate = rate if metal_rate is None else metal_rate
    for jaw, height in (("upper", -48.0), ("lower", -65.0)):
        for index, angle in enumerate(range(-84, 85, 12)):
            radians = math.radians(angle)
            x, y = 29 * math.sin(radians), -36 - 43 * math.cos(radians)
            key = f"tooth/{jaw}{index}"
            if d.chance(key + "/lost", 0.12):
                continue
            wide = 3.4 + 1.5 * abs(math.sin(radians))
            place = (x, y, height) if jaw == "upper" else (x + dx, y + dy, height + dz)
            parts.append(fill(Ellipsoid(place, (wide, wide, 8.5)), "tooth"))
            if d.chance(key + "/metal", rate):
                crown = (place[0], place[1], place[2] + (-4.5 if jaw == "upper" else 4.5))
                parts.append(fill(Ellipsoid(crown, (wide, wide, 4.0)), "metal"))
                metal.append(crown)
    return parts, tuple(metal)


def salivary(d: Draws) -> list[Part]:
    """Draw parotid and submandibular glands."""
    parts: list[Part] = []
    for name, s in SIDES:
        wide = d.blob("Parotid" + name, (s * 54, -6, -36), (12.8, 21.5, 27))
        tail = d.blob("Parotid/tail" + name, (s * 53, -4, -54), (9, 13, 16))
        mastoid = Ellipsoid((s * 53, 18, -17), (12, 14, 21))
        gland = Without(Union((wide, tail), blend=6.0), mastoid, gap=1.0)
        parts.append(fill(gland, "Parotid", "Parotid_" + name))
        below = d.blob("Glnd_Submand" + name, (s * 29, -42, -86), (10.5, 17.0, 13.0))
        parts.append(fill(below, "Glnd_Submand", "Glnd_Submand_" + name))
    return parts


def vessel_rows(s: float) -> tuple[tuple[float, float, float, float], ...]:
    """Return (z, x, y, radius) of a carotid artery from the neck's base to the skull base."""
    return (
        (-168.0, s * 15, -9.0, 4.2),
        (-150.0, s * 21, -12.0, 4.0),
        (-130.0, s * 25, -15.0, 3.9),
        (-110.0, s * 27, -15.0, 4.1),
        (-90.0, s * 28, -14.0, 4.9),
        (-70.0, s * 29.5, -10.0, 3.4),
        (-45.0, s * 30, -7.0, 3.1),
        (-22.0, s * 27, -6.0, 2.9),
    )


def vessels(d: Draws) -> list[Part]:
    """Draw the carotid arteries and the jugular veins beside them."""
    parts: list[Part] = []
    for name, s in SIDES:
        rows = vessel_rows(s)
        vein = 5.8 * d.growth("vein" + name, 0.35)
        beside = tuple((z, x + s * 9, y + 5, vein) for z, x, y, _ in rows)
        parts.append(fill(d.column("vein" + name, round_rows(beside)), "vein"))
        artery = d.column("A_Carotid" + name, round_rows(rows))
        parts.append(fill(artery, "A_Carotid", "A_Carotid_" + name))
    return parts
