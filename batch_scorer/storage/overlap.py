"""Overlap of images and results: neither may lie inside the other, by any spelling or link."""

from __future__ import annotations

import posixpath
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batch_scorer.errors import CxrError, UsageError
from batch_scorer.storage.filesystem import is_local, open_filesystem
from batch_scorer.system.redact import redact_url

if TYPE_CHECKING:
    from batch_scorer.storage.output import Output
    from batch_scorer.storage.source import Source

Location = tuple[Any, str]
"""A file system, and a path inside it."""


def check_no_overlap(images: str, output: Output, source: Source | None = None) -> None:
    """Refuse an output inside the source, or a source inside the output.

    Args:
        images: The path or URL of the source.
        output: The output of the run.
        source: The source once it is listed. The folders of an image list's images count too.

    Raises:
        UsageError: One lies inside the other.
    """
    results = output.filesystem, output.root
    is_list = source is not None and source.filesystem is None
    scored = open_filesystem(images)
    locations = [
        (scored, redact_url(images)),
        *(_list_image_folders(source) if source and is_list else ()),
    ]
    for location, url in locations:
        if is_subpath(location, results):
            raise UsageError(
                f"The scored folder {url} lies inside the output folder {output.url}.",
                "Choose an output outside it with -o.",
            )
    if is_subpath(results, scored):
        raise UsageError(
            f"The output folder {output.url} lies inside the scored folder {redact_url(images)}.",
            "Choose one outside it with -o.",
        )


def _list_image_folders(source: Source) -> list[tuple[Location, str]]:
    """Return the folders of an image list's images with their URLs, without invalid ones."""
    found = []
    for url in sorted({ref.path.rpartition("/")[0] or "/" for ref in source.refs}):
        with suppress(CxrError, ValueError, OSError):
            found.append((open_filesystem(url), redact_url(url)))
    return found


def is_subpath(inner: Location, outer: Location) -> bool:
    """Return whether one location is the other one, or lies inside it."""
    if is_local(inner[0]) and is_local(outer[0]):
        return _is_local_subpath(Path(inner[1]), Path(outer[1]))
    if _storage_identity(inner[0]) != _storage_identity(outer[0]):
        return False
    path, folder = (
        posixpath.normpath(f"/{location[1]}".replace("//", "/")) for location in (inner, outer)
    )
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")


def _storage_identity(filesystem: Any) -> tuple[type, Any]:
    """Return a key that is equal for protocols of one storage, such as s3 and s3a."""
    return type(filesystem), getattr(filesystem, "account_name", None)


def _is_local_subpath(inner: Path, outer: Path) -> bool:
    """Compare local folders through links, and by the system's rule for upper and lower case."""
    try:
        path, folder = inner.resolve(), outer.resolve()
    except (OSError, RuntimeError):  # a loop of links contains nothing, and is refused on use
        return False
    if folder in (path, *path.parents):
        return True
    for ancestor in (path, *path.parents):
        with suppress(OSError):  # a folder that does not exist contains nothing
            if ancestor.samefile(folder):
                return True
    return False
