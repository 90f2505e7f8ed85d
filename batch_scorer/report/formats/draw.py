"""Draw a finished run in the requested formats, all from the same bundle."""

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
    options: ReportOptions = DEFAULT_OPTIONS,
    lock: Lease | OutputLock | None = None,
) -> list[str]:
    """Draw the report of the finished run in a folder.

    Args:
        url: The folder with run.json, the predictions, and films/ with the images to show.
        options: The formats, names from ``WRITERS``, and the branding.
        lock: The exclusive right to write to the folder; by default a new lock of the output.

    Returns:
        The path or URL of each file.

    Raises:
        ForeignFile: A file of that name exists, and another program wrote it.
        AlreadyRunning: Another run is writing to the folder.
        OutputError: There is no finished run, or the output cannot be written.
        ReportError: Pango is missing (PDF), or the page has an error.
    """
    output = url if isinstance(url, Output) else open_output(url)
    if lock is None:
        with OutputLock(output) as own_lock:
            return draw_report(output, options, own_lock)
    if not output.has_record:
        store.read_run(output)  # refuse before writing anything
        claim_run(output)
    lock.check()  # before reading the run, which another process may be replacing
    check_claimable(output)
    output = output.with_guard(lock.check)
    started = time.perf_counter()
    bundle = read_report_bundle(output, options)
    urls = [WRITERS[name](output, bundle) for name in options.formats]
    seconds = round(time.perf_counter() - started, 3)
    log_event("report_drawn", formats=options.formats, seconds=seconds)
    return urls


def draw_missing_reports(output: Output, options: ReportOptions, lock: OutputLock) -> list[str]:
    """Draw the reports that do not exist yet; a new run withdraws those of the run before.

    All are drawn again if ``options`` ask for anything custom.

    Returns:
        The path or URL of each requested file.
    """
    found = {
        name: output.read(REPORT_FILES[name], MAX_TABLE_READ_BYTES) for name in options.formats
    }
    missing = [name for name, data in found.items() if options.is_custom or data is None]
    if missing:
        draw_report(output, replace(options, formats=tuple(missing)), lock)
    return [f"{output.url}/{REPORT_FILES[name]}" for name in options.formats]
