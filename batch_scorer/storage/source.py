"""Where films and their labels come from: listed in full before anything is read.

Keys are POSIX paths relative to the root, sorted. Files and folders whose name begins with a dot
are the operating system's own (``.DS_Store``, ``._film.jpeg``): they are counted, not scored. A
file whose name ends in .txt or .csv is a list of films (see `film_list`).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

import msgspec

from batch_scorer.errors import (
    ImageError,
    MissingPackage,
    NotAllowed,
    ProtocolRefused,
    SourceError,
    TooLarge,
    Unreadable,
    UsageError,
)
from batch_scorer.model.card import CLASSES
from batch_scorer.storage.access import AccessPolicy, raise_as_run_error
from batch_scorer.storage.filesystem import (
    MAX_ATTEMPTS,
    MAX_REMOTE_READS,
    call_with_retries,
    is_local,
    open_filesystem,
    read_file,
)
from batch_scorer.storage.image_list import ImageList, is_image_list, parse_image_list
from batch_scorer.storage.labels import MAX_TABLE_BYTES, read_label_file
from batch_scorer.storage.listing import ImageRef, is_hidden, list_files, make_image_ref
from batch_scorer.storage.outages import OutageTracker
from batch_scorer.storage.retry import (
    describe_failure,
    find_private_path,
    is_transient,
    lacks_bucket,
    lacks_reason,
    storage_errors,
    translate_error,
)
from batch_scorer.system.redact import redact_url
from batch_scorer.system.regular_file import FileTooLarge

_LISTING_HINT = "Change its permissions, or score the other folders."
SYNTHETIC_MARKER = "SYNTHETIC.txt"
MAX_FILE_BYTES = 500_000_000
MAX_MARKER_BYTES = 100_000


@dataclass(frozen=True)
class Source:
    """The films of one folder, bucket, list or file.

    ``listed`` counts the files there, of which a limit may have left some out of ``refs``;
    ``root`` is the path inside the file system; ``synthetic`` says that the folder, or one above
    it, calls its own films synthetic by a file SYNTHETIC.txt. For a list, ``filesystem`` is None:
    the path of each of its films is a URL of its own; ``labels`` are those that it tells, empty
    where one cannot be used, and ``problems`` says what is wrong with lines that name nothing.

    ``url`` is for people; ``address`` is what to open, and may hold secrets, as ``root`` may.
    ``access`` says what may be read of what a list names.
    """

    url: str
    root: str = field(repr=False)
    refs: tuple[ImageRef, ...]
    listed: int
    hidden: int
    synthetic: bool
    filesystem: Any = field(repr=False)
    local: bool
    labels: dict[str, str] = field(default_factory=dict)
    address: str = field(default="", repr=False)
    access: AccessPolicy = field(default_factory=AccessPolicy)
    problems: dict[str, str] = field(default_factory=dict)
    outages: OutageTracker = field(default_factory=OutageTracker, compare=False, repr=False)

    @property
    def readers(self) -> int:
        """How many reads may wait for an answer at once, beside those that keep a core busy."""
        return 0 if self.local else MAX_REMOTE_READS

    def read(self, ref: ImageRef) -> bytes:
        """Read one whole file; what fails transiently is tried again.

        Raises:
            Unreadable: It cannot be read, whatever the reason.
            NotAllowed: It lies where this run may not read.
            TooLarge: It has more bytes than any film.
            TransientError: So many films in a row got no answer that no more is to be expected.
        """
        if ref.key in self.problems:
            raise Unreadable(self.problems[ref.key])
        if ref.size_bytes > MAX_FILE_BYTES:
            raise TooLarge(
                f"Expected at most {MAX_FILE_BYTES // 1_000_000} MB, "
                f"found {ref.size_bytes // 1_000_000} MB."
            )
        server = _find_server(ref.path) if self.filesystem is None else ""
        quote = redact_url(ref.path) == ref.path
        self.outages.check(server)
        try:
            data = call_with_retries(self._read_once, ref)
        except FileTooLarge as exc:
            raise TooLarge(
                f"Expected at most {MAX_FILE_BYTES // 1_000_000} MB, found more."
            ) from exc
        except storage_errors() as exc:
            why = describe_failure(exc, quote=quote)
            tries = ""
            if is_transient(exc):
                tries = f", {MAX_ATTEMPTS} times"
                self.outages.note(server, f"films of {self.url}: {why}", exc)
            raise Unreadable(f"The file cannot be read: {why}{tries}.") from exc
        self.outages.forget(server)
        return data

    def _read_once(self, ref: ImageRef) -> bytes:
        filesystem, path = self._open(ref)
        if ref.kind != "file" and not filesystem.isfile(path):
            raise Unreadable("Expected a file, found a folder, a pipe or a device.")
        data = read_file(filesystem, path, MAX_FILE_BYTES)
        if len(data) < ref.size_bytes and len(data) < (filesystem.info(path)["size"] or 0):
            raise ConnectionError(f"{len(data)} of {ref.size_bytes} bytes")
        return data

    def _open(self, ref: ImageRef) -> tuple[Any, str]:
        """Where a film lies: in the source's one file system, or, of a list, in its own."""
        if self.filesystem is None:
            return _open_listed_image(ref.path, self.access)
        return self.filesystem, ref.path


