"""Which files make a case: pairing by key, and every input that is none."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
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


def listed(slug: str, path: str | None, **more: object) -> dict[str, object]:
    """An entry as the platform writes it."""
    place = {} if path is None else {"relative_path": path}
    socket = {"slug": slug, "kind": "Image", "super_kind": "Image", "title": slug, **place}
    image = {"name": "x.mha", "pk": "8a1b"}
    return {"socket": socket, "file": None, "image": image, "value": None, **more}


CT_ENTRY = listed("ct-image", "images/ct")
MR_ENTRY = listed("t1-mri", "images/t1-mri")
AGE_ENTRY = listed("age", "age.json", image=None, value=61)


def write_list(root: Path, *entries: object) -> None:
    (root / "inputs.json").write_text(json.dumps(entries))


def test_the_platforms_slug_and_folder_may_differ(tmp_path: Path) -> None:
    put(tmp_path, "images/ct/x.mha", "images/t1-mri/y.mha", "age.json", "images/pet/z.mha")
    write_list(tmp_path, AGE_ENTRY, MR_ENTRY, CT_ENTRY, listed("pet", "images/pet"))
    (case,) = find_cases(tmp_path, HAN_SEG).cases
    assert dict(case.files) == {
        "CT": tmp_path / "images/ct/x.mha",
        "MR_T1": tmp_path / "images/t1-mri/y.mha",
    }


def test_files_are_read_from_where_the_list_says(tmp_path: Path) -> None:
    put(tmp_path, "images/planning/x.mha", "images/ct/other.mha", "images/mr/y/z.mha")
    write_list(tmp_path, listed("ct", "images/planning"), listed("t1-mri", "images/mr/y/z.mha"))
    (case,) = find_cases(tmp_path, HAN_SEG).cases
    assert dict(case.files) == {
        "CT": tmp_path / "images/planning/x.mha",
        "MR_T1": tmp_path / "images/mr/y/z.mha",
    }


def test_the_sockets_that_came_decide_between_ct_and_mr_and_ct_alone(tmp_path: Path) -> None:
    put(tmp_path, "images/ct/x.mha", "images/t1-mri/left_from_before.mha")
    write_list(tmp_path, CT_ENTRY)
    (case,) = find_cases(tmp_path, HAN_SEG, required=CT_ONLY).cases
    assert set(case.files) == {"CT"}
    write_list(tmp_path, CT_ENTRY, MR_ENTRY)
    (case,) = find_cases(tmp_path, HAN_SEG, required=CT_ONLY).cases
    assert set(case.files) == {"CT", "MR_T1"}


@pytest.mark.parametrize("empty", [True, False])
def test_a_listed_image_that_is_not_there_is_no_case_without_it(
    tmp_path: Path, empty: bool
) -> None:
    put(tmp_path, "images/ct/x.mha")
    if empty:
        (tmp_path / "images/t1-mri").mkdir()
    write_list(tmp_path, CT_ENTRY, MR_ENTRY)
    assert only_problem(tmp_path, CT_ONLY) == CaseProblem(
        "x",
        f"{tmp_path}/images/t1-mri: expected the image of the socket t1-mri, which inputs.json "
        "lists, found none; put it there, or correct the list",
    )


@pytest.mark.parametrize("path", ["../ct", "/etc", "", "images/\n"])
def test_a_path_out_of_the_input_is_refused(tmp_path: Path, path: str) -> None:
    write_list(tmp_path, listed("ct", path))
    message = "socket ct: expected a relative_path inside the input folder, found"
    with pytest.raises(InputError, match=message):
        find_cases(tmp_path, HAN_SEG)


def test_a_socket_listed_twice_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "images/ct/x.mha")
    write_list(tmp_path, CT_ENTRY, CT_ENTRY)
    message = "the socket ct, found ct-image in images/ct and ct-image in images/ct; remove one"
    with pytest.raises(InputError, match=message):
        find_cases(tmp_path, HAN_SEG, required=CT_ONLY)


def test_other_sockets_are_named_by_slug_and_path(tmp_path: Path) -> None:
    write_list(tmp_path, listed("a\nb", "images/pet"), listed("c", None))
    message = r"found 'a\\nb' in images/pet, c; give the job these inputs$"
    with pytest.raises(InputError, match=message):
        find_cases(tmp_path, HAN_SEG)


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
        f"{tmp_path}: expected images of challenge han_seg in images/ct and images/t1-mri, named "
        "<case>_IMG_CT and <case>_IMG_MR_T1 or in case folders as in the data set, found no case; "
        "put the images there, or pass another --input or the weights of the model that is for "
        "them"
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


ANOTHER = "expected an image (.mha, .mhd, .nrrd, .nii, .nii.gz), found another file"
DO = "remove it from this folder, or convert or rename it if it is an image"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("scan.nrd", b"NRRD0004\n# a typo"),
        ("scan.nii.gz.part", b"\x1f\x8b"),
        ("scan.dcm", bytes(128) + b"DICM"),
        ("scan", b"\0\1\2\3"),
        ("scan.nrd", b""),
        ("notes.txt", b"NDims = 3\nElementDataFile = LOCAL\n"),
        ("notes.txt", b"version https://git-lfs.github.com/spec/v1\n"),
        ("dicom/1.dcm", b""),
    ],
)
def test_what_may_be_an_image_is_a_problem(tmp_path: Path, name: str, content: bytes) -> None:
    put(tmp_path, "images/ct/x.mha", "images/t1-mri/x.mha", f"images/ct/{name}")
    (tmp_path / "images/ct" / name).write_bytes(content)
    found = find_cases(tmp_path, HAN_SEG)
    assert [case.name for case in found.cases] == ["x"]
    name = name.split("/")[0]
    expected = ANOTHER.replace("another file", "a folder") if name == "dicom" else ANOTHER
    assert found.problems == (CaseProblem(name, f"{tmp_path}/images/ct/{name}: {expected}; {DO}"),)
    assert found.ignored == ()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("Thumbs.db", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"),
        ("desktop.ini", "\ufeff[.ShellClassInfo]".encode("utf-16")),
        ("README", b"CTs of \xc3\xa4 study"),
        ("README.pdf", b"%PDF-1.7 \xff\xfe"),
        ("x.mha.sha256", b"0c1f  x.mha\n"),
        ("SHA256SUMS", b"0c1f  x.mha\n"),
        ("notes.txt", b""),
        ("who knows", "a note, \u00e4\n".encode() * 9000),
    ],
)
def test_what_is_no_image_is_left_out(tmp_path: Path, name: str, content: bytes) -> None:
    put(tmp_path, "images/ct/x.mha", "images/t1-mri/x.mha")
    (tmp_path / "images/ct" / name).write_bytes(content)
    found = find_cases(tmp_path, HAN_SEG)
    assert [case.name for case in found.cases] == ["x"]
    assert found.problems == ()
    assert found.ignored == (tmp_path / "images/ct" / name,)


def test_a_folder_that_an_archiver_left_is_left_out(tmp_path: Path) -> None:
    put(tmp_path, "images/ct/x.mha", "images/t1-mri/x.mha", "images/ct/__MACOSX/._x.mha")
    assert find_cases(tmp_path, HAN_SEG).problems == ()


def test_a_pipe_beside_the_images_is_not_waited_for(tmp_path: Path) -> None:
    put(tmp_path, "images/ct/x.mha", "images/t1-mri/x.mha")
    os.mkfifo(tmp_path / "images/ct/README")
    assert [problem.name for problem in find_cases(tmp_path, HAN_SEG).problems] == ["README"]


def test_a_misspelt_ending_does_not_make_a_case_vanish(tmp_path: Path) -> None:
    """In the data set's layout other files are expected, but none that is named like an image."""
    put(tmp_path, *(f"case_0{n}/case_0{n}_IMG_MR_T1.nrrd" for n in (1, 2)))
    put(tmp_path, "case_01/case_01_IMG_CT.nrrd", "case_01/case_01_IMG_CT.png")
    put(tmp_path, "case_02/case_02_IMG_CT.nii.g", "case_02/case_02_IMG_CT.json", "OAR_data.csv")
    found = find_cases(tmp_path, HAN_SEG)
    assert [case.name for case in found.cases] == ["case_01"]
    assert found.problems == (
        CaseProblem("case_02", f"{tmp_path}/case_02/case_02_IMG_CT.nii.g: {ANOTHER}; {DO}"),
    )
    assert [path.name for path in found.ignored] == [
        "case_01_IMG_CT.png",
        "case_02_IMG_CT.json",
    ]


