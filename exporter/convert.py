"""Keras -> ONNX: one graph from uint8 pixels to a calibrated probability.

Uses ``tf2onnx.convert.from_function``: ``from_keras`` fails on Keras 3 models, or only logs an
operation that it cannot map. Here every such log entry is an error.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import onnx
import tensorflow as tf
import tf2onnx
from onnx import TensorProto, helper, numpy_helper

from batch_scorer.errors import ConversionError
from batch_scorer.model.card import CARD_KEY, encode_card, output_names

if TYPE_CHECKING:
    import keras

    from batch_scorer.model.card import ModelCard
    from batch_scorer.model.card_sections import Calibration

OPSET = 18
MIN_WEIGHTS_TO_HALVE = 256


def convert(model: keras.Model, card: ModelCard) -> onnx.ModelProto:
    """Convert the network of a run folder into the graph of the model contract.

    Args:
        model: Takes ``pixels`` (N, S, S, 1) uint8; returns ``logit``, ``viral`` and
            ``atypicality`` (N, 1), and ``evidence`` (N, h, w).
        card: Its calibrations become the last operations before each sigmoid. Outputs without a
            section in the card are left out.

    Raises:
        ConversionError: An operation could not be mapped, or tf2onnx logged an error.
    """
    signature = [tf.TensorSpec((None, card.size_px, card.size_px, 1), tf.uint8, name="pixels")]

    @tf.function(input_signature=signature)  # type: ignore[untyped-decorator]
    def predict(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        found = model(pixels, training=False)
        outputs = {"probability": _apply_calibration(found["logit"], card.calibration)}
        if card.evidence:
            outputs["evidence"] = found["evidence"]
        if card.typicality:
            outputs["atypicality"] = found["atypicality"][:, 0]
        if card.etiology:
            outputs["viral"] = _apply_calibration(found["viral"], card.etiology.calibration)
        return outputs

    errors = _ErrorCollector()
    logger = logging.getLogger("tf2onnx")
    logger.addHandler(errors)
    try:
        graph: onnx.ModelProto
        graph, _ = tf2onnx.convert.from_function(predict, input_signature=signature, opset=OPSET)
    except (KeyError, ValueError, RuntimeError, TypeError) as exc:
        raise ConversionError(f"tf2onnx cannot convert {model.name}: {exc}.") from exc
    finally:
        logger.removeHandler(errors)
    if errors.messages:
        raise ConversionError(f"tf2onnx reported: {errors.messages[0]}")
    names = {output.name for output in graph.graph.output}
    if names != output_names(card):
        raise ConversionError(
            f"Expected outputs named {sorted(output_names(card))}, found {sorted(names)}."
        )
    return graph


def _apply_calibration(logit: tf.Tensor, calibration: Calibration) -> tf.Tensor:
    return tf.sigmoid(calibration.slope * logit[:, 0] + calibration.intercept)


def store_half_weights(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Store weights in half precision where that changes no value.

    The trainer rounds large weights to half precision before any evaluation, so they qualify. A
    Cast restores float32, and ONNX Runtime folds it on loading. Other weights, such as folded
    normalisations, stay unchanged.
    """
    casts = []
    for weight in graph.graph.initializer:
        if weight.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(weight)
        halved = values.astype(np.float16)
        if values.size < MIN_WEIGHTS_TO_HALVE or not np.array_equal(
            halved.astype(np.float32), values
        ):
            continue
        name = weight.name
        weight.CopyFrom(numpy_helper.from_array(halved, f"{name}_half"))
        casts.append(helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.graph.node]
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    return graph


def embed_card(graph: onnx.ModelProto, card: ModelCard) -> onnx.ModelProto:
    """Embed the card in the file's metadata."""
    helper.set_model_props(graph, {CARD_KEY: encode_card(card)})
    graph.doc_string = "Research use only, not a medical device."
    return graph


class _ErrorCollector(logging.Handler):
    """Collects tf2onnx's log entries at ERROR, which it would otherwise only print."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())
