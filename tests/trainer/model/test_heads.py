"""What the kept network answers: evidence against gradients, mirrored reading, typicality."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.data.corruptions import CORRUPTIONS, corrupt_images
from trainer.data.dataset import LabelledImages
from trainer.model.heads import PATCH_SIDE, add_evidence, build_inference_model
from trainer.model.networks import BUILDERS, SIZE_PX
from trainer.model.ood import fit_ood_detector
from trainer.model_card import count_trainable_weights
from trainer.saliency_checks import check_evidence


def trained_like(name):
    """A network whose biases and normalisations are not at their start."""
    network = BUILDERS[name](1, augment=False)
    rng = np.random.default_rng(5)
    for weight in network.trainable_weights:
        if len(weight.shape) == 1:
            weight.assign(np.asarray(weight) + rng.normal(0, 0.1, weight.shape))
    return network


PIXELS = np.random.default_rng(0).integers(0, 255, (3, SIZE_PX, SIZE_PX, 1), np.uint8)


@pytest.mark.parametrize("name", BUILDERS)
def test_evidence_is_the_gradient_times_what_the_head_looks_at(name):
    network = trained_like(name)
    found = add_evidence(network)(PIXELS, training=False)
    seen = {
        "mlp": lambda: network.get_layer("flat").output,
        "cnn": lambda: network.get_layer("local").output,
        "vgg16": lambda: network.get_layer("pooled").input,
    }[name]()
    inner = keras.Model(network.input, seen)(PIXELS, training=False)
    above = keras.Model(seen, network.output["pneumonia"])
    with tf.GradientTape() as tape:
        tape.watch(inner)
        logit = above(inner, training=False)
    product = np.asarray(inner * tape.gradient(logit, inner))
    if name == "mlp":
        side = 64 // PATCH_SIDE
        expected = product.reshape(3, side, PATCH_SIDE, side, PATCH_SIDE, -1).sum(axis=(2, 4, 5))
    else:
        expected = product.sum(axis=-1) * inner.shape[1] * inner.shape[2]
    if name == "vgg16":
        bias = network.get_layer("pneumonia").get_weights()[1]
        assert np.asarray(found["evidence"]).mean(axis=(1, 2)) + bias == pytest.approx(
            np.asarray(found["logit"])[:, 0], abs=1e-4
        )
    assert np.asarray(found["evidence"]) == pytest.approx(expected, abs=1e-4)
    assert np.abs(expected).max() > 1e-2


def test_a_network_that_reads_both_ways_does_not_care_which_side_is_left():
    network = trained_like("cnn")
    both = build_inference_model(network, None, flip_tta=True)
    mirrored = PIXELS[:, :, ::-1]
    alone = [
        np.asarray(network(films, training=False)["pneumonia"]) for films in (PIXELS, mirrored)
    ]
    assert not np.allclose(*alone, atol=1e-3)
    found, turned = (both(films, training=False) for films in (PIXELS, mirrored))
    assert np.asarray(found["logit"]) == pytest.approx(np.mean(alone, axis=0), abs=1e-4)
    assert np.asarray(turned["logit"]) == pytest.approx(np.asarray(found["logit"]), abs=1e-4)
    assert np.asarray(found["evidence"]) == pytest.approx(
        np.asarray(add_evidence(network)(PIXELS, training=False)["evidence"]), abs=1e-4
    ), "the evidence is that of the film as it is"


@pytest.mark.parametrize("name", BUILDERS)
def test_copies_that_evidence_needs_are_no_learnt_weights(name):
    network = BUILDERS[name](1, augment=False)
    whole = build_inference_model(network, None, flip_tta=False)
    assert count_trainable_weights(whole) == count_trainable_weights(network)
    assert whole.count_params() > count_trainable_weights(whole)


def draw_film(number):
    """A bright body, two dark lungs, a bright belly below them; each a little elsewhere."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[0:SIZE_PX, 0:SIZE_PX] / SIZE_PX
    film = 170.0 + 20 * rng.normal() + 8 * rng.normal(size=x.shape)
    for center in (0.3, 0.7):
        across = (x - center + 0.02 * rng.normal()) / (0.15 + 0.01 * rng.normal())
        down = (y - 0.4 + 0.02 * rng.normal()) / (0.3 + 0.02 * rng.normal())
        film -= (100 + 10 * rng.normal()) * (across**2 + down**2 < 1)
    return np.clip(film + 50 * (y > 0.8), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def films():
    drawn = np.stack([draw_film(number) for number in range(160)])[..., None]
    return LabelledImages(
        drawn, np.arange(160) % 2, np.array([""] * 160), np.arange(160).astype(str)
    )


def strangeness(films, pixels):
    entrance = keras.Input((SIZE_PX, SIZE_PX, 1), dtype="uint8")
    model = keras.Model(entrance, fit_ood_detector(films.pixels[:120]).build_atypicality(entrance))
    return np.asarray(model.predict(pixels, verbose=0))[:, 0]


@pytest.mark.slow
def test_films_like_the_training_films_are_typical_and_others_are_not(films):
    fresh = films.pixels[120:]
    others = {
        "noise": np.random.default_rng(0).integers(0, 255, fresh.shape, np.uint8),
        "inverted": 255 - fresh,
        "on its side": np.rot90(fresh, axes=(1, 2)),
        "upside down": np.rot90(fresh, 2, axes=(1, 2)),
        "one colour": np.full_like(fresh, 128),
    }
    assert (strangeness(films, fresh) <= 1).mean() >= 0.9
    for name, pixels in others.items():
        assert (strangeness(films, pixels) > 1).mean() >= 0.95, name


def test_typicality_does_not_mind_brightness_and_contrast(films):
    fresh = films.pixels[120:]
    darker = (fresh * 0.6 + 10).astype(np.uint8)
    assert strangeness(films, darker) == pytest.approx(strangeness(films, fresh), abs=0.5)


def test_every_shift_changes_every_film_and_keeps_its_label(films):
    few = films.take(np.arange(4))
    shifted = corrupt_images(few)
    assert len(shifted) == 4 * len(CORRUPTIONS)
    assert shifted.labels.tolist() == few.labels.tolist() * len(CORRUPTIONS)
    for way in range(len(CORRUPTIONS)):
        part = shifted.pixels[4 * way : 4 * way + 4]
        assert part.shape == few.pixels.shape
        assert all((one != two).any() for one, two in zip(part, few.pixels, strict=True))


def contrast_network(sign):
    """Its logit is the mean local contrast of a film, and its map, times ``sign``, says where."""
    pixels = keras.Input((SIZE_PX, SIZE_PX, 1), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(pixels)
    around = keras.layers.AveragePooling2D(9, strides=1, padding="same")(x)
    places = keras.layers.AveragePooling2D(16)((x - around) ** 2)
    learned = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")(places)
    evidence = keras.layers.Reshape((14, 14))(learned)
    logit = keras.ops.mean(evidence, axis=(1, 2))[:, None]
    return keras.Model(pixels, {"logit": logit, "evidence": sign * evidence})


@pytest.mark.slow
def test_honest_evidence_beats_chance_and_evidence_that_is_turned_around_does_not():
    rng = np.random.default_rng(0)
    pixels = np.full((12, SIZE_PX, SIZE_PX, 1), 128, np.uint8)
    pixels[:, :, :70] = rng.integers(0, 255, pixels[:, :, :70].shape)
    films = LabelledImages(
        pixels, np.ones(12, np.int64), np.array([""] * 12), np.arange(12).astype(str)
    )
    honest, turned = (check_evidence(contrast_network(sign), films, 1) for sign in (1.0, -1.0))
    assert honest.images == 12
    assert honest.beats_random
    assert not turned.beats_random
    assert honest.deletion[1] > 2 * honest.random_deletion[1]


def test_shuffled_weights_change_a_map_that_was_learned(films):
    network = build_inference_model(trained_like("cnn"), None, flip_tta=False)
    checked = check_evidence(network, films.take(np.arange(40)), seed=1)
    assert checked.images == 20
    assert abs(checked.randomised_correlation) < 0.9
