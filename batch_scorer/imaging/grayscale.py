"""What every kind of film shares on its way to grey pixels: size limits, and its range of greys."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from batch_scorer.errors import TooLarge, TooSmall, Unreadable

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_SIDE_PX = 64
MAX_PIXELS = 80_000_000
MAX_PIXELS_PER_BYTE = 2000
"""Of chest films, the smallest JPEG has 18; deflate cannot pass 1,032, with pixels of one value."""
_CHUNK_VALUES = 1_000_000


def check_size(width_px: int, height_px: int) -> None:
    """Refuse a film before it is decoded where its header says that it is too large or too small.

    Raises:
        TooLarge: More than ``MAX_PIXELS``.
        TooSmall: A side shorter than ``MIN_SIDE_PX``.
    """
    check_area(width_px, height_px)
    if min(width_px, height_px) < MIN_SIDE_PX:
        raise TooSmall(
            f"Expected at least {MIN_SIDE_PX} pixels a side, found {width_px} by {height_px}."
        )


def check_area(width_px: int, height_px: int) -> None:
    """Refuse a film that is too large.

    Raises:
        TooLarge: More than ``MAX_PIXELS``.
    """
    if width_px * height_px > MAX_PIXELS:
        raise TooLarge(
            f"Expected at most {MAX_PIXELS // 1_000_000} megapixels, "
            f"found {width_px} by {height_px}."
        )


def check_compression_ratio(width_px: int, height_px: int, size_bytes: int) -> None:
    """Refuse a header whose pixels cannot be in the file: memory would be reserved for nothing.

    Args:
        width_px: As the header says.
        height_px: As the header says.
        size_bytes: Of the compressed image.

    Raises:
        TooLarge: More than ``MAX_PIXELS_PER_BYTE``.
    """
    if width_px * height_px > MAX_PIXELS_PER_BYTE * size_bytes:
        raise TooLarge(
            f"Expected at most {MAX_PIXELS_PER_BYTE:,} pixels for each byte of the image, "
            f"found {width_px} by {height_px} in {size_bytes:,} bytes."
        )


def rescale_to_uint8(
    values: NDArray[np.floating], black: float | None = None, white: float | None = None
) -> NDArray[np.uint8]:
    """Map black..white to 0..255, and what lies beyond to its end.

    Args:
        values: Floating-point grey values in any unit, of any shape.
        black: The value that becomes 0; the smallest one if not given.
        white: The value that becomes 255; the largest one if not given.

    Returns:
        The shape of ``values``.

    Raises:
        Unreadable: A value, or the width of the range, is not a number.
    """
    low = float(values.min()) if black is None else black
    high = float(values.max()) if white is None else white
    widest = float(np.finfo(values.dtype).max)
    if not (np.isfinite(values).all() and abs(high - low) <= widest):
        raise Unreadable("The film holds values that are not numbers.")
    if high <= low:  # a window of width 1, or one flat value
        return np.where(values > low, 255, 0).astype(np.uint8)
    grey = np.empty(values.size, np.uint8)
    flat = values.reshape(-1)
    for start in range(0, flat.size, _CHUNK_VALUES):
        with np.errstate(over="ignore"):  # beyond the largest number is beyond white
            share = np.clip((flat[start : start + _CHUNK_VALUES] - low) / (high - low), 0, 1)
        grey[start : start + _CHUNK_VALUES] = np.rint(share * 255)
    return grey.reshape(values.shape)


def map_to_grey(
    stored: NDArray[np.integer], low: int, grey: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Look every stored value up, row by row, so that a large film needs little memory.

    Args:
        stored: Integers, shape (height, width).
        low: The stored value that the first entry of ``grey`` is for.
        grey: The grey level of each stored value from ``low`` on.

    Returns:
        The shape of ``stored``.
    """
    result = np.empty(stored.shape, np.uint8)
    for row, line in zip(result, stored, strict=True):
        row[:] = grey[line.astype(np.int64) - low]
    return result
