"""Films in figures: whose they are, small, and changed by the network's own layers."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from batch_scorer.errors import DatasetError
from tests.images import make_labelled_folder
from tests.paths import EXAMPLES
from trainer.saliency_figures import (
    SYNTHETIC_NOTICE,
    draw_augmentation,
    draw_examples,
    read_examples,
)

PICTURE = re.compile(r'"data:image/jpeg;base64,([^"]+)"')


def pictures(svg):
    found = [Image.open(io.BytesIO(base64.b64decode(text))) for text in PICTURE.findall(svg)]
    return [np.asarray(picture, dtype=float) for picture in found]


def test_the_first_films_of_each_class_are_taken_from_train(tmp_path):
    make_labelled_folder(tmp_path / "train", 5, 6)
    make_labelled_folder(tmp_path / "test", 2, 2, start=900)
    examples = read_examples(tmp_path, per_class=3)
    assert {name: len(films) for name, films in examples.images.items()} == {
        "NORMAL": 3,
        "PNEUMONIA": 3,
    }
    assert examples.images["NORMAL"].mean() < examples.images["PNEUMONIA"].mean()
    assert not examples.synthetic
    svg = draw_examples(examples)
    assert SYNTHETIC_NOTICE not in svg
    assert len(pictures(svg)) == 6


def test_a_class_without_films_is_an_error(tmp_path):
    make_labelled_folder(tmp_path, 3, 0)
    with pytest.raises(DatasetError, match="PNEUMONIA, found none"):
        read_examples(tmp_path, per_class=3)


def test_augmentation_shows_the_film_first_and_then_other_ones_of_it():
    examples = read_examples(EXAMPLES, per_class=1)
    svg = draw_augmentation(examples, "cnn", times=3)
    assert svg == draw_augmentation(examples, "cnn", times=3)
    assert svg != draw_augmentation(examples, "cnn", times=3, seed=1)
    assert SYNTHETIC_NOTICE in svg
    film, *changed = pictures(svg)[:4]
    assert film.shape == (96, 96), "as large as the network sees it"
    assert all(np.abs(film - other).mean() > 3 for other in changed)
