"""Which files make a case: pairing by key, and every input that is none."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from oarseg.cases.case import Case, CaseProblem, label_path
from oarseg.cases.find_cases import find_cases
from oarseg.challenges import catalogue
from oarseg.errors import InputError

HAN_SEG = catalogue.load_challenge("han_seg")
CT_ONLY = frozenset({"CT"})


def put(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def only_problem(root: Path, required: frozenset[str] | None = None) -> CaseProblem:
    found = find_cases(root, HAN_SEG, required=required)
    assert found.cases == ()
    assert len(found.problems) == 1
    return found.problems[0]


def test_one_file_a_socket_pairs_whatever_the_names(tmp_path: Path) -> None:
    put(tmp_path, "images/ct/9b1d.mha", "images/t1-mri/004e.mha")
    found = find_cases(tmp_path, HAN_SEG)
    files = {
        "CT": tmp_path / "images/ct/9b1d.mha",
        "MR_T1": tmp_path / "images/t1-mri/004e.mha",
    }
    assert found.cases == (Case("9b1d", files),)
    assert found.problems == ()


def test_single_files_named_for_two_patients_are_not_paired(tmp_path: Path) -> None:
    put(tmp_path, "images/ct/case_01_CT.mha", "images/t1-mri/case_02_MR_T1.mha")
    found = find_cases(tmp_path, HAN_SEG, required=CT_ONLY)
    assert [(case.name, set(case.files)) for case in found.cases] == [("case_01", {"CT"})]
    assert [problem.name for problem in found.problems] == ["case_02"]


def test_several_pair_by_name_and_not_by_order(tmp_path: Path) -> None:
    put(tmp_path, "images/ct/b_IMG_CT.nrrd", "images/ct/a_ct.mha")
    put(tmp_path, "images/t1-mri/B_IMG_MR_T1.nii.gz", "images/t1-mri/a_T1.nrrd")
    first, second = find_cases(tmp_path, HAN_SEG).cases
    assert (first.name, second.name) == ("a", "b")
    assert first.files["MR_T1"].name == "a_T1.nrrd"
    assert second.files["MR_T1"].name == "B_IMG_MR_T1.nii.gz"


def test_hidden_files_are_ignored(tmp_path: Path) -> None:
    put(tmp_path, "images/ct/x.mha", "images/ct/.DS_Store", "images/t1-mri/x.mha")
    found = find_cases(tmp_path, HAN_SEG)
    assert [case.name for case in found.cases] == ["x"]
    assert found.problems == ()


@pytest.mark.parametrize("below", [".", "case_01"])
def test_data_set_layout_and_one_case_folder(tmp_path: Path, below: str) -> None:
    put(tmp_path / "case_01", "case_01_IMG_CT.nrrd", "case_01_IMG_MR_T1.nrrd")
    put(tmp_path / "case_01", "case_01_OAR_Brainstem.seg.nrrd")
    (case,) = find_cases(tmp_path / below, HAN_SEG).cases
    assert case.name == "case_01"
    assert {channel: path.name for channel, path in case.files.items()} == {
        "CT": "case_01_IMG_CT.nrrd",
        "MR_T1": "case_01_IMG_MR_T1.nrrd",
    }


def test_data_set_layout_never_pairs_two_patients(tmp_path: Path) -> None:
    put(tmp_path, "case_01/case_01_IMG_CT.nrrd", "case_02/case_02_IMG_MR_T1.nrrd")
    found = find_cases(tmp_path, HAN_SEG)
    assert found.cases == ()
    assert [problem.name for problem in found.problems] == ["case_01", "case_02"]


@pytest.mark.parametrize("key", ["socket", "interface"])
def test_inputs_json_tells_the_sockets(tmp_path: Path, key: str) -> None:
    put(tmp_path, "images/ct/x.mha", "images/t1-mri/y.mha")
    image = {"image": {"name": "x.mha"}, "file": None, "value": None}
    listed = [{key: {"slug": "ct"}, **image}, {key: {"slug": "age"}, "value": 60, "image": None}]
    (tmp_path / "inputs.json").write_text(json.dumps(listed))
    (case,) = find_cases(tmp_path, HAN_SEG, required=CT_ONLY).cases
    assert dict(case.files) == {"CT": tmp_path / "images/ct/x.mha"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected the platform's JSON list of inputs, found a file that cannot be read"),
        ("{}", "expected a JSON list of inputs, found dict; correct it or remove it"),
        (
            '[{"socket": {"slug": "pet"}, "image": {}}, 7]',
            "expected images of the sockets ct, t1-mri, found pet; give the job these inputs",
        ),
    ],
)
def test_broken_inputs_json(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "inputs.json").write_text(text)
    with pytest.raises(InputError) as caught:
        find_cases(tmp_path, HAN_SEG)
    assert str(caught.value).startswith(f"{tmp_path}/inputs.json: {message}")


def test_no_case(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        find_cases(tmp_path, HAN_SEG)
    assert str(caught.value) == (
        f"{tmp_path}: expected images in images/ct and images/t1-mri or case folders as in the "
        "data set, found no case; put the images there or pass another --input"
    )


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a folder with images, found none; pass"):
        find_cases(tmp_path / "missing", HAN_SEG)


@pytest.mark.parametrize("required", [None, CT_ONLY])
def test_mr_without_its_ct(tmp_path: Path, required: frozenset[str] | None) -> None:
    put(tmp_path, "images/t1-mri/a_MR.mha")
    assert only_problem(tmp_path, required) == CaseProblem(
        "a",
        f"{tmp_path}/images/t1-mri/a_MR.mha: expected the CT of case 'a' with it, "
        "found no CT at all; add it under the same name, or remove this MR_T1",
    )


def test_ct_without_mr_is_a_problem_only_where_mr_is_required(tmp_path: Path) -> None:
    put(tmp_path, "images/ct/a_CT.mha", "images/ct/b_CT.mha", "images/t1-mri/b_MR.mha")
    found = find_cases(tmp_path, HAN_SEG)
    assert [case.name for case in found.cases] == ["b"]
    assert found.problems == (
        CaseProblem(
            "a",
            f"{tmp_path}/images/ct/a_CT.mha: expected the MR_T1 of case 'a' with it, "
            "found only b_MR.mha; add it under the same name, or remove this CT",
        ),
    )
    optional = find_cases(tmp_path, HAN_SEG, required=CT_ONLY)
    assert [sorted(case.files) for case in optional.cases] == [["CT"], ["CT", "MR_T1"]]
    assert optional.problems == ()


def test_two_cts_for_one_mr(tmp_path: Path) -> None:
    put(tmp_path, "images/ct/a_CT.mha", "images/ct/a_IMG_CT.nrrd", "images/t1-mri/a_MR.mha")
    assert only_problem(tmp_path) == CaseProblem(
        "a",
        f"{tmp_path}/images/ct: expected one CT for case 'a', found 2 (a_CT.mha, a_IMG_CT.nrrd); "
        "keep one of them, or give each case its own name",
    )


@pytest.mark.parametrize("folder", [False, True])
def test_what_is_no_image_spoils_no_other_case(tmp_path: Path, folder: bool) -> None:
    put(tmp_path, "images/ct/x.mha", "images/t1-mri/x.mha")
    put(tmp_path, "images/ct/dicom/1.dcm" if folder else "images/ct/notes.txt")
    found = find_cases(tmp_path, HAN_SEG)
    assert [case.name for case in found.cases] == ["x"]
    name, kind = ("dicom", "a folder") if folder else ("notes.txt", "another file")
    assert found.problems == (
        CaseProblem(
            name,
            f"{tmp_path}/images/ct/{name}: expected an image (.mha, .mhd, .nrrd, .nii, .nii.gz), "
            f"found {kind}; remove it from this folder",
        ),
    )


def test_output_names_that_coincide(tmp_path: Path) -> None:
    put(tmp_path, "images/ct/a_CT.mha", "images/ct/a_seg.mha", "images/ct/b.mha")
    found = find_cases(tmp_path, HAN_SEG, required=CT_ONLY)
    assert [case.name for case in found.cases] == ["b"]
    assert [problem.message for problem in found.problems] == [
        f"{tmp_path}/images/ct/{name}: expected an output name of its own, "
        "found images/head_neck_oar/a_seg.mha, which another case has too; rename the file"
        for name in ("a_CT.mha", "a_seg.mha")
    ]


def test_link_out_of_the_input(tmp_path: Path) -> None:
    put(tmp_path, "elsewhere.mha", "in/images/t1-mri/x.mha")
    (tmp_path / "in/images/ct").mkdir()
    (tmp_path / "in/images/ct/x.mha").symlink_to(tmp_path / "elsewhere.mha")
    assert only_problem(tmp_path / "in").message == (
        f"{tmp_path}/in/images/ct/x.mha: expected a file inside the input folder, "
        "found a link that leaves it; put the file itself there"
    )


def test_link_within_the_input_is_followed(tmp_path: Path) -> None:
    put(tmp_path, "images/ct/x.mha")
    (tmp_path / "images/t1-mri").mkdir()
    (tmp_path / "images/t1-mri/x.mha").symlink_to("../ct/x.mha")
    assert len(find_cases(tmp_path, HAN_SEG).cases) == 1


def test_dangling_link(tmp_path: Path) -> None:
    put(tmp_path, "images/t1-mri/x.mha")
    (tmp_path / "images/ct").mkdir()
    (tmp_path / "images/ct/x.mha").symlink_to("nowhere")
    assert "expected a readable file, found No such file" in only_problem(tmp_path).message


def test_pipe(tmp_path: Path) -> None:
    put(tmp_path, "images/ct/x.mha")
    (tmp_path / "images/t1-mri").mkdir()
    os.mkfifo(tmp_path / "images/t1-mri/x.mha")
    assert only_problem(tmp_path, CT_ONLY).message == (
        f"{tmp_path}/images/t1-mri/x.mha: expected a plain file, "
        "found a pipe or device; put the image itself there"
    )


def test_pipe_as_inputs_json(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "inputs.json")
    with pytest.raises(InputError, match=r"inputs\.json: expected a plain file, found a pipe"):
        find_cases(tmp_path, HAN_SEG)


def test_control_characters_in_a_name(tmp_path: Path) -> None:
    put(tmp_path, "images/ct/x\n.mha", "images/t1-mri/x.mha")
    message = only_problem(tmp_path).message
    assert "\n" not in message
    assert message.endswith("a printable file name, found control characters; rename it")


# --- other challenges' layouts


def test_images_that_are_called_alike_in_every_case(tmp_path: Path) -> None:
    put(tmp_path, *(f"{n}/{f}.nii.gz" for n in (7, 12) for f in ("data", "label")))
    rules = catalogue.load_challenge("structseg_lung_gtv")
    found = find_cases(tmp_path, rules)
    assert [case.name for case in found.cases] == ["12", "7"]
    assert label_path(found.cases[1], rules) == Path("7/label.nii.gz")
    (alone,) = find_cases(tmp_path / "7", rules).cases
    assert alone.name == "7"


def test_two_cts_of_a_case(tmp_path: Path) -> None:
    put(tmp_path, *(f"segrap_0001/{n}.nii.gz" for n in ("image", "image_contrast", "Brain")))
    rules = catalogue.load_challenge("segrap_oar")
    (case,) = find_cases(tmp_path, rules).cases
    assert {name: path.name for name, path in case.files.items()} == {
        "CT": "image.nii.gz",
        "CT_contrast": "image_contrast.nii.gz",
    }
    assert label_path(case, rules) == Path("images/head-neck-segmentation/segrap_0001.mha")
    put(tmp_path, *(f"segrap_0002/{n}.nii.gz" for n in ("image", "image_contrast")))
    assert len(find_cases(tmp_path, rules).cases) == 2
    shutil.rmtree(tmp_path / "segrap_0002")
    (tmp_path / "segrap_0001/image_contrast.nii.gz").unlink()
    (problem,) = find_cases(tmp_path, rules).problems
    assert "expected the CT_contrast of case 'segrap_0001'" in problem.message


def test_label_file_of_segrap_is_an_mha_whatever_the_input(tmp_path: Path) -> None:
    rules = catalogue.load_challenge("segrap_gtv")
    case = Case("x", {"CT": Path("images/head-neck-ct/x.nii.gz")})
    expected = Path("images/gross-tumor-volume-segmentation/x.mha")
    assert label_path(case, rules) == expected


def test_a_folder_of_plain_cts(tmp_path: Path) -> None:
    rules = catalogue.load_challenge("han5k")
    put(tmp_path, "RADCURE-0005.nii.gz", "RADCURE-0006.nii.gz")
    assert [c.name for c in find_cases(tmp_path, rules).cases] == ["RADCURE-0005", "RADCURE-0006"]
    # Files that are marked end the guessing.
    put(tmp_path, "RADCURE-0007_0000.nii.gz")
    (case,) = find_cases(tmp_path, rules).cases
    assert case.name == "RADCURE-0007"
    assert label_path(case, rules) == Path("labels/RADCURE-0007.nii.gz")
