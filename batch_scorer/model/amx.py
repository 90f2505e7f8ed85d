"""Let a CPU that multiplies whole tiles of bytes (Intel AMX) do so in int8 convolutions.

ONNX Runtime 1.32 gives a convolution whose weights have the zero point 0 to a kernel for vectors,
even where tiles are several times as fast; with any other zero point it makes matrix products of
it, and those use the tiles. A stored weight stands for (weight - zero point) * scale: where both
are raised by one, every sum of integers stays what it was, and so does every answer, to the last
bit. Without tiles the kernel for vectors is the faster one.

Of the model file, a protobuf message, only the fields are read that this needs.

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
"""The highest weight that can be raised by one."""
_INT8 = 3
# Numbers of fields in onnx.proto3: of the model, its graph, a node, a tensor.
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
        A model that gives the same answers. Weights that use all eight bits, or that anything else
        uses too, stay as they are, and so does what is no ONNX file.
    """
    try:
        nodes, weights, zeros = _read_graph(model)
        pairs = list(_find_conv_weights(nodes))
    except (IndexError, KeyError, ValueError):  # ONNX Runtime says what is wrong with it
        return model
    raised = np.frombuffer(model, np.int8).copy()
    for name, zero_points in pairs:
        if name in weights and zero_points in zeros:
            numbers = raised[weights[name]]
            if numbers.max(initial=0) <= _MAX_SHIFTABLE_WEIGHT:
                numbers += 1
                raised[zeros[zero_points]] += 1
    return raised.tobytes()


def _find_conv_weights(nodes: list[_Node]) -> Iterator[tuple[bytes, bytes]]:
    """Names of the convolutions' weights and of their zero points that nothing else uses."""
    uses = Counter(name for node in nodes for name in node.inputs)
    as_weights = Counter(node.inputs[1] for node in nodes if node.op_type == b"Conv")
    for node in nodes:
        if node.op_type == b"DequantizeLinear" and len(node.inputs) == 3:  # noqa: PLR2004
            (weights, _, zero_point), (output, *_) = node.inputs, node.outputs
            alone = uses[weights] == uses[zero_point] == 1
            if alone and uses[output] == as_weights[output] > 0:
                yield weights, zero_point


def _read_graph(model: bytes) -> tuple[list[_Node], dict[bytes, slice], dict[bytes, slice]]:
    """The nodes of the graph, and where int8 tensors lie: those stored as bytes, and zeros.

    Zeros may also be stored as numbers of any length: each takes one byte, too.

    Raises:
        IndexError, ValueError: It is no ONNX file, or not a whole one.
    """
    nodes: list[_Node] = []
    stored, zeros = {}, {}
    (graph,) = (
        field.place for field in read_fields(model, slice(len(model))) if field.name == _GRAPH
    )
    for field in read_fields(model, graph):
        parts = list(read_fields(model, field.place)) if field.name in {_NODE, _INITIALIZER} else []
        if field.name == _NODE:
            inputs, outputs, (operation,) = (
                [model[part.place] for part in parts if part.name == name]
                for name in (_INPUT, _OUTPUT, _OP_TYPE)
            )
            nodes.append(_Node(operation, inputs, outputs))
        elif any(part.name == _DATA_TYPE and part.number == _INT8 for part in parts):
            tensor = {part.name: part.place for part in parts}
            name = model[tensor[_NAME]]
            if _RAW_DATA in tensor:
                stored[name] = tensor[_RAW_DATA]
            place = tensor.get(_RAW_DATA, tensor.get(_INT32_DATA, slice(0)))
            if model[place] and not any(model[place]):
                zeros[name] = place
    return nodes, stored, zeros
