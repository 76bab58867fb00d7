"""The head of a DICOM file: what it holds and how, judged before anything else is parsed."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from oarseg.imaging.files.pixels import quote_header_text, unusable_file

PREAMBLE = b"DICM"
PREAMBLE_AT = 128
BYTES_TO_TELL = PREAMBLE_AT + len(PREAMBLE)
# Fifteen elements are defined for it; a private one may hold some bytes of its own.
MOST_ELEMENTS = 64
MOST_META_BYTES = 1 << 16
LONG_VALUES = frozenset({b"OB", b"OW", b"SQ", b"UN", b"UT"})
SOP_CLASS, SYNTAX = 0x0002, 0x0010

# With which a data set begins whose file has no preamble, and how long the first one may be.
FIRST_ELEMENTS = frozenset(
    {(0x0002, 0x0000), (0x0008, 0x0000), (0x0008, 0x0001), (0x0008, 0x0005), (0x0008, 0x0008)}
)
FIRST_KINDS = frozenset({b"UL", b"CS", b"SH", b"LO"})
MOST_FIRST_BYTES = 256

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
RLE = "1.2.840.10008.1.2.5"
# Lossless ones only; their decoders are optional.
JPEG_LOSSLESS = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
JPEG_LS = "1.2.840.10008.1.2.4.80"
JPEG_2000 = "1.2.840.10008.1.2.4.90"
# Deflated data sets are left out on purpose: they inflate without a bound while they are parsed.
ALLOWED_SYNTAXES = frozenset({IMPLICIT, EXPLICIT, RLE, *JPEG_LOSSLESS, JPEG_LS, JPEG_2000})


@dataclass(frozen=True)
class FileMeta:
    """What the file meta information says.

    Attributes:
        sop_class_uid: kind of object; "" where it is not given.
        transfer_syntax_uid: how it is encoded.
        end: byte at which the data set begins.
    """

    sop_class_uid: str
    transfer_syntax_uid: str
    end: int

    @property
    def implicit(self) -> bool:
        """Whether the data set leaves out the types of its values."""
        return self.transfer_syntax_uid == IMPLICIT

    @property
    def sop_class(self) -> str:
        """The kind of object in words, for messages."""
        return uid_name(self.sop_class_uid) or "an object of unknown class"


def uid_name(uid: str) -> str:
    """Return the registered name of a UID, else the UID, printable and short."""
    from pydicom import config
    from pydicom.uid import UID

    # It would warn of what is no UID, and quote all of it.
    name = UID(uid, validation_mode=config.IGNORE).name
    return name if name.isprintable() and len(name) <= 64 else quote_header_text(name)


def is_dicom(head: bytes) -> bool:
    """Return whether the first bytes of a file are those of DICOM."""
    return head[PREAMBLE_AT : PREAMBLE_AT + len(PREAMBLE)] == PREAMBLE


def is_bare(head: bytes) -> bool:
    """Return whether the first bytes are those of a data set without what belongs before it.

    Old programs leave out the preamble, or the file meta information too. Then the first
    element is one of group 2 or 8, with a type of its own or a short length.
    """
    if head.startswith(PREAMBLE):
        return True
    if len(head) < 8:
        return False
    group, element, kind = struct.unpack("<HH2s", head[:6])
    if (group, element) not in FIRST_ELEMENTS:
        return False
    return kind in FIRST_KINDS or int.from_bytes(head[4:8], "little") <= MOST_FIRST_BYTES


def read_file_meta(path: Path, stream: BinaryIO) -> FileMeta | None:
    """Read the file meta information.

    Args:
        path: for messages.
        stream: the file, at its begin.

    Returns:
        None if the file is not DICOM.

    Raises:
        InputError: the file is DICOM, and its meta information is damaged or missing.
    """
    head = stream.read(BYTES_TO_TELL)
    if not is_dicom(head):
        if is_bare(head):
            raise unusable_file(
                path,
                expected=f"a DICOM file with {PREAMBLE.decode()} at byte {PREAMBLE_AT}",
                found="a data set without file meta information before it",
                do="convert it with dcmtk's dcmconv, or export it again",
            )
        return None
    values: dict[int, str] = {}
    for _ in range(MOST_ELEMENTS):
        begin = stream.tell()
        element = _read_element(stream)
        if element is None:
            return FileMeta(values.get(SOP_CLASS, ""), values.get(SYNTAX, ""), begin)
        number, value = element
        # A repeated element must not be able to exchange what was judged.
        values.setdefault(number, value.decode("ascii", "replace").strip("\0 "))
    raise unusable_file(
        path,
        expected=f"file meta information of at most {MOST_ELEMENTS} elements",
        found="more",
        do="export it again",
    )


def check_syntax(path: Path, meta: FileMeta) -> None:
    """Refuse an encoding that is not on the list.

    Raises:
        InputError: it is not.
    """
    if meta.transfer_syntax_uid not in ALLOWED_SYNTAXES:
        from pydicom.uid import UID

        names = ", ".join(sorted(UID(uid).name for uid in ALLOWED_SYNTAXES))
        raise unusable_file(
            path,
            expected=f"a transfer syntax among {names}",
            found=uid_name(meta.transfer_syntax_uid) or "none",
            do="export it without compression, or decompress it, as dcmdjpeg and gdcmconv do",
        )


def _read_element(stream: BinaryIO) -> tuple[int, bytes] | None:
    """Read an element of group 2: its number and value; None, if another group follows."""
    head = stream.read(8)
    if len(head) < 8:
        return None
    group, number, kind, length = struct.unpack("<HH2sH", head)
    if group != 2:
        return None
    if kind in LONG_VALUES:
        (length,) = struct.unpack("<I", stream.read(4).ljust(4, b"\0"))
    if length > MOST_META_BYTES:
        stream.seek(min(length, 1 << 40), 1)
        return number, b""
    return number, stream.read(length)
