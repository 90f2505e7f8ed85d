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

from batch_scorer.errors import ForeignFile, LedgerError, UsageError
from batch_scorer.storage.filesystem import (
    REMOTE_READERS,
    call,
    has_folders,
    is_local,
    open_filesystem,
    read_file,
)
from batch_scorer.storage.retry import explain, failures
from batch_scorer.system.atomic_write import PARTIAL, partial_file, remove_abandoned
from batch_scorer.system.redact import scrub_url
from batch_scorer.system.strict_json import UNREADABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

OWN_FOLDER = ".cxr-batch"
"""What the program keeps for itself in an output: the record, leases, files half written."""
CHANGED_FOLDER = "earlier/changed-"
"""With the first digits of a hash: where a file goes that was changed since it was written."""
MOST_BYTES = 100_000_000
"""Of a file that is read, but for tables and documents."""
MOST_TABLE_BYTES = 4_000_000_000
_RECORD = f"{OWN_FOLDER}/record"
_MOST_PARTS = 8
"""Files of the record before they are joined into one."""
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES}
"""What file systems without hard links answer, such as a mounted bucket."""
_NO_PATH = {errno.ELOOP, errno.ENAMETOOLONG}
_HINT = "Free some space or choose another place with -o, then run the same command again."
log = logging.getLogger("cxr.output")

Record = dict[str, list[str]]
"""By file name, the SHA-256 of every content that the program wrote there."""


