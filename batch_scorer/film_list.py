"""A list of films: a text file with one path or URL in each line, or a CSV table that names them.

A relative path counts from the list's own folder, and so do the keys: what lies in that folder is
called as if the folder itself were scored; anything else by its whole path or URL, without secrets.
"""

from __future__ import annotations

import csv
import io
import logging
import posixpath
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batch_scorer.errors import SourceError
from batch_scorer.faults import scrub

if TYPE_CHECKING:
    from collections.abc import Iterator

LIST_ENDINGS = (".txt", ".csv")
LABEL_WORDS = {"NORMAL": "NORMAL", "0": "NORMAL", "PNEUMONIA": "PNEUMONIA", "1": "PNEUMONIA"}
_HINT = (
    "A list is UTF-8 text with one path or URL in each line (.txt), or a table with the column "
    "image (.csv)."
)
log = logging.getLogger("cxr.source")


@dataclass(frozen=True)
class FilmList:
    """What a list names, by key: where each film lies, and its label where the list tells one."""

    places: dict[str, str]
    labels: dict[str, str]


def is_list(path: str) -> bool:
    """Whether a file given as IMAGES is a list and not a film: its name ends in .txt or .csv."""
    return path.lower().endswith(LIST_ENDINGS)


def parse_list(data: bytes, url: str) -> FilmList:
    """Read a list.

    Args:
        data: The whole file.
        url: Where it lies; relative entries count from its folder.

    Raises:
        SourceError: It is no list, names nothing, or contradicts itself.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise SourceError(f"{scrub(url)} is no list of films: {exc.reason}.", _HINT) from exc
    folder = url.rsplit("/", 1)[0] if "/" in url else ""
    places: dict[str, str] = {}
    labels: dict[str, str] = {}
    entries = 0
    for entry, label, where in _entries(text, url):
        place = _place(entry, folder)
        key = _key(place, folder)
        if places.setdefault(key, place) != place:
            raise SourceError(
                f"{key} in {where} would share a row with another film.", private=[key]
            )
        if label and labels.setdefault(key, label) != label:
            raise SourceError(f"{key} has another label in {where} than before.", private=[key])
        entries += 1
    if not places:
        raise SourceError(f"Expected films in the list {scrub(url)}, found none.", _HINT)
    if entries > len(places):
        log.warning(
            "%d entries of the list name a film again: it has one row", entries - len(places)
        )
    return FilmList(places, labels)


def read_table(text: str, url: str, needed: set[str]) -> Iterator[tuple[dict[str, str], str]]:
    """The rows of a CSV table, each with words for where it stands.

    Raises:
        SourceError: It is no CSV table, or a needed column is not there.
    """
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        if not needed <= set(reader.fieldnames or ()):
            names = " and ".join(sorted(needed))
            raise SourceError(
                f"Expected the column{'s' * (len(needed) > 1)} {names} in {scrub(url)}, "
                f"found {reader.fieldnames}.",
                "Save the table as CSV with commas, in UTF-8.",
                private=[str(reader.fieldnames)],
            )
        for row in reader:
            yield row, f"line {reader.line_num} of {scrub(url)}"
    except csv.Error as exc:
        raise SourceError(f"{scrub(url)} is no CSV table: {exc}.") from exc


def read_label(word: str | None, where: str) -> str:
    """NORMAL or PNEUMONIA, as a cell of a table says it.

    Raises:
        SourceError: The cell says something else.
    """
    label = LABEL_WORDS.get((word or "").strip().upper())
    if label is None:
        raise SourceError(
            f"Expected NORMAL, PNEUMONIA, 0 or 1 as label in {where}, found {word!r}.",
            private=[repr(word)],
        )
    return label


def _entries(text: str, url: str) -> Iterator[tuple[str, str, str]]:
    """Each entry with its label, if any, and words for where it stands."""
    if url.lower().endswith(".csv"):
        for row, where in read_table(text, url, {"image"}):
            word = row.get("label")
            if row["image"]:
                yield row["image"], read_label(word, where) if word else "", where
        return
    for number, line in enumerate(text.splitlines(), start=1):
        entry = line.strip()
        if entry and not entry.startswith("#"):
            yield entry, "", f"line {number} of {scrub(url)}"


def _place(entry: str, folder: str) -> str:
    if "://" in entry:
        return entry
    if entry.startswith("/"):
        return posixpath.normpath(entry)
    scheme, separator, path = folder.rpartition("://")
    return scheme + separator + posixpath.normpath(posixpath.join(path, entry))


def _key(place: str, folder: str) -> str:
    inside = place.removeprefix(f"{folder}/") if folder else place
    return scrub(inside).encode("utf-8", "backslashreplace").decode("utf-8")
