"""Limits on the work of a parser for one image, and on the pixels decoded at once."""

from __future__ import annotations

import io
import math
import re
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from batch_scorer.errors import TooLarge
from batch_scorer.imaging.grayscale import MAX_PIXELS

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_PARSE_STEPS = 50_000
"""Small reads of a parser. A step costs up to 30 µs; a plain chest X-ray with the largest headers
needs some thousand."""
LARGE_IMAGE_PIXELS = 20_000_000
"""More than the largest plain chest X-ray; smaller images never wait for each other."""
MAX_HEADER_BYTES = 8_000_000
"""The longest JPEG or PNG header before the pixels: Pillow joins some of its parts one by one."""
MAX_SCANS = 100
"""Progressive JPEG writers make about 10; size-optimising ones make 20."""
MAX_SCANNED_PIXELS = 2_000_000_000
"""Pixels x scans: every scan of a progressive JPEG visits every pixel."""
_SCAN_HEADERS = re.compile(rb"\xff\xda\0(?:\x08\x01|\x0a\x02|\x0c\x03|\x0e\x04)")
_SMALL_READ_BYTES = 4096

_pixels_released = threading.Condition()
_reserved_pixels = 0


class ParseBudget:
    """Counts a parser's small reads and stops the parser when they exceed a limit.

    In any format, parsers written in Python read each part of a file by one small read. Once the
    limit is reached, all further reads fail too, so a parser that treats the first failure as
    damage cannot continue.

    Args:
        steps_left: The number of allowed steps.
    """

    def __init__(self, steps_left: int = MAX_PARSE_STEPS) -> None:
        self.steps_left = steps_left

    def spend(self, steps: int) -> None:
        """Count steps.

        Raises:
            TooLarge: The limit is exceeded.
        """
        self.steps_left -= steps
        self.check()

    def count_read(self, size_bytes: int) -> None:
        """Count a small read as a step.

        Raises:
            TooLarge: The limit is exceeded.
        """
        self.spend(size_bytes < _SMALL_READ_BYTES)

    def check(self) -> None:
        """Raise the error again if the limit, not damage, made the parser fail.

        Raises:
            TooLarge: The limit is exceeded.
        """
        if self.steps_left < 0:
            raise TooLarge(
                "Expected an image with a plain header, found far too many parts.",
                "Export the image again without its private data.",
            )


class BudgetedBytesIO(io.BytesIO):
    """A file in memory whose reads count against a ``ParseBudget``.

    Args:
        data: The whole file.
        max_steps: The number of allowed steps.
        max_header_bytes: The number of bytes that may be read before ``end_header``.
    """

    def __init__(
        self, data: bytes, max_steps: int = MAX_PARSE_STEPS, max_header_bytes: float = math.inf
    ) -> None:
        super().__init__(data)
        self.budget = ParseBudget(max_steps)
        self._header_bytes_left = max_header_bytes

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as from any file.

        Raises:
            TooLarge: The budget is exceeded, or the header is too long.
        """
        found = super().read(size)
        self.budget.count_read(len(found))
        self._header_bytes_left -= len(found)
        if self._header_bytes_left < 0:
            self.budget.spend(self.budget.steps_left + 1)
        return found

    def end_header(self) -> None:
        """Lift the limit on the length of the header."""
        self._header_bytes_left = math.inf


def count_scans(data: bytes) -> int:
    """Count the scan headers of a JPEG, including those of an embedded thumbnail.

    Source: ITU-T T.81 B.2.3.
    """
    return len(_SCAN_HEADERS.findall(data))


def check_scans(scans: int, pixels: int) -> None:
    """Refuse a JPEG with too many scans for its size.

    Raises:
        TooLarge: More than ``MAX_SCANS``, or more than ``MAX_SCANNED_PIXELS`` in all scans.
    """
    limit = min(MAX_SCANS, MAX_SCANNED_PIXELS // max(1, pixels))
    if scans > limit:
        raise TooLarge(
            f"Expected at most {limit} scans in a JPEG of {pixels / 1e6:.1f} megapixels, "
            f"found {scans}.",
            "Save it as a plain JPEG.",
        )


def out_of_memory_error() -> TooLarge:
    """Make the error for an image that does not fit into memory."""
    return TooLarge("Decoding the image needs more memory than one image may use.")


@contextmanager
def reserve_pixels(pixels: int) -> Iterator[None]:
    """Wait until a large image may be decoded next to the others in this process.

    Together, large images have at most ``MAX_PIXELS`` at a time.

    Args:
        pixels: The number of pixels of the image, at most ``MAX_PIXELS``.
    """
    if pixels <= LARGE_IMAGE_PIXELS:
        yield
        return
    global _reserved_pixels  # noqa: PLW0603 - the memory belongs to the whole process
    with _pixels_released:
        _pixels_released.wait_for(lambda: _reserved_pixels + pixels <= MAX_PIXELS)
        _reserved_pixels += pixels
    try:
        yield
    finally:
        with _pixels_released:
            _reserved_pixels -= pixels
            _pixels_released.notify_all()
