"""Draw the report of a finished run: ledger -> facts -> HTML -> PDF, with its data attached."""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING

from PIL import Image, UnidentifiedImageError

from batch_scorer import ledger
from batch_scorer.errors import LedgerError
from batch_scorer.output import MOST_TABLE_BYTES, open_output
from batch_scorer.overlay import draw_scale
from batch_scorer.report import figures, plates
from batch_scorer.report.drawing import AS_USUAL
from batch_scorer.report.facts import build_facts
from batch_scorer.report.listing import ATTACHED
from batch_scorer.report.paper import ARCHIVAL, UNDATED, Attached, Imprint, print_pdf
from batch_scorer.report.templates import open_template

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike

    from batch_scorer.output import Output
    from batch_scorer.records import RunManifest, Score
    from batch_scorer.report.drawing import Drawing
    from batch_scorer.report.facts import ReportFacts
    from batch_scorer.report.performance import Performance

TEMPLATE = "report.html.j2"
_PICTURE_NAME = re.compile(ledger.PICTURE_NAME)


@dataclass(frozen=True)
class Material:
    """What a report of any format is made of.

    ``pictures`` names the films that can be shown; ``files`` holds body and media type of these and
    of the logo by name; ``variant`` is the standard that a PDF follows.
    """

    manifest: RunManifest
    rows: Sequence[Score]
    facts: ReportFacts
    pictures: frozenset[str]
    files: Mapping[str, tuple[bytes, str]]
    variant: str

    @cached_property
    def resources(self) -> Mapping[str, tuple[bytes, str]]:
        """Body and media type of every picture and figure by name.

        Drawing the figures takes longer than all else here: who needs only the words draws none.
        """
        return {**_draw_figures(self.manifest, self.facts), **self.files}


def render_report(url: str | PathLike[str], drawing: Drawing = AS_USUAL) -> str:
    """Draw ``report.pdf`` of the finished run in a folder.

    Args:
        url: Where run.json, the predictions, and films/ with the pictures to show are.
        drawing: What it carries, and the standard that it follows.

    Returns:
        Where the PDF is.

    Raises:
        LedgerError: There is no finished run.
        ReportError: Pango is missing, something in the page is wrong, or the disk is full.
    """
    output = open_output(url)
    return write_pdf(output, gather(output, drawing))


def gather(output: Output, drawing: Drawing = AS_USUAL) -> Material:
    """Read a finished run, tell its facts and find its pictures.

    Raises:
        LedgerError: There is no finished run.
    """
    manifest, rows = ledger.read_run(output)
    branding = drawing.branding
    facts = build_facts(manifest, rows, branding)
    pictures = _find_pictures(output, facts)
    logo = {"logo": (branding.logo, "image/png")} if branding.logo else {}
    return Material(
        manifest,
        rows,
        facts,
        frozenset(pictures),
        {**pictures, **logo},
        drawing.variant or ARCHIVAL,
    )


def write_pdf(output: Output, material: Material) -> str:
    """Write ``report.pdf`` next to the rows.

    Returns:
        Where it is.

    Raises:
        ReportError: Pango is missing, something in the page is wrong, or the disk is full.
    """
    attachments = tuple(_attach(output, name) for name in sorted(ATTACHED))
    imprint = make_imprint(material, attachments=attachments)
    pdf = print_pdf(compose_pdf(material), material.resources, imprint)
    output.write(ledger.REPORT_FILE, pdf)
    return f"{output.url}/{ledger.REPORT_FILE}"


def compose_pdf(material: Material) -> str:
    """The HTML that the PDF is printed from."""
    return open_template(TEMPLATE).render(
        facts=material.facts, pictures=material.pictures, created=created_when(material.facts)
    )


def created_when(facts: ReportFacts) -> str:
    """When the run ended, as a W3C date; empty where the run does not say it in that way."""
    moment = _moment(facts.created)
    return moment.isoformat(timespec="seconds") if moment else ""


def make_imprint(
    material: Material, kind: str = "", attachments: tuple[Attached, ...] = ()
) -> Imprint:
    """Identifier and date of a document of this run; ``kind`` tells it from the report."""
    manifest = material.manifest
    seed = f"{manifest.run_id} {manifest.rows_sha256} {material.variant}{kind}"
    return Imprint(
        identifier=hashlib.sha256(seed.encode()).digest()[:16],
        created=_moment(material.facts.created) or UNDATED,
        variant=material.variant,
        attachments=attachments,
    )


def _attach(output: Output, name: str) -> Attached:
    data = output.read(name, MOST_TABLE_BYTES)
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
            figures.RocLine(roc.label, roc.curve, roc.sensitivity, roc.specificity)
            for roc in part.roc
        ]
        drawn[f"{name}-roc"] = figures.draw_roc_lines(lines)
    return drawn
