"""What lies in a folder or bucket: its files by their keys, POSIX paths relative to its root."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from batch_scorer.errors import SourceError
from batch_scorer.storage.filesystem import call_with_retries, is_local
from batch_scorer.system.redact import redact_url

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
import msgspec

_QUOTES = "\"'"


class ImageRef(msgspec.Struct, frozen=True, gc=False):
    """One file to score.

    ``key`` is its POSIX path relative to the root, printable as UTF-8. ``kind`` is "file", or
    "other" for what the file system lists as something else (a pipe, a device, a link). ``stamp``
    is what the listing says of the file's version (size and time, or an entity tag): while it stays
    the same, so does the content; empty where the listing says nothing.
    """

    key: str
    path: str
    size_bytes: int = 0
    kind: str = "file"
    stamp: str = ""

    def __repr__(self) -> str:
        """Its key alone: a path may be a URL with a password."""
        return f"ImageRef({self.key!r})"


def list_files(
    filesystem: Any, root: str, base: str, url: str, *, single: bool
) -> dict[str, ImageRef]:
    """Every file below a folder, or the one file named, by its key; tried again where it may help.

    Args:
        filesystem: Of fsspec.
        root: The path inside it.
        base: What every key is relative to.
        url: What errors call it.
        single: Whether ``root`` is no folder.

    Raises:
        SourceError: Two files would have one key.
        Exception: What the file system raises, one of `faults.failures`.
    """
    return call_with_retries(
        lambda: _index_by_key(_find_files(filesystem, root, single=single), base, url)
    )


def _index_by_key(entries: Iterable[tuple[str, Any]], base: str, url: str) -> dict[str, ImageRef]:
    """The files by their keys."""
    found: dict[str, ImageRef] = {}
    for path, info in entries:
        key = _make_key(path, base)
        if key in found:
            raise SourceError(
                f"Two files in {redact_url(url)} have names that differ only in bytes that are no "
                "UTF-8.",
                "Rename one of them: their rows could not be told apart.",
            )
        found[key] = make_image_ref(key, path, info)
    return found


def _find_files(filesystem: Any, root: str, *, single: bool) -> Iterable[tuple[str, Any]]:
    """Every file's path and information. A place that only marks a folder is no file."""
    if single:
        return [(root, filesystem.info(root))]
    if is_local(filesystem):
        return _walk(filesystem, root)
    found: dict[str, Any] = filesystem.find(root, detail=True)
    return ((path, found[path]) for path in found if not (path.endswith("/") or path == root))


def _walk(filesystem: Any, root: str) -> Iterator[tuple[str, Any]]:
    """Files of this machine one at a time: fsspec holds what it knows of all, 1 KB each, at once.

    Nor does it leave a folder out in silence that may not be listed. What is removed meanwhile is
    left out.
    """
    folders = [root]
    while folders:
        folder = folders.pop()
        with suppress(FileNotFoundError), os.scandir(folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    info = filesystem.info(entry)
                    if info["type"] == "directory":
                        folders.append(info["name"])
                    else:
                        yield info["name"], info


def make_image_ref(key: str, path: str, info: dict[str, Any]) -> ImageRef:
    """One file, as its listing tells of it."""
    size_bytes = int(info.get("size") or 0)
    kind = str(info.get("type") or "file")
    whole = redact_url(path) == path  # else the key does not tell which of many images it means
    return ImageRef(key, path, size_bytes, kind, _make_stamp(size_bytes, info) if whole else "")


def _make_stamp(size_bytes: int, info: dict[str, Any]) -> str:
    """What a listing says of a file's version, empty where it says nothing but the size.

    On disk ``created`` is the time of the last change of any kind, which no program can set: it
    also tells a file that was replaced by one of the same size and date.
    """
    if "mtime" in info:
        return f"{size_bytes} {info['mtime']} {info.get('created', '')}"
    for name in ("VersionId", "generation", "ETag", "etag", "md5Hash"):
        if info.get(name):
            return f"{size_bytes} {str(info[name]).strip(_QUOTES)}"
    for name in ("LastModified", "last_modified", "updated", "modified", "created"):
        if info.get(name):
            return f"{size_bytes} {info[name]}"
    return ""


def _make_key(path: str, base: str) -> str:
    shown = redact_url(path)
    key = shown[len(base) :].removeprefix("/") if shown.startswith(base) else shown
    return key.encode("utf-8", "backslashreplace").decode("utf-8")


def is_hidden(key: str) -> bool:
    """Whether it, or a folder that it lies in, is one of the operating system's own."""
    return any(part.startswith(".") for part in key.split("/"))
