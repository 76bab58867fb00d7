"""Which kinds of image file are read; the content decides, not the name."""

from __future__ import annotations

from pathlib import Path

from oarseg.imaging.files import metaimage, nifti, nrrd
from oarseg.imaging.files.pixels import GZIP_MAGIC, Format, Pixels, open_plain_file, unusable_file

HEADER_LIMIT = 1 << 20
ENDINGS: dict[str, Format] = {
    ".mha": "MetaImage",
    ".mhd": "MetaImage",
    ".nrrd": "NRRD",
    ".nii": "NIfTI",
    ".nii.gz": "NIfTI",
}
OTHERS = {
    GZIP_MAGIC: "a gzip file of something else",
    b"PK": "a zip file",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8": "a JPEG picture",
    b"II*\0": "a TIFF picture",
    b"MM\0*": "a TIFF picture",
    b"\x1c\x02\x00\x00": "NIfTI-2",
    b"\x00\x00\x02\x1c": "NIfTI-2",
    b"version https://git-lfs": "a Git LFS pointer instead of the file",
    b"<": "a web page or XML",
}
HEADERS = {
    "MetaImage": metaimage.parse_metaimage_header,
    "NRRD": nrrd.parse_nrrd_header,
    "NIfTI": nifti.parse_nifti_header,
}


def image_ending(name: str) -> str | None:
    """Return the image ending of a file name in lower case; None if it has none."""
    matches = [known for known in ENDINGS if name.lower().endswith(known)]
    return max(matches, key=len, default=None)


def locate_voxels(path: Path, *, channels: bool = False) -> Pixels:
    """Determine a file's kind by its content, and find its voxels.

    Args:
        path: its name must fit the content.
        channels: allow a fourth axis, of channels.

    Raises:
        InputError: not a plain file, not an image of a known kind or not of the kind that
            its name says, data kept in another file, or a header that is damaged or not
            understood.
    """
    head = read_head(path)
    found = _detect_kind(head)
    expected = ENDINGS[image_ending(path.name) or ".mha"]
    if found != expected:
        raise unusable_file(
            path,
            expected=f"{expected} as the name says",
            found=found or _describe_content(head),
            do="give a file whose name fits its content",
        )
    pixels = HEADERS[expected](path, head, channels=channels)
    if min(*pixels.grid.shape, pixels.channels) < 1:
        raise unusable_file(
            path,
            expected="at least one voxel along each axis",
            found=pixels.grid.size_text,
            do="correct the header",
        )
    return pixels


def read_head(path: Path) -> bytes:
    """Read the first bytes of a file, which hold its header.

    Raises:
        InputError: not a plain file, or not readable.
    """
    with open_plain_file(path) as stream:
        return stream.read(HEADER_LIMIT)


def _detect_kind(head: bytes) -> Format | None:
    if head.startswith(b"NRRD000"):
        return "NRRD"
    if nifti.is_nifti(head):
        return "NIfTI"
    return "MetaImage" if metaimage.is_metaimage(head) else None


def _describe_content(head: bytes) -> str:
    if not head:
        return "an empty file"
    if head[128:132] == b"DICM":
        return "a DICOM file"
    return next((name for magic, name in OTHERS.items() if head.startswith(magic)), "another kind")
