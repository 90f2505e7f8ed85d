"""DICOM files that are damaged, lie, or are something else than one film."""

from __future__ import annotations

import io
import struct
import zlib

import imagecodecs
import numpy as np
import pydicom
from pydicom.uid import (
    BasicTextSRStorage,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from tests.batch_scorer.imaging.pixel_table import GREY, bare, dicom
from tests.images import encode
from tests.torture.outcomes import (
    NO_FILM,
    SCORED,
    TOO_LARGE,
    TOO_SMALL,
    TRUNCATED,
    UNREADABLE,
    UNSUPPORTED,
    Files,
    noise,
    tenths,
)


def whole() -> Files:
    """Sound files: films in unusual dress, and what is no frontal film of a chest."""
    report = pydicom.dcmread(io.BytesIO(dicom(GREY, SOPClassUID=BasicTextSRStorage, Modality="SR")))
    del report.PixelData
    no_image = io.BytesIO()
    report.save_as(no_image)
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
        "dicom in text": (dicom(noise(), PatientName="x" * 65_000, PatientID="=1+1\n<b>"), SCORED),
    }


def damaged() -> Files:
    """Headers and pixels that are cut, lie or make no sense."""
    film = dicom(noise())
    nested = struct.pack("<HH2sHI", 8, 0x1115, b"SQ", 0, 0xFFFFFFFF)
    nested += struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    identification = film[: film.index(b"\x08\x00\x16\x00")]
    no_number = dicom(noise(), RescaleSlope="nan", RescaleIntercept=0)
    rows = film.index(b"\x28\x00\x10\x00US")
    return {
        "dicom window below zero": (dicom(noise(), WindowCenter=1, WindowWidth=-5), UNREADABLE),
        "dicom slope not a number": (no_number, UNREADABLE),
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
        "dicom of no known syntax": (
            film.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0"),
            UNREADABLE,
        ),
        **tenths("dicom", film, TRUNCATED),
    }


def compressed() -> Files:
    """Compressed pixels that are cut, lie, or unpack to more than the memory holds."""
    runs = struct.pack("<16I", 1, 64, *([0] * 14)) + b"\x81\x00" * 500_000
    giant = np.zeros((9_000, 9_000), np.uint8)
    deflated = dicom(noise(), syntax=DeflatedExplicitVRLittleEndian)
    frame = imagecodecs.jpegls_encode(noise() // 16)
    half, scrambled = frame[:9_000], frame[:99] + b"\xff\xc1" * 99 + frame[300:]
    return {
        "dicom inflating to 250 MB": (deflated_bomb(), TOO_LARGE),
        "dicom deflated half": (deflated[:9_000], UNREADABLE),
        "dicom rle bomb": (dicom(noise(), syntax=RLELossless, encoded=runs), UNREADABLE),
        "dicom jpeg of another size": (
            dicom(noise(), syntax=JPEGBaseline8Bit, encoded=encode(giant, "JPEG")),
            UNREADABLE,
        ),
        "dicom jpeg 2000 of another size": (
            dicom(noise(), syntax=JPEG2000Lossless, encoded=jpeg_2000_header()),
            UNREADABLE,
        ),
        "dicom jpeg-ls half": (dicom(noise(), syntax=JPEGLSLossless, encoded=half), TRUNCATED),
        "dicom jpeg-ls scrambled": (
            dicom(noise(), syntax=JPEGLSLossless, encoded=scrambled),
            UNREADABLE,
        ),
    }


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
