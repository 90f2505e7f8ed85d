"""Where results go: a folder of this machine, or any fsspec URL.

A reader sees a whole file or none: on disk a file is written under another name and renamed, and an
object store shows an object only when all of it has come.

Nothing that somebody else wrote is replaced or removed. Before a file is written, its name and the
SHA-256 of its content go into the output's record, and a file is replaced or removed only while its
content is one of those. The record is a folder of small files that are created and never changed,
so that several tasks may add to it at once and a stopped one can take nothing back.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import logging
import os
import secrets
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from batch_scorer.errors import ForeignFile, OutputError, UsageError
from batch_scorer.storage.filesystem import (
    MAX_REMOTE_READS,
    call_with_retries,
    is_local,
    needs_folders,
    open_filesystem,
    read_file,
)
from batch_scorer.storage.retry import storage_errors, translate_error
from batch_scorer.system.atomic_write import PARTIAL_SUFFIX, partial_file, remove_stale_partials
from batch_scorer.system.redact import redact_url
from batch_scorer.system.strict_json import DECODE_ERRORS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

INTERNAL_FOLDER = ".cxr-batch"
"""What the program keeps for itself in an output: the record, leases, files half written."""
CHANGED_FOLDER = "earlier/changed-"
"""With the first digits of a hash: where a file goes that was changed since it was written."""
MAX_READ_BYTES = 100_000_000
"""Of a file that is read, but for tables and documents."""
MAX_TABLE_READ_BYTES = 4_000_000_000
_RECORD_FOLDER = f"{INTERNAL_FOLDER}/record"
_MAX_RECORD_PARTS = 8
"""Files of the record before they are joined into one."""
_NO_HARD_LINK_ERRNOS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES}
"""What file systems without hard links answer, such as a mounted bucket."""
_INVALID_PATH_ERRNOS = {errno.ELOOP, errno.ENAMETOOLONG}
_HINT = "Free some space or choose another place with -o, then run the same command again."
log = logging.getLogger(__name__)

OwnershipRecord = dict[str, list[str]]
"""By file name, the SHA-256 of every content that the program wrote there."""


def sha256_hex(data: bytes) -> str:
    """SHA-256 as the record holds it."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Output:
    """A place for results. Names are POSIX paths below it.

    ``subpath`` are the folders that lead here from the place that was opened: none of them may be a
    link when something is written. ``guard`` is called before files are written or removed, and
    raises where this process may no longer do so.
    """

    url: str
    root: str
    filesystem: Any
    subpath: tuple[str, ...] = ()
    guard: Callable[[], None] | None = None

    @property
    def local(self) -> bool:
        """Whether it lies on this machine."""
        return is_local(self.filesystem)

    @property
    def own(self) -> Output:
        """The folder inside it that the program keeps for itself."""
        return self.subfolder(INTERNAL_FOLDER)

    def subfolder(self, name: str) -> Output:
        """The place of that name inside this one."""
        url = f"{self.url.rstrip('/')}/{name}"
        inside = (*self.subpath, *name.split("/"))
        return Output(url, self._path(name), self.filesystem, inside, self.guard)

    def with_guard(self, guard: Callable[[], None]) -> Output:
        """This place, with a guard."""
        return replace(self, guard=guard)

    def prepare(self) -> None:
        """Make it where it is not there, and prove that it can be written.

        Raises:
            LedgerError: It cannot be made or written.
            ForeignFile: A folder on the way is a link.
        """
        name = f"{INTERNAL_FOLDER}/{secrets.token_hex(8)}.write-test"  # others may be starting too
        with self._translating_errors(name, ""):
            if needs_folders(self.filesystem):
                self.filesystem.makedirs(self.root, exist_ok=True)
            call_with_retries(self._put, name, b"")
            self._unlink(name)
            if self.local:
                remove_stale_partials(self._partials_folder())

    def check_exclusive_create(self) -> None:
        """Prove that of several that create a file, one succeeds: some servers do not care.

        Raises:
            LedgerError: It is not so here, or it cannot be written.
        """
        name = f"{INTERNAL_FOLDER}/{secrets.token_hex(8)}.create-test"
        first, second = self.create(name, b"first"), self.create(name, b"second")
        self._unlink(name)
        if not first or second:
            raise OutputError(
                f"Expected storage that creates a file only once (S3's If-None-Match) at "
                f"{self.url}, found one that lets two tasks create the same.",
                "Choose a folder, or a bucket of S3, Google Cloud Storage or Azure, with -o.",
            )

    def read(self, name: str, limit_bytes: int = MAX_READ_BYTES) -> bytes | None:
        """The whole content of a file, None where there is none.

        Raises:
            LedgerError: It is there and cannot be read, or is larger than the limit.
        """
        with self._translating_errors(name, "read"), suppress(FileNotFoundError):
            return call_with_retries(read_file, self.filesystem, self._path(name), limit_bytes)
        return None

    def names(self, folder: str) -> list[str]:
        """Names of the whole files below a folder of it, sorted; none where it is not there.

        The program's own folder, and names that no file of the program has, are left out.

        Raises:
            LedgerError: It cannot be listed.
        """
        place = self._path(folder)
        self.filesystem.invalidate_cache(place)
        found: Iterable[str] = ()
        with self._translating_errors(folder, "listed"), suppress(FileNotFoundError):
            found = call_with_retries(self.filesystem.find, place)
        inside = [
            path[len(place) :].strip("/") for path in found if not path.endswith(PARTIAL_SUFFIX)
        ]
        return sorted(
            f"{folder}/{name}"
            for name in inside
            if _is_safe_name(name) and INTERNAL_FOLDER not in name.split("/")
        )

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
        with self._translating_errors(name, "written"):
            try:
                call_with_retries(self._create, name, data)
            except FileExistsError:
                return self.read(name) == data
        return True

    def write(self, name: str, data: bytes) -> None:
        """Write a whole file, or replace one that the program wrote, as `write_all` does."""
        self.write_all({name: data})

    def write_all(self, files: Mapping[str, bytes]) -> None:
        """Write whole files, in their order, and enter them in the record first.

        A file that was changed since the program wrote it is kept below ``earlier/``.

        Raises:
            ForeignFile: One is there that the program did not write. Nothing was written, unless it
                came meanwhile.
            LedgerError: One cannot be written; what was there before is still there.
        """
        self._check_guard()
        record = self.record()
        for name, data in files.items():
            self._check_replaceable(name, record, sha256_hex(data))
        with self._translating_errors(", ".join(files), "written"):
            self._add_to_record({name: [sha256_hex(data)] for name, data in files.items()}, record)
        record = _merge_records(
            [record, {name: [sha256_hex(data)] for name, data in files.items()}]
        )
        for name, data in files.items():
            with self._translating_errors(name, "written"):
                call_with_retries(
                    self._put, name, data, partial(self._check_replaceable, name, record)
                )

    def replace(self, name: str, old: bytes, new: bytes) -> bool:
        """Replace a file that this process created, while it still holds what was written there.

        Returns:
            Whether it did.

        Raises:
            LedgerError: It cannot be read or written.
        """
        if self.read(name) != old:
            return False
        with self._translating_errors(name, "written"):
            call_with_retries(self._put, name, new)
        return True

    def remove(self, *names: str) -> None:
        """Remove files that the program wrote; one that was changed since is kept in ``earlier/``.

        Raises:
            LedgerError: One is there and cannot be removed.
        """
        self._check_guard()
        record = self.record()
        for name in names:
            if name in record and self._check_replaceable(name, record) is not None:
                self._remove_file(name)

    def discard(self, contents: Mapping[str, str]) -> None:
        """Remove files, by name, each while its content has the SHA-256 that is given.

        Raises:
            LedgerError: One is there and cannot be removed.
        """

        def discard_one(item: tuple[str, str]) -> None:
            name, sha256 = item
            data = self.read(name, MAX_TABLE_READ_BYTES) if self._is_file(name) else None
            if data is not None and sha256_hex(data) == sha256:
                self._remove_file(name)

        with ThreadPoolExecutor(1 if self.local else MAX_REMOTE_READS) as pool:
            list(pool.map(discard_one, contents.items()))

    def remove_empty_folder(self, name: str) -> None:
        """Remove a folder of this machine where nothing is in it."""
        if self.local:
            with suppress(OSError):  # it is not empty, or gone: both are well
                self._local_path(f"{name}/x").parent.rmdir()

    def record(self) -> OwnershipRecord:
        """What the program wrote here, as far as it is known; see `enter`.

        Raises:
            LedgerError: The record cannot be read.
        """
        return _merge_records(self._parts().values())

    @property
    def has_record(self) -> bool:
        """Whether the program has a record here."""
        return bool(self._part_names())

    def refuse_foreign_files(self, names: Iterable[str], own: Iterable[str] = ()) -> None:
        """Make sure that what lies under these names are files of the program, or nothing.

        Args:
            names: The names.
            own: Those that are the program's, whatever the record says.

        Raises:
            ForeignFile: One is not.
            LedgerError: It cannot be looked at.
        """
        known = {*self.record(), *own}
        for name in names:
            if self._is_file(name) and name not in known and self._exists(name):
                raise self._foreign_file_error(name)

    def refuse_foreign_folders(self, *names: str) -> None:
        """Make sure that nothing lies in folders of these names.

        Raises:
            ForeignFile: Something does, or a file has the folder's name.
            LedgerError: It cannot be looked at.
        """
        for name in names:
            if self._has_content(name):
                raise self._foreign_file_error(name)

    def refuse_links(self, *names: str) -> None:
        """Make sure that no folder of these names is a link or a file, nor one that leads there.

        Raises:
            ForeignFile: One is.
        """
        if self.local:
            for name in names:
                self._local_path(f"{name}/x")

    def _has_content(self, name: str) -> bool:
        """Whether there is a file of that name, or a folder with anything in it."""
        if not self.local:
            return self._exists(name)
        place = self._local_path(name)
        if not place.is_dir() or place.is_symlink():
            return os.path.lexists(place)
        return any(place.iterdir())

    def _exists(self, name: str) -> bool:
        """Whether there is anything of that name."""
        path = self._path(name)
        self.filesystem.invalidate_cache(path)
        with self._translating_errors(name, "read"):
            return bool(call_with_retries(self.filesystem.exists, path))

    def add_to_record(self, files: OwnershipRecord) -> None:
        """Add files to the record, which begins with the first call, even of no file.

        Args:
            files: By name, the contents that are the program's.

        Raises:
            LedgerError: It cannot be written.
        """
        with self._translating_errors(_RECORD_FOLDER, "written"):
            self._add_to_record(files)

    def _add_to_record(self, files: OwnershipRecord, known: OwnershipRecord | None = None) -> None:
        """Add what the record does not hold yet, and join its parts where there are many."""
        new = {
            name: contents
            for name, contents in files.items()
            if known is None or not set(contents) <= set(known.get(name, ()))
        }
        if known is None or new:
            self._add_part(new)
        if len(self._part_names()) > _MAX_RECORD_PARTS:
            parts = self._parts()
            self._add_part(_merge_records(parts.values()))
            for name in parts:
                self._unlink(name)

    def _check_guard(self) -> None:
        if self.guard:
            self.guard()

    def _add_part(self, files: OwnershipRecord) -> None:
        name = f"{_RECORD_FOLDER}/{secrets.token_hex(16)}.json"
        call_with_retries(self._create, name, msgspec.json.encode(files, order="sorted"))

    def _part_names(self) -> list[str]:
        return [name for name in self.own.names("record") if name.endswith(".json")]

    def _parts(self) -> dict[str, OwnershipRecord]:
        """The files of the record by their names."""
        while True:
            contents = {name: self.own.read(name) for name in self._part_names()}
            if None not in contents.values():  # else it was joined to one that is not listed here
                return {
                    f"{INTERNAL_FOLDER}/{name}": self._decode_part(name, data)
                    for name, data in contents.items()
                    if data is not None
                }

    def _decode_part(self, name: str, data: bytes) -> OwnershipRecord:
        try:
            return msgspec.json.decode(data, type=OwnershipRecord)
        except DECODE_ERRORS as exc:
            raise ForeignFile(
                f"Expected the record of cxr-batch in {self.own.url}/{name}, found another file.",
                "Choose another folder with -o, or move that file away.",
            ) from exc

    def _check_replaceable(
        self, name: str, record: OwnershipRecord, coming: str = ""
    ) -> bytes | None:
        """Make sure that what lies under a name may go; keep it where it was changed.

        Returns:
            What lies there, None where there is nothing.

        Raises:
            ForeignFile: The program did not write it.
        """
        if not self._is_file(name):
            return None
        data = self.read(name, MAX_TABLE_READ_BYTES)
        if data is None or sha256_hex(data) in (coming, *record.get(name, ())):
            return data
        record = self.record()  # another task may have written it since
        if sha256_hex(data) in record.get(name, ()):
            return data
        if name not in record:
            raise self._foreign_file_error(name)
        places = (f"{CHANGED_FOLDER}{sha256_hex(data)[:12]}{more}" for more in _copy_suffixes())
        kept = next(kept for place in places if self.create(kept := f"{place}/{name}", data))
        log.warning("%s may hold changes of yours: it is kept as %s", name, kept)
        return data

    def _is_file(self, name: str) -> bool:
        """Whether something lies under a name.

        Raises:
            ForeignFile: It is no file, such as a folder or a link, or lies behind a link.
        """
        if not self.local:
            return True  # reading it tells
        path = self._local_path(name)
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise self._foreign_file_error(name)
        return path.exists()

    def _foreign_file_error(self, name: str) -> ForeignFile:
        return ForeignFile(
            f"{self.url} holds a {name} that cxr-batch did not write, and would replace.",
            "Choose another folder with -o, or move it away.",
        )

    @contextmanager
    def _translating_errors(self, name: str, done: str) -> Iterator[None]:
        """Turn a failure at a file into an error of the program.

        What the program keeps for itself stands for the whole output.
        """
        try:
            yield
        except storage_errors() as exc:
            what = f"{name} in {self.url}"
            hint = _HINT if done == "written" else ""
            if INTERNAL_FOLDER in (*self.subpath, *name.split("/")):
                what = f"The output folder {self.url.removesuffix(f'/{INTERNAL_FOLDER}')}"
                hint = hint or "Choose another folder with -o, or change its permissions."
                done = "written"
            raise translate_error(exc, what, OutputError, done, hint) from exc

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
                with path.open("xb") as file:  # as safe, but a reader may see a part of it
                    file.write(data)

    def _put(self, name: str, data: bytes, clear: Callable[[], bytes | None] | None = None) -> None:
        """Put a whole file in place.

        Args:
            name: The file.
            data: Its content.
            clear: Makes sure that what lies there may go; None where nothing does. Writing takes
                its time, so a local file is looked at again right before it is replaced.
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
                    continue  # it came this moment
                except OSError as exc:
                    if exc.errno not in _NO_HARD_LINK_ERRNOS:
                        raise
                    break
                return
            whole.replace(path)

    def _partials_folder(self) -> Path:
        """Where files lie while they are written: not among those that people look at."""
        own = self if self.subpath[-1:] == (INTERNAL_FOLDER,) else self.own
        folder = own._local_path("x").parent  # noqa: SLF001 - another object of its own class
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _path(self, name: str) -> str:
        """The path of a name in the file system; a name never leads out of the output."""
        if not _is_safe_name(name):
            raise OutputError(
                f"Expected the name of a file inside {self.url}, found {name!r}.",
                "Something wrote that name into the results: choose another output with -o.",
                [repr(name)],
            )
        return f"{self.root.rstrip('/')}/{name}"

    def _local_path(self, name: str) -> Path:
        """The path of a file on this machine; no folder below the output may be a link.

        Raises:
            ForeignFile: One is, or is a file.
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


