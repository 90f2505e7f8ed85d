"""Sources of images and labels, listed in full before any image is read.

Keys are POSIX paths relative to the root, sorted. Files and folders whose name begins with a dot
belong to the operating system (``.DS_Store``, ``._film.jpeg``): they are counted, not scored. A
file whose name ends in .txt or .csv is an image list (see `image_list`).
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
    """The images of one folder, bucket, image list or file.

    ``listed`` counts all files; a limit may leave some out of ``refs``. ``root`` is the path inside
    the file system. ``synthetic`` is True if a file SYNTHETIC.txt marks the images of the folder,
    or of one above it, as synthetic.

    For an image list, ``filesystem`` is None, and the path of each image is a URL. ``labels`` holds
    the labels of the list, empty where one is invalid. ``problems`` describes the lines that name
    no image. ``access`` holds the permissions for the images of a list.

    ``url`` is safe to show. ``raw_url`` is the URL to open and may hold secrets, as may ``root``.
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
    raw_url: str = field(default="", repr=False)
    access: AccessPolicy = field(default_factory=AccessPolicy)
    problems: dict[str, str] = field(default_factory=dict)
    outages: OutageTracker = field(default_factory=OutageTracker, compare=False, repr=False)

    @property
    def readers(self) -> int:
        """Number of reads that may wait for a response, beside those that keep a core busy."""
        return 0 if self.local else MAX_REMOTE_READS

    def read(self, ref: ImageRef) -> bytes:
        """Read one whole file; retry transient errors.

        Raises:
            Unreadable: It cannot be read.
            NotAllowed: This run may not read its location.
            TooLarge: It is larger than ``MAX_FILE_BYTES``.
            TransientError: The storage has not responded for many images in a row.
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
            reason = describe_failure(exc, quote=quote)
            attempts = ""
            if is_transient(exc):
                attempts = f", {MAX_ATTEMPTS} times"
                self.outages.record_failure(server, f"images of {self.url}: {reason}", exc)
            raise Unreadable(f"The file cannot be read: {reason}{attempts}.") from exc
        self.outages.record_success(server)
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
        """Return the file system and path of an image: the source's, or for a list its own."""
        if self.filesystem is None:
            return _open_listed_image(ref.path, self.access)
        return self.filesystem, ref.path


def open_source(url: str, limit: int | None = None, access: AccessPolicy | None = None) -> Source:
    """List every file below a folder or bucket, or take a single file or an image list.

    Args:
        url: A local path, or a URL of a bucket or of a web server.
        limit: Maximum number of files, in the order of their keys.
        access: Permissions; none by default.

    Raises:
        SourceError: It does not exist, cannot be listed in full, or holds no file.
        UsageError: It is not a path or URL, or may not be read.
        TransientError: Its storage does not respond.
        MissingPackage: The cloud's file system is not installed.
    """
    access = access or AccessPolicy()
    filesystem, root = open_filesystem(url, access)
    kind = _find_kind(filesystem, root, url)
    try:
        if kind == "file" and is_image_list(root):
            location = root if is_local(filesystem) else url
            with raise_as_run_error():
                data = call_with_retries(read_file, filesystem, root, MAX_TABLE_BYTES)
            return _make_list_source(parse_image_list(data, location), url, root, access, limit)
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
    return replace(source, raw_url=url, access=access)


def check_source(url: str, access: AccessPolicy | None = None) -> None:
    """Check that a URL exists, without listing it.

    Args:
        url: As for `open_source`.
        access: As for `open_source`.

    Raises:
        SourceError: It does not exist, or access is refused.
        UsageError: It is not a path or URL, or may not be read.
        TransientError: Its storage does not respond.
    """
    _find_kind(*open_filesystem(url, access), url)


def _find_kind(filesystem: Any, root: str, url: str) -> str:
    """Return fsspec's type of the file at a URL: "directory", "file", or another one."""
    try:
        with raise_as_run_error():
            kind = str(call_with_retries(filesystem.info, root)["type"])
        return "directory" if is_local(filesystem) and filesystem.isdir(root) else kind
    except storage_errors() as exc:
        if isinstance(exc, FileNotFoundError) and not lacks_bucket(exc):
            raise SourceError(
                f"Expected images at {redact_url(url)}, found nothing there.",
                "Check the path.",
                find_private_path(url),
            ) from exc
        refusal = _fetch_refusal(filesystem, root, exc) if lacks_reason(exc) else exc
        shown = redact_url(url)
        raise translate_error(refusal, shown, SourceError, "listed", _LISTING_HINT) from exc


