"""The pictures of the slides: valid, the same each time, and true to their numbers."""

from __future__ import annotations

import io
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from batch_scorer.report.charts import slide_charts
from batch_scorer.report.content.slides import NETWORK_KINDS, OTHER_KIND, ClassCounts
from tests.batch_scorer.report.documents import texts
from tests.factories import draw_film


def test_the_balance_shows_its_numbers() -> None:
    bars = (ClassCounts("training", 1180, 3397), ClassCounts("test", 234, 390))
    svg = slide_charts.draw_class_balance(bars)
    for text in ("1,180", "3,397", "234", "390", "Training", "Test", "normal", "with pneumonia"):
        assert text in texts(svg)
    assert svg == slide_charts.draw_class_balance(bars)


def test_every_kind_of_network_is_drawn_otherwise() -> None:
    drawn = {
        kind: slide_charts.draw_network(kind) for kind in (*NETWORK_KINDS.values(), OTHER_KIND)
    }
    assert len(set(drawn.values())) == len(drawn)
    for svg in drawn.values():
        assert ET.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
        assert "answer" in texts(svg)


@pytest.mark.parametrize("at_hand", [True, False])
def test_each_change_shows_another_film_and_always_the_same(*, at_hand: bool) -> None:
    buffer = io.BytesIO()
    draw_film(2).save(buffer, "JPEG")
    film = buffer.getvalue() if at_hand else None
    pictures = slide_charts.augment_image(film)
    assert pictures == slide_charts.augment_image(film)
    assert len(pictures) == len(slide_charts.AUGMENTATION_LABELS)
    pixels = [np.asarray(Image.open(io.BytesIO(picture)), dtype=float) for picture in pictures]
    assert {array.shape for array in pixels} == {
        (slide_charts.IMAGE_SIZE_PX, slide_charts.IMAGE_SIZE_PX)
    }
    assert np.abs(pixels[1] - pixels[0][:, ::-1]).mean() < 2, "mirrored"
    for changed in pixels[2:]:
        assert np.abs(changed - pixels[0]).mean() > 2


def test_what_a_turn_uncovers_is_not_black() -> None:
    bright = Image.new("L", (100, 100), 200)
    buffer = io.BytesIO()
    bright.save(buffer, "JPEG")
    turned = np.asarray(Image.open(io.BytesIO(slide_charts.augment_image(buffer.getvalue())[2])))
    assert turned.min() > 190
