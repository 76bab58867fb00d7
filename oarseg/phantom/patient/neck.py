"""Draw neck and trunk: spine, muscles, larynx, thyroid, trachea, shoulders, chest."""

from __future__ import annotations

from oarseg.imaging.volume import Vector
from oarseg.phantom.patient.head import SIDES
from oarseg.phantom.patient.parts import Draws, Part, canal_y, fill, plus, round_rows
from oarseg.phantom.patient.shapes import Arch, Cut, Ellipsoid, Rippled, Solid, Stack, Tube, Union

CERVICAL_Z = (-35.0, -52.0, -69.0, -85.0, -101.0, -117.0, -134.0)  # C1 … C7
THORACIC_Z = tuple(-153.0 - 22.0 * n for n in range(24))  # T1 and below
CORD_END_Z = -158.0  # where the contoured cord ends


def neck_skin(d: Draws) -> Stack:
    """Draw the skin of neck, shoulders and chest."""
    wide = d.normal("shoulders", 0.06) + 1.0
    raised = d.normal("shrug", 5.0)
    plump = d.uniform("plump", -1.5, 4.0) + d.normal("neck", 1.5)
    rows = (
        (-700.0, 0.0, 8.0, 180.0, 125.0, 110.0),
        (-340.0, 0.0, 20.0, 210.0, 128.0, 105.0),
        (-245.0 + raised, 0.0, 22.0, 218.0, 112.0, 100.0),
        (-205.0 + raised, 0.0, 22.0, 190.0, 92.0, 94.0),
        (-182.0 + raised, 0.0, 20.0, 138.0, 76.0, 88.0),
        (-162.0 + 0.5 * raised, 0.0, 16.0, 86.0, 66.0, 82.0),
        (-140.0, 0.0, 12.0, 64.0, 64.0, 74.0),
        (-115.0, 0.0, 8.0, 58.0, 66.0, 66.0),
        (-90.0, 0.0, 8.0, 60.0, 61.0, 63.0),
        (-60.0, 0.0, 9.0, 64.0, 48.0, 62.0),
        (-40.0, 0.0, 8.0, 68.0, 45.0, 62.0),
        (-15.0, 0.0, 8.0, 71.0, 45.0, 64.0),
        (0.0, 0.0, 8.0, 70.0, 45.0, 62.0),
    )
    return Stack(
        tuple(
            (z, x, y, (rx + plump) * (wide if z < -170 else 1.0), f + 0.6 * plump, b + plump)
            for z, x, y, rx, f, b in rows
        )
    )


def spine(d: Draws) -> list[Part]:
    """Draw vertebrae, spinal canal and cord."""
    parts: list[Part] = []
    for number, z in enumerate(CERVICAL_Z):
        parts += _atlas(z) if number == 0 else _vertebra(z, 8.2, 7.0, 24.0)
    parts.append(_bone(Tube(((0, 0, -54), (0, -1, -31)), (6.5, 5.0))))
    for number, z in enumerate(THORACIC_Z):
        growth = min(1.0, 0.25 + number * 0.15)
        parts += _vertebra(z, 10 + 4 * growth, 9.5, 30.0)
        parts.append(fill(_disc(z), "disc"))
    for z in CERVICAL_Z[2:]:
        parts.append(fill(_disc(z + 8.4 - 0.4), "disc"))
    heights = (-700.0, *THORACIC_Z[18::-3], *CERVICAL_Z[::-1], -20.0)
    canal = tuple((z, 0.0, canal_y(z), 9.8, 7.4, 7.4) for z in heights)
    parts.append(fill(Stack(canal), "csf"))
    cord = d.column("SpinalCord", tuple((z, x, y, 6.0, 4.3, 4.3) for z, x, y, *_ in canal))
    lower = Cut(cord, (0.0, 0.0, 1.0), CORD_END_Z)
    parts.append(fill(lower, "SpinalCord", organ="SpinalCord_Lower"))
    kept = Cut(Cut(cord, (0.0, 0.0, -1.0), -CORD_END_Z), (0.0, 0.0, 1.0), -25.0)
    return [*parts, fill(kept, "SpinalCord", "SpinalCord")]


