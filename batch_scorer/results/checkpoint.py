"""Checkpoints of a run: one small file for each batch, written before the next batch begins.

An interrupted run resumes from them. The files lie in ``journal/``, beside the results of an
earlier run, and are removed once the run's own rows are written. Each is named after the SHA-256 of
its content, which proves that it is complete and the program's own.
"""

from __future__ import annotations

import logging
import re
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from batch_scorer.results.old_versions import decode_rows
from batch_scorer.storage.output import sha256_hex
from batch_scorer.system.strict_json import DECODE_ERRORS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batch_scorer.results.schema import Score
    from batch_scorer.storage.output import Output

CHECKPOINT_FOLDER = "journal"
log = logging.getLogger(__name__)
_ENCODER = msgspec.json.Encoder()
_HASH_DIGITS = 16
# Older versions left the hash out of the name.
_FILE_NAME = re.compile(
    rf"{CHECKPOINT_FOLDER}/(?P<config_hash>[0-9a-f]{{16}})-[0-9a-f]{{8}}-[0-9]{{6,}}"
    rf"(?:-(?P<sha256>[0-9a-f]{{{_HASH_DIGITS}}}))?\.jsonl"
)


@dataclass
class Checkpoint:
    """Rows of an unfinished run with one configuration. Each process adds files of its own."""

    output: Output
    config_hash: str
    _process_id: str = field(default_factory=lambda: secrets.token_hex(4))
    _file_count: int = 0

    def add(self, rows: Sequence[Score]) -> None:
        """Store the rows of one batch.

        Raises:
            OutputError: They cannot be written.
        """
        self._file_count += 1
        data = _ENCODER.encode_lines(rows)
        number = f"{self.config_hash}-{self._process_id}-{self._file_count:06d}"
        self.output.create(
            f"{CHECKPOINT_FOLDER}/{number}-{sha256_hex(data)[:_HASH_DIGITS]}.jsonl", data
        )

    def read(self) -> list[Score]:
        """Read all stored rows, of this process and of earlier ones.

        A damaged file, such as after a power failure, is logged and skipped: its images are scored
        again.
        """
        rows: list[Score] = []
        for name in self.output.list_files(CHECKPOINT_FOLDER):
            match = _FILE_NAME.fullmatch(name)
            if not match or match["config_hash"] != self.config_hash:
                continue
            file = _read_file(self.output, name)
            if file is None:
                log.warning("%s is damaged: its images are scored again", name)
            else:
                rows += file.rows
        return rows

    def clear(self) -> None:
        """Remove the files of all configurations, once the run's own rows are written."""
        self.output.remove_unchanged(
            {name: part.sha256 for name, part in find_checkpoint_files(self.output).items()}
        )
        self.output.remove_empty_folder(CHECKPOINT_FOLDER)


@dataclass(frozen=True)
class _CheckpointFile:
    """A complete checkpoint file."""

    rows: list[Score]
    sha256: str


def find_checkpoint_files(output: Output) -> dict[str, _CheckpointFile]:
    """Find the complete checkpoint files in an output, by name."""
    names = [name for name in output.list_files(CHECKPOINT_FOLDER) if _FILE_NAME.fullmatch(name)]
    parts = {name: _read_file(output, name) for name in names}
    return {name: part for name, part in parts.items() if part}


def _read_file(output: Output, name: str) -> _CheckpointFile | None:
    """Read a checkpoint file; None if it is damaged or missing."""
    data, match = output.read(name), _FILE_NAME.fullmatch(name)
    if data is None or match is None:
        return None
    sha256 = sha256_hex(data)
    if match["sha256"] and not sha256.startswith(match["sha256"]):
        return None
    try:
        rows = decode_rows(data)
    except DECODE_ERRORS:
        return None
    return _CheckpointFile(rows, sha256) if rows or match["sha256"] else None
