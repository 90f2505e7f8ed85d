"""Raster files (JPEG, PNG, TIFF, BMP, WebP): the only module that decodes with Pillow."""

from __future__ import annotations

import math
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from batch_scorer.errors import (
    ImageError,
    NotRadiograph,
    TooLarge,
    Truncated,
    Unreadable,
    Unsupported,
)
from batch_scorer.imaging.grayscale import (
    MAX_PIXELS,
    check_area,
    check_compression_ratio,
    check_size,
    map_to_grey,
    rescale_to_uint8,
)
from batch_scorer.imaging.limits import (
    MAX_HEADER_BYTES,
    MAX_PARSE_STEPS,
    BudgetedBytesIO,
    check_scans,
    count_scans,
    out_of_memory_error,
)
from batch_scorer.imaging.raster_headers import (
    MAX_RUN_LENGTH_BYTES,
    MAX_TAG_VALUES,
    check_bmp,
    check_tiff,
    read_webp_size,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

RASTER_FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP")
REDUCED_SCALE_MARGIN = 2
PLAIN_MODES = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr")
ALPHA_MODES = ("LA", "PA", "RGBA", "La", "RGBa")
BAND_PIXELS = 4_000_000
"""Pixels converted at a time, so that a large colour image needs little more memory."""
_ORIENTATION_TAG = 0x0112
_SWAPPED_ORIENTATIONS = (5, 6, 7, 8)
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_START_OF_SCAN = b"\xff\xda"
_PHOTOMETRIC_TAG = 262
_WHITE_IS_ZERO = 0
_MAX_TABLE_VALUE_BYTES = 2
"""Up to 16 bits, a lookup table holds all grey levels."""

_PILLOW_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
    struct.error,
    Image.DecompressionBombError,
    Warning,  # where the caller's filters turn them into errors
)


class Picture:
    """A raster file with a checked header, whose pixels are decoded on request.

    Args:
        data: The whole file.

    Raises:
        ImageError: The header cannot be read, or the file has several images or too large a one.
    """

    patient_id = study_uid = ""
    burned_in = False

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._grey: Image.Image | None = None
        self._file = _limit_reads(data)
        with self._translated():
            self._image = Image.open(self._file, formats=RASTER_FORMATS)
            self._file.end_header()
            self._stored_px = self._image.size
            _check_header(self._image, data)

    @property
    def size_px(self) -> tuple[int, int]:
        """(width_px, height_px), after EXIF orientation."""
        with self._translated():
            if self._image.format == "TIFF":  # Pillow has already swapped its sides
                return self._stored_px
            turned = _read_orientation(self._image) in _SWAPPED_ORIENTATIONS
            return self._stored_px[::-1] if turned else self._stored_px

    def decode(
        self, size_px: int, reserve: Callable[[int], AbstractContextManager[None]]
    ) -> Image.Image:
        """Decode to grey; a JPEG at the smallest scale that suffices for ``size_px``.

        A JPEG is opened again for another size, because libjpeg reduces while it decodes.

        Args:
            size_px: Side of the square.
            reserve: Waits until this number of pixels may be decoded.

        Returns:
            An image of mode L, after EXIF orientation, at its own aspect ratio.

        Raises:
            ImageError: The image cannot be decoded.
        """
        if self._grey is None:
            with self._translated():
                self._grey = self._decode(size_px, reserve)
        elif isinstance(self._image, JpegImageFile):
            return Picture(self._data).decode(size_px, reserve)
        return self._grey

    def _decode(
        self, size_px: int, reserve: Callable[[int], AbstractContextManager[None]]
    ) -> Image.Image:
        image, (width_px, height_px) = self._image, self._stored_px
        with reserve(width_px * height_px):
            # Otherwise Pillow copies the rest of the file for each block without a result.
            image.decodermaxblock = len(self._data)
            image.draft("L", (REDUCED_SCALE_MARGIN * size_px, REDUCED_SCALE_MARGIN * size_px))
            image.load()
            orientation = _read_orientation(image)
            grey = _to_grey(image)
        return (
            grey.transpose(_TRANSPOSITIONS[orientation]) if orientation in _TRANSPOSITIONS else grey
        )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Translate Pillow's exceptions to ImageError."""
        try:
            yield
        except ImageError:
            raise
        except _PILLOW_ERRORS as exc:
            self._file.budget.check()
            raise _translate_error(exc) from exc


