"""Checks of a compressed DICOM frame, before a decoder allocates memory for it."""

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
"""Fragments of 16 KB in a frame of 80 megapixels."""
MAX_OFFSET_TABLE_BYTES = 4096
"""A single frame has one offset of 4 bytes."""
MAX_MARKERS = 10_000
_END_OF_IMAGE = b"\xff\xd9"
_MAX_PADDING_BYTES = 16
"""Zeros that may follow the end of a frame."""
_TYPICAL_BITS = 8
_RLE_NO_OP = 128
_MARKER_PREFIX = 0xFF
_FRAME_HEADER_MARKERS = {0xF7} | {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_ITEM_TAG = b"\xfe\xff\x00\xe0"


@dataclass(frozen=True)
class FrameHeader:
    """The frame header of a compressed image."""

    width_px: int
    height_px: int
    components: int
    bits: int = 0
    tiles: int = 1


def check_frame(dataset: Any) -> str:
    """Refuse a frame that is truncated or does not match the DICOM header.

    Args:
        dataset: The return value of ``open_dicom``, with compressed pixels.

    Returns:
        The pydicom plugin for this frame; empty for pydicom's own choice.

    Raises:
        ImageError: The frame differs from the DICOM header, or ends too early.
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
            raise Unreadable("Expected a JPEG 2000 image with every pixel, found a subsampled one.")
        check_compression_ratio(*size, len(frame))
        check_codestream(frame, grid)
        return ""
    header = _read_jpeg_header(frame)
    _check_frame_header(dataset, header)
    check_compression_ratio(header.width_px, header.height_px, len(frame))
    check_scans(count_scans(frame), header.width_px * header.height_px)
    if _END_OF_IMAGE not in frame[-_MAX_PADDING_BYTES:]:  # one decoder pads the rest with grey
        raise Truncated("The DICOM pixel data end too early.", "Send the file again.")
    eight_bits = header.bits == _TYPICAL_BITS
    extended = syntax == JPEGExtended12Bit and dataset.BitsStored == _TYPICAL_BITS
    return "pillow" if eight_bits and (syntax == JPEGBaseline8Bit or extended) else "pylibjpeg"


def _check_fragments(pixel_data: bytes) -> None:
    """Refuse too many fragments, before each becomes an object.

    Source: DICOM PS3.5 A.4.
    """
    offsets_bytes = int.from_bytes(pixel_data[4:8], "little")
    if offsets_bytes > MAX_OFFSET_TABLE_BYTES or pixel_data.count(_ITEM_TAG) > MAX_FRAGMENTS:
        raise TooLarge(
            f"Expected one compressed image in at most {MAX_FRAGMENTS:,} fragments, found more."
        )


def _check_frame_header(dataset: Any, header: FrameHeader) -> None:
    expected = int(dataset.Columns), int(dataset.Rows)
    found = header.width_px, header.height_px
    if found != expected:
        raise Unreadable(
            f"Expected {expected[0]} by {expected[1]} pixels from the DICOM header, "
            f"found {found[0]} by {found[1]} in the compressed image."
        )
    if header.components != 1 or header.tiles > MAX_TILES:
        raise Unreadable(
            f"Expected one grey plane in at most {MAX_TILES} tiles in the compressed image, "
            f"found {header.components} in {header.tiles}."
        )


def _read_jpeg_header(frame: bytes) -> FrameHeader:
    """Read the frame header of a JPEG or JPEG-LS image.

    Source: ITU-T T.81 B.1.1 and B.2.2; T.87 C.2.2.
    """
    offset = 2  # after the start of image
    for _ in range(MAX_MARKERS):
        if frame[offset] != _MARKER_PREFIX:
            break
        marker, length = frame[offset + 1], int.from_bytes(frame[offset + 2 : offset + 4], "big")
        if marker in _FRAME_HEADER_MARKERS:
            bits, rows, columns, components = struct.unpack_from(">BHHB", frame, offset + 4)
            return FrameHeader(columns, rows, components, bits)
        offset += 1 if marker == _MARKER_PREFIX else 2 + length  # fill bytes may precede a marker
    raise Unreadable("Expected a JPEG image in the DICOM file, found none.")


def _check_rle(dataset: Any, frame: bytes) -> None:
    """Refuse an RLE frame that unpacks to too many pixels; up to 64 times its size is possible.

    Source: DICOM PS3.5 annex G: 16 numbers (the count and the offsets of segments), then the runs.
    """
    count, *starts = np.frombuffer(frame[:64], "<u4").tolist()
    expected = -(-int(dataset.BitsAllocated) // 8)
    if count != expected:
        raise Unreadable(f"Expected {expected} segments in the RLE image, found {count}.")
    limit = int(dataset.Rows) * int(dataset.Columns)
    ends = [*starts[1:count], len(frame)]
    for start, end in zip(starts[:count], ends, strict=True):
        offset, unpacked = start, 0
        while offset < end - 1 and unpacked <= limit + 1:  # one byte of padding is allowed
            run = frame[offset]
            if run < _RLE_NO_OP:  # literal bytes
                unpacked, offset = unpacked + run + 1, offset + run + 2
            elif run > _RLE_NO_OP:  # a repeated byte
                unpacked, offset = unpacked + 257 - run, offset + 2
            else:
                offset += 1
        if unpacked > limit + 1:
            raise Unreadable(f"Expected {limit} pixels, found more in the runs of the RLE image.")
