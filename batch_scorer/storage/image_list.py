"""Image lists: a text file with one path or URL per line, or a CSV table with the column image.

Relative paths start at the list's own folder. An image below that folder gets the same key as if
the folder itself were scored; the key of any other image is its whole path or URL, without possible
secrets. A wrong line becomes a row that says so; only a file that is not a list is an error.
"""

from __future__ import annotations

import io
import logging
import posixpath
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batch_scorer.errors import SourceError
from batch_scorer.storage.filesystem import WEB_PROTOCOLS
from batch_scorer.storage.labels import LABEL_WORDS, read_csv_table
from batch_scorer.system.redact import redact_url

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

LIST_SUFFIXES = (".txt", ".csv")
MAX_KEY_CHARS = 1024
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")
_UNDECODED = re.compile("[\udc80-\udcff]")
_HINT = (
    "A list is UTF-8 text with one path or URL in each line (.txt), or a table with the column "
    "image (.csv)."
)
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageList:
    """The images of a list by key, in the list's order.

    ``locations`` holds the path or URL of each image, and may contain secrets. ``labels`` holds the
    labels of the list, empty where one is invalid. ``problems`` describes the lines that name no
    image. An ``ambiguous`` key may mean another image in the next run.
    """

    locations: dict[str, str] = field(repr=False)
    labels: dict[str, str]
    problems: dict[str, str]
    ambiguous: frozenset[str]


@dataclass(frozen=True)
class _Entry:
    """One line: ``location`` is empty if it names no image, ``label`` is the cell of a table."""

    line: int
    location: str = field(repr=False)
    label: str = ""

    @property
    def identity(self) -> str | int:
        """The location, equal for repeated images; else the line number, which is unique."""
        return self.location or self.line


def is_image_list(path: str) -> bool:
    """Return whether the file given as IMAGES is a list: its name ends in .txt or .csv."""
    return redact_url(path).lower().endswith(LIST_SUFFIXES)


def parse_image_list(data: bytes, url: str) -> ImageList:
    """Parse an image list.

    Args:
        data: The whole file.
        url: Its path or URL; relative entries start at its folder.

    Raises:
        SourceError: It is not a list, or is empty.
    """
    folder = _find_folder(url)
    entries = list(_read_entries(_decode(data, url), url, folder))
    if not entries:
        raise SourceError(f"Expected images in the list {redact_url(url)}, found none.", _HINT)
    distinct: dict[str | int, _Entry] = {}
    for entry in entries:
        distinct.setdefault(entry.identity, entry)
    if len(entries) > len(distinct):
        log.warning(
            "%d entries of the list repeat an image: it gets one row", len(entries) - len(distinct)
        )
    keys, ambiguous = _assign_keys(distinct, folder)
    return ImageList(
        locations={keys[identity]: entry.location for identity, entry in distinct.items()},
        labels={keys[identity]: label for identity, label in _read_labels(entries).items()},
        problems={
            keys[identity]: f"Expected a CSV row in line {entry.line}, found other text."
            for identity, entry in distinct.items()
            if not entry.location
        },
        ambiguous=ambiguous,
    )


def _decode(data: bytes, url: str) -> str:
    """Decode the text of a list. Some lines may not be UTF-8, as file names may hold any bytes.

    Raises:
        SourceError: It is not text, or has another encoding.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        text = data.decode("utf-8-sig", "surrogateescape")
        lines = [line for line in text.split("\n") if line.strip()]
        undecodable = sum(_UNDECODED.search(line) is not None for line in lines)
        if data.startswith(_UTF16_BOMS) or 2 * undecodable > len(lines):
            shown = redact_url(url)
            raise SourceError(
                f"Expected a list of images in UTF-8 in {shown}, found other bytes: {exc.reason}.",
                _HINT,
            ) from exc
        return text


def _read_entries(text: str, url: str, folder: str) -> Iterator[_Entry]:
    """Yield the entries of a list, without empty lines and comments."""
    if redact_url(url).lower().endswith(".csv"):
        for row, line in read_csv_table(text, url, {"image"}, frozenset({"image"})):
            if not row:
                yield _Entry(line, "")
            elif row.get("image", "").strip():
                yield _Entry(line, _resolve_location(row["image"], folder), row.get("label", ""))
        return
    for line, words in enumerate(io.StringIO(text), start=1):
        entry = words.strip()
        if entry and not entry.startswith("#"):
            yield _Entry(line, _resolve_location(entry, folder))


def _find_folder(url: str) -> str:
    """Return the folder of a list, without a trailing slash."""
    path = re.split("[?#]", url, maxsplit=1)[0] if _is_web(url) else url
    return path.rsplit("/", 1)[0] if "/" in path else ""


def _resolve_location(entry: str, folder: str) -> str:
    if "://" in entry:
        return entry
    if entry.startswith("/"):
        return posixpath.normpath(entry)
    scheme, separator, path = folder.rpartition("://")
    return scheme + separator + posixpath.normpath(posixpath.join(path, entry))


def _assign_keys(
    entries: Mapping[str | int, _Entry], folder: str
) -> tuple[dict[str | int, str], frozenset[str]]:
    """Give each entry a unique key.

    Returns:
        The keys by the entries' identities, and the keys that may mean another image in the next
        run.
    """
    plain = {identity: _make_key(entry, folder) for identity, entry in entries.items()}
    times = Counter(key for key, _ in plain.values())
    numbers: Counter[str] = Counter()
    keys: dict[str | int, str] = {}
    taken: set[str] = set()
    ambiguous: set[str] = set()
    for identity, (wanted, exact) in plain.items():
        key = wanted
        while key in taken:
            numbers[wanted] += 1
            key = f"{wanted} ({numbers[wanted] + 1})"
        taken.add(key)
        keys[identity] = key
        if not exact or times[wanted] > 1 or key != wanted:
            ambiguous.add(key)
    return keys, frozenset(ambiguous)


def _make_key(entry: _Entry, folder: str) -> tuple[str, bool]:
    """Return the key of a single entry, and whether the key gives the whole location."""
    if not entry.location:
        return f"line {entry.line}", False
    bare, within = entry.location, f"{folder}/" if folder else ""
    if _is_web(bare) or not bare.startswith(within):
        bare, within = redact_url(bare), redact_url(within)
    name = bare.removeprefix(within)
    shown = redact_url(name)  # a mistyped URL passes as a name in the list's folder
    exact = bare == entry.location and shown == name
    key = shown.encode("utf-8", "backslashreplace").decode("utf-8")
    if len(key) > MAX_KEY_CHARS:
        return f"{key[: MAX_KEY_CHARS - 1]}…", False
    return key, exact


def _is_web(location: str) -> bool:
    return location.partition("://")[0].lower() in WEB_PROTOCOLS


def _read_labels(entries: Sequence[_Entry]) -> dict[str | int, str]:
    """Return the label of each labelled image; empty if it is invalid or contradicts another."""
    labels: dict[str | int, str] = {}
    wrong = 0
    for entry in entries:
        word = entry.label.strip().upper()
        if not word:
            continue
        label = LABEL_WORDS.get(word, "")
        if not label or labels.setdefault(entry.identity, label) != label:
            labels[entry.identity] = ""
            wrong += 1
    if wrong:
        log.warning(
            "%d labels of the list are not NORMAL, PNEUMONIA, 0 or 1, or contradict an "
            "earlier line: these images are scored without a label",
            wrong,
        )
    return labels
