"""The one bundled typeface: its files, and which characters it can print.

WeasyPrint and matplotlib both warn about a character that their fonts lack, and what another
machine's fonts would print instead differs. So the report uses this typeface alone, and writes
every character that it lacks as its number, such as ‹U+4E2D›.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import as_file, files
from pathlib import Path

FAMILY = "IBM Plex Sans"
FONT_FILES = ("IBMPlexSans-Regular.ttf", "IBMPlexSans-SemiBold.ttf")


@lru_cache(maxsize=1)
def covered() -> frozenset[int]:
    """The code points that every weight of the typeface has."""
    from fontTools.ttLib import TTFont

    maps = []
    for path in font_paths():
        with TTFont(path, lazy=True) as font:
            maps.append(frozenset(font.getBestCmap()))
    return frozenset.intersection(*maps)


@lru_cache(maxsize=1)
def font_paths() -> tuple[Path, ...]:
    """The font files."""
    folder = files("report_templates") / "fonts"
    paths = []
    for name in FONT_FILES:
        with as_file(folder / name) as path:
            paths.append(Path(path))
    return tuple(paths)


def printable(text: str) -> str:
    """Write every character that the typeface lacks as its number."""
    if text.isascii() and text.isprintable():
        return text
    known = covered()
    return "".join(char if ord(char) in known else f"‹U+{ord(char):04X}›" for char in text)
