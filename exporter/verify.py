"""Is the converted file right? onnx.checker, the real Classifier, parity with Keras."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx

from batch_scorer.classifier import Classifier
from batch_scorer.errors import ConversionError, ParityError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

BATCH_SIZES = (1, 2, 7)
MAX_DIFFERENCE = 1e-4
MIN_FILMS = 64


def verify(path: Path, pixels: NDArray[np.uint8], expected: NDArray[np.float64]) -> float:
    """Check a model file as the scorer will use it.

    Args:
        path: The ONNX file, card and self-test embedded.
        pixels: Shape (N, S, S, 1) uint8, real films.
        expected: Shape (N,), the probabilities by Keras.

    Returns:
        The largest difference in probability found.

    Raises:
        ConversionError: The file is no valid ONNX model.
        ParityError: A difference above 1e-4, or a film on the other side of the threshold.
        ModelFileError: The card or the self-test does not hold.
    """
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as exc:
        raise ConversionError(f"onnx.checker refuses {path.name}: {exc}.") from exc
    classifier = Classifier.load(path, provider="cpu")
    threshold = classifier.card.threshold.value
    worst = 0.0
    for size in BATCH_SIZES:
        parts = [pixels[start : start + size] for start in range(0, len(pixels), size)]
        found = np.concatenate([classifier.predict(part).probability for part in parts])
        worst = max(worst, float(np.abs(found - expected).max()))
        flips = int(((found >= threshold) != (expected >= threshold)).sum())
        if not worst <= MAX_DIFFERENCE or flips:
            raise ParityError(
                f"At batch size {size} {path.name} differs from Keras by up to {worst:.2e} in "
                f"probability (at most {MAX_DIFFERENCE:.0e} expected), with {flips} label flips."
            )
    return worst
