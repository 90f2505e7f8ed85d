"""Whole files on this machine: written under a random name, then renamed into place.

A reader sees the old file or the new one, never a part. The random name is created, never opened
where it already exists, and no link is followed: a link that somebody planted is never written
through.
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
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)  # Windows has no such flag
_BINARY = getattr(os, "O_BINARY", 0)  # and no file elsewhere is text


def write_atomic(path: Path, data: bytes) -> None:
    """Write a whole file, or replace it at once.

    Raises:
        OSError: It cannot be written; what was there before is still there.
    """
    with partial_file(data, path.parent) as partial:
        partial.replace(path)


@contextmanager
def partial_file(data: bytes, folder: Path) -> Iterator[Path]:
    """Write data to a new file of a random name, on disk when the block begins.

    Args:
        data: The whole content.
        folder: Where the file goes, on the file system of the place that it is renamed or linked
            to.

    Raises:
        OSError: It cannot be written.
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
    """Remove what killed processes left half written a day ago or longer, by the folder's own time.

    Raises:
        OSError: The folder cannot be listed.
    """
    now = folder.stat().st_mtime
    for path in folder.iterdir():
        if _PARTIAL_NAME.fullmatch(path.name):
            with suppress(FileNotFoundError):  # another process was faster
                if now - path.lstat().st_mtime > _STALE_AFTER_S:
                    path.unlink()
