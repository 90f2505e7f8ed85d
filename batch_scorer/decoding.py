"""The pixel contract: how the bytes of one film become the pixels of every model.

Training, calibration, parity checks and scoring all come through ``decode_radiograph``.
The rules, one per kind of file:

===================  ==========================================================================
JPEG                 its luma, read at a reduced DCT scale where at least twice the target
                     remains; CMYK through RGB
PNG, TIFF, BMP,      8 bits as they are; 16-bit, 32-bit and float grey from the film's own
WebP                 minimum (black) to its maximum (white); 16-bit colour by its high byte; TIFF
                     whose white is zero inverted; several pages or pictures refused
EXIF orientation     applied; damaged EXIF ignored
alpha                laid over black
palette              looked up, then luma (ITU-R 601)
DICOM                modality LUT or rescale; then the first VOI window (by its function: LINEAR,
                     LINEAR_EXACT, SIGMOID), else the VOI LUT, else the film's own minimum to
                     maximum; MONOCHROME1 inverted
===================  ==========================================================================

Every film is then stretched to the square with one antialiased bilinear filter, as the training
films were (of Pillow's five filters it lies closest to how they were made: mean difference 2.1
grey levels between a full-size film and its published 224-pixel copy, the others 2.3 to 2.5).

``DECODE_VERSION`` is stored in every model card. Raise it by one whenever a change makes any file
decode to other pixels; every model must then be trained or verified again, because the scorer
refuses a model whose number differs. One exception, with its list: a kind of file that was decoded
against its own standard, and that no model was trained, calibrated or verified on, is corrected
without a new number, because the number binds a model to the pixels that it was judged by. So far,
all in DICOM and before the first release: windows LINEAR_EXACT and SIGMOID (were read as LINEAR),
8-bit VOI LUTs with more than 256 inputs (ran over), pixels whose high bit is not the last of their
stored bits (lost their upper bits), compressed frames without an end (were filled up with grey).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from batch_scorer.dicom import is_dicom, open_dicom
from batch_scorer.dicom_pixels import decode_dicom
from batch_scorer.errors import NotRadiograph, Unreadable, Unsupported
from batch_scorer.pictures import decode_picture, measure_picture, refuse_half_films

if TYPE_CHECKING:
    from numpy.typing import NDArray

DECODE_VERSION = 1
FILTER = Image.Resampling.BILINEAR
HEADER_BYTES = 1024
"""As much of a file as ``sniff`` looks at."""
_BITMAP_HEADER_BYTES = (12, 40, 52, 56, 64, 108, 124)


def decode_radiograph(data: bytes, size_px: int) -> NDArray[np.uint8]:
    """Turn one encoded X-ray into the pixels that every model was trained on.

    Args:
        data: A whole JPEG, PNG, TIFF, BMP, WebP or DICOM file.
        size_px: Side of the square to return, from the model card.

    Returns:
        Shape (size_px, size_px), 0 black to 255 white, not normalised.

    Raises:
        ImageError: The bytes are truncated, too large or small, or no radiograph.

    Source: DECODE_VERSION 1; DICOM PS3.3 C.7.6.3 and C.11.
    """
    refuse_half_films()
    if sniff(data) == "DICOM":
        return _stretch(Image.fromarray(decode_dicom(open_dicom(data))), size_px)
    return _stretch(decode_picture(data, size_px), size_px)


def measure_radiograph(data: bytes) -> tuple[int, int]:
    """Read the width and height that a film has before it is stretched, from its header.

    Returns:
        (width_px, height_px), after EXIF orientation.

    Raises:
        ImageError: The header cannot be read.
    """
    if sniff(data) == "DICOM":
        header = open_dicom(data, header_only=True)
        return int(header.Columns), int(header.Rows)  # decoding has read both already
    return measure_picture(data)


def sniff(data: bytes) -> str:
    """Name the format of a file by its first bytes, never by its name.

    Args:
        data: The file, or its first ``HEADER_BYTES``.

    Returns:
        "JPEG", "PNG", "DICOM", "TIFF", "BMP" or "WebP".

    Raises:
        Unreadable: The file is empty.
        Unsupported: It is none of these.
    """
    if not data:
        raise Unreadable("The file is empty.", "Copy it again from where it came from.")
    if data[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    if is_dicom(data):  # before TIFF: one file may be both, and its DICOM header says more
        return "DICOM"
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in _BITMAP_HEADER_BYTES:
        return "BMP"
    raise Unsupported(
        "The content is not JPEG, PNG, TIFF, BMP, WebP or DICOM.",
        "Convert it to one of these, or leave it out.",
    )


def _stretch(image: Image.Image, size_px: int) -> NDArray[np.uint8]:
    pixels = np.asarray(image.resize((size_px, size_px), FILTER), dtype=np.uint8)
    if pixels.min() == pixels.max():
        raise NotRadiograph(
            "Expected a film, found a picture of one flat grey.",
            "For DICOM, check the window (tags 0028,1050 and 0028,1051).",
        )
    return pixels
