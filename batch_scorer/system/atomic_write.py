"""Atomic writes: a file is written under a random name, then renamed.

A reader sees the old file or the new one, never a part. The random name must not exist yet and
links are not followed, so a planted link cannot redirect the write.
"""

from __future__ import annotations

import os
import re
import secrets
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PARTIAL_SUFFIX = ".partial"
_PARTIAL_NAME = re.compile(rf"\.[0-9a-f]{{32}}{re.escape(PARTIAL_SUFFIX)}")
_STALE_AFTER_S = 24 * 3600
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)  # missing on Windows
_BINARY = getattr(os, "O_BINARY", 0)  # Windows only


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file, or replace it, in one step.

    Raises:
        OSError: The file cannot be written. An existing file is unchanged.
    """
    with partial_file(data, path.parent) as partial:
        partial.replace(path)


@contextmanager
def partial_file(data: bytes, folder: Path) -> Iterator[Path]:
    """Write data to a new file with a random name and flush it to disk.

    Args:
        data: The whole content.
        folder: The file's folder, on the file system to which it is later renamed or linked.

    Yields:
        The path of the file, which is removed at the end of the block if it still exists.

    Raises:
        OSError: The file cannot be written.
    """
    path = folder / f".{secrets.token_hex(16)}{PARTIAL_SUFFIX}"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW | _BINARY, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield path
    finally:
        path.unlink(missing_ok=True)


def remove_stale_partials(folder: Path) -> None:
    """Remove partial files that killed processes left at least a day ago.

    The age is relative to the folder's own modification time, whatever the clock of this machine.

    Raises:
        OSError: The folder cannot be listed.
    """
    now = folder.stat().st_mtime
    for path in folder.iterdir():
        if _PARTIAL_NAME.fullmatch(path.name):
            with suppress(FileNotFoundError):  # another process was faster
                if now - path.lstat().st_mtime > _STALE_AFTER_S:
                    path.unlink()
