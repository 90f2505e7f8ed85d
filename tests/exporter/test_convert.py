"""Conversion: every network maps, weights are halved without loss, and a bad file never appears."""

from __future__ import annotations

import logging

import keras
import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from batch_scorer.card import SelfTest
from batch_scorer.errors import ConversionError, ParityError, SelfTestFailed
from exporter import convert, publish
from exporter.run import read_run
from exporter.verify import verify
from tests.cards import tiny_probability
from tests.conftest import save_tiny_model
from tests.exporter.runs import CALIBRATION, make_network, save_run
from trainer.fit import RECIPES
from trainer.models import BUILDERS, SIZE_PX, read_both_ways

PIXELS = np.random.default_rng(0).integers(0, 255, (7, SIZE_PX, SIZE_PX, 1), np.uint8)


@pytest.mark.parametrize("name", BUILDERS)
def test_a_network_converts_and_answers_as_in_keras(name):
    model = BUILDERS[name](1)
    for layer in model.layers:
        if layer.trainable and isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
            layer.set_weights([w.astype(np.float16) for w in layer.get_weights()])
    if RECIPES[name].both_ways:
        model = read_both_ways(model)
    graph = convert.convert(model, CALIBRATION, SIZE_PX)
    whole = graph.ByteSize()
    graph = convert.halve_weights(graph)
    if name != "cnn":  # tf2onnx folds its normalisation into weights that then need all 32 bits
        assert graph.ByteSize() < 0.7 * whole
    assert graph.opset_import[0].version == convert.OPSET
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    logits = model.predict(PIXELS, verbose=0)[:, 0].astype(float)
    expected = 1 / (1 + np.exp(-(1.7 * logits - 0.4)))
    for films in (PIXELS[:1], PIXELS[:2], PIXELS):
        (found,) = session.run(["probability"], {"pixels": films})
        assert found == pytest.approx(expected[: len(films)], abs=1e-4)


def test_a_weight_that_half_precision_would_change_stays_as_it_is():
    model = BUILDERS["mlp"](1)
    first = next(x for x in model.layers if isinstance(x, keras.layers.Dense) and x.trainable)
    first.set_weights([np.full((4096, 32), 1 / 3, np.float32), np.zeros(32)])
    graph = convert.halve_weights(convert.convert(model, CALIBRATION, SIZE_PX))
    kept = [w for w in graph.graph.initializer if list(w.dims) == [4096, 32]]
    assert [w.data_type for w in kept] == [TensorProto.FLOAT]
    assert numpy_helper.to_array(kept[0])[0, 0] == np.float32(1 / 3)


def test_an_error_that_tf2onnx_only_logs_is_an_error(monkeypatch):
    def log_only(*args, **options):
        logging.getLogger("tf2onnx.tfonnx").error("Tensorflow op [x: Strange] is not supported")
        return onnx.ModelProto(), None

    monkeypatch.setattr(convert.tf2onnx.convert, "from_function", log_only)
    with pytest.raises(ConversionError, match=r"op .x: Strange. is not supported"):
        convert.convert(BUILDERS["mlp"](1), CALIBRATION, SIZE_PX)


def test_parity_and_self_test_are_really_checked(tmp_path):
    path = save_tiny_model(tmp_path / "tiny.onnx")
    pixels = np.random.default_rng(0).integers(0, 255, (70, 32, 32, 1), np.uint8)
    expected = tiny_probability(pixels, 8.0)
    assert verify(path, pixels, expected) < 1e-5
    with pytest.raises(ParityError, match="differs from the expected answers by up to"):
        verify(path, pixels, expected + 2e-4)
    with pytest.raises(ParityError, match="with 70 label flips"):
        verify(path, pixels, np.where(expected >= 0.5, 0.49999, 0.50001))
    model = onnx.load(path)
    model.graph.node[0].op_type = "Nonsense"
    onnx.save(model, tmp_path / "broken.onnx")
    with pytest.raises(ConversionError, match=r"onnx.checker refuses broken.onnx"):
        verify(tmp_path / "broken.onnx", pixels, expected)


def test_a_check_that_fails_leaves_no_file(tmp_path, monkeypatch):
    run = read_run(save_run(tmp_path / "run", make_network()))
    monkeypatch.setattr(
        publish,
        "_with_self_test",
        lambda card, answers, tolerance: msgspec.structs.replace(
            card, self_test=SelfTest("phantom-1", [0.5] * 4, 1e-9)
        ),
    )
    with pytest.raises(SelfTestFailed, match="is off by"):
        publish.publish(run, tmp_path / "models")
    assert list((tmp_path / "models").iterdir()) == []
