"""Draw two pages of a finished run's report as small images for the README."""

from __future__ import annotations

from pathlib import Path

import click
import pypdfium2 as pdfium
from PIL import Image

from batch_scorer.errors import ReportError
from batch_scorer.results import store
from batch_scorer.results.store import read_run
from batch_scorer.storage.output import open_output
from benchmarks.command import BenchmarkCommand
from docs.making.committed import FIGURES_FOLDER, check_synthetic

PAGE_FILES = {0: "report-summary.png", 1: "report-films.png"}
WIDTH_PX = 760
N_COLOURS = 160


@click.command(cls=BenchmarkCommand, epilog="Example: python docs/making/pictures.py out/demo")
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=FIGURES_FOLDER,
    help="Folder for the images.  [default: docs/figures]",
)
def main(run: Path, output: Path) -> None:
    """Draw pages 1 and 2 of the report of the finished run RUN."""
    manifest = read_run(open_output(run)).manifest
    if not manifest.synthetic:
        check_synthetic(run, output)
    report = run / store.REPORT_FILE
    if not report.is_file():
        raise ReportError(
            f"Expected a report in {run}, found no {report.name}.",
            f"Draw it with: cxr report {run}",
        )
    output.mkdir(parents=True, exist_ok=True)
    with pdfium.PdfDocument(report) as document:
        for page, name in PAGE_FILES.items():
            sheet = document[page]
            image = sheet.render(scale=2 * WIDTH_PX / sheet.get_width()).to_pil()
            small = image.reduce(2).quantize(N_COLOURS, dither=Image.Dither.NONE)
            small.save(output / name, optimize=True)
            click.echo(output / name)


if __name__ == "__main__":
    main()
