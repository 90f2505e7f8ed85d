"""The output of a run: a folder of this machine or any fsspec URL, and the record of its files.

The program never replaces or removes a file that somebody else wrote. Before it writes a file, it
adds the name and the SHA-256 of the content to the output's record. It replaces or removes a file
only while the content is one of the recorded ones. The record is a folder of small files that are
created and never changed: several tasks may add to it at once, and a task that stops loses nothing.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import secrets
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from batch_scorer.errors import ForeignFile, UsageError
from batch_scorer.storage.filesystem import call_with_retries, open_filesystem
from batch_scorer.storage.output_folder import (
    INTERNAL_FOLDER,
    MAX_TABLE_READ_BYTES,
    OutputFolder,
    sha256_hex,
)
from batch_scorer.system.redact import redact_url
from batch_scorer.system.strict_json import DECODE_ERRORS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

__all__ = [
    "INTERNAL_FOLDER",
    "MAX_TABLE_READ_BYTES",
    "Output",
    "OwnershipRecord",
    "open_output",
    "sha256_hex",
]
CHANGED_FOLDER = "earlier/changed-"
"""Folder, before the first digits of a hash, for files that were changed after the write."""
_RECORD_FOLDER = f"{INTERNAL_FOLDER}/record"
_MAX_RECORD_PARTS = 8
"""Number of record files above which they are merged into one."""
_INVALID_PATH_ERRNOS = {errno.ELOOP, errno.ENAMETOOLONG}
log = logging.getLogger(__name__)

OwnershipRecord = dict[str, list[str]]
"""The SHA-256 of every content that the program wrote, by file name."""


@dataclass(frozen=True)
class Output(OutputFolder):
    """A folder for results, with a record of the files that the program wrote there.

    ``guard`` is called before files are written or removed. It raises an error if this process may
    no longer do so.
    """

    guard: Callable[[], None] | None = None

    def with_guard(self, guard: Callable[[], None]) -> Output:
        """Return this output with a guard."""
        return replace(self, guard=guard)

    def write(self, name: str, data: bytes) -> None:
        """Write a whole file, or replace one that the program wrote, as `write_all` does."""
        self.write_all({name: data})

    def write_all(self, files: Mapping[str, bytes]) -> None:
        """Add whole files to the record, then write them in their order.

        A file that was changed since the program wrote it is kept below ``earlier/``.

        Args:
            files: The content by file name.

        Raises:
            ForeignFile: One has the name of a file that the program did not write. Nothing was
                written, unless that file appeared meanwhile.
            OutputError: One cannot be written; the previous file is still there.
        """
        self._check_guard()
        record = self.record()
        for name, data in files.items():
            self._check_replaceable(name, record, sha256_hex(data))
        with self._translating_errors(", ".join(files), "written"):
            self._add_to_record({name: [sha256_hex(data)] for name, data in files.items()}, record)
        record = _merge_records(
            [record, {name: [sha256_hex(data)] for name, data in files.items()}]
        )
        for name, data in files.items():
            with self._translating_errors(name, "written"):
                call_with_retries(
                    self._put, name, data, partial(self._check_replaceable, name, record)
                )

    def remove(self, *names: str) -> None:
        """Remove files that the program wrote; keep a changed one below ``earlier/``.

        Raises:
            OutputError: A file exists but cannot be removed.
        """
        self._check_guard()
        record = self.record()
        for name in names:
            if name in record and self._check_replaceable(name, record) is not None:
                self._remove_file(name)

    def record(self) -> OwnershipRecord:
        """Read the record of the files that the program wrote; see `add_to_record`.

        Raises:
            OutputError: It cannot be read.
        """
        return _merge_records(self._read_parts().values())

    @property
    def has_record(self) -> bool:
        """True if the output has a record."""
        return bool(self._list_parts())

    def add_to_record(self, files: OwnershipRecord) -> None:
        """Add files to the record. The first call creates it, even without a file.

        Args:
            files: The program's contents by file name.

        Raises:
            OutputError: The record cannot be written.
        """
        with self._translating_errors(_RECORD_FOLDER, "written"):
            self._add_to_record(files)

    def refuse_foreign_files(self, names: Iterable[str], own: Iterable[str] = ()) -> None:
        """Refuse files with these names that the program did not write.

        Args:
            names: The names.
            own: Names of files that are the program's, whatever the record says.

        Raises:
            ForeignFile: There is one.
            OutputError: The output cannot be read.
        """
        known = {*self.record(), *own}
        for name in names:
            if self._is_file(name) and name not in known and self._exists(name):
                raise self._foreign_file_error(name)

    def refuse_foreign_folders(self, *names: str) -> None:
        """Refuse folders with these names that are not empty.

        Raises:
            ForeignFile: One holds something, or a file has the folder's name.
            OutputError: The output cannot be read.
        """
        for name in names:
            if self._has_content(name):
                raise self._foreign_file_error(name)

    def _check_guard(self) -> None:
        if self.guard:
            self.guard()

    def _check_replaceable(
        self, name: str, record: OwnershipRecord, new_sha256: str = ""
    ) -> bytes | None:
        """Check that the file with this name may be replaced; keep a copy if it was changed.

        Returns:
            The present content, None if there is no file.

        Raises:
            ForeignFile: The program did not write it.
        """
        if not self._is_file(name):
            return None
        data = self.read(name, MAX_TABLE_READ_BYTES)
        if data is None or sha256_hex(data) in (new_sha256, *record.get(name, ())):
            return data
        record = self.record()  # another task may have written it since
        if sha256_hex(data) in record.get(name, ()):
            return data
        if name not in record:
            raise self._foreign_file_error(name)
        folders = (f"{CHANGED_FOLDER}{sha256_hex(data)[:12]}{end}" for end in _copy_suffixes())
        kept = next(kept for folder in folders if self.create(kept := f"{folder}/{name}", data))
        log.warning("%s may hold changes of yours: a copy is kept as %s", name, kept)
        return data

    def _add_to_record(self, files: OwnershipRecord, known: OwnershipRecord | None = None) -> None:
        """Add files that the record lacks, and merge its parts if there are many.

        Args:
            files: The program's contents by file name.
            known: The present record, None to add the files in any case.
        """
        new = {
            name: contents
            for name, contents in files.items()
            if known is None or not set(contents) <= set(known.get(name, ()))
        }
        if known is None or new:
            self._add_part(new)
        if len(self._list_parts()) > _MAX_RECORD_PARTS:
            parts = self._read_parts()
            self._add_part(_merge_records(parts.values()))
            for name in parts:
                self._unlink(name)

    def _add_part(self, files: OwnershipRecord) -> None:
        name = f"{_RECORD_FOLDER}/{secrets.token_hex(16)}.json"
        call_with_retries(self._create, name, msgspec.json.encode(files, order="sorted"))

    def _list_parts(self) -> list[str]:
        return [name for name in self.internal.list_files("record") if name.endswith(".json")]

    def _read_parts(self) -> dict[str, OwnershipRecord]:
        """Read the files of the record, by name."""
        while True:
            contents = {name: self.internal.read(name) for name in self._list_parts()}
            if None not in contents.values():  # else another task has merged it into a newer part
                return {
                    f"{INTERNAL_FOLDER}/{name}": self._decode_part(name, data)
                    for name, data in contents.items()
                    if data is not None
                }

    def _decode_part(self, name: str, data: bytes) -> OwnershipRecord:
        try:
            return msgspec.json.decode(data, type=OwnershipRecord)
        except DECODE_ERRORS as exc:
            raise ForeignFile(
                f"Expected the record of cxr-batch in {self.internal.url}/{name}, found another "
                "file.",
                "Choose another folder with -o, or move that file away.",
            ) from exc


def _merge_records(parts: Iterable[OwnershipRecord]) -> OwnershipRecord:
    """Merge parts of a record: all contents of each name, each once."""
    merged: OwnershipRecord = {}
    for part in parts:
        for name, contents in part.items():
            merged[name] = list(dict.fromkeys([*merged.get(name, ()), *contents]))
    return merged


def _copy_suffixes() -> Iterator[str]:
    """Yield endings that distinguish copies of one name; the first is empty."""
    yield ""
    yield from (f"-{number}" for number in itertools.count(2))


def open_output(url: str | os.PathLike[str]) -> Output:
    """Open the output at a path or URL; create nothing yet.

    Raises:
        UsageError: It is not a path or URL.
        MissingPackage: The cloud's file system is not installed.
    """
    filesystem, root = open_filesystem(os.fspath(url))
    output = Output(redact_url(os.fspath(url)), root, filesystem)
    if output.local:
        _check_path(output)
    return output


def _check_path(output: Output) -> None:
    """Refuse a path that no file of this machine can have."""
    try:
        os.lstat(f"{output.root}/{_RECORD_FOLDER}/{'0' * 64}.json")
    except OSError as exc:
        if exc.errno in _INVALID_PATH_ERRNOS:
            raise UsageError(
                f"Expected a folder, found {output.url[:200]}: {exc.strerror}.",
                "Choose another one with -o.",
            ) from exc
    if INTERNAL_FOLDER in Path(output.root).parts:
        raise UsageError(
            f"Expected a folder for results, found {output.url[:200]}, inside the internal folder "
            "that cxr-batch keeps in an output.",
            "Choose another one with -o.",
        )
