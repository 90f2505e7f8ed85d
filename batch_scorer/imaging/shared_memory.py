"""Memory by which a process hands the bytes of an image to another one without a pipe's copies."""

from __future__ import annotations

import mmap
import os
from typing import Self

CAPACITY_BYTES = 500_000_000
"""The largest file that is read. Memory is taken only where something was written."""
KEPT_BYTES = 32_000_000
"""What stays taken after an image, because the next one will need it again."""


class SharedBuffer:
    """Room for the bytes of one image, in a file that exists in memory alone.

    It cannot be made smaller, so that nothing the other process does to it can harm this one.

    Raises:
        OSError: The system has no such files, or no room.
    """

    def __init__(self) -> None:
        if not hasattr(os, "memfd_create"):  # Linux has it
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
        """Make one, if the system can."""
        try:
            return cls()
        except (OSError, MemoryError):
            return None

    def write(self, data: bytes) -> None:
        """Put an image in, of at most ``CAPACITY_BYTES``, in place of the one before."""
        self._view[: len(data)] = data

    def forget(self, size_bytes: int) -> None:
        """Give most of a large image's memory back."""
        if size_bytes > KEPT_BYTES:
            start = KEPT_BYTES - KEPT_BYTES % mmap.PAGESIZE
            self._view.madvise(mmap.MADV_REMOVE, start, size_bytes - start)

    def close(self) -> None:
        """Give all of it back; may be called twice."""
        if not self._view.closed:
            self._view.close()
            os.close(self.descriptor)


def map_shared_buffer(descriptor: int) -> memoryview:
    """See what the other process puts in: ``CAPACITY_BYTES``, of which an image has the first."""
    return memoryview(mmap.mmap(descriptor, CAPACITY_BYTES, access=mmap.ACCESS_READ))