def digest(data: bytes) -> str:
    """SHA-256 as the record holds it."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Output:
    """A place for results. Names are POSIX paths below it.

    ``inside`` are the folders that lead here from the place that was opened: none of them may be a
    link when something is written. ``guard`` is called before files are written or removed, and
    raises where this process may no longer do so.
    """

    url: str
    root: str
    filesystem: Any
    inside: tuple[str, ...] = ()
    guard: Callable[[], None] | None = None

    @property
    def local(self) -> bool:
        """Whether it lies on this machine."""
        return is_local(self.filesystem)

    @property
    def own(self) -> Output:
        """The folder inside it that the program keeps for itself."""
        return self.below(OWN_FOLDER)

    def below(self, name: str) -> Output:
        """The place of that name inside this one."""
        url = f"{self.url.rstrip('/')}/{name}"
        inside = (*self.inside, *name.split("/"))
        return Output(url, self._path(name), self.filesystem, inside, self.guard)

    def guarded(self, guard: Callable[[], None]) -> Output:
        """This place, with a guard."""
        return replace(self, guard=guard)

    def prepare(self) -> None:
        """Make it where it is not there, and prove that it can be written.

        Raises:
            LedgerError: It cannot be made or written.
            ForeignFile: A folder on the way is a link.
        """
        name = f"{OWN_FOLDER}/{secrets.token_hex(8)}.write-test"  # others may be starting too
        with self._explaining(name, ""):
            if has_folders(self.filesystem):
                self.filesystem.makedirs(self.root, exist_ok=True)
            call(self._put, name, b"")
            self._unlink(name)
            if self.local:
                remove_abandoned(self._partials())

    def prove_creation(self) -> None:
        """Prove that of several that create a file, one succeeds: some servers do not care.

        Raises:
            LedgerError: It is not so here, or it cannot be written.
        """
        name = f"{OWN_FOLDER}/{secrets.token_hex(8)}.create-test"
        first, second = self.create(name, b"first"), self.create(name, b"second")
        self._unlink(name)
        if not first or second:
            raise LedgerError(
                f"Expected storage that creates a file only once (S3's If-None-Match) at "
                f"{self.url}, found one that lets two tasks create the same.",
                "Choose a folder, or a bucket of S3, Google Cloud Storage or Azure, with -o.",
            )

    def read(self, name: str, limit_bytes: int = MOST_BYTES) -> bytes | None:
        """The whole content of a file, None where there is none.

        Raises:
            LedgerError: It is there and cannot be read, or is larger than the limit.
        """
        with self._explaining(name, "read"), suppress(FileNotFoundError):
            return call(read_file, self.filesystem, self._path(name), limit_bytes)
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
        with self._explaining(folder, "listed"), suppress(FileNotFoundError):
            found = call(self.filesystem.find, place)
        inside = [path[len(place) :].strip("/") for path in found if not path.endswith(PARTIAL)]
        return sorted(
            f"{folder}/{name}"
            for name in inside
            if _is_plain(name) and OWN_FOLDER not in name.split("/")
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
        with self._explaining(name, "written"):
            try:
                call(self._create, name, data)
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
        self._ask_guard()
        record = self.record()
        for name, data in files.items():
            self._clear_way(name, record, digest(data))
        with self._explaining(", ".join(files), "written"):
            self._enter({name: [digest(data)] for name, data in files.items()}, record)
        record = _join([record, {name: [digest(data)] for name, data in files.items()}])
        for name, data in files.items():
            with self._explaining(name, "written"):
                call(self._put, name, data, partial(self._clear_way, name, record))

    def replace(self, name: str, old: bytes, new: bytes) -> bool:
        """Replace a file that this process created, while it still holds what was written there.

        Returns:
            Whether it did.

        Raises:
            LedgerError: It cannot be read or written.
        """
        if self.read(name) != old:
            return False
        with self._explaining(name, "written"):
            call(self._put, name, new)
        return True

    def remove(self, *names: str) -> None:
        """Remove files that the program wrote; one that was changed since is kept in ``earlier/``.

        Raises:
            LedgerError: One is there and cannot be removed.
        """
        self._ask_guard()
        record = self.record()
        for name in names:
            if name in record and self._clear_way(name, record) is not None:
                self._take_away(name)

    def discard(self, contents: Mapping[str, str]) -> None:
        """Remove files, by name, each while its content has the SHA-256 that is given.

        Raises:
            LedgerError: One is there and cannot be removed.
        """

        def discard_one(item: tuple[str, str]) -> None:
            name, sha256 = item
            data = self.read(name, MOST_TABLE_BYTES) if self._is_file(name) else None
            if data is not None and digest(data) == sha256:
                self._take_away(name)

        with ThreadPoolExecutor(1 if self.local else REMOTE_READERS) as pool:
            list(pool.map(discard_one, contents.items()))

    def remove_empty(self, name: str) -> None:
        """Remove a folder of this machine where nothing is in it."""
        if self.local:
            with suppress(OSError):  # it is not empty, or gone: both are well
                self._local(f"{name}/x").parent.rmdir()

    def record(self) -> Record:
        """What the program wrote here, as far as it is known; see `enter`.

        Raises:
            LedgerError: The record cannot be read.
        """
        return _join(self._parts().values())

    @property
    def claimed(self) -> bool:
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
                raise self._foreign(name)

    def refuse_foreign_folders(self, *names: str) -> None:
        """Make sure that nothing lies in folders of these names.

        Raises:
            ForeignFile: Something does, or a file has the folder's name.
            LedgerError: It cannot be looked at.
        """
        for name in names:
            if self._holds(name):
                raise self._foreign(name)

    def refuse_links(self, *names: str) -> None:
        """Make sure that no folder of these names is a link or a file, nor one that leads there.

        Raises:
            ForeignFile: One is.
        """
        if self.local:
            for name in names:
                self._local(f"{name}/x")

    def _holds(self, name: str) -> bool:
        """Whether there is a file of that name, or a folder with anything in it."""
        if not self.local:
            return self._exists(name)
        place = self._local(name)
        if not place.is_dir() or place.is_symlink():
            return os.path.lexists(place)
        return any(place.iterdir())

    def _exists(self, name: str) -> bool:
        """Whether there is anything of that name."""
        path = self._path(name)
        self.filesystem.invalidate_cache(path)
        with self._explaining(name, "read"):
            return bool(call(self.filesystem.exists, path))

    def enter(self, files: Record) -> None:
        """Add files to the record, which begins with the first call, even of no file.

        Args:
            files: By name, the contents that are the program's.

        Raises:
            LedgerError: It cannot be written.
        """
        with self._explaining(_RECORD, "written"):
            self._enter(files)

    def _enter(self, files: Record, known: Record | None = None) -> None:
        """Add what the record does not hold yet, and join its parts where there are many."""
        new = {
            name: contents
            for name, contents in files.items()
            if known is None or not set(contents) <= set(known.get(name, ()))
        }
        if known is None or new:
            self._add_part(new)
        if len(self._part_names()) > _MOST_PARTS:
            parts = self._parts()
            self._add_part(_join(parts.values()))
            for name in parts:
                self._unlink(name)

    def _ask_guard(self) -> None:
        if self.guard:
            self.guard()

    def _add_part(self, files: Record) -> None:
        name = f"{_RECORD}/{secrets.token_hex(16)}.json"
        call(self._create, name, msgspec.json.encode(files, order="sorted"))

    def _part_names(self) -> list[str]:
        return [name for name in self.own.names("record") if name.endswith(".json")]

    def _parts(self) -> dict[str, Record]:
        """The files of the record by their names."""
        while True:
            contents = {name: self.own.read(name) for name in self._part_names()}
            if None not in contents.values():  # else it was joined to one that is not listed here
                return {
                    f"{OWN_FOLDER}/{name}": self._decode_part(name, data)
                    for name, data in contents.items()
                    if data is not None
                }

    def _decode_part(self, name: str, data: bytes) -> Record:
        try:
            return msgspec.json.decode(data, type=Record)
        except UNREADABLE as exc:
            raise ForeignFile(
                f"Expected the record of cxr-batch in {self.own.url}/{name}, found another file.",
                "Choose another folder with -o, or move that file away.",
            ) from exc

    def _clear_way(self, name: str, record: Record, coming: str = "") -> bytes | None:
        """Make sure that what lies under a name may go; keep it where it was changed.

        Returns:
            What lies there, None where there is nothing.

        Raises:
            ForeignFile: The program did not write it.
        """
        if not self._is_file(name):
            return None
        data = self.read(name, MOST_TABLE_BYTES)
        if data is None or digest(data) in (coming, *record.get(name, ())):
            return data
        record = self.record()  # another task may have written it since
        if digest(data) in record.get(name, ()):
            return data
        if name not in record:
            raise self._foreign(name)
        places = (f"{CHANGED_FOLDER}{digest(data)[:12]}{more}" for more in _name_copies())
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
        path = self._local(name)
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise self._foreign(name)
        return path.exists()

    def _foreign(self, name: str) -> ForeignFile:
        return ForeignFile(
            f"{self.url} holds a {name} that cxr-batch did not write, and would replace.",
            "Choose another folder with -o, or move it away.",
        )

    @contextmanager
    def _explaining(self, name: str, done: str) -> Iterator[None]:
        """Turn a failure at a file into an error of the program.

        What the program keeps for itself stands for the whole output.
        """
        try:
            yield
        except failures() as exc:
            what = f"{name} in {self.url}"
            hint = _HINT if done == "written" else ""
            if OWN_FOLDER in (*self.inside, *name.split("/")):
                what = f"The output folder {self.url.removesuffix(f'/{OWN_FOLDER}')}"
                hint = hint or "Choose another folder with -o, or change its permissions."
                done = "written"
            raise explain(exc, what, LedgerError, done, hint) from exc

    def _take_away(self, name: str) -> None:
        with self._explaining(name, "removed"):
            self._unlink(name)

    def _unlink(self, name: str) -> None:
        with suppress(FileNotFoundError):
            call(self.filesystem.rm_file, self._path(name))

    def _create(self, name: str, data: bytes) -> None:
        if not self.local:
            self.filesystem.pipe_file(self._path(name), data, mode="create")
            return
        path = self._local(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial_file(data, self._partials()) as whole:
            try:
                os.link(whole, path)
            except OSError as exc:
                if exc.errno not in _NO_LINKS:
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
        path = self._local(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial_file(data, self._partials()) as whole:
            while clear and clear() is None:
                try:
                    os.link(whole, path)
                except FileExistsError:
                    continue  # it came this moment
                except OSError as exc:
                    if exc.errno not in _NO_LINKS:
                        raise
                    break
                return
            whole.replace(path)

    def _partials(self) -> Path:
        """Where files lie while they are written: not among those that people look at."""
        own = self if self.inside[-1:] == (OWN_FOLDER,) else self.own
        folder = own._local("x").parent  # noqa: SLF001 - another object of its own class
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _path(self, name: str) -> str:
        """The path of a name in the file system; a name never leads out of the output."""
        if not _is_plain(name):
            raise LedgerError(
                f"Expected the name of a file inside {self.url}, found {name!r}.",
                "Something wrote that name into the results: choose another output with -o.",
                [repr(name)],
            )
        return f"{self.root.rstrip('/')}/{name}"

    def _local(self, name: str) -> Path:
        """The path of a file on this machine; no folder below the output may be a link.

        Raises:
            ForeignFile: One is, or is a file.
        """
        path = Path(self._path(name))
        below = len(self.inside) + name.count("/")
        for folder in list(path.parents)[:below]:
            if folder.is_symlink() or folder.is_file():
                found = "link" if folder.is_symlink() else "file"
                raise ForeignFile(
                    f"Expected a folder of its own at {folder}, found a {found}.",
                    f"Choose another folder with -o, or move the {found} away.",
                )
        return path


def _join(parts: Iterable[Record]) -> Record:
    """All contents of each name."""
    joined: Record = {}
    for part in parts:
        for name, contents in part.items():
            joined[name] = list(dict.fromkeys([*joined.get(name, ()), *contents]))
    return joined


def _name_copies() -> Iterator[str]:
    """Endings that tell copies of one name apart; the first is empty."""
    yield ""
    yield from (f"-{number}" for number in itertools.count(2))


def _is_plain(name: str) -> bool:
    """Whether a name leads to a file below its folder, on every system."""
    return not ({"", ".", ".."} & set(name.split("/"))) and "\0" not in name and "\\" not in name


def open_output(url: str | os.PathLike[str]) -> Output:
    """The place that a path or URL names; nothing is made yet.

    Raises:
        UsageError: It is no path or URL.
        MissingPackage: The cloud's file system is not installed.
    """
    filesystem, root = open_filesystem(os.fspath(url))
    output = Output(scrub_url(os.fspath(url)), root, filesystem)
    if output.local:
        _check_path(output)
    return output


def _check_path(output: Output) -> None:
    """Refuse a path of this machine that no file can have."""
    try:
        os.lstat(f"{output.root}/{_RECORD}/{'0' * 64}.json")
    except OSError as exc:
        if exc.errno in _NO_PATH:
            raise UsageError(
                f"Expected a folder, found {output.url[:200]}: {exc.strerror}.",
                "Choose another one with -o.",
            ) from exc
    if OWN_FOLDER in Path(output.root).parts:
        raise UsageError(
            f"Expected a folder for results, found {output.url[:200]}, inside the folder that "
            "cxr-batch keeps for itself in an output.",
            "Choose another one with -o.",
        )
