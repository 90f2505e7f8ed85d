"""JPEG, PNG, TIFF, BMP and WebP that are damaged, lie, or are something else than one film."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

from tests.batch_scorer.imaging.pixel_table import halves, tiff
from tests.images import encode, make_film
from tests.torture.outcomes import (
    NO_FILM,
    SCORED,
    TOO_LARGE,
    TOO_SMALL,
    TRUNCATED,
    UNREADABLE,
    Files,
    noise,
    tenths,
)


def jpegs() -> Files:
    """JPEG files, sound ones in bad company among them."""
    jpeg = encode(noise(), "JPEG")
    frame = jpeg.index(b"\xff\xc0") + 5
    liar = jpeg[:frame] + struct.pack(">HH", 65_000, 65_000) + jpeg[frame + 4 :]
    cut_liar = jpeg[:frame] + struct.pack(">HH", 5_000, 5_000) + jpeg[frame + 4 :]
    damaged_exif = encode(noise(), "JPEG", exif=b"Exif\0\0" + b"\xff" * 99)
    return {
        "jpeg of 65000 by 65000.jpeg": (liar, TOO_LARGE),
        "jpeg of 5000 by 5000, nearly empty.jpeg": (cut_liar, NO_FILM),
        "jpeg header alone.jpeg": (b"\xff\xd8\xff\xe0 no jpeg at all", TRUNCATED),
        "jpeg with a scrambled table.jpeg": (jpeg.replace(b"\xff\xc4", b"\xff\xc5", 1), UNREADABLE),
        "jpeg with exif garbage.jpeg": (damaged_exif, SCORED),
        "jpeg with icc garbage.jpeg": (encode(noise(), "JPEG", icc_profile=b"\xff" * 999), SCORED),
        "jpeg and zip.jpeg": (jpeg + b"PK\5\6" + bytes(18), SCORED),
        "jpeg with html behind.jpeg": (jpeg + b"<script>alert(1)</script>", SCORED),
        "jpeg called dicom.dcm": (encode(noise(), "JPEG", quality=80), SCORED),
        **tenths("jpeg", jpeg, TRUNCATED),
    }


def pngs() -> Files:
    """PNG files, bombs among them."""
    film = make_film(seed=901)
    header = film[:16] + struct.pack(">II", 60_000, 60_000) + film[24:29]
    giant = header + struct.pack(">I", zlib.crc32(header[12:])) + film[33:]
    text = png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(30_000_000)))
    profile = png_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(30_000_000)))
    return {
        "png of 60000 by 60000.png": (giant, TOO_LARGE),
        "png bomb of 400 megapixels.png": (png_bomb(20_000, 20_000), TOO_LARGE),
        "png bomb of 79 megapixels.png": (png_bomb(8_888, 8_888), NO_FILM),
        "png text bomb.png": (film[:33] + text + film[33:], UNREADABLE),
        "png icc bomb.png": (film[:33] + profile + film[33:], UNREADABLE),
        "png with a wrong checksum.png": (film[:29] + b"\0\0\0\0" + film[33:], UNREADABLE),
        "png header alone.png": (film[:33], UNREADABLE),
        "png called jpeg.jpeg": (make_film(seed=902), SCORED),
        "png without ending": (make_film(seed=903), SCORED),
        "png of one grey.png": (encode(np.full((99, 99), 80, np.uint8)), NO_FILM),
        "png of 20 pixels.png": (encode(noise(20, 20)), TOO_SMALL),
        "png of a line.png": (encode(noise(3, 5_000)), TOO_SMALL),
        "png moving.png": (several("PNG"), NO_FILM),
        **tenths("png", encode(noise()), TRUNCATED),
    }


def tiffs() -> Files:
    """TIFF files that lie about their size, loop, stop or hold two pages."""
    grey_tiff = tiff(noise(), compression="zlib")
    loop = bytearray(tiff(noise()))
    start = struct.unpack_from("<I", loop, 4)[0]
    entries = struct.unpack_from("<H", loop, start)[0]
    struct.pack_into("<I", loop, start + 2 + 12 * entries, start)
    return {
        "tiff of 60000 by 60000.tif": (resized_tiff(grey_tiff, 60_000), TOO_LARGE),
        "tiff of 5000 by 5000 that ends.tif": (resized_tiff(grey_tiff, 5_000), UNREADABLE),
        "tiff of two pages.tif": (several("TIFF"), NO_FILM),
        "tiff in a loop.tif": (bytes(loop), SCORED),
        "tiff header alone.tif": (b"II*\0\x08\0\0\0", UNREADABLE),
        "tiff half.tif": (grey_tiff[: len(grey_tiff) // 2], UNREADABLE),
        "tiff not a number.tif": (tiff(halves(1, np.nan, np.float32)), UNREADABLE),
    }


def bitmaps() -> Files:
    """BMP and WebP files that lie about their size, stop or move."""
    webp = encode(np.stack([noise()] * 3, axis=-1), "WEBP")
    bitmap = bytearray(encode(noise(), "BMP"))
    bitmap[18:26] = struct.pack("<ii", 60_000, 60_000)
    return {
        "bmp of 60000 by 60000.bmp": (bytes(bitmap), TOO_LARGE),
        "bmp half.bmp": (encode(noise(), "BMP")[:20_000], TRUNCATED),
        "webp half.webp": (webp[: len(webp) // 2], UNREADABLE),
        "webp moving.webp": (several("WEBP"), NO_FILM),
        "webp of 16384 by 16384.webp": (giant_webp(webp), TOO_LARGE),
        "webp header alone.webp": (b"RIFF\xff\xff\xff\xffWEBPVP8X", UNREADABLE),
    }


def png_chunk(kind: bytes, data: bytes) -> bytes:
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def png_bomb(height: int, width: int) -> bytes:
    """Black, deflated a thousandfold."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    packer, line = zlib.compressobj(1), bytes(width + 1)
    lines = b"".join(packer.compress(line) for _ in range(height)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", lines) + png_chunk(b"IEND", b"")


def giant_webp(data: bytes) -> bytes:
    """A small picture on a canvas of the largest size that the format knows."""
    canvas = struct.pack("<4sI4x", b"VP8X", 10) + (16_383).to_bytes(3, "little") * 2
    body = b"WEBP" + canvas + data[12:]
    return struct.pack("<4sI", b"RIFF", len(body)) + body


def resized_tiff(data: bytes, side_px: int) -> bytes:
    """A TIFF whose width and height tags say something else than its pixels do."""
    changed = bytearray(data)
    start = struct.unpack_from("<I", changed, 4)[0]
    for place in range(start + 2, start + 2 + 12 * struct.unpack_from("<H", changed, start)[0], 12):
        if struct.unpack_from("<H", changed, place)[0] in (256, 257, 278):
            struct.pack_into("<HII", changed, place + 2, 4, 1, side_px)
    return bytes(changed)


def several(kind: str) -> bytes:
    buffer = io.BytesIO()
    pages = [Image.fromarray(halves(level, 200)) for level in (0, 90)]
    pages[0].save(buffer, kind, save_all=True, append_images=pages[1:])
    return buffer.getvalue()
