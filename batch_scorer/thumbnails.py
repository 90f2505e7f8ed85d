"""Small pictures of the films that the report shows first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image

from batch_scorer import ledger
from batch_scorer.decoding import decode_radiograph
from batch_scorer.errors import ImageError
from batch_scorer.triage import first_look

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batch_scorer.output import Output
    from batch_scorer.records import Score
    from batch_scorer.source import Source

LONGEST_SIDE_PX = 320


def write_thumbnails(
    output: Output, source: Source, rows: Sequence[Score], threshold: float
) -> None:
    """Write each film that the report shows, small, at its own proportions.

    Raises:
        LedgerError: The output cannot be written.
    """
    shown = [row for group in first_look(rows, threshold).values() for row in group]
    refs = {ref.key: ref for ref in source.refs}
    for row in shown:
        try:
            pixels = decode_radiograph(source.read(refs[row.image]), LONGEST_SIDE_PX)
        except (ImageError, KeyError):
            continue  # gone since it was scored: the report says that its picture is missing
        width_px, height_px = row.width_px or 1, row.height_px or 1
        scale = LONGEST_SIDE_PX / max(width_px, height_px)
        size = (max(1, round(width_px * scale)), max(1, round(height_px * scale)))
        picture = Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)
        ledger.write_thumbnail(output, row, picture)
