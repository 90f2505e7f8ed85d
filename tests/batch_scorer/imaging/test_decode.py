"""decode_radiograph: the pixel table, the refusals, and any bytes at all."""

from __future__ import annotations

import io
import struct
from contextlib import suppress
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import apply_modality_lut, apply_voi, apply_windowing
from pydicom.uid import (
    UID,
    BasicTextSRStorage,
    CTImageStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
)

from batch_scorer.errors import (
    ImageError,
    NotRadiograph,
    TooLarge,
    TooSmall,
    Truncated,
    Unreadable,
    Unsupported,
)
from batch_scorer.imaging import dicom_pixels
from batch_scorer.imaging.decode import (
    HEADER_BYTES,
    DecodeResult,
    decode_radiograph,
    detect_format,
    open_image,
    read_image,
)
from batch_scorer.imaging.dicom import find_elements, open_dicom
from batch_scorer.imaging.dicom_pixels import decode_dicom
from tests.batch_scorer.imaging.pixel_table import (
    GREY,
    HEIGHT,
    ROWS,
    WIDTH,
    coded_view,
    dicom,
    halves,
    tiff,
    with_orientation,
)
from tests.images import encode, make_film
from tests.paths import REAL_DATA

SIZE_PX = 64
TEST_FILES = Path(pydicom.__file__).parent / "data" / "test_files"
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


NOT_BY_PYDICOM = {
    "DICOM high bit 15 of 12 stored": "it does not shift the pixels",
    "DICOM VOI LUT of 8 bits, packed": "it overflows where there are more than 256 inputs",
}


def pydicom_grey(data):
    """Grey levels by pydicom's own modality, VOI and windowing functions."""
    dataset = open_dicom(data, find_elements(data))
    values = apply_modality_lut(dataset.pixel_array, dataset)
    if dataset.get("WindowWidth"):
        grey = apply_windowing(values, dataset)
        if dataset.get("ModalityLUTSequence"):
            black, white = 0, 2 ** dataset.ModalityLUTSequence[0].LUTDescriptor[2] - 1
        else:
            signed = dataset.PixelRepresentation
            ends = np.array([0, 2**dataset.BitsStored - 1]) - signed * 2 ** (dataset.BitsStored - 1)
            slope = float(dataset.get("RescaleSlope", 1))
            black, white = ends * slope + float(dataset.get("RescaleIntercept", 0))
    elif "VOILUTSequence" in dataset:
        bits = dataset.VOILUTSequence[0].LUTDescriptor[2]
        grey = apply_voi(values.astype(np.int32), dataset)
        black, white = 0, 2**bits - 1
    else:
        grey, black, white = values, values.min(), values.max()
    scaled = np.clip((grey - black) / (white - black), 0, 1) * 255
    return 255 - scaled if dataset.PhotometricInterpretation == "MONOCHROME1" else scaled


@pytest.mark.parametrize(
    "row",
    [row for row in ROWS if row.name.startswith("DICOM") and row.name not in NOT_BY_PYDICOM],
    ids=lambda row: row.name,
)
def test_dicom_films_are_as_pydicom_shows_them(row):
    expected = pydicom_grey(row.data)
    found = decode_dicom(open_dicom(row.data, find_elements(row.data))).astype(float)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize(
    "name",
    [
        "CT_small.dcm",
        "J2K_pixelrep_mismatch.dcm",
        "JPEG2000.dcm",
        "JPEGLSNearLossless_16.dcm",
        "MR_small_RLE.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "dicomdirtests/77654033/CR1/6154",
    ],
)
def test_files_of_real_machines_are_as_pydicom_shows_them(name):
    """No chest film is among those that pydicom brings along; their pixels are as good as one's."""
    data = (TEST_FILES / name).read_bytes()
    assert detect_format(data) == "DICOM"
    found = dicom_pixels._to_grey(open_dicom(data, find_elements(data))).astype(float)
    assert np.abs(found - pydicom_grey(data)).max() <= 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dicomdirtests/77654033/CR1/6154", r"another view \(LL\)"),
        ("dicomdirtests/77654033/CR2/6247", "body part CSPINE"),
        ("dicomdirtests/DICOMDIR", r"without an image \(Media Storage Directory Storage\)"),
        ("test-SR.dcm", r"without an image \(.*SR Storage\)"),
        ("ExplVR_LitEndNoMeta.dcm", "without an image"),
    ],
)
def test_files_of_real_machines_that_are_no_chest_films(name, message):
    with pytest.raises(NotRadiograph, match=message):
        decode_radiograph((TEST_FILES / name).read_bytes(), SIZE_PX)


