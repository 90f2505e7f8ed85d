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
"""As much of a file as ``detect_format`` looks at."""
_BMP_HEADER_BYTES = (12, 40, 52, 56, 64, 108, 124)


@dataclass(frozen=True)
class EncodedImage:
    """An image whose header has been read once, with all that anybody wants of it.

    ``kind`` is that of ``detect_format``.
    """

    kind: str
    _file: DicomImage | Picture = field(repr=False)

    @property
    def patient_id(self) -> str:
        """The text of a DICOM header; empty where it has none."""
        return self._file.patient_id

    @property
    def study_uid(self) -> str:
        """The text of a DICOM header; empty where it has none."""
        return self._file.study_uid

    @property
    def burned_in(self) -> bool:
        """Whether a DICOM header says that something is burned in that may name the patient."""
        return self._file.burned_in

    @property
    def size_px(self) -> tuple[int, int]:
        """(width_px, height_px) before the image is stretched, after EXIF orientation."""
        return self._file.size_px

    def decode(
        self,
        sizes_px: Collection[int],
        reserve: Callable[[int], AbstractContextManager[None]] = reserve_pixels,
    ) -> dict[int, NDArray[np.uint8]]:
        """Decode one plane for each size, as ``decode_radiograph`` does.

        Args:
            sizes_px: Sides of the squares to make.
            reserve: Waits until so many pixels may be decoded.

        Raises:
            ImageError: It is no radiograph, or its pixels cannot be decoded.
        """
        return {
            size_px: _resize_to_square(self._file.decode(size_px, reserve), size_px)
            for size_px in sizes_px
        }


def open_image(data: bytes | memoryview) -> EncodedImage:
    """Read the header of an image, and check what it announces against the limits.

    Args:
        data: A whole JPEG, PNG, TIFF, BMP, WebP or DICOM file.

    Raises:
        ImageError: The header cannot be read, or is that of no image to be decoded.
    """
    forbid_truncated_images()
    kind, start = _find_kind(data)
    return EncodedImage(kind, DicomImage(data, start) if kind == "DICOM" else Picture(bytes(data)))


@dataclass(frozen=True)
class DecodeResult:
    """What one reading of an image has found, in plain values.

    Patient, study and ``burned_in`` are those of the `EncodedImage`. ``pixels`` holds one plane
    for each size asked for, unless there is a ``error``. Width and height are 0 where nothing
    was decoded.
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
    """Read all of one image that the scorer wants; what is wrong with it is part of the answer.

    Args:
        data: The whole file.
        sizes_px: Sides of the squares to make; with none, no pixel is decoded.
        reserve: Waits until so many pixels may be decoded.
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
    try:
        return open_image(data).decode([size_px])[size_px]
    except MemoryError as exc:
        raise out_of_memory_error() from exc


def detect_format(data: bytes | memoryview) -> str:
    """Name the format of a file by its first bytes, never by its name.

    Args:
        data: The file, or its first ``HEADER_BYTES``.

    Returns:
        "JPEG", "PNG", "DICOM", "TIFF", "BMP" or "WebP".

    Raises:
        Unreadable: The file is empty.
        Unsupported: It is none of these.
    """
    return _find_kind(data)[0]


def _find_kind(data: bytes | memoryview) -> tuple[str, int]:
    """The format, and where the elements of DICOM begin."""
    if not data:
        raise Unreadable("The file is empty.", "Copy it again from where it came from.")
    if data[:3] == b"\xff\xd8\xff":
        return "JPEG", 0
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG", 0
    if (
        start := find_elements(data)
    ) is not None:  # before TIFF: one file may be both, and its DICOM header says more
        return "DICOM", start
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF", 0
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP", 0
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in _BMP_HEADER_BYTES:
        return "BMP", 0
    raise Unsupported(
        "The content is not JPEG, PNG, TIFF, BMP, WebP or DICOM.",
        "Convert it to one of these, or leave it out.",
    )


def _resize_to_square(image: Image.Image, size_px: int) -> NDArray[np.uint8]:
    pixels = np.asarray(image.resize((size_px, size_px), RESIZE_FILTER), dtype=np.uint8)
    if pixels.min() == pixels.max():
        raise NotRadiograph(
            "Expected a film, found a picture of one flat grey.",
            "For DICOM, check the window (tags 0028,1050 and 0028,1051).",
        )
    return pixels
