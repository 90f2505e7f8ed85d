"""Listings of a folder or bucket: its files by key, a POSIX path relative to its root."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from batch_scorer.errors import SourceError
from batch_scorer.storage.filesystem import call_with_retries, is_local
from batch_scorer.system.redact import redact_url

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_QUOTES = "\"'"


class ImageRef(msgspec.Struct, frozen=True, gc=False):
    """One file to score.

    ``key`` is its POSIX path relative to the root, printable as UTF-8. ``kind`` is "file", or
    "other" for a pipe, a device or a link. ``stamp`` identifies the file's version (size and time,
    or an entity tag): while it stays the same, so does the content. It is empty if the listing
    gives no version.
    """

    key: str
    path: str
    size_bytes: int = 0
    kind: str = "file"
    stamp: str = ""

    def __repr__(self) -> str:
        """Show the key alone: the path may be a URL with a password."""
        return f"ImageRef({self.key!r})"


def list_files(
    filesystem: Any, root: str, base: str, url: str, *, single: bool
) -> dict[str, ImageRef]:
    """List every file below a folder, or one file; retry transient errors.

    Args:
        filesystem: A file system of fsspec.
        root: The path inside it.
        base: The path that every key is relative to.
        url: Its path or URL, for errors.
        single: Whether ``root`` is a file.

    Returns:
        The files by key.

    Raises:
        SourceError: Two files have the same key.
        Exception: An error of the file system, one of `storage_errors`.
    """
    return call_with_retries(
        lambda: _index_by_key(_find_files(filesystem, root, single=single), base, url)
    )


def _index_by_key(entries: Iterable[tuple[str, Any]], base: str, url: str) -> dict[str, ImageRef]:
    found: dict[str, ImageRef] = {}
    for path, info in entries:
        key = _make_key(path, base)
        if key in found:
            raise SourceError(
                f"Two files in {redact_url(url)} have names that differ only in bytes that are not "
                "UTF-8.",
                "Rename one of them: their rows would have the same name.",
            )
        found[key] = make_image_ref(key, path, info)
    return found


def _find_files(filesystem: Any, root: str, *, single: bool) -> Iterable[tuple[str, Any]]:
    """Return the path and information of every file, without objects that only mark a folder."""
    if single:
        return [(root, filesystem.info(root))]
    if is_local(filesystem):
        return _walk(filesystem, root)
    found: dict[str, Any] = filesystem.find(root, detail=True)
    return ((path, found[path]) for path in found if not (path.endswith("/") or path == root))


def _walk(filesystem: Any, root: str) -> Iterator[tuple[str, Any]]:
    """Yield the path and information of each local file below a folder.

    fsspec's own ``find`` holds 1 KB for every file at once, and silently skips folders that it may
    not list. Files that are removed meanwhile are left out.
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
    """Make a reference to a file from its fsspec information."""
    size_bytes = int(info.get("size") or 0)
    kind = str(info.get("type") or "file")
    whole = redact_url(path) == path  # else several images may have this key
    return ImageRef(key, path, size_bytes, kind, _make_stamp(size_bytes, info) if whole else "")


def _make_stamp(size_bytes: int, info: dict[str, Any]) -> str:
    """Return the version of a file from its listing, empty if it gives the size alone.

    On disk ``created`` is the time of the last change of any kind, which no program can set. It
    also reveals a file that was replaced by one of the same size and date.
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
    """Return whether a file, or a folder that holds it, has a name that begins with a dot."""
    return any(part.startswith(".") for part in key.split("/"))
