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
from batch_scorer.storage.output import digest
from batch_scorer.system.strict_json import UNREADABLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batch_scorer.storage.output import Output

FOLDER = "journal"
log = logging.getLogger("cxr.journal")
_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Score)
_HASH_DIGITS = 16
# Older versions wrote no hash into the name.
_NAME = re.compile(
    rf"{FOLDER}/(?P<method>[0-9a-f]{{16}})-[0-9a-f]{{8}}-[0-9]{{6,}}"
    rf"(?:-(?P<sha256>[0-9a-f]{{{_HASH_DIGITS}}}))?\.jsonl"
)


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
        data = _ENCODER.encode_lines(rows)
        number = f"{self.method}-{self._process}-{self._parts:06d}"
        self.output.create(f"{FOLDER}/{number}-{digest(data)[:_HASH_DIGITS]}.jsonl", data)

    def read(self) -> list[Score]:
        """Every row that is kept, of this process and of earlier ones.

        A file that cannot be read (a machine lost its power while it was written) is named and left
        out: its films are scored again.
        """
        rows: list[Score] = []
        for name in self.output.names(FOLDER):
            match = _NAME.fullmatch(name)
            if not match or match["method"] != self.method:
                continue
            part = _read_part(self.output, name)
            if part is None:
                log.warning("%s is damaged: its films are scored again", name)
            else:
                rows += part.rows
        return rows

    def clear(self) -> None:
        """Remove it, that of other methods too: the run's own rows are in place."""
        self.output.discard({name: part.sha256 for name, part in find_own(self.output).items()})
        self.output.remove_empty(FOLDER)


@dataclass(frozen=True)
class _Part:
    """A whole file of a journal."""

    rows: list[Score]
    sha256: str


def find_own(output: Output) -> dict[str, _Part]:
    """The whole files of every journal in an output, by their names."""
    names = [name for name in output.names(FOLDER) if _NAME.fullmatch(name)]
    parts = {name: _read_part(output, name) for name in names}
    return {name: part for name, part in parts.items() if part}


def _read_part(output: Output, name: str) -> _Part | None:
    """A file of a journal; None where it is damaged, or gone."""
    data, match = output.read(name), _NAME.fullmatch(name)
    if data is None or match is None:
        return None
    sha256 = digest(data)
    if match["sha256"] and not sha256.startswith(match["sha256"]):
        return None
    try:
        rows = _DECODER.decode_lines(data)
    except UNREADABLE:
        return None
    return _Part(rows, sha256) if rows or match["sha256"] else None
