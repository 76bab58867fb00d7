"""Parse data sets with pydicom, within bounds on bytes, elements and depth."""

from __future__ import annotations

import logging
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from oarseg.errors import InputError
from oarseg.imaging.files.dicom.file_meta import FileMeta
from oarseg.imaging.files.pixels import unusable_file

if TYPE_CHECKING:
    from pydicom.dataset import Dataset
    from pydicom.tag import BaseTag

# pydicom quotes values in its log, a patient's name among them.
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)

PIXEL_DATA = 0x7FE00010
FIRST_OF_PIXELS = 0x7FE00008
FRAME_GROUPS = range(0x52009229, 0x52009231)
UNDEFINED = 0xFFFFFFFF


@dataclass(frozen=True)
class ReadBounds:
    """What a data set may ask for.

    Attributes:
        data_bytes: the most bytes of it that are read.
        reads: how often the parser may read; two or three times an element.
        value_bytes: the most bytes of a value that is kept.
    """

    data_bytes: int
    reads: int
    value_bytes: int


class _BoundedReader:
    """A stream that gives no more bytes than it has, and that can be asked so often only.

    ``BufferedReader.read(4 GiB)`` would allocate all of it for a file of 1 KiB.
    """

    def __init__(self, stream: BinaryIO, path: Path, bounds: ReadBounds) -> None:
        self._stream = stream
        self._path = path
        self._end = min(os.fstat(stream.fileno()).st_size, bounds.data_bytes)
        self._left = bounds.reads

    def read(self, count: int = -1) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise unparsable_file(self._path, "far more elements than expected")
        rest = max(0, self._end - self._stream.tell())
        return self._stream.read(rest if count < 0 else min(count, rest))

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()


def parse_data_set(
    path: Path, stream: BinaryIO, meta: FileMeta, keywords: tuple[str, ...], bounds: ReadBounds
) -> tuple[Dataset, int | None, int | None]:
    """Parse a data set up to its pixels.

    Args:
        path: for messages.
        stream: the file.
        meta: its meta information, whose transfer syntax is allowed.
        keywords: of the elements to keep; the others are passed over.
        bounds: what the data set may ask for.

    Returns:
        The elements, where the value of the pixel data begins, and its length; both None
        without pixel data, and the length None if it is a sequence of fragments.

    Raises:
        InputError: the data set is damaged, or goes beyond the bounds.
    """
    from pydicom import config
    from pydicom.datadict import tag_for_keyword
    from pydicom.filereader import read_dataset
    from pydicom.tag import BaseTag

    wanted = [BaseTag(tag) for name in keywords if (tag := tag_for_keyword(name)) is not None]
    reader = cast(BinaryIO, _BoundedReader(stream, path, bounds))
    length_found: list[int] = []

    def stop(tag: BaseTag, _: str | None, length: int) -> bool:
        if tag in wanted and bounds.value_bytes < length < UNDEFINED:
            raise unparsable_file(path, "a value far beyond its size")
        if tag == PIXEL_DATA:
            length_found.append(length)
        return tag >= FIRST_OF_PIXELS or tag in FRAME_GROUPS

    stream.seek(meta.end)
    try:
        with warnings.catch_warnings(), config.disable_value_validation():
            warnings.simplefilter("ignore")
            data = read_dataset(
                reader,
                meta.implicit,
                True,
                stop_when=stop,
                specific_tags=cast(list[BaseTag | int], wanted),
            )
    except (InputError, MemoryError):
        raise
    except RecursionError as error:
        raise unparsable_file(path, "sequences nested too deep") from error
    # Whatever pydicom makes of damaged bytes: it promises no particular exception.
    except Exception as error:
        raise unparsable_file(path, f"a damaged data set ({type(error).__name__})") from error
    if not length_found:
        return data, None, None
    start = _value_start(stream)
    return data, start, None if length_found[0] == UNDEFINED else length_found[0]


def _value_start(stream: BinaryIO) -> int:
    """Return where the value of the element begins at which the stream stands."""
    begin = stream.tell()
    head = stream.read(8)
    # A length that looks like one of these types would be odd, which none may be.
    return begin + (12 if head[4:6] in (b"OB", b"OW") else 8)


def unparsable_file(path: Path, found: str) -> InputError:
    """Return the error for a data set that cannot be parsed."""
    return unusable_file(
        path,
        expected="a DICOM file whose data set can be read",
        found=found,
        do="export it again",
    )
