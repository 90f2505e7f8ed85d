"""Read the fields of a Protocol Buffers message without its schema.

Source: Protocol Buffers' documentation, "Encoding".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

# Wire types, and the size in bytes of those with a fixed size.
VARINT, LENGTH_DELIMITED = 0, 2
_FIXED_BYTES = {1: 8, 5: 4}
_MAX_VARINT_BYTES = 10
_UINT32 = 0xFFFF_FFFF


class Field(NamedTuple):
    """A field of a message: its integer value, or the location of its bytes in the file."""

    number: int
    wire_type: int
    value: int
    location: slice


def read_fields(data: bytes, message: slice) -> Iterator[Field]:
    """Yield the fields of a message in order.

    Args:
        data: The whole file.
        message: The location of the message in ``data``.

    Raises:
        IndexError, ValueError: The message is damaged or incomplete.
    """
    offset = message.start or 0
    while offset < message.stop:
        key, offset = _read_varint(data, offset)
        key &= _UINT32  # as Google's reader does
        number, wire_type = key >> 3, key & 7
        value, size = 0, _FIXED_BYTES.get(wire_type, 0)
        if wire_type in {VARINT, LENGTH_DELIMITED}:
            value, offset = _read_varint(data, offset)
            size = value if wire_type == LENGTH_DELIMITED else 0
        if offset + size > message.stop:
            raise ValueError
        yield Field(number, wire_type, value, slice(offset, offset + size))
        offset += size


def _read_varint(data: bytes, start: int) -> tuple[int, int]:
    """Read a varint (lowest seven bits first) and the offset after it."""
    value = 0
    for offset in range(start, start + _MAX_VARINT_BYTES):
        byte = data[offset]
        value |= (byte & 127) << 7 * (offset - start)
        if byte < 128:  # noqa: PLR2004
            return value, offset + 1
    raise ValueError
