"""Draw what each tissue looks like in one CT or MR, further from the table than at level 0."""

from __future__ import annotations

from collections.abc import Mapping

from oarseg.phantom.patient.parts import Draws
from oarseg.phantom.patient.tissues import TISSUES
from oarseg.phantom.randomise.levels import Level, deviation, happens, within

GLANDS = ("Parotid", "Glnd_Submand", "Glnd_Thyroid", "Glnd_Lacrimal", "Pituitary")
# How many HU a contrast medium adds, at most.
CONTRAST_HU = {
    "A_Carotid": 260.0,
    "vein": 190.0,
    "heart": 200.0,
    "Glnd_Thyroid": 90.0,
    "Glnd_Submand": 55.0,
    "Parotid": 35.0,
    "Pituitary": 70.0,
    "mucosa": 60.0,
    "BuccalMucosa": 45.0,
    "Cricopharyngeus": 25.0,
    "Larynx_SG": 25.0,
    "tongue": 20.0,
    "Cavity_Oral": 20.0,
    "muscle": 12.0,
    "tumour": 70.0,
    "node": 60.0,
}
# Factors of T1 signal after a contrast agent, at most.
ENHANCEMENT = {
    "A_Carotid": 5.0,
    "vein": 5.0,
    "mucosa": 1.8,
    "BuccalMucosa": 1.6,
    "Pituitary": 1.5,
    "Glnd_Thyroid": 1.6,
    "Glnd_Submand": 1.4,
    "Parotid": 1.3,
    "tumour": 1.8,
    "node": 1.6,
    "Larynx_SG": 1.3,
}
# Factors of the signal of a sequence's base; a Dixon's water image, and its image in phase.
WATER = {"fat": 0.25, "marrow": 0.5, "Parotid": 0.85}
IN_PHASE = {"fat": 1.1, "A_Carotid": 0.5, "vein": 0.6}


def vary_hu(
    values: Mapping[str, float], d: Draws, level: Level, *, contrast: bool
) -> dict[str, float]:
    """Draw the HU of each tissue.

    Args:
        values: HU by tissue at level 0, without contrast medium.
        d: the patient's draws.
        level: how far to go.
        contrast: whether a contrast medium enhances the CT.
    """
    shared = deviation(d, "hu/shared", level.soft_hu / 2)
    timing = within(d, "hu/timing", (0.25, 1.0))
    varied = {}
    for name, hu in values.items():
        if -900.0 < hu < 150.0:
            spread = level.gland_hu if name in GLANDS else level.soft_hu
            hu += shared + deviation(d, "hu/" + name, spread)
        elif hu > 150.0:
            hu *= 1.0 + deviation(d, "hu/" + name, level.bone_share)
        if contrast and name in CONTRAST_HU:
            hu += CONTRAST_HU[name] * timing * within(d, "hu/uptake/" + name, (0.5, 1.0))
        varied[name] = hu
    return varied


def vary_signals(sequence: int, d: Draws, level: Level) -> dict[str, float]:
    """Draw the T1 signal of each tissue, in units of the table.

    Args:
        sequence: index of the base sequence in ``patient.tissues.SEQUENCES``; every second
            fat-saturated or gradient-echo one becomes a Dixon's.
        d: the patient's draws.
        level: how far to go.
    """
    dixon = happens(d, "mr/dixon", 0.5)
    factors = {1: WATER, 2: IN_PHASE}.get(sequence, {}) if dixon else {}
    enhanced = happens(d, "mr/enhanced", level.enhanced_share)
    dose = within(d, "mr/dose", (0.3, 1.0))
    signals = {}
    for name, row in TISSUES.items():
        signal = row[1 + sequence] * factors.get(name, 1.0)
        signal *= 1.0 + deviation(d, "mr/" + name, level.signal_share)
        if enhanced:
            signal *= 1.0 + (ENHANCEMENT.get(name, 1.0) - 1.0) * dose
        signals[name] = signal
    return signals
