"""A case in DICOM gives the labels of the same case in MetaImage, voxel for voxel."""

from __future__ import annotations

import json
from pathlib import Path

import highdicom
import nnunet_oracle as oracle
import numpy as np
import pydicom
import pytest
from dicom_files import PATIENT_NAME, turned, uid, write_series
from dicom_studies import FORMS, MR, write_study
from even_odd import fill_roi

from oarseg.challenges import catalogue
from oarseg.cli import main
from oarseg.imaging.files.dicom.assemble import assemble_series
from oarseg.imaging.files.dicom.search import search_folder
from oarseg.imaging.files.dicom.series import study_name
from oarseg.imaging.files.read_scan import read_volume
from oarseg.imaging.orientation import to_lps
from oarseg.imaging.rigid import RigidTransform
from oarseg.imaging.volume import Volume
from oarseg.labels.structure_sets import read_structures
from oarseg.phantom import write_cases
from oarseg.registration import Registration, Verdict
from oarseg.workflows import register_pair, segment_folder
from oarseg.workflows.review.report_pages import write_pages
from oarseg.workflows.segment_folder import Failure
from oarseg.workflows.settings import Settings

pytestmark = pytest.mark.dicom
NAME = study_name(uid("study", "1"))
HAN_SEG = catalogue.load_challenge("han_seg")
LABELS = Path("images", "head_neck_oar")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny network with random weights, which any difference of its input changes."""
    return oracle.write_han_seg_weights(tmp_path_factory.mktemp("weights"), folds=1)


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom")
    write_cases(folder, seeds=[3], size="tiny", layout="platform")
    return next(folder.rglob("images")).parent


@pytest.fixture(scope="module")
def images(phantom: Path) -> tuple[Volume, Volume]:
    (ct,), (mr,) = (sorted((phantom / "images" / name).iterdir()) for name in ("ct", "t1-mri"))
    return read_volume(ct), read_volume(mr)


@pytest.fixture(scope="module")
def expected(phantom: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Volume:
    out = tmp_path_factory.mktemp("expected")
    assert segment(phantom, out, weights) == ()
    return labels_of(out)


def segment(folder: Path, out: Path, weights: Path) -> tuple[Failure, ...]:
    """Segment within this process, with the MR where its header places it: nowhere near the CT."""
    settings = Settings(folder, out, weights, device="cpu", threads=1, registration="none")
    return segment_folder.segment_folder(settings)


def labels_of(out: Path) -> Volume:
    (file,) = (out / LABELS).iterdir()
    volume = read_volume(file)
    return to_lps(volume.grid).volume(volume)


@pytest.mark.parametrize("name", FORMS)
def test_labels_are_those_of_the_same_case_in_metaimage(
    images: tuple[Volume, Volume], expected: Volume, weights: Path, tmp_path: Path, name: str
) -> None:
    write_study(tmp_path / "in", images, name)
    assert segment(tmp_path / "in", tmp_path / "out", weights) == ()
    found = labels_of(tmp_path / "out")
    assert len(np.unique(expected.array)) > 2
    np.testing.assert_array_equal(found.array, expected.array)
    report = json.loads((tmp_path / "out" / "reports" / f"{NAME}.json").read_text())
    assert report["inputs"] == {"CT": uid("series", "1", "1"), "MR_T1": uid("series", "1", "mr")}
    everything = "".join(map(str, (tmp_path / "out").rglob("*"))) + json.dumps(report)
    assert PATIENT_NAME.split("^")[0] not in everything


def test_a_socket_of_slices(
    images: tuple[Volume, Volume], expected: Volume, weights: Path, tmp_path: Path
) -> None:
    write_series(tmp_path / "in" / "images" / "ct", images[0])
    write_series(tmp_path / "in" / "images" / "t1-mri", images[1], MR)
    assert segment(tmp_path / "in", tmp_path / "out", weights) == ()
    np.testing.assert_array_equal(labels_of(tmp_path / "out").array, expected.array)
    written = write_pages(tmp_path / "in", tmp_path / "out", HAN_SEG)
    assert written.failures == {}
    (page,) = written.files
    text = page.read_text(encoding="utf-8")
    assert text.count("data-organ=") == len(HAN_SEG.organs)
    assert PATIENT_NAME.split("^")[0] not in text


def test_contours_and_segments_are_the_labels(
    images: tuple[Volume, Volume], weights: Path, tmp_path: Path
) -> None:
    ct = turned(images[0], (-1, 1, -1))
    write_series(tmp_path / "in", ct)
    series = assemble_series(search_folder(tmp_path / "in").series[0])
    for out in ("out", "again"):
        wanted = Settings(
            tmp_path / "in",
            tmp_path / out,
            weights,
            device="cpu",
            threads=2,
            structure_set=True,
            segmentation="binary",
        )
        assert segment_folder.segment_folder(wanted) == ()
    (file,) = (tmp_path / "out" / LABELS).iterdir()
    labels = read_volume(file).array
    contours, segments = (f"oar_masks/{NAME}/{NAME}_{end}.dcm" for end in ("RTSTRUCT", "SEG"))
    for name in (contours, segments):
        first, second = (tmp_path / out / name for out in ("out", "again"))
        assert first.read_bytes() == second.read_bytes()
    present = set(np.unique(labels)) - {0}
    structure_set = pydicom.dcmread(tmp_path / "out" / contours)
    assert {item.ReferencedROINumber for item in structure_set.ROIContourSequence} == present
    for item in structure_set.ROIContourSequence:
        assert np.array_equal(fill_roi(item, series), labels == item.ReferencedROINumber)
    read, unknown = read_structures(tmp_path / "out" / contours, HAN_SEG, series.grid)
    assert unknown == ()
    numbers = {structure.name: structure.label for structure in HAN_SEG.structures}
    assert {numbers[name] for name in read} == present
    for name, pieces in read.items():
        mask = pieces.mask()
        assert mask is not None
        assert mask.voxels == np.count_nonzero(labels == numbers[name])
        box = tuple(slice(a, a + n) for a, n in zip(mask.start, mask.array.shape, strict=True))
        assert np.array_equal(mask.array, labels[box] == numbers[name])
    found = highdicom.seg.segread(tmp_path / "out" / segments)
    array = found.get_pixels_by_source_instance(
        list(series.sop_instance_uids), combine_segments=True, assert_missing_frames_are_empty=True
    )
    assert np.array_equal(np.array([0, *sorted(present)])[array], labels)
    report = json.loads((tmp_path / "out" / "reports" / f"{NAME}.json").read_text())
    assert report["dicom"]["files"] == [Path(contours).name, Path(segments).name]
    assert len(report["dicom"]["absent"]) == 30 - len(present)


def test_a_missing_slice_fails_its_case_and_writes_nothing_of_it(
    images: tuple[Volume, Volume], weights: Path, tmp_path: Path
) -> None:
    write_series(tmp_path / "in", images[0])[9].unlink()
    (failure,) = segment(tmp_path / "in", tmp_path / "out", weights)
    assert failure.case == NAME
    assert "slice_0010.dcm: expected slices" in failure.message
    written = [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert "results.json" in written
    assert not any(NAME in name for name in written)


def test_register_takes_folders(
    images: tuple[Volume, Volume], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = Registration(RigidTransform(), Verdict("good", 0.5, 0.5, 0.5, 1.0, 0.0, ()), 0.0)
    monkeypatch.setattr(register_pair.registration, "register_mr", lambda *_, **__: good)
    write_series(tmp_path / "ct", images[0])
    write_series(tmp_path / "mr", images[1], MR)
    write_series(tmp_path / "mr" / "2", images[1], MR.but(series="other"))
    series = ["--mr-series", uid("series", "1", "mr")]
    folders = [str(tmp_path / name) for name in ("ct", "mr")]
    assert main(["register", *folders, "--out", str(tmp_path / "out"), *series]) == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert len(names) == 4
    assert all(name.startswith("series_") for name in names)
