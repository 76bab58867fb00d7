"""The reference structures: volumes and painting order.

Volumes are (smallest, mean, largest) in cm³, after the HaN-Seg paper's table. Of two
structures that claim a voxel, the one with the smaller mean takes it.
"""

from __future__ import annotations

PAIRED: dict[str, tuple[float, float, float]] = {
    "A_Carotid_": (3.6, 6.5, 14.3),
    "Cochlea_": (0.06, 0.16, 0.26),
    "Eye_A": (0.4, 1.05, 2.2),
    "Eye_P": (3.9, 7.6, 13.0),
    "Glnd_Lacrimal_": (0.2, 0.7, 1.5),
    "Glnd_Submand_": (2.9, 8.0, 16.9),
    "OpticNrv_": (0.17, 0.71, 1.2),
    "Parotid_": (10.0, 27.0, 55.0),
}
SINGLE: dict[str, tuple[float, float, float]] = {
    "Arytenoid": (0.13, 0.46, 0.79),
    "Bone_Mandible": (40.0, 65.0, 89.0),
    "Brainstem": (14.6, 22.7, 29.7),
    "BuccalMucosa": (4.4, 12.8, 21.0),
    "Cavity_Oral": (53.0, 100.0, 161.0),
    "Cricopharyngeus": (1.0, 2.6, 4.7),
    "Esophagus_S": (0.8, 2.0, 4.8),
    "Glnd_Thyroid": (3.0, 14.0, 46.0),
    "Glottis": (1.3, 3.3, 5.5),
    "Larynx_SG": (4.7, 13.3, 23.0),
    "Lips": (5.1, 23.4, 47.0),
    "OpticChiasm": (0.06, 0.46, 1.03),
    "Pituitary": (0.17, 0.34, 0.72),
    "SpinalCord": (7.4, 10.5, 13.9),
}
VOLUMES_CM3 = SINGLE | {stem + side: v for stem, v in PAIRED.items() for side in "LR"}
LENSES = ("Lens_L", "Lens_R")
REMOVABLE = ("Glnd_Submand_L", "Glnd_Submand_R", "Glnd_Thyroid", "Parotid_L", "Parotid_R")


def number_structures() -> dict[str, int]:
    """Number the structures, and the lenses, which are pieces of two of them."""
    return {name: n for n, name in enumerate(sorted((*VOLUMES_CM3, *LENSES)), start=1)}


def painting_rank(label: str) -> float:
    """Return the mean volume; parts are painted in falling order, so the smaller wins."""
    return VOLUMES_CM3[label][1]
