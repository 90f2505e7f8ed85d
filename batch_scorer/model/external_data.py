"""Find tensors that an ONNX file does not hold itself but names another file for.

The SHA-256 of a model is that of its own file: with other bytes in the other file it would give
other answers under the same hash, and rows of before would be taken for its own.

Source: onnx.proto3 of ONNX; its documentation, "External Data".
"""

from __future__ import annotations

from batch_scorer.model.protobuf import LENGTH_DELIMITED, read_fields

# Where each kind of message may hold others that lead to a tensor, by number of the field.
_NESTED_MESSAGES: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "node": {5: "attribute"},
    "attribute": {
        **dict.fromkeys((5, 10), "tensor"),
        **dict.fromkeys((6, 11), "graph"),
        **dict.fromkeys((22, 23), "sparse tensor"),
    },
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_DATA_LOCATION = 14
"""The field of a tensor that is 1 where its data lie in another file."""


def has_external_data(model: bytes) -> bool:
    """Whether any tensor of an ONNX file, used or not, lies outside it. False for no ONNX file."""
    waiting = [("model", slice(0, len(model)))]
    try:
        while waiting:
            kind, place = waiting.pop()
            for field in read_fields(model, place):
                if kind == "tensor" and field.name == _DATA_LOCATION and field.number:
                    return True
                part = _NESTED_MESSAGES[kind].get(field.name)
                if part and field.kind == LENGTH_DELIMITED:
                    waiting.append((part, field.place))
    except (IndexError, ValueError):  # ONNX Runtime says what is wrong with it
        return False
    return False
