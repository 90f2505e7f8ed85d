"""Where films and their labels come from: any fsspec URL, listed in full before anything is read.

Keys are POSIX paths relative to the root, sorted. Files and folders whose name begins with a dot
are the operating system's own (``.DS_Store``, ``._film.jpeg``): they are counted, not scored.
"""

from __future__ import annotations

import csv
import io
import os
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from batch_scorer.card import CLASSES
from batch_scorer.errors import (
    SourceError,
    TooLarge,
    Unreadable,
)
from batch_scorer.records import ImageRef
from batch_scorer.storage import is_local, open_filesystem

LABEL_WORDS = {"NORMAL": "NORMAL", "0": "NORMAL", "PNEUMONIA": "PNEUMONIA", "1": "PNEUMONIA"}
SYNTHETIC_MARKER = "SYNTHETIC.txt"
MAX_FILE_BYTES = 500_000_000


@dataclass(frozen=True)
class Source:
    """The films of one folder, bucket or file.

    ``listed`` counts the files there, of which a limit may have left some out of ``refs``;
    ``root`` is the path inside the file system; ``synthetic`` says that the folder, or one above
    it, calls its own films synthetic by a file SYNTHETIC.txt.
    """

    url: str
    root: str
    refs: tuple[ImageRef, ...]
    listed: int
    hidden: int
    synthetic: bool
    filesystem: Any

    @property
    def local(self) -> bool:
        """Whether the films lie on this machine."""
        return is_local(self.filesystem)

    def read(self, ref: ImageRef) -> bytes:
        """Read one whole file.

        Raises:
            Unreadable: It cannot be read, whatever the reason.
            TooLarge: It has more bytes than any film.
        """
        if ref.size_bytes > MAX_FILE_BYTES:
            raise TooLarge(
                f"Expected at most {MAX_FILE_BYTES // 1_000_000} MB, "
                f"found {ref.size_bytes // 1_000_000} MB."
            )
        try:
            if ref.kind != "file" and not self.filesystem.isfile(ref.path):
                raise Unreadable("Expected a file, found a folder, a pipe or a device.")
            data: bytes = self.filesystem.cat_file(ref.path)
        except OSError as exc:
            reason = exc.strerror or str(exc) or type(exc).__name__
            raise Unreadable(f"The file cannot be read: {reason}.") from exc
        return data


def open_source(url: str, limit: int | None = None) -> Source:
    """List every file under a folder or bucket, or take the one file named.

    Args:
        url: A local path, or any URL that fsspec reads.
        limit: Take only the first so many files, in the order of their keys.

    Raises:
        SourceError: It is not there, cannot be listed in full, or holds no file.
        MissingPackage: The cloud's file system is not installed.
    """
    filesystem, root = open_filesystem(url)
    entries, single = _list(filesystem, root, url)
    base = root.rsplit("/", 1)[0] if single else root.rstrip("/")
    found = {_key(path, base): (path, info) for path, info in entries.items()}
    if len(found) != len(entries):
        raise SourceError(
            f"Two files in {url} have names that differ only in bytes that are no UTF-8.",
            "Rename one of them: their rows could not be told apart.",
        )
    marker = found.get(SYNTHETIC_MARKER)
    if marker and _calls_synthetic(filesystem, marker[0]):
        del found[SYNTHETIC_MARKER]
    visible = sorted(key for key in found if not _is_hidden(key))
    if not visible:
        raise SourceError(f"Expected films in {url}, found no file in it.", "Check the path.")
    return Source(
        url=url,
        root=root,
        refs=tuple(_ref(key, *found[key]) for key in visible[:limit]),
        listed=len(visible),
        hidden=len(found) - len(visible),
        synthetic=any(_calls_synthetic(filesystem, path) for path in _marker_places(base)),
        filesystem=filesystem,
    )


