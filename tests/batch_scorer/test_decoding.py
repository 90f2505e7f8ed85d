"""decode_radiograph: the pixel table, the refusals, and any bytes at all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile
from pydicom.uid import UID

from batch_scorer.decoding import decode_radiograph, measure_radiograph
from batch_scorer.errors import (
    ImageError,
    NotRadiograph,
    TooLarge,
    TooSmall,
    Truncated,
    Unreadable,
    Unsupported,
)
from tests.batch_scorer.pixel_table import GREY, HEIGHT, ROWS, WIDTH, dicom, with_orientation
from tests.conftest import REAL_DATA, encode, make_film

SIZE_PX = 64
DEFLATED = dicom(
    np.random.default_rng(0).integers(0, 255, (90, 90), np.uint8),
    syntax=UID("1.2.840.10008.1.2.1.99"),
)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_pixel_table(row):
    pixels = decode_radiograph(row.data, SIZE_PX)
    assert pixels.shape == (SIZE_PX, SIZE_PX)
    assert pixels.dtype == np.uint8
    found = int(pixels[32, 8]), int(pixels[32, 56])
    assert found == pytest.approx(row.expected, abs=row.tolerance)


def test_the_size_is_the_film_s_own_after_orientation():
    assert measure_radiograph(encode(GREY)) == (WIDTH, HEIGHT)
    assert measure_radiograph(with_orientation(GREY, 6)) == (HEIGHT, WIDTH)
    assert measure_radiograph(dicom(GREY)) == (WIDTH, HEIGHT)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_truncated_film_is_refused_and_never_half_decoded(kind, share):
    whole = encode(np.random.default_rng(0).integers(0, 255, (300, 300), np.uint8), kind)
    with pytest.raises(Truncated, match="ends before the image does"):
        decode_radiograph(whole[: int(len(whole) * share)], SIZE_PX)


def test_a_truncated_film_is_refused_after_another_library_allowed_it(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    film = make_film()
    with pytest.raises(Truncated):
        decode_radiograph(film[: len(film) // 2], SIZE_PX)


def test_a_dicom_file_cut_short_is_refused():
    whole = dicom(np.random.default_rng(0).integers(0, 255, (200, 200), np.uint8))
    with pytest.raises(ImageError):
        decode_radiograph(whole[: len(whole) // 2], SIZE_PX)


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        (b"", Unreadable, "The file is empty"),
        (b"hello, I am a text", Unsupported, "not JPEG, PNG, TIFF, BMP, WebP or DICOM"),
        (b"GIF89a" + b"\0" * 100, Unsupported, "not JPEG, PNG, TIFF, BMP, WebP or DICOM"),
        (b"\xff\xd8\xff\xe0 no jpeg at all", Truncated, "ends before the image does"),
        (b"\x89PNG\r\n\x1a\n" + b"no png at all" * 9, Unreadable, "header is damaged"),
        (encode(np.zeros((20, 500), np.uint8)), TooSmall, "found 500 by 20"),
        (dicom(GREY, Modality="CT"), NotRadiograph, "found modality CT"),
        (dicom(GREY, NumberOfFrames=4), NotRadiograph, "found 4 frames"),
        (dicom(GREY, photometric="PALETTE COLOR"), NotRadiograph, "PALETTE COLOR"),
        (dicom(GREY, WindowCenter=1, WindowWidth=0), Unreadable, "window at least 1 wide"),
        (dicom(GREY, WindowCenter=9999, WindowWidth=10), NotRadiograph, "one flat grey"),
        (encode(np.full((99, 99), 80, np.uint8)), NotRadiograph, "one flat grey"),
        (dicom(GREY, RescaleSlope="nan", RescaleIntercept="0"), Unreadable, "not numbers"),
        (
            dicom(GREY, NumberOfFrames="1111").replace(b"1111", b"inf "),
            Unreadable,
            "cannot be read",
        ),
        (DEFLATED[: len(DEFLATED) * 2 // 3], Unreadable, "cannot be read"),
    ],
)
def test_what_is_refused_and_why(data, kind, message):
    with pytest.raises(kind, match=message):
        decode_radiograph(data, SIZE_PX)


def test_a_film_of_too_many_pixels_is_refused_before_it_is_decoded():
    giant = encode(np.zeros((9000, 9000), np.uint8))
    with pytest.raises(TooLarge, match="at most 80 megapixels"):
        decode_radiograph(giant, SIZE_PX)


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=400),
    st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"\0" * 128 + b"DICM"]),
)
def test_any_bytes_give_pixels_or_an_image_error(data, start):
    assert_pixels_or_image_error(start + data)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([row.data for row in ROWS]), st.data())
def test_a_damaged_film_gives_pixels_or_an_image_error(film, data):
    damaged = bytearray(film)
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    assert_pixels_or_image_error(bytes(damaged))


def assert_pixels_or_image_error(data):
    try:
        pixels = decode_radiograph(data, 16)
    except ImageError:
        return
    assert pixels.shape == (16, 16)


@pytest.mark.real_films
def test_a_full_size_film_decodes_to_nearly_its_published_small_copy():
    originals = sorted((REAL_DATA / "originals").glob("*/*.jpeg"))[::20]
    assert originals
    for path in originals:
        copy = REAL_DATA / "chest_xray" / "train" / path.parent.name / path.name
        full, small = (decode_radiograph(p.read_bytes(), 224).astype(float) for p in (path, copy))
        assert np.abs(full - small).mean() < 4


def test_pillow_is_the_filter_s_reference():
    film = np.random.default_rng(1).integers(0, 255, (150, 200), np.uint8)
    expected = np.asarray(Image.fromarray(film).resize((64, 64), Image.Resampling.BILINEAR))
    assert np.array_equal(decode_radiograph(encode(film), 64), expected)
