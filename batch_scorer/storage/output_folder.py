"""Whole files in a folder of this machine, or below any fsspec URL.

A reader sees a whole file or none. A local file is written under another name, then renamed; an
object store shows an object only once all of its bytes have arrived.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from batch_scorer.errors import ForeignFile, OutputError
from batch_scorer.storage.filesystem import (
    MAX_REMOTE_READS,
    call_with_retries,
    is_local,
    needs_folders,
    read_file,
)
from batch_scorer.storage.retry import storage_errors, translate_error
from batch_scorer.system.atomic_write import PARTIAL_SUFFIX, partial_file, remove_stale_partials

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

INTERNAL_FOLDER = ".cxr-batch"
"""The program's own folder in an output: the ownership record, leases, partial files."""
MAX_READ_BYTES = 100_000_000
"""Limit for a file other than a table or a document."""
MAX_TABLE_READ_BYTES = 4_000_000_000
_NO_HARD_LINK_ERRNOS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES}
"""Errors of file systems without hard links, such as a mounted bucket."""
_HINT = "Free some space or choose another output with -o, then run the same command again."


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 of data as lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class OutputFolder:
    """A folder whose files are read, written and removed whole. Names are POSIX paths below it.

    ``subpath`` lists the folders between the opened output and this one. None of them may be a link
    when a file is written.
    """

    url: str
    root: str
    filesystem: Any
    subpath: tuple[str, ...] = ()

    @property
    def local(self) -> bool:
        """True if the folder is on this machine."""
        return is_local(self.filesystem)

    @property
    def internal(self) -> Self:
        """The program's own folder inside it."""
        return self.subfolder(INTERNAL_FOLDER)

    def subfolder(self, name: str) -> Self:
        """Return the folder with this name inside this one; create nothing."""
        url = f"{self.url.rstrip('/')}/{name}"
        return replace(
            self, url=url, root=self._path(name), subpath=(*self.subpath, *name.split("/"))
        )

    def prepare(self) -> None:
        """Create the folder if it is missing, and write and remove a test file.

        Raises:
            OutputError: It cannot be created or written.
            ForeignFile: A folder on the way is a link.
        """
        # A random name, since other tasks may start at the same moment.
        name = f"{INTERNAL_FOLDER}/{secrets.token_hex(8)}.write-test"
        with self._translating_errors(name, ""):
            if needs_folders(self.filesystem):
                self.filesystem.makedirs(self.root, exist_ok=True)
            call_with_retries(self._put, name, b"")
            self._unlink(name)
            if self.local:
                remove_stale_partials(self._partials_folder())

    def check_exclusive_create(self) -> None:
        """Check that a file can be created only once: some servers ignore that condition.

        Raises:
            OutputError: The storage creates a file twice, or cannot be written.
        """
        name = f"{INTERNAL_FOLDER}/{secrets.token_hex(8)}.create-test"
        first, second = self.create(name, b"first"), self.create(name, b"second")
        self._unlink(name)
        if not first or second:
            raise OutputError(
                f"Expected storage that creates a file only once (S3's If-None-Match) at "
                f"{self.url}, found storage that lets two tasks create the same file.",
                "Choose a folder, or a bucket of S3, Google Cloud Storage or Azure, with -o.",
            )

    def read(self, name: str, limit_bytes: int = MAX_READ_BYTES) -> bytes | None:
        """Read a whole file; None if it does not exist.

        Raises:
            OutputError: It exists but cannot be read, or is larger than the limit.
        """
        with self._translating_errors(name, "read"), suppress(FileNotFoundError):
            return call_with_retries(read_file, self.filesystem, self._path(name), limit_bytes)
        return None

    def list_files(self, folder: str) -> list[str]:
        """List the names of the whole files below a folder, sorted; none if it does not exist.

        Partial files, the internal folder and names that the program never writes are left out.

        Raises:
            OutputError: It cannot be listed.
        """
        root = self._path(folder)
        self.filesystem.invalidate_cache(root)
        found: Iterable[str] = ()
        with self._translating_errors(folder, "listed"), suppress(FileNotFoundError):
            found = call_with_retries(self.filesystem.find, root)
        inside = [
            path[len(root) :].strip("/") for path in found if not path.endswith(PARTIAL_SUFFIX)
        ]
        return sorted(
            f"{folder}/{name}"
            for name in inside
            if _is_safe_name(name) and INTERNAL_FOLDER not in name.split("/")
        )

    def create(self, name: str, data: bytes) -> bool:
        """Write a whole file where none exists; of several tasks that try, one succeeds.

        Args:
            name: The file.
            data: Its content, which no other process may write. It identifies this task's file
                where a creation is repeated because the server's response was lost.

        Returns:
            Whether this call created it.

        Raises:
            OutputError: It cannot be written.
        """
        with self._translating_errors(name, "written"):
            try:
                call_with_retries(self._create, name, data)
            except FileExistsError:
                return self.read(name) == data
        return True

    def replace(self, name: str, old: bytes, new: bytes) -> bool:
        """Replace a file that this process created, if its content is still the same.

        Returns:
            Whether it was replaced.

        Raises:
            OutputError: It cannot be read or written.
        """
        if self.read(name) != old:
            return False
        with self._translating_errors(name, "written"):
            call_with_retries(self._put, name, new)
        return True

    def remove_unchanged(self, contents: Mapping[str, str]) -> None:
        """Remove files whose content still has the given SHA-256.

        Args:
            contents: The expected SHA-256 by file name.

        Raises:
            OutputError: A file exists but cannot be removed.
        """

        def remove(item: tuple[str, str]) -> None:
            name, sha256 = item
            data = self.read(name, MAX_TABLE_READ_BYTES) if self._is_file(name) else None
            if data is not None and sha256_hex(data) == sha256:
                self._remove_file(name)

        with ThreadPoolExecutor(1 if self.local else MAX_REMOTE_READS) as pool:
            list(pool.map(remove, contents.items()))

    def remove_empty_folder(self, name: str) -> None:
        """Remove a folder of this machine if it is empty."""
        if self.local:
            with suppress(OSError):  # not empty, or already removed
                self._local_path(f"{name}/x").parent.rmdir()

    def refuse_links(self, *names: str) -> None:
        """Refuse folders that are a link or a file, or lie behind one.

        Raises:
            ForeignFile: One is.
        """
        if self.local:
            for name in names:
                self._local_path(f"{name}/x")

    def _has_content(self, name: str) -> bool:
        """Return whether a file has this name, or a folder that is not empty."""
        if not self.local:
            return self._exists(name)
        folder = self._local_path(name)
        if not folder.is_dir() or folder.is_symlink():
            return os.path.lexists(folder)
        return any(folder.iterdir())

    def _exists(self, name: str) -> bool:
        """Return whether a file or folder has this name."""
        path = self._path(name)
        self.filesystem.invalidate_cache(path)
        with self._translating_errors(name, "read"):
            return bool(call_with_retries(self.filesystem.exists, path))

    def _is_file(self, name: str) -> bool:
        """Return whether a file may have this name; of a bucket, only reading it shows.

        Raises:
            ForeignFile: It is something other than a file, such as a folder or a link, or lies
                behind a link.
        """
        if not self.local:
            return True
        path = self._local_path(name)
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise self._foreign_file_error(name)
        return path.exists()

    def _foreign_file_error(self, name: str) -> ForeignFile:
        return ForeignFile(
            f"{self.url} holds a {name} that cxr-batch did not write and would replace.",
            "Choose another folder with -o, or move it away.",
        )

    @contextmanager
    def _translating_errors(self, name: str, action: str) -> Iterator[None]:
        """Turn the failure of a file into an error of the program.

        A failure in the internal folder is reported as one of the whole output.
        """
        try:
            yield
        except storage_errors() as exc:
            what = f"{name} in {self.url}"
            hint = _HINT if action == "written" else ""
            if INTERNAL_FOLDER in (*self.subpath, *name.split("/")):
                what = f"The output folder {self.url.removesuffix(f'/{INTERNAL_FOLDER}')}"
                hint = hint or "Choose another folder with -o, or change its permissions."
                action = "written"
            raise translate_error(exc, what, OutputError, action, hint) from exc

    def _remove_file(self, name: str) -> None:
        with self._translating_errors(name, "removed"):
            self._unlink(name)

    def _unlink(self, name: str) -> None:
        with suppress(FileNotFoundError):
            call_with_retries(self.filesystem.rm_file, self._path(name))

    def _create(self, name: str, data: bytes) -> None:
        if not self.local:
            self.filesystem.pipe_file(self._path(name), data, mode="create")
            return
        path = self._local_path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial_file(data, self._partials_folder()) as whole:
            try:
                os.link(whole, path)
            except OSError as exc:
                if exc.errno not in _NO_HARD_LINK_ERRNOS:
                    raise
                with path.open("xb") as file:  # as safe, but a reader may see part of the file
                    file.write(data)

    def _put(self, name: str, data: bytes, clear: Callable[[], bytes | None] | None = None) -> None:
        """Write or replace a whole file.

        Args:
            name: The file.
            data: Its content.
            clear: Checks that the present file may be replaced, and returns None if there is none.
                Writing takes time, so a local file is checked right before it is replaced.
        """
        if not self.local:
            self.filesystem.pipe_file(self._path(name), data)
            return
        path = self._local_path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial_file(data, self._partials_folder()) as whole:
            while clear and clear() is None:
                try:
                    os.link(whole, path)
                except FileExistsError:
                    continue  # another task has just created it
                except OSError as exc:
                    if exc.errno not in _NO_HARD_LINK_ERRNOS:
                        raise
                    break
                return
            whole.replace(path)

    def _partials_folder(self) -> Path:
        """Return the folder for files that are being written: the internal one, out of sight."""
        own = self if self.subpath[-1:] == (INTERNAL_FOLDER,) else self.internal
        folder = own._local_path("x").parent  # noqa: SLF001 - another object of its own class
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _path(self, name: str) -> str:
        """Return the path of a name in the file system.

        Raises:
            OutputError: The name leads out of the folder.
        """
        if not _is_safe_name(name):
            raise OutputError(
                f"Expected the name of a file inside {self.url}, found {name!r}.",
                "Another program changed the results: choose another output with -o.",
                [repr(name)],
            )
        return f"{self.root.rstrip('/')}/{name}"

    def _local_path(self, name: str) -> Path:
        """Return the path of a file on this machine.

        Raises:
            ForeignFile: A folder between the output and the file is a link or a file.
        """
        path = Path(self._path(name))
        below = len(self.subpath) + name.count("/")
        for folder in list(path.parents)[:below]:
            if folder.is_symlink() or folder.is_file():
                found = "link" if folder.is_symlink() else "file"
                raise ForeignFile(
                    f"Expected a folder of its own at {folder}, found a {found}.",
                    f"Choose another folder with -o, or move the {found} away.",
                )
        return path


def _is_safe_name(name: str) -> bool:
    """Return whether a name leads to a file below its folder on every system."""
    return not ({"", ".", ".."} & set(name.split("/"))) and "\0" not in name and "\\" not in name