def _list(filesystem: Any, root: str, url: str) -> tuple[dict[str, Any], bool]:
    """Every file's path and information; whether the root is itself a file."""
    try:
        if not filesystem.exists(root):
            raise SourceError(f"Expected films at {url}, found nothing there.", "Check the path.")
        if filesystem.isfile(root):
            return {root: filesystem.info(root)}, True
        if is_local(filesystem):
            _check_readable(root)
        return filesystem.find(root, detail=True), False
    except OSError as exc:
        where = exc.filename or url
        raise SourceError(
            f"{where} cannot be listed: {exc.strerror or exc}.",
            "Change its permissions, or score the other folders.",
        ) from exc


def _check_readable(root: str) -> None:
    """Raise where a folder may not be listed: fsspec would leave it out in silence."""

    def refuse(error: OSError) -> None:
        raise error

    for _ in os.walk(root, onerror=refuse):
        pass


def _ref(key: str, path: str, info: dict[str, Any]) -> ImageRef:
    size_bytes = int(info.get("size") or 0)
    kind = str(info.get("type") or "file")
    return ImageRef(key, path, size_bytes, kind, _stamp(size_bytes, info))


def _stamp(size_bytes: int, info: dict[str, Any]) -> str:
    """What a listing says of a file's version, empty where it says nothing but the size."""
    for name in ("ETag", "etag", "md5", "mtime", "created", "last_modified", "LastModified"):
        if info.get(name):
            return f"{size_bytes} {name} {info[name]}"
    return ""


def _marker_places(base: str) -> list[str]:
    """Where a folder may call its films synthetic: in itself, or up to two folders above."""
    folder = PurePosixPath(base)
    return [str(place / SYNTHETIC_MARKER) for place in (folder, *list(folder.parents)[:2])]


def _calls_synthetic(filesystem: Any, path: str) -> bool:
    try:
        head: bytes = filesystem.cat_file(path, end=400)
    except OSError:
        return False
    return b"synthetic" in head.lower()


def read_labels(labels: str, refs: tuple[ImageRef, ...]) -> dict[str, str]:
    """The reference standard of each film that has one, by key.

    Args:
        labels: "folders" (the parent folder is NORMAL or PNEUMONIA), "none", or the URL of a CSV
            file with the columns image and label.
        refs: The films of the run.

    Raises:
        SourceError: The CSV file cannot be read or used.
    """
    if labels == "none":
        return {}
    if labels == "folders":
        parents = {ref.key: PurePosixPath(ref.path).parent.name for ref in refs}
        return {key: parent for key, parent in parents.items() if parent in CLASSES}
    return _read_label_file(labels, {ref.key for ref in refs})


def _read_label_file(url: str, keys: set[str]) -> dict[str, str]:
    filesystem, path = open_filesystem(url)
    try:
        text = filesystem.cat_file(path).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        raise SourceError(
            f"The label file {url} cannot be read: {exc}.",
            "--labels takes folders, none, or a CSV file with the columns image and label.",
        ) from exc
    labels: dict[str, str] = {}
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        if not {"image", "label"} <= set(reader.fieldnames or ()):
            raise SourceError(
                f"Expected the columns image and label in {url}, found {reader.fieldnames}.",
                "Save the table as CSV with commas, in UTF-8.",
            )
        for row in reader:
            where = f"line {reader.line_num} of {url}"
            label = LABEL_WORDS.get((row["label"] or "").strip().upper())
            if label is None:
                raise SourceError(
                    f"Expected NORMAL, PNEUMONIA, 0 or 1 as label in {where}, "
                    f"found {row['label']!r}."
                )
            if labels.setdefault(row["image"], label) != label:
                raise SourceError(f"{row['image']} has another label in {where} than before.")
    except csv.Error as exc:
        raise SourceError(f"The label file {url} is no CSV table: {exc}.") from exc
    matched = {key: label for key, label in labels.items() if key in keys}
    if labels and not matched:
        raise SourceError(
            f"None of the {len(labels)} images named in {url} is among the films.",
            f"The column image holds paths relative to the scored folder, such as {min(keys)}.",
        )
    return matched


def _key(path: str, base: str) -> str:
    key = path[len(base) :].lstrip("/") if path.startswith(base) else path
    return key.encode("utf-8", "backslashreplace").decode("utf-8")


def _is_hidden(key: str) -> bool:
    return any(part.startswith(".") for part in key.split("/"))
