"""Where films and their labels come from: any fsspec URL, listed in full before anything is read.

Keys are POSIX paths relative to the root, sorted. Files and folders whose name begins with a dot
are the operating system's own (``.DS_Store``, ``._film.jpeg``): they are counted, not scored. A
file whose name ends in .txt or .csv is a list of films (see `film_list`).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from batch_scorer.card import CLASSES
from batch_scorer.errors import SourceError, TooLarge, TransientError, Unreadable
from batch_scorer.faults import (
    explain,
    failures,
    is_transient,
    is_wordless,
    lacks_bucket,
    name_private,
    reason,
    scrub,
)
from batch_scorer.film_list import FilmList, is_list, parse_list, read_label, read_table
from batch_scorer.listing import is_hidden, list_files, make_ref
from batch_scorer.records import ImageRef
from batch_scorer.storage import ATTEMPTS, REMOTE_READERS, call, is_local, open_filesystem

_LISTING_HINT = "Change its permissions, or score the other folders."
SYNTHETIC_MARKER = "SYNTHETIC.txt"
MAX_FILE_BYTES = 500_000_000
OUTAGE_FILMS = 2 * REMOTE_READERS
"""So many films in a row without an answer, each tried ATTEMPTS times: the storage is away."""


@dataclass
class _Outage:
    """How many films in a row got no answer from their storage."""

    films: int = 0


@dataclass(frozen=True)
class Source:
    """The films of one folder, bucket, list or file.

    ``listed`` counts the files there, of which a limit may have left some out of ``refs``;
    ``root`` is the path inside the file system; ``synthetic`` says that the folder, or one above
    it, calls its own films synthetic by a file SYNTHETIC.txt. For a list, ``filesystem`` is None:
    the path of each of its films is a URL of its own; ``labels`` are those that it tells.
    """

    url: str
    root: str
    refs: tuple[ImageRef, ...]
    listed: int
    hidden: int
    synthetic: bool
    filesystem: Any
    local: bool
    labels: dict[str, str] = field(default_factory=dict)
    _outage: _Outage = field(default_factory=_Outage, compare=False)

    @property
    def readers(self) -> int:
        """How many reads may wait for an answer at once, beside those that keep a core busy."""
        return 0 if self.local else REMOTE_READERS

    def read(self, ref: ImageRef) -> bytes:
        """Read one whole file; what fails transiently is tried again.

        Raises:
            Unreadable: It cannot be read, whatever the reason.
            TooLarge: It has more bytes than any film.
            TransientError: So many films in a row got no answer that no more is to be expected.
        """
        if ref.size_bytes > MAX_FILE_BYTES:
            raise TooLarge(
                f"Expected at most {MAX_FILE_BYTES // 1_000_000} MB, "
                f"found {ref.size_bytes // 1_000_000} MB."
            )
        try:
            data = call(self._read_once, ref)
        except failures() as exc:
            self._note_outage(exc)
            tries = f", {ATTEMPTS} times" if is_transient(exc) else ""
            raise Unreadable(f"The file cannot be read: {reason(exc)}{tries}.") from exc
        self._outage.films = 0
        return data

    def _read_once(self, ref: ImageRef) -> bytes:
        filesystem, path = _place(self.filesystem, ref.path)
        if ref.kind != "file" and not filesystem.isfile(path):
            raise Unreadable("Expected a file, found a folder, a pipe or a device.")
        data: bytes = filesystem.cat_file(path)
        if len(data) < ref.size_bytes and len(data) < (filesystem.info(path)["size"] or 0):
            raise ConnectionError(f"{len(data)} of {ref.size_bytes} bytes")
        return data

    def _note_outage(self, exc: Exception) -> None:
        if not is_transient(exc):
            return
        self._outage.films += 1
        if self._outage.films >= OUTAGE_FILMS:
            raise TransientError(
                f"No answer for the last {self._outage.films} films of {self.url}: {reason(exc)}.",
                "Check address and network, then run the same command again.",
            ) from exc


def open_source(url: str, limit: int | None = None) -> Source:
    """List every file under a folder or bucket, or take the one file or the list named.

    Args:
        url: A local path, or any URL that fsspec reads.
        limit: Take only the first so many files, in the order of their keys.

    Raises:
        SourceError: It is not there, cannot be listed in full, or holds no file.
        TransientError: Its storage does not answer.
        MissingPackage: The cloud's file system is not installed.
    """
    filesystem, root = open_filesystem(url)
    kind = _kind(filesystem, root, url)
    try:
        if kind == "file" and is_list(root):
            place = root if is_local(filesystem) else url
            return _open_list(parse_list(call(filesystem.cat_file, root), place), url, root, limit)
        single = kind != "directory"
        base = root.rsplit("/", 1)[0] if single else root.rstrip("/")
        found = list_files(filesystem, root, base, url, single=single)
    except failures() as exc:
        inside = getattr(exc, "filename", None)
        error = explain(exc, inside or url, SourceError, "listed", _LISTING_HINT)
        error.private += (str(inside),) if inside else ()
        raise error from exc
    return _as_source(filesystem, url, root, found, base=base, limit=limit)


def check_source(url: str) -> None:
    """Ask whether there is anything at a URL, without listing it.

    Raises:
        SourceError: There is not, or it may not be asked.
        TransientError: Its storage does not answer.
    """
    _kind(*open_filesystem(url), url)


def _kind(filesystem: Any, root: str, url: str) -> str:
    """What the URL names: "directory", "file", or something else that may turn out unreadable."""
    try:
        kind = str(call(filesystem.info, root)["type"])
        return "directory" if is_local(filesystem) and filesystem.isdir(root) else kind
    except failures() as exc:
        if isinstance(exc, FileNotFoundError) and not lacks_bucket(exc):
            raise SourceError(
                f"Expected films at {scrub(url)}, found nothing there.",
                "Check the path.",
                name_private(url),
            ) from exc
        told = _ask_why(filesystem, root, exc) if is_wordless(exc) else exc
        raise explain(told, url, SourceError, "listed", _LISTING_HINT) from exc


def _ask_why(filesystem: Any, root: str, exc: Exception) -> Exception:
    """Why the storage refuses, where it said nothing: the answer to a listing has words."""
    try:
        call(filesystem.ls, root)
    except failures() as told:
        return told
    return exc


def _as_source(
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
    if marker and _calls_synthetic(filesystem, marker.path):
        del found[SYNTHETIC_MARKER]
    visible = sorted(key for key in found if not is_hidden(key))
    if not visible:
        raise SourceError(
            f"Expected films in {scrub(url)}, found no file in it.",
            "Check the path.",
            name_private(url),
        )
    return Source(
        url=scrub(url),
        root=root,
        refs=tuple(found[key] for key in visible[:limit]),
        listed=len(visible),
        hidden=len(found) - len(visible),
        synthetic=any(_calls_synthetic(filesystem, path) for path in _marker_places(base)),
        filesystem=filesystem,
        local=is_local(filesystem),
    )


def _open_list(films: FilmList, url: str, root: str, limit: int | None) -> Source:
    """Ask for each listed film what version it is; many at once where they lie elsewhere."""
    keys = sorted(films.places)[:limit]
    local = not any("://" in films.places[key] for key in keys)

    def ask(key: str) -> ImageRef:
        place = films.places[key]
        try:
            filesystem, path = open_filesystem(place)
            return make_ref(key, place, call(filesystem.info, path))
        except failures():  # reading it will tell: it gets its row like any other
            return ImageRef(key, place)

    with ThreadPoolExecutor(1 if local else 4 * REMOTE_READERS) as pool:
        refs = tuple(pool.map(ask, keys))
    return Source(
        url=scrub(url),
        root=root,
        refs=refs,
        listed=len(films.places),
        hidden=0,
        synthetic=False,
        filesystem=None,
        local=local,
        labels=films.labels,
    )


def _place(filesystem: Any, path: str) -> tuple[Any, str]:
    """Where a film lies: in the source's one file system, or, of a list, in its own."""
    return (filesystem, path) if filesystem else open_filesystem(path)


