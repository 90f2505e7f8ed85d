"""The audit's result as one self-contained HTML page, and as JSON."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

import msgspec
from markupsafe import Markup, escape

from batch_scorer.errors import OutputError, ReportError
from batch_scorer.model.card import CLASSES
from batch_scorer.report.content.text import (
    format_count,
    format_estimate,
    join_words,
    sanitize_text,
)
from batch_scorer.report.content.typeface import FONT_FILES, replace_unsupported
from batch_scorer.report.formats.templates import load_template
from batch_scorer.storage.output import open_output
from trainer.audit import charts
from trainer.audit.confounders import ALL_PROPERTIES
from trainer.audit.duplicates import MAX_HASH_DISTANCE_BITS
from trainer.audit.findings import NO_FINDINGS, list_findings
from trainer.audit.image_stats import HASH_BITS

if TYPE_CHECKING:
    from pathlib import Path

    from batch_scorer.storage.output import Output
    from trainer.audit.audit import Audit, DuplicateFacts
    from trainer.audit.findings import Finding

TEMPLATE = "audit.html.j2"
PAGE_FILE = "audit.html"
FACTS_FILE = "audit.json"
N_WORST = 3
MAX_SHOWN_FILES = 50
MAX_SHOWN_GROUPS = 12
_XML_ID = re.compile(r'(\bid="|xlink:href="#|url\(#)')


@dataclass(frozen=True)
class DuplicateRow:
    """One kind of duplicates in the table, with its counts."""

    kind: str
    groups: int
    images: int
    across: str
    mixed_labels: int
    mixed_patients: int


@dataclass(frozen=True)
class PageFacts:
    """The texts of the page, in order."""

    title: str
    about: str
    synthetic: bool
    worst: tuple[Finding, ...]
    others: tuple[Finding, ...]
    nothing: str
    rows: tuple[tuple[str, str, str, str], ...]
    patients: str
    shared: tuple[str, ...]
    duplicates: tuple[DuplicateRow, ...]
    duplicate_groups: tuple[str, ...]
    more_groups: str
    constant: str
    shortcut: str
    unusable: tuple[tuple[str, str], ...]
    more_unusable: str
    strays: tuple[str, ...]
    limit: str
    version: str


def check_writable(output: Path) -> Output:
    """Check that an audit can be written into a folder; write nothing.

    Returns:
        The folder.

    Raises:
        ForeignFile: A file with a name of the audit exists, and this program did not write it.
    """
    target = open_output(output.absolute())
    target.refuse_foreign_files([FACTS_FILE, PAGE_FILE])
    return target


def write_audit(audit: Audit, output: Path) -> Path:
    """Write ``audit.html`` and ``audit.json``.

    Returns:
        The path of the page.

    Raises:
        ForeignFile: A file of that name exists, and this program did not write it.
        ReportError: The folder cannot be written.
    """
    page = render_html(audit)
    facts = msgspec.json.format(msgspec.json.encode(audit), indent=2).decode() + "\n"
    target = check_writable(output)
    try:
        target.prepare()
        target.write_all({FACTS_FILE: facts.encode(), PAGE_FILE: page.encode()})
    except OutputError as exc:
        raise ReportError(
            f"The audit cannot be written: {exc.sentence}", "Choose another folder with -o."
        ) from exc
    return output / PAGE_FILE


def render_html(audit: Audit) -> str:
    """Render the page: HTML with embedded style, fonts and charts."""
    style = (files("report_templates") / "audit.css").read_text(encoding="utf-8")
    return load_template(TEMPLATE).render(
        facts=build_page_facts(audit),
        figures=_draw_charts(audit),
        style=Markup(style),  # noqa: S704 - packaged text
        fonts=_encode_fonts(),
    )


def build_page_facts(audit: Audit) -> PageFacts:
    """Build every sentence and table of the page."""
    findings = list_findings(audit)
    groups = [*audit.identical.groups, *audit.near_duplicates.groups]
    test = "" if audit.test_labels_opened else " The labels of the test part stayed hidden."
    return PageFacts(
        title=sanitize_text(audit.data, 60),
        about=(
            f"{format_count(audit.images, 'image')} in {_format_parts(audit)}, "
            f"checked one by one.{test}"
        ),
        synthetic=audit.synthetic,
        worst=findings[:N_WORST],
        others=findings[N_WORST:],
        nothing="" if findings else NO_FINDINGS,
        rows=_make_count_rows(audit),
        patients=_describe_patients(audit),
        shared=tuple(_describe_shared_patients(audit)),
        duplicates=(
            _make_duplicate_row("have the same pixels", audit.identical),
            _make_duplicate_row("look the same", audit.near_duplicates),
        ),
        duplicate_groups=tuple(
            " = ".join(sanitize_text(name, 60) for name in group)
            for group in groups[:MAX_SHOWN_GROUPS]
        ),
        more_groups=_describe_rest(len(groups), MAX_SHOWN_GROUPS, "group"),
        constant=_describe_constant(audit),
        shortcut=_describe_shortcut(audit),
        unusable=tuple(
            (sanitize_text(file.image), sanitize_text(file.detail, 300))
            for file in audit.unusable[:MAX_SHOWN_FILES]
        ),
        more_unusable=_describe_rest(len(audit.unusable), MAX_SHOWN_FILES, "file"),
        strays=tuple(sanitize_text(stray.sentence, 300) for stray in audit.strays),
        limit=f"at most {MAX_HASH_DISTANCE_BITS} of {HASH_BITS} bits",
        version=audit.version,
    )


def _format_parts(audit: Audit) -> str:
    return "one folder" if audit.parts == ["all"] else f"the parts {join_words(audit.parts)}"


def _make_count_rows(audit: Audit) -> tuple[tuple[str, str, str, str], ...]:
    return tuple(
        (c.part, c.label or "hidden", c.cause if c.label == CLASSES[1] else "", f"{c.images:,}")
        for c in audit.counts
    )


def _describe_patients(audit: Audit) -> str:
    patients = audit.patients
    if not patients.patients:
        return (
            "No file name contains a patient number. A split cannot keep the images of one person "
            "together, and every image counts as a separate patient."
        )
    text = (
        f"File names contain {format_count(patients.patients, 'patient number')}, counted "
        "separately in each part."
    )
    if patients.images_without_patient:
        text += (
            f" The names of {format_count(patients.images_without_patient, 'image')} contain none."
        )
    if patients.both_causes:
        text += (
            f" {patients.both_causes:,} numbers have both bacterial and viral images. Either these "
            "people had both, or the two causes were numbered separately and one number means "
            "two people."
        )
    return text


def _describe_shared_patients(audit: Audit) -> list[str]:
    return [
        f"{format_count(shared.patients, 'patient number')} in both {shared.parts[0]} and "
        f"{shared.parts[1]}: {shared.images[0]:,} images of {shared.parts[0]}, "
        f"{shared.images[1]:,} of {shared.parts[1]}."
        for shared in audit.patients.shared
    ]


def _make_duplicate_row(kind: str, facts: DuplicateFacts) -> DuplicateRow:
    counts = facts.counts
    across = [f"{pair}: {number:,}" for pair, number in counts.across.items()]
    return DuplicateRow(
        kind,
        counts.groups,
        counts.images,
        join_words(across) if across else "0",
        counts.mixed_labels,
        counts.mixed_patients,
    )


def _describe_constant(audit: Audit) -> str:
    varying = charts.list_varying(audit)
    same = [name for name in charts.PROPERTY_UNITS if name not in varying]
    if not same or not audit.appearance:
        return ""
    return (
        f"The same for every image, so not drawn: {join_words(same)}. In a resized copy of a "
        "data set, the original sizes are lost."
    )


def _describe_shortcut(audit: Audit) -> str:
    found = audit.shortcut
    if found.missing_reason:
        return found.missing_reason
    validated = format_estimate(found.cross_validation[ALL_PROPERTIES])
    text = f"Cross-validated by patient: AUC {validated}."
    if found.test:
        tested = format_estimate(found.test[ALL_PROPERTIES])
        text += f" Fitted on all other images and evaluated on test: AUC {tested}."
    return text


def _describe_rest(found: int, shown: int, one: str) -> str:
    return (
        f"The first {shown} of {format_count(found, one)}; all are in {FACTS_FILE}."
        if found > shown
        else ""
    )


def _draw_charts(audit: Audit) -> dict[str, Markup]:
    """Draw the charts that this data set allows, by name, ready to embed."""
    drawn = {
        "counts": (
            charts.draw_counts(audit.counts),
            "Share of each class and cause in each part; the numbers are in the table below.",
        ),
    }
    if audit.patients.images_per_patient:
        drawn["patients"] = (charts.draw_images_per_patient(audit), "Patients by number of images.")
    if audit.patients.shared:
        text = " ".join(_describe_shared_patients(audit))
        drawn["shared"] = (charts.draw_shared_patients(audit.patients.shared, audit), text)
    if charts.list_varying(audit):
        drawn["appearance"] = (
            charts.draw_appearance(audit),
            "Spread of brightness, contrast, border and size by part and class: "
            + "; ".join(
                f"{s.name} {s.part} {s.label} median {s.quantiles[2]:g}" for s in audit.appearance
            ),
        )
    if audit.shortcut.cross_validation:
        drawn["shortcut"] = (
            charts.draw_shortcut(audit),
            "; ".join(
                f"{name} AUC {format_estimate(estimate)}"
                for name, estimate in audit.shortcut.cross_validation.items()
            ),
        )
    return {name: _inline_svg(svg, name, alt) for name, (svg, alt) in drawn.items()}


def _inline_svg(svg: str, name: str, alt: str) -> Markup:
    """Turn an SVG document into a page element, with prefixed ids and a text description."""
    element = _XML_ID.sub(rf"\g<1>{name}-", svg[svg.index("<svg ") :])
    tag = f'<svg role="img" aria-label="{escape(replace_unsupported(alt))}" '
    return Markup(tag + element.removeprefix("<svg "))  # noqa: S704 - drawn here, its texts escaped


def _encode_fonts() -> list[tuple[int, str]]:
    """Encode each font file: weight and base64 text."""
    folder = files("report_templates") / "fonts"
    return [
        (weight, base64.b64encode((folder / name).read_bytes()).decode())
        for weight, name in zip((400, 600), FONT_FILES, strict=True)
    ]
