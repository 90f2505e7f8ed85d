"""The pixel table: files of every kind, and the grey levels that they must decode to.

Each film is 100 by 80: left half one value, right half another. ``expected`` holds the grey level
of the left and of the right half after decoding; scorer and trainer read the same table.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from tests.conftest import encode

HEIGHT, WIDTH = 80, 100
COMPUTED_RADIOGRAPHY = UID("1.2.840.10008.5.1.4.1.1.1")
JPEG_BASELINE = UID("1.2.840.10008.1.2.4.50")
JPEG_2000_LOSSLESS = UID("1.2.840.10008.1.2.4.90")


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
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
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


def with_orientation(pixels: np.ndarray, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(pixels, "JPEG", quality=95, exif=exif)


def as_mode(pixels: np.ndarray, mode: str, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


GREY = halves(40, 200)
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
            syntax=JPEG_BASELINE,
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
            syntax=JPEG_2000_LOSSLESS,
            encoded=encode(GREY, "JPEG2000", irreversible=False, no_jp2=True),
            WindowCenter=128,
            WindowWidth=256,
        ),
        (40, 200),
        2,
    ),
]
