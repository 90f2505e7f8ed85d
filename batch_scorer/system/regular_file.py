"""Read a file of this machine that may be no file at all, and may have no end."""

from __future__ import annotations

import errno
import os
import stat

_CHUNK_BYTES = 1_000_000
# Windows knows neither pipes among files nor most of these flags, but text files.
_OPEN_FLAGS = sum(
    getattr(os, name, 0) for name in ("O_RDONLY", "O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY", "O_BINARY")
)


class FileTooLarge(OSError):
    """A file has more bytes than it may have."""

    def __init__(self, limit_bytes: int) -> None:
        size = f"{limit_bytes / 1e6:g} MB" if limit_bytes >= 1e6 else f"{limit_bytes:,} bytes"  # noqa: PLR2004
        super().__init__(errno.EFBIG, f"it has more than {size}")


def read_regular_file(path: str | os.PathLike[str], limit_bytes: int) -> bytes:
    """Read a whole file, without ever waiting for one that has no content of its own.

    Args:
        path: Of this machine; a link is followed.
        limit_bytes: The most that it may hold.

    Returns:
        Its content. A file that grows meanwhile is read until its end or the limit.

    Raises:
        TooLong: It holds more.
        OSError: It is not there or cannot be read; or it is a pipe, a socket, a device, a folder,
            or a file of the system that has nothing to say now.
        ValueError: The path holds a zero byte.
    """
    opened = os.open(path, _OPEN_FLAGS)
    try:
        found = os.fstat(opened)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "expected a file, found a folder, a pipe or a device")
        if found.st_size > limit_bytes:
            raise FileTooLarge(limit_bytes)
        return _read_chunks(opened, found.st_size + 1, limit_bytes)
    except BlockingIOError as exc:
        raise OSError(errno.EINVAL, "expected a file, found one that waits for content") from exc
    finally:
        os.close(opened)


def _read_chunks(opened: int, first_bytes: int, limit_bytes: int) -> bytes:
    """Read to the end, whatever the size was when the file was opened."""
    parts: list[bytes] = []
    found_bytes, wanted_bytes = 0, first_bytes
    while part := os.read(opened, min(wanted_bytes, limit_bytes + 1 - found_bytes)):
        parts.append(part)
        found_bytes += len(part)
        if found_bytes > limit_bytes:
            raise FileTooLarge(limit_bytes)
        wanted_bytes = _CHUNK_BYTES
    return b"".join(parts)