def test_the_size_is_the_film_s_own_after_orientation():
    assert open_image(encode(GREY)).size_px == (WIDTH, HEIGHT)
    assert open_image(with_orientation(GREY, 6)).size_px == (HEIGHT, WIDTH)
    assert open_image(encode(GREY, "TIFF", tiffinfo={274: 6})).size_px == (HEIGHT, WIDTH)
    assert open_image(with_orientation(GREY, 6, "WEBP")).size_px == (HEIGHT, WIDTH)
    assert open_image(dicom(GREY)).size_px == (WIDTH, HEIGHT)
    assert open_image(dicom(GREY)[132:]).size_px == (WIDTH, HEIGHT)


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
        (b"hello, I am a text", Unsupported, "Expected JPEG, PNG, TIFF, BMP, WebP or DICOM"),
        (b"GIF89a" + b"\0" * 100, Unsupported, "Expected JPEG, PNG, TIFF, BMP, WebP or DICOM"),
        (b"\xff\xd8\xff\xe0 no jpeg at all", Truncated, "ends before the image does"),
        (b"\x89PNG\r\n\x1a\n" + b"no png at all" * 9, Unreadable, "header is damaged"),
        (encode(np.zeros((20, 500), np.uint8)), TooSmall, "found 500 by 20"),
        (dicom(GREY, Modality="CT"), NotRadiograph, "found modality CT"),
        (dicom(GREY, NumberOfFrames=4), NotRadiograph, "found several frames"),
        (dicom(GREY, photometric="PALETTE COLOR"), NotRadiograph, "PALETTE COLOR"),
        (dicom(GREY, WindowCenter=1, WindowWidth=0), Unreadable, "window at least 1 wide"),
        (dicom(GREY, WindowCenter=9999, WindowWidth=10), NotRadiograph, "a single grey value"),
        (encode(np.full((99, 99), 80, np.uint8)), NotRadiograph, "a single grey value"),
        (dicom(GREY, RescaleSlope="nan", RescaleIntercept="0"), Unreadable, "not finite numbers"),
        (tiff(halves(-3e38, 3e38, np.float32)), Unreadable, "not finite numbers"),
        (dicom(GREY, RescaleSlope="1e308", RescaleIntercept="0"), Unreadable, "not finite numbers"),
        (dicom(GREY, WindowCenter="0", WindowWidth="inf"), Unreadable, "not finite numbers"),
        (dicom(GREY, WindowCenter="nan", WindowWidth="9"), Unreadable, "not finite numbers"),
        (dicom(GREY, WindowCenter="0", WindowWidth="nan"), Unreadable, "at least 1 wide"),
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


def with_frame(film, change):
    """A compressed DICOM film after a change to its frame."""
    dataset = pydicom.dcmread(io.BytesIO(film))
    frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
    dataset.PixelData = encapsulate([change(frame)])
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


COMPRESSED = [row.data for row in ROWS if row.name.startswith(("DICOM JPEG", "DICOM RLE"))]


@pytest.mark.parametrize("film", COMPRESSED)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_half_a_compressed_frame_is_never_filled_up(film, share):
    with pytest.raises(ImageError, match=r"too early|cannot be read"):
        decode_radiograph(with_frame(film, lambda frame: frame[: int(len(frame) * share)]), SIZE_PX)


@pytest.mark.parametrize("name", ["JPEG baseline", "JPEG 2000", "JPEG-LS"])
def test_a_frame_that_claims_another_size_is_refused_before_it_is_decoded(name):
    giant = np.zeros((9000, 9000), np.uint8)
    frames = {
        "JPEG baseline": encode(giant, "JPEG"),
        "JPEG 2000": imagecodecs.jpeg2k_encode(giant, level=0, codecformat="j2k"),
        "JPEG-LS": imagecodecs.jpegls_encode(giant),
    }
    film = next(row.data for row in ROWS if row.name == f"DICOM {name}")
    with pytest.raises(Unreadable, match="found 9000 by 9000 in the compressed image"):
        decode_radiograph(with_frame(film, lambda _: frames[name]), SIZE_PX)