def _bone(shape: Solid) -> Part:
    return Part(shape, ((0.0, "cortical"), (-1.8, "marrow")))


def _disc(z: float) -> Ellipsoid:
    return Ellipsoid((0, canal_y(z) - 17, z - 8), (12, 8, 3.0))


def _atlas(z: float) -> list[Part]:
    y = canal_y(z)
    ring = Tube(
        ((20, y - 8, z), (18, y + 8, z), (0, y + 17, z), (-18, y + 8, z), (-20, y - 8, z)),
        (7, 4, 4, 4, 7),
    )
    front = Tube(((16, y - 14, z), (0, y - 23, z), (-16, y - 14, z)), (5, 3.4, 5))
    sides = [Tube(((s * 22, y - 6, z), (s * 37, y - 4, z)), (5.5, 4.5)) for _, s in SIDES]
    return [_bone(shape) for shape in (ring, front, *sides)]


def _vertebra(z: float, depth: float, height: float, reach: float) -> list[Part]:
    y = canal_y(z)
    centre = y - 8.5 - depth
    body = Ellipsoid((0, centre, z), (13 * depth / 8.2, depth, height), boxy=True)
    lamina = Tube(
        (
            (14, y - 4, z),
            (12, y + 6, z - 2),
            (0, y + 13, z - 4),
            (-12, y + 6, z - 2),
            (-14, y - 4, z),
        ),
        (5.0, 3.6, 3.6, 3.6, 5.0),
    )
    spinous = Tube(((0, y + 13, z - 4), (0, y + 31, z - 12)), (3.2, 4.2))
    sides = [Tube(((s * 12, y - 9, z), (s * reach, y - 12, z - 1)), (4.6, 3.6)) for _, s in SIDES]
    shapes: list[Solid] = [body, lamina, spinous, *sides]
    return [_bone(shape) for shape in shapes]


def transverse_junction(level: int, s: float) -> Vector:
    """Return where a transverse process leaves its vertebra; level 4 is C4."""
    z = CERVICAL_Z[level - 1]
    return s * 13.0, canal_y(z) - 9.0, z


def neck_muscles(d: Draws) -> list[Part]:
    """Draw the muscles of the neck, the nape's first."""
    parts: list[Part] = []
    heights = (-330.0, -240.0, -180.0, -150.0, -115.0, -80.0, -50.0, -28.0)
    for name, s in SIDES:
        bulk = d.growth("nape" + name, 0.15)
        for x, back, rx, ry, top, bottom in (
            (13.0, 24.0, 11.5, 14.0, -28.0, -330.0),
            (28.0, 17.0, 12.0, 16.0, -28.0, -330.0),
            (38.0, 0.0, 9.0, 12.0, -50.0, -180.0),
            (24.0, -13.0, 8.0, 7.0, -80.0, -180.0),
            (8.0, -27.0, 7.5, 3.6, -28.0, -240.0),
            (44.0, 22.0, 6.0, 20.0, -50.0, -240.0),
        ):
            rows = tuple(
                (z, s * x, canal_y(z) + back, rx * bulk, ry * bulk, ry * bulk)
                for z in heights
                if bottom <= z <= top
            )
            parts.append(fill(Stack(rows), "muscle"))
        path = ((s * 55, 20, -28), (s * 51, 4, -70), (s * 40, -20, -115), (s * 14, -44, -172))
        parts.append(fill(Tube(path, (8 * bulk, 9.5 * bulk, 9.5 * bulk, 6)), "muscle"))
        strap = ((s * 9, -53, -92), (s * 10, -52, -120), (s * 10, -44, -165))
        parts.append(fill(Tube(strap, (3.5, 4.5, 4.5)), "muscle"))
        belly = ((s * 6, -76, -94), (s * 20, -44, -94), (s * 48, 10, -50))
        parts.append(fill(Tube(belly, (4.5, 3.0, 4.5)), "muscle"))
    wall = (
        (-150.0, 0.0, -9.0, 15.0, 8.0, 7.0),
        (-125.0, 0.0, -14.0, 17.0, 9.0, 7.0),
        (-100.0, 0.0, -20.0, 19.0, 10.0, 8.0),
        (-75.0, 0.0, -19.0, 18.0, 9.0, 8.0),
        (-40.0, 0.0, -18.0, 18.0, 10.0, 8.0),
        (-20.0, 0.0, -25.0, 18.0, 12.0, 14.0),
    )
    return [*parts, fill(Stack(wall), "muscle")]


