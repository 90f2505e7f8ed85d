"""Whose film it is: patient and study from a DICOM header, as the rows may tell them.

By default a row holds keyed hashes (HMAC-SHA-256): the same key gives the same hash in every run
and on every machine, so that films of one patient stay together and nobody without the key can
tell who it is. Without a key both are left out. A patient number in a file's name is treated alike,
though the name itself stands in the row as it is. With "keep", identifiers are wherever the rows
are, and that is also inside the PDF report, which carries them as attachments. Nothing else of the
program tells an identifier: no log and no message, and ``run.json`` says only which way was taken.
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
"""What DICOM allows for either (PS3.5, LO and UI)."""

log = logging.getLogger(__name__)
_log_once_lock = threading.Lock()  # taken by the first who says it, and kept


@dataclass(frozen=True)
class Deidentifier:
    """How patient and study are told in the rows.

    ``mode`` is "hash", "keep" or "drop"; ``key`` is what hashes are made with, and may be empty.
    """

    mode: str = "hash"
    key: bytes = field(default=b"", repr=False)

    @classmethod
    def from_options(cls, mode: str, key_file: Path | None) -> Self:
        """Take the key from a file, or from the environment variable ``KEY_VARIABLE``.

        Raises:
            UsageError: The file cannot be read, or the key is too short to keep anything secret.
        """
        if mode != "hash":
            return cls(mode)
        if key_file is None:
            key, place = (
                os.environ.get(KEY_VARIABLE, "").encode("utf-8", "surrogateescape"),
                KEY_VARIABLE,
            )
        else:
            key, place = _read_key(key_file), str(key_file)
        key = key.strip()
        if (key_file or key) and len(key) < MIN_KEY_BYTES:
            raise UsageError(
                f"Expected a key of at least {MIN_KEY_BYTES} bytes in {place}, found {len(key)}.",
                "Make one with: openssl rand -hex 32",
            )
        return cls(mode, key)

    @property
    def effective_mode(self) -> str:
        """What is really done: hashing without a key is leaving out."""
        return "drop" if self.mode == "hash" and not self.key else self.mode

    @property
    def fingerprint(self) -> str:
        """Tells two ways of telling apart, two keys too, and no key by it."""
        named = self.effective_mode
        return f"{named} {self._hash('the key itself')}" if named == "hash" else named

    def apply(self, patient: str, study: str) -> tuple[str, str]:
        """Turn both as they were read into what the row may hold."""
        if (patient or study) and self.effective_mode != self.mode:
            _log_missing_key_once()
        return self._transform("patient", patient), self._transform("study", study)

    def apply_to_patient_id(self, patient: str) -> str:
        """Turn the patient number of a file's name into what the column patient may hold."""
        return self._transform("patient", patient)

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
    """Say it once, though many threads decode."""
    if _log_once_lock.acquire(blocking=False):
        log.info(
            "Patients and studies of DICOM films are left out: hashing them needs a key, from "
            "--identifiers-key FILE or %s.",
            KEY_VARIABLE,
        )


def _read_key(path: Path) -> bytes:
    try:
        return read_regular_file(path, MAX_KEY_BYTES)
    except OSError as exc:
        raise UsageError(f"The key file {path} cannot be read: {exc.strerror or exc}.") from exc


def _sanitize(value: str) -> str:
    """One printable line of at most ``MAX_IDENTIFIER_CHARS`` characters, whatever the header holds."""
    line = "".join(char if char.isprintable() else " " for char in value)
    return line if len(line) <= MAX_IDENTIFIER_CHARS else line[: MAX_IDENTIFIER_CHARS - 1] + "…"
