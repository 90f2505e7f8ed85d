"""Draw the report of a finished run: ledger -> facts -> HTML -> PDF.

WeasyPrint is imported only here, and only while it renders: its import makes Pillow accept
truncated films for the whole process, which is set back at once. It reaches nothing but what it is
handed: packaged files, this run's figures and this run's pictures, each under a scheme of its own,
so no path gets into the document and the same run gives the same bytes anywhere. Whatever it
complains about fails the report.
"""

from __future__ import annotations

import hashlib
import io
import logging
import re
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageFile, UnidentifiedImageError

from batch_scorer import ledger
from batch_scorer.errors import ReportError
from batch_scorer.output import open_output
from batch_scorer.overlay import draw_scale
from batch_scorer.report import figures, plates
from batch_scorer.report.branding import PLAIN
from batch_scorer.report.facts import build_facts
from batch_scorer.report.templates import open_template

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from os import PathLike
    from types import ModuleType

    from batch_scorer.output import Output
    from batch_scorer.records import RunManifest, Score
    from batch_scorer.report.branding import Branding
    from batch_scorer.report.facts import ReportFacts
    from batch_scorer.report.performance import Performance

TEMPLATE = "report.html.j2"
MISSING_LIBRARY = (
    "The report needs the Pango library: apt-get install libpango-1.0-0 libpangoft2-1.0-0 "
    "libharfbuzz-subset0 (on macOS: brew install pango)."
)
# About the machine, not the page: without libharfbuzz-subset another library cuts the fonts.
_HARMLESS = "Using fontTools instead of HarfBuzz-Subset"
_PICTURE_NAME = re.compile(rf"[0-9a-f]{{16}}(?:{ledger.EVIDENCE_SUFFIX})?")
_W3C_DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d)?(Z|[+-]\d\d:\d\d)")
_PACKAGED = {
    "style.css": "text/css",
    "fonts/IBMPlexSans-Regular.ttf": "font/ttf",
    "fonts/IBMPlexSans-SemiBold.ttf": "font/ttf",
}


@dataclass(frozen=True)
class Material:
    """What a report of any format is made of.

    ``pictures`` names the films that can be shown; ``resources`` holds body and media type of
    every picture and figure by name.
    """

    manifest: RunManifest
    rows: Sequence[Score]
    facts: ReportFacts
    pictures: frozenset[str]
    resources: Mapping[str, tuple[bytes, str]]


def render_report(url: str | PathLike[str], branding: Branding = PLAIN) -> str:
    """Draw ``report.pdf`` of the finished run in a folder.

    Args:
        url: Where run.json, the predictions, and films/ with the pictures to show are.
        branding: Title, organisation and logo that it carries.

    Returns:
        Where the PDF is.

    Raises:
        LedgerError: There is no finished run.
        ReportError: Pango is missing, something in the page is wrong, or the disk is full.
    """
    output = open_output(url)
    return write_pdf(output, gather(output, branding))


def gather(output: Output, branding: Branding = PLAIN) -> Material:
    """Read a finished run, tell its facts, find its pictures and draw its figures.

    Raises:
        LedgerError: There is no finished run.
    """
    manifest, rows = ledger.read_run(output)
    facts = build_facts(manifest, rows, branding)
    pictures = _find_pictures(output, facts)
    logo = {"logo": (branding.logo, "image/png")} if branding.logo else {}
    return Material(
        manifest,
        rows,
        facts,
        frozenset(pictures),
        {**_draw_figures(manifest, facts), **pictures, **logo},
    )


def write_pdf(output: Output, material: Material) -> str:
    """Write ``report.pdf`` next to the rows.

    Returns:
        Where it is.

    Raises:
        ReportError: Pango is missing, something in the page is wrong, or the disk is full.
    """
    manifest = material.manifest
    pdf = _write_pdf(
        _write_html(material.facts, material.pictures),
        material.resources,
        hashlib.sha256(f"{manifest.run_id} {manifest.rows_sha256}".encode()).digest()[:16],
    )
    output.write(ledger.REPORT_FILE, pdf)
    return f"{output.url}/{ledger.REPORT_FILE}"


def created_when(facts: ReportFacts) -> str:
    """When the run ended, as a W3C date; empty where the run does not say it in that way."""
    return facts.created if _W3C_DATE.fullmatch(facts.created) else ""


