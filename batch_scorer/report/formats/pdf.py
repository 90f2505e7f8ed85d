"""The report as a PDF: read a finished run, build its facts, render HTML, print, attach data."""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec
from PIL import Image, UnidentifiedImageError

from batch_scorer.errors import OutputError
from batch_scorer.imaging.heatmap import draw_colour_bar
from batch_scorer.report.charts import icon_arrays, performance
from batch_scorer.report.content.predictions import ATTACHMENT_DESCRIPTIONS, STATEMENTS_FILE
from batch_scorer.report.content.report import build_report_facts
from batch_scorer.report.content.report_options import DEFAULT_OPTIONS
from batch_scorer.report.content.statements import build_statements
from batch_scorer.report.content.view import RunView
from batch_scorer.report.formats.templates import load_template
from batch_scorer.report.formats.weasyprint import (
    ARCHIVAL,
    DEFAULT_DATE,
    Attachment,
    PdfMetadata,
    render_pdf,
)
from batch_scorer.results import store
from batch_scorer.results.run_dates import read_run_dates
from batch_scorer.storage.output import MAX_TABLE_READ_BYTES, sha256_hex

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batch_scorer.report.content.accuracy import Performance
    from batch_scorer.report.content.report import ReportFacts
    from batch_scorer.report.content.report_options import ReportOptions
    from batch_scorer.storage.output import Output

TEMPLATE = "report.html.j2"
_REPORT_IMAGE_NAME = re.compile(store.REPORT_IMAGE_NAME)


@dataclass(frozen=True)
class ReportBundle:
    """Everything that a report of any format is made from.

    ``image_names`` names the images that can be shown. ``files`` holds body and media type of these
    and of the logo by name. ``variant`` is the standard that a PDF follows.
    """

    view: RunView
    facts: ReportFacts
    image_names: frozenset[str]
    files: Mapping[str, tuple[bytes, str]]
    variant: str

    @cached_property
    def resources(self) -> Mapping[str, tuple[bytes, str]]:
        """Body and media type of every image and figure by name.

        Figures take longer to draw than anything else here, so they are drawn on first use.
        """
        return {**_draw_charts(self.view, self.facts), **self.files}


def read_report_bundle(output: Output, options: ReportOptions = DEFAULT_OPTIONS) -> ReportBundle:
    """Read a finished run, build its facts and find its images.

    Raises:
        OutputError: There is no finished run.
    """
    run = store.read_run(output)
    view = RunView(run.manifest, run.rows, read_run_dates(run))
    branding = options.branding
    facts = build_report_facts(view, branding)
    images = _find_images(output, facts)
    logo = {"logo": (branding.logo, "image/png")} if branding.logo else {}
    return ReportBundle(
        view,
        facts,
        frozenset(images),
        {**images, **logo},
        options.variant or ARCHIVAL,
    )


def write_pdf(output: Output, bundle: ReportBundle) -> str:
    """Write ``report.pdf`` next to the rows.

    Returns:
        Its path or URL.

    Raises:
        ReportError: Pango is missing, the page has an error, or the disk is full.
    """
    metadata = make_pdf_metadata(bundle, attachments=_make_attachments(output, bundle))
    pdf = render_pdf(render_pdf_html(bundle), bundle.resources, metadata)
    output.write(store.REPORT_FILE, pdf)
    return f"{output.url}/{store.REPORT_FILE}"


def render_pdf_html(bundle: ReportBundle) -> str:
    """Render the HTML that the PDF is printed from."""
    return load_template(TEMPLATE).render(
        facts=bundle.facts, pictures=bundle.image_names, created=format_created(bundle.facts)
    )


def format_created(facts: ReportFacts) -> str:
    """Format the end of the run as a W3C date; empty where run.json has no valid one."""
    moment = _parse_timestamp(facts.created)
    return moment.isoformat(timespec="seconds") if moment else ""


def make_pdf_metadata(
    bundle: ReportBundle, suffix: str = "", attachments: tuple[Attachment, ...] = ()
) -> PdfMetadata:
    """Make the identifier and date of a document; ``suffix`` separates it from the report."""
    manifest = bundle.view.manifest
    seed = f"{manifest.run_id} {manifest.rows_sha256} {bundle.variant}{suffix}"
    return PdfMetadata(
        identifier=hashlib.sha256(seed.encode()).digest()[:16],
        created=_parse_timestamp(bundle.facts.created) or DEFAULT_DATE,
        variant=bundle.variant,
        attachments=attachments,
    )


def _make_attachments(output: Output, bundle: ReportBundle) -> tuple[Attachment, ...]:
    """Attach the rows, the run, and the statements of page 1."""
    data = {name: _read_required(output, name) for name in (store.CSV_FILE, store.RUN_FILE)}
    facts, run_sha256 = bundle.facts, sha256_hex(data[store.RUN_FILE])
    statements = build_statements(bundle.view.manifest, facts.summary, facts.model_line, run_sha256)
    data[STATEMENTS_FILE] = msgspec.json.format(msgspec.json.encode(statements), indent=2)
    return tuple(
        Attachment(name, ATTACHMENT_DESCRIPTIONS[name], data[name])
        for name in sorted(ATTACHMENT_DESCRIPTIONS)
    )


def _read_required(output: Output, name: str) -> bytes:
    data = output.read(name, MAX_TABLE_READ_BYTES)
    if data is None:
        raise OutputError(f"{name} in {output.url} disappeared while the report was being drawn.")
    return data


def _parse_timestamp(iso: str) -> datetime | None:
    """Parse a time with a time zone; None for anything else."""
    try:
        moment = datetime.fromisoformat(iso)
    except ValueError:
        return None
    return moment if moment.tzinfo else None


def _find_images(output: Output, facts: ReportFacts) -> dict[str, tuple[bytes, str]]:
    """Find the images that exist and can be opened, by file stem."""
    found = {}
    images = [image for row in facts.gallery for part in row for image in part.images]
    for name in (name for image in images for name in (image.thumbnail, image.evidence)):
        if not _REPORT_IMAGE_NAME.fullmatch(name):
            continue
        data = output.read(f"{store.IMAGES_FOLDER}/{name}.jpg")
        if data is not None and _is_jpeg(data):
            found[name] = (data, "image/jpeg")
    return found


def _is_jpeg(data: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)):
            return True
    except (OSError, UnidentifiedImageError):
        return False


def _draw_charts(view: RunView, facts: ReportFacts) -> dict[str, tuple[bytes, str]]:
    drawn = _draw_performance("reference", facts.reference)
    drawn["training"] = performance.draw_training_curves(view.cards)
    if facts.batch:
        drawn |= _draw_performance("batch", facts.batch)
    drawn |= icon_arrays.draw_report_charts(facts)
    found = {name: (svg.encode(), "image/svg+xml") for name, svg in drawn.items()}
    if facts.evidence:
        found["evidence-scale"] = (_encode_png(draw_colour_bar()), "image/png")
    return found


def _encode_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _draw_performance(name: str, part: Performance) -> dict[str, str]:
    drawn = {f"{name}-confusion": performance.draw_confusion(part.confusion)}
    if part.roc:
        drawn[f"{name}-roc"] = performance.draw_roc_curves(part.roc)
    return drawn
