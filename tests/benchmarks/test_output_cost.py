"""The stripped graph: the same probability, and nothing that only other outputs need."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from batch_scorer.model.card import CARD_KEY, encode_card
from batch_scorer.model.onnx_runtime import ort
from benchmarks.output_cost import extract_outputs, main
from tests.tiny_model import make_tiny_card


def make_model(squarings: int) -> onnx.ModelProto:
    """A probability by the mean, and an atypicality by that many products of 512 by 512."""
    films = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", 32, 32, 1])
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"])
        for name in ("probability", "atypicality")
    ]
    nodes = [
        helper.make_node("Cast", ["pixels"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "scale"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["probability"]),
        helper.make_node("ReduceMean", ["mean", "first"], ["whole"], keepdims=0),
        helper.make_node("Mul", ["square", "whole"], ["product_0"]),
    ]
    for index in range(squarings):
        product = f"product_{index}"
        nodes.append(helper.make_node("MatMul", [product, "square"], [f"product_{index + 1}"]))
    last = f"product_{squarings}"
    nodes += [
        helper.make_node("ReduceMean", [last, "both"], ["strange"], keepdims=0),
        helper.make_node("Add", ["mean", "strange"], ["atypicality"]),
    ]
    weights = [
        numpy_helper.from_array(np.array([1, 2, 3]), "axes"),
        numpy_helper.from_array(np.array([0]), "first"),
        numpy_helper.from_array(np.array([0, 1]), "both"),
        numpy_helper.from_array(np.float32(0.01), "scale"),
        numpy_helper.from_array(np.full((512, 512), 1e-3, np.float32), "square"),
    ]
    graph = helper.make_graph(nodes, "two", [films], outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {CARD_KEY: encode_card(make_tiny_card())})
    return model


def test_the_stripped_graph_has_one_output_the_same_answers_and_no_unused_parts():
    model = make_model(3)
    before = model.SerializeToString()
    stripped = extract_outputs(model, ["probability"])
    onnx.checker.check_model(stripped, full_check=True)
    assert [output.name for output in stripped.graph.output] == ["probability"]
    assert [node.op_type for node in stripped.graph.node] == [
        "Cast",
        "ReduceMean",
        "Mul",
        "Sigmoid",
    ]
    assert {weight.name for weight in stripped.graph.initializer} == {"axes", "scale"}
    assert model.SerializeToString() == before, "the model that was given was changed"
    films = np.random.default_rng(0).integers(256, size=(5, 32, 32, 1), dtype=np.uint8)
    whole, part = (
        ort.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            ["probability"], {"pixels": films}
        )[0]
        for m in (model, stripped)
    )
    assert np.array_equal(whole, part)


def test_an_output_that_costs_too_much_is_told_and_ends_with_exit_code_1(tmp_path):
    onnx.save(make_model(20), tmp_path / "slow.onnx")
    result = CliRunner().invoke(main, [str(tmp_path), "--batch-size", "2", "--turns", "9"])
    assert result.exit_code == 1, result.output
    assert "missed by slow.onnx" in result.output
    lines = [line.split() for line in result.output.splitlines() if line.startswith("slow.onnx")]
    assert [line[1] for line in lines] == ["probability", "probability,", "all"]
    assert float(lines[0][-1]) == 1.0
    assert float(lines[2][-1]) > 2


def test_files_without_further_outputs_are_refused(tiny_model):
    result = CliRunner().invoke(main, [str(tiny_model.parent)])
    assert result.exit_code == 2
    assert "found none: export networks of this release" in " ".join(result.output.split())


SCRIPTS = (
    *("output_cost", "ood_rejection"),
    *("cold_start", "decoder_cost", "end_to_end", "memory", "keras_baseline", "report_scale"),
)


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_has_an_example_in_its_help(name):
    import importlib

    script = importlib.import_module(f"benchmarks.{name}")
    result = CliRunner().invoke(script.main, ["--help"])
    assert result.exit_code == 0
    assert f"Example: python benchmarks/{name}.py" in result.output
