"""Readers for results of older versions: they translate old keys and columns to new names.

Version 1 of the keys and columns, up to release 0.1.0, holds no version number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from batch_scorer.errors import OutputError
from batch_scorer.results.schema import SCHEMA_VERSION, RunManifest, Score
from batch_scorer.system.strict_json import decode_json

if TYPE_CHECKING:
    from batch_scorer.errors import CxrError

RENAMED_COLUMNS = {"night": "run_date", "uncertain": "undecided"}
"""Columns of version 1 that have new names."""
_RENAMED_KEYS = {
    "films": "images",
    "method": "config_hash",
    "night": "run_date",
    "no_maps": "no_maps_reason",
    "per_1000_films": "per_1000_images",
    "price": "cost",
    "same": "unchanged",
    "since": "changes",
    "taken": "selected",
    "tariff": "core_hour_price",
    "uncertain": "undecided",
}
"""Keys of version 1 in run.json and checkpoints, except in the model cards, which have a version of
their own."""
_ROWS = msgspec.json.Decoder(dict[str, Any])


class _VersionHeader(msgspec.Struct):
    """The version number of run.json."""

    schema_version: int = 1


def decode_manifest(
    data: bytes, what: str, hint: str, error: type[CxrError] = OutputError
) -> RunManifest:
    """Decode run.json of this version or an older one.

    Args:
        data: The whole file.
        what: Name of the file in errors.
        hint: Advice for an unreadable file.
        error: The class of the error.

    Raises:
        CxrError: An ``error``: the file is broken, or of a newer version.
    """
    version = decode_json(data, _VersionHeader, what, hint, error).schema_version
    if version > SCHEMA_VERSION:
        raise error(
            f"{what} has version {version} of the results, expected at most {SCHEMA_VERSION}.",
            "Use the version of cxr-batch that wrote it, or a newer one.",
        )
    if version == 1:
        keys = decode_json(data, dict[str, Any], what, hint, error)
        data = msgspec.json.encode(_rename_keys(keys))
    return decode_json(data, RunManifest, what, hint, error)


def decode_rows(data: bytes) -> list[Score]:
    """Decode rows of a checkpoint, one JSON object per line, of this version or an older one.

    Raises:
        msgspec.DecodeError: A line is not a row.
    """
    return [msgspec.convert(_rename_keys(row), Score) for row in _ROWS.decode_lines(data)]


def _rename_keys(value: Any) -> Any:
    if isinstance(value, list):
        return [_rename_keys(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        _RENAMED_KEYS.get(key, key): part if key == "models" else _rename_keys(part)
        for key, part in value.items()
    }
