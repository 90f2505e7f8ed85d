"""A single file, outside any output, that a command was told to write and may write again."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batch_scorer.errors import ForeignFile, UsageError
from batch_scorer.system.atomic_write import write_atomic
from batch_scorer.system.regular_file import FileTooLarge, read_regular_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True)
class OutputFile:
    """A file that is replaced only while it is empty, or holds what its command writes.

    ``holds`` is that in words, and ``is_own`` tells it by the content, of ``limit_bytes`` at
    most. ``option`` is where the path was given.
    """

    path: Path
    option: str
    holds: str
    limit_bytes: int
    is_own: Callable[[bytes], bool]

    def read(self) -> bytes:
        """What an earlier command wrote there, nothing where there is no file.

        Raises:
            ForeignFile: Something else is there, such as a link, a pipe or a device.
            UsageError: It cannot be read.
        """
        if not os.path.lexists(self.path):
            return b""
        if self.path.is_symlink() or not self.path.is_file():
            raise self._foreign_file_error("something that is no file")
        try:
            data = read_regular_file(self.path, self.limit_bytes)
        except FileTooLarge as exc:
            raise self._foreign_file_error("another file") from exc
        except OSError as exc:
            raise UsageError(
                f"{self.path} cannot be read: {exc.strerror or exc}.",
                f"Choose another file with {self.option}.",
            ) from exc
        if data and not self.is_own(data):
            raise self._foreign_file_error("another file")
        return data

    def replace(self, data: bytes) -> None:
        """Write it whole, if what is there now may be replaced.

        Raises:
            ForeignFile: It may not.
            UsageError: What is there cannot be read.
            OSError: It cannot be written; what was there before is still there.
        """
        self.read()
        write_atomic(self.path, data)

    def _foreign_file_error(self, found: str) -> ForeignFile:
        return ForeignFile(
            f"Expected {self.holds} in {self.path}, found {found}.",
            f"Choose another file with {self.option}, or remove it.",
        )
