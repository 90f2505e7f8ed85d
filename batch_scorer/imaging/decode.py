"""The pixel contract: from the bytes of an image to the pixels of every model.

Training, calibration, parity checks and scoring all use ``decode_radiograph``.
The rules by file format:

===================  ==========================================================================
JPEG                 luma, read at a reduced DCT scale of at least twice the target size; CMYK
                     through RGB
PNG, TIFF, BMP,      8 bits unchanged; 16-bit, 32-bit and float grey from the image's minimum
WebP                 (black) to its maximum (white); 16-bit colour by its high byte; TIFF with
                     white as zero inverted; several pages or images refused
EXIF orientation     applied; damaged EXIF ignored
alpha                composited over black
palette              looked up, then luma (ITU-R 601)
DICOM                modality LUT or rescale; then the first VOI window (by its function: LINEAR,
                     LINEAR_EXACT, SIGMOID), else the VOI LUT, else the image's minimum to
                     maximum; MONOCHROME1 inverted
===================  ==========================================================================

Every image is then stretched to the square with one antialiased bilinear filter, as the training
images were. Of Pillow's five filters, it comes closest to the published copies: the mean difference
between a full-size image and its published 224-pixel copy is 2.1 grey levels; the other filters
give 2.3 to 2.5.

``DECODE_VERSION`` is stored in every model card. Raise it by one if a change makes any file decode
to other pixels. Every model must then be trained or verified again, because the scorer refuses a
model with another version. One exception: if a kind of file was decoded against its own standard
and no model was trained, calibrated or verified on it, the error is fixed under the same version,
because the version binds a model to the pixels of its evaluation. Such fixes so far, all in DICOM
and before the first release: windows LINEAR_EXACT and SIGMOID (were read as LINEAR), 8-bit VOI LUTs
with more than 256 inputs (overflowed), pixels whose high bit is not the last of their stored bits
(lost their upper bits), compressed frames without an end (were padded with grey).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from batch_scorer.errors import ImageError, NotRadiograph, Unreadable, Unsupported
from batch_scorer.imaging.dicom import find_elements
from batch_scorer.imaging.dicom_pixels import DicomImage
from batch_scorer.imaging.limits import out_of_memory_error, reserve_pixels
from batch_scorer.imaging.raster import Picture, forbid_truncated_images

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

DECODE_VERSION = 1
RESIZE_FILTER = Image.Resampling.BILINEAR
HEADER_BYTES = 1024
"""The part of a file that ``detect_format`` reads."""
_BMP_HEADER_BYTES = (12, 40, 52, 56, 64, 108, 124)


@dataclass(frozen=True)
class EncodedImage:
    """An image whose header has been parsed, once for all uses.

    ``kind`` is the format from ``detect_format``.
    """

    kind: str
    _file: DicomImage | Picture = field(repr=False)

    @property
    def patient_id(self) -> str:
        """PatientID of the DICOM header; empty if it has none."""
        return self._file.patient_id

    @property
    def study_uid(self) -> str:
        """StudyInstanceUID of the DICOM header; empty if it has none."""
        return self._file.study_uid

    @property
    def burned_in(self) -> bool:
        """True if the DICOM header states a burned-in annotation, which may name the patient."""
        return self._file.burned_in

    @property
    def size_px(self) -> tuple[int, int]:
        """(width_px, height_px) after EXIF orientation, before stretching."""
        return self._file.size_px

    def decode(
        self,
        sizes_px: Collection[int],
        reserve: Callable[[int], AbstractContextManager[None]] = reserve_pixels,
    ) -> dict[int, NDArray[np.uint8]]:
        """Decode one plane for each size, as ``decode_radiograph`` does.

        Args:
            sizes_px: Sides of the squares to make.
            reserve: Waits until this number of pixels may be decoded.

        Returns:
            By size: shape (size_px, size_px), 0 black to 255 white.

        Raises:
            ImageError: The image is not a radiograph, or its pixels cannot be decoded.
        """
        return {
            size_px: _resize_to_square(self._file.decode(size_px, reserve), size_px)
            for size_px in sizes_px
        }


def open_image(data: bytes | memoryview) -> EncodedImage:
    """Parse the header of an image and check it against the limits.

    Args:
        data: A whole JPEG, PNG, TIFF, BMP, WebP or DICOM file.

    Raises:
        ImageError: The header cannot be read, or the image exceeds the limits.
    """
    forbid_truncated_images()
    kind, start = _find_kind(data)
    return EncodedImage(kind, DicomImage(data, start) if kind == "DICOM" else Picture(bytes(data)))


@dataclass(frozen=True)
class DecodeResult:
    """The result of decoding one image, in plain values.

    Patient, study and ``burned_in`` are those of the `EncodedImage`. ``pixels`` contains one plane
    per requested size, unless there is an ``error``. Width and height are 0 if nothing was decoded.
    """

    patient_id: str = ""
    study_uid: str = ""
    width_px: int = 0
    height_px: int = 0
    pixels: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    error: ImageError | None = None
    burned_in: bool = False


def read_image(
    data: bytes | memoryview,
    sizes_px: Collection[int],
    reserve: Callable[[int], AbstractContextManager[None]] = reserve_pixels,
) -> DecodeResult:
    """Read everything that the scorer needs of one image; an ImageError becomes part of the result.

    Args:
        data: The whole file.
        sizes_px: Sides of the squares to make; if empty, no pixel is decoded.
        reserve: Waits until this number of pixels may be decoded.
    """
    content = DecodeResult()
    try:
        if not sizes_px and detect_format(data) != "DICOM":  # only DICOM has identifiers
            return content
        image = open_image(data)
        content = DecodeResult(image.patient_id, image.study_uid, burned_in=image.burned_in)
        if not sizes_px:
            return content
        pixels = image.decode(sizes_px, reserve)
        width_px, height_px = image.size_px
        return replace(content, width_px=width_px, height_px=height_px, pixels=pixels)
    except ImageError as exc:
        return replace(content, error=exc)
    except MemoryError:
        return replace(content, error=out_of_memory_error())


def decode_radiograph(data: bytes, size_px: int) -> NDArray[np.uint8]:
    """Decode one X-ray to the pixels that every model was trained on.

    Args:
        data: A whole JPEG, PNG, TIFF, BMP, WebP or DICOM file.
        size_px: Side of the square to return, from the model card.

    Returns:
        Shape (size_px, size_px), uint8, 0 black to 255 white.

    Raises:
        ImageError: The image is damaged, truncated, too large, too small or not a radiograph.

    Source: DECODE_VERSION 1; DICOM PS3.3 C.7.6.3 and C.11.
    """
    try:
        return open_image(data).decode([size_px])[size_px]
    except MemoryError as exc:
        raise out_of_memory_error() from exc


def detect_format(data: bytes | memoryview) -> str:
    """Detect the format of a file by its first bytes, never by its file name.

    Args:
        data: The file, or its first ``HEADER_BYTES``.

    Returns:
        "JPEG", "PNG", "DICOM", "TIFF", "BMP" or "WebP".

    Raises:
        Unreadable: The file is empty.
        Unsupported: The format is none of these.
    """
    return _find_kind(data)[0]


def _find_kind(data: bytes | memoryview) -> tuple[str, int]:
    """Return the format, and the offset of the first DICOM element."""
    if not data:
        raise Unreadable("The file is empty.", "Copy it again from its source.")
    if data[:3] == b"\xff\xd8\xff":
        return "JPEG", 0
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG", 0
    # before TIFF: one file may be both, and its DICOM header says more
    if (start := find_elements(data)) is not None:
        return "DICOM", start
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF", 0
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP", 0
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in _BMP_HEADER_BYTES:
        return "BMP", 0
    raise Unsupported(
        "Expected JPEG, PNG, TIFF, BMP, WebP or DICOM, found another format.",
        "Convert it to one of these, or leave it out.",
    )


def _resize_to_square(image: Image.Image, size_px: int) -> NDArray[np.uint8]:
    pixels = np.asarray(image.resize((size_px, size_px), RESIZE_FILTER), dtype=np.uint8)
    if pixels.min() == pixels.max():
        raise NotRadiograph(
            "Expected an X-ray, found an image of a single grey value.",
            "For DICOM, check the window (tags 0028,1050 and 0028,1051).",
        )
    return pixels