def larynx(d: Draws) -> list[Part]:
    """Draw the cartilages, then supraglottis, glottis, arytenoids and cricopharyngeus."""
    shell = d.uniform("calcified", 0.0, 1.0)
    tissue = "cartilage" if shell < 0.5 else "ossified"
    frame = [
        fill(Ellipsoid((0, -31, -104), (21, 21, 22)), "muscle"),
        Part(Arch((0, -30, -90), (19, 25), 2.4, 3.6, back=8), ((0.0, "bone"), (-1.4, "marrow"))),
        fill(Arch((0, -29, -107), (19, 24), 1.5, 12.5, back=6, rounding=1), tissue),
        fill(Stack(round_rows(((-129.0, 0, -29, 13), (-118.0, 0, -31, 12.5)))), tissue),
        fill(Stack(round_rows(((-128.0, 0, -29, 10.5), (-117.0, 0, -31, 10)))), "mucosa"),
    ]
    upper = d.blob("Larynx_SG", (0, -33, -97), (17.0, 16.5, 14.2))
    folds = d.blob("Glottis", (0, -32, -113.5), (11.8, 13, 3.7), boxy=True)
    dx, dy, dz = d.shift("Arytenoid", 0.8)
    size = d.growth("Arytenoid")
    pair = tuple(
        Ellipsoid((s * 5.5 + dx, -22.5 + dy, -109.5 + dz), (3.2 * size, 3.8 * size, 4.9 * size))
        for _, s in SIDES
    )
    outlet = d.blob("Cricopharyngeus", (0, -13.5, -127), (10.6, 4.5, 8.4), boxy=True)
    return [
        *frame,
        fill(upper, "Larynx_SG", "Larynx_SG"),
        fill(folds, "Glottis", "Glottis"),
        fill(Union(pair), "Arytenoid", "Arytenoid"),
        fill(outlet, "Cricopharyngeus", "Cricopharyngeus"),
    ]


def gullet(d: Draws) -> list[Part]:
    """Draw the oesophagus; HaN-Seg contours its cervical part only."""
    heights = (-700.0, -400.0, -300.0, -240.0, -200.0, -170.0, -152.0, -136.0)
    rows = tuple(
        (z, 1.5, canal_y(z) - 35.0 - max(0.0, -150 - z) * 0.06, 7.4, 4.4, 4.2) for z in heights
    )
    tube = d.column("Esophagus_S", rows)
    end = -153.5 + d.normal("Esophagus_S/end", 2.0)
    lower = Cut(tube, (0.0, 0.0, 1.0), end)
    upper = Cut(tube, (0.0, 0.0, -1.0), -end)
    return [
        fill(lower, "Esophagus_S", organ="Esophagus_Lower"),
        fill(upper, "Esophagus_S", "Esophagus_S"),
    ]


def thyroid(d: Draws) -> list[Part]:
    """Draw the thyroid gland."""
    shapes: list[Solid] = [Ellipsoid((0, -37, -138), (14, 3.4, 8))]
    shift = d.shift("Glnd_Thyroid")
    size = d.growth("Glnd_Thyroid", 0.2)
    for name, s in SIDES:
        own = size * d.growth("Glnd_Thyroid" + name, 0.15)
        lobe = Ellipsoid(plus((s * 17, -26, -136), shift), (9 * own, 10.5 * own, 18 * own))
        shapes.append(lobe)
    return [fill(Union(tuple(shapes), blend=3.0), "Glnd_Thyroid", "Glnd_Thyroid")]


