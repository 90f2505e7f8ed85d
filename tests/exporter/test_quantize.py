"""Smaller number formats: what is computed in them, what they may change, and when they are not."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from batch_scorer.cli.inspect import models as models_command
from batch_scorer.errors import ConversionError, PrecisionRefused
from batch_scorer.model.classifier import Classifier
from batch_scorer.model.onnx_runtime import ort
from batch_scorer.storage.output import INTERNAL_FOLDER
from exporter.cli import export
from exporter.export import export_model
from exporter.quantize import convert_float16, quantize_int8
from exporter.run_reader import read_run
from exporter.validate import check_precision
from tests.exporter.runs import blinding_weights, draw_films, make_network, save_run
from trainer.model.networks import BUILDERS, SIZE_PX

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return read_run(save_run(tmp_path_factory.mktemp("runs") / "small", make_network()))


@pytest.fixture(scope="module")
def blind(tmp_path_factory):
    model = make_network(blinding_weights())
    return read_run(save_run(tmp_path_factory.mktemp("runs") / "blind", model))


def several_outputs():
    """A convolutional graph that also gives an evidence map and one more number per film."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Cast", ["pixels"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["x"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["planes", "scale"], ["scaled"]),
        helper.make_node("Conv", ["scaled", "kernel"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["features"], name="relu"),
        helper.make_node("ReduceMean", ["features", "channel"], ["evidence"], keepdims=0),
        helper.make_node("ReduceMean", ["features", "all"], ["mean"], keepdims=0),
        helper.make_node("Sub", ["mean", "half"], ["centred"]),
        helper.make_node("Relu", ["centred"], ["atypicality"], name="later"),
        helper.make_node("Sigmoid", ["centred"], ["probability"]),
    ]
    for index, node in enumerate(nodes):
        node.name = node.name or f"node_{index}"
    constants = [
        numpy_helper.from_array(np.float32(1 / 255), "scale"),
        numpy_helper.from_array(np.float32(0.4), "half"),
        numpy_helper.from_array(np.array([1]), "channel"),
        numpy_helper.from_array(np.array([1, 2, 3]), "all"),
        numpy_helper.from_array(rng.random((4, 1, 3, 3), np.float32) / 5, "kernel"),
    ]
    shapes = {"probability": ["n"], "evidence": ["n", 32, 32], "atypicality": ["n"]}
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", 32, 32, 1])
    graph = helper.make_graph(nodes, "several", [pixels], outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize("kind", ["int8", "float16"])
def test_only_the_convolutional_body_changes_and_every_output_stays(kind):
    graph, films = several_outputs(), draw_films(30)
    before = graph.SerializeToString()
    small = quantize_int8(graph, films) if kind == "int8" else convert_float16(graph)
    assert graph.SerializeToString() == before, "the graph that was given was changed"
    onnx.checker.check_model(small, full_check=True)
    assert list(small.graph.input) == list(graph.graph.input)
    assert [(o.name, o.type.tensor_type.elem_type) for o in small.graph.output] == [
        (o.name, o.type.tensor_type.elem_type) for o in graph.graph.output
    ]
    stored = {TensorProto.INT8} if kind == "int8" else {TensorProto.FLOAT16}
    kernels = [w for w in small.graph.initializer if list(w.dims) == [4, 1, 3, 3]]
    assert {w.data_type for w in kernels} == stored
    entries = [
        node
        for node in small.graph.node
        if (node.op_type == "QuantizeLinear" and node.input[0] in {"scaled", "centred"})
        or (node.op_type == "Cast" and node.attribute[0].i == TensorProto.FLOAT16)
    ]
    assert [node.input[0].split("_")[0] for node in entries] == ["scaled"], "into the body only"

    def answer(model):
        session = ort.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        return session.run(["probability", "evidence", "atypicality"], {"pixels": films})

    for small_answer, whole in zip(answer(small), answer(graph), strict=True):
        assert small_answer.dtype == np.float32
        assert small_answer == pytest.approx(whole, abs=0.02)
    if kind == "float16":
        assert len(np.unique(answer(small)[0])) == 30, "rounded to halves between float32 steps"


def test_int8_weights_leave_a_bit_free_for_cpus_without_vnni(run):
    from exporter.convert import convert

    graph = quantize_int8(convert(run.model, run.card), run.calibration.pixels)
    weights = [
        numpy_helper.to_array(w)
        for w in graph.graph.initializer
        if w.data_type == TensorProto.INT8 and len(w.dims) == 4
    ]
    assert len(weights) == 2
    assert all(np.abs(w.astype(int)).max() <= 64 for w in weights)
    assert 2 * 255 * 64 < 2**15


@pytest.mark.parametrize("kind", ["int8", "float16"])
def test_a_smaller_file_is_judged_says_so_and_passes_its_self_test(run, kind, tmp_path, capsys):
    done = export_model(run, tmp_path, kind)
    assert done.path == tmp_path / "small.onnx"
    classifier = Classifier.load(done.path, "cpu")
    exact = 1e-6 if kind == "int8" else 1e-3  # a CPU leaves out some of the rounding to halves
    assert classifier.self_test() < exact
    precision = classifier.card.precision
    assert (precision.kind, precision.images) == (kind, 80)
    assert precision.calibrated_on == ("40 training films" if kind == "int8" else "")
    found = classifier.predict(run.validation.pixels).probability
    threshold = run.card.threshold.value
    assert classifier.card.threshold == run.card.threshold
    assert classifier.card.calibration == run.card.calibration
    flips = run.validation.keys[(found >= threshold) != (run.predictions >= threshold)]
    assert precision.flips == flips.tolist()
    assert 0 < precision.largest_difference < (0.1 if kind == "int8" else 0.002)
    assert precision.largest_difference == pytest.approx(
        np.abs(found - run.predictions).max(), abs=10 * exact
    )
    assert precision.auc_difference >= -0.002
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["models"]["small"]["precision"] == kind
    models_command.main(["show", str(done.path)], standalone_mode=False)
    assert f"Convolutions in {kind}" in capsys.readouterr().out


def test_int8_that_loses_too_much_is_refused_and_the_float32_file_stays(blind, tmp_path):
    kept = export_model(blind, tmp_path)
    before = kept.path.read_bytes(), (tmp_path / "manifest.json").read_bytes()
    assert kept.precision is None
    with pytest.raises(PrecisionRefused, match=r"AUC falls from 1\.0000 to 0\.\d+ \(by at most"):
        export_model(blind, tmp_path, "int8")
    assert (kept.path.read_bytes(), (tmp_path / "manifest.json").read_bytes()) == before
    assert {path.name for path in tmp_path.iterdir()} == {
        INTERNAL_FOLDER,
        "small.onnx",
        "small.md",
        "manifest.json",
    }


def test_float16_that_overflows_is_refused(blind, tmp_path):
    with pytest.raises(PrecisionRefused, match="some of its scores are not finite numbers"):
        export_model(blind, tmp_path, "float16")
    assert not tmp_path.joinpath("small.onnx").exists()


def test_labels_that_change_are_listed_and_too_many_are_refused(run):
    threshold, found = run.card.threshold.value, run.predictions.copy()
    nearest = np.argsort(np.abs(found - threshold))
    found[nearest[0]] = 2 * threshold - found[nearest[0]]  # the same distance, on the other side
    one = check_precision("int8", found, run)
    assert one.flips == [run.validation.keys[nearest[0]]]
    assert one.images == 80
    found[nearest[1]] = 2 * threshold - found[nearest[1]]
    with pytest.raises(PrecisionRefused) as refused:
        check_precision("int8", found, run)
    names = ", ".join(sorted(run.validation.keys[nearest[:2]]))
    assert f"2 labels change (at most 2%): {names}" in str(refused.value)


def test_float16_may_not_move_a_probability_far(run):
    found = run.predictions.copy()
    found[np.argmax(found)] -= 0.011
    assert check_precision("int8", found, run).largest_difference == pytest.approx(0.011)
    with pytest.raises(PrecisionRefused, match=r"a probability is off by 0\.0110 \(at most 0\.01"):
        check_precision("float16", found, run)


def test_one_class_alone_cannot_be_judged_by(run):
    films = replace(run.validation, labels=np.ones_like(run.validation.labels))
    with pytest.raises(ConversionError, match="images of both classes"):
        check_precision("int8", run.predictions, replace(run, validation=films))


def test_the_first_format_that_passes_has_the_plain_name(run, blind, tmp_path, capsys):
    folder = save_run(tmp_path / "run", make_network())
    output = tmp_path / "models"
    options = ["--precision", "int8", "--precision", "float32", "--precision", "float16"]
    code = export.main([str(folder), "-o", str(output), *options], standalone_mode=False)
    assert code == 0
    names = {"small.onnx": "int8", "small.float32.onnx": None, "small.float16.onnx": "float16"}
    cards = {name: Classifier.load(output / name, "cpu").card for name in names}
    assert {n: c.precision and c.precision.kind for n, c in cards.items()} == names
    assert {card.name for card in cards.values()} == {"small", "small.float32", "small.float16"}
    assert len(json.loads((output / "manifest.json").read_text())["models"]) == 3
    assert "int8, on 80 validation images: AUC" in capsys.readouterr().out

    folder = save_run(tmp_path / "blind", make_network(blinding_weights()))
    code = export.main(
        [str(folder), "-o", str(tmp_path / "other"), *options[:4]], standalone_mode=False
    )
    assert code == 3
    assert "small as int8: Refused: on 80 validation images AUC falls" in capsys.readouterr().err
    assert Classifier.load(tmp_path / "other" / "small.onnx", "cpu").card.precision is None


def test_a_network_without_convolutions_is_refused():
    from exporter.convert import convert
    from tests.tiny_model import make_tiny_card
    from trainer.model.heads import build_inference_model

    graph = convert(
        build_inference_model(BUILDERS["mlp"](1, augment=False), None, flip_tta=False),
        make_tiny_card("mlp", size_px=SIZE_PX),
    )
    for smaller in (
        lambda: quantize_int8(graph, draw_films(4, SIZE_PX)),
        lambda: convert_float16(graph),
    ):
        with pytest.raises(PrecisionRefused, match="the network has no convolution"):
            smaller()


def test_a_run_folder_without_its_films_says_what_to_do(tmp_path):
    folder = save_run(tmp_path / "run", make_network())
    (folder / "films.npz").write_bytes(b"PK broken")
    with pytest.raises(
        ConversionError, match=r"cannot be read.*Repeat the same `cxr train` command"
    ):
        read_run(folder)
    (folder / "films.npz").unlink()
    with pytest.raises(ConversionError, match=r"cannot be read.*films\.npz"):
        read_run(folder)


def test_parity_films_span_the_answers_and_are_filled_up_from_training(run):
    assert len(run.parity_images) == 96
    assert len(run.validation) == 80
    assert {run.predictions.min(), run.predictions.max()} <= set(run.parity_probabilities)


@pytest.mark.parametrize(("weights", "code", "kind"), [("usual", 0, "int8"), ("blinding", 3, None)])
def test_a_format_wished_for_one_model_falls_back_where_it_is_refused(
    tmp_path, weights, code, kind
):
    network = make_network(blinding_weights() if weights == "blinding" else None)
    save_run(tmp_path / "runs", network)
    wishes = ["--precision", "float32", "--precision", "small=int8"]
    done = CliRunner().invoke(
        export,
        [str(tmp_path / "runs"), "-o", str(tmp_path / "models"), *wishes],
        standalone_mode=False,
    )
    assert done.exception is None, done.exception
    assert done.return_value == code
    assert [path.name for path in (tmp_path / "models").glob("*.onnx")] == ["small.onnx"]
    found = Classifier.load(tmp_path / "models" / "small.onnx").card.precision
    assert (found.kind if found else None) == kind


def test_a_format_that_is_not_known():
    wrong = CliRunner().invoke(export, ["runs", "-o", "models", "--precision", "small=int4"])
    assert wrong.exit_code == 2
    assert "expected one of float32, float16, int8, found int4" in wrong.output
