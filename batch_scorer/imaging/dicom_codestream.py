"""A compressed DICOM frame, looked at before any decoder allocates what its own header claims."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from batch_scorer.errors import TooLarge, Truncated, Unreadable
from batch_scorer.imaging.grayscale import check_compression_ratio
from batch_scorer.imaging.jpeg_2000 import MAX_TILES, check_codestream, read_grid
from batch_scorer.imaging.limits import check_scans, count_scans

MAX_FRAGMENTS = 10_000
"""Of one frame; a writer that cuts 80 megapixels into pieces of 16 KB makes 10,000 at most."""
MAX_OFFSET_TABLE_BYTES = 4096
"""One frame has one offset, of 4 bytes."""
MAX_MARKERS = 10_000
_END_OF_IMAGE = b"\xff\xd9"
_MAX_PADDING_BYTES = 16
"""Zeros may pad a frame after its end."""
_TYPICAL_BITS = 8
_RLE_NO_OP = 128
_MARKER_PREFIX = 0xFF
_FRAME_HEADER_MARKERS = {0xF7} | {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_ITEM_TAG = b"\xfe\xff\x00\xe0"


@dataclass(frozen=True)
class FrameHeader:
    """What a compressed image says of itself."""

    width_px: int
    height_px: int
    components: int
    bits: int = 0
    tiles: int = 1


def check_frame(dataset: Any) -> str:
    """Refuse a frame that is cut short, or larger than the DICOM header says.

    Args:
        dataset: What ``open_dicom`` returns, its pixels compressed.

    Returns:
        The pydicom plugin that decodes it; empty for pydicom's own choice.

    Raises:
        ImageError: The frame is not what the header says, or it ends too early.
    """
    from pydicom.encaps import generate_frames
    from pydicom.uid import (
        JPEG2000TransferSyntaxes,
        JPEGBaseline8Bit,
        JPEGExtended12Bit,
        RLELossless,
    )

    syntax = dataset.file_meta.TransferSyntaxUID
    _check_fragments(dataset.PixelData)
    frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
    if syntax == RLELossless:
        _check_rle(dataset, frame)
        return ""
    if syntax in JPEG2000TransferSyntaxes:
        grid = read_grid(frame)
        size = grid.width_px, grid.height_px
        _check_frame_header(dataset, FrameHeader(*size, grid.components, tiles=grid.tiles))
        if grid.sampling != (1, 1):
            raise Unreadable(
                "Expected a JPEG 2000 image that has every pixel, found a thinned one."
            )
        check_compression_ratio(*size, len(frame))
        check_codestream(frame, grid)
        return ""
    claims = _read_jpeg_header(frame)
    _check_frame_header(dataset, claims)
    check_compression_ratio(claims.width_px, claims.height_px, len(frame))
    check_scans(count_scans(frame), claims.width_px * claims.height_px)
    if _END_OF_IMAGE not in frame[-_MAX_PADDING_BYTES:]:  # one decoder fills the rest with grey
        raise Truncated("The DICOM pixel data end too early.", "Send the file again.")
    eight_bits = claims.bits == _TYPICAL_BITS
    extended = syntax == JPEGExtended12Bit and dataset.BitsStored == _TYPICAL_BITS
    return "pillow" if eight_bits and (syntax == JPEGBaseline8Bit or extended) else "pylibjpeg"


def _check_fragments(pixel_data: bytes) -> None:
    """Refuse pixels in more pieces than one frame has, before each becomes an object.

    Source: DICOM PS3.5 A.4.
    """
    offsets_bytes = int.from_bytes(pixel_data[4:8], "little")
    if offsets_bytes > MAX_OFFSET_TABLE_BYTES or pixel_data.count(_ITEM_TAG) > MAX_FRAGMENTS:
        raise TooLarge(
            f"Expected one compressed image in at most {MAX_FRAGMENTS:,} fragments, found more."
        )


def _check_frame_header(dataset: Any, claims: FrameHeader) -> None:
    expected = int(dataset.Columns), int(dataset.Rows)
    found = claims.width_px, claims.height_px
    if found != expected:
        raise Unreadable(
            f"Expected {expected[0]} by {expected[1]} pixels, as the DICOM header says, "
            f"found {found[0]} by {found[1]} in the compressed image."
        )
    if claims.components != 1 or claims.tiles > MAX_TILES:
        raise Unreadable(
            f"Expected one grey plane in at most {MAX_TILES} tiles in the compressed image, "
            f"found {claims.components} in {claims.tiles}."
        )


def _read_jpeg_header(frame: bytes) -> FrameHeader:
    """Read the frame header of a JPEG or JPEG-LS image.

    Source: ITU-T T.81 B.1.1 and B.2.2; T.87 C.2.2.
    """
    place = 2  # after the start of image
    for _ in range(MAX_MARKERS):
        if frame[place] != _MARKER_PREFIX:
            break
        marker, length = frame[place + 1], int.from_bytes(frame[place + 2 : place + 4], "big")
        if marker in _FRAME_HEADER_MARKERS:
            bits, rows, columns, components = struct.unpack_from(">BHHB", frame, place + 4)
            return FrameHeader(columns, rows, components, bits)
        place += 1 if marker == _MARKER_PREFIX else 2 + length  # fill bytes may precede a marker
    raise Unreadable("Expected a JPEG image in the DICOM file, found none.")


def _check_rle(dataset: Any, frame: bytes) -> None:
    """Count what the runs of an RLE frame unpack to: 64 times its size, if made to.

    Source: DICOM PS3.5 annex G: 16 numbers, the count of segments and where each begins; then runs.
    """
    count, *starts = np.frombuffer(frame[:64], "<u4").tolist()
    expected = -(-int(dataset.BitsAllocated) // 8)
    if count != expected:
        raise Unreadable(f"Expected {expected} segments in the RLE image, found {count}.")
    limit = int(dataset.Rows) * int(dataset.Columns)
    ends = [*starts[1:count], len(frame)]
    for start, end in zip(starts[:count], ends, strict=True):
        place, unpacked = start, 0
        while place < end - 1 and unpacked <= limit + 1:  # one byte may pad it
            run = frame[place]
            if run < _RLE_NO_OP:  # so many bytes as they are
                unpacked, place = unpacked + run + 1, place + run + 2
            elif run > _RLE_NO_OP:  # one byte, repeated
                unpacked, place = unpacked + 257 - run, place + 2
            else:
                place += 1
        if unpacked > limit + 1:
            raise Unreadable(f"Expected {limit} pixels, found more in the runs of the RLE image.")
