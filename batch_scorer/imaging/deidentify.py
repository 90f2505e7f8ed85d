"""De-identification of patient and study in the rows.

By default a row contains keyed hashes (HMAC-SHA-256). The same key gives the same hash in every run
and on every machine, so images of one patient stay together, and nobody without the key can
identify the patient. Without a key both are omitted. A patient number in a file name is treated
alike, but the file name itself is in the row unchanged. With "keep", identifiers are wherever the
rows are, including the PDF report, whose attachments contain the rows. No log or message contains
an identifier, and ``run.json`` contains only the mode.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from batch_scorer.errors import UsageError
from batch_scorer.system.regular_file import read_regular_file

if TYPE_CHECKING:
    from pathlib import Path

IDENTIFIER_MODES = ("hash", "keep", "drop")
KEY_VARIABLE = "CXR_IDENTIFIERS_KEY"
MIN_KEY_BYTES = 16
MAX_KEY_BYTES = 1_000_000
HASH_DIGITS = 16
MAX_IDENTIFIER_CHARS = 64
"""The longest LO and UI values of DICOM (PS3.5)."""

log = logging.getLogger(__name__)
_log_once_lock = threading.Lock()  # the first thread that logs acquires it and never releases it


@dataclass(frozen=True)
class Deidentifier:
    """Converts patient and study identifiers for the rows.

    ``mode`` is "hash", "keep" or "drop"; ``key`` is the key of the hashes and may be empty.
    """

    mode: str = "hash"
    key: bytes = field(default=b"", repr=False)

    @classmethod
    def from_options(cls, mode: str, key_file: Path | None) -> Self:
        """Read the key from a file, or from the environment variable ``KEY_VARIABLE``.

        Raises:
            UsageError: The file cannot be read, or the key is too short to be secure.
        """
        if mode != "hash":
            return cls(mode)
        if key_file is None:
            key, key_source = (
                os.environ.get(KEY_VARIABLE, "").encode("utf-8", "surrogateescape"),
                KEY_VARIABLE,
            )
        else:
            key, key_source = _read_key(key_file), str(key_file)
        key = key.strip()
        if (key_file or key) and len(key) < MIN_KEY_BYTES:
            raise UsageError(
                f"Expected a key of at least {MIN_KEY_BYTES} bytes in {key_source}, "
                f"found {len(key)}.",
                "Make one with: openssl rand -hex 32",
            )
        return cls(mode, key)

    @property
    def effective_mode(self) -> str:
        """The mode in effect: "hash" without a key is "drop"."""
        return "drop" if self.mode == "hash" and not self.key else self.mode

    @property
    def fingerprint(self) -> str:
        """A text that differs between modes and keys, and does not reveal the key."""
        mode = self.effective_mode
        return f"{mode} {self._hash('the key itself')}" if mode == "hash" else mode

    def apply(self, patient_id: str, study_uid: str) -> tuple[str, str]:
        """Convert both identifiers for the row."""
        if (patient_id or study_uid) and self.effective_mode != self.mode:
            _log_missing_key_once()
        return self._transform("patient", patient_id), self._transform("study", study_uid)

    def apply_to_patient_id(self, patient_id: str) -> str:
        """Convert the patient number of a file name for the row."""
        return self._transform("patient", patient_id)

    def _transform(self, kind: str, value: str) -> str:
        if not value or self.effective_mode == "drop":
            return ""
        if self.effective_mode == "keep":
            return _sanitize(value)
        return self._hash(f"{kind}:{value}")

    def _hash(self, text: str) -> str:
        message = text.encode("utf-8", "surrogatepass")
        return hmac.new(self.key, message, hashlib.sha256).hexdigest()[:HASH_DIGITS]


def _log_missing_key_once() -> None:
    """Log the missing key once per process, though many threads decode."""
    if _log_once_lock.acquire(blocking=False):
        log.info(
            "Patients and studies of DICOM images are omitted, because hashing needs a key. "
            "Give one with --identifiers-key FILE or %s.",
            KEY_VARIABLE,
        )


def _read_key(path: Path) -> bytes:
    try:
        return read_regular_file(path, MAX_KEY_BYTES)
    except OSError as exc:
        raise UsageError(f"The key file {path} cannot be read: {exc.strerror or exc}.") from exc


def _sanitize(value: str) -> str:
    """Return one printable line of at most ``MAX_IDENTIFIER_CHARS`` characters."""
    line = "".join(char if char.isprintable() else " " for char in value)
    return line if len(line) <= MAX_IDENTIFIER_CHARS else line[: MAX_IDENTIFIER_CHARS - 1] + "…"
