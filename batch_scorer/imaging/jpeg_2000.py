"""Checks of a JPEG 2000 codestream, before a decoder allocates memory for its parts.

A decoder keeps a record for every tile, precinct and code block and visits every packet (a layer of
a precinct), even if the file contains no byte of it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from batch_scorer.errors import TooLarge, Truncated, Unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

MAX_TILES = 4096
"""Decoders keep some kilobytes per tile. An image in tiles of 256 pixels has 1,220 at most."""
MAX_CODE_BLOCKS = 500_000
"""80 megapixels in blocks of 16 by 16 have 420,000; common sizes are 32 by 32 and 64 by 64."""
MAX_PRECINCTS = 100_000
MAX_PACKETS = 1_000_000
MAX_SEGMENTS = 50_000
_SOC, _SIZ, _COD, _COC, _SOT, _SOD, _EOC = 0xFF4F, 0xFF51, 0xFF52, 0xFF53, 0xFF90, 0xFF93, 0xFFD9
_CODESTREAM_START = struct.pack(">HH", _SOC, _SIZ)
_JP2_SIGNATURE = b"\0\0\0\x0cjP  "
_MAX_LEVELS = 32
_SHORT_INDEX_COMPONENTS = 257


@dataclass(frozen=True)
class Grid:
    """The size segment: an area (left, top, right, bottom) in tiles, all in pixels."""

    area: tuple[int, int, int, int]
    tile: tuple[int, int]
    tile_origin: tuple[int, int]
    components: int
    sampling: tuple[int, int]

    @property
    def width_px(self) -> int:
        """The width of the image."""
        return self.area[2] - self.area[0]

    @property
    def height_px(self) -> int:
        """The height of the image."""
        return self.area[3] - self.area[1]

    @property
    def tiles(self) -> int:
        """The largest possible number of tiles; each begins at a multiple of its size."""
        return -(-self.area[2] // self.tile[0]) * -(-self.area[3] // self.tile[1])


@dataclass(frozen=True)
class CodingStyle:
    """The division of a tile by one COD or COC segment; sizes are exponents of 2.

    ``precincts`` are (width, height) of each resolution, the lowest first.
    """

    blocks: tuple[int, int]
    precincts: tuple[tuple[int, int], ...]


def read_grid(frame: bytes) -> Grid:
    """Read the size segment of a codestream, bare or in the boxes of a JP2 file.

    Raises:
        Unreadable: The data contain no codestream.
        struct.error, ValueError: The segment is truncated or not valid.

    Source: ITU-T T.800 A.5.1.
    """
    start = _find_codestream(frame)
    right, bottom, left, top, *tile, components, _, x_sampling, y_sampling = struct.unpack_from(
        ">8IH3B", frame, start + 8
    )
    if min(tile[:2]) < 1 or left >= right or top >= bottom:
        raise ValueError("expected an image with an area, found an empty one")
    area = left, top, right, bottom
    return Grid(area, (tile[0], tile[1]), (tile[2], tile[3]), components, (x_sampling, y_sampling))


def check_codestream(frame: bytes, grid: Grid) -> None:
    """Refuse a codestream with more parts than an image of its size needs.

    Each coding style is counted as if it applied to the whole image.

    Args:
        frame: The codestream, bare or in boxes.
        grid: The return value of ``read_grid``, with at most ``MAX_TILES`` tiles.

    Raises:
        TooLarge: The codestream has too many precincts, code blocks, packets or segments.
        Truncated: The codestream ends before its parts do.

    Source: ITU-T T.800 A.4, A.6 and B.5 to B.10.
    """
    layers, styles = 1, set()
    for marker, body in _read_segments(frame, _find_codestream(frame) + 2):
        if marker == _COD:
            layers = max(layers, int.from_bytes(body[2:4], "big"))
            styles.add(_read_style(body[5:], own_precincts=bool(body[0] & 1)))
        elif marker == _COC:
            offset = 1 if grid.components < _SHORT_INDEX_COMPONENTS else 2
            styles.add(_read_style(body[offset + 1 :], own_precincts=bool(body[offset] & 1)))
        if len(styles) > _MAX_LEVELS:
            raise TooLarge(
                f"Expected at most {_MAX_LEVELS} coding styles in the JPEG 2000 image, found more."
            )
    for style in styles:
        precincts, blocks = _count_parts(grid, style)
        for name, found, limit in (
            ("precincts", precincts, MAX_PRECINCTS),
            ("code blocks", blocks, MAX_CODE_BLOCKS),
            ("packets", precincts * layers, MAX_PACKETS),
        ):
            if found > limit:
                raise TooLarge(
                    f"Expected at most {limit:,} {name} in the JPEG 2000 image, found {found:,}.",
                    "Compress the image again with default settings.",
                )


def _find_codestream(frame: bytes) -> int:
    """Find the offset of the codestream: 0, as DICOM requires, or in a box of a JP2 file."""
    offset = 0
    if frame.startswith(_JP2_SIGNATURE):
        while frame[offset + 4 : offset + 8] != b"jp2c":
            (length,) = struct.unpack_from(">I", frame, offset)
            if length < 8 or b"pclr" in frame[offset : offset + length]:  # noqa: PLR2004 - its header
                raise Unreadable("Expected a JPEG 2000 image without a palette, found another.")
            offset += length
        offset += 16 if frame[offset : offset + 4] == b"\0\0\0\1" else 8
    if frame[offset : offset + 4] != _CODESTREAM_START:
        raise Unreadable("Expected a JPEG 2000 image in the DICOM file, found none.")
    return offset


def _read_segments(frame: bytes, offset: int) -> Iterator[tuple[int, bytes]]:
    """Yield the segments of the main header and of each tile-part header, in order."""
    next_tile_part = None
    for _ in range(MAX_SEGMENTS):
        marker = int.from_bytes(frame[offset : offset + 2], "big")
        if marker == _EOC or (next_tile_part is not None and offset + 4 > len(frame)):
            return  # the decoder judges what is missing at the end
        if offset + 4 > len(frame):
            raise Truncated("The JPEG 2000 image ends too early.", "Send the file again.")
        length = int.from_bytes(frame[offset + 2 : offset + 4], "big")
        if marker == _SOD:
            if next_tile_part is None:
                raise Unreadable("The JPEG 2000 image is damaged: a tile has no header.")
            offset, next_tile_part = next_tile_part, len(frame)
            continue
        if marker == _SOT:
            (part_bytes,) = struct.unpack_from(">I", frame, offset + 6)
            next_tile_part = offset + part_bytes if part_bytes else len(frame)
            if next_tile_part < offset + 12:  # the smallest tile-part
                raise Unreadable("The JPEG 2000 image is damaged: a tile is too short.")
        yield marker, frame[offset + 4 : offset + 2 + length]
        offset += 2 + length
    raise TooLarge(f"Expected at most {MAX_SEGMENTS:,} segments in the JPEG 2000 image.")


def _read_style(body: bytes, *, own_precincts: bool) -> CodingStyle:
    levels, width, height = body[0], body[1] & 15, body[2] & 15
    if levels > _MAX_LEVELS:
        raise Unreadable(f"Expected at most {_MAX_LEVELS} JPEG 2000 levels, found {levels}.")
    sizes = body[5 : 6 + levels] if own_precincts else bytes([0xFF]) * (levels + 1)
    if len(sizes) <= levels:
        raise Truncated("The JPEG 2000 image ends too early.", "Send the file again.")
    return CodingStyle((width + 2, height + 2), tuple((size & 15, size >> 4) for size in sizes))


def _count_parts(grid: Grid, style: CodingStyle) -> tuple[int, int]:
    """Count precincts and code blocks of all tiles, as products of columns and rows."""
    columns, rows = (
        _count_along_axis(
            grid.area[axis], grid.area[axis + 2], grid.tile_origin[axis], grid.tile[axis], sizes
        )
        for axis in (0, 1)
        for sizes in [[(p[axis], style.blocks[axis]) for p in style.precincts]]
    )
    pairs = zip(columns, rows, strict=True)
    counts = [(x[0] * y[0], x[1] * y[1] * (3 if r else 1)) for r, (x, y) in enumerate(pairs)]
    return sum(c[0] for c in counts), sum(c[1] for c in counts)


def _count_along_axis(
    low: int, high: int, origin: int, tile: int, sizes: list[tuple[int, int]]
) -> list[tuple[int, int]]:
    """Count precincts and code blocks of one band along one axis, for each resolution.

    Args:
        low: Start of the image in pixels.
        high: End of the image in pixels.
        origin: Start of the first tile in pixels.
        tile: Size of a tile in pixels.
        sizes: Exponents of precinct and code block for each resolution.
    """
    starts = np.arange(origin, high, tile, dtype=np.int64)
    begins, ends = np.maximum(starts, low), np.minimum(starts + tile, high)
    counts = []
    for resolution, (precinct, block) in enumerate(sizes):
        level = len(sizes) - 1 - resolution
        first, last = _ceil_shift(begins, level), _ceil_shift(ends, level)
        band = level + 1 if resolution else level
        within = min(block, max(0, precinct - 1) if resolution else precinct)
        counts.append(
            (
                _count_cells(first, last, precinct),
                _count_cells(_ceil_shift(begins, band), _ceil_shift(ends, band), within),
            )
        )
    return counts


def _ceil_shift(values: NDArray[np.int64], exponent: int) -> NDArray[np.int64]:
    return -(-values >> exponent)


def _count_cells(first: NDArray[np.int64], last: NDArray[np.int64], exponent: int) -> int:
    """Count the cells of size 2**exponent that the ranges touch."""
    touched = _ceil_shift(last, exponent) - (first >> exponent)
    return int(touched[last > first].sum())
