"""The networks: shapes, augmentation in training only, first weights from a checked file."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from PIL import Image

from trainer import evaluate
from trainer.config import FitConfig
from trainer.data.dataset import LabelledImages
from trainer.model.augmentation import (
    RandomAffine,
    RandomHistogramMatching,
    RandomIntensity,
    _sample_bilinear,
)
from trainer.model.networks import BUILDERS, SIZE_PX, build_vgg16
from trainer.train import _build_network, _save_final_network

PIXELS = np.random.default_rng(0).integers(0, 255, (2, SIZE_PX, SIZE_PX, 1), np.uint8)


@pytest.mark.parametrize("name", BUILDERS)
def test_a_network_answers_two_questions_and_augments_in_training_only(name):
    model = BUILDERS[name](1)
    quiet = [model(PIXELS, training=False) for _ in range(2)]
    for question in ("pneumonia", "viral"):
        assert np.asarray(quiet[0][question]).shape == (2, 1)
        assert np.array_equal(*(np.asarray(answer[question]) for answer in quiet))
        loud = np.asarray(model(PIXELS, training=True)[question])
        assert not np.array_equal(loud, np.asarray(quiet[0][question]))


@pytest.mark.parametrize("name", BUILDERS)
def test_a_network_without_augmentation_takes_the_weights_of_one_with_it(name):
    trained, kept = BUILDERS[name](1), BUILDERS[name](2, augment=False)
    kept.set_weights(trained.get_weights())
    answers = [np.asarray(model(PIXELS, training=False)["pneumonia"]) for model in (trained, kept)]
    assert np.array_equal(*answers)


def test_augmentation_keeps_shape_and_range_and_changes_every_film():
    films = PIXELS.astype(np.float32) / 255
    for layer in (
        RandomAffine(1, turn=0.2, shift=0.1, zoom=0.2),
        RandomIntensity(1, gamma=0.5, contrast=0.4, brightness=0.2, blur=0.8, noise=0.04),
    ):
        changed = np.asarray(layer(films, training=True))
        assert changed.shape == films.shape
        assert changed.min() >= 0
        assert changed.max() <= 1
        assert all(np.abs(one - two).mean() > 0.01 for one, two in zip(changed, films, strict=True))
        assert np.array_equal(np.asarray(layer(films, training=False)), films)


def test_a_view_that_turns_and_moves_nothing_mirrors_at_most():
    films = PIXELS.astype(np.float32) / 255
    seen = np.asarray(
        RandomAffine(3, turn=0.0, shift=0.0, zoom=0.0)(np.tile(films, (8, 1, 1, 1)), training=True)
    )
    mirrored = 0
    for film, original in zip(seen, np.tile(films, (8, 1, 1, 1)), strict=True):
        same, turned = (np.abs(film - other).max() for other in (original, original[:, ::-1]))
        assert min(same, turned) < 1e-3
        mirrored += turned < same
    assert 0 < mirrored < len(seen)


def test_tone_is_borrowed_from_another_film_and_shapes_stay():
    steps = np.linspace(0, 1, 96, dtype=np.float32)
    ramp = np.broadcast_to(steps[:, None, None], (96, 96, 1))
    films = np.tile(np.stack([ramp, ramp**3]), (40, 1, 1, 1))
    borrowed = np.asarray(RandomHistogramMatching(1)(films, training=True))
    changed = np.abs(borrowed - films).max(axis=(1, 2, 3)) > 0.06
    assert 20 < changed.sum() < 60, "half of 80"
    assert np.diff(borrowed, axis=1).min() > -1e-6, "what was brighter stays brighter"
    low, high = films.min(axis=0)[..., 0], films.max(axis=0)[..., 0]
    assert (borrowed[..., 0] > low - 0.06).all()
    assert (borrowed[..., 0] < high + 0.06).all()
    nearest = np.abs(borrowed - films[::-1]).max(axis=(1, 2, 3)).min()
    assert nearest < 0.1, "one of them goes nearly all the way"
    assert np.array_equal(np.asarray(RandomHistogramMatching(1)(films, training=False)), films)


def test_a_film_of_one_grey_lends_and_borrows():
    films = np.stack([np.full((24, 24, 1), grey, np.float32) for grey in (0.2, 0.8)] * 20)
    borrowed = np.asarray(RandomHistogramMatching(1)(films, training=True))
    assert np.ptp(borrowed, axis=(1, 2, 3)).max() < 1e-6
    assert (borrowed > 0.2 - 1e-6).all()
    assert (borrowed < 0.8 + 1e-6).all()


def test_the_network_shrinks_films_as_pillow_does():
    model = BUILDERS["mlp"](1)
    reshaped = [layer for layer in model.layers if isinstance(layer, keras.layers.Reshape)]
    shrunk = keras.Model(model.input, reshaped[1].output)(PIXELS)
    expected = Image.fromarray(PIXELS[0, :, :, 0].astype(np.float32)).resize(
        (64, 64), Image.Resampling.BILINEAR
    )
    assert np.asarray(shrunk)[0, :, :, 0] * 255 == pytest.approx(np.asarray(expected), abs=0.01)


def test_vgg16_has_the_published_convolutions():
    published = keras.applications.VGG16(include_top=False, weights=None)
    ours = build_vgg16(1, pretrained=True)
    shapes = {
        layer.name: [w.shape for w in layer.weights] for layer in published.layers if layer.weights
    }
    assert len(shapes) == 13
    assert all(
        [w.shape for w in ours.get_layer(name).weights] == shape for name, shape in shapes.items()
    )


def test_a_pretrained_network_keeps_its_input_scaling_when_it_is_saved(tmp_path):
    config = FitConfig("vgg16", 1, 1, 1, "tensorflow", "imagenet")
    trained = _build_network(config, "mixed_bfloat16")
    folder = tmp_path
    _save_final_network(trained, config, few_films(), folder)
    saved = keras.models.load_model(folder / "model.keras", compile=False)
    trained = np.asarray(_float32_copy(trained, config)(PIXELS, training=False)["pneumonia"])
    found = np.asarray(saved(PIXELS, training=False)["logit"])
    assert found == pytest.approx(trained, rel=0.05, abs=0.05)
    assert saved.count_params() > 14e6


def few_films():
    pixels = np.random.default_rng(1).integers(0, 255, (20, SIZE_PX, SIZE_PX, 1), np.uint8)
    return LabelledImages(pixels, np.arange(20) % 2, np.array([""] * 20), np.arange(20).astype(str))


def _float32_copy(model, config):
    copy = _build_network(config, "float32")
    copy.set_weights(model.get_weights())
    return copy


def test_calibration_recovers_the_slope_of_overconfident_logits():
    rng = np.random.default_rng(0)
    honest = rng.normal(0, 2, 20_000)
    labels = (rng.random(20_000) < 1 / (1 + np.exp(-honest))).astype(int)
    found = evaluate.calibrate(labels, honest * 3 + 1)
    assert found.slope == pytest.approx(1 / 3, rel=0.05)
    assert found.intercept == pytest.approx(-1 / 3, abs=0.05)
    after = found.apply(honest * 3 + 1)
    assert np.abs(after - 1 / (1 + np.exp(-honest))).max() < 0.03


def test_the_threshold_keeps_the_promised_sensitivity():
    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1], 500)
    probabilities = np.clip(rng.normal(0.3 + 0.4 * labels, 0.15), 0, 1)
    threshold = evaluate.choose_threshold(labels, probabilities)
    assert (probabilities[labels == 1] >= threshold.value).mean() == pytest.approx(0.95, abs=0.003)
    assert threshold.chosen_on == "validation"


@pytest.mark.parametrize("strength", [0.0, 0.5])
@pytest.mark.parametrize(
    ("model", "borrows"), [("mlp", set()), ("cnn", {"RandomHistogramMatching"})]
)
def test_augmentation_can_be_weaker_or_left_out(model, borrows, strength):
    names = {type(layer).__name__ for layer in BUILDERS[model](1, augment=strength).layers}
    assert ({"RandomAffine", "RandomIntensity"} <= names) == (strength > 0)
    assert names & {"RandomHistogramMatching"} == (borrows if strength else set())


def test_the_view_is_the_one_that_keras_computes():
    film = np.random.default_rng(1).random((2, 9, 9, 1)).astype(np.float32)
    across, down = np.meshgrid(np.arange(9, dtype=np.float32), np.arange(9, dtype=np.float32))
    rows, columns = 0.1 * across + 0.9 * down - 2.0, 1.1 * across - 0.1 * down + 3.0
    found = _sample_bilinear(film, np.stack([rows] * 2), np.stack([columns] * 2))
    turns = np.array([[1.1, -0.1, 3.0, 0.1, 0.9, -2.0, 0.0, 0.0]] * 2, np.float32)
    expected = keras.ops.image.affine_transform(film, turns, fill_mode="nearest")
    assert np.asarray(found) == pytest.approx(np.asarray(expected), abs=1e-5)
