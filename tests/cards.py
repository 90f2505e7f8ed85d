"""The tiny model of the tests: its card, and what it computes in plain NumPy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from batch_scorer.card import (
    SELF_TEST_RECIPE,
    Calibration,
    SelfTest,
    Threshold,
    self_test_pixels,
)
from tests.factories import make_card

if TYPE_CHECKING:
    from batch_scorer.card import ModelCard


def tiny_probability(pixels: np.ndarray, slope: float) -> np.ndarray:
    """What the tiny ONNX model of the tests computes, in plain NumPy."""
    mean = pixels.reshape(len(pixels), -1).mean(axis=1, dtype=np.float64)
    return np.asarray(1 / (1 + np.exp(-slope * (mean / 255 - 0.5))))


def make_tiny_card(
    name: str = "tiny", *, size_px: int = 32, slope: float = 8.0, **changes: Any
) -> ModelCard:
    """A card of the factories with the tiny model's own threshold and self-test."""
    answers = tiny_probability(self_test_pixels(size_px), slope)
    card = msgspec.structs.replace(
        make_card("mlp", splits=("validation",)),
        name=name,
        title="Tiny model of the tests",
        size_px=size_px,
        threshold=Threshold(0.5, "fixed for the tests", "nothing"),
        calibration=Calibration("none", slope, 0.0, "nothing", 0.1, 0.1),
        self_test=SelfTest(SELF_TEST_RECIPE, answers.tolist(), 1e-3),
    )
    return msgspec.structs.replace(card, **changes)
