"""Cheaper operations: the same answers to the last bit, for real conversions and small graphs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from batch_scorer.model.classifier import BUNDLED_FOLDER
from batch_scorer.model.onnx_runtime import ort
from exporter import convert, export
from exporter.optimize import optimize_graph
from tests.exporter.runs import draw_films, make_whole_card
from trainer.model.heads import build_inference_model
from trainer.model.networks import BUILDERS
from trainer.model.ood import fit_ood_detector

FILMS = draw_films(5, 16)


def make_graph(nodes, **constants):
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", 16, 16, 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "h", "w", "c"])],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def answers(model, films):
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"pixels": films}), strict=True))


def operations(model):
    return [node.op_type for node in model.graph.node]


def check_cheaper(model, films):
    """Rewrite it, and expect the same bits, a valid model, and nothing more to do."""
    before = answers(model, films)
    optimize_graph(model)
    onnx.checker.check_model(model, full_check=True)
    for name, values in answers(model, films).items():
        assert np.ptp(values) > 0
        assert np.array_equal(values, before[name]), name
    once = model.SerializeToString()
    assert optimize_graph(model).SerializeToString() == once


@pytest.mark.parametrize("int8", [False, True])
def test_a_converted_network_that_looks_both_ways_keeps_every_bit(int8):
    films = draw_films(6, 224)
    network = build_inference_model(
        BUILDERS["cnn"](1, augment=0), fit_ood_detector(films), flip_tta=True
    )
    model = convert.convert(network, make_whole_card())
    if int8:
        model = export.quantize_int8(model, films)
    assert "ReverseSequence" in operations(model)
    check_cheaper(model, films)
    assert {"Slice", "DequantizeLinear"} <= set(operations(model))
    assert "ReverseSequence" not in operations(model)


def test_a_reversed_axis_is_a_slice_and_its_lengths_are_dropped():
    model = make_graph(
        [
            helper.make_node("Transpose", ["pixels"], ["t"], perm=[2, 1, 0, 3]),
            helper.make_node("Shape", ["pixels"], ["shape"]),
            helper.make_node("Shape", ["t"], ["turned"]),
            helper.make_node("Gather", ["shape", "two"], ["length"]),
            helper.make_node("Gather", ["turned", "one"], ["number"]),
            helper.make_node("Expand", ["length", "number"], ["lengths"]),
            helper.make_node(
                "ReverseSequence", ["t", "lengths"], ["r"], name="r", time_axis=0, batch_axis=1
            ),
            helper.make_node("Transpose", ["r"], ["back"], perm=[2, 1, 0, 3]),
            helper.make_node("Cast", ["back"], ["y"], to=TensorProto.FLOAT),
        ],
        one=np.array([1]),
        two=np.array([2]),
    )
    assert np.array_equal(answers(model, FILMS)["y"], FILMS[:, :, ::-1])
    check_cheaper(model, FILMS)
    assert operations(model) == ["Transpose", "Slice", "Transpose", "Cast"]


def test_bytes_are_reshaped_before_they_become_numbers():
    model = make_graph(
        [
            helper.make_node("DequantizeLinear", ["pixels", "scale"], ["x"]),
            helper.make_node("Reshape", ["x", "flat"], ["rows"], name="rows"),
            helper.make_node("Shape", ["x"], ["shape"]),
            helper.make_node("MatMul", ["rows", "weights"], ["product"]),
            helper.make_node("Reshape", ["product", "shape"], ["y"]),
        ],
        scale=np.float32(1 / 255),
        flat=np.array([-1, 16]),
        weights=np.random.default_rng(0).random((16, 16), np.float32),
    )
    check_cheaper(model, FILMS)
    assert operations(model) == ["Reshape", "DequantizeLinear", "Shape", "MatMul", "Reshape"]


@pytest.mark.parametrize("shape", [[], [1, 1, 1, 1]])
def test_a_zero_added_to_scaled_bytes_does_not_hide_that_they_are_reshaped(shape):
    model = make_graph(
        [
            helper.make_node("DequantizeLinear", ["pixels", "scale"], ["x"]),
            helper.make_node("Add", ["zero", "x"], ["z"]),
            helper.make_node("Reshape", ["z", "flat"], ["rows"], name="rows"),
            helper.make_node("MatMul", ["rows", "weights"], ["product"]),
            helper.make_node("Reshape", ["product", "four"], ["y"]),
        ],
        zero=np.zeros(shape, np.float32),
        scale=np.float32(1 / 255),
        flat=np.array([-1, 16]),
        four=np.array([-1, 16, 16, 1]),
        weights=np.random.default_rng(0).random((16, 16), np.float32),
    )
    check_cheaper(model, FILMS)
    assert operations(model) == ["Reshape", "DequantizeLinear", "MatMul", "Reshape"]


@pytest.mark.parametrize(
    "other", [np.float32(0.5), np.zeros(16, np.float32), np.zeros((1, 1, 1, 1, 1), np.float32)]
)
def test_another_number_or_another_shape_is_still_added(other):
    model = make_graph(
        [
            helper.make_node("DequantizeLinear", ["pixels", "scale"], ["x"]),
            helper.make_node("Add", ["x", "other"], ["z"]),
            helper.make_node("Reshape", ["z", "four"], ["y"]),
        ],
        scale=np.float32(1 / 255),
        other=other,
        four=np.array([-1, 16, 16, 1]),
    )
    assert "Add" in operations(optimize_graph(model))


def test_an_answer_that_is_a_sum_stays_an_answer():
    model = make_graph(
        [
            helper.make_node("DequantizeLinear", ["pixels", "scale"], ["x"]),
            helper.make_node("Add", ["x", "zero"], ["y"]),
        ],
        scale=np.float32(1 / 255),
        zero=np.float32(0),
    )
    check_cheaper(model, FILMS)
    assert operations(model) == ["DequantizeLinear", "Add"]


def test_a_zero_added_to_what_may_be_less_than_zero_stays():
    model = make_graph(
        [
            helper.make_node("DequantizeLinear", ["pixels", "scale", "middle"], ["x"]),
            helper.make_node("Add", ["x", "zero"], ["z"]),
            helper.make_node("Relu", ["z"], ["y"]),
        ],
        scale=np.float32(1 / 255),
        middle=np.uint8(128),
        zero=np.float32(0),
    )
    check_cheaper(model, FILMS)
    assert "Add" in operations(model)


@pytest.mark.parametrize("operation", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("first", [True, False])
def test_a_number_gets_the_axes_of_its_tensor(operation, first):
    inputs = ["number", "x"] if first else ["x", "number"]
    model = make_graph(
        [
            helper.make_node("Cast", ["pixels"], ["level"], to=TensorProto.FLOAT),
            helper.make_node("Sqrt", ["level"], ["x"]),
            helper.make_node(operation, inputs, ["z"]),
            helper.make_node("Exp", ["number"], ["e"]),
            helper.make_node("Sub", ["z", "e"], ["y"]),
        ],
        number=np.float32(3),
    )
    check_cheaper(model, FILMS)
    shapes = {w.name: list(w.dims) for w in model.graph.initializer}
    assert shapes == {"number": [], "number_4_axes": [1, 1, 1, 1]}


@pytest.mark.parametrize("path", sorted(BUNDLED_FOLDER.glob("*.onnx")), ids=lambda path: path.stem)
def test_the_bundled_models_have_every_cheaper_operation(path):
    whole = onnx.load(path)
    assert optimize_graph(onnx.load(path)).SerializeToString() == whole.SerializeToString()
