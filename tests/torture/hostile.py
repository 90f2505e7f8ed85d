"""Images of a few bytes that make a decoder reserve far more memory, or take far more time."""

from __future__ import annotations

import struct
import zlib
from functools import cache

import imagecodecs
import numpy as np
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from tests.batch_scorer.imaging.pixel_table import GREY, dicom
from tests.images import encode, make_film
from tests.torture.outcomes import TOO_LARGE, UNREADABLE, Files
from tests.torture.pictures import png_chunk

SIDE = 4000
EMPTY_ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, 0)
END_OF_SEQUENCE = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">HH", marker, len(body) + 2) + body


def style(levels: int, block: int, precinct: int | None) -> bytes:
    sizes = b"" if precinct is None else bytes([precinct * 17]) * (levels + 1)
    return bytes([levels, block, block, 0, 1]) + sizes


def codestream(
    side: int = SIDE,
    tile: int = SIDE,
    layers: int = 1,
    *,
    block: int = 4,
    precinct: int | None = None,
    sampling: int = 1,
    main: bytes = b"",
    tile_part: bytes = b"",
    levels: int = 5,
) -> bytes:
    """A JPEG 2000 codestream of empty tiles, filled up so that its size tells nothing."""
    size = struct.pack(">H8IH3B", 0, side, side, 0, 0, tile, tile, 0, 0, 1, 7, sampling, sampling)
    coding = struct.pack(">BBHB", precinct is not None, 0, layers, 0)
    head = b"\xff\x4f" + segment(0xFF51, size)
    head += segment(0xFF52, coding + style(levels, block, precinct))
    head += segment(0xFF5C, b"\x40" + bytes([64]) * (3 * levels + 1)) + main
    tiles = (side // tile) ** 2
    body = tile_part + b"\xff\x93" + bytes(1 + side * side // 1000 // tiles)
    parts = [
        struct.pack(">HHHIBB", 0xFF90, 10, index, len(body) + 12, 0, 1) + body
        for index in range(tiles)
    ]
    return head + b"".join(parts) + b"\xff\xd9"


def jpeg_2000(side: int = SIDE, frame: bytes | None = None, **options: int | bytes) -> bytes:
    frame = frame or codestream(side, **{"tile": side, **options})  # type: ignore[arg-type]
    return dicom(GREY, syntax=JPEG2000Lossless, encoded=frame, Rows=side, Columns=side)


def with_palette(frame: bytes) -> bytes:
    """A JP2 file whose palette makes 255 planes of one."""
    boxes = imagecodecs.jpeg2k_encode(GREY, level=0, codecformat="jp2")
    signature = boxes[: boxes.index(b"jp2h") - 4]
    palette = struct.pack(">HB", 2, 255) + bytes([7]) * 255 + bytes(510)
    header = struct.pack(">IIHBBBB", SIDE, SIDE, 1, 7, 7, 0, 0)
    inner = b"".join(
        struct.pack(">I4s", len(body) + 8, kind) + body
        for kind, body in ((b"ihdr", header), (b"pclr", palette))
    )
    outer = struct.pack(">I4s", len(inner) + 8, b"jp2h") + inner
    return signature + outer + struct.pack(">I4s", 0, b"jp2c") + frame


def jpeg_2000_files() -> Files:
    precincts = segment(0xFF53, b"\0\1" + style(5, 4, 1))
    big = SIDE * 2
    return {
        "j2k tiny precincts": (jpeg_2000(precinct=1), TOO_LARGE),
        "j2k tiny precincts by component": (jpeg_2000(main=precincts), TOO_LARGE),
        "j2k tiny precincts in a tile": (jpeg_2000(tile_part=precincts), TOO_LARGE),
        "j2k tiny code blocks": (jpeg_2000(big, block=0), TOO_LARGE),
        "j2k many layers": (
            jpeg_2000(frame=codestream(4096, 64, 65_535), side=4096),
            TOO_LARGE,
        ),
        "j2k empty": (
            jpeg_2000(frame=codestream()[:99] + b"\xff\xd9"),
            TOO_LARGE,
        ),
        "j2k of segments": (jpeg_2000(main=segment(0xFF64, b"") * 100_000), TOO_LARGE),
        "j2k thinned": (jpeg_2000(sampling=255), UNREADABLE),
        "j2k with a palette": (jpeg_2000(frame=with_palette(codestream())), UNREADABLE),
    }


def elements_then(middle: bytes, syntax: str = ExplicitVRLittleEndian) -> bytes:
    """The elements of a DICOM film with others among them, without its file meta information."""
    film = dicom(GREY, syntax=syntax)
    start = 144 + struct.unpack_from("<I", film, 140)[0]
    place = film.index(b"\x28\x00\x02\x00")
    return film[start:place] + middle + film[place:]


def with_elements(middle: bytes, syntax: str = ExplicitVRLittleEndian) -> bytes:
    film = dicom(GREY, syntax=syntax)
    return film[: 144 + struct.unpack_from("<I", film, 140)[0]] + elements_then(middle, syntax)


def deflated(middle: bytes) -> bytes:
    film = dicom(GREY, syntax=DeflatedExplicitVRLittleEndian)
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    data = packer.compress(elements_then(middle)) + packer.flush()
    return film[: 144 + struct.unpack_from("<I", film, 140)[0]] + data


def sequence(body: bytes, tag: tuple[int, int], length: int = 0xFFFFFFFF) -> bytes:
    end = END_OF_SEQUENCE if length == 0xFFFFFFFF else b""
    return struct.pack("<HH2sHI", *tag, b"SQ", 0, length) + body + end


def value(tag: tuple[int, int], body: bytes) -> bytes:
    """An element as implicit value representation writes it."""
    return struct.pack("<HHI", *tag, len(body)) + body


def dicom_files() -> Files:
    empty = struct.pack("<HH2sH", 0x0019, 0x1001, b"LO", 0)
    window = value((0x28, 0x1050), b"1\\" * 4_000_000) + value((0x28, 0x1051), b"9\\" * 4_000_000)
    charset = struct.pack("<HH2sH", 8, 5, b"CS", 60_000) + b"\\" * 60_000
    views = EMPTY_ITEM * 500_000
    pixels = dicom(GREY)
    place = pixels.index(b"\xe0\x7f\x10\x00")
    fragments = dicom(GREY, syntax=JPEGBaseline8Bit, encoded=encode(GREY, "JPEG"))
    first = fragments.index(b"\xe0\x7f\x10\x00") + 20
    offsets = fragments[: first - 4] + struct.pack("<I", 8_000_000) + bytes(8_000_000)
    runs = dicom(GREY, syntax=RLELossless, encoded=struct.pack("<16I", 15, *[64] * 15) + bytes(64))
    return {
        "dicom deflated items": (
            deflated(sequence(EMPTY_ITEM * 3_000_000, (0x18, 0x9999))),
            TOO_LARGE,
        ),
        "dicom deflated elements": (deflated(empty * 10_000_000), TOO_LARGE),
        "dicom of items": (
            with_elements(sequence(EMPTY_ITEM * 500_000, (0x18, 0x9999))),
            TOO_LARGE,
        ),
        "dicom of private items": (
            with_elements(sequence(EMPTY_ITEM * 500_000, (0x19, 0x1001))),
            TOO_LARGE,
        ),
        "dicom of elements": (with_elements(empty * 1_000_000), TOO_LARGE),
        "dicom of views": (with_elements(sequence(views, (0x54, 0x220), len(views))), TOO_LARGE),
        "dicom of windows": (with_elements(window, ImplicitVRLittleEndian), TOO_LARGE),
        "dicom of one long word": (
            with_elements(value((0x18, 0x15), b"A\\" * 4_000_000), ImplicitVRLittleEndian),
            TOO_LARGE,
        ),
        "dicom of character sets": (with_elements(charset * 100), TOO_LARGE),
        "dicom of pixels in words": (
            pixels[:place] + pixels[place:].replace(b"OB", b"UT", 1).replace(b"OW", b"UT", 1),
            UNREADABLE,
        ),
        "dicom of fragments": (
            fragments[:first] + EMPTY_ITEM * 500_000 + END_OF_SEQUENCE,
            TOO_LARGE,
        ),
        "dicom of offsets": (offsets + fragments[first:], TOO_LARGE),
        "dicom of run lengths": (runs, UNREADABLE),
    }


def scans(number: int, side: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    film = encode(
        np.kron(GREY, np.ones((side // 80, side // 100), np.uint8)), "JPEG", progressive=True
    )
    last = film[film.rindex(b"\xff\xc4", 0, film.rindex(b"\xff\xda")) : -2]
    return film[:-2] + last * number + bytes(side * side // 1900) + b"\xff\xd9"


def webp(width: int, height: int) -> bytes:
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    chunks = b"VP8X" + struct.pack("<II", 10, 0) + canvas + b"VP8 " + bytes(4)
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


def run_lengths(side: int, runs: bytes) -> bytes:
    """A BMP in run lengths."""
    head = struct.pack("<2sIHHI", b"BM", 0, 0, 0, 14 + 40 + 1024)
    info = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, 0, 0, 0, 256, 0)
    return head + info + bytes(1024) + runs


def tiff_with(entries: list[tuple[int, int, int, int]], behind: bytes = b"") -> bytes:
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + packed + bytes(4) + behind


def tiff_of_shared_strips() -> bytes:
    """As many strips as rows, each of them the same megabyte."""
    rows, shared = 8000, 1_000_000
    place = 14 + 8 * 12
    tags = [(256, 4, 1, 1000), (257, 4, 1, rows), (258, 4, 1, 8), (259, 4, 1, 8), (262, 4, 1, 1)]
    tags += [(273, 4, rows, place), (278, 4, 1, 1), (279, 4, rows, place + 4 * rows)]
    offsets = struct.pack("<I", place + 8 * rows) * rows
    return tiff_with(
        tags, offsets + struct.pack("<I", shared) * rows + zlib.compress(bytes(shared), 0)
    )


def picture_files() -> Files:
    film = make_film(seed=950)
    jpeg = encode(np.kron(GREY, np.ones((9, 9), np.uint8)), "JPEG")
    return {
        "jpeg of scans": (scans(3000, 4000), TOO_LARGE),
        "jpeg of large scans": (scans(60, 8000), TOO_LARGE),
        "jpeg of nothing": (b"\xff\xd8\xff" + bytes(40_000_000), TOO_LARGE),
        "jpeg of comments": (jpeg[:2] + segment(0xFFFE, b"") * 1_000_000 + jpeg[2:], TOO_LARGE),
        "jpeg of fill bytes": (jpeg[:2] + b"\xff" * 10_000_000 + jpeg[2:], TOO_LARGE),
        "png of chunks": (film[:33] + png_chunk(b"abCd", b"") * 1_000_000 + film[33:], TOO_LARGE),
        "webp of 268 megapixels": (webp(16_384, 16_384), TOO_LARGE),
        "webp of 79 megapixels": (webp(8_888, 8_888), TOO_LARGE),
        "jpeg of exif": (
            jpeg[:2] + segment(0xFFE1, b"Exif\0\0" + bytes(65_000)) * 2000 + jpeg[2:],
            TOO_LARGE,
        ),
        "bmp of run lengths": (run_lengths(3000, b"\1\7" * 4_500_000), TOO_LARGE),
        "bmp of lines without pixels": (
            run_lengths(8888, b"\1\7\0\0" * 8888 + bytes(5000)),
            TOO_LARGE,
        ),
        "tiff of 60,000 tags": (tiff_with([(256 + n, 4, 1, 0) for n in range(60_000)]), TOO_LARGE),
        "tiff of shared strips": (tiff_of_shared_strips(), TOO_LARGE),
    }


@cache
def hostile_files() -> Files:
    return {**jpeg_2000_files(), **dicom_files(), **picture_files()}
