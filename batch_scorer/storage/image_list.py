"""A list of films: a text file with one path or URL in each line, or a CSV table that names them.

A relative path counts from the list's own folder, and so do the keys: what lies in that folder is
called as if the folder itself were scored; anything else by its whole path or URL, without what may
be a secret in it. A line that is wrong becomes a row that says so; only a file that is no list at
all is an error.
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
    """What a list names, by key, in its own order.

    ``places`` says where each image lies, and may hold secrets. ``labels`` are those that the list
    gives, empty where it gives one that cannot be used. ``problems`` says of lines that name
    nothing what is wrong with them. ``ambiguous`` keys do not tell which of several images they
    mean: by the next run they may mean another one.
    """

    places: dict[str, str] = field(repr=False)
    labels: dict[str, str]
    problems: dict[str, str]
    ambiguous: frozenset[str]


@dataclass(frozen=True)
class _Entry:
    """One line: ``place`` is empty where it names nothing, ``label`` is the cell of a table."""

    line: int
    place: str = field(repr=False)
    label: str = ""

    @property
    def identity(self) -> str | int:
        """What makes it the same as another line: its place; a line that names none is alone."""
        return self.place or self.line


def is_image_list(path: str) -> bool:
    """Whether a file given as IMAGES is a list and not a film: its name ends in .txt or .csv."""
    return redact_url(path).lower().endswith(LIST_SUFFIXES)


def parse_image_list(data: bytes, url: str) -> ImageList:
    """Read a list.

    Args:
        data: The whole file.
        url: Where it lies; relative entries count from its folder.

    Raises:
        SourceError: It is no list, or names nothing.
    """
    folder = _find_folder(url)
    entries = list(_read_entries(_decode(data, url), url, folder))
    if not entries:
        raise SourceError(f"Expected films in the list {redact_url(url)}, found none.", _HINT)
    distinct: dict[str | int, _Entry] = {}
    for entry in entries:
        distinct.setdefault(entry.identity, entry)
    if len(entries) > len(distinct):
        log.warning(
            "%d entries of the list name a film again: it has one row", len(entries) - len(distinct)
        )
    keys, ambiguous = _assign_keys(distinct, folder)
    return ImageList(
        places={keys[identity]: entry.place for identity, entry in distinct.items()},
        labels={keys[identity]: label for identity, label in _read_labels(entries).items()},
        problems={
            keys[identity]: f"Line {entry.line} of the list is no line of a CSV table."
            for identity, entry in distinct.items()
            if not entry.place
        },
        ambiguous=ambiguous,
    )


def _decode(data: bytes, url: str) -> str:
    """The text of a list, in which a line may be no UTF-8: names on a disk may be anything.

    Raises:
        SourceError: It is no text, or text of another encoding.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        text = data.decode("utf-8-sig", "surrogateescape")
        lines = [line for line in text.split("\n") if line.strip()]
        odd = sum(_UNDECODED.search(line) is not None for line in lines)
        if data.startswith(_UTF16_BOMS) or 2 * odd > len(lines):
            shown = redact_url(url)
            raise SourceError(f"{shown} is no list of films: {exc.reason}.", _HINT) from exc
        return text


def _read_entries(text: str, url: str, folder: str) -> Iterator[_Entry]:
    """Each line that is not left out."""
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
    """The folder of a list, without a slash at its end."""
    place = re.split("[?#]", url, maxsplit=1)[0] if _is_web(url) else url
    return place.rsplit("/", 1)[0] if "/" in place else ""


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
    """A key for each entry, the same as no other's; and those that may mean another by tomorrow."""
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
    """The key of an entry as if it were alone, and whether it tells all of the place."""
    if not entry.place:
        return f"line {entry.line}", False
    bare, within = entry.place, f"{folder}/" if folder else ""
    if _is_web(bare) or not bare.startswith(within):
        bare, within = redact_url(bare), redact_url(within)
    name = bare.removeprefix(within)
    shown = redact_url(name)  # a mistyped URL counts as a name in the list's folder
    exact = bare == entry.place and shown == name
    key = shown.encode("utf-8", "backslashreplace").decode("utf-8")
    if len(key) > MAX_KEY_CHARS:
        return f"{key[: MAX_KEY_CHARS - 1]}…", False
    return key, exact


def _is_web(place: str) -> bool:
    return place.partition("://")[0].lower() in WEB_PROTOCOLS


def _read_labels(entries: Sequence[_Entry]) -> dict[str | int, str]:
    """The label of each image that has one; empty where it is none, or not the only one."""
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
            "%d labels of the list are none of NORMAL, PNEUMONIA, 0 and 1, or contradict an "
            "earlier line: these images are scored without one",
            wrong,
        )
    return labels
