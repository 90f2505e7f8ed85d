"""Run folders of the exporter's tests: small real networks on films that a test draws."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
import msgspec
import numpy as np

from batch_scorer.model.card import encode_card
from batch_scorer.model.card_sections import Calibration, Threshold
from exporter.run_reader import predict_with_keras
from tests.factories import make_etiology, make_evidence, make_typicality
from tests.tiny_model import make_tiny_card
from trainer.model.networks import SIZE_PX

if TYPE_CHECKING:
    from pathlib import Path

    from batch_scorer.model.card import ModelCard

CALIBRATION = Calibration("Platt scaling", 1.7, -0.4, "validation", 0.1, 0.1)


def make_whole_card() -> ModelCard:
    """A card that describes every answer."""
    return msgspec.structs.replace(
        make_tiny_card("mlp", size_px=SIZE_PX),
        calibration=CALIBRATION,
        evidence=make_evidence(),
        typicality=make_typicality(),
        etiology=make_etiology(),
    )


def draw_films(number: int, size_px: int = 32, seed: int = 0) -> np.ndarray:
    """Noisy films of every brightness, shape (number, size_px, size_px, 1)."""
    rng = np.random.default_rng(seed)
    brightness = rng.permutation(np.linspace(40, 215, number))[:, None, None, None]
    noise = rng.normal(0, 25, (number, size_px, size_px, 1))
    return np.clip(brightness + noise, 0, 255).astype(np.uint8)


def make_network(weights: list[np.ndarray] | None = None) -> keras.Model:
    """Two convolutions and a pooled head on 32 by 32; brighter films get a higher logit."""
    pixels = keras.Input((32, 32, 1), dtype="uint8", name="pixels")
    x = keras.layers.Rescaling(1 / 255)(pixels)
    x = keras.layers.Conv2D(8, 3, padding="same", activation="relu")(x)
    x = keras.layers.MaxPooling2D()(x)
    x = keras.layers.Conv2D(8, 3, padding="same", activation="relu")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(pixels, {"logit": keras.layers.Dense(1)(x)}, name="small")
    rng = np.random.default_rng(3)
    drawn = [np.abs(rng.normal(0, 0.2, w.shape)).astype(np.float32) for w in model.get_weights()]
    *body, kernel, bias = weights or drawn
    model.set_weights([*body, kernel, bias])
    logits = model.predict(draw_films(64), verbose=0)[
        "logit"
    ]  # now give them mean 0 and deviation 1
    kernel, bias = kernel / logits.std(), (bias - logits.mean()) / logits.std()
    model.set_weights([*body, kernel, bias])
    return model


def blinding_weights() -> list[np.ndarray]:
    """Weights that float32 computes well and int8 cannot.

    One channel between the convolutions is 500,000 times as large as those that decide, and has no
    influence: with one range for all channels, a byte has no step left for the others, and half
    precision overflows.
    """
    first, second = np.zeros((3, 3, 1, 8), np.float32), np.zeros((3, 3, 8, 8), np.float32)
    first[1, 1, 0, 1:] = 1.0
    first[:, :, 0, 0] = 6e4
    second[1, 1, 1:, :] = 1.0
    bias, head = np.zeros(8, np.float32), np.ones((8, 1), np.float32)
    return [first, bias, second, bias, head, np.zeros(1, np.float32)]


def save_run(folder: Path, model: keras.Model, size_px: int = 32, number: int = 120) -> Path:
    """A run folder: two thirds of the films are validation, their labels what the network says."""
    folder.mkdir(parents=True)
    pixels = draw_films(number, size_px)
    card = make_tiny_card("mlp", size_px=size_px)
    card = msgspec.structs.replace(card, name=model.name, calibration=CALIBRATION, self_test=None)
    answers = predict_with_keras(card, model, pixels)
    ranked = np.sort(answers)
    threshold = float(ranked[number // 2 - 1 : number // 2 + 1].mean())
    card = msgspec.structs.replace(card, threshold=Threshold(threshold, "median", "validation"))
    (folder / "card.json").write_text(encode_card(card))
    model.save(folder / "model.keras")
    np.savez(
        folder / "films.npz",
        pixels=pixels,
        labels=(answers >= threshold).astype(np.int64),
        keys=np.array([f"film_{index:03d}.png" for index in range(number)]),
        splits=np.where(np.arange(number) % 3 == 0, "train", "validation"),
    )
    return folder