def test_a_codestream_of_many_tiny_tiles_is_refused():
    film = next(row.data for row in ROWS if row.name == "DICOM JPEG 2000")

    def with_tiny_tiles(frame):
        place = frame.index(b"\xff\x51") + 22
        return frame[:place] + struct.pack(">II", 1, 1) + frame[place + 8 :]

    with pytest.raises(Unreadable, match=r"at most 4096 tiles .* found 1 in 8000"):
        decode_radiograph(with_frame(film, with_tiny_tiles), SIZE_PX)


def test_a_codestream_in_the_boxes_of_a_jp2_file_is_read():
    film = next(row.data for row in ROWS if row.name == "DICOM JPEG 2000")
    boxed = imagecodecs.jpeg2k_encode(GREY, level=0, codecformat="jp2")
    assert np.array_equal(
        decode_radiograph(with_frame(film, lambda _: boxed), SIZE_PX),
        decode_radiograph(film, SIZE_PX),
    )


def test_runs_that_unpack_to_more_than_the_film_are_refused():
    film = next(row.data for row in ROWS if row.name == "DICOM RLE")
    header = np.zeros(16, "<u4")
    header[:3] = 2, 64, 10_064
    bomb = header.tobytes() + b"\x81\x00" * 10_000
    with pytest.raises(Unreadable, match="more in the runs"):
        decode_radiograph(with_frame(film, lambda _: bomb), SIZE_PX)


def test_deflated_elements_that_fill_the_memory_are_refused(monkeypatch):
    monkeypatch.setattr("batch_scorer.imaging.dicom.MAX_INFLATED_BYTES", 5000)
    with pytest.raises(TooLarge, match="after inflation"):
        decode_radiograph(DEFLATED, SIZE_PX)


def test_sequences_nested_without_end_are_refused():
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    sequence = struct.pack("<HH2sHI", 0x0008, 0x1115, b"SQ", 0, 0xFFFFFFFF)
    head, tail = (dicom(GREY)[:132], dicom(GREY)[132:])
    with pytest.raises(Unreadable, match="header cannot be read"):
        decode_radiograph(
            head + tail[: tail.index(b"\x08\x00\x16\x00")] + (sequence + item) * 50_000, SIZE_PX
        )


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_kind_is_told_by_the_first_bytes(row):
    assert detect_format(row.data[:HEADER_BYTES]) == detect_format(row.data) == row.name.split()[0]


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"ViewPosition": "LL"}, r"frontal view, found another view \(LL\)"),
        ({"ViewPosition": "LLD"}, r"another view \(LLD\)"),
        ({"ViewPosition": "LATERAL"}, "found another view"),
        ({"ViewCodeSequence": coded_view("399198007", "SCT", "")}, "found another view"),
        ({"ViewCodeSequence": coded_view("R-10236", "SRT", "")}, "found another view"),
        ({"ViewCodeSequence": coded_view("1", "99LOCAL", "Lat. left")}, "found another view"),
        ({"BodyPartExamined": "HAND"}, "found body part HAND"),
        ({"AnatomicRegionSequence": coded_view("T-11100", "SRT", "Skull")}, "body part SKULL"),
        ({"SOPClassUID": CTImageStorage}, r"another kind of image \(CT Image Storage\)"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "found pixels RGB"),
        ({"Modality": "<b>Jane Doe</b>"}, "modality that DICOM does not define"),
    ],
)
def test_what_says_that_it_is_no_frontal_chest_film_is_rejected(attributes, message):
    with pytest.raises(NotRadiograph, match=message):
        decode_radiograph(dicom(GREY, **attributes), SIZE_PX)


