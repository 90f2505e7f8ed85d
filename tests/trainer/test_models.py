"""The networks: shapes, augmentation in training only, first weights from a checked file."""

from __future__ import annotations

import hashlib

import keras
import numpy as np
import pytest
from PIL import Image

from batch_scorer.errors import DatasetError
from trainer import evaluate
from trainer.models import (
    BUILDERS,
    SIZE_PX,
    build_vgg16,
    check_weights_file,
    load_vgg16_convolutions,
)

PIXELS = np.random.default_rng(0).integers(0, 255, (2, SIZE_PX, SIZE_PX, 1), np.uint8)


@pytest.mark.parametrize("name", BUILDERS)
def test_a_network_gives_one_logit_a_film_and_augments_in_training_only(name):
    model = BUILDERS[name](1, "none")
    quiet = [np.asarray(model(PIXELS, training=False)) for _ in range(2)]
    assert quiet[0].shape == (2, 1)
    assert np.array_equal(*quiet)
    assert not np.array_equal(np.asarray(model(PIXELS, training=True)), quiet[0])


def test_the_network_shrinks_films_as_pillow_does():
    model = BUILDERS["mlp"](1, "none")
    reshaped = [layer for layer in model.layers if isinstance(layer, keras.layers.Reshape)]
    shrunk = keras.Model(model.input, reshaped[1].output)(PIXELS)
    expected = Image.fromarray(PIXELS[0, :, :, 0].astype(np.float32)).resize(
        (64, 64), Image.Resampling.BILINEAR
    )
    assert np.asarray(shrunk)[0, :, :, 0] * 255 == pytest.approx(np.asarray(expected), abs=0.01)


def test_vgg16_has_the_published_convolutions():
    published = keras.applications.VGG16(include_top=False, weights=None)
    ours = build_vgg16(1, "none")
    shapes = {
        layer.name: [w.shape for w in layer.weights] for layer in published.layers if layer.weights
    }
    assert len(shapes) == 13
    assert all(
        [w.shape for w in ours.get_layer(name).weights] == shape for name, shape in shapes.items()
    )


def test_vgg16_starts_from_a_weights_file_that_was_checked(tmp_path):
    published = keras.applications.VGG16(include_top=False, weights=None)
    path = tmp_path / "vgg16.weights.h5"
    published.save_weights(path)
    model = build_vgg16(1, "none")
    with pytest.raises(DatasetError, match="Expected VGG16 weights with MD5 6d6bbae1"):
        load_vgg16_convolutions(model, str(path))
    md5 = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    load_vgg16_convolutions(model, str(path), md5)
    for name in ("block1_conv1", "block5_conv3"):
        pairs = zip(
            model.get_layer(name).get_weights(),
            published.get_layer(name).get_weights(),
            strict=True,
        )
        assert all(np.array_equal(a, b) for a, b in pairs)


def test_a_weights_file_that_is_not_there(tmp_path):
    with pytest.raises(DatasetError, match="is not there"):
        check_weights_file(tmp_path / "none.h5", "0")


def test_calibration_recovers_the_slope_of_overconfident_logits():
    rng = np.random.default_rng(0)
    honest = rng.normal(0, 2, 20_000)
    labels = (rng.random(20_000) < 1 / (1 + np.exp(-honest))).astype(int)
    found = evaluate.calibrate(labels, honest * 3 + 1)
    assert found.slope == pytest.approx(1 / 3, rel=0.05)
    assert found.intercept == pytest.approx(-1 / 3, abs=0.05)
    after = evaluate.apply_calibration(found, honest * 3 + 1)
    assert np.abs(after - 1 / (1 + np.exp(-honest))).max() < 0.03


def test_the_threshold_keeps_the_promised_sensitivity():
    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1], 500)
    probabilities = np.clip(rng.normal(0.3 + 0.4 * labels, 0.15), 0, 1)
    threshold = evaluate.choose_threshold(labels, probabilities)
    assert (probabilities[labels == 1] >= threshold.value).mean() == pytest.approx(0.95, abs=0.003)
    assert threshold.chosen_on == "validation"
