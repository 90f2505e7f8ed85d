"""The manifest of a folder of model files: each one's hash and figures."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from batch_scorer.classifier import Manifest
from batch_scorer.errors import ConversionError
from batch_scorer.files import replace_file
from batch_scorer.output import MOST_BYTES
from batch_scorer.regular_file import read_regular_file

if TYPE_CHECKING:
    from pathlib import Path


def read_manifest(path: Path) -> Manifest:
    """What a folder's manifest says; an empty one where there is none.

    Raises:
        ConversionError: It is no manifest of this release.
    """
    if not os.path.lexists(path):
        return Manifest({})
    try:
        return msgspec.json.decode(read_regular_file(path, MOST_BYTES), type=Manifest)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise ConversionError(
            f"{path} is no manifest of this release: {exc}.",
            "Export into another folder, or remove it and export every model again.",
        ) from exc


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Replace a folder's manifest at once."""
    replace_file(path, msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
