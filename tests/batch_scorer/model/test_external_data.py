"""Weights in another file: no hash covers them, so no model may have any, wherever they lie."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from batch_scorer.errors import ModelFileError
from batch_scorer.model import session
from batch_scorer.model.classifier import Classifier, find_model_file, list_bundled_models
from batch_scorer.model.external_data import has_external_data
from tests.tiny_model import save_tiny_model

SLOPE = np.array(8.0, np.float32).tobytes()
FILE = "slope.bin"


def outside(location=FILE, name="slope", dims=()):
    """A float32 tensor whose number lies in another file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": "4"}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def value_of(tensor):
    return onnx.AttributeProto(name="value", type=onnx.AttributeProto.TENSOR, t=tensor)


def in_initializer(graph, tensor):
    graph.initializer.append(tensor)


def in_constant(graph, tensor):
    tensor.name = ""
    node = helper.make_node("Constant", [], ["slope"])
    node.attribute.append(value_of(tensor))
    graph.node.insert(0, node)


def in_another_attribute(graph, tensor):
    tensor.name, tensor.dims[:] = "", [1]
    graph.initializer.append(helper.make_tensor("empty", TensorProto.INT64, [0], []))
    node = helper.make_node("ConstantOfShape", ["empty"], ["slope"])
    node.attribute.append(value_of(tensor))
    graph.node.insert(0, node)


def in_branch(graph, tensor):
    tensor.name = "inner"
    out = [helper.make_tensor_value_info("chosen", TensorProto.FLOAT, [])]
    branch = helper.make_graph(
        [helper.make_node("Identity", ["inner"], ["chosen"])], "branch", [], out, [tensor]
    )
    graph.initializer.append(helper.make_tensor("true", TensorProto.BOOL, [], [True]))
    node = helper.make_node("If", ["true"], ["slope"], then_branch=branch, else_branch=branch)
    graph.node.insert(0, node)


def in_sparse(graph, tensor):
    tensor.name, tensor.dims[:] = "many", [1]
    place = helper.make_tensor("place", TensorProto.INT64, [1], [0])
    graph.sparse_initializer.append(onnx.SparseTensorProto(values=tensor, indices=place, dims=[1]))
    graph.initializer.append(helper.make_tensor("scalar", TensorProto.INT64, [0], []))
    graph.node.insert(0, helper.make_node("Reshape", ["many", "scalar"], ["slope"]))


def in_nothing_that_is_used(graph, tensor):
    tensor.name = "unused"
    graph.initializer.extend([helper.make_tensor("slope", TensorProto.FLOAT, [], [8.0]), tensor])


KINDS = [
    in_initializer,
    in_constant,
    in_another_attribute,
    in_branch,
    in_sparse,
    in_nothing_that_is_used,
]


def save_with(path, kind, location=FILE):
    """The tiny model, its slope in another file."""
    model = onnx.load(save_tiny_model(path))
    kept = [tensor for tensor in model.graph.initializer if tensor.name != "slope"]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    kind(model.graph, outside(location))
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_a_tensor_in_another_file_is_refused_wherever_the_model_keeps_it(
    tmp_path, monkeypatch, kind
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / FILE).write_bytes(SLOPE)
    with pytest.raises(ModelFileError, match=r"another file, which its SHA-256 .*Save it as one"):
        Classifier.load(save_with(tmp_path / "m.onnx", kind), "cpu")


def test_a_function_s_tensor_in_another_file_is_found(tmp_path):
    model = onnx.load(save_tiny_model(tmp_path / "m.onnx"))
    node = helper.make_node("Constant", [], ["slope"])
    node.attribute.append(value_of(outside(name="")))
    opset = [helper.make_opsetid("", 18)]
    model.functions.append(helper.make_function("own", "Slope", [], ["slope"], [node], opset))
    assert has_external_data(model.SerializeToString())


@pytest.mark.parametrize("location", ["here", "absolute", "link", "above", "missing"])
@pytest.mark.parametrize("kind", KINDS)
def test_onnx_runtime_itself_reads_no_other_file(tmp_path, monkeypatch, kind, location):
    """What the search for such tensors might miss is refused all the same, or is not read."""
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(session, "has_external_data", lambda data: False)
    for place in (folder, tmp_path) if location != "missing" else ():
        (place / FILE).write_bytes(SLOPE)
    (folder / "link.bin").symlink_to(tmp_path / FILE)
    named = {"absolute": str(folder / FILE), "link": "link.bin", "above": f"../{FILE}"}
    path = save_with(folder / "m.onnx", kind, named.get(location, FILE))
    if kind is in_nothing_that_is_used:
        assert Classifier.load(path, "cpu").self_test() <= 1e-3
    else:
        with pytest.raises(ModelFileError, match="ONNX Runtime cannot run"):
            Classifier.load(path, "cpu")


def test_a_tag_written_longer_than_it_need_be_hides_nothing():
    tensor = b"\x70\x01"  # data_location = EXTERNAL
    same = b"\xf0\x80\x80\x80\x70\x01"  # five bytes, with a bit that a reader of 32 bits drops
    for data in (tensor, same):
        graph = b"\x2a" + bytes([len(data)]) + data
        assert has_external_data(b"\x3a" + bytes([len(graph)]) + graph)


@pytest.mark.parametrize("name", list_bundled_models())
def test_the_bundled_models_are_whole(name):
    assert not has_external_data(find_model_file(name).read_bytes())


@pytest.mark.parametrize("data", [b"", b"not a model", b"\x3a\xff", b"\xff" * 20])
def test_what_is_no_model_has_no_such_data(data):
    assert not has_external_data(data)
