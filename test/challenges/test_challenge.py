from pathlib import Path

import numpy as np
import pytest

from oarseg.challenges import catalogue
from oarseg.errors import InputError

HAN_SEG = catalogue.load_challenge("han_seg")
ORGAN = """[[overlapping]]
name = "Eye_L"
snomed = "81745001"
meaning = "Eye"
colour = [1, 2, 3]
side = "left"
labels = {}

"""


def test_han_seg_has_the_published_structures() -> None:
    assert [s.label for s in HAN_SEG.structures] == list(range(1, 31))
    by_label = {s.label: (s.name, s.snomed) for s in HAN_SEG.structures}
    assert by_label[4] == ("Bone_Mandible", "91609006")
    assert by_label[15] == ("Eye_PR", "81745001")
    assert by_label[21] == ("Glottis", "1307006")
    assert by_label[30] == ("SpinalCord", "2748008")


def test_sides_come_in_pairs_and_fit_the_names() -> None:
    sided = [s for s in HAN_SEG.structures if s.side]
    assert len(sided) == 16
    for structure in sided:
        assert structure.name[-1] == structure.side[0].upper()  # type: ignore[index]
        twin = structure.name[:-1] + {"L": "R", "R": "L"}[structure.name[-1]]
        assert HAN_SEG.structure(twin).snomed == structure.snomed


def test_colours_can_be_told_apart() -> None:
    colours = np.array([s.colour for s in HAN_SEG.structures], float)
    apart = np.linalg.norm(colours[:, None] - colours[None], axis=-1)
    assert apart[~np.eye(30, dtype=bool)].min() > 15


def test_sockets_and_output() -> None:
    assert HAN_SEG.reference.slug == "ct"
    assert HAN_SEG.socket("MR_T1").slug == "t1-mri"
    assert HAN_SEG.output.slug == "head_neck_oar"
    with pytest.raises(InputError, match="has only CT, MR_T1"):
        HAN_SEG.socket("PET")


def test_unknown_challenge_names_the_known() -> None:
    with pytest.raises(InputError, match="expected one of han5k, han_seg, segrap_gtv"):
        catalogue.load_challenge("nowhere")


def test_broken_file_names_the_key(tmp_path: Path) -> None:
    source = catalogue.resources.files("oarseg") / "challenges" / "han_seg.toml"
    text = source.read_text(encoding="utf-8")
    for old, new, message in (
        ("label = 4\n", "label = 5\n", "without gaps or repeats"),
        ('slug = "ct"', 'slugg = "ct"', "sockets.0"),
        ('side = "left"', 'side = "up"', "structures.0.side"),
        ("[output]", "[output", "not valid TOML"),
        ('meaning = "', r'meaning = "\n\n', "structures.0.meaning: must be printable"),
        ('meaning = "', 'meaning = "a~b', "structures.0.meaning: must be printable, without"),
        ("Larynx_SG = 2.0", "Larynx = 2.0", "tolerances_mm: no structure Larynx"),
        ("min_kept", "weights = { Lips = 0 }\nmin_kept", "evaluation.weights.Lips"),
        ("min_kept", "weights = { Lip = 1 }\nmin_kept", "weights: no structure Lip"),
        ("[evaluation]", ORGAN.format("[31]") + "[evaluation]", "Eye_L: must be .* 1–30"),
        ("[evaluation]", ORGAN.format("[]") + "[evaluation]", "Eye_L: must be one or more"),
        (
            "[evaluation]",
            2 * ORGAN.format("[1]") + "[evaluation]",
            "overlapping.1.name: every name",
        ),
    ):
        path = tmp_path / "own.toml"
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(InputError, match=message):
            catalogue.load_challenge(str(path))


def test_han_seg_is_scored_as_in_the_paper() -> None:
    rules = HAN_SEG.evaluation
    assert (rules.ranked, rules.min_kept) == (("dsc", "hd95_mm"), 0.2)
    assert rules.baseline["A_Carotid"].dsc_percent == (84.7, 3.4)
    assert rules.baseline["SpinalCord"].hd95_mm == (1.7, 0.4)
    assert (rules.tolerance_of("Cavity_Oral"), rules.tolerance_of("Lips")) == (3.0, 1.0)


def test_baseline_tells_of_every_structure_and_pair() -> None:
    rules = HAN_SEG.evaluation
    expected = {s.name for s in HAN_SEG.structures} | {pair.name for pair in rules.pairs}
    assert set(rules.baseline) == expected


def test_pairs_are_the_sided_structures() -> None:
    pairs = HAN_SEG.evaluation.pairs
    assert len(pairs) == 8
    for pair in pairs:
        left, right = HAN_SEG.structure(pair.left), HAN_SEG.structure(pair.right)
        assert (left.side, right.side) == ("left", "right")
        baseline = HAN_SEG.evaluation.baseline
        assert baseline[pair.name].n == baseline[pair.left].n + baseline[pair.right].n


def test_organs_are_the_structures_where_nothing_overlaps() -> None:
    assert [(o.name, o.labels) for o in HAN_SEG.organs] == [
        (s.name, (s.label,)) for s in HAN_SEG.structures
    ]
    assert [o.side_code() for o in HAN_SEG.organs] == [s.side_code() for s in HAN_SEG.structures]


def test_organs_are_unions_where_they_overlap(tmp_path: Path) -> None:
    source = catalogue.resources.files("oarseg") / "challenges" / "han_seg.toml"
    text = source.read_text(encoding="utf-8")
    rules = text[text.index("[evaluation]") :]
    own = "[evaluation]\nweights = { Eye_L = 2 }\n"
    path = tmp_path / "own.toml"
    path.write_text(text.replace(rules, ORGAN.format("[12, 14]") + own))
    eyes = catalogue.load_challenge(str(path))
    assert [(o.name, o.labels, o.side) for o in eyes.organs] == [("Eye_L", (12, 14), "left")]
    assert (eyes.evaluation.weight_of("Eye_L"), eyes.evaluation.weight_of("Lips")) == (2.0, 1.0)
