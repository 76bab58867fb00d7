"""Register one MR to one CT, and write the results for review and use."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from oarseg import __version__, registration
from oarseg.errors import OutputError, RegistrationError
from oarseg.imaging.files import read_scan
from oarseg.imaging.files.dicom.choose import find_series
from oarseg.imaging.files.dicom.series import DicomSeries, series_name
from oarseg.imaging.files.locate import image_ending
from oarseg.imaging.regrid import resample_moving
from oarseg.imaging.volume import Volume, to_sitk
from oarseg.registration import Accuracy, Method, Registration
from oarseg.registration.landmarks import Landmarks, read_landmarks
from oarseg.results.case_picture import write_png
from oarseg.results.fusion_picture import draw_fusion

MOVED, TRANSFORM_FILE, VERDICT, PICTURE = (
    "_moved.nrrd",
    "_ct_to_mr.tfm",
    "_registration.json",
    ".png",
)
QUICK_COMPRESSION = 1


@dataclass(frozen=True)
class Registered:
    """A registration and the files that describe it.

    Attributes:
        found: the registration.
        landmarks: the user's corresponding points; None without any.
        errors_mm: target registration error of each point.
        accuracy: mean, standard deviation and maximum of the errors.
        files: verdict and picture; the moved MR and the transform unless it failed.
    """

    found: Registration
    landmarks: Landmarks | None
    errors_mm: tuple[float, ...]
    accuracy: Accuracy | None
    files: tuple[Path, ...]


def register_files(
    ct_path: Path,
    mr_path: Path,
    out: Path,
    *,
    method: Method = "rigid",
    landmarks: Sequence[Path] = (),
    threads: int = 0,
    assume_hu: bool = False,
    series: tuple[Sequence[str], Sequence[str]] = ((), ()),
) -> Registered:
    """Register an MR to a CT, each a file or a folder with one series of DICOM.

    Args:
        out: folder, made if missing. The files are named after the MR:
            ``_moved.nrrd`` (the CT's grid, the MR's type), ``_ct_to_mr.tfm``,
            ``_registration.json``, ``.png``. After a failed registration only the last
            two are written, so that nothing is used by mistake.
        method, threads: see ``registration.register_mr``.
        assume_hu: accept the CT's values as HU without a check.
        series: UIDs of the CT's and the MR's series, if the folders hold several.
        landmarks: see ``landmarks.read_landmarks``.

    Raises:
        InputError: an image or the landmarks cannot be used.
        RegistrationError: no patient in one of the images.
        OutputError: the folder cannot be written; earlier results are unchanged.
    """
    points = read_landmarks(landmarks) if landmarks else None
    ct_source = _source(ct_path, "CT", series[0], "--series")
    mr_source = _source(mr_path, "MR", series[1], "--mr-series")
    ct = read_scan.read_ct(ct_source, assume_hu=assume_hu)
    mr = read_scan.read_mr(mr_source)
    read_scan.check_distinct(ct, mr, mr_path)
    found = registration.register_mr(ct, mr, method=method, threads=threads)
    errors, summary = _accuracy(found, points)
    result = Registered(found, points, errors, summary, ())
    files = _write(out, _stem(mr_source), ct, mr, result)
    return Registered(found, points, errors, summary, files)


def require_usable(found: Registration) -> None:
    """Refuse a registration whose verdict is ``failed``.

    Raises:
        RegistrationError: it is.
    """
    if found.verdict.status == "failed":
        raise RegistrationError(
            f"registration failed: {'; '.join(found.verdict.reasons)}; check that CT and MR are "
            "of one patient and region, and look at the picture"
        )


def _source(path: Path, modality: str, wanted: Sequence[str], option: str) -> read_scan.ImageSource:
    return find_series(path, modality, wanted, option=option) if path.is_dir() else path


def _stem(source: read_scan.ImageSource) -> str:
    if isinstance(source, DicomSeries):
        return series_name(source)
    path = source
    return path.name[: -len(image_ending(path.name) or path.suffix) or None]


def _accuracy(
    found: Registration, points: Landmarks | None
) -> tuple[tuple[float, ...], Accuracy | None]:
    if points is None:
        return (), None
    pair = (points.ct_mm, points.mr_mm)
    errors = registration.target_registration_errors(found.transform, *pair)
    return tuple(errors.tolist()), registration.landmark_accuracy(found.transform, *pair)


def _write(out: Path, stem: str, ct: Volume, mr: Volume, result: Registered) -> tuple[Path, ...]:
    transform, status = result.found.transform, result.found.verdict.status
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out, prefix=".partial-") as folder:
            draft = Path(folder)
            names = [VERDICT, PICTURE]
            text = json.dumps(_record(result), indent=1)
            (draft / f"{stem}{VERDICT}").write_text(text + "\n", encoding="utf-8")
            write_png(draw_fusion(ct, mr, transform, status), draft / f"{stem}{PICTURE}")
            if status != "failed":
                names += [MOVED, TRANSFORM_FILE]
                transform.write(draft / f"{stem}{TRANSFORM_FILE}")
                _write_moved(ct, mr, result, draft / f"{stem}{MOVED}")
            # Those of an earlier run must not stay beside this verdict.
            for name in (MOVED, TRANSFORM_FILE):
                (out / f"{stem}{name}").unlink(missing_ok=True)
            return tuple((draft / f"{stem}{n}").replace(out / f"{stem}{n}") for n in names)
    except (OSError, RuntimeError) as error:
        raise OutputError(f"{out}: expected to write the results there: {error}") from error


def _write_moved(ct: Volume, mr: Volume, result: Registered, path: Path) -> None:
    """Write the MR on the CT's grid; outside its field 0, or its minimum if that is negative."""
    outside = min(0.0, float(mr.array.min()))
    moved = resample_moving(mr, result.found.transform, ct.grid, outside=outside)
    if mr.array.dtype.kind in "iu":
        np.rint(moved.array, out=moved.array)
        moved = moved.with_array(moved.array.astype(mr.array.dtype))
    sitk.WriteImage(to_sitk(moved), str(path), True, QUICK_COMPRESSION)


def _record(result: Registered) -> dict[str, Any]:
    document = {"oarseg": __version__, **registration.registration_record(result.found)}
    if result.landmarks is not None and result.accuracy is not None:
        document["landmarks"] = {
            "error_mm": dict(zip(result.landmarks.names, result.errors_mm, strict=True)),
            "mean_mm": result.accuracy.mean_mm,
            "sd_mm": result.accuracy.sd_mm,
            "max_mm": result.accuracy.max_mm,
            "meets_tg132": result.accuracy.meets_tg132,
        }
    return document
