"""The tiny model of the tests: its card, and what it computes in plain NumPy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper

from batch_scorer.model.card import (
    CARD_KEY,
    SELF_TEST_RECIPE,
    draw_self_test_images,
    encode_card,
    output_names,
)
from batch_scorer.model.card_sections import Calibration, SelfTest, Threshold
from tests.factories import make_card

if TYPE_CHECKING:
    from pathlib import Path

    from batch_scorer.model.card import ModelCard


def tiny_probability(pixels: np.ndarray, slope: float) -> np.ndarray:
    """What the tiny ONNX model of the tests computes, in plain NumPy."""
    mean = pixels.reshape(len(pixels), -1).mean(axis=1, dtype=np.float64)
    return np.asarray(1 / (1 + np.exp(-slope * (mean / 255 - 0.5))))


def make_tiny_card(
    name: str = "tiny", *, size_px: int = 32, slope: float = 8.0, **changes: Any
) -> ModelCard:
    """A card of the factories with the tiny model's own threshold and self-test."""
    answers = tiny_probability(draw_self_test_images(size_px), slope)
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


def save_tiny_model(
    path: Path,
    name: str = "tiny",
    slope: float = 8.0,
    size_px: int = 32,
    **changes: object,
) -> Path:
    """A real ONNX model with a card: probability = sigmoid(slope * (mean / 255 - 0.5))."""
    nodes = [
        helper.make_node("Cast", ["pixels"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=0),
        helper.make_node("Div", ["mean", "white"], ["share"]),
        helper.make_node("Sub", ["share", "half"], ["centred"]),
        helper.make_node("Mul", ["centred", "slope"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["probability"]),
    ]
    constants = [
        helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3]),
        helper.make_tensor("white", TensorProto.FLOAT, [], [255.0]),
        helper.make_tensor("half", TensorProto.FLOAT, [], [0.5]),
        helper.make_tensor("slope", TensorProto.FLOAT, [], [slope]),
    ]
    card = make_tiny_card(name, size_px=size_px, slope=slope, **changes)
    if card.typicality:  # distance from mid-grey: 0 there, 2 at black and white
        nodes += [
            helper.make_node("Abs", ["centred"], ["distance"]),
            helper.make_node("Mul", ["distance", "four"], ["atypicality"]),
        ]
        constants.append(helper.make_tensor("four", TensorProto.FLOAT, [], [4.0]))
    if card.etiology:
        nodes.append(helper.make_node("Identity", ["share"], ["viral"]))
    if card.evidence:  # each place's share of the logit: their mean is the logit
        side = size_px // card.evidence.height
        nodes += [
            helper.make_node("Reshape", ["x", "patches"], ["patched"]),
            helper.make_node("ReduceMean", ["patched", "within"], ["means"], keepdims=0),
            helper.make_node("Div", ["means", "white"], ["shares"]),
            helper.make_node("Sub", ["shares", "half"], ["differences"]),
            helper.make_node("Mul", ["differences", "slope"], ["evidence"]),
        ]
        shape = [-1, card.evidence.height, side, card.evidence.width, side]
        constants += [
            helper.make_tensor("patches", TensorProto.INT64, [5], shape),
            helper.make_tensor("within", TensorProto.INT64, [2], [2, 4]),
        ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", size_px, size_px, 1])],
        [
            helper.make_tensor_value_info(
                output, TensorProto.FLOAT, ["n", "h", "w"] if output == "evidence" else ["n"]
            )
            for output in sorted(output_names(card))
        ],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {CARD_KEY: encode_card(card)})
    onnx.save(model, path)
    return path
