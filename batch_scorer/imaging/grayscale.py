"""Size limits and conversion to 8-bit grey, shared by all image formats."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from batch_scorer.errors import TooLarge, TooSmall, Unreadable

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_SIDE_PX = 64
MAX_PIXELS = 80_000_000
MAX_PIXELS_PER_BYTE = 2000
"""The smallest JPEG of a chest X-ray has 18; deflate reaches 1,032 at most, with equal pixels."""
_CHUNK_VALUES = 1_000_000


def check_size(width_px: int, height_px: int) -> None:
    """Refuse an image by the size in its header, before it is decoded.

    Raises:
        TooLarge: More than ``MAX_PIXELS``.
        TooSmall: A side shorter than ``MIN_SIDE_PX``.
    """
    check_area(width_px, height_px)
    if min(width_px, height_px) < MIN_SIDE_PX:
        raise TooSmall(
            f"Expected at least {MIN_SIDE_PX} pixels per side, found {width_px} by {height_px}."
        )


def check_area(width_px: int, height_px: int) -> None:
    """Refuse an image with too many pixels.

    Raises:
        TooLarge: More than ``MAX_PIXELS``.
    """
    if width_px * height_px > MAX_PIXELS:
        raise TooLarge(
            f"Expected at most {MAX_PIXELS // 1_000_000} megapixels, "
            f"found {width_px} by {height_px}."
        )


def check_compression_ratio(width_px: int, height_px: int, size_bytes: int) -> None:
    """Refuse an image whose file is too small for the size in its header.

    Args:
        width_px: The width in the header.
        height_px: The height in the header.
        size_bytes: The size of the compressed image.

    Raises:
        TooLarge: More than ``MAX_PIXELS_PER_BYTE``.
    """
    if width_px * height_px > MAX_PIXELS_PER_BYTE * size_bytes:
        raise TooLarge(
            f"Expected at most {MAX_PIXELS_PER_BYTE:,} pixels per byte of the image, "
            f"found {width_px} by {height_px} in {size_bytes:,} bytes."
        )


def rescale_to_uint8(
    values: NDArray[np.floating], black: float | None = None, white: float | None = None
) -> NDArray[np.uint8]:
    """Map black..white to 0..255; values beyond are clipped.

    Args:
        values: Floating-point grey values in any unit, of any shape.
        black: The value that becomes 0; default: the smallest.
        white: The value that becomes 255; default: the largest.

    Returns:
        The shape of ``values``.

    Raises:
        Unreadable: A value, or the width of the range, is not finite.
    """
    low = float(values.min()) if black is None else black
    high = float(values.max()) if white is None else white
    widest = float(np.finfo(values.dtype).max)
    if not (np.isfinite(values).all() and abs(high - low) <= widest):
        raise Unreadable("The image contains values that are not finite numbers.")
    if high <= low:  # a window of width 1, or a constant image
        return np.where(values > low, 255, 0).astype(np.uint8)
    grey = np.empty(values.size, np.uint8)
    flat = values.reshape(-1)
    for start in range(0, flat.size, _CHUNK_VALUES):
        with np.errstate(over="ignore"):  # an overflow is beyond white
            share = np.clip((flat[start : start + _CHUNK_VALUES] - low) / (high - low), 0, 1)
        grey[start : start + _CHUNK_VALUES] = np.rint(share * 255)
    return grey.reshape(values.shape)


def map_to_grey(
    stored: NDArray[np.integer], low: int, grey: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Map stored values to grey levels, row by row to save memory.

    Args:
        stored: Integers, shape (height, width).
        low: The stored value of the first entry of ``grey``.
        grey: The grey level of each stored value from ``low`` on.

    Returns:
        The grey levels, in the shape of ``stored``.
    """
    result = np.empty(stored.shape, np.uint8)
    for row, line in zip(result, stored, strict=True):
        row[:] = grey[line.astype(np.int64) - low]
    return result
