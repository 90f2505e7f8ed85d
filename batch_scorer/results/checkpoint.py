"""What a run has settled so far: one small file for each batch, written before the next begins.

A run that was stopped, by whatever, goes on from here. The files are removed when the run's own
rows are in place; until then they lie in ``journal/``, next to the results of an earlier run. Each
is named after the SHA-256 of its content, which shows that it is whole, and the program's.
"""

from __future__ import annotations

import logging
import re
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from batch_scorer.results.schema import Score
from batch_scorer.storage.output import sha256_hex
from batch_scorer.system.strict_json import DECODE_ERRORS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batch_scorer.storage.output import Output

CHECKPOINT_FOLDER = "journal"
log = logging.getLogger("cxr.journal")
_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Score)
_HASH_DIGITS = 16
# Older versions wrote no hash into the name.
_FILE_NAME = re.compile(
    rf"{CHECKPOINT_FOLDER}/(?P<config_hash>[0-9a-f]{{16}})-[0-9a-f]{{8}}-[0-9]{{6,}}"
    rf"(?:-(?P<sha256>[0-9a-f]{{{_HASH_DIGITS}}}))?\.jsonl"
)


@dataclass
class Checkpoint:
    """Rows of an unfinished run by one method. Each process adds files of its own."""

    output: Output
    config_hash: str
    _process: str = field(default_factory=lambda: secrets.token_hex(4))
    _parts: int = 0

    def add(self, rows: Sequence[Score]) -> None:
        """Keep the rows of one batch.

        Raises:
            LedgerError: They cannot be written.
        """
        self._parts += 1
        data = _ENCODER.encode_lines(rows)
        number = f"{self.config_hash}-{self._process}-{self._parts:06d}"
        self.output.create(
            f"{CHECKPOINT_FOLDER}/{number}-{sha256_hex(data)[:_HASH_DIGITS]}.jsonl", data
        )

    def read(self) -> list[Score]:
        """Every row that is kept, of this process and of earlier ones.

        A file that cannot be read (a machine lost its power while it was written) is named and left
        out: its films are scored again.
        """
        rows: list[Score] = []
        for name in self.output.list_files(CHECKPOINT_FOLDER):
            match = _FILE_NAME.fullmatch(name)
            if not match or match["config_hash"] != self.config_hash:
                continue
            part = _read_file(self.output, name)
            if part is None:
                log.warning("%s is damaged: its films are scored again", name)
            else:
                rows += part.rows
        return rows

    def clear(self) -> None:
        """Remove it, that of other methods too: the run's own rows are in place."""
        self.output.remove_unchanged(
            {name: part.sha256 for name, part in find_checkpoint_files(self.output).items()}
        )
        self.output.remove_empty_folder(CHECKPOINT_FOLDER)


@dataclass(frozen=True)
class _CheckpointFile:
    """A whole file of a journal."""

    rows: list[Score]
    sha256: str


def find_checkpoint_files(output: Output) -> dict[str, _CheckpointFile]:
    """The whole files of every journal in an output, by their names."""
    names = [name for name in output.list_files(CHECKPOINT_FOLDER) if _FILE_NAME.fullmatch(name)]
    parts = {name: _read_file(output, name) for name in names}
    return {name: part for name, part in parts.items() if part}


def _read_file(output: Output, name: str) -> _CheckpointFile | None:
    """A file of a journal; None where it is damaged, or gone."""
    data, match = output.read(name), _FILE_NAME.fullmatch(name)
    if data is None or match is None:
        return None
    sha256 = sha256_hex(data)
    if match["sha256"] and not sha256.startswith(match["sha256"]):
        return None
    try:
        rows = _DECODER.decode_lines(data)
    except DECODE_ERRORS:
        return None
    return _CheckpointFile(rows, sha256) if rows or match["sha256"] else None
