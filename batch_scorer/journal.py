"""What a run has settled so far: one small file for each batch, written before the next begins.

A run that was stopped, by whatever, goes on from here. The files are removed when the run's own
rows are in place; until then they lie in ``journal/``, next to the results of an earlier run.
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from batch_scorer.records import Score

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batch_scorer.output import Output

FOLDER = "journal"
log = logging.getLogger("cxr.journal")
_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Score)


@dataclass
class Journal:
    """Rows of an unfinished run by one method. Each process adds files of its own."""

    output: Output
    method: str
    _process: str = field(default_factory=lambda: secrets.token_hex(4))
    _parts: int = 0

    def add(self, rows: Sequence[Score]) -> None:
        """Keep the rows of one batch.

        Raises:
            LedgerError: They cannot be written.
        """
        self._parts += 1
        name = f"{FOLDER}/{self.method}-{self._process}-{self._parts:06d}.jsonl"
        self.output.write(name, _ENCODER.encode_lines(rows))

    def read(self) -> list[Score]:
        """Every row that is kept, of this process and of earlier ones.

        A file that cannot be read (a machine lost its power while it was written) is named and left
        out: its films are scored again.
        """
        rows: list[Score] = []
        for name in self.output.names(FOLDER):
            if not name.startswith(f"{FOLDER}/{self.method}-"):
                continue
            try:
                rows += _DECODER.decode_lines(self.output.read(name) or b"")
            except (msgspec.DecodeError, UnicodeDecodeError):
                log.warning("%s is damaged: its films are scored again", name)
        return rows

    def clear(self) -> None:
        """Remove it, that of other methods too: the run's own rows are in place."""
        self.output.remove_folder(FOLDER)
