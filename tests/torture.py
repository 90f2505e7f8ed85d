"""A folder of everything that should never lie among films, and what its rows must say.

``python -m tests.torture FOLDER`` makes it. Every file has the row that ``make_folder`` names:
its status and, where it is not scored, its reason.
"""

from __future__ import annotations

import io
import os
import socket
import struct
import sys
import tarfile
import zipfile
import zlib
from gzip import compress
from pathlib import Path
from typing import TYPE_CHECKING

import imagecodecs
import numpy as np
import pydicom
from PIL import Image
from pydicom.uid import (
    BasicTextSRStorage,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from tests.batch_scorer.pixel_table import GREY, bare, dicom, halves, tiff
from tests.conftest import encode, make_film

if TYPE_CHECKING:
    from collections.abc import Iterator

SCORED = ("scored", "")
UNSUPPORTED = ("rejected", "unsupported")
TOO_LARGE = ("rejected", "too_large")
TOO_SMALL = ("rejected", "too_small")
NO_FILM = ("rejected", "not_radiograph")
UNREADABLE = ("failed", "unreadable")
TRUNCATED = ("failed", "truncated")

Expected = tuple[str, str]
Files = dict[str | bytes, tuple[bytes, Expected]]

NAMES: list[str | bytes] = [
    '<img src=x onerror="alert(1)">.png',
    "<script>alert('x')<!-- .png",
    "{{ 7 * 7 }}{% raw %}.png",
    "=cmd|' C calc'!A0.png",
    "+1+1.png",
    "@SUM(A1).png",
    "-rf.png",
    "--output=elsewhere.png",
    "two\nlines.png",
    "carriage\rreturn.png",
    "tab\tstop.png",
    "\x1b[31mred.png",
    "\u202egnp.right-to-left",
    "zero\u200bwidth.png",
    "é.png",
    "e\u0301.png",
    "%s%n%x{0}.png",
    "quote\"and'comma,.png",
    "back\\slash.png",
    "$(reboot)`reboot`;&.png",
    "CON",
    " ",
    "🫁.png",
    "x" * 251 + ".png",
    b"invalid-\xff\xfe.png",
]
"""Each holds a film of its own."""


def noise(height: int = 200, width: int = 200) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width), np.uint8)


