"""The pixel table: files of every kind, and the grey levels that they must decode to.

Each film is 100 by 80: left half one value, right half another. ``expected`` holds the grey level
of the left and of the right half after decoding; scorer and trainer read the same table.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import tifffile
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import JPEG2000 as JPEG_2000_LOSSY
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
    generate_uid,
)

from tests.images import encode

HEIGHT, WIDTH = 80, 100
COMPUTED_RADIOGRAPHY = UID("1.2.840.10008.5.1.4.1.1.1")


@dataclass(frozen=True)
class Row:
    """One kind of file."""

    name: str
    data: bytes
    expected: tuple[int, int]
    tolerance: int = 1


def halves(left: Any, right: Any, dtype: Any = np.uint8) -> np.ndarray:
    """A film whose halves have one value each; a tuple gives colour."""
    left, right = np.asarray(left, dtype), np.asarray(right, dtype)
    film = np.empty((HEIGHT, WIDTH, *left.shape), dtype)
    film[:, : WIDTH // 2], film[:, WIDTH // 2 :] = left, right
    return film


def dicom(
    pixels: np.ndarray,
    *,
    photometric: str = "MONOCHROME2",
    syntax: UID = ExplicitVRLittleEndian,
    encoded: bytes | None = None,
    **attributes: Any,
) -> bytes:
    """A minimal DICOM film; ``encoded`` replaces the plain pixel data by a compressed frame."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = COMPUTED_RADIOGRAPHY
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["cxr-batch", "pixel table"])
    meta.TransferSyntaxUID = syntax
    dataset = FileDataset("", {}, bytes(128), meta, syntax.is_implicit_VR, syntax.is_little_endian)
    dataset.SOPClassUID = COMPUTED_RADIOGRAPHY
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.Modality = "CR"
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = photometric
    dataset.BitsAllocated = pixels.dtype.itemsize * 8
    dataset.BitsStored = attributes.pop("BitsStored", dataset.BitsAllocated)
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes() if encoded is None else encapsulate([encoded])
    for name, value in attributes.items():
        setattr(dataset, name, value)
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def with_orientation(pixels: np.ndarray, orientation: int, kind: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(pixels, kind, quality=95, exif=exif)


def clear_palette() -> bytes:
    """A palette whose first colour, that of the left half, cannot be seen."""
    image = Image.fromarray(halves(0, 1)).convert("L")
    image.putpalette([90, 90, 90, 200, 200, 200])
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=0)
    return buffer.getvalue()


def coded_view(value: str, scheme: str, meaning: str) -> list[Dataset]:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return [item]


def as_mode(pixels: np.ndarray, mode: str, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(pixels: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


def bare(data: bytes, *, implicit: bool, little_endian: bool = True) -> bytes:
    """The elements of a DICOM file alone: no preamble, no prefix, no file meta information."""
    stream = DicomBytesIO()
    stream.is_implicit_VR, stream.is_little_endian = implicit, little_endian
    write_dataset(stream, pydicom.dcmread(io.BytesIO(data)))
    return stream.getvalue()


def without_syntax(data: bytes) -> bytes:
    """A DICOM file whose file meta information does not say how its elements are encoded."""
    start = data.index(b"\x02\x00\x10\x00UI")
    return data[:start] + data[start + 8 + data[start + 6] :]


def run_length_encoded(data: bytes) -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(data))
    dataset.compress(RLELossless)
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


def lookup(entries: np.ndarray, first: int, bits: int) -> list[Dataset]:
    """A lookup table as the item of a sequence; 8-bit entries lie packed, two a word."""
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries) % 65536, first, bits])
    item.add_new("LUTData", "OW", entries.tobytes())
    return [item]