def _fetch_refusal(filesystem: Any, root: str, exc: Exception) -> Exception:
    """Return the error of a listing, which gives a reason where the response to HEAD gave none."""
    try:
        call_with_retries(filesystem.ls, root)
    except storage_errors() as refusal:
        return refusal
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
    """Make a source of the files found, without hidden files and the marker of synthetic images."""
    marker = found.get(SYNTHETIC_MARKER)
    if marker and _is_synthetic_marker(filesystem, marker.path):
        del found[SYNTHETIC_MARKER]
    visible = sorted(key for key in found if not is_hidden(key))
    if not visible:
        raise SourceError(
            f"Expected images in {redact_url(url)}, found no file in it.",
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
    image_list: ImageList, url: str, root: str, access: AccessPolicy, limit: int | None
) -> Source:
    """Make a source of an image list, with one request for the version of each image."""
    keys = sorted(image_list.locations)[:limit]
    filesystem, path = open_filesystem(url, access)
    if is_local(filesystem):
        access = access.with_root(str(PurePosixPath(path).parent))
    servers = {_find_server(image_list.locations[key]) for key in keys}
    outages = OutageTracker(len(servers))

    def make_ref(key: str) -> ImageRef:
        location = image_list.locations[key]
        server = _find_server(location)
        unknown = ImageRef(key, location)  # reading it later gives the error for its row
        if outages.is_suspect(server):
            return unknown
        try:
            filesystem, path = _open_listed_image(location, access)
            ref = make_image_ref(key, location, filesystem.info(path))
        except ImageError:
            return unknown
        except storage_errors() as exc:
            if is_transient(exc):
                outages.record_suspect(server)
            return unknown
        outages.record_success(server)
        return msgspec.structs.replace(ref, stamp="") if key in image_list.ambiguous else ref

    pool = ThreadPoolExecutor(1 if servers == {""} else 4 * MAX_REMOTE_READS)
    try:
        refs = tuple(pool.map(make_ref, keys))
    finally:  # an interrupted run does not wait for responses
        pool.shutdown(wait=False, cancel_futures=True)
    return Source(
        url=redact_url(url),
        root=root,
        refs=refs,
        listed=len(image_list.locations),
        hidden=0,
        synthetic=False,
        filesystem=None,
        local=servers == {""},
        labels=image_list.labels,
        raw_url=url,
        access=access,
        problems=image_list.problems,
        outages=outages,
    )


def _open_listed_image(location: str, access: AccessPolicy) -> tuple[Any, str]:
    """Open the file system of a listed image.

    Returns:
        The fsspec file system, and the path inside it.

    Raises:
        NotAllowed: This run may not read the location.
        Unreadable: It is not a valid location.
        Exception: An error of the file system, one of `storage_errors`.
    """
    try:
        filesystem, path = open_filesystem(location, access)
    except ProtocolRefused as exc:  # without its sentence, which repeats the name of the row
        raise NotAllowed("Expected a readable path or URL, found another one.", exc.hint) from exc
    except UsageError as exc:
        raise Unreadable("Expected a valid path or URL, found another one.", exc.hint) from exc
    except MissingPackage as exc:
        raise Unreadable(exc.sentence, exc.hint) from exc
    return filesystem, access.check_path(path) if is_local(filesystem) else path


def _find_server(location: str) -> str:
    """Return the protocol and the host or bucket of a location, empty for this machine."""
    return "/".join(location.split("/", 3)[:3]) if "://" in location else ""


def _marker_paths(base: str) -> list[str]:
    """Return the paths of synthetic markers: in the folder, or up to two folders above it."""
    folder = PurePosixPath(base)
    paths = [str(parent / SYNTHETIC_MARKER) for parent in (folder, *list(folder.parents)[:2])]
    return [path for path in paths if "/" in path]  # nothing lies above a bucket


def _is_synthetic_marker(filesystem: Any, path: str) -> bool:
    try:
        data = call_with_retries(read_file, filesystem, path, MAX_MARKER_BYTES)
    except storage_errors():
        return False
    return b"synthetic" in data[:400].lower()


def read_labels(labels: str, source: Source) -> dict[str, str]:
    """Read the reference standard of the labelled images, by key.

    Args:
        labels: "folders" (the parent folder is NORMAL or PNEUMONIA, unless an image list gives
            another label), "none", or the URL of a CSV file with the columns image and label.
        source: The images of the run.

    Raises:
        SourceError: The CSV file cannot be read or used.
        TransientError: Its storage does not respond.
    """
    if labels == "none":
        return {}
    if labels == "folders":
        parents = {ref.key: PurePosixPath(ref.path).parent.name for ref in source.refs}
        found = {key: parent for key, parent in parents.items() if parent in CLASSES}
        found |= {key: source.labels[key] for key in parents.keys() & source.labels.keys()}
        return {key: label for key, label in found.items() if label}
    return read_label_file(labels, {ref.key for ref in source.refs}, source.access)