def _marker_places(base: str) -> list[str]:
    """Where a folder may call its films synthetic: in itself, or up to two folders above."""
    folder = PurePosixPath(base)
    places = [str(place / SYNTHETIC_MARKER) for place in (folder, *list(folder.parents)[:2])]
    return [place for place in places if "/" in place]  # above a bucket there is no place


def _calls_synthetic(filesystem: Any, path: str) -> bool:
    try:
        head: bytes = call(filesystem.cat_file, path, end=400)
    except failures():
        return False
    return b"synthetic" in head.lower()


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
        return told | {key: source.labels[key] for key in parents.keys() & source.labels.keys()}
    return _read_label_file(labels, {ref.key for ref in source.refs})


def _read_label_file(url: str, keys: set[str]) -> dict[str, str]:
    hint = "--labels takes folders, none, or a CSV file with the columns image and label."
    filesystem, path = open_filesystem(url)
    try:
        text = call(filesystem.cat_file, path).decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise SourceError(f"The label file {scrub(url)} is no UTF-8: {exc.reason}.", hint) from exc
    except failures() as exc:
        raise explain(exc, f"The label file {url}", SourceError, "read", hint) from exc
    labels: dict[str, str] = {}
    for row, where in read_table(text, url, {"image", "label"}):
        label = read_label(row["label"], where)
        if labels.setdefault(row["image"], label) != label:
            raise SourceError(
                f"{row['image']} has another label in {where} than before.", private=[row["image"]]
            )
    matched = {key: label for key, label in labels.items() if key in keys}
    if labels and not matched:
        raise SourceError(
            f"None of the {len(labels)} images named in {scrub(url)} is among the films.",
            f"The column image holds paths relative to the scored folder, such as {min(keys)}.",
            private=[min(keys)],
        )
    return matched