GREY = halves(40, 200)
DEEP = halves(1024, 3072, np.uint16)
WIDE = {"BitsStored": 12, "WindowCenter": 2048, "WindowWidth": 4096}
BYTES = {"WindowCenter": 128, "WindowWidth": 256}
RAMP = np.arange(4096)
ROWS = [
    Row("JPEG grey", encode(GREY, "JPEG", quality=95), (40, 200), 2),
    Row(
        "JPEG RGB", encode(halves((40, 40, 40), (200, 200, 200)), "JPEG", quality=95), (40, 200), 2
    ),
    Row(
        "JPEG CMYK",
        as_mode(halves((40,) * 3, (200,) * 3), "CMYK", "JPEG", quality=95),
        (40, 200),
        3,
    ),
    Row("JPEG EXIF 180", with_orientation(GREY, 3), (200, 40), 2),
    Row("JPEG EXIF mirrored", with_orientation(GREY, 2), (200, 40), 2),
    Row(
        "JPEG huge, reduced scale",
        encode(np.kron(GREY, np.ones((20, 20), np.uint8)), "JPEG"),
        (40, 200),
        2,
    ),
    Row("PNG grey", encode(GREY), (40, 200)),
    Row("PNG RGB", encode(halves((255, 0, 0), (0, 255, 0))), (76, 150)),
    Row(
        "PNG alpha over black",
        encode(halves((200, 200, 200, 128), (200, 200, 200, 255))),
        (100, 200),
    ),
    Row("PNG grey alpha", as_mode(halves((200,) * 3 + (0,), (200,) * 3 + (255,)), "LA"), (0, 200)),
    Row("PNG palette", as_mode(halves((40,) * 3, (200,) * 3), "P"), (40, 200), 3),
    Row("PNG 16 bit, its own range", encode(halves(1000, 4000, np.uint16)), (0, 255)),
    Row("PNG 1 bit", as_mode(halves(0, 255), "1"), (0, 255)),
    Row("DICOM 8 bit, its own range", dicom(GREY), (0, 255)),
    Row("DICOM MONOCHROME1", dicom(GREY, photometric="MONOCHROME1"), (255, 0)),
    Row(
        "DICOM 12 bit, window",
        dicom(halves(1024, 3072, np.uint16), BitsStored=12, WindowCenter=2048, WindowWidth=4096),
        (64, 191),
    ),
    Row(
        "DICOM window clips",
        dicom(halves(100, 3000, np.uint16), BitsStored=12, WindowCenter=2048, WindowWidth=1000),
        (0, 255),
    ),
    Row(
        "DICOM signed, rescale, window",
        dicom(
            halves(-500, 500, np.int16),
            RescaleSlope=2,
            RescaleIntercept=1000,
            WindowCenter=1000,
            WindowWidth=4000,
        ),
        (64, 191),
    ),
    Row(
        "DICOM two windows, the first counts",
        dicom(halves(64, 192), WindowCenter=[128, 10], WindowWidth=[256, 5]),
        (64, 192),
    ),
    Row(
        "DICOM JPEG baseline",
        dicom(
            GREY,
            syntax=JPEGBaseline8Bit,
            encoded=encode(GREY, "JPEG", quality=95),
            WindowCenter=128,
            WindowWidth=256,
        ),
        (40, 200),
        3,
    ),
    Row(
        "DICOM JPEG 2000",
        dicom(
            GREY,
            syntax=JPEG2000Lossless,
            encoded=encode(GREY, "JPEG2000", irreversible=False, no_jp2=True),
            WindowCenter=128,
            WindowWidth=256,
        ),
        (40, 200),
        2,
    ),
    Row("PNG palette with alpha", clear_palette(), (0, 200)),
    Row("TIFF grey", encode(GREY, "TIFF"), (40, 200)),
    Row("TIFF grey LZW", encode(GREY, "TIFF", compression="tiff_lzw"), (40, 200)),
    Row("TIFF grey deflated, big endian", tiff(GREY, compression="zlib", byteorder=">"), (40, 200)),
    Row("TIFF white is zero", tiff(GREY, photometric="miniswhite"), (215, 55)),
    Row("TIFF 16 bit, its own range", tiff(DEEP), (0, 255)),
    Row("TIFF 16 bit big endian", tiff(DEEP, byteorder=">"), (0, 255)),
    Row("TIFF 16 bit, white is zero", tiff(DEEP, photometric="miniswhite"), (255, 0)),
    Row("TIFF signed 16 bit", tiff(halves(-9, 9, np.int16)), (0, 255)),
    Row("TIFF float, its own range", tiff(halves(-0.5, 2.5, np.float32)), (0, 255)),
    Row("TIFF float of a wide range", tiff(halves(-1e38, 1e38, np.float32)), (0, 255)),
    Row("TIFF RGB", encode(halves((255, 0, 0), (0, 255, 0)), "TIFF"), (76, 150)),
    Row(
        "TIFF RGB 16 bit, its high byte",
        tiff(halves((40 << 8,) * 3, (200 << 8,) * 3, np.uint16)),
        (40, 200),
    ),
    Row(
        "TIFF alpha", encode(halves((200, 200, 200, 128), (200,) * 3 + (255,)), "TIFF"), (100, 200)
    ),
    Row("TIFF palette", as_mode(halves((40,) * 3, (200,) * 3), "P", "TIFF"), (40, 200), 3),
    Row("TIFF CMYK", as_mode(halves((40,) * 3, (200,) * 3), "CMYK", "TIFF"), (40, 200)),
    Row("TIFF JPEG inside", encode(GREY, "TIFF", compression="jpeg", quality=95), (40, 200), 2),
    Row("TIFF turned by 180", encode(GREY, "TIFF", tiffinfo={274: 3}), (200, 40)),
    Row("TIFF 1 bit", as_mode(halves(0, 255), "1", "TIFF", compression="group4"), (0, 255)),
    Row("BMP grey", encode(GREY, "BMP"), (40, 200)),
    Row("BMP RGB", encode(halves((255, 0, 0), (0, 255, 0)), "BMP"), (76, 150)),
    Row(
        "BMP with a fourth channel",
        encode(halves((255, 0, 0, 9), (0, 255, 0, 99)), "BMP"),
        (76, 150),
    ),
    Row("BMP 1 bit", as_mode(halves(0, 255), "1", "BMP"), (0, 255)),
    Row("WebP lossy", as_mode(GREY, "RGB", "WEBP", quality=95), (40, 200), 2),
    Row("WebP lossless", as_mode(GREY, "RGB", "WEBP", lossless=True), (40, 200)),
    Row(
        "WebP alpha",
        encode(
            halves((200, 200, 200, 128), (200,) * 3 + (255,)), "WEBP", lossless=True, exact=True
        ),
        (100, 200),
    ),
    Row("WebP EXIF 180", with_orientation(GREY, 3, "WEBP"), (200, 40), 2),
    Row("PNG EXIF 180", with_orientation(GREY, 3, "PNG"), (200, 40)),
    Row(
        "JPEG EXIF garbage", encode(GREY, "JPEG", quality=95, exif=b"Exif\0\0garbage"), (40, 200), 2
    ),
    Row("PNG ICC garbage", encode(GREY, icc_profile=b"garbage" * 9), (40, 200)),
    Row("DICOM without preamble", dicom(GREY, **BYTES)[132:], (40, 200)),
    Row("DICOM prefix without preamble", dicom(GREY, **BYTES)[128:], (40, 200)),
    Row("DICOM preamble without prefix", bytes(128) + dicom(GREY, **BYTES)[132:], (40, 200)),
    Row("DICOM bare, implicit", bare(dicom(GREY, **BYTES), implicit=True), (40, 200)),
    Row("DICOM bare, explicit", bare(dicom(GREY, **BYTES), implicit=False), (40, 200)),
    Row(
        "DICOM bare, big endian",
        bare(
            dicom(DEEP.astype(">u2"), **WIDE, syntax=ExplicitVRBigEndian),
            implicit=False,
            little_endian=False,
        ),
        (64, 191),
    ),
    Row("DICOM without a transfer syntax", without_syntax(dicom(DEEP, **WIDE)), (64, 191)),
    Row("DICOM implicit", dicom(DEEP, **WIDE, syntax=ImplicitVRLittleEndian), (64, 191)),
    Row(
        "DICOM big endian",
        dicom(DEEP.astype(">u2"), **WIDE, syntax=ExplicitVRBigEndian),
        (64, 191),
    ),
    Row("DICOM deflated", dicom(DEEP, **WIDE, syntax=DeflatedExplicitVRLittleEndian), (64, 191)),
    Row("DICOM RLE", run_length_encoded(dicom(DEEP, **WIDE)), (64, 191)),
    Row(
        "DICOM 10 bit",
        dicom(DEEP // 4, BitsStored=10, WindowCenter=512, WindowWidth=1024),
        (64, 191),
    ),
    Row("DICOM 16 bit", dicom(DEEP * 16, WindowCenter=32768, WindowWidth=65536), (64, 191)),
    Row("DICOM high bit 15 of 12 stored", dicom(DEEP << 4, **WIDE, HighBit=15), (64, 191)),
    Row("DICOM overlay in the upper bits", dicom(DEEP | 0xF000, **WIDE), (64, 191)),
    Row(
        "DICOM signed 12 bit, its sign not extended",
        dicom(
            (halves(-1024, 1024, np.int16) & 0xFFF),
            BitsStored=12,
            WindowCenter=0,
            WindowWidth=4096,
        ),
        (64, 191),
    ),
    Row("DICOM MONOCHROME1, window", dicom(DEEP, photometric="MONOCHROME1", **WIDE), (191, 64)),
    Row(
        "DICOM LINEAR_EXACT",
        dicom(halves(64, 192), **BYTES, VOILUTFunction="LINEAR_EXACT"),
        (64, 191),
    ),
    Row(
        "DICOM SIGMOID",
        dicom(DEEP, BitsStored=12, WindowCenter=2048, WindowWidth=2048, VOILUTFunction="SIGMOID"),
        (30, 225),
    ),
    Row("DICOM empty window", dicom(GREY, WindowCenter=None, WindowWidth=None), (0, 255)),
    Row(
        "DICOM VOI LUT of 12 bits",
        dicom(DEEP, BitsStored=12, VOILUTSequence=lookup(RAMP[::-1].astype("<u2"), 0, 12)),
        (191, 64),
    ),
    Row(
        "DICOM VOI LUT of 8 bits, packed",
        dicom(DEEP, BitsStored=12, VOILUTSequence=lookup((RAMP // 16).astype(np.uint8), 0, 8)),
        (64, 192),
    ),
    Row(
        "DICOM VOI LUT after a rescale below zero",
        dicom(
            DEEP,
            BitsStored=12,
            RescaleSlope=1,
            RescaleIntercept=-2048,
            VOILUTSequence=lookup(RAMP.astype("<u2"), -2048, 12),
        ),
        (64, 191),
    ),
    Row(
        "DICOM VOI LUT, big endian",
        dicom(
            DEEP.astype(">u2"),
            syntax=ExplicitVRBigEndian,
            BitsStored=12,
            VOILUTSequence=lookup(RAMP.astype(">u2"), 0, 12),
        ),
        (64, 191),
    ),
    Row(
        "DICOM modality LUT, its own range",
        dicom(GREY, ModalityLUTSequence=lookup(np.arange(255, -1, -1).astype("<u2"), 0, 16)),
        (255, 0),
    ),
    Row(
        "DICOM modality LUT, window",
        dicom(
            GREY,
            ModalityLUTSequence=lookup((np.arange(256) * 16).astype("<u2"), 0, 16),
            WindowCenter=2048,
            WindowWidth=4096,
        ),
        (40, 199),
    ),
    *(
        Row(f"DICOM {name}", dicom(film, syntax=syntax, encoded=encoded, **window), levels, 3)
        for name, film, syntax, encoded, window, levels in [
            (
                "JPEG extended, 12 bit",
                DEEP,
                JPEGExtended12Bit,
                imagecodecs.jpeg_encode(DEEP, level=98, bitspersample=12),
                WIDE,
                (64, 191),
            ),
            (
                "JPEG extended, 8 bit",
                GREY,
                JPEGExtended12Bit,
                encode(GREY, "JPEG", quality=95),
                BYTES,
                (40, 200),
            ),
            (
                "JPEG lossless",
                DEEP,
                JPEGLossless,
                imagecodecs.jpeg_encode(DEEP, lossless=True, predictor=4, bitspersample=12),
                WIDE,
                (64, 191),
            ),
            (
                "JPEG lossless, first order",
                DEEP,
                JPEGLosslessSV1,
                imagecodecs.ljpeg_encode(DEEP, bitspersample=12),
                WIDE,
                (64, 191),
            ),
            ("JPEG-LS", DEEP, JPEGLSLossless, imagecodecs.jpegls_encode(DEEP), WIDE, (64, 191)),
            (
                "JPEG-LS near lossless",
                DEEP,
                JPEGLSNearLossless,
                imagecodecs.jpegls_encode(DEEP, level=2),
                WIDE,
                (64, 191),
            ),
            (
                "JPEG 2000, 12 bit",
                DEEP,
                JPEG2000Lossless,
                imagecodecs.jpeg2k_encode(DEEP, level=0, codecformat="j2k", bitspersample=12),
                WIDE,
                (64, 191),
            ),
            (
                "JPEG 2000 lossy",
                DEEP,
                JPEG_2000_LOSSY,
                imagecodecs.jpeg2k_encode(DEEP, level=60, codecformat="j2k", bitspersample=12),
                WIDE,
                (64, 191),
            ),
        ]
    ),
    *(
        Row(f"DICOM {name}", dicom(GREY, **BYTES, **attributes), (40, 200))
        for name, attributes in [
            ("of a chest by name", {"BodyPartExamined": "CHEST", "ViewPosition": "PA"}),
            ("of a chest in another language", {"BodyPartExamined": "BRUSTKORB"}),
            (
                "frontal by code",
                {"ViewCodeSequence": coded_view("399348003", "SCT", "antero-posterior")},
            ),
        ]
    ),
]