def test_a_misspelt_ending_of_an_image_that_nothing_marks(tmp_path: Path) -> None:
    put(tmp_path, "RADCURE-0005.nii.gz", "RADCURE-0006.nii.g", "dataset.json")
    found = find_cases(tmp_path, catalogue.load_challenge("han5k"))
    assert [case.name for case in found.cases] == ["RADCURE-0005"]
    assert [problem.name for problem in found.problems] == ["RADCURE-0006"]
    assert [path.name for path in found.ignored] == ["dataset.json"]


def test_output_names_that_coincide(tmp_path: Path) -> None:
    put(tmp_path, "images/ct/a_CT.mha", "images/ct/a_seg.mha", "images/ct/b.mha")
    found = find_cases(tmp_path, HAN_SEG, required=CT_ONLY)
    assert [case.name for case in found.cases] == ["b"]
    assert [problem.message for problem in found.problems] == [
        f"{tmp_path}/images/ct/{name}: expected an output name of its own, "
        "found images/head_neck_oar/a_seg.mha, which another case has too; rename the file"
        for name in ("a_CT.mha", "a_seg.mha")
    ]


@pytest.mark.parametrize("names", [("x", "x.seg.nrrd"), ("\u00e4", "A\u0308.seg.nrrd")])
def test_outputs_of_two_cases_at_one_path(tmp_path: Path, names: tuple[str, str]) -> None:
    """The masks' folder of one is the segmentation of the other, also where case is ignored."""
    put(tmp_path, *(f"images/ct/{name}.mha" for name in (*names, "y")))
    found = find_cases(tmp_path, HAN_SEG, required=CT_ONLY)
    assert [case.name for case in found.cases] == ["y"]
    assert sorted(problem.name for problem in found.problems) == sorted(names)
    messages = "".join(problem.message for problem in found.problems)
    assert f"found oar_masks/{names[1]}, which another case has too; rename the file" in messages


