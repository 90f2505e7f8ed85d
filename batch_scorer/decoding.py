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

from batch_scorer.dicom import is_dicom, open_dicom, read_identifiers, says_burned_in
from batch_scorer.dicom_pixels import decode_dicom
from batch_scorer.errors import ImageError, NotRadiograph, Unreadable, Unsupported
from batch_scorer.limits import out_of_memory, reserve_pixels
from batch_scorer.pictures import decode_picture, measure_picture, refuse_half_films

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

DECODE_VERSION = 1
FILTER = Image.Resampling.BILINEAR
HEADER_BYTES = 1024
"""As much of a file as ``sniff`` looks at."""
_BITMAP_HEADER_BYTES = (12, 40, 52, 56, 64, 108, 124)


@dataclass(frozen=True)
class ImageContent:
    """What one reading of an image has found.

    ``patient_id`` and ``study_uid`` are the texts of a DICOM header, empty where it has none.
    ``pixels`` holds one plane for each size asked for, as ``decode_radiograph`` makes it, unless
    there is a ``problem``. Width and height are those of the image before it is stretched, after
    EXIF orientation; 0 where it was not decoded. ``burned_in`` is whether a DICOM header says that
    something is; it is read with the pixels alone.
    """

    patient_id: str = ""
    study_uid: str = ""
    width_px: int = 0
    height_px: int = 0
    pixels: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    problem: ImageError | None = None
    burned_in: bool = False


def read_image(
    data: bytes | memoryview,
    sizes_px: Collection[int],
    reserve: Callable[[int], AbstractContextManager[None]] = reserve_pixels,
) -> ImageContent:
    """Read all of one image that the scorer wants, in one pass over its header.

    Args:
        data: The whole file.
        sizes_px: Sides of the squares to make; with none, no pixel is decoded.
        reserve: Waits until so many pixels may be decoded.

    Returns:
        What was found, and what is wrong with the image.
    """
    refuse_half_films()
    try:
        if sniff(data) == "DICOM":
            return _read_dicom(data, sizes_px, reserve)
        return _read_picture(bytes(data), sizes_px, reserve) if sizes_px else ImageContent()
    except ImageError as exc:
        return ImageContent(problem=exc)
    except MemoryError:
        return ImageContent(problem=out_of_memory())


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
    content = read_image(data, [size_px])
    if content.problem:
        raise content.problem
    return content.pixels[size_px]


def _read_dicom(
    data: bytes | memoryview,
    sizes_px: Collection[int],
    reserve: Callable[[int], AbstractContextManager[None]],
) -> ImageContent:
    dataset = None
    try:
        dataset = open_dicom(data, header_only=not sizes_px)
        if not sizes_px:
            return ImageContent(*read_identifiers(dataset))
        image = Image.fromarray(decode_dicom(dataset, reserve))
        pixels = {size_px: _stretch(image, size_px) for size_px in sizes_px}
    except ImageError as exc:
        if dataset is None and sizes_px:  # the header may be sound where the pixels are cut short
            return replace(_read_dicom(data, (), reserve), problem=exc)
        return ImageContent(*read_identifiers(dataset), problem=exc)
    burned_in = says_burned_in(dataset)
    return ImageContent(*read_identifiers(dataset), *image.size, pixels, burned_in=burned_in)


def _read_picture(
    data: bytes,
    sizes_px: Collection[int],
    reserve: Callable[[int], AbstractContextManager[None]],
) -> ImageContent:
    pixels: dict[int, NDArray[np.uint8]] = {}
    reducible = sniff(data) == "JPEG"  # each size by its own reduced scale
    for size_px in sizes_px:
        if reducible or not pixels:
            grey, size = decode_picture(data, size_px, reserve)
        pixels[size_px] = _stretch(grey, size_px)
    return ImageContent(width_px=size[0], height_px=size[1], pixels=pixels)


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


def sniff(data: bytes | memoryview) -> str:
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
