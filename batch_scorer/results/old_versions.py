"""Read what older versions of the program stored: new names for what was called otherwise.

Version 1 of the keys and columns, up to 0.1.0, said no version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from batch_scorer.errors import OutputError
from batch_scorer.results.schema import SCHEMA_VERSION, RunManifest
from batch_scorer.system.strict_json import decode_json

if TYPE_CHECKING:
    from batch_scorer.errors import CxrError

RENAMED_COLUMNS = {"night": "run_date"}
"""Columns of version 1 that are called otherwise now."""
_RENAMED_KEYS = {"night": "run_date"}
"""Keys of version 1, in run.json itself and in what it says of the run before."""


class _VersionHeader(msgspec.Struct):
    """The part of run.json that says how to read the rest."""

    schema_version: int = 1


def decode_manifest(
    data: bytes, what: str, hint: str, error: type[CxrError] = OutputError
) -> RunManifest:
    """Decode run.json of this version or an older one.

    Args:
        data: The whole file.
        what: What an error calls the file.
        hint: What to do about one that cannot be read.
        error: What to raise then.
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


def _rename_keys(keys: dict[str, Any]) -> dict[str, Any]:
    renamed = {_RENAMED_KEYS.get(name, name): value for name, value in keys.items()}
    if isinstance(since := renamed.get("since"), dict):
        renamed["since"] = {_RENAMED_KEYS.get(name, name): value for name, value in since.items()}
    return renamed