def open_source(url: str, limit: int | None = None, access: AccessPolicy | None = None) -> Source:
    """List every file under a folder or bucket, or take the one file or the list named.

    Args:
        url: A local path, or a URL of a bucket or of a web server.
        limit: Take only the first so many files, in the order of their keys.
        access: Permissions; none unless given.

    Raises:
        SourceError: It is not there, cannot be listed in full, or holds no file.
        UsageError: It is no path or URL, or may not be read.
        TransientError: Its storage does not answer.
        MissingPackage: The cloud's file system is not installed.
    """
    access = access or AccessPolicy()
    filesystem, root = open_filesystem(url, access)
    kind = _find_kind(filesystem, root, url)
    try:
        if kind == "file" and is_image_list(root):
            place = root if is_local(filesystem) else url
            with raise_as_run_error():
                data = call_with_retries(read_file, filesystem, root, MAX_TABLE_BYTES)
            return _make_list_source(parse_image_list(data, place), url, root, access, limit)
        single = kind != "directory"
        base = redact_url(root).rsplit("/", 1)[0] if single else root.rstrip("/")
        with raise_as_run_error():
            found = list_files(filesystem, root, base, url, single=single)
    except storage_errors() as exc:
        inside = getattr(exc, "filename", None)
        error = translate_error(
            exc, inside or redact_url(url), SourceError, "listed", _LISTING_HINT
        )
        error.private += (str(inside),) if inside else ()
        raise error from exc
    source = _make_source(filesystem, url, root, found, base=base, limit=limit)
    return replace(source, address=url, access=access)


def check_source(url: str, access: AccessPolicy | None = None) -> None:
    """Ask whether there is anything at a URL, without listing it.

    Args:
        url: As of `open_source`.
        access: As of `open_source`.

    Raises:
        SourceError: There is not, or it may not be asked.
        UsageError: It is no path or URL, or may not be read.
        TransientError: Its storage does not answer.
    """
    _find_kind(*open_filesystem(url, access), url)


def _find_kind(filesystem: Any, root: str, url: str) -> str:
    """What the URL names: "directory", "file", or something else that may turn out unreadable."""
    try:
        with raise_as_run_error():
            kind = str(call_with_retries(filesystem.info, root)["type"])
        return "directory" if is_local(filesystem) and filesystem.isdir(root) else kind
    except storage_errors() as exc:
        if isinstance(exc, FileNotFoundError) and not lacks_bucket(exc):
            raise SourceError(
                f"Expected films at {redact_url(url)}, found nothing there.",
                "Check the path.",
                find_private_path(url),
            ) from exc
        told = _fetch_refusal(filesystem, root, exc) if lacks_reason(exc) else exc
        raise translate_error(told, redact_url(url), SourceError, "listed", _LISTING_HINT) from exc


def _fetch_refusal(filesystem: Any, root: str, exc: Exception) -> Exception:
    """Why the storage refuses, where it said nothing: the answer to a listing has words."""
    try:
        call_with_retries(filesystem.ls, root)
    except storage_errors() as told:
        return told
    return exc


def _make_source(
    filesystem: Any,
    url: str,
    root: str,
    found: dict[str, ImageRef],
    *,
    base: str,
    limit: int | None,
) -> Source:
    """The films among the files that were found, each under its key."""
    marker = found.get(SYNTHETIC_MARKER)
    if marker and _is_synthetic_marker(filesystem, marker.path):
        del found[SYNTHETIC_MARKER]
    visible = sorted(key for key in found if not is_hidden(key))
    if not visible:
        raise SourceError(
            f"Expected films in {redact_url(url)}, found no file in it.",
            "Check the path.",
            find_private_path(url),
        )
    return Source(
        url=redact_url(url),
        root=root,
        refs=tuple(found[key] for key in visible[:limit]),
        listed=len(visible),
        hidden=len(found) - len(visible),
        synthetic=any(_is_synthetic_marker(filesystem, path) for path in _marker_paths(base)),
        filesystem=filesystem,
        local=is_local(filesystem),
    )