def airway(d: Draws) -> list[Part]:
    """Draw the air of pharynx, larynx and trachea."""
    open_mm = d.uniform("airway", 0.85, 1.2)
    rows = (
        (-275.0, 0.0, 10.0, 9.0, 8.0, 8.0),
        (-200.0, 0.0, -1.0, 9.0, 9.0, 8.0),
        (-150.0, 0.0, -21.0, 9.0, 9.0, 8.0),
        (-130.0, 0.0, -29.0, 8.5, 9.0, 8.0),
        (-120.0, 0.0, -31.5, 7.0, 9.0, 8.0),
        (-114.0, 0.0, -32.0, 2.2, 10.0, 7.0),
        (-106.0, 0.0, -32.0, 4.5, 8.0, 8.0),
        (-96.0, 0.0, -29.0, 7.0, 6.0, 8.0),
        (-88.0, 0.0, -24.0, 11.0, 6.0, 6.0),
        (-75.0, 0.0, -21.0, 11.5, 5.5, 5.0),
        (-60.0, 0.0, -19.5, 11.5, 5.5, 5.0),
        (-45.0, 0.0, -18.5, 12.0, 6.0, 5.0),
        (-34.0, 0.0, -21.0, 12.0, 9.0, 7.0),
        (-22.0, 0.0, -25.0, 12.0, 11.0, 10.0),
        (-13.0, 0.0, -28.0, 9.0, 8.0, 7.0),
    )
    lumen = Stack(tuple((z, x, y, rx * open_mm, f, b) for z, x, y, rx, f, b in rows))
    gap = d.uniform("mouth", 0.0, 2.6)
    parts = [fill(lumen, "air", organ="Airway")]
    if gap > 1.0:
        parts.append(fill(Ellipsoid((0, -56, -42.5), (19, 24, gap)), "air"))
    tilt = ((1.0, 0.0, 0.0), (0.0, 0.94, 0.34), (0.0, -0.34, 0.94))
    plate = Ellipsoid((0, -31.5, -89), (9, 1.8, 10), tilt)
    palate = Ellipsoid((0, -29.5, -47), (11, 3.0 * d.growth("palate", 0.3), 14), tilt)
    return [*parts, fill(palate, "tongue"), fill(plate, "Larynx_SG", "Larynx_SG")]


def chest(d: Draws) -> list[Part]:
    """Draw shoulders, ribs, lungs, heart and great vessels."""
    parts: list[Part] = []
    parts.append(fill(Ellipsoid((0, 30, -330), (165, 95, 165), boxy=True), "muscle"))
    for name, s in SIDES:
        parts += [
            fill(Tube(((s * 55, 70, -160), (s * 150, 55, -205)), (12, 22)), "muscle"),
            fill(Ellipsoid((s * 176, 25, -235), (38, 42, 70)), "muscle"),
            fill(Ellipsoid((s * 75, -65, -260), (70, 18, 55)), "muscle"),
            _bone(Tube(((s * 14, -50, -180), (s * 80, -40, -178), (s * 150, 20, -186)), (8, 6, 7))),
            _bone(Ellipsoid((s * 172, 28, -215), (24, 24, 24))),
            _bone(Tube(((s * 176, 28, -225), (s * 190, 25, -520)), (13, 13))),
            _bone(Tube(((s * 95, 95, -190), (s * 75, 100, -300), (s * 145, 60, -205)), (5, 4, 6))),
        ]
        for number in range(10):
            z = -175.0 - 26.0 * number
            wide = 70.0 + 62.0 * min(1.0, number / 4)
            rib = (
                (s * 20, 62 + min(number, 4) * 4, z + 14),
                (s * wide * 0.8, 84, z + 4),
                (s * wide, 25, z - 14),
                (s * wide * 0.75, -48, z - 34),
                (s * 20, -78 - min(number, 4) * 4, z - 40),
            )
            parts.append(_bone(Tube(rib, (5, 5, 5, 5, 5))))
        lung = Union(
            (
                Ellipsoid((s * 52, 18, -245), (38, 45, 62)),
                Ellipsoid((s * 72, 10, -390), (56, 78, 160)),
            ),
            blend=25.0,
        )
        parts.append(fill(Rippled(lung, 1.0, 30.0), "lung", organ="Lung_" + name))
    parts += [
        fill(Ellipsoid((18, -25, -430), (62, 48, 75)), "heart", organ="Heart"),
        fill(
            Tube(
                ((12, -10, -400), (0, -15, -270), (20, 40, -280), (22, 45, -600)), (14, 13, 12, 11)
            ),
            "heart",
        ),
        _bone(Ellipsoid((0, -82, -290), (18, 7, 95), boxy=True)),
    ]
    return parts
