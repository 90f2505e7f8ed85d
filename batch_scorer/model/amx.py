"""Int8 convolutions on Intel AMX, through a shift of the weights' zero points.

ONNX Runtime 1.32 runs a convolution whose weights have the zero point 0 on a vector kernel, even if
AMX tiles are several times as fast. With any other zero point it computes matrix products, which
use the tiles. A stored weight means (weight - zero point) * scale. If both are raised by one, every
integer sum is unchanged, and so is every output, to the last bit. Without AMX the vector kernel is
faster.

The model file is a protobuf message; only the fields needed here are read.

Source: onnx.proto3 of ONNX.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from batch_scorer.model.protobuf import read_fields

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_SHIFTABLE_WEIGHT = 126
"""The highest int8 weight that can be raised by one."""
_INT8 = 3
# Field numbers in onnx.proto3: of the model, its graph, a node and a tensor.
_GRAPH = 7
_NODE, _INITIALIZER = 1, 5
_INPUT, _OUTPUT, _OP_TYPE = 1, 2, 4
_DATA_TYPE, _INT32_DATA, _NAME, _RAW_DATA = 2, 5, 8, 9


class _Node(NamedTuple):
    op_type: bytes
    inputs: list[bytes]
    outputs: list[bytes]


def shift_zero_points(model: bytes) -> bytes:
    """Raise the int8 weights of each convolution, and their zero points, by one.

    Args:
        model: An ONNX file.

    Returns:
        A model with the same outputs. Weights that use all eight bits or that other nodes share are
        unchanged, and so is a file that is not ONNX.
    """
    try:
        nodes, weights, zeros = _read_graph(model)
        pairs = list(_find_conv_weights(nodes))
    except (IndexError, KeyError, ValueError):  # ONNX Runtime reports the damage
        return model
    shifted = np.frombuffer(model, np.int8).copy()
    for name, zero_points in pairs:
        if name in weights and zero_points in zeros:
            values = shifted[weights[name]]
            if values.max(initial=0) <= _MAX_SHIFTABLE_WEIGHT:
                values += 1
                shifted[zeros[zero_points]] += 1
    return shifted.tobytes()


def _find_conv_weights(nodes: list[_Node]) -> Iterator[tuple[bytes, bytes]]:
    """Yield the names of convolution weights and their zero points that only one node uses."""
    uses = Counter(name for node in nodes for name in node.inputs)
    as_weights = Counter(node.inputs[1] for node in nodes if node.op_type == b"Conv")
    for node in nodes:
        if node.op_type == b"DequantizeLinear" and len(node.inputs) == 3:  # noqa: PLR2004
            (weights, _, zero_point), (output, *_) = node.inputs, node.outputs
            is_exclusive = uses[weights] == uses[zero_point] == 1
            if is_exclusive and uses[output] == as_weights[output] > 0:
                yield weights, zero_point


def _read_graph(model: bytes) -> tuple[list[_Node], dict[bytes, slice], dict[bytes, slice]]:
    """Read the nodes of the graph and the locations of its int8 tensors.

    Returns:
        The nodes; the locations of tensors stored as bytes; the locations of zero points, which are
        all zeros. These may also be stored as varints, of one byte each.

    Raises:
        IndexError, ValueError: The file is not ONNX, or is incomplete.
    """
    nodes: list[_Node] = []
    stored, zeros = {}, {}
    (graph,) = (
        field.location for field in read_fields(model, slice(len(model))) if field.number == _GRAPH
    )
    for field in read_fields(model, graph):
        parts = (
            list(read_fields(model, field.location))
            if field.number in {_NODE, _INITIALIZER}
            else []
        )
        if field.number == _NODE:
            inputs, outputs, (operation,) = (
                [model[part.location] for part in parts if part.number == number]
                for number in (_INPUT, _OUTPUT, _OP_TYPE)
            )
            nodes.append(_Node(operation, inputs, outputs))
        elif any(part.number == _DATA_TYPE and part.value == _INT8 for part in parts):
            tensor = {part.number: part.location for part in parts}
            name = model[tensor[_NAME]]
            if _RAW_DATA in tensor:
                stored[name] = tensor[_RAW_DATA]
            location = tensor.get(_RAW_DATA, tensor.get(_INT32_DATA, slice(0)))
            if model[location] and not any(model[location]):
                zeros[name] = location
    return nodes, stored, zeros
