"""An evidence map lies where its evidence is, and reads in grey."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from batch_scorer.imaging.heatmap import (
    Peak,
    draw_colour_bar,
    find_peak,
    load_colormap,
    overlay_heatmap,
)


def evidence_at(row: int, column: int, value: float = 4.0) -> np.ndarray:
    places = np.full((5, 5), -1.0, np.float32)
    places[row, column] = value
    return places


def luminance(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("L"), dtype=float)


@pytest.mark.parametrize(("row", "column"), [(0, 0), (1, 4), (4, 2)])
def test_the_brightest_spot_is_where_the_evidence_is_on_a_film_of_any_proportions(row, column):
    film = Image.new("L", (320, 160), 90)
    found = luminance(overlay_heatmap(film, evidence_at(row, column), 4.0))
    assert found.shape == (160, 320)
    y, x = np.argwhere(found >= found.max() - 1).mean(axis=0)
    assert y == pytest.approx(160 * (row + 0.5) / 5, abs=14)
    assert x == pytest.approx(320 * (column + 0.5) / 5, abs=28)


def test_what_speaks_against_pneumonia_is_as_dark_as_what_says_nothing():
    film = Image.new("L", (40, 40), 90)
    against = overlay_heatmap(film, np.full((5, 5), -3.0, np.float32), 2.0)
    nothing = overlay_heatmap(film, np.zeros((5, 5), np.float32), 2.0)
    assert against.tobytes() == nothing.tobytes()
    assert overlay_heatmap(film, np.full((5, 5), -3.0, np.float32), -3.0).tobytes() == (
        nothing.tobytes()
    )


def test_the_same_evidence_has_the_same_colour_on_every_map_of_a_scale():
    film = Image.new("L", (50, 50), 90)
    half = np.full((5, 5), 2.0, np.float32)
    alone = luminance(overlay_heatmap(film, half, 4.0))
    beside = luminance(overlay_heatmap(film, half, 4.0))
    stronger = luminance(overlay_heatmap(film, half * 2, 4.0))
    assert (alone == beside).all()
    assert stronger.min() > alone.max() + 40


def test_the_colours_grow_brighter_from_step_to_step_and_stay_above_the_film_in_grey():
    grey = load_colormap() @ (0.299, 0.587, 0.114)
    assert (np.diff(grey) > 0).all()
    assert grey[-1] - grey[0] > 120
    scale = luminance(draw_colour_bar())
    assert scale.shape == (1, 256)
    assert (np.diff(scale[0]) >= -1).all()  # Pillow rounds to whole greys
    white = luminance(
        overlay_heatmap(Image.new("L", (9, 9), 255), np.zeros((1, 1), np.float32), 1.0)
    )
    black = luminance(overlay_heatmap(Image.new("L", (9, 9), 0), np.ones((1, 1), np.float32), 1.0))
    assert black.min() > white.max(), "the film's own white may not pass for evidence"


def test_the_peak_is_the_middle_of_the_strongest_place():
    assert find_peak(evidence_at(4, 1)) == Peak(4.0, 0.3, 0.9)
    assert find_peak(np.full((2, 4), -0.5, np.float32)) == Peak(-0.5, 0.125, 0.25)
