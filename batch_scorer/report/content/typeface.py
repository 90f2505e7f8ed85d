"""The bundled typeface: its files, and the characters that it can print.

WeasyPrint and matplotlib both warn about a character that their fonts lack, and another machine's
fonts would print something else in its place. So the report uses this typeface alone, and replaces
every character that it lacks by its code point, such as ‹U+4E2D›.
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
    """Return the code points that all weights of the typeface cover."""
    from fontTools.ttLib import TTFont

    maps = []
    for path in find_font_files():
        with TTFont(path, lazy=True) as font:
            maps.append(frozenset(font.getBestCmap()))
    return frozenset.intersection(*maps)


@lru_cache(maxsize=1)
def find_font_files() -> tuple[Path, ...]:
    """Return the paths of the font files, one per weight."""
    folder = files("report_templates") / "fonts"
    paths = []
    for name in FONT_FILES:
        with as_file(folder / name) as path:
            paths.append(Path(path))
    return tuple(paths)


def replace_unsupported(text: str) -> str:
    """Replace every character that the typeface lacks by its code point."""
    if text.isascii() and text.isprintable():
        return text
    known = load_code_points()
    return "".join(char if ord(char) in known else f"‹U+{ord(char):04X}›" for char in text)


def make_font_css(characters: AbstractSet[str]) -> str:
    """Make CSS that embeds the typeface, one rule per weight, with only the given characters."""
    return "".join(
        f'@font-face{{font-family:"{FONT_FAMILY}";font-weight:{weight};'
        f'src:url("{make_data_uri(_subset_font(path, characters), "font/woff2")}")}}'
        for weight, path in zip(FONT_WEIGHTS, find_font_files(), strict=True)
    )


def make_data_uri(body: bytes, media_type: str) -> str:
    """Encode bytes as a data URI."""
    return f"data:{media_type};base64,{base64.b64encode(body).decode()}"


def _subset_font(path: Path, characters: AbstractSet[str]) -> bytes:
    """Return a font with only the given characters, as WOFF2; the same bytes every time."""
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
