"""What a model file may cost before it is refused: time, and the memory of its outputs."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from batch_scorer.errors import ModelFileError
from batch_scorer.model import classifier as module
from batch_scorer.model.classifier import Classifier
from batch_scorer.model.session import (
    cancel_opening,
    make_session_options,
    open_session,
    run_session,
)
from batch_scorer.system import deadline
from tests.hostile_models import endless_loop, long_constant, number, save_graph, whole


def test_a_graph_that_never_ends_is_refused_as_it_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SELF_TEST_TIMEOUT_S", {"cpu": 0.1})
    path = save_graph(tmp_path / "endless.onnx", *endless_loop())
    with pytest.raises(ModelFileError, match=r"to finish in 0\.1 seconds, found it still running"):
        Classifier.load(path, "cpu")


def test_a_large_batch_may_take_longer(tiny_model, monkeypatch):
    limits = []
    monkeypatch.setattr(
        module, "run_with_timeout", lambda timeout_s, work, stop: limits.append(timeout_s) or work()
    )
    for batch_size in (None, 16, 64, 1024):
        assert Classifier.load(tiny_model, "cpu", batch_size=batch_size).timeout_s == 600
    assert limits == [20, 20, 20, 245]


def test_so_is_one_whose_constants_take_too_long_to_compute(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SELF_TEST_TIMEOUT_S", {"cpu": 0.05})
    monkeypatch.setattr(module, "SESSION_OPEN_TIMEOUT_S", 0.0)
    monkeypatch.setattr(deadline, "_STOP_GRACE_S", 0.0)
    cancelled = []
    monkeypatch.setattr(
        module, "cancel_opening", lambda options: cancelled.append(cancel_opening(options))
    )
    path = save_graph(tmp_path / "constant.onnx", *long_constant(500, 200))
    with pytest.raises(ModelFileError, match=r"to load in 0\.05 seconds, found it not ready"):
        Classifier.load(path, "cpu")
    assert len(cancelled) == 1
    for thread in deadline._ABANDONED_THREADS:
        thread.join(120)
        assert not thread.is_alive()


def test_a_batch_that_never_ends_is_refused_too(tmp_path):
    path = save_graph(tmp_path / "endless.onnx", *endless_loop())
    session = open_session(
        path.read_bytes(), str(path), make_session_options(1), ["CPUExecutionProvider"]
    )
    pixels = np.zeros((2, 32, 32, 1), np.uint8)
    with pytest.raises(ModelFileError, match=r"endless\.onnx to finish in 0\.1 seconds"):
        run_session(session, pixels, {"probability": (2,)}, "cpu", 0.1, str(path))


def probability(kind, shape):
    return helper.make_tensor_value_info("probability", kind, shape)


@pytest.mark.parametrize(
    ("nodes", "constants", "output", "message"),
    [
        pytest.param(
            [helper.make_node("Unsqueeze", ["mean", "last"], ["probability"])],
            [whole("last", [1])],
            probability(TensorProto.FLOAT, ["n", 1]),
            r"with the shape \['N'\], found tensor\(float\) with \['n', 1\]",
            id="a column",
        ),
        pytest.param(
            [helper.make_node("ReduceMean", ["mean"], ["probability"], keepdims=0)],
            [],
            probability(TensorProto.FLOAT, []),
            r"the shape \(4,\), found \(\)",
            id="one number",
        ),
        pytest.param(
            [helper.make_node("Concat", ["mean", "mean"], ["probability"], axis=0)],
            [],
            probability(TensorProto.FLOAT, None),
            r"the shape \(4,\), found \(8,\)",
            id="twice as many",
        ),
        pytest.param(
            [helper.make_node("Cast", ["mean"], ["probability"], to=TensorProto.DOUBLE)],
            [],
            probability(TensorProto.DOUBLE, ["n"]),
            r"as tensor\(float\).*found tensor\(double\)",
            id="float64",
        ),
        pytest.param(
            [helper.make_node("Cast", ["mean"], ["probability"], to=TensorProto.STRING)],
            [],
            probability(TensorProto.STRING, ["n"]),
            r"found tensor\(string\)",
            id="texts",
        ),
        pytest.param(
            [helper.make_node("SequenceConstruct", ["mean"], ["probability"])],
            [],
            helper.make_tensor_sequence_value_info("probability", TensorProto.FLOAT, ["n"]),
            r"found seq\(tensor\(float\)\)",
            id="a list",
        ),
        pytest.param(
            [helper.make_node("Expand", ["mean", "many"], ["probability"])],
            [whole("many", [10**8, 1])],
            probability(TensorProto.FLOAT, None),
            r"found tensor\(float\) with \[100000000, 'n'\]",
            id="a huge output",
        ),
        pytest.param(
            [
                helper.make_node("Expand", ["mean", "many"], ["all"]),
                helper.make_node("ReduceMean", ["all", "first"], ["probability"], keepdims=0),
            ],
            [whole("many", [10**13, 1]), whole("first", [0])],
            probability(TensorProto.FLOAT, ["n"]),
            r"huge\.onnx failed: .*Expand",
            id="more than any memory on the way",
        ),
        pytest.param(
            [
                helper.make_node("Div", ["zero", "zero"], ["nan"]),
                helper.make_node("Add", ["mean", "nan"], ["probability"]),
            ],
            [number("zero", 0.0)],
            None,
            "a difference of at most .*, found nan",
            id="no numbers",
        ),
    ],
)
def test_an_output_that_is_no_probability_for_each_image_is_refused(
    tmp_path, nodes, constants, output, message
):
    path = save_graph(tmp_path / "huge.onnx", nodes, constants, output=output)
    with pytest.raises(ModelFileError, match=message) as raised:
        Classifier.load(path, "cpu")
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 600
