"""Draw a finished run in the formats that were asked for, all from the same material."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from batch_scorer.report.content.report_options import DEFAULT_OPTIONS
from batch_scorer.report.formats.html import write_html
from batch_scorer.report.formats.pdf import read_report_bundle, write_pdf
from batch_scorer.report.formats.slides_pdf import write_slides
from batch_scorer.results import store
from batch_scorer.results.claim import check_claimable, claim_run
from batch_scorer.results.store import REPORT_FILES
from batch_scorer.storage.output import MAX_TABLE_READ_BYTES, Output, open_output
from batch_scorer.storage.output_lock import OutputLock
from batch_scorer.system.log import log_event

if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike

    from batch_scorer.report.content.report_options import ReportOptions
    from batch_scorer.report.formats.pdf import ReportBundle
    from batch_scorer.storage.lease import Lease

WRITERS: dict[str, Callable[[Output, ReportBundle], str]] = {
    "pdf": write_pdf,
    "html": write_html,
    "slides": write_slides,
}


def draw_report(
    url: str | PathLike[str] | Output,
    drawing: ReportOptions = DEFAULT_OPTIONS,
    held: Lease | OutputLock | None = None,
) -> list[str]:
    """Draw the report of the finished run in a folder.

    Args:
        url: Where run.json, the predictions, and films/ with the pictures to show are.
        drawing: The formats, names from ``WRITERS``, and what they carry.
        held: What gives this process alone the right to write there; by default a lock of the
            output.

    Returns:
        Where each file is.

    Raises:
        ForeignFile: A file of that name is there, and this program did not write it.
        Occupied: A run is writing there.
        LedgerError: There is no finished run, or the place cannot be written.
        ReportError: Pango is missing (PDF), or something in the page is wrong.
    """
    output = url if isinstance(url, Output) else open_output(url)
    if held is None:
        with OutputLock(output) as own:
            return draw_report(output, drawing, own)
    if not output.has_record:
        store.read_run(output)  # nothing is written where there is no run
        claim_run(output)
    held.check()  # before the run is looked at: another one may be replacing it
    check_claimable(output)
    output = output.with_guard(held.check)
    since = time.perf_counter()
    material = read_report_bundle(output, drawing)
    places = [WRITERS[name](output, material) for name in drawing.formats]
    seconds = round(time.perf_counter() - since, 3)
    log_event("report_drawn", formats=drawing.formats, seconds=seconds)
    return places


def draw_missing_reports(output: Output, drawing: ReportOptions, lock: OutputLock) -> list[str]:
    """Draw what is not there yet: a new run has withdrawn the reports of the older one.

    Where the drawing asks for something of its own, all is drawn again.

    Returns:
        Where each file of the drawing is.
    """
    found = {
        name: output.read(REPORT_FILES[name], MAX_TABLE_READ_BYTES) for name in drawing.formats
    }
    lacking = [name for name, data in found.items() if drawing.is_custom or data is None]
    if lacking:
        draw_report(output, replace(drawing, formats=tuple(lacking)), lock)
    return [f"{output.url}/{REPORT_FILES[name]}" for name in drawing.formats]
