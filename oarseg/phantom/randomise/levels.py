"""The levels of randomisation: how far phantoms vary, from ``levels.toml``."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files

from pydantic.dataclasses import dataclass

from oarseg.challenges.structures import STRICT
from oarseg.challenges.toml_file import parse_toml, validate_document
from oarseg.phantom.patient.parts import Draws

TwoNumbers = tuple[float, float]


@dataclass(frozen=True, config=STRICT)
class Level:
    """How far phantoms of one level vary; ``levels.toml`` explains the pairs.

    Attributes:
        organ_spread: share of the real spread of the organs' volumes and places.
        pitch_deg_normal: how far the chin is raised, as in a mask for radiotherapy.
        chin_down_share: share of patients whose chin is lowered instead.
        tilt_deg, flexion_deg: standard deviations of the head's other turns, and of the
            neck's flexion beyond what levels the trunk.
        wave_growth: factor of the smooth deformations.
        asymmetry_mm: most that a local deformation moves tissue.
        skin_mm, lean_mm: fat below the skin, and what muscles lose to the fat between them.
        lobes_mm: depth of the lobes of glands.
        airway: factor of the airway's radii.
        nodes_share, tumour_share, plaque_share, vessels_share: how often each is there.
        vein_mm: how much wider the jugular veins are.
        fatty_share, fatty: how often each of some tissues has streaks of fat, and about how
            much of it they are.
        arms_share: how often the arms lie beside the head.
        teeth_lost, metal_share: share of the teeth lost; of patients, with metal.
        removed_top_share: how often the CT's field begins below the vertex.
        soft_hu, gland_hu, bone_share: standard deviations of the tissues' HU, that of bone
            relative to its HU.
        contrast_share: how often a contrast medium enhances the CT.
        texture_hu, cupping_hu: correlated texture, and the most that HU drift across it.
        noise_hu, kernel, streak_hu: of the CT's reconstruction.
        starvation: noise in streaks from side to side where a patient is wide, of the
            usual noise.
        round_field_share, headrest_share, mask_share: how often each is there.
        slices_mm, field, reach: distances of the CT's slices that are drawn from, and
            factors of its field and of its extent.
        signal_share, enhanced_share: of the MR's signals, and how often it is enhanced.
        bias, mr_noise: factors of both.
        ghost: of the signal, in its ghost along the phase direction.
        mr_slices_mm, mr_field_mm: the MR's grid.
        rater_mm, rater_bias: smoothing of outlines, and how much too wide or narrow they are.
    """

    organ_spread: float
    pitch_deg_normal: TwoNumbers
    chin_down_share: float
    tilt_deg: float
    flexion_deg: float
    wave_growth: float
    asymmetry_mm: float
    skin_mm: TwoNumbers
    lean_mm: TwoNumbers
    lobes_mm: TwoNumbers
    airway: TwoNumbers
    nodes_share: float
    tumour_share: float
    teeth_lost: TwoNumbers
    metal_share: float
    plaque_share: float
    vessels_share: float
    vein_mm: TwoNumbers
    fatty_share: float
    fatty: TwoNumbers
    arms_share: float
    removed_top_share: float
    soft_hu: float
    gland_hu: float
    bone_share: float
    contrast_share: float
    texture_hu: TwoNumbers
    cupping_hu: float
    noise_hu: TwoNumbers
    kernel: TwoNumbers
    streak_hu: TwoNumbers
    starvation: TwoNumbers
    round_field_share: float
    headrest_share: float
    mask_share: float
    slices_mm: tuple[float, ...]
    field: TwoNumbers
    reach: TwoNumbers
    signal_share: float
    enhanced_share: float
    bias: float
    ghost: TwoNumbers
    mr_noise: TwoNumbers
    mr_slices_mm: TwoNumbers
    mr_field_mm: TwoNumbers
    rater_mm: TwoNumbers
    rater_bias: float


@lru_cache(maxsize=1)
def load_levels() -> dict[str, Level]:
    """Return the levels by their number as text; level 0 is not among them."""
    name = "levels.toml"
    text = (files("oarseg.phantom.randomise") / name).read_text(encoding="utf-8")
    document = parse_toml(text, source=name)
    return {
        number: validate_document(record, Level, source=name) for number, record in document.items()
    }


def within(d: Draws, key: str, span: TwoNumbers) -> float:
    """Draw uniformly from a pair of bounds."""
    return d.uniform("randomise/" + key, *span)


def happens(d: Draws, key: str, share: float) -> bool:
    """Draw whether something is so in this patient or scan."""
    return d.chance("randomise/" + key, share)


def deviation(d: Draws, key: str, sigma: float) -> float:
    """Draw normally about 0, within two standard deviations."""
    return d.normal("randomise/" + key, sigma)
