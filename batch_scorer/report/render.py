"""Draw the report of a finished run: ledger -> facts -> HTML -> PDF, with its data attached."""

from __future__ import annotations

import hashlib
import io
import re
from datetime import datetime
from typing import TYPE_CHECKING

from PIL import Image, UnidentifiedImageError

from batch_scorer import ledger
from batch_scorer.errors import LedgerError
from batch_scorer.output import open_output
from batch_scorer.report import figures
from batch_scorer.report.facts import build_facts
from batch_scorer.report.listing import ATTACHED
from batch_scorer.report.paper import ARCHIVAL, UNDATED, Attached, Imprint, print_pdf
from batch_scorer.report.templates import open_template

if TYPE_CHECKING:
    from os import PathLike

    from batch_scorer.output import Output
    from batch_scorer.records import RunManifest
    from batch_scorer.report.facts import ReportFacts
    from batch_scorer.report.performance import Performance

TEMPLATE = "report.html.j2"
_THUMBNAIL_NAME = re.compile(r"[0-9a-f]{16}")


def render_report(url: str | PathLike[str], variant: str | None = None) -> str:
    """Draw ``report.pdf`` of the finished run in a folder.

    Args:
        url: Where run.json, the predictions, and films/ with the pictures to show are.
        variant: One of ``paper.VARIANTS``; the first where it is None.

    Returns:
        Where the PDF is.

    Raises:
        LedgerError: There is no finished run.
        ReportError: Pango is missing, something in the page is wrong, or the disk is full.
    """
    output = open_output(url)
    output.write(ledger.REPORT_FILE, print_pdf(*compose_report(output, variant or ARCHIVAL)))
    return f"{output.url}/{ledger.REPORT_FILE}"


def compose_report(
    output: Output, variant: str = ARCHIVAL
) -> tuple[str, dict[str, tuple[bytes, str]], Imprint]:
    """Everything that the PDF of a run is printed from: what ``print_pdf`` takes.

    Raises:
        LedgerError: There is no finished run.
    """
    manifest, rows = ledger.read_run(output)
    facts = build_facts(manifest, rows)
    pictures = _find_pictures(output, facts)
    created = _moment(facts.created)
    seed = f"{manifest.run_id} {manifest.rows_sha256} {variant}"
    imprint = Imprint(
        identifier=hashlib.sha256(seed.encode()).digest()[:16],
        created=created or UNDATED,
        variant=variant,
        attachments=tuple(_attach(output, name) for name in sorted(ATTACHED)),
    )
    html = _write_html(facts, frozenset(pictures), created)
    return html, {**_draw_figures(manifest, facts), **pictures}, imprint


def _attach(output: Output, name: str) -> Attached:
    data = output.read(name)
    if data is None:
        raise LedgerError(f"{name} in {output.url} went away while the report was drawn.")
    return Attached(name, ATTACHED[name], data)


def _moment(iso: str) -> datetime | None:
    """A moment of a known time zone, None for anything else."""
    try:
        moment = datetime.fromisoformat(iso)
    except ValueError:
        return None
    return moment if moment.tzinfo else None


def _find_pictures(output: Output, facts: ReportFacts) -> dict[str, tuple[bytes, str]]:
    """The pictures that exist and can be opened, by the stem of their name."""
    found = {}
    for film in (film for row in facts.gallery for part in row for film in part.films):
        if not _THUMBNAIL_NAME.fullmatch(film.picture):
            continue
        data = output.read(f"{ledger.FILMS_FOLDER}/{film.picture}.jpg")
        if data is not None and _is_jpeg(data):
            found[film.picture] = (data, "image/jpeg")
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
    return {name: (svg.encode(), "image/svg+xml") for name, svg in drawn.items()}


def _performance_figures(name: str, part: Performance) -> dict[str, str]:
    drawn = {f"{name}-confusion": figures.draw_confusion(part.confusion)}
    if part.roc:
        lines = [
            figures.RocLine(roc.label, roc.curve, figures.operating_point(roc.confusion))
            for roc in part.roc
        ]
        drawn[f"{name}-roc"] = figures.draw_roc_lines(lines)
    return drawn


def _write_html(facts: ReportFacts, pictures: frozenset[str], created: datetime | None) -> str:
    return open_template(TEMPLATE).render(
        facts=facts,
        pictures=pictures,
        created=created.isoformat(timespec="seconds") if created else "",
    )