def _merge_records(parts: Iterable[OwnershipRecord]) -> OwnershipRecord:
    """All contents of each name."""
    joined: OwnershipRecord = {}
    for part in parts:
        for name, contents in part.items():
            joined[name] = list(dict.fromkeys([*joined.get(name, ()), *contents]))
    return joined


def _copy_suffixes() -> Iterator[str]:
    """Endings that tell copies of one name apart; the first is empty."""
    yield ""
    yield from (f"-{number}" for number in itertools.count(2))


def _is_safe_name(name: str) -> bool:
    """Whether a name leads to a file below its folder, on every system."""
    return not ({"", ".", ".."} & set(name.split("/"))) and "\0" not in name and "\\" not in name


def open_output(url: str | os.PathLike[str]) -> Output:
    """The place that a path or URL names; nothing is made yet.

    Raises:
        UsageError: It is no path or URL.
        MissingPackage: The cloud's file system is not installed.
    """
    filesystem, root = open_filesystem(os.fspath(url))
    output = Output(redact_url(os.fspath(url)), root, filesystem)
    if output.local:
        _check_path(output)
    return output


def _check_path(output: Output) -> None:
    """Refuse a path of this machine that no file can have."""
    try:
        os.lstat(f"{output.root}/{_RECORD_FOLDER}/{'0' * 64}.json")
    except OSError as exc:
        if exc.errno in _INVALID_PATH_ERRNOS:
            raise UsageError(
                f"Expected a folder, found {output.url[:200]}: {exc.strerror}.",
                "Choose another one with -o.",
            ) from exc
    if INTERNAL_FOLDER in Path(output.root).parts:
        raise UsageError(
            f"Expected a folder for results, found {output.url[:200]}, inside the folder that "
            "cxr-batch keeps for itself in an output.",
            "Choose another one with -o.",
        )
