"""Models that nobody should trust: the tiny model's card on graphs of other kinds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
from onnx import TensorProto, helper

from batch_scorer.model.card import CARD_KEY, encode_card
from tests.tiny_model import make_tiny_card

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MEAN = (
    helper.make_node("Cast", ["pixels"], ["x"], to=TensorProto.FLOAT),
    helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=0),
)
"""Nodes that give each image's mean brightness, shape (N,)."""


def number(name: str, value: float) -> onnx.TensorProto:
    """A float32 constant."""
    return helper.make_tensor(name, TensorProto.FLOAT, [], [value])


def whole(name: str, values: Sequence[int]) -> onnx.TensorProto:
    """An int64 constant of shape (number of values,)."""
    return helper.make_tensor(name, TensorProto.INT64, [len(values)], values)


def save_graph(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    constants: Sequence[onnx.TensorProto] = (),
    *,
    output: onnx.ValueInfoProto | None = None,
    card: str = "",
) -> Path:
    """Save nodes after ``MEAN`` as a model with one output, "probability", and a card."""
    graph = helper.make_graph(
        [*MEAN, *nodes],
        "hostile",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", 32, 32, 1])],
        [output or helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["n"])],
        [whole("axes", [1, 2, 3]), *constants],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {CARD_KEY: card or encode_card(make_tiny_card())})
    path.write_bytes(model.SerializeToString())
    return path


def endless_loop() -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Nodes and constants of a Loop that adds one, 2 ** 62 times."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["more"], ["more_out"]),
            helper.make_node("Add", ["sum", "one"], ["sum_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("more", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("more_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum_out", TensorProto.FLOAT, []),
        ],
    )
    nodes = [
        helper.make_node("Loop", ["turns", "true", "one"], ["looped"], body=body),
        helper.make_node("Add", ["mean", "looped"], ["probability"]),
    ]
    constants = [
        number("one", 1.0),
        helper.make_tensor("turns", TensorProto.INT64, [], [2**62]),
        helper.make_tensor("true", TensorProto.BOOL, [], [True]),
    ]
    return nodes, constants


def long_constant(side: int, products: int) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Nodes and constants of a product of matrices that does not depend on the pixels."""
    nodes = [helper.make_node("Expand", ["one", "square"], ["m0"])]
    nodes += [
        helper.make_node("MatMul", [f"m{step}", f"m{step}"], [f"m{step + 1}"])
        for step in range(products)
    ]
    nodes += [
        helper.make_node("ReduceMean", [f"m{products}"], ["constant"], keepdims=0),
        helper.make_node("Add", ["mean", "constant"], ["probability"]),
    ]
    return nodes, [number("one", 1.0), whole("square", [side, side])]
