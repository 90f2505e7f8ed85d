"""Faster operations for a converted graph, with bit-identical results.

tf2onnx output is correct, but some of its operations are slow in ONNX Runtime 1.32 on CPUs:

- A mirrored image becomes two Transposes around a ReverseSequence. A Slice with step -1 is about
  twenty times as fast.
- Bytes become float32 before a mere reshape, and ONNX Runtime converts them to bytes and back
  around every Reshape. Reshaped as bytes, they are converted once.
- ``Rescaling`` adds an offset of 0, which hides that the values are only reshaped. It is removed.
- If the last axis has size one, adding or multiplying a scalar costs a call per element. With as
  many axes as the other operand, it is one call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

_BEFORE_FIRST = -(2**31)
"""An end index before the first element of an axis, for a Slice with step -1."""
_ELEMENTWISE_OPS = {"Add", "Sub", "Mul", "Div"}


def optimize_graph(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Replace slow operations.

    Args:
        graph: As converted or quantised; it is modified.

    Returns:
        The same graph, with bit-identical outputs.
    """
    replace_casts_with_dequantize(graph)
    _replace_reverse_with_slice(graph)
    _remove_zero_additions(graph)
    _reshape_before_scaling(graph)
    _expand_scalars(graph)
    _remove_unused(graph)
    return graph


def _replace_reverse_with_slice(graph: onnx.ModelProto) -> None:
    """Replace each reversal by a Slice. tf2onnx always reverses the whole axis."""
    for node in graph.graph.node:
        if node.op_type == "ReverseSequence":
            axis = next((a.i for a in node.attribute if a.name == "time_axis"), 0)
            steps = {"starts": -1, "ends": _BEFORE_FIRST, "axes": axis, "steps": -1}
            names = [_add_constant(graph, f"{node.name}_{name}", [n]) for name, n in steps.items()]
            node.CopyFrom(
                helper.make_node("Slice", [node.input[0], *names], node.output, name=node.name)
            )


def _remove_zero_additions(graph: onnx.ModelProto) -> None:
    """Remove additions of 0 to scaled bytes; safe because none of these is -0."""
    nodes, axes = graph.graph.node, _count_axes(graph)
    zeros = {
        weight.name: len(weight.dims)
        for weight in graph.graph.initializer
        if set(weight.dims) <= {1} and not numpy_helper.to_array(weight)
    }
    scaled = {  # without a zero point
        n.output[0] for n in nodes if n.op_type == "DequantizeLinear" and not n.input[2:]
    }
    outputs = {output.name for output in graph.graph.output}
    for addition in [n for n in nodes if n.op_type == "Add" and outputs.isdisjoint(n.output)]:
        source = next((name for name in addition.input if name in scaled), "")
        zero = next((name for name in addition.input if name in zeros), "")
        if source and zero and zeros[zero] <= axes.get(source, 0):
            for user in nodes:
                names = [source if n == addition.output[0] else n for n in user.input]
                user.input[:] = names
            nodes.remove(addition)


def _reshape_before_scaling(graph: onnx.ModelProto) -> None:
    """Move a scale shared by all bytes behind the operations that only change the shape."""
    nodes = graph.graph.node
    single = {weight.name for weight in graph.graph.initializer if not weight.dims}
    waiting = [n for n in nodes if n.op_type == "DequantizeLinear" and single >= {*n.input[1:]}]
    while waiting:
        scaling = waiting.pop()
        source, result = scaling.input[0], scaling.output[0]
        users = [node for node in nodes if result in node.input]
        if not users or any(
            user.op_type not in {"Reshape", "Transpose", "Shape"} or user.input[0] != result
            for user in users
        ):
            continue
        nodes.remove(scaling)
        for user in users:
            user.input[0] = source
            if user.op_type != "Shape":
                moved = helper.make_node(
                    scaling.op_type,
                    [f"{user.output[0]}_bytes", *scaling.input[1:]],
                    list(user.output),
                    name=f"{user.name}_scaled",
                )
                user.output[0] = moved.input[0]
                nodes.insert(list(nodes).index(user) + 1, moved)
                waiting.append(nodes[list(nodes).index(moved)])


def _expand_scalars(graph: onnx.ModelProto) -> None:
    """Give a scalar constant as many axes as its other operand."""
    axes = _count_axes(graph)
    numbers = {w.name: w for w in graph.graph.initializer if list(w.dims) in ([], [1])}
    for node in graph.graph.node:
        constant = [index for index, name in enumerate(node.input) if name in numbers]
        if node.op_type not in _ELEMENTWISE_OPS or len(constant) != 1:
            continue
        index = constant[0]
        number, rank = node.input[index], axes.get(node.input[1 - index], 0)
        if rank > 1:
            values = numpy_helper.to_array(numbers[number]).reshape([1] * rank)
            node.input[index] = _add_constant(graph, f"{number}_{rank}_axes", values)


def _count_axes(graph: onnx.ModelProto) -> dict[str, int]:
    """Count the axes of each intermediate tensor, if inferable."""
    inferred = onnx.shape_inference.infer_shapes(graph).graph
    return {v.name: len(v.type.tensor_type.shape.dim) for v in inferred.value_info}


def _remove_unused(graph: onnx.ModelProto) -> None:
    """Remove nodes and weights that no output needs, and recorded shapes and types."""
    needed = {output.name for output in graph.graph.output}
    for node in reversed(list(graph.graph.node)):
        if needed.isdisjoint(node.output):
            graph.graph.node.remove(node)
        else:
            needed.update(node.input)
    for weight in list(graph.graph.initializer):
        if weight.name not in needed:
            graph.graph.initializer.remove(weight)
    del graph.graph.value_info[:]


def _add_constant(graph: onnx.ModelProto, name: str, values: ArrayLike) -> str:
    """Add a constant unless it exists, and return its name."""
    if all(weight.name != name for weight in graph.graph.initializer):
        graph.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
    return name


def replace_casts_with_dequantize(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Replace each Cast of bytes to float32 that is followed only by a constant scale.

    Args:
        graph: As converted; it is modified.

    Returns:
        The same graph, with bit-identical outputs.
    """
    nodes = graph.graph.node
    weights = {weight.name: weight for weight in graph.graph.initializer}
    bytes_named = _find_byte_tensors(graph)
    for cast in [node for node in nodes if node.op_type == "Cast"]:
        users = [node for node in nodes if cast.output[0] in node.input]
        if cast.input[0] not in bytes_named or not users:  # a Cast without users is an output
            continue
        if not all(_is_scaling(user, weights) for user in users):
            continue
        for user in users:
            scale = next(name for name in user.input if name in weights)
            user.CopyFrom(
                helper.make_node(
                    "DequantizeLinear", [cast.input[0], scale], [user.output[0]], name=user.name
                )
            )
        nodes.remove(cast)
    return graph


def _find_byte_tensors(graph: onnx.ModelProto) -> set[str]:
    """Find the tensors of bytes: the input images, and reordered copies of them."""
    found = {
        image.name
        for image in graph.graph.input
        if image.type.tensor_type.elem_type == TensorProto.UINT8
    }
    for node in graph.graph.node:  # in the order of computation, as ONNX demands
        if node.op_type in {"Transpose", "Reshape", "ReverseSequence"} and node.input[0] in found:
            found.update(node.output)
    return found


def _is_scaling(node: onnx.NodeProto, weights: dict[str, onnx.TensorProto]) -> bool:
    """Return True if the node multiplies its input by one constant float32."""
    return node.op_type == "Mul" and any(
        name in weights and not weights[name].dims and weights[name].data_type == TensorProto.FLOAT
        for name in node.input
    )
