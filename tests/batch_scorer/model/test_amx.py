"""Shifted zero points: bit-identical outputs, and nothing else in the file changes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from batch_scorer.model import classifier
from batch_scorer.model.amx import shift_zero_points
from batch_scorer.model.classifier import Classifier, find_model_file, list_bundled_models
from batch_scorer.model.onnx_runtime import ort
from batch_scorer.system import process
from batch_scorer.system.process import has_amx

SIDE = 32


def without_zeros(model):
    """The same, but its zero points stand in no field that is read."""
    graph = onnx.load_from_string(model)
    (zeros,) = (weight for weight in graph.graph.initializer if weight.name == "z")
    zeros.ClearField("int32_data")
    return graph.SerializeToString()


def make_int8(weights, *, more=(), raw=True, zero=0):
    """One quantised convolution; ``more`` nodes may use its weights "w" and zero points "z"."""
    nodes = [
        helper.make_node("DequantizeLinear", ["pixels", "s", "u"], ["x"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "z"], ["wd"], axis=0),
        helper.make_node("Conv", ["x", "wd"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("QuantizeLinear", ["c", "s", "u"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "u"], ["y"]),
        *more,
    ]
    zeros = [zero] * len(weights)
    constants = [
        numpy_helper.from_array(np.float32(0.02), "s"),
        numpy_helper.from_array(np.uint8(0), "u"),
        numpy_helper.from_array(weights, "w")
        if raw
        else helper.make_tensor("w", TensorProto.INT8, weights.shape, weights.ravel().tolist()),
        numpy_helper.from_array(np.full(len(weights), 0.003, np.float32), "ws"),
        helper.make_tensor("z", TensorProto.INT8, [len(zeros)], zeros),
    ]
    shape = ["n", 4, SIDE, SIDE]
    graph = helper.make_graph(
        nodes,
        "int8",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", len(weights), SIDE, SIDE])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return model.SerializeToString()


def draw_weights(lowest=-64, highest=64):
    weights = np.random.default_rng(1).integers(lowest, highest + 1, (16, 4, 3, 3))
    weights[0, 0, 0, :2] = lowest, highest
    return weights.astype(np.int8)


def answer(model):
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    # Up to 127: without VNNI, a CPU adds products of bytes in pairs to 16 bits, and cuts off above.
    images = np.random.default_rng(2).integers(0, 128, (3, 4, SIDE, SIDE), np.uint8)
    return session.run(None, {"pixels": images})[0]


def stored(model):
    return {
        w.name: numpy_helper.to_array(w) for w in onnx.load_from_string(model).graph.initializer
    }


def test_weights_and_zero_points_go_up_by_one_and_no_answer_changes():
    before = make_int8(draw_weights(-128, 126))
    after = shift_zero_points(before)
    for name, numbers in stored(before).items():
        assert np.array_equal(stored(after)[name], numbers + (name in {"w", "z"})), name
    expected = answer(before)
    assert len(np.unique(expected)) > 100
    assert np.array_equal(answer(after), expected)
    assert shift_zero_points(after) == after, "they are raised once only"


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(make_int8(draw_weights(-127, 127)), id="all eight bits are used"),
        pytest.param(make_int8(draw_weights(), zero=2), id="the zero point is another"),
        pytest.param(make_int8(draw_weights(), raw=False), id="weights that are no bytes"),
        pytest.param(
            make_int8(draw_weights(), more=[helper.make_node("Cast", ["w"], ["v"], to=1)]),
            id="something else uses the weights",
        ),
        pytest.param(
            make_int8(draw_weights(), more=[helper.make_node("Neg", ["wd"], ["v"])]),
            id="something else uses what they stand for",
        ),
        pytest.param(
            make_int8(draw_weights(), more=[helper.make_node("Conv", ["x"], ["v"])]),
            id="a convolution without weights",
        ),
        pytest.param(without_zeros(make_int8(draw_weights())), id="zero points are elsewhere"),
        pytest.param(b"", id="an empty file"),
        pytest.param(b"not a model", id="no model"),
        pytest.param(make_int8(draw_weights())[:-40], id="half a model"),
    ],
)
def test_what_cannot_be_raised_stays_as_it_is(model):
    assert shift_zero_points(model) == model


@pytest.mark.parametrize("name", list_bundled_models())
def test_a_bundled_model_answers_the_same_with_tiles_and_without(name, monkeypatch):
    images = np.random.default_rng(3).integers(0, 256, (5, 224, 224, 1), np.uint8)
    predictions = []
    for tiles in (False, True):
        monkeypatch.setattr(classifier, "has_amx", lambda tiles=tiles: tiles)
        predictions.append(Classifier.load(name, "cpu", 1).predict(images))
    int8 = classifier.read_bundled_manifest().models[name].precision == "int8"
    data = find_model_file(name).read_bytes()
    assert (shift_zero_points(data) != data) == int8
    for output_name, values in vars(predictions[0]).items():
        assert np.array_equal(values, getattr(predictions[1], output_name)), output_name


@pytest.mark.parametrize(
    ("text", "granted", "tiles"),
    [
        ("processor : 0\nflags\t\t: fpu avx512_vnni amx_tile amx_int8\n", True, True),
        ("processor : 0\nflags\t\t: fpu avx512_vnni amx_tile amx_int8\n", False, False),
        ("processor : 0\nflags\t\t: fpu avx512_vnni amx_tile amx_bf16\n", True, False),
        ("processor : 0\nFeatures : fp asimd\n", True, False),
        (None, True, False),
    ],
)
def test_tiles_are_there_where_linux_says_so_and_grants_them(
    tmp_path, monkeypatch, text, granted, tiles
):
    monkeypatch.setattr(process, "_request_amx", lambda: granted)
    if text is not None:
        (tmp_path / "proc").mkdir()
        (tmp_path / "proc/cpuinfo").write_text(text)
    assert has_amx(tmp_path) == tiles
