"""Detection of ONNX files that keep tensors in another file.

The SHA-256 of a model covers its own file only. If the other file changed, the model would give
other scores under the same hash, and earlier rows would wrongly count as its own.

Source: onnx.proto3 of ONNX; its documentation, "External Data".
"""

from __future__ import annotations

from batch_scorer.model.protobuf import LENGTH_DELIMITED, read_fields

# For each message that may lead to a tensor: its nested messages by field number.
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
"""The field of a tensor that is 1 if its data are in another file."""


def has_external_data(model: bytes) -> bool:
    """Return whether any tensor of an ONNX file, used or not, is in another file.

    Returns:
        False also if the bytes are not an ONNX file.
    """
    pending = [("model", slice(0, len(model)))]
    try:
        while pending:
            message, location = pending.pop()
            for field in read_fields(model, location):
                if message == "tensor" and field.number == _DATA_LOCATION and field.value:
                    return True
                nested = _NESTED_MESSAGES[message].get(field.number)
                if nested and field.wire_type == LENGTH_DELIMITED:
                    pending.append((nested, field.location))
    except (IndexError, ValueError):  # ONNX Runtime reports the damage
        return False
    return False