def no_films() -> Files:
    """What is no picture at all."""
    film = make_film(seed=900)
    zipped, tarred = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("film.png", film)
    nested = io.BytesIO()
    with zipfile.ZipFile(nested, "w") as archive:
        archive.writestr("inner.zip", zipped.getvalue())
    with tarfile.open(fileobj=tarred, mode="w") as archive:
        entry = tarfile.TarInfo("film.png")
        entry.size = len(film)
        archive.addfile(entry, io.BytesIO(film))
    return {
        "empty.png": (b"", UNREADABLE),
        "one byte.png": (b"\xff", UNSUPPORTED),
        "zeros.dcm": (bytes(10_000), UNSUPPORTED),
        "noise.bin": (noise().tobytes(), UNSUPPORTED),
        "letter.jpeg": (b"Dear doctor, BM", UNSUPPORTED),
        "BM.bmp": (b"BM, said the doctor, and more words than a header has", UNSUPPORTED),
        "page.html": (b"<!doctype html><script>alert(1)</script>", UNSUPPORTED),
        "drawing.svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', UNSUPPORTED),
        "report.pdf": (b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n%%EOF\n", UNSUPPORTED),
        "setup.exe": (b"MZ" + bytes(200) + b"PE\0\0", UNSUPPORTED),
        "program": (b"\x7fELF" + bytes(200), UNSUPPORTED),
        "script.sh": (b"#!/bin/sh\nexit 1\n", UNSUPPORTED),
        "rows.csv": (b"image,status\n=1+1,scored\n", UNSUPPORTED),
        "films.zip": (zipped.getvalue(), UNSUPPORTED),
        "zip in zip.zip": (nested.getvalue(), UNSUPPORTED),
        "films.tar": (tarred.getvalue(), UNSUPPORTED),
        "film.png.gz": (compress(film), UNSUPPORTED),
        "moving.gif": (encode(GREY, "GIF"), UNSUPPORTED),
        "pdf then jpeg": (b"%PDF-1.7\n" + encode(GREY, "JPEG"), UNSUPPORTED),
        "film.png.part": (film[8:], UNSUPPORTED),
    }


def pictures() -> Files:
    """JPEG, PNG, TIFF, BMP and WebP that are damaged, lie, or are something else than one film."""
    film = make_film(seed=901)
    jpeg = encode(noise(), "JPEG")
    frame = jpeg.index(b"\xff\xc0") + 5
    liar = jpeg[:frame] + struct.pack(">HH", 65_000, 65_000) + jpeg[frame + 4 :]
    cut_liar = jpeg[:frame] + struct.pack(">HH", 5_000, 5_000) + jpeg[frame + 4 :]
    header = film[:16] + struct.pack(">II", 60_000, 60_000) + film[24:29]
    giant = header + struct.pack(">I", zlib.crc32(header[12:])) + film[33:]
    text = png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(30_000_000)))
    profile = png_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(30_000_000)))
    damaged_exif = encode(noise(), "JPEG", exif=b"Exif\0\0" + b"\xff" * 99)
    webp = encode(np.stack([noise()] * 3, axis=-1), "WEBP")
    bitmap = bytearray(encode(noise(), "BMP"))
    bitmap[18:26] = struct.pack("<ii", 60_000, 60_000)
    grey_tiff = tiff(noise(), compression="zlib")
    loop = bytearray(tiff(noise()))
    start = struct.unpack_from("<I", loop, 4)[0]
    entries = struct.unpack_from("<H", loop, start)[0]
    struct.pack_into("<I", loop, start + 2 + 12 * entries, start)
    return {
        "jpeg of 65000 by 65000.jpeg": (liar, TOO_LARGE),
        "jpeg of 5000 by 5000, nearly empty.jpeg": (cut_liar, NO_FILM),
        "jpeg header alone.jpeg": (b"\xff\xd8\xff\xe0 no jpeg at all", TRUNCATED),
        "jpeg with a scrambled table.jpeg": (jpeg.replace(b"\xff\xc4", b"\xff\xc5", 1), UNREADABLE),
        "jpeg with exif garbage.jpeg": (
            damaged_exif,
            SCORED,
        ),
        "jpeg with icc garbage.jpeg": (encode(noise(), "JPEG", icc_profile=b"\xff" * 999), SCORED),
        "jpeg and zip.jpeg": (jpeg + b"PK\5\6" + bytes(18), SCORED),
        "jpeg with html behind.jpeg": (jpeg + b"<script>alert(1)</script>", SCORED),
        "jpeg called dicom.dcm": (encode(noise(), "JPEG", quality=80), SCORED),
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
        "tiff of 60000 by 60000.tif": (resized_tiff(grey_tiff, 60_000), TOO_LARGE),
        "tiff of 5000 by 5000 that ends.tif": (resized_tiff(grey_tiff, 5_000), UNREADABLE),
        "tiff of two pages.tif": (several("TIFF"), NO_FILM),
        "tiff in a loop.tif": (bytes(loop), SCORED),
        "tiff header alone.tif": (b"II*\0\x08\0\0\0", UNREADABLE),
        "tiff half.tif": (grey_tiff[: len(grey_tiff) // 2], UNREADABLE),
        "tiff not a number.tif": (tiff(halves(1, np.nan, np.float32)), UNREADABLE),
        "bmp of 60000 by 60000.bmp": (bytes(bitmap), TOO_LARGE),
        "bmp half.bmp": (encode(noise(), "BMP")[:20_000], TRUNCATED),
        "webp half.webp": (webp[: len(webp) // 2], UNREADABLE),
        "webp moving.webp": (several("WEBP"), NO_FILM),
        "webp header alone.webp": (b"RIFF\xff\xff\xff\xffWEBPVP8X", UNREADABLE),
        **tenths("jpeg", jpeg, TRUNCATED),
        **tenths("png", encode(noise()), TRUNCATED),
    }


def dicoms() -> Files:
    """DICOM files that are damaged, lie, or are something else than one film."""
    film = dicom(noise())
    nested = struct.pack("<HH2sHI", 8, 0x1115, b"SQ", 0, 0xFFFFFFFF)
    nested += struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    identification = film[: film.index(b"\x08\x00\x16\x00")]
    runs = struct.pack("<16I", 1, 64, *([0] * 14)) + b"\x81\x00" * 500_000
    giant = np.zeros((9_000, 9_000), np.uint8)
    report = pydicom.dcmread(io.BytesIO(dicom(GREY, SOPClassUID=BasicTextSRStorage, Modality="SR")))
    del report.PixelData
    no_image = io.BytesIO()
    report.save_as(no_image)
    no_number = dicom(noise(), RescaleSlope="nan", RescaleIntercept=0)
    deflated = dicom(noise(), syntax=DeflatedExplicitVRLittleEndian)
    frame = imagecodecs.jpegls_encode(noise() // 16)
    half, scrambled = frame[:9_000], frame[:99] + b"\xff\xc1" * 99 + frame[300:]
    rows = film.index(b"\x28\x00\x10\x00US")
    return {
        "dicom called jpeg.jpeg": (dicom(noise(210)), SCORED),
        "dicom without ending": (dicom(noise(220)), SCORED),
        "dicom without preamble": (dicom(noise(230))[132:], SCORED),
        "dicom elements alone": (bare(dicom(noise(240)), implicit=True), SCORED),
        "dicom behind a tiff header": (b"II*\0" + dicom(noise(250))[4:], SCORED),
        "dicom ct": (dicom(noise(), Modality="CT"), NO_FILM),
        "dicom ct by class": (dicom(noise(), SOPClassUID=CTImageStorage), NO_FILM),
        "dicom report": (no_image.getvalue(), NO_FILM),
        "dicom side view": (dicom(noise(), ViewPosition="LL"), NO_FILM),
        "dicom hand": (dicom(noise(), BodyPartExamined="HAND"), NO_FILM),
        "dicom of four frames": (dicom(noise(), NumberOfFrames=4), NO_FILM),
        "dicom in colour": (dicom(noise(), photometric="RGB", SamplesPerPixel=3), NO_FILM),
        "dicom palette": (dicom(noise(), photometric="PALETTE COLOR"), NO_FILM),
        "dicom modality html": (dicom(noise(), Modality="<b>x</b>"), NO_FILM),
        "dicom flat by its window": (dicom(noise(), WindowCenter=9999, WindowWidth=10), NO_FILM),
        "dicom window below zero": (dicom(noise(), WindowCenter=1, WindowWidth=-5), UNREADABLE),
        "dicom slope not a number": (
            no_number,
            UNREADABLE,
        ),
        "dicom of 65535 by 65535": (dicom(noise(), Rows=65_535, Columns=65_535), TOO_LARGE),
        "dicom of no rows": (dicom(noise(), Rows=0), TOO_SMALL),
        "dicom of more rows than it has": (dicom(noise(), Rows=400), TRUNCATED),
        "dicom of 64 bits": (dicom(noise(), BitsAllocated=64, BitsStored=64), UNSUPPORTED),
        "dicom without a photometric": (film.replace(b"\x28\0\4\0", b"\x29\0\4\0"), UNREADABLE),
        "dicom rows of no number": (film[: rows + 6] + b"\0\0" + film[rows + 10 :], UNREADABLE),
        "dicom nested without end": (identification + nested * 50_000, UNREADABLE),
        "dicom element of 4 GB": (film[: len(film) - 40_004] + b"\xff" * 4 + bytes(99), UNREADABLE),
        "dicom prefix alone": (bytes(128) + b"DICM", UNREADABLE),
        "dicom prefix and noise": (bytes(128) + b"DICM" + noise().tobytes(), UNREADABLE),
        "dicom inflating to 250 MB": (deflated_bomb(), TOO_LARGE),
        "dicom deflated half": (
            deflated[:9_000],
            UNREADABLE,
        ),
        "dicom rle bomb": (dicom(noise(), syntax=RLELossless, encoded=runs), UNREADABLE),
        "dicom jpeg of another size": (
            dicom(noise(), syntax=JPEGBaseline8Bit, encoded=encode(giant, "JPEG")),
            UNREADABLE,
        ),
        "dicom jpeg 2000 of another size": (
            dicom(noise(), syntax=JPEG2000Lossless, encoded=jpeg_2000_header()),
            UNREADABLE,
        ),
        "dicom jpeg-ls half": (
            dicom(noise(), syntax=JPEGLSLossless, encoded=half),
            TRUNCATED,
        ),
        "dicom jpeg-ls scrambled": (
            dicom(noise(), syntax=JPEGLSLossless, encoded=scrambled),
            UNREADABLE,
        ),
        "dicom of no known syntax": (
            film.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0"),
            UNREADABLE,
        ),
        "dicom in text": (dicom(noise(), PatientName="x" * 65_000, PatientID="=1+1\n<b>"), SCORED),
        **tenths("dicom", film, TRUNCATED),
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


def deflated_bomb() -> bytes:
    film = dicom(GREY, syntax=DeflatedExplicitVRLittleEndian)
    end = 132 + 12 + struct.unpack_from("<I", film, 140)[0]
    packer = zlib.compressobj(1, wbits=-zlib.MAX_WBITS)
    data = b"".join(packer.compress(bytes(1_000_000)) for _ in range(250)) + packer.flush()
    return film[:end] + data


def jpeg_2000_header() -> bytes:
    """A codestream that claims to be 60,000 by 60,000."""
    data = bytearray(imagecodecs.jpeg2k_encode(noise(), level=0, codecformat="j2k"))
    struct.pack_into(">II", data, data.index(b"\xff\x51") + 6, 60_000, 60_000)
    return bytes(data)


def tenths(name: str, data: bytes, expected: Expected) -> Files:
    return {
        f"{name} cut at {tenth} tenths": (data[: len(data) * tenth // 10], expected)
        for tenth in range(1, 10)
    }


def special_files(root: Path) -> Iterator[tuple[str, Expected]]:
    """What is no plain file; a device only where this user may make one."""
    for name, target in {
        "loop a": "loop b",
        "loop b": "loop a",
        "link to itself": "link to itself",
        "link to nowhere": "nowhere",
        "link to the folder": ".",
        "link to a device": "/dev/zero",
    }.items():
        (root / name).symlink_to(target)
        yield name, UNREADABLE
    (root / "link to a film").symlink_to("png without ending")
    yield "link to a film", SCORED
    os.mkfifo(root / "pipe")
    yield "pipe", UNREADABLE
    place = os.open(root, os.O_DIRECTORY)
    with socket.socket(socket.AF_UNIX) as listener:  # its path may have 107 bytes only
        listener.bind(f"/proc/self/fd/{place}/socket")
    os.close(place)
    yield "socket", UNREADABLE
    if os.geteuid() == 0:
        os.mknod(root / "device", 0o20666, os.makedev(1, 5))
        yield "device", UNREADABLE
    (root / "unreadable.png").write_bytes(make_film(seed=904))
    (root / "unreadable.png").chmod(0)
    readable = os.access(root / "unreadable.png", os.R_OK)  # to an administrator it is
    yield "unreadable.png", SCORED if readable else UNREADABLE
    with (root / "600 MB of nothing.dcm").open("wb") as file:
        file.truncate(600_000_000)
    yield "600 MB of nothing.dcm", TOO_LARGE


def make_folder(root: Path) -> dict[str, Expected]:
    """Fill a folder; return what the row of each file must say, by its key."""
    root.mkdir(parents=True)
    expected: dict[str, Expected] = {}
    files = {name: (make_film(seed=seed), SCORED) for seed, name in enumerate(NAMES)}
    for name, (data, row) in {**files, **no_films(), **pictures(), **dicoms()}.items():
        path = os.fsencode(root) + b"/" + os.fsencode(name)
        Path(os.fsdecode(path)).write_bytes(data)
        key = os.fsdecode(name).encode("utf-8", "backslashreplace").decode()
        expected[key] = row
    expected.update(special_files(root))
    return expected


if __name__ == "__main__":
    made = make_folder(Path(sys.argv[1]))
    print(f"{len(made)} files in {sys.argv[1]}")  # noqa: T201