@pytest.mark.parametrize("name", ["results.json", "earlier", "EARLIER", "Results.JSON"])
def test_a_case_in_the_place_of_the_runs_own_files(tmp_path: Path, name: str) -> None:
    put(tmp_path, f"{name}/data.nii.gz", "7/data.nii.gz")
    found = find_cases(tmp_path, catalogue.load_challenge("structseg_lung_gtv"))
    assert [case.name for case in found.cases] == ["7"]
    (problem,) = found.problems
    assert f"found {name}/label.nii.gz, which the run itself needs" in problem.message


def test_a_hidden_folder_that_is_given_as_the_input(tmp_path: Path) -> None:
    put(tmp_path, ".oarseg/data.nii.gz")
    found = find_cases(tmp_path / ".oarseg", catalogue.load_challenge("structseg_lung_gtv"))
    assert [problem.name for problem in found.problems] == [".oarseg"]


@pytest.mark.parametrize("fault", [None, "MR missing"])
def test_a_name_that_leaves_no_room_for_the_masks(tmp_path: Path, fault: str | None) -> None:
    name = "n" * 248
    put(tmp_path, f"images/ct/{name}.mha", "images/ct/good.mha", "images/t1-mri/good.mha")
    found = find_cases(tmp_path, HAN_SEG, required=None if fault else CT_ONLY)
    assert [case.name for case in found.cases] == ["good"]
    (problem,) = found.problems
    if not fault:
        longest = f"{name}_OAR_Glnd_Lacrimal_L.seg.nrrd"
        assert f"255 bytes each, found {len(longest)} bytes for nnnn" in problem.message