@pytest.mark.parametrize(
    "name",
    [
        *("Modality", "PhotometricInterpretation", "ViewPosition", "BodyPartExamined"),
        *("NumberOfFrames", "Rows", "Columns", "BitsAllocated", "BitsStored", "SamplesPerPixel"),
        *("WindowWidth", "WindowCenter", "RescaleSlope", "VOILUTFunction", "SOPClassUID"),
    ],
)
@pytest.mark.parametrize("text", ["SECRETNAME", "98765432", "-9876543"])
def test_no_text_of_the_header_reaches_a_message(name, text):
    attributes = {"WindowCenter": "128", "WindowWidth": "256"}
    dataset = pydicom.dcmread(io.BytesIO(dicom(GREY, **attributes)))
    dataset.add_new(name, "LO", text)
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset)
    content = read_image(buffer.getvalue(), [SIZE_PX])
    assert text.strip("-") not in str(content.error)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (BasicTextSRStorage, "Basic Text SR Storage"),
        (KeyObjectSelectionDocumentStorage, "Key Object Selection Document Storage"),
        (GrayscaleSoftcopyPresentationStateStorage, "Grayscale Softcopy Presentation State"),
    ],
)
def test_a_dicom_file_without_an_image_says_what_it_is(kind, name):
    dataset = pydicom.dcmread(io.BytesIO(dicom(GREY, SOPClassUID=kind)))
    del dataset.PixelData
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    with pytest.raises(NotRadiograph, match=rf"DICOM file without an image \({name}"):
        decode_radiograph(buffer.getvalue(), SIZE_PX)


@pytest.mark.parametrize("kind", ["TIFF", "WEBP", "PNG"])
def test_several_pages_or_pictures_are_rejected(kind):
    buffer = io.BytesIO()
    pages = [Image.fromarray(halves(level, 200)) for level in (0, 90)]
    pages[0].save(buffer, kind, save_all=True, append_images=pages[1:])
    with pytest.raises(NotRadiograph, match="several pages"):
        decode_radiograph(buffer.getvalue(), SIZE_PX)


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


@pytest.mark.needs("real films")
def test_a_full_size_film_decodes_to_nearly_its_published_small_copy():
    originals = sorted((REAL_DATA / "originals").glob("*/*.jpeg"))[::20]
    assert originals
    for path in originals:
        copy = REAL_DATA / "chest_xray" / "train" / path.parent.name / path.name
        full, small = (decode_radiograph(p.read_bytes(), 224).astype(float) for p in (path, copy))
        assert np.abs(full - small).mean() < 4


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_one_reading_gives_all_that_several_would(row):
    content = read_image(row.data, [48, SIZE_PX])
    assert content.error is None
    assert sorted(content.pixels) == [48, SIZE_PX]
    for size_px, pixels in content.pixels.items():
        assert np.array_equal(pixels, decode_radiograph(row.data, size_px))
    assert (content.width_px, content.height_px) == open_image(row.data).size_px


def test_large_pictures_come_out_the_same_though_they_are_converted_in_pieces(monkeypatch):
    pictures = [row.data for row in ROWS if not row.name.startswith("DICOM")]
    whole = [decode_radiograph(data, SIZE_PX) for data in pictures]
    monkeypatch.setattr("batch_scorer.imaging.raster.BAND_PIXELS", 777)
    monkeypatch.setattr("batch_scorer.imaging.grayscale._CHUNK_VALUES", 777)
    for data, expected in zip(pictures, whole, strict=True):
        assert np.array_equal(decode_radiograph(data, SIZE_PX), expected)


def test_a_header_is_read_though_the_pixels_are_cut_short():
    film = dicom(GREY, PatientID="7", StudyInstanceUID="1.2")
    content = read_image(film[:-4000], [SIZE_PX])
    assert isinstance(content.error, Truncated)
    assert (content.patient_id, content.study_uid) == ("7", "1.2")
    assert read_image(film[:-4000], ()) == DecodeResult("7", "1.2")


def test_pillow_is_the_filter_s_reference():
    film = np.random.default_rng(1).integers(0, 255, (150, 200), np.uint8)
    expected = np.asarray(Image.fromarray(film).resize((64, 64), Image.Resampling.BILINEAR))
    assert np.array_equal(decode_radiograph(encode(film), 64), expected)


@pytest.mark.parametrize("place", ["end", "scan"])
def test_a_long_run_of_fill_bytes_is_looked_at_once(monkeypatch, place):
    data = encode(np.tile(np.arange(0, 240, dtype=np.uint8), (240, 1)), "JPEG")
    at = len(data) - 2 if place == "end" else data.index(b"\xff\xda") + 40
    blocks = []
    real = ImageFile.ImageFile.load

    def count(image):
        blocks.append(image.decodermaxblock)
        return real(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", count)
    film = data[:at] + b"\xff" * 1_000_000 + data[at:]
    with suppress(ImageError):
        decode_radiograph(film, 32)
    assert set(blocks) == {len(film)}
