"""What a report costs: `cxr report` on small and large runs, beside plain WeasyPrint on its HTML.

The runs are whole ones of synthetic films, but their answers are drawn from the scores that the
bundled models' cards hold, not computed: only the report is measured. Every hundredth file was not
scored. A process for each turn.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import click
import numpy as np

from batch_scorer.model.card import CLASSES
from batch_scorer.model.classifier import Classifier, list_bundled_models
from batch_scorer.report.formats.pdf import read_report_bundle, render_pdf_html
from batch_scorer.results.commit import ReportImageSource, ScoredRun, commit_run
from batch_scorer.results.schema import ModelUsed, RunFacts, Score
from batch_scorer.results.thumbnails import ReportImages
from batch_scorer.storage.output import open_output
from batch_scorer.storage.source import open_source
from benchmarks.command import BenchmarkCommand
from benchmarks.memory import EXAMPLE_IMAGES, make_images

MAX_S_BY_ROWS = {100: 6.0, 10_000: 60.0}
MAX_PEAK_BYTES = 1e9
SUFFIXES = {"image/svg+xml": ".svg", "image/jpeg": ".jpg", "image/png": ".png"}
TIMESTAMP = "2026-01-02T03:04:05+00:00"


@dataclass(frozen=True)
class ProcessUsage:
    """What a process took: seconds by the clock and of the processor, and its peak memory."""

    wall_s: float
    processor_s: float
    peak_bytes: int

    def __str__(self) -> str:
        """The three in a line."""
        return (
            f"{self.wall_s:6.1f} s, processor {self.processor_s:6.1f} s, "
            f"peak {self.peak_bytes / 1e6:5.0f} MB"
        )


@click.command(cls=BenchmarkCommand, epilog="Example: python benchmarks/report_scale.py --rows 100")
@click.option(
    "--rows", type=click.IntRange(1), multiple=True, default=(100, 1000, 10_000), show_default=True
)
@click.pass_context
def main(ctx: click.Context, rows: tuple[int, ...]) -> None:
    """Measure reports of so many rows.

    Exit code 1: 100 rows take over 6 s, 10,000 over 60 s, or any report 1 GB.
    """
    good = True
    for number in rows:
        with tempfile.TemporaryDirectory(prefix="cxr-report-") as folder:
            output = Path(folder) / "out"
            make_run(Path(folder) / "films", output, number)
            ours = measure_command([sys.executable, "-m", "batch_scorer", "report", str(output)])
            size = (output / "report.pdf").stat().st_size
            page = write_report_html(output, Path(folder) / "page")
            plain = measure_command(
                [sys.executable, "-m", "weasyprint", str(page), str(page.with_suffix(".pdf"))]
            )
        click.echo(f"{number:7,d} rows  cxr report {ours}, {size / 1e6:.1f} MB of PDF")
        click.echo(f"{'':12s}  weasyprint {plain}")
        good &= (
            ours.wall_s <= MAX_S_BY_ROWS.get(number, np.inf) and ours.peak_bytes < MAX_PEAK_BYTES
        )
    ctx.exit(0 if good else 1)


def make_run(folder: Path, output: Path, number: int) -> None:
    """A finished run of so many synthetic films, as `cxr score --model all` leaves it."""
    make_images(sorted(EXAMPLE_IMAGES.rglob("*.jpeg")), folder, number)
    source = open_source(str(folder))
    classifiers = [Classifier.load(name, "cpu") for name in list_bundled_models()]
    models = [ModelUsed(each.path.name, each.sha256, each.card) for each in classifiers]
    place = open_output(output)
    place.prepare()
    facts = RunFacts(
        config_hash="drawn",
        source="films",
        synthetic=True,
        labels="none",
        started=TIMESTAMP,
        finished=TIMESTAMP,
        listed=number,
        hidden=0,
        selected=number,
        provider="none",
        batch_size=1,
        threads=1,
        seconds={"score": 1.0},
        core_seconds=1.0,
        images_per_second=1.0,
        versions={},
    )
    rows = make_rows({ref.key: source.read(ref) for ref in source.refs}, models)
    pictures = ReportImageSource(ReportImages(source), lambda _: classifiers[0])
    commit_run(place, ScoredRun(rows, models, facts), pictures)


def make_rows(films: dict[str, bytes], models: list[ModelUsed]) -> list[Score]:
    """A row for each film: answers drawn from the models' own scores of their validation films."""
    rng = np.random.default_rng(1)
    tables = [model.card.references["validation"].score_quantiles for model in models]
    answers = np.stack(
        [np.interp(rng.random(len(films)), np.linspace(0, 1, len(t)), t) for t in tables], axis=1
    )
    band = models[0].card.band
    rows = []
    for index, (name, probabilities) in enumerate(zip(films, answers.tolist(), strict=True)):
        sha256 = hashlib.sha256(films[name]).hexdigest()
        if index % 100 == 99:  # noqa: PLR2004 - every hundredth
            rows.append(Score(name, "failed", "truncated", "The file ends early.", sha256=sha256))
            continue
        flags = [p >= m.threshold for p, m in zip(probabilities, models, strict=True)]
        rows.append(
            Score(
                name,
                "scored",
                prediction=CLASSES[flags[0]],
                probabilities=tuple(probabilities),
                undecided=band.contains(probabilities[0]) if band else None,
                typicality=0.5,
                atypical=False,
                agreement=flags.count(flags[0]) / len(flags),
                spread=max(probabilities) - min(probabilities),
                width_px=400,
                height_px=300,
                sha256=sha256,
            )
        )
    return rows


def write_report_html(output: Path, folder: Path) -> Path:
    """The HTML of a run's report as a file that needs no fetcher of ours."""
    material = read_report_bundle(open_output(output))
    html, resources = render_pdf_html(material), material.resources
    folder.mkdir()
    for name, (data, kind) in resources.items():
        file = folder / f"{name}{SUFFIXES[kind]}"
        file.write_bytes(data)
        for scheme in ("figure", "film"):
            html = html.replace(f'"{scheme}:{name}"', f'"{file.name}"')
    templates = Path(str(files("report_templates"))).as_uri()
    css = (files("report_templates") / "style.css").read_text(encoding="utf-8")
    (folder / "style.css").write_text(css.replace("report:", f"{templates}/"), encoding="utf-8")
    page = folder / "page.html"
    page.write_text(html.replace("report:style.css", "style.css"), encoding="utf-8")
    return page


def measure_command(command: list[str]) -> ProcessUsage:
    """What a command takes."""
    start = time.perf_counter()
    process = subprocess.Popen(  # noqa: S603 - this project's own program, and WeasyPrint
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    said = process.stderr.read() if process.stderr else ""
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise click.ClickException(f"{' '.join(command[1:4])} ended with an error: {said}")
    peak = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return ProcessUsage(seconds, used.ru_utime + used.ru_stime, peak)


if __name__ == "__main__":
    main()
