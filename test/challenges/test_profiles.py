"""The facts of every challenge that comes with the package, and files of the user's own."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import tg263

from oarseg.cases.find_cases import find_cases
from oarseg.challenges import catalogue, label_table, toml_file
from oarseg.cli import main
from oarseg.errors import InputError

PROFILES = catalogue.challenge_names()
SEGRAP = catalogue.load_challenge("segrap_oar")


def test_every_profile_of_the_project_is_there() -> None:
    assert set(PROFILES) == {
        "han5k",
        "han_seg",
        "segrap_gtv",
        "segrap_oar",
        "structseg_han_oar",
        "structseg_lung_gtv",
        "structseg_naso_gtv",
        "structseg_thoracic_oar",
    }


@pytest.mark.parametrize("name", PROFILES)
def test_sides_fit_the_names(name: str) -> None:
    for organ in catalogue.load_challenge(name).organs:
        by_name = {"_L": "left", "_R": "right"}.get(organ.name[-2:])
        by_name = by_name or {"Left": "left", "Righ": "right"}.get(organ.name[:4])
        by_name = by_name or {"AL": "left", "PL": "left", "AR": "right", "PR": "right"}.get(
            organ.name[-2:] if organ.name.startswith("Eye_") else ""
        )
        assert organ.side == by_name, organ.name


def test_segrap_organs_are_unions_of_the_published_labels() -> None:
    by_name = {organ.name: organ.labels for organ in SEGRAP.organs}
    order = [organ.name for organ in SEGRAP.organs]
    assert (len(SEGRAP.structures), len(order)) == (54, 45)
    assert (order[0], order[9], order[25], order[44]) == ("Brain", "Lens_L", "Pituitary", "Trachea")
    assert by_name["Brain"] == tuple(range(1, 10))
    assert by_name["Hippocampus_R"] == (7, 9)
    assert by_name["MiddleEar_L"] == (16, 18, 20, 24, 28, 30)
    assert by_name["MiddleEar_R"] == (17, 19, 21, 25, 29, 31)
    assert by_name["Larynx"] == (48, 49, 50, 51)
    assert by_name["PharynxConst"] == (51, 52)
    assert {label for labels in by_name.values() for label in labels} == set(range(1, 55))


def test_an_overlap_of_segrap_belongs_to_the_organs_in_its_name() -> None:
    for structure in SEGRAP.structures:
        if "_Overlap" not in structure.name:
            continue
        side = structure.name[-2:] if structure.name[-2] == "_" else ""
        inside = {o.name for o in SEGRAP.organs if structure.label in o.labels}
        named = structure.name.split("_Overlap")[0].replace("PharynxConstr", "PharynxConst")
        assert {part + side for part in named.split("_")} == inside - {"Brain"}


def test_segrap_writes_channels_without_a_frame() -> None:
    for name in ("segrap_oar", "segrap_gtv"):
        output = catalogue.load_challenge(name).output
        assert (output.form, output.identity_frame, output.ending) == ("channels", True, ".mha")
    rules = SEGRAP.evaluation
    tolerances = [rules.tolerance_of(name) for name in ("Larynx", "OralCavity", "Lens_L")]
    assert tolerances == [2.0, 3.0, 1.0]
    assert (rules.both_empty, rules.reference_empty) == ("best", "worst")


def test_second_ct_of_segrap_lies_on_the_grid_of_the_first() -> None:
    assert [s.slug for s in SEGRAP.sockets] == [
        "head-neck-ct",
        "head-neck-contrast-enhanced-ct",
    ]
    assert SEGRAP.sockets[1].placed == "same_grid"


def test_structseg_task_1_says_that_its_ids_are_not_confirmed() -> None:
    assert "not confirmed" in catalogue.load_challenge("structseg_han_oar").notice
    assert len(catalogue.load_challenge("structseg_han_oar").structures) == 22


def test_structseg_weights() -> None:
    rules = catalogue.load_challenge("structseg_thoracic_oar").evaluation
    weights = [rules.weight_of(n) for n in ("RightLung", "Heart", "Trachea", "Esophagus")]
    assert weights == [100, 100, 80, 70]


# --- label tables of the user's


def test_han5k_takes_the_labels_of_a_dataset_json(tmp_path: Path) -> None:
    table = tmp_path / "dataset.json"
    table.write_text(json.dumps({"labels": {"background": 0, "Brain": 1, "Lens_L": 2}}))
    facts = catalogue.load_challenge("han5k", table=table)
    assert [(s.label, s.name) for s in facts.structures] == [(1, "Brain"), (2, "Lens_L")]
    assert catalogue.load_challenge("han5k").structures == ()


def test_dataset_json_of_version_1(tmp_path: Path) -> None:
    table = tmp_path / "dataset.json"
    table.write_text(json.dumps({"labels": {"0": "background", "1": "Brain", "2": "Heart"}}))
    facts = catalogue.load_challenge("han5k", table=table)
    assert [s.name for s in facts.structures] == ["Brain", "Heart"]


def test_han5k_takes_a_toml_table_with_overlaps(tmp_path: Path) -> None:
    table = tmp_path / "labels.toml"
    table.write_text(
        '[[structures]]\nlabel = 1\nname = "Larynx"\n'
        '[[structures]]\nlabel = 2\nname = "Glottis"\ncolour = [1, 2, 3]\n'
        '[[overlapping]]\nname = "Larynx"\nlabels = [1, 2]\n'
    )
    facts = catalogue.load_challenge("han5k", table=table)
    assert [organ.name for organ in facts.organs] == ["Larynx"]
    assert facts.structure("Glottis").colour == (1, 2, 3)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.json", "{}", r"t\.json: expected nnU-Net's dataset\.json with labels"),
        ("t.json", '{"labels": {"whole": [1, 2]}}', r"whole: is a region of several labels"),
        ("t.json", '{"labels": {"a": 1, "b": 3}}', r"structures\.1\.label: labels must be 1, 2"),
        ("t.toml", "title = 1", r"expected only \[\[structures\]\].*found title"),
        ("t.toml", "[[structures]]\nlabel = 1\n", r"t\.toml, line 1: structures\.0\.name"),
        ("t.toml", '[[structures]]\nlabel = 1\nname = "a b"', r"line 3: structures\.0\.name"),
    ],
)
def test_a_broken_table_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    table = tmp_path / name
    table.write_text(text)
    with pytest.raises(InputError, match=message):
        catalogue.load_challenge("han5k", table=table)


def test_other_challenges_take_no_table(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has its own labels and takes no table"):
        catalogue.load_challenge("han_seg", table=tmp_path / "labels.toml")


def test_colours_without_a_choice_differ() -> None:
    assert len({label_table.distinct_colour(index) for index in range(255)}) == 255


# --- lines


TEXT = '''
name = "x"          # line 2
notice = """
name = "in a text"
"""
[output]            # 6
slug = "a"

[[sockets]]         # 9
slug = "ct"
[[sockets]]
slug = "mr"         # 12
extra.deep = 1      # 13
[evaluation.baseline]
"Lens L" = { n = 1 }  # 15
'''


@pytest.mark.parametrize(
    ("at", "line"),
    [
        (("name",), 2),
        (("output", "slug"), 7),
        (("output", "by"), 6),
        (("sockets", 0), 9),
        (("sockets", 1, "slug"), 12),
        (("sockets", 1, "extra", "deep"), 13),
        (("evaluation", "baseline", "Lens L", "n"), 15),
        (("nothing",), None),
    ],
)
def test_line_of_a_key(at: toml_file.Path, line: int | None) -> None:
    assert toml_file.line_of(TEXT, at) == line


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("label = 2\n", 'label = "two"\n', r"own\.toml, line 38: structures\.1\.label"),
        ('placed = "same_grid"', 'placed = "apart"', r"line 30: sockets\.1\.placed"),
        ('placed = "same_grid"', "", r"line 24: sockets\.1\.placed: only an MR can be registered"),
        (
            'slug = "head-neck-contrast',
            'slig = "head-neck-contrast',
            r"line 25: sockets\.1\.slig.*\(and 1 more\)",
        ),
        ('slug = "gross-tumor-volume-segmentation"', "", r"line 7: output: needs a slug"),
        ("digits = 4", "digits = 4\nmasks = true", r"line 15: data_set\.masks"),
        ('title = "', "title = ", r"not valid TOML: .*line 4"),
    ],
)
def test_a_broken_challenge_names_line_and_key(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    source = catalogue.resources.files("oarseg") / "challenges" / "segrap_gtv.toml"
    path = tmp_path / "own.toml"
    path.write_text(source.read_text(encoding="utf-8").replace(old, new, 1))
    with pytest.raises(InputError, match=message):
        catalogue.load_challenge(str(path))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.toml: expected a challenge's TOML file"):
        catalogue.load_challenge(str(tmp_path / "none.toml"))


# --- the worked example of the documentation


def test_the_documents_example_is_a_challenge(tmp_path: Path) -> None:
    document = (Path(__file__).parents[2] / "docs/challenges.md").read_text(encoding="utf-8")
    text = document.split("```toml\n", 1)[1].split("```", 1)[0]
    path = tmp_path / "own.toml"
    path.write_text(text)
    rules = catalogue.load_challenge(str(path))
    assert [organ.name for organ in rules.organs] == ["Bladder", "Rectum"]
    path.write_text(text.replace("label = 2", "label = 3"))
    with pytest.raises(InputError) as caught:
        catalogue.load_challenge(str(path))
    assert str(caught.value).removeprefix(f"{tmp_path}/") in document


def test_a_challenge_of_your_own_needs_no_case_prefix(tmp_path: Path) -> None:
    """From phantoms to scores, each command that goes by the names of cases."""
    document = (Path(__file__).parents[2] / "docs/challenges.md").read_text(encoding="utf-8")
    text = document.split("```toml\n", 1)[1].split("```", 1)[0]
    lines = [line for line in text.splitlines() if not line.startswith("case_prefix")]
    assert len(lines) == len(text.splitlines()) - 1
    own = tmp_path / "own.toml"
    own.write_text("\n".join(lines))
    challenge = ("--challenge", str(own))
    data = str(tmp_path / "data")
    assert main(["phantom", data, "--size", "tiny", "--seed", "7", *challenge]) == 0
    (case,) = find_cases(tmp_path / "data", catalogue.load_challenge(str(own))).cases
    assert case.name == "007"
    assert main(["evaluate", data, data, *challenge, "--out", str(tmp_path / "scores")]) == 0
    scores = (tmp_path / "scores" / "scores.csv").read_text()
    assert "007,Bladder" in scores


def test_every_profile_is_in_the_documents_table() -> None:
    document = (Path(__file__).parents[2] / "docs/challenges.md").read_text(encoding="utf-8")
    for name in ("han_seg", "segrap_oar", "segrap_gtv", "structseg_han_oar", "han5k"):
        assert f"`{name}`" in document


@pytest.mark.parametrize("name", PROFILES)
def test_names_in_dicom_follow_tg_263(name: str) -> None:
    organs = catalogue.load_challenge(name).organs
    names = [organ.dicom_name for organ in organs]
    # TG-263: at most 16 characters, letters, digits and underscores, sides at the end.
    assert all(re.fullmatch(r"[A-Z][A-Za-z0-9]*(_[A-Za-z0-9]+)*", text) for text in names)
    assert max(map(len, names), default=0) <= 16
    assert len({text.casefold() for text in names}) == len(names)
    for organ in organs:
        target = organ.dicom_name.startswith(("GTV", "CTV", "PTV"))
        assert organ.rt_type == (organ.dicom_name[:3] if target else "ORGAN")
        side = {"left": "L", "right": "R"}.get(organ.side or "", "")
        assert organ.dicom_name.endswith(side)


# The challenges' own: TG-263 knows no such structure, or none of one side only.
NOT_IN_TG_263 = {
    "BuccalMucosa",
    *("Eye_AL", "Eye_AR", "Eye_PL", "Eye_PR"),
    *("IAC_L", "IAC_R", "TympanicCavity_L", "TympanicCavity_R"),
    *("VestibulSemi_L", "VestibulSemi_R", "ETbone_L", "ETbone_R"),
    *("Bone_Mandible_L", "Bone_Mandible_R"),
}


def test_names_in_dicom_are_in_the_list_of_tg_263() -> None:
    """Package tg263 has the report's 709 names."""
    organs = [organ for name in PROFILES for organ in catalogue.load_challenge(name).organs]
    names = {organ.dicom_name for organ in organs}
    unknown = {name for name in names if not tg263.is_structure_name_allowed(name)}
    assert unknown == NOT_IN_TG_263


def test_the_same_organ_has_the_same_name_in_every_dicom() -> None:
    by_code: dict[tuple[str, str | None], set[str]] = {}
    for name in ("han_seg", "segrap_oar", "structseg_han_oar", "structseg_thoracic_oar"):
        for organ in catalogue.load_challenge(name).organs:
            if organ.snomed and not organ.name.startswith("Eye_"):
                by_code.setdefault((organ.snomed, organ.side), set()).add(organ.dicom_name)
    assert {key: names for key, names in by_code.items() if len(names) > 1} == {}
    assert by_code["45289007", "left"] == {"Parotid_L"}
