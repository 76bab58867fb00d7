"""A case as the study that an archive exports, in each position and form of its slices."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from dicom_files import Form, small_volume, turned, write_series

from oarseg.imaging.volume import Volume

MR = Form(modality="MR", series="mr", reference="2", intercept=None, signed=True)
# How the CT is stored, and which of its axes (z, y, x) run backwards then.
FORMS = {
    "HFS, names shuffled": (Form(), (1, 1, 1)),
    "HFP, half a unit, signed": (Form(slopes=(0.5,), intercept=0.0, signed=True), (1, -1, -1)),
    "FFS, slopes differ": (Form(slopes=(1.0, 0.5, 0.25)), (-1, 1, -1)),
    "FFP, signed": (Form(intercept=0.0, signed=True), (-1, -1, 1)),
}


def write_study(folder: Path, images: tuple[Volume, Volume], name: str) -> None:
    """Write CT and MR, and beside them a scout, junk and a copy of a slice.

    Files have no ending, their names are in no order, and all instance numbers are the same.

    Args:
        folder: where to write.
        images: CT and MR.
        name: of ``FORMS``.
    """
    form, axes = FORMS[name]
    ct, mr = (turned(image, axes) for image in images)
    order = list(range(ct.grid.shape[0]))
    random.Random(name).shuffle(order)
    files = write_series(folder / "a" / "b", ct, form.but(names=lambda i: f"IM{order[i]}"))
    shutil.copy(files[3], folder / "a" / "copy")
    (folder / "junk").write_bytes(b"\0junk" * 99)
    scout = form.but(
        series="scout",
        names="scout{}".format,
        change=lambda data, _: setattr(data, "ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"]),
    )
    write_series(folder / "a", small_volume((1, 9, 9)), scout)
    write_series(folder / "mr", mr, MR)