def _limit_reads(data: bytes) -> BudgetedBytesIO:
    """Check the costly parts of the header and wrap the file with a parse budget.

    Raises:
        ImageError: The header is damaged, or decoding would cost too much.
    """
    max_steps, max_header_bytes = MAX_PARSE_STEPS, math.inf
    if data[:4] == b"RIFF":
        size = read_webp_size(data)
        check_area(*size)
        check_compression_ratio(*size, len(data))
    elif data[:2] == b"BM":
        check_bmp(data)
        max_steps += MAX_RUN_LENGTH_BYTES
    elif data[:2] in {b"II", b"MM"}:
        check_tiff(data)
        max_steps += MAX_TAG_VALUES
    else:
        max_header_bytes = MAX_HEADER_BYTES
    return BudgetedBytesIO(data, max_steps, max_header_bytes)


def _check_header(image: Image.Image, data: bytes) -> None:
    """Refuse an image that is too large, too small, too costly, or one of several."""
    check_size(*image.size)
    check_compression_ratio(*image.size, len(data))
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise NotRadiograph(
            "Expected a single image, found a file with several pages or images.",
            "Save each page as a separate file.",
        )
    if isinstance(image, JpegImageFile) and not _has_one_scan(image, data):
        check_scans(count_scans(data), image.size[0] * image.size[1])


def _has_one_scan(image: JpegImageFile, data: bytes) -> bool:
    """Return whether the scan that Pillow has just reached is the only one."""
    if image.format != "JPEG" or image.fp is None or "progressive" in image.info:
        return False
    header = _START_OF_SCAN + bytes([0, 2 * image.layers + 6, image.layers])
    offset = image.fp.tell() - 2 * image.layers - 8
    return data.startswith(header, offset)


def _read_orientation(image: Image.Image) -> int:
    """Read the EXIF orientation; 1 (upright) if EXIF is absent or damaged."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except _PILLOW_ERRORS:  # the pixels are intact, so the image counts as upright
        return 1


def _to_grey(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_high_depth_to_grey(image))
    if image.mode not in PLAIN_MODES + ALPHA_MODES:
        raise Unsupported(
            f"Expected a grey or RGB image, found mode {image.mode}.", "Save it as greyscale."
        )
    if image.mode == "L":
        return image
    width, height = image.size
    rows = max(1, BAND_PIXELS // width)
    grey = Image.new("L", image.size)
    for top in range(0, height, rows):
        band = image.crop((0, top, width, min(top + rows, height)))
        grey.paste(_band_to_grey(band), (0, top))
    return grey


def _band_to_grey(image: Image.Image) -> Image.Image:
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    if image.mode in ALPHA_MODES:
        rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    if image.mode == "CMYK":
        image = image.convert("RGB")
    return image.convert("L")


def _high_depth_to_grey(image: Image.Image) -> NDArray[np.uint8]:
    """Map 16-bit, 32-bit and float grey from the image's minimum and maximum to 0..255."""
    values = np.asarray(image)
    if values.dtype.itemsize <= _MAX_TABLE_VALUE_BYTES:
        low, high = int(values.min()), int(values.max())
        levels = np.arange(low, high + 1, dtype=np.float32)
        grey = map_to_grey(values, low, rescale_to_uint8(levels))
    else:
        grey = rescale_to_uint8(values.astype(np.float32, copy=False))
    tags = getattr(image, "tag_v2", {})
    return 255 - grey if tags.get(_PHOTOMETRIC_TAG) == _WHITE_IS_ZERO else grey


def forbid_truncated_images() -> None:
    """Forbid half-decoded images, which other libraries allow for the whole process."""
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        ImageFile.LOAD_TRUNCATED_IMAGES = False


def _translate_error(exc: BaseException) -> ImageError:
    """Translate an exception of Pillow to an ImageError."""
    text = str(exc).lower()
    if isinstance(exc, MemoryError):
        return out_of_memory_error()
    if isinstance(exc, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return TooLarge(f"Expected at most {MAX_PIXELS // 1_000_000} megapixels, found far more.")
    if "truncated" in text or "unrecognized data stream" in text or isinstance(exc, EOFError):
        return Truncated("The file ends before the image does.", "Copy it again.")
    if isinstance(exc, UnidentifiedImageError):
        return Unreadable("The image header is damaged.", "Copy the file again.")
    first_line = (str(exc).splitlines() or [type(exc).__name__])[0][:160]
    return Unreadable(f"The image cannot be decoded: {first_line}")
