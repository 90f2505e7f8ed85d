"""Shared memory that passes an image to another process without the copies of a pipe."""

from __future__ import annotations

import mmap
import os
from typing import Self

CAPACITY_BYTES = 500_000_000
"""The largest accepted file. Memory is allocated only for pages that were written."""
KEPT_BYTES = 32_000_000
"""Memory kept after an image, because the next image needs it again."""


class SharedBuffer:
    """A buffer for the bytes of one image, in an anonymous file in memory.

    The file cannot shrink, so the other process cannot crash this one through it.

    Raises:
        OSError: The system has no memory files, or not enough memory.
    """

    def __init__(self) -> None:
        if not hasattr(os, "memfd_create"):  # Linux only
            raise OSError("no files in memory")
        import fcntl

        self.descriptor = os.memfd_create("image", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.descriptor, CAPACITY_BYTES)
            fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
            self._view = mmap.mmap(self.descriptor, CAPACITY_BYTES)
        except BaseException:
            os.close(self.descriptor)
            raise

    @classmethod
    def create_if_possible(cls) -> Self | None:
        """Create a buffer; None if the system cannot."""
        try:
            return cls()
        except (OSError, MemoryError):
            return None

    def write(self, data: bytes) -> None:
        """Write an image of at most ``CAPACITY_BYTES`` over the previous one."""
        self._view[: len(data)] = data

    def release(self, size_bytes: int) -> None:
        """Release the memory of a large image, except ``KEPT_BYTES``."""
        if size_bytes > KEPT_BYTES:
            start = KEPT_BYTES - KEPT_BYTES % mmap.PAGESIZE
            self._view.madvise(mmap.MADV_REMOVE, start, size_bytes - start)

    def close(self) -> None:
        """Release all memory; a second call has no effect."""
        if not self._view.closed:
            self._view.close()
            os.close(self.descriptor)


def map_shared_buffer(descriptor: int) -> memoryview:
    """Map a buffer for reading; an image occupies the first of its ``CAPACITY_BYTES``."""
    return memoryview(mmap.mmap(descriptor, CAPACITY_BYTES, access=mmap.ACCESS_READ))