def test_the_longest_name_that_fits(tmp_path: Path) -> None:
    organ = max((organ.name for organ in HAN_SEG.organs), key=len)
    name = "\u00e4" * ((255 - len(f"_OAR_{organ}.seg.nrrd")) // 2)
    put(tmp_path, f"images/ct/{name}.mha", f"images/ct/{name}\u00e4.mha")
    found = find_cases(tmp_path, HAN_SEG, required=CT_ONLY)
    assert [case.name for case in found.cases] == [name]
    assert [problem.name for problem in found.problems] == [f"{name}\u00e4"]


def test_a_line_break_in_the_folder_that_names_a_case(tmp_path: Path) -> None:
    put(tmp_path, "7\n8/data.nii.gz", "9/data.nii.gz")
    found = find_cases(tmp_path, catalogue.load_challenge("structseg_lung_gtv"))
    assert [case.name for case in found.cases] == ["9"]
    (problem,) = found.problems
    assert "\n" not in problem.name + problem.message
    assert "expected a name for its case that a file can have" in problem.message


@pytest.mark.parametrize("name", ["images/ct/x.mha", "images/ct", "case_02", "inputs.json"])
def test_a_link_that_refers_to_itself(tmp_path: Path, name: str) -> None:
    put(tmp_path, "case_01/case_01_CT.mha", "images/t1-mri/y.mha")
    if name == "case_02":
        shutil.rmtree(tmp_path / "images")
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.symlink_to(path.name)
    expected = f"{path}: expected a readable file, found Too many levels of symbolic links"
    if name == "inputs.json":
        with pytest.raises(InputError) as caught:
            find_cases(tmp_path, HAN_SEG, required=CT_ONLY)
        assert str(caught.value).startswith(expected)
        return
    found = find_cases(tmp_path, HAN_SEG, required=CT_ONLY)
    assert any(problem.message.startswith(expected) for problem in found.problems)
    assert [case.name for case in found.cases] == (["case_01"] if name == "case_02" else [])


@pytest.mark.parametrize("below", ["images/ct", "case_02", "."])
def test_a_folder_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: str
) -> None:
    put(tmp_path, f"{below}/z.txt", "case_01/case_01_CT.mha")
    listed = Path.iterdir

    def refused(folder: Path) -> Iterator[Path]:
        if folder == tmp_path / below:
            raise PermissionError(errno.EACCES, "Permission denied")
        return listed(folder)

    monkeypatch.setattr(Path, "iterdir", refused)
    expected = f"{tmp_path / below}: expected a folder that can be read, found Permission denied"
    if below == ".":
        with pytest.raises(InputError, match="expected a folder that can be read"):
            find_cases(tmp_path, HAN_SEG, required=CT_ONLY)
        return
    found = find_cases(tmp_path, HAN_SEG, required=CT_ONLY)
    assert [problem.message.startswith(expected) for problem in found.problems] == [True]
    assert [case.name for case in found.cases] == (["case_01"] if below == "case_02" else [])


def test_inputs_json_beyond_its_limit_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "inputs.json").open("wb") as stream:
        stream.truncate(6 << 30)
    with pytest.raises(InputError, match="list of inputs, at most 1 MiB, found more"):
        find_cases(tmp_path, HAN_SEG)


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


def test_a_channel_that_the_model_has_not_is_no_silence(tmp_path: Path) -> None:
    """As in nnU-Net, where the network would refuse three channels."""
    rules = catalogue.load_challenge("han5k")
    put(tmp_path, "a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz", "c_0001.nii.gz")
    found = find_cases(tmp_path, rules)
    assert [case.name for case in found.cases] == ["b"]
    (problem,) = found.problems
    assert problem.name == "a"
    assert "a_0001.nii.gz: expected the model's channels, _0000, found one more" in problem.message
