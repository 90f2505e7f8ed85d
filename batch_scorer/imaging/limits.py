"""Limits on what one image may make a parser do, and on what all images may decode at once."""

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
"""Parts of a file that a parser may look at. A step costs up to 30 µs, and a plain chest film with
the largest headers has some thousand."""
LARGE_IMAGE_PIXELS = 20_000_000
"""More than the largest plain chest film has; smaller images never wait for each other."""
MAX_HEADER_BYTES = 8_000_000
"""Of a JPEG or PNG file, before its pixels: Pillow puts some of its pieces together one by one."""
MAX_SCANS = 100
"""Progressive JPEG writers make 10 or so; those that try to save every byte, 20."""
MAX_SCANNED_PIXELS = 2_000_000_000
"""Pixels x scans: every scan of a progressive JPEG visits every pixel."""
_SCAN_HEADERS = re.compile(rb"\xff\xda\0(?:\x08\x01|\x0a\x02|\x0c\x03|\x0e\x04)")
_SMALL_READ_BYTES = 4096

_pixels_released = threading.Condition()
_reserved_pixels = 0


class ParseBudget:
    """Counts the work of a parser by its small reads, and ends it when there were too many.

    Parsers written in Python ask for each part of a file by one small read, whatever the format.
    Once the limit is reached, every further read fails too: a parser that takes the first failure
    for damage does not go on.

    Args:
        left: How many steps there may be.
    """

    def __init__(self, left: int = MAX_PARSE_STEPS) -> None:
        self.left = left

    def spend(self, steps: int) -> None:
        """Count steps.

        Raises:
            TooLarge: There have been more than there may be.
        """
        self.left -= steps
        self.check()

    def count_read(self, size_bytes: int) -> None:
        """Count a read as a step, if it is a small one.

        Raises:
            TooLarge: There have been more than there may be.
        """
        self.spend(size_bytes < _SMALL_READ_BYTES)

    def check(self) -> None:
        """Tell a parser's failure from the end of its work.

        Raises:
            TooLarge: There have been more steps than there may be.
        """
        if self.left < 0:
            raise TooLarge(
                "Expected an image with a plain header, found far more parts than one needs.",
                "Export the image again without its private data.",
            )


class BudgetedBytesIO(io.BytesIO):
    """A file in memory whose reads are counted as ``steps``.

    Args:
        data: The whole file.
        max_steps: How many there may be.
        max_header_bytes: How much may be read before ``end_header`` is called.
    """

    def __init__(
        self, data: bytes, max_steps: int = MAX_PARSE_STEPS, max_header_bytes: float = math.inf
    ) -> None:
        super().__init__(data)
        self.steps = ParseBudget(max_steps)
        self._header_bytes_left = max_header_bytes

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as from any file.

        Raises:
            TooLarge: There have been too many reads, or the header is too long.
        """
        found = super().read(size)
        self.steps.count_read(len(found))
        self._header_bytes_left -= len(found)
        if self._header_bytes_left < 0:
            self.steps.spend(self.steps.left + 1)
        return found

    def end_header(self) -> None:
        """Allow reads of any length from here on."""
        self._header_bytes_left = math.inf


def count_scans(data: bytes) -> int:
    """Count the scans of a JPEG by their headers, those of a thumbnail in it too.

    Source: ITU-T T.81 B.2.3.
    """
    return len(_SCAN_HEADERS.findall(data))


def check_scans(scans: int, pixels: int) -> None:
    """Refuse a JPEG that is to be gone through too often.

    Raises:
        TooLarge: More than ``MAX_SCANS``, or than ``MAX_SCANNED_PIXELS`` in all of them.
    """
    limit = min(MAX_SCANS, MAX_SCANNED_PIXELS // max(1, pixels))
    if scans > limit:
        raise TooLarge(
            f"Expected at most {limit} scans in a JPEG of {pixels / 1e6:.1f} megapixels, "
            f"found {scans}.",
            "Save it as a plain JPEG.",
        )


def out_of_memory_error() -> TooLarge:
    """Make the error of an image that does not fit into the memory that is left."""
    return TooLarge("Decoding the image needs more memory than there is for one image.")


@contextmanager
def reserve_pixels(pixels: int) -> Iterator[None]:
    """Wait until a large image may be decoded beside those that are being decoded in this process.

    Together, large images have at most ``MAX_PIXELS`` at a time.

    Args:
        pixels: How many the image has, at most ``MAX_PIXELS``.
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
