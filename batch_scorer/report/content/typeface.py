"""The one bundled typeface: its files, and which characters it can print.

WeasyPrint and matplotlib both warn about a character that their fonts lack, and what another
machine's fonts would print instead differs. So the report uses this typeface alone, and writes
every character that it lacks as its number, such as ‹U+4E2D›.
"""

from __future__ import annotations

import base64
import io
from functools import lru_cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

FONT_FAMILY = "IBM Plex Sans"
FONT_WEIGHTS = (400, 600)
FONT_FILES = ("IBMPlexSans-Regular.ttf", "IBMPlexSans-SemiBold.ttf")


@lru_cache(maxsize=1)
def load_code_points() -> frozenset[int]:
    """The code points that every weight of the typeface has."""
    from fontTools.ttLib import TTFont

    maps = []
    for path in find_font_files():
        with TTFont(path, lazy=True) as font:
            maps.append(frozenset(font.getBestCmap()))
    return frozenset.intersection(*maps)


@lru_cache(maxsize=1)
def find_font_files() -> tuple[Path, ...]:
    """The font files."""
    folder = files("report_templates") / "fonts"
    paths = []
    for name in FONT_FILES:
        with as_file(folder / name) as path:
            paths.append(Path(path))
    return tuple(paths)


def replace_unsupported(text: str) -> str:
    """Write every character that the typeface lacks as its number."""
    if text.isascii() and text.isprintable():
        return text
    known = load_code_points()
    return "".join(char if ord(char) in known else f"‹U+{ord(char):04X}›" for char in text)


def make_font_css(characters: AbstractSet[str]) -> str:
    """The typeface as CSS that needs no file: a rule per weight, with these characters alone."""
    return "".join(
        f'@font-face{{font-family:"{FONT_FAMILY}";font-weight:{weight};'
        f'src:url("{make_data_uri(_subset_font(path, characters), "font/woff2")}")}}'
        for weight, path in zip(FONT_WEIGHTS, find_font_files(), strict=True)
    )


def make_data_uri(body: bytes, kind: str) -> str:
    """Bytes of a media type as an address that holds them."""
    return f"data:{kind};base64,{base64.b64encode(body).decode()}"


def _subset_font(path: Path, characters: AbstractSet[str]) -> bytes:
    """A font file with some characters alone, as WOFF2; always the same bytes."""
    from fontTools import subset
    from fontTools.ttLib import TTFont

    options = subset.Options(hinting=False, layout_features=["kern", "liga", "tnum"])
    cutter = subset.Subsetter(options)
    cutter.populate(unicodes=[ord(char) for char in characters])
    buffer = io.BytesIO()
    with TTFont(path, recalcTimestamp=False) as font:
        cutter.subset(font)
        font.flavor = "woff2"
        font.save(buffer)
    return buffer.getvalue()
