"""Standalone SVG figures: on white, with the typeface embedded.

A page of the report brings both. A README or a notebook does not: there a figure without them would
be dark text on the reader's theme, in whatever font the reader has.
"""

from __future__ import annotations

import re
from functools import lru_cache
from string import printable

from batch_scorer.report.content.typeface import FONT_FAMILY, make_font_css

_SVG_TAG = re.compile(r"<svg [^>]*>")
_FONT_STACK = f"'{FONT_FAMILY}', 'Helvetica Neue', Arial, sans-serif"


def make_standalone_svg(svg: str) -> str:
    """Add a white background and the typeface to a figure; the same figure gives the same text."""
    style = f"<style>{_make_font_css(frozenset(svg + printable))}</style>"
    background = f'{style}<rect width="100%" height="100%" fill="#ffffff"/>'
    svg = svg.replace(f"'{FONT_FAMILY}'", _FONT_STACK)
    return _SVG_TAG.sub(lambda found: found[0] + background, svg, count=1)


@lru_cache(maxsize=8)
def _make_font_css(characters: frozenset[str]) -> str:
    """Cache the font CSS: most figures need the same characters, and subsetting takes a second."""
    return make_font_css(characters)
