"""Bytes become numbers in one operation: the same answers to the last bit."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from batch_scorer.model.onnx_runtime import ort
from exporter.optimize import replace_casts_with_dequantize

FILMS = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)


def make_graph(nodes, **constants):
    graph = helper.make_graph(
        nodes,
        "entrance",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", 16, 16, 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 16, 16, 1])],
        [helper.make_tensor(n, TensorProto.FLOAT, v[0], v[1]) for n, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def answer(model):
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"pixels": FILMS})[0]


def operations(model):
    return [node.op_type for node in model.graph.node]


def test_two_scalings_of_one_cast_become_two_dequantisations_with_the_same_bits():
    model = make_graph(
        [
            helper.make_node("Cast", ["pixels"], ["x"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["x", "scale"], ["a"]),
            helper.make_node("Transpose", ["pixels"], ["turned"], perm=[0, 2, 1, 3]),
            helper.make_node("Cast", ["turned"], ["z"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["scale", "z"], ["b"]),
            helper.make_node("Sub", ["a", "b"], ["y"]),
        ],
        scale=([], [1 / 255]),
    )
    before = answer(model)
    assert np.abs(before).max() > 0
    scaled = replace_casts_with_dequantize(model)
    assert operations(scaled) == ["DequantizeLinear", "Transpose", "DequantizeLinear", "Sub"]
    onnx.checker.check_model(scaled, full_check=True)
    assert np.array_equal(answer(scaled), before)


def test_a_cast_that_is_used_otherwise_or_scaled_by_a_tensor_stays():
    used_otherwise = make_graph(
        [
            helper.make_node("Cast", ["pixels"], ["x"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["x", "scale"], ["a"]),
            helper.make_node("Add", ["a", "x"], ["y"]),
        ],
        scale=([], [0.5]),
    )
    scaled_by_a_tensor = make_graph(
        [
            helper.make_node("Cast", ["pixels"], ["x"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["x", "scale"], ["y"]),
        ],
        scale=([1], [0.5]),
    )
    for model in (used_otherwise, scaled_by_a_tensor):
        before = operations(model)
        assert operations(replace_casts_with_dequantize(model)) == before
