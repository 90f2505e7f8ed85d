"""Read the fields of a Protocol Buffers message without its schema.

Source: Protocol Buffers' documentation, "Encoding".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

# Kinds of fields, and the bytes that numbers of a fixed size have.
VARINT, LENGTH_DELIMITED = 0, 2
_FIXED_BYTES = {1: 8, 5: 4}
_MAX_VARINT_BYTES = 10
_UINT32 = 0xFFFF_FFFF


class Field(NamedTuple):
    """A field of a message: a number, or bytes and where they lie in the file."""

    name: int
    kind: int
    number: int
    place: slice


def read_fields(data: bytes, message: slice) -> Iterator[Field]:
    """The fields of a message, in order.

    Raises:
        IndexError, ValueError: It is no message, or not a whole one.
    """
    place = message.start or 0
    while place < message.stop:
        key, place = _read_varint(data, place)
        key &= _UINT32  # as Google's reader does, which drops higher bits
        name, kind = key >> 3, key & 7
        number, size = 0, _FIXED_BYTES.get(kind, 0)
        if kind in {VARINT, LENGTH_DELIMITED}:
            number, place = _read_varint(data, place)
            size = number if kind == LENGTH_DELIMITED else 0
        if place + size > message.stop:
            raise ValueError
        yield Field(name, kind, number, slice(place, place + size))
        place += size


def _read_varint(data: bytes, start: int) -> tuple[int, int]:
    """A number, lowest seven bits first, and the place after it."""
    number = 0
    for place in range(start, start + _MAX_VARINT_BYTES):
        byte = data[place]
        number |= (byte & 127) << 7 * (place - start)
        if byte < 128:  # noqa: PLR2004
            return number, place + 1
    raise ValueError
