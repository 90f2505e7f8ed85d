"""Single files outside an output that a command writes, and may replace on its next run."""

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
    """A file that is replaced only if it is empty or was written by the same command.

    ``description`` names what the command writes. ``is_own`` recognises it by its content, of
    ``limit_bytes`` at most. ``option`` is the option that gave the path.
    """

    path: Path
    option: str
    description: str
    limit_bytes: int
    is_own: Callable[[bytes], bool]

    def read(self) -> bytes:
        """Read the content that an earlier command wrote; empty if there is no file.

        Raises:
            ForeignFile: It is another file, or a link, a pipe or a device.
            UsageError: It cannot be read.
        """
        if not os.path.lexists(self.path):
            return b""
        if self.path.is_symlink() or not self.path.is_file():
            raise self._foreign_file_error("something other than a file")
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
        """Write the whole file, if the present one may be replaced.

        Raises:
            ForeignFile: It may not.
            UsageError: The present file cannot be read.
            OSError: It cannot be written; the present file is still there.
        """
        self.read()
        write_atomic(self.path, data)

    def _foreign_file_error(self, found: str) -> ForeignFile:
        return ForeignFile(
            f"Expected {self.description} in {self.path}, found {found}.",
            f"Choose another file with {self.option}, or remove it.",
        )
