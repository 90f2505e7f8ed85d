"""Where films and their labels come from: any fsspec URL, listed in full before anything is read.

Keys are POSIX paths relative to the root, sorted. Files and folders whose name begins with a dot
are the operating system's own (``.DS_Store``, ``._film.jpeg``): they are counted, not scored.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import fsspec

from batch_scorer.card import CLASSES
from batch_scorer.errors import MissingPackage, SourceError, Unreadable, UsageError
from batch_scorer.records import ImageRef

EXTRAS = {"s3": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure"}
LABEL_WORDS = {"NORMAL": "NORMAL", "0": "NORMAL", "PNEUMONIA": "PNEUMONIA", "1": "PNEUMONIA"}
SYNTHETIC_MARKER = "SYNTHETIC.txt"


@dataclass(frozen=True)
class Source:
    """The films of one folder, bucket or file.

    ``synthetic`` says that the folder calls its own films synthetic, by a file SYNTHETIC.txt.
    """

    url: str
    refs: tuple[ImageRef, ...]
    hidden: int
    synthetic: bool
    filesystem: Any

    def read(self, ref: ImageRef) -> bytes:
        """Read one whole file.

        Raises:
            Unreadable: It cannot be read, whatever the reason.
        """
        try:
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
        SourceError: It is not there, cannot be listed, or holds no file.
        MissingPackage: The cloud's file system is not installed.
    """
    filesystem, root = _filesystem(url)
    try:
        if not filesystem.exists(root):
            raise SourceError(f"Expected films at {url}, found nothing there.", "Check the path.")
        single = filesystem.isfile(root)
        paths = [root] if single else list(filesystem.find(root))
    except OSError as exc:
        raise SourceError(f"{url} cannot be listed: {exc.strerror or exc}.") from exc
    base = root.rsplit("/", 1)[0] if single else root.rstrip("/")
    found = {_key(path, base): path for path in paths}
    synthetic = found.pop(SYNTHETIC_MARKER, None) is not None
    visible = {key: path for key, path in found.items() if not _is_hidden(key)}
    if not visible:
        raise SourceError(f"Expected films in {url}, found no file in it.", "Check the path.")
    return Source(
        url=url,
        refs=tuple(ImageRef(key, visible[key]) for key in sorted(visible)[:limit]),
        hidden=len(found) - len(visible),
        synthetic=synthetic,
        filesystem=filesystem,
    )


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
    filesystem, path = _filesystem(url)
    try:
        text = filesystem.cat_file(path).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        raise SourceError(
            f"The label file {url} cannot be read: {exc}.",
            "--labels takes folders, none, or a CSV file with the columns image and label.",
        ) from exc
    reader = csv.DictReader(text.splitlines())
    if not {"image", "label"} <= set(reader.fieldnames or ()):
        raise SourceError(
            f"Expected the columns image and label in {url}, found {reader.fieldnames}."
        )
    labels = {}
    for row in reader:
        word = (row["label"] or "").strip().upper()
        if word not in LABEL_WORDS:
            raise SourceError(
                f"Expected NORMAL, PNEUMONIA, 0 or 1 as label in line {reader.line_num} of {url}, "
                f"found {row['label']!r}."
            )
        labels[row["image"]] = LABEL_WORDS[word]
    matched = {key: label for key, label in labels.items() if key in keys}
    if labels and not matched:
        raise SourceError(
            f"None of the {len(labels)} images named in {url} is among the films.",
            f"The column image holds paths relative to the scored folder, such as {min(keys)}.",
        )
    return matched


def _filesystem(url: str) -> tuple[Any, str]:
    try:
        filesystem, root = fsspec.core.url_to_fs(url)
    except ImportError as exc:
        protocol = url.split(":", 1)[0]
        extra = EXTRAS.get(protocol)
        hint = f'Install it with: pip install "cxr-batch[{extra}]"' if extra else str(exc)
        raise MissingPackage(f"{protocol} support is missing.", hint) from exc
    except ValueError as exc:
        raise UsageError(f"{url} is no path or URL that can be read: {exc}.") from exc
    return filesystem, root


def _key(path: str, base: str) -> str:
    key = path[len(base) :].lstrip("/") if path.startswith(base) else path
    return key.encode("utf-8", "backslashreplace").decode("utf-8")


def _is_hidden(key: str) -> bool:
    return any(part.startswith(".") for part in key.split("/"))
