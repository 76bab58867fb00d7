import numpy as np
import pytest

from oarseg import challenge
from oarseg.errors import InputError

HAN_SEG = challenge.load("han_seg")


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
    with pytest.raises(InputError, match="expected one of han_seg"):
        challenge.load("nowhere")


def test_broken_file_names_the_key(tmp_path) -> None:  # type: ignore[no-untyped-def]
    source = challenge.resources.files("oarseg") / "challenges" / "han_seg.toml"
    text = source.read_text(encoding="utf-8")
    for old, new, message in (
        ("label = 4\n", "label = 5\n", "without gaps or repeats"),
        ('slug = "ct"', 'slugg = "ct"', "sockets.0"),
        ('side = "left"', 'side = "up"', "structures.0.side"),
        ("[output]", "[output", "not valid TOML"),
    ):
        path = tmp_path / "own.toml"
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(InputError, match=message):
            challenge.load(str(path))
