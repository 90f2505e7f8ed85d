"""Draw a finished run in the formats that were asked for, all from the same material."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batch_scorer.output import open_output
from batch_scorer.report.branding import PLAIN
from batch_scorer.report.page import write_page
from batch_scorer.report.render import gather, write_pdf

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from os import PathLike

    from batch_scorer.output import Output
    from batch_scorer.report.branding import Branding
    from batch_scorer.report.render import Material

WRITERS: dict[str, Callable[[Output, Material], str]] = {"pdf": write_pdf, "html": write_page}


def draw_report(url: str | PathLike[str], formats: Sequence[str], branding: Branding = PLAIN) -> list[str]:
    """Draw the report of the finished run in a folder.

    Args:
        url: Where run.json, the predictions, and films/ with the pictures to show are.
        formats: Names from ``WRITERS``.
        branding: Title, organisation and logo that they carry.

    Returns:
        Where each file is.

    Raises:
        LedgerError: There is no finished run, or the place cannot be written.
        ReportError: Pango is missing (PDF), or something in the page is wrong.
    """
    output = open_output(url)
    material = gather(output, branding)
    return [WRITERS[name](output, material) for name in formats]
