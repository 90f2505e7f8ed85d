"""Files of a run folder, read whole and with an end, whatever lies under their names."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from batch_scorer.errors import ConversionError
from batch_scorer.model.card import read_card
from batch_scorer.model.card_checks import LONGEST_CARD
from batch_scorer.system.regular_file import read_regular_file

if TYPE_CHECKING:
    from pathlib import Path

    from batch_scorer.model.card import ModelCard

CARD_FILE = "card.json"
_AGAIN = "Run the same `cxr train` on it again; a finished training is not repeated."


def find_runs(run: Path) -> list[Path]:
    """The finished model folders of a run, or the folder itself if it is one.

    Raises:
        ConversionError: There is none, or the folder cannot be looked into.
    """
    try:
        found = [run] if os.path.lexists(run / CARD_FILE) else []
        found = found or sorted(path.parent for path in run.glob(f"*/{CARD_FILE}"))
    except OSError as exc:
        raise ConversionError(f"{run} cannot be read: {exc.strerror}.") from exc
    if not found:
        raise ConversionError(
            f"Expected a finished training run at {run}, found no {CARD_FILE} in it.",
            "Make one with: cxr train DATA -o RUN",
        )
    return found


def read_run_file(folder: Path, name: str, limit_bytes: int) -> bytes:
    """Read a file that the trainer left.

    Raises:
        ConversionError: It is not there, cannot be read, is no file or holds more.
    """
    try:
        return read_regular_file(folder / name, limit_bytes)
    except OSError as exc:
        raise unreadable(folder, f"{name}: {exc.strerror}") from exc


def read_run_card(folder: Path) -> ModelCard:
    """Read the model card that the trainer left.

    Raises:
        ConversionError: There is none that can be read, or the model may not be exported.
        ModelFileError: It is none of this release, or broken.
    """
    data = read_run_file(folder, CARD_FILE, 4 * LONGEST_CARD)  # UTF-8 has up to 4 bytes
    try:
        card = read_card(data.decode(), str(folder))
    except UnicodeDecodeError as exc:
        raise unreadable(folder, f"{CARD_FILE} is no text: {exc}") from exc
    if card.withheld:
        raise ConversionError(
            f"The model in {folder} may not be exported: {card.withheld}",
            "Train one with `cxr train`, which validates by patient.",
        )
    return card


def unreadable(folder: Path, why: object) -> ConversionError:
    """The error for a run folder whose files are not what the trainer leaves."""
    return ConversionError(f"The run folder {folder} cannot be read: {why}.", _AGAIN)
