"""A card for the tiny model of the tests, with figures computed from seeded random scores."""

from __future__ import annotations

import numpy as np

from batch_scorer import metrics
from batch_scorer.card import (
    CARD_VERSION,
    CLASSES,
    SELF_TEST_RECIPE,
    Calibration,
    History,
    ModelCard,
    Reference,
    SelfTest,
    Threshold,
    Training,
    self_test_pixels,
)
from batch_scorer.decoding import DECODE_VERSION


def tiny_probability(pixels: np.ndarray, slope: float) -> np.ndarray:
    """What the tiny ONNX model of the tests computes, in plain NumPy."""
    mean = pixels.reshape(len(pixels), -1).mean(axis=1, dtype=np.float64)
    return np.asarray(1 / (1 + np.exp(-slope * (mean / 255 - 0.5))))


def make_card(
    name: str = "tiny", *, size_px: int = 32, slope: float = 8.0, films: int = 200
) -> ModelCard:
    rng = np.random.default_rng(7)
    truth = (rng.random(films) < 0.6).astype(int)
    scores = np.clip(truth * 0.5 + rng.random(films) * 0.5, 0, 1)
    patients = [f"person{index // 2}" for index in range(films)]
    reference = Reference(
        split="validation",
        films=films,
        patients=len(set(patients)),
        pneumonia=int(truth.sum()),
        metrics=metrics.evaluate(truth, scores, 0.5, patients),
        confusion=metrics.confusion(truth, scores, 0.5),
        roc=metrics.roc_points(truth, scores),
        reliability=metrics.reliability_points(truth, scores),
        score_quantiles=np.quantile(scores, np.linspace(0, 1, 21)).tolist(),
    )
    return ModelCard(
        card_version=CARD_VERSION,
        name=name,
        title="Tiny model of the tests",
        summary="Calls bright films pneumonia.",
        decode_version=DECODE_VERSION,
        classes=CLASSES,
        size_px=size_px,
        threshold=Threshold(0.5, "fixed for the tests", "nothing"),
        calibration=Calibration("none", slope, 0.0, "nothing", 0.1, 0.1),
        references={"validation": reference},
        history=History([0.9, 0.5], [0.8, 0.6], [0.6, 0.8], [0.6, 0.7]),
        training=Training(
            data="random numbers",
            data_fingerprint="0" * 64,
            films={"train NORMAL": 1, "train PNEUMONIA": 1},
            split_policy="none",
            seed=7,
            epochs=2,
            best_epoch=2,
            minutes=0.0,
            parameters=1,
            backend="none",
            command="none",
            commit="none",
            imbalance="none",
            initial_weights="none",
            brightness_mean=120.0,
            brightness_sd=20.0,
            contrast_mean=50.0,
            contrast_sd=10.0,
        ),
        versions={"python": "3"},
        self_test=SelfTest(
            SELF_TEST_RECIPE,
            tiny_probability(self_test_pixels(size_px), slope).tolist(),
            1e-3,
        ),
    )
