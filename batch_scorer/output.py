"""Where results go: a folder of this machine, or any fsspec URL.

A reader sees a whole file or none: on disk a file is written under another name and renamed, and an
object store shows an object only when all of it has come.
"""

from __future__ import annotations

import errno
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batch_scorer.errors import LedgerError
from batch_scorer.faults import explain, failures, scrub
from batch_scorer.storage import call, has_folders, is_local, open_filesystem

PARTIAL = ".partial"
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES}
"""What file systems without hard links answer, such as a mounted bucket."""


@dataclass(frozen=True)
class Output:
    """A place for results. Names are POSIX paths below it."""

    url: str
    root: str
    filesystem: Any

    @property
    def local(self) -> bool:
        """Whether it lies on this machine."""
        return is_local(self.filesystem)

    def below(self, name: str) -> Output:
        """The place of that name inside this one."""
        return Output(f"{self.url.rstrip('/')}/{name}", self._path(name), self.filesystem)

    def prepare(self) -> None:
        """Make it where it is not there, and prove that it can be written.

        Raises:
            LedgerError: It cannot be made or written.
        """
        try:
            if has_folders(self.filesystem):
                self.filesystem.makedirs(self.root, exist_ok=True)
            name = f".write-test-{secrets.token_hex(4)}"  # other tasks may be starting too
            call(self._put, name, b"")
            self._remove(name)
        except failures() as exc:
            hint = "Choose another folder with -o, or change its permissions."
            raise explain(
                exc, f"The output folder {self.url}", LedgerError, "written", hint
            ) from exc

    def prove_creation(self) -> None:
        """Prove that of several that create a file, one succeeds: some servers do not care.

        Raises:
            LedgerError: It is not so here, or it cannot be written.
        """
        name = f".create-test-{secrets.token_hex(4)}"
        first, second = self.create(name, b"first"), self.create(name, b"second")
        self.remove(name)
        if not first or second:
            raise LedgerError(
                f"Expected storage that creates a file only once (S3's If-None-Match) at "
                f"{self.url}, found one that lets two tasks create the same.",
                "Choose a folder, or a bucket of S3, Google Cloud Storage or Azure, with -o.",
            )

    def read(self, name: str) -> bytes | None:
        """The whole content of a file, None where there is none.

        Raises:
            LedgerError: It is there and cannot be read.
        """
        try:
            data: bytes = call(self.filesystem.cat_file, self._path(name))
        except FileNotFoundError:
            return None
        except failures() as exc:
            raise explain(exc, f"{name} in {self.url}", LedgerError, "read") from exc
        return data

    def write(self, name: str, data: bytes) -> None:
        """Write a whole file, or replace it.

        Raises:
            LedgerError: It cannot be written; what was there before is still there.
        """
        try:
            call(self._put, name, data)
        except failures() as exc:
            hint = (
                "Free some space or choose another place with -o, then run the same command again."
            )
            raise explain(exc, f"{name} in {self.url}", LedgerError, "written", hint) from exc

    def create(self, name: str, data: bytes) -> bool:
        """Write a whole file where there is none: of several that try, one succeeds.

        Args:
            name: The file.
            data: Its content, which no other process may write: a creation that was repeated,
                because its answer got lost, is told by it.

        Returns:
            Whether it was created.

        Raises:
            LedgerError: It cannot be written.
        """
        try:
            call(self._create, name, data)
        except FileExistsError:
            return self.read(name) == data
        except failures() as exc:
            raise explain(exc, f"{name} in {self.url}", LedgerError, "written") from exc
        return True

    def names(self, folder: str) -> list[str]:
        """Names of the whole files below a folder of it, sorted; none where it is not there.

        Raises:
            LedgerError: It cannot be listed.
        """
        place = self._path(folder)
        self.filesystem.invalidate_cache(place)
        try:
            found = call(self.filesystem.find, place)
        except FileNotFoundError:
            return []
        except failures() as exc:
            raise explain(exc, f"{folder} in {self.url}", LedgerError, "listed") from exc
        return sorted(
            f"{folder}/{path[len(place) :].lstrip('/')}"
            for path in found
            if not path.endswith(PARTIAL)
        )

    def remove(self, *names: str) -> None:
        """Remove files, where they are there.

        Raises:
            LedgerError: One is there and cannot be removed.
        """
        for name in names:
            try:
                self._remove(name)
            except failures() as exc:
                raise explain(exc, f"{name} in {self.url}", LedgerError, "removed") from exc

    def remove_folder(self, name: str) -> None:
        """Remove a folder and all below it, where it is there.

        Raises:
            LedgerError: It is there and cannot be removed.
        """
        try:
            if self.local:
                if self.filesystem.exists(self._path(name)):
                    self.filesystem.rm(self._path(name), recursive=True)
                return
            for path in self.names(name):
                self._remove(path)
        except failures() as exc:
            raise explain(exc, f"{name} in {self.url}", LedgerError, "removed") from exc

    def _remove(self, name: str) -> None:
        try:
            call(self.filesystem.rm_file, self._path(name))
        except FileNotFoundError:
            return

    def _create(self, name: str, data: bytes) -> None:
        path = self._path(name)
        if not self.local:
            self.filesystem.pipe_file(path, data, mode="create")
            return
        place = Path(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = place.with_name(f"{place.name}.{secrets.token_hex(4)}{PARTIAL}")
        partial.write_bytes(data)
        try:
            os.link(partial, place)
        except OSError as exc:
            if exc.errno not in _NO_LINKS:
                raise
            with place.open("xb") as file:  # as safe, but a reader may see a part of it
                file.write(data)
        finally:
            partial.unlink()

    def _path(self, name: str) -> str:
        return f"{self.root.rstrip('/')}/{name}"

    def _put(self, name: str, data: bytes) -> None:
        path = self._path(name)
        if not self.local:
            self.filesystem.pipe_file(path, data)
            return
        place = Path(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = place.with_name(place.name + PARTIAL)
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(place)


def open_output(url: str | os.PathLike[str]) -> Output:
    """The place that a path or URL names; nothing is made yet.

    Raises:
        UsageError: It is no path or URL.
        MissingPackage: The cloud's file system is not installed.
    """
    filesystem, root = open_filesystem(os.fspath(url))
    return Output(scrub(os.fspath(url)), root, filesystem)
