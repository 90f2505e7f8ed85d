"""A figure as a file of its own: on white, with the typeface inside.

In a page of ours the page brings both. Elsewhere, in a README or a notebook, a figure without them
is dark ink on whatever the reader's theme is, in whatever font the reader has.
"""

from __future__ import annotations

import re
from functools import lru_cache
from string import printable

from batch_scorer.report.content.typeface import FONT_FAMILY, make_font_css

_SVG_TAG = re.compile(r"<svg [^>]*>")
_FONT_STACK = f"'{FONT_FAMILY}', 'Helvetica Neue', Arial, sans-serif"


def make_standalone_svg(svg: str) -> str:
    """Make a figure of ``figures`` whole by itself; the same figure gives the same text."""
    style = f"<style>{_make_font_css(frozenset(svg + printable))}</style>"
    ground = f'{style}<rect width="100%" height="100%" fill="#ffffff"/>'
    svg = svg.replace(f"'{FONT_FAMILY}'", _FONT_STACK)
    return _SVG_TAG.sub(lambda found: found[0] + ground, svg, count=1)


@lru_cache(maxsize=8)
def _make_font_css(characters: frozenset[str]) -> str:
    """The typeface; most figures need the same characters, and cutting a font takes a second."""
    return make_font_css(characters)
