"""Print an HTML page as a tagged PDF for archives, with WeasyPrint, by PDF/A-3 or PDF/UA.

WeasyPrint is imported only here, and only to print: its import makes Pillow accept truncated images
in the whole process, which is reset at once. It can read nothing but packaged files and the figures
and images of this run, each under its own scheme. So no path enters the document, and the same run
gives the same bytes anywhere. Any warning of WeasyPrint fails the report.
"""

from __future__ import annotations

import gc
import io
import logging
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from PIL import ImageFile

from batch_scorer.errors import ReportError
from batch_scorer.system.process import STOP_SIGNALS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import ModuleType

ARCHIVAL = "pdf/a-3a"
ACCESSIBLE = "pdf/ua-1"
VARIANTS = (ARCHIVAL, ACCESSIBLE)
DEFAULT_DATE = datetime(1970, 1, 1, tzinfo=UTC)
"""For a run without a valid date, where WeasyPrint would use the current time."""
GC_THRESHOLD = 200_000
"""New objects between two runs of the cycle collector."""
MISSING_LIBRARY = (
    "The report needs the Pango library: apt-get install libpango-1.0-0 libpangoft2-1.0-0 "
    "libharfbuzz-subset0 (on macOS: brew install pango)."
)
# About the machine, not the page: without libharfbuzz-subset, fontTools subsets the fonts.
_IGNORED_WARNING = "Using fontTools instead of HarfBuzz-Subset"
_PROBE_HTML = """<!doctype html><html lang="en"><title>Probe</title>
<style>@font-face {font-family: Plex; src: url(report:fonts/IBMPlexSans-Regular.ttf)}
body {font-family: Plex}</style><p>One line."""
_PACKAGED_FILES = {
    "style.css": "text/css",
    "slides.css": "text/css",
    "fonts/IBMPlexSans-Regular.ttf": "font/ttf",
    "fonts/IBMPlexSans-SemiBold.ttf": "font/ttf",
}


@dataclass(frozen=True)
class Attachment:
    """A file attached to the PDF: the data behind its pages."""

    name: str
    description: str
    data: bytes


@dataclass(frozen=True)
class PdfMetadata:
    """The metadata and attachments of a PDF.

    ``identifier`` (16 bytes) and ``created`` come from the run, never from the clock. ``variant``
    is one of ``VARIANTS``. ``attachments`` are sorted by name, as readers expect.
    """

    identifier: bytes
    created: datetime = DEFAULT_DATE
    variant: str = ARCHIVAL
    attachments: tuple[Attachment, ...] = ()


def render_pdf(
    html: str, resources: Mapping[str, tuple[bytes, str]], metadata: PdfMetadata
) -> bytes:
    """Print a page.

    Args:
        html: The whole page, with its figures as ``figure:`` and its images as ``film:``.
        resources: Body and media type of these figures and images by name.
        metadata: Identifier, date, variant and attachments.

    Returns:
        The PDF; the same bytes for the same arguments.

    Raises:
        ReportError: Pango is missing, or WeasyPrint gave a warning.
    """
    weasyprint = _import_weasyprint()
    created = metadata.created.astimezone(UTC)
    attachments = [
        weasyprint.Attachment(
            file_obj=io.BytesIO(file.data),
            name=file.name,
            description=file.description,
            created=created,
            modified=created,
            relationship="Data",
        )
        for file in metadata.attachments
    ]
    with STOP_SIGNALS.raise_if_received(), _raise_on_warnings(), _reduce_gc():
        document = weasyprint.HTML(string=html, url_fetcher=_make_fetcher(resources))
        pdf: bytes = document.write_pdf(
            finisher=_fix_pdf,
            pdf_variant=metadata.variant,
            pdf_identifier=metadata.identifier,
            attachments=attachments,
        )
    return pdf


def find_missing_library() -> str | None:
    """Return how to install the library that a report needs; None if it is installed.

    Prints a line in the packaged font: importing WeasyPrint does not load all its libraries.
    HarfBuzz-Subset counts as missing although WeasyPrint 70 works without it: support ends soon,
    and the fallback subsets fonts to other bytes.
    """
    try:
        _import_weasyprint()
        from weasyprint.text.ffi import harfbuzz_subset

        if harfbuzz_subset is None:
            return MISSING_LIBRARY
        render_pdf(_PROBE_HTML, {}, PdfMetadata(bytes(16)))
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


def _fix_pdf(document: Any, pdf: Any) -> None:  # noqa: ARG001 - WeasyPrint's signature
    """Correct what WeasyPrint 70 writes against ISO 19005-3, in the objects of a PDF."""
    add = pdf.add_object

    def add_conforming(item: Any) -> None:
        add(item)
        _fix_object(item)

    for item in pdf.objects:
        _fix_object(item)
    pdf.add_object = (
        add_conforming  # for the object stream and the cross-references, which come last
    )
    if "AF" in pdf.catalog:  # WeasyPrint issue 2917 lists each attachment twice
        pdf.catalog["AF"][:] = dict.fromkeys(pdf.catalog["AF"])


def _fix_object(item: Any) -> None:
    if not hasattr(item, "compress"):  # no stream
        return
    if item.extra.get("Subtype") == "/Image":
        item.extra["Interpolate"] = "false"  # 6.2.8
    if item.extra.get("Type") == "/Metadata":
        item.compress = False  # 6.6.2.1: must be plain text
    if item.data.endswith(b"\r\nendstream"):
        item.compress = False  # 6.1.7.1: its last byte looks like part of the line end


def _make_fetcher(resources: Mapping[str, tuple[bytes, str]]) -> Callable[[str], Any]:
    """Make a URL fetcher for packaged files (``report:``) and the given resources only."""
    from weasyprint.urls import URLFetcher, URLFetcherResponse

    class ClosedFetcher(URLFetcher):  # type: ignore[misc] # WeasyPrint has no types
        def fetch(self, url: str, headers: object = None) -> Any:  # noqa: ARG002
            scheme, _, name = url.partition(":")
            if scheme == "report" and name in _PACKAGED_FILES:
                body, media_type = (
                    (files("report_templates") / name).read_bytes(),
                    _PACKAGED_FILES[name],
                )
            elif scheme in ("figure", "film") and name in resources:
                body, media_type = resources[name]
            else:
                raise ValueError(f"the report may not read {url}")
            return URLFetcherResponse(url, body, {"Content-Type": media_type})

    fetcher: Callable[[str], Any] = ClosedFetcher()
    return fetcher


@contextmanager
def _reduce_gc() -> Iterator[None]:
    """Run the cycle collector rarely: pages make millions of objects, and nearly all of them stay.

    The usual run after every 700 objects takes an eighth of the time and frees nothing.
    """
    thresholds = gc.get_threshold()
    gc.set_threshold(GC_THRESHOLD, *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)


@contextmanager
def _raise_on_warnings() -> Iterator[None]:
    """Fail on anything that WeasyPrint logs at WARNING or above."""
    warnings: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if not record.getMessage().startswith(_IGNORED_WARNING):
                warnings.append(record.getMessage())

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
    if warnings:
        raise ReportError(
            f"WeasyPrint gave a warning, so the report was not written: {warnings[0]}",
            "This is a defect of cxr-batch: please report it. The predictions are complete.",
        )
