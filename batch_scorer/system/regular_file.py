"""Safe reading of local paths that may be pipes, devices or endless files."""

from __future__ import annotations

import errno
import os
import stat

_CHUNK_BYTES = 1_000_000
# Windows lacks most of these flags; O_BINARY exists there only.
_OPEN_FLAGS = sum(
    getattr(os, name, 0) for name in ("O_RDONLY", "O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY", "O_BINARY")
)


class FileTooLarge(OSError):
    """A file is larger than its limit."""

    def __init__(self, limit_bytes: int) -> None:
        size = f"{limit_bytes / 1e6:g} MB" if limit_bytes >= 1e6 else f"{limit_bytes:,} bytes"  # noqa: PLR2004
        super().__init__(errno.EFBIG, f"it has more than {size}")


def read_regular_file(path: str | os.PathLike[str], limit_bytes: int) -> bytes:
    """Read a whole regular file, without ever waiting for a pipe or device.

    Args:
        path: A local path; links are followed.
        limit_bytes: The largest size that is read.

    Returns:
        The content. A file that grows meanwhile is read to its end or the limit.

    Raises:
        FileTooLarge: The file is larger than ``limit_bytes``.
        OSError: The file does not exist or cannot be read; or it is a pipe, a socket, a device, a
            folder, or a system file without content at present.
        ValueError: The path contains a zero byte.
    """
    descriptor = os.open(path, _OPEN_FLAGS)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "expected a file, found a folder, a pipe or a device")
        if status.st_size > limit_bytes:
            raise FileTooLarge(limit_bytes)
        return _read_chunks(descriptor, status.st_size + 1, limit_bytes)
    except BlockingIOError as exc:
        raise OSError(errno.EINVAL, "expected a file, found one that waits for content") from exc
    finally:
        os.close(descriptor)


def _read_chunks(descriptor: int, first_bytes: int, limit_bytes: int) -> bytes:
    """Read to the end, which may be beyond the size at opening."""
    chunks: list[bytes] = []
    found_bytes, wanted_bytes = 0, first_bytes
    while chunk := os.read(descriptor, min(wanted_bytes, limit_bytes + 1 - found_bytes)):
        chunks.append(chunk)
        found_bytes += len(chunk)
        if found_bytes > limit_bytes:
            raise FileTooLarge(limit_bytes)
        wanted_bytes = _CHUNK_BYTES
    return b"".join(chunks)
