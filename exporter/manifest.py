"""The manifest of a folder of model files: each one's hash and figures."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from batch_scorer.classifier import Manifest
from batch_scorer.errors import ConversionError, LedgerError
from batch_scorer.files import replace_file
from batch_scorer.output import MOST_BYTES
from batch_scorer.regular_file import read_regular_file
from batch_scorer.stored import UNREADABLE

if TYPE_CHECKING:
    from collections.abc import Iterator
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
    except (OSError, *UNREADABLE) as exc:
        raise ConversionError(
            f"{path} is no manifest of this release: {exc}.",
            "Export into another folder, or remove it and export every model again.",
        ) from exc


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Replace a folder's manifest at once.

    Raises:
        LedgerError: It cannot be written; what was there before is still there.
    """
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
    with explain_writing(path):
        replace_file(path, text)


@contextmanager
def explain_writing(path: Path) -> Iterator[None]:
    """Turn a failure to write a file into an error of the program.

    Raises:
        LedgerError: It cannot be written.
    """
    try:
        yield
    except OSError as exc:
        raise LedgerError(
            f"{path} cannot be written: {exc.strerror or exc}.",
            "Free some space or choose another folder with -o, then run the same command again.",
        ) from exc
