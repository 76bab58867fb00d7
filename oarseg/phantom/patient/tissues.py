"""What each tissue looks like: HU in CT, and T1 signal in three MR sequences.

As in patients, neighbouring soft tissues differ by a few HU, less than the noise, but
clearly in T1 signal. Signals are relative to a gain that each scan draws.
"""

from __future__ import annotations

SEQUENCES = ("spin_echo", "fat_saturated", "gradient_echo")

# CT, then each of SEQUENCES.
TISSUES: dict[str, tuple[float, float, float, float]] = {
    "air": (-1000, 0, 0, 0),
    "fat": (-100, 470, 105, 400),
    "skin": (20, 260, 230, 240),
    "muscle": (54, 170, 190, 180),
    "tongue": (54, 225, 215, 220),
    "mucosa": (48, 240, 300, 250),
    "cortical": (1250, 18, 14, 16),
    "dense": (1750, 14, 12, 14),
    "bone": (850, 60, 40, 50),
    "marrow": (320, 360, 110, 290),
    "disc": (85, 150, 150, 160),
    "cartilage": (95, 120, 110, 125),
    "ossified": (380, 110, 60, 100),
    "tooth": (2300, 12, 10, 10),
    "metal": (9000, 0, 0, 0),
    "grey": (37, 205, 215, 210),
    "white": (32, 275, 270, 265),
    "csf": (22, 70, 75, 75),
    "ventricle": (10, 60, 65, 65),
    "vein": (56, 60, 70, 300),
    "nerve": (40, 220, 220, 220),
    "lung": (-820, 12, 12, 12),
    "heart": (45, 120, 130, 260),
    "mask": (60, 6, 6, 6),
    "couch": (-120, 0, 0, 0),
    "foam": (-930, 0, 0, 0),
    "vitreous": (14, 95, 105, 95),
    "lens": (75, 215, 205, 200),
    "A_Carotid": (58, 35, 50, 360),
    "Arytenoid": (70, 300, 120, 240),
    "Bone_Mandible": (1250, 18, 14, 16),
    "Brainstem": (33, 335, 325, 320),
    "BuccalMucosa": (50, 265, 335, 285),
    "Cavity_Oral": (54, 225, 215, 220),
    "Cochlea": (350, 170, 180, 170),
    "Cricopharyngeus": (51, 105, 125, 110),
    "Esophagus_S": (47, 275, 290, 280),
    "Eye_A": (40, 165, 175, 165),
    "Eye_P": (14, 95, 105, 95),
    "Glnd_Lacrimal": (38, 240, 300, 260),
    "Glnd_Submand": (47, 300, 275, 290),
    "Glnd_Thyroid": (125, 250, 320, 270),
    "Glottis": (58, 215, 245, 225),
    "Larynx_SG": (46, 275, 285, 280),
    "Lips": (46, 295, 265, 290),
    "OpticChiasm": (33, 380, 375, 365),
    "OpticNrv": (33, 230, 235, 230),
    "Parotid": (22, 375, 225, 345),
    "Pituitary": (38, 425, 420, 400),
    "SpinalCord": (35, 290, 285, 280),
    # At the end, where they change no other tissue's draw.
    "hippocampus": (40, 215, 225, 220),
    "joint": (85, 150, 150, 160),
    "tumour": (52, 190, 320, 260),
    "node": (44, 200, 290, 240),
}
