"""What identifies the DICOM objects of a case: UIDs, and the words on their origin."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass

from oarseg import __version__
from oarseg.imaging.files.dicom.series import DicomSeries

MANUFACTURER = "oarseg"
# Longest texts of the value representations LO and ST (PS3.5 table 6.2-1).
LONG_STRING = 64
SHORT_TEXT = 1024


@dataclass(frozen=True)
class Origin:
    """What the objects of a case were made from and by.

    Attributes:
        series: the images.
        model: the model's title.
        model_sha256: of its manifest.
        warning: what its users must know, such as "NOT FOR CLINICAL USE"; may be empty.
        labels_sha256: of the label map.
    """

    series: DicomSeries
    model: str
    model_sha256: str
    warning: str
    labels_sha256: str

    def uid(self, *purpose: str) -> str:
        """Derive a UID from the images, the model, the labels and a purpose.

        A rerun gives the same, and nothing else does: the digest fills a UUID of version 8,
        which DICOM takes below the root 2.25 (PS3.5 B.2).
        """
        series = self.series
        sources = (*series.sop_instance_uids, self.model_sha256, self.labels_sha256, __version__)
        text = "\n".join((series.series_uid, *sources, *purpose))
        digest = bytearray(hashlib.sha256(text.encode()).digest()[:16])
        digest[6] = digest[6] & 0x0F | 0x80
        digest[8] = digest[8] & 0x3F | 0x80
        return f"2.25.{uuid.UUID(bytes=bytes(digest)).int}"

    def description(self) -> str:
        """Name model, hash and warning in one text."""
        parts = [f"oarseg {__version__}", self.model, f"SHA-256 {self.model_sha256}", self.warning]
        return one_line("; ".join(part for part in parts if part), SHORT_TEXT)


def one_line(text: str, length: int) -> str:
    """Shorten a text to what one DICOM value can hold; a backslash would begin another."""
    line = "".join(c if c.isprintable() and c != "\\" else " " for c in text)
    return line[:length].strip()
