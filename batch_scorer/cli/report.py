"""``cxr report``: draw the report of a finished run again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import cloup

from batch_scorer.cli.options import report_options
from batch_scorer.errors import EXIT_OK

if TYPE_CHECKING:
    from batch_scorer.report.content.report_options import ReportOptions


@cloup.command(epilog="Example: cxr report out")
@click.argument("output")
@report_options
def report(output: str, report_options: ReportOptions) -> int:
    """Draw the report of a finished run again.

    OUTPUT is the output of `cxr score`, `cxr merge` or a scheduled run. The new report carries the
    title, organisation and logo given here.
    """
    from batch_scorer.report.formats.draw import draw_report

    for url in draw_report(output, report_options):
        click.echo(f"Report    {url}")
    return EXIT_OK
