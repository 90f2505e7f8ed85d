"""Text in the border of an image: found where it can be read on a thumbnail, and painted over."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from batch_scorer.engine.runner import run_score_job
from batch_scorer.engine.score_job import ScoreJob
from batch_scorer.imaging.burned_in import (
    BORDER_SHARE,
    DETECTION_SIZE_PX,
    has_border_text,
    mask_border,
    needs_border_mask,
)
from batch_scorer.imaging.decode import read_image
from batch_scorer.results import store
from batch_scorer.storage.output import open_output
from tests.batch_scorer.imaging.pixel_table import GREY, dicom
from tests.images import encode
from tests.tiny_model import save_tiny_model

WIDTH, HEIGHT = 1200, 960
NAME = "MUSTERMANN, ERIKA 1964"


def draw_chest(seed: int = 0) -> Image.Image:
    """Dark background, a bright body with two dark lungs and ribs, and the noise of a film."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    body = 170 * np.exp(-(((x - WIDTH / 2) / 430) ** 4) - ((y - HEIGHT * 0.6) / 620) ** 6)
    for centre in (WIDTH * 0.33, WIDTH * 0.67):
        body -= 90 * np.exp(-(((x - centre) / 130) ** 2) - ((y - HEIGHT * 0.5) / 260) ** 2)
    ribs = 18 * np.sin((y + 0.15 * np.abs(x - WIDTH / 2)) / 18) * (np.abs(x - WIDTH / 2) < 420)
    noise = np.random.default_rng(seed).normal(0, 4, (HEIGHT, WIDTH))
    return Image.fromarray(np.clip(body + ribs + noise + 15, 0, 255).astype(np.uint8))


def write_on(image: Image.Image, text: str, place: str, letters_px: int, colour: int = 255):
    """Write a line of text into a corner, or upwards along the left side."""
    font = ImageFont.load_default(letters_px)
    left, top, right, bottom = font.getbbox(text)
    line = Image.new("L", (int(right - left) + 4, int(bottom - top) + 4))
    ImageDraw.Draw(line).text((2 - left, 2 - top), text, font=font, fill=255)
    if place == "upright":
        line = line.rotate(90, expand=True)
    x = 15 if "right" not in place else image.width - line.width - 15
    y = 15 if "bottom" not in place else image.height - line.height - 15
    image.paste(colour, (x, y), line)
    return image


def square(image: Image.Image) -> np.ndarray:
    return np.asarray(
        image.resize((DETECTION_SIZE_PX, DETECTION_SIZE_PX), Image.Resampling.BILINEAR)
    )


@pytest.mark.parametrize("text", [NAME, "Doe, Jane F 047Y", "ID 4711-0815"])
@pytest.mark.parametrize("place", ["top left", "bottom right", "upright"])
@pytest.mark.parametrize("letters_px", [22, 30, 45])
def test_a_line_of_text_in_the_border_is_found(text, place, letters_px):
    assert has_border_text(square(write_on(draw_chest(), text, place, letters_px)))


def test_dark_text_on_a_bright_border_is_found():
    bright = Image.fromarray(255 - np.asarray(draw_chest()))
    assert has_border_text(square(write_on(bright, NAME, "top left", 30, colour=0)))


@pytest.mark.parametrize("marker", ["", "L", "R", "AP", "R.", "|", "---"])
def test_a_film_without_text_keeps_its_border(marker):
    for seed in range(2):
        image = draw_chest(seed)
        if marker:
            write_on(image, marker, "top right", 60)
        assert not has_border_text(square(image))


def test_text_inside_the_film_is_not_looked_for():
    image = draw_chest()
    ImageDraw.Draw(image).text(
        (WIDTH / 3, HEIGHT / 2), NAME, font=ImageFont.load_default(30), fill=255
    )
    assert not has_border_text(square(image))


def test_a_border_is_painted_on_all_four_sides_and_nothing_else():
    picture = Image.fromarray(np.full((160, 320), 200, np.uint8))
    painted = np.asarray(mask_border(picture))
    assert painted.shape == (160, 320)
    assert set(painted[20:140, 40:280].ravel()) == {200}
    painted = painted.copy()
    painted[20:140, 40:280] = 0
    assert not painted.any()
    assert BORDER_SHARE == 1 / 8


@pytest.mark.parametrize(
    ("value", "hidden"), [("YES", True), ("yes ", True), ("NO", False), (None, False)]
)
def test_a_header_that_says_so_hides_the_border(value, hidden):
    header = {} if value is None else {"BurnedInAnnotation": value}
    content = read_image(dicom(GREY, **header), [DETECTION_SIZE_PX])
    assert content.burned_in is hidden
    assert needs_border_mask(content) is hidden


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_a_line_of_text_hides_the_border_of_any_kind_of_file(kind):
    named = encode(np.asarray(write_on(draw_chest(), NAME, "top left", 30)), kind)
    assert needs_border_mask(read_image(named, [32, DETECTION_SIZE_PX]))
    assert not needs_border_mask(
        read_image(encode(np.asarray(draw_chest()), kind), [32, DETECTION_SIZE_PX])
    )


def test_the_name_is_on_no_picture_of_the_report(tmp_path):
    model = save_tiny_model(tmp_path / "dark.onnx", slope=-8.0)  # flags what is dark, as all is
    (tmp_path / "films").mkdir()
    for name, image in (
        ("named.png", write_on(draw_chest(), NAME, "top left", 30)),
        ("plain.png", draw_chest(1)),
    ):
        (tmp_path / "films" / name).write_bytes(encode(np.asarray(image)))
    output = open_output(tmp_path / "out")
    run_score_job(ScoreJob(str(tmp_path / "films"), output.root, (str(model),)))
    rows = {row.image: row for row in store.read_run(output).rows}
    for name, hidden in (("named.png", True), ("plain.png", False)):
        stem = store.thumbnail_stem(rows[name])
        with Image.open(tmp_path / "out" / "films" / f"{stem}.jpg") as picture:
            top = np.asarray(picture)[: round(picture.height / 8) - 8]
        assert bool(top.max() < 10) is hidden
