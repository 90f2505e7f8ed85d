"""Checks of WebP, BMP and TIFF headers, before Pillow or a C library reads them."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from batch_scorer.errors import TooLarge, Unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_RUN_LENGTH_BYTES = 4_000_000
MAX_RUN_LENGTH_PIXELS = 10_000_000
MAX_TAGS = 1000
"""Tags of a TIFF page: a plain one has 10 to 20, one from a microscope 100."""
MAX_TAG_VALUES = 200_000
"""Values of a TIFF tag, each of which becomes a Python object; a palette has 196,608."""
MAX_REPEATS = 8
"""The total size of all tags, or of all strips, as a multiple of the file size."""
_COMPRESSIBLE_HEADER_BYTES = 40
_UNCOMPRESSED_BMP = (0, 3, 6)
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_TYPE_BYTES |= {16: 8, 17: 8, 18: 8}
_SINGLE_OBJECT_TYPES = (1, 2, 6, 7)
_INTEGER_TYPES = (3, 4, 16)
_STRIP_BYTE_COUNT_TAGS = (279, 325)


class _TiffLayout(NamedTuple):
    """The layout of TIFF or BigTIFF: the offset of the first page's offset, and struct formats."""

    first: int
    offset: str
    number: str
    tag: str


_CLASSIC_TIFF = _TiffLayout(4, "I", "H", "HHII")
_BIG_TIFF = _TiffLayout(8, "Q", "Q", "HHQQ")


def read_webp_size(data: bytes) -> tuple[int, int]:
    """Read (width_px, height_px) of the canvas, which libwebp reserves when a file is opened.

    Raises:
        Unreadable: The file begins with an unknown chunk.

    Source: RFC 9649, 2.5 to 2.7; RFC 6386, 9.1.
    """
    chunk, body = data[12:16], data[20:30].ljust(10, b"\0")
    if chunk == b"VP8X":
        width, height = (1 + int.from_bytes(body[at : at + 3], "little") for at in (4, 7))
        return width, height
    if chunk == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if chunk == b"VP8 ":
        width, height = struct.unpack_from("<HH", body, 6)
        return width & 0x3FFF, height & 0x3FFF
    raise Unreadable("The image header is damaged.", "Copy the file again.")


def check_bmp(data: bytes) -> None:
    """Refuse a large run-length encoded BMP, which Pillow decodes in Python.

    Raises:
        TooLarge: The file has more than ``MAX_RUN_LENGTH_BYTES`` or ``MAX_RUN_LENGTH_PIXELS``.
    """
    header_bytes, compression = (int.from_bytes(data[at : at + 4], "little") for at in (14, 30))
    if header_bytes < _COMPRESSIBLE_HEADER_BYTES or compression in _UNCOMPRESSED_BMP:
        return
    width, height = (int.from_bytes(data[at : at + 4], "little", signed=True) for at in (18, 22))
    if len(data) > MAX_RUN_LENGTH_BYTES or abs(width * height) > MAX_RUN_LENGTH_PIXELS:
        raise TooLarge(
            f"Expected a compressed BMP of at most {MAX_RUN_LENGTH_BYTES // 1_000_000} MB and "
            f"{MAX_RUN_LENGTH_PIXELS // 1_000_000} megapixels, found {len(data) / 1e6:.1f} MB and "
            f"{abs(width * height) / 1e6:.1f}.",
            "Save it as PNG.",
        )


def check_tiff(data: bytes) -> None:
    """Refuse a TIFF whose first page costs too much for its size.

    Pillow judges any other damage.

    Raises:
        TooLarge: The page has too many tags, or its tags or strips claim far more bytes than the
            file has.

    Source: TIFF 6.0, section 2; the BigTIFF design.
    """
    order = "<" if data[:2] == b"II" else ">"
    layout = _BIG_TIFF if data[2:4] in {b"+\0", b"\0+"} else _CLASSIC_TIFF
    try:
        (offset,) = struct.unpack_from(order + layout.offset, data, layout.first)
        (count,) = struct.unpack_from(order + layout.number, data, offset)
        if count > MAX_TAGS:
            raise TooLarge(f"Expected at most {MAX_TAGS:,} tags in the TIFF, found {count:,}.")
        tags_offset = offset + struct.calcsize(order + layout.number)
        end = tags_offset + count * struct.calcsize(order + layout.tag)
        _check_tags(data, [*_read_tags(data[tags_offset:end], order, layout, tags_offset)], order)
    except struct.error:  # the file ends too early
        return


def _check_tags(data: bytes, tags: list[tuple[int, int, int, int]], order: str) -> None:
    total = 0
    for tag, kind, count, offset in tags:
        size = _TYPE_BYTES.get(kind, 0) * count
        if not size or offset + size > len(data):  # damaged: Pillow skips it
            continue
        total += size
        if kind not in _SINGLE_OBJECT_TYPES and count > MAX_TAG_VALUES:
            raise TooLarge(f"Expected at most {MAX_TAG_VALUES:,} values in a TIFF tag.")
        if tag in _STRIP_BYTE_COUNT_TAGS and kind in _INTEGER_TYPES:
            lengths = np.frombuffer(data, f"{order}u{_TYPE_BYTES[kind]}", count, offset)
            if np.minimum(lengths, len(data)).sum(dtype=np.float64) > MAX_REPEATS * len(data):
                raise TooLarge("Expected strips that share no bytes in the TIFF, found others.")
    if total > MAX_REPEATS * len(data):
        raise TooLarge("Expected tags that share no bytes in the TIFF, found others.")


def _read_tags(
    data: bytes, order: str, layout: _TiffLayout, offset: int
) -> Iterator[tuple[int, int, int, int]]:
    """Yield tag, type, number of values and their offset; ``data`` begins at ``offset``."""
    entry = struct.Struct(order + layout.tag)
    slot_bytes = struct.calcsize(order + layout.offset)
    whole = len(data) - len(data) % entry.size
    for tag, kind, count, data_offset in entry.iter_unpack(data[:whole]):
        offset += entry.size
        within = _TYPE_BYTES.get(kind, 0) * count <= slot_bytes
        yield tag, kind, count, offset - slot_bytes if within else data_offset
