"""A figure as a file of its own: on white, with the typeface inside.

In a page of ours the page brings both. Elsewhere, in a README or a notebook, a figure without them
is dark ink on whatever the reader's theme is, in whatever font the reader has.
"""

from __future__ import annotations

import re
from functools import lru_cache
from string import printable

from batch_scorer.report.content.typeface import FAMILY, embedded_faces

_START = re.compile(r"<svg [^>]*>")
_FALLBACK = f"'{FAMILY}', 'Helvetica Neue', Arial, sans-serif"


def stand_alone(svg: str) -> str:
    """Make a figure of ``figures`` whole by itself; the same figure gives the same text."""
    style = f"<style>{_faces(frozenset(svg + printable))}</style>"
    ground = f'{style}<rect width="100%" height="100%" fill="#ffffff"/>'
    svg = svg.replace(f"'{FAMILY}'", _FALLBACK)
    return _START.sub(lambda found: found[0] + ground, svg, count=1)


@lru_cache(maxsize=8)
def _faces(characters: frozenset[str]) -> str:
    """The typeface; most figures need the same characters, and cutting a font takes a second."""
    return embedded_faces(characters)