def _make_list_source(
    films: ImageList, url: str, root: str, access: AccessPolicy, limit: int | None
) -> Source:
    """Ask once for each listed film what version it is; many at once where they lie elsewhere."""
    keys = sorted(films.places)[:limit]
    filesystem, path = open_filesystem(url, access)
    if is_local(filesystem):
        access = access.with_root(str(PurePosixPath(path).parent))
    servers = {_find_server(films.places[key]) for key in keys}

    outages = OutageTracker(len(servers))

    def ask(key: str) -> ImageRef:
        place = films.places[key]
        server = _find_server(place)
        unknown = ImageRef(key, place)  # reading it will tell: it gets its row like any other
        if outages.suspects(server):
            return unknown
        try:
            filesystem, path = _open_listed_image(place, access)
            ref = make_image_ref(key, place, filesystem.info(path))
        except ImageError:
            return unknown
        except storage_errors() as exc:
            if is_transient(exc):
                outages.record_suspect(server)
            return unknown
        outages.forget(server)
        return msgspec.structs.replace(ref, stamp="") if key in films.ambiguous else ref

    pool = ThreadPoolExecutor(1 if servers == {""} else 4 * MAX_REMOTE_READS)
    try:
        refs = tuple(pool.map(ask, keys))
    finally:  # who stops the run does not wait for answers
        pool.shutdown(wait=False, cancel_futures=True)
    return Source(
        url=redact_url(url),
        root=root,
        refs=refs,
        listed=len(films.places),
        hidden=0,
        synthetic=False,
        filesystem=None,
        local=servers == {""},
        labels=films.labels,
        address=url,
        access=access,
        problems=films.problems,
        outages=outages,
    )


def _open_listed_image(place: str, access: AccessPolicy) -> tuple[Any, str]:
    """Where a line of a list leads.

    Raises:
        NotAllowed: To a place that this run may not read.
        Unreadable: To none.
        Exception: What the file system raises, one of `faults.failures`.
    """
    try:
        filesystem, path = open_filesystem(place, access)
    except ProtocolRefused as exc:  # without its sentence, which names what the row names too
        raise NotAllowed("It is no path or URL that may be read.", exc.hint) from exc
    except UsageError as exc:
        raise Unreadable("It is no path or URL that can be used.", exc.hint) from exc
    except MissingPackage as exc:
        raise Unreadable(exc.sentence, exc.hint) from exc
    return filesystem, access.check_path(path) if is_local(filesystem) else path


def _find_server(place: str) -> str:
    """Who answers for a place: protocol and host or bucket, empty for this machine."""
    return "/".join(place.split("/", 3)[:3]) if "://" in place else ""


def _marker_paths(base: str) -> list[str]:
    """Where a folder may call its films synthetic: in itself, or up to two folders above."""
    folder = PurePosixPath(base)
    places = [str(place / SYNTHETIC_MARKER) for place in (folder, *list(folder.parents)[:2])]
    return [place for place in places if "/" in place]  # above a bucket there is no place


def _is_synthetic_marker(filesystem: Any, path: str) -> bool:
    try:
        data = call_with_retries(read_file, filesystem, path, MAX_MARKER_BYTES)
    except storage_errors():
        return False
    return b"synthetic" in data[:400].lower()


def read_labels(labels: str, source: Source) -> dict[str, str]:
    """The reference standard of each film that has one, by key.

    Args:
        labels: "folders" (the parent folder is NORMAL or PNEUMONIA, unless a list of films tells
            another label), "none", or the URL of a CSV file with the columns image and label.
        source: The films of the run.

    Raises:
        SourceError: The CSV file cannot be read or used.
        TransientError: Its storage does not answer.
    """
    if labels == "none":
        return {}
    if labels == "folders":
        parents = {ref.key: PurePosixPath(ref.path).parent.name for ref in source.refs}
        told = {key: parent for key, parent in parents.items() if parent in CLASSES}
        told |= {key: source.labels[key] for key in parents.keys() & source.labels.keys()}
        return {key: label for key, label in told.items() if label}
    return read_label_file(labels, {ref.key for ref in source.refs}, source.access)
