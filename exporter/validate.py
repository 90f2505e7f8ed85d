"""Verification of a converted file: onnx.checker, the real Classifier, parity, precision loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx

from batch_scorer.errors import ConversionError, ParityError, PrecisionRefused
from batch_scorer.metrics import classification
from batch_scorer.model.card_sections import Precision
from batch_scorer.model.classifier import Classifier
from batch_scorer.model.onnx_runtime import ort, ort_errors

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from batch_scorer.model.card_sections import ReducedPrecision
    from exporter.run_reader import TrainedRun

BATCH_SIZES = (1, 2, 7)
MAX_DIFFERENCE = 1e-4
MAX_OTHER_DIFFERENCE = 1e-3
PREDICT_BATCH_SIZE = 32
MAX_AUC_LOSS = 0.002
MAX_FLIPPED_SHARE = 0.02
MAX_DIFFERENCE_FLOAT16 = 0.01
MAX_LISTED_NAMES = 5
FLOAT32_HINT = "Use the float32 file."


def verify_model_file(
    path: Path,
    pixels: NDArray[np.uint8],
    expected: NDArray[np.float64],
    other_outputs: dict[str, NDArray[np.float32]] | None = None,
) -> float:
    """Verify a model file with the scorer's own classifier.

    Args:
        path: The ONNX file, with embedded card and self-test.
        pixels: Shape (N, S, S, 1) uint8, real images.
        expected: Shape (N,), Keras's probabilities; for a smaller number format, the checked
            graph's own.
        other_outputs: Keras's further outputs by name, if they must agree too.

    Returns:
        The largest difference in probability.

    Raises:
        ConversionError: The file is not a valid ONNX model.
        ParityError: A probability differs by more than 1e-4, an image changes its label, or
            another output differs by more than 1e-3.
        ModelFileError: The card or the self-test is invalid.
    """
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as exc:
        raise ConversionError(f"onnx.checker refuses {path.name}: {exc}.") from exc
    classifier = Classifier.load(path, provider="cpu")
    threshold = classifier.card.threshold.value
    max_difference = 0.0
    for size in BATCH_SIZES:
        parts = [pixels[start : start + size] for start in range(0, len(pixels), size)]
        probabilities = np.concatenate([classifier.predict(part).probability for part in parts])
        max_difference = max(max_difference, float(np.abs(probabilities - expected).max()))
        flips = int(((probabilities >= threshold) != (expected >= threshold)).sum())
        if not max_difference <= MAX_DIFFERENCE or flips:
            raise ParityError(
                f"At batch size {size} {path.name} differs from the expected scores by up to "
                f"{max_difference:.2e} in probability (at most {MAX_DIFFERENCE:.0e} allowed), "
                f"with {flips} label flips."
            )
    _check_other_outputs(classifier, pixels, other_outputs or {})
    return max_difference


def _check_other_outputs(
    classifier: Classifier, pixels: NDArray[np.uint8], other_outputs: dict[str, NDArray[np.float32]]
) -> None:
    predictions = classifier.predict(pixels)
    for name, expected in other_outputs.items():
        values = getattr(predictions, name)
        if values is None:  # the card does not describe it
            continue
        max_difference = float(np.abs(values - expected.reshape(values.shape)).max())
        if not max_difference <= MAX_OTHER_DIFFERENCE:
            raise ParityError(
                f"{classifier.path.name} differs from Keras by up to {max_difference:.2e} in "
                f"{name} (at most {MAX_OTHER_DIFFERENCE:.0e} allowed)."
            )


def predict_with_graph(graph: onnx.ModelProto, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Predict probabilities on a CPU with a graph that has no card yet, shape (N,).

    Raises:
        ConversionError: ONNX Runtime cannot run it.
    """
    starts = range(0, len(pixels), PREDICT_BATCH_SIZE)
    try:
        session = ort.InferenceSession(
            graph.SerializeToString(),
            providers=["CPUExecutionProvider"],
            disabled_optimizers=["EliminateIdentity"],  # see quantize.emulate_float16
        )
        parts = [
            session.run(["probability"], {"pixels": pixels[start : start + PREDICT_BATCH_SIZE]})[0]
            for start in starts
        ]
    except (
        ort_errors.Fail,
        ort_errors.InvalidArgument,
        ort_errors.InvalidGraph,
        ort_errors.NotImplemented,
        ort_errors.RuntimeException,
    ) as exc:
        raise ConversionError(f"ONNX Runtime cannot run the converted graph: {exc}.") from exc
    return np.concatenate(parts).astype(np.float64)


def check_precision(
    kind: ReducedPrecision, probabilities: NDArray[np.float64], run: TrainedRun
) -> Precision:
    """Measure the effect of a smaller number format on all validation images.

    Calibration and threshold stay those of the float32 network. If too many labels change, the
    threshold would have to be chosen again, so the file is refused.

    Args:
        kind: The smaller format.
        probabilities: Shape (N,), the smaller graph's probabilities for the validation images.
        run: The run with Keras's probabilities for them.

    Raises:
        PrecisionRefused: A probability is not finite, AUC falls by more than 0.002, more than 2
            % of the labels change, or a float16 probability differs by more than 0.01.
    """
    labels, expected, threshold = run.validation.labels, run.predictions, run.card.threshold.value
    if not np.isfinite(probabilities).all():
        raise PrecisionRefused("Refused: some of its scores are not finite numbers.", FLOAT32_HINT)
    flips = run.validation.keys[(probabilities >= threshold) != (expected >= threshold)].tolist()
    before, after = _compute_auc(labels, expected), _compute_auc(labels, probabilities)
    largest = float(np.abs(probabilities - expected).max())
    reasons = []
    if before - after > MAX_AUC_LOSS:
        reasons.append(f"AUC falls from {before:.4f} to {after:.4f} (by at most {MAX_AUC_LOSS})")
    if len(flips) > MAX_FLIPPED_SHARE * len(labels):
        named = ", ".join(flips[:MAX_LISTED_NAMES])
        more = ", ..." if len(flips) > MAX_LISTED_NAMES else ""
        reasons.append(
            f"{len(flips)} labels change (at most {MAX_FLIPPED_SHARE:.0%}): {named}{more}"
        )
    if kind == "float16" and largest > MAX_DIFFERENCE_FLOAT16:
        reasons.append(f"a probability is off by {largest:.4f} (at most {MAX_DIFFERENCE_FLOAT16})")
    if reasons:
        raise PrecisionRefused(
            f"Refused: on {len(labels)} validation images {'; '.join(reasons)}.", FLOAT32_HINT
        )
    return Precision(
        kind=kind,
        images=len(labels),
        auc=after,
        auc_difference=after - before,
        largest_difference=largest,
        flips=flips,
        calibrated_on=f"{len(run.calibration)} training films" if kind == "int8" else "",
    )


def _compute_auc(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    value = classification.compute_metrics(labels, probabilities, 0.5, resamples=1)["auc"].value
    if value is None:
        raise ConversionError(
            "Expected validation images of both classes, found one class only.",
            "Train on more images.",
        )
    return value