def missing_system_library() -> str | None:
    """What to install when WeasyPrint cannot load Pango; None where it can."""
    try:
        _import_weasyprint()
    except ReportError as exc:
        return str(exc)
    return None


def _import_weasyprint() -> ModuleType:
    tolerant = ImageFile.LOAD_TRUNCATED_IMAGES
    try:
        import weasyprint
    except OSError as exc:
        raise ReportError(MISSING_LIBRARY) from exc
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = tolerant
    module: ModuleType = weasyprint
    return module


def _find_pictures(output: Output, facts: ReportFacts) -> dict[str, tuple[bytes, str]]:
    """The pictures that exist and can be opened, by the stem of their name."""
    found = {}
    films = [film for row in facts.gallery for part in row for film in part.films]
    for name in (name for film in films for name in (film.picture, film.evidence)):
        if not _PICTURE_NAME.fullmatch(name):
            continue
        data = output.read(f"{ledger.FILMS_FOLDER}/{name}.jpg")
        if data is not None and _is_jpeg(data):
            found[name] = (data, "image/jpeg")
    return found


def _is_jpeg(data: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)):
            return True
    except (OSError, UnidentifiedImageError):
        return False


def _draw_figures(manifest: RunManifest, facts: ReportFacts) -> dict[str, tuple[bytes, str]]:
    cards = [model.card for model in manifest.models]
    drawn = _performance_figures("reference", facts.reference)
    drawn["training"] = figures.draw_training(cards)
    if facts.batch:
        drawn |= _performance_figures("batch", facts.batch)
    drawn |= plates.draw_parts(facts)
    found = {name: (svg.encode(), "image/svg+xml") for name, svg in drawn.items()}
    if facts.evidence:
        found["evidence-scale"] = (_as_png(draw_scale()), "image/png")
    return found


def _as_png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _performance_figures(name: str, part: Performance) -> dict[str, str]:
    drawn = {f"{name}-confusion": figures.draw_confusion(part.confusion)}
    if part.roc:
        lines = [
            figures.RocLine(roc.label, roc.curve, figures.operating_point(roc.confusion))
            for roc in part.roc
        ]
        drawn[f"{name}-roc"] = figures.draw_roc_lines(lines)
    return drawn


def _write_html(facts: ReportFacts, pictures: frozenset[str]) -> str:
    return open_template(TEMPLATE).render(
        facts=facts, pictures=pictures, created=created_when(facts)
    )


def _write_pdf(html: str, resources: Mapping[str, tuple[bytes, str]], identifier: bytes) -> bytes:
    weasyprint = _import_weasyprint()
    with _no_complaints():
        document = weasyprint.HTML(string=html, url_fetcher=_fetcher(resources))
        pdf: bytes = document.write_pdf(pdf_tags=True, pdf_identifier=identifier)
    return pdf


def _fetcher(resources: Mapping[str, tuple[bytes, str]]) -> Callable[[str], Any]:
    """A fetcher of ``report:`` (packaged), ``figure:`` and ``film:`` (handed over) alone."""
    from weasyprint.urls import URLFetcher, URLFetcherResponse

    class ClosedFetcher(URLFetcher):  # type: ignore[misc] # WeasyPrint has no types
        def fetch(self, url: str, headers: object = None) -> Any:  # noqa: ARG002
            scheme, _, name = url.partition(":")
            if scheme == "report" and name in _PACKAGED:
                body, kind = (files("report_templates") / name).read_bytes(), _PACKAGED[name]
            elif scheme in ("figure", "film") and name in resources:
                body, kind = resources[name]
            else:
                raise ValueError(f"the report may not read {url}")
            return URLFetcherResponse(url, body, {"Content-Type": kind})

    fetcher: Callable[[str], Any] = ClosedFetcher()
    return fetcher


@contextmanager
def _no_complaints() -> Iterator[None]:
    """Fail on anything that WeasyPrint logs at WARNING or above."""
    complaints: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if not record.getMessage().startswith(_HARMLESS):
                complaints.append(record.getMessage())

    logger = logging.getLogger("weasyprint")
    collector, level, propagate = Collector(logging.WARNING), logger.level, logger.propagate
    logger.addHandler(collector)
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(collector)
        logger.setLevel(level)
        logger.propagate = propagate
    if complaints:
        raise ReportError(
            f"The report was not drawn as it should be: {complaints[0]}",
            "This is a defect of cxr-batch: please report it. The predictions are complete.",
        )
