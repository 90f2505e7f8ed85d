"""Write what the audit found as one HTML page that needs no other file, and as JSON."""

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
from batch_scorer.report.content.text import count, join_words, show_estimate, show_name
from batch_scorer.report.content.typeface import FONT_FILES, printable
from batch_scorer.report.formats.templates import open_template
from batch_scorer.storage.output import open_output
from trainer.audit import charts
from trainer.audit.confounders import TOGETHER
from trainer.audit.duplicates import MAX_BITS
from trainer.audit.findings import NOTHING, find_faults
from trainer.audit.image_stats import HASH_BITS

if TYPE_CHECKING:
    from pathlib import Path

    from batch_scorer.storage.output import Output
    from trainer.audit.audit import Audit, CopyFacts
    from trainer.audit.findings import Finding

TEMPLATE = "audit.html.j2"
PAGE_FILE = "audit.html"
FACTS_FILE = "audit.json"
WORST = 3
SHOWN_FILES = 50
SHOWN_GROUPS = 12
_XML_NAME = re.compile(r'(\bid="|xlink:href="#|url\(#)')


@dataclass(frozen=True)
class CopyRow:
    """One kind of copies in the table: what they are, and in how many groups."""

    kind: str
    groups: int
    images: int
    across: str
    mixed_labels: int
    mixed_patients: int


@dataclass(frozen=True)
class PageFacts:
    """The texts of the page, in its order."""

    title: str
    about: str
    synthetic: bool
    worst: tuple[Finding, ...]
    others: tuple[Finding, ...]
    nothing: str
    rows: tuple[tuple[str, str, str, str], ...]
    patients: str
    shared: tuple[str, ...]
    copies: tuple[CopyRow, ...]
    copy_groups: tuple[str, ...]
    more_groups: str
    constant: str
    shortcut: str
    unusable: tuple[tuple[str, str], ...]
    more_unusable: str
    strays: tuple[str, ...]
    limit: str
    version: str


def refuse_foreign(output: Path) -> Output:
    """Make sure that an audit could be written into a folder, and write nothing.

    Returns:
        The folder.

    Raises:
        ForeignFile: A file of an audit's name is there, and this program did not write it.
    """
    place = open_output(output.absolute())
    place.refuse_foreign_files([FACTS_FILE, PAGE_FILE])
    return place


def write_audit(audit: Audit, output: Path) -> Path:
    """Write ``audit.html`` and ``audit.json``.

    Returns:
        The path of the page.

    Raises:
        ForeignFile: A file of that name is there, and this program did not write it.
        ReportError: The folder cannot be written.
    """
    page = render_page(audit)
    facts = msgspec.json.format(msgspec.json.encode(audit), indent=2).decode() + "\n"
    place = refuse_foreign(output)
    try:
        place.prepare()
        place.write_all({FACTS_FILE: facts.encode(), PAGE_FILE: page.encode()})
    except OutputError as exc:
        raise ReportError(
            f"The audit cannot be written: {exc.sentence}", "Choose another folder with -o."
        ) from exc
    return output / PAGE_FILE


def render_page(audit: Audit) -> str:
    """Lay out the page: HTML with its style, typeface and figures inside."""
    style = (files("report_templates") / "audit.css").read_text(encoding="utf-8")
    return open_template(TEMPLATE).render(
        facts=describe(audit),
        figures=_draw(audit),
        style=Markup(style),  # noqa: S704 - packaged text
        fonts=_fonts(),
    )


def describe(audit: Audit) -> PageFacts:
    """Every sentence and table of the page."""
    faults = find_faults(audit)
    groups = [*audit.identical.groups, *audit.near_duplicates.groups]
    test = "" if audit.test_labels_opened else " The labels of the test part were not opened."
    return PageFacts(
        title=show_name(audit.data, 60),
        about=f"{count(audit.images, 'film')} in {_parts(audit)}, looked at one by one.{test}",
        synthetic=audit.synthetic,
        worst=faults[:WORST],
        others=faults[WORST:],
        nothing="" if faults else NOTHING,
        rows=_count_rows(audit),
        patients=_tell_patients(audit),
        shared=tuple(_tell_shared(audit)),
        copies=(
            _copy_row("The same pixels", audit.identical),
            _copy_row("Look the same", audit.near_duplicates),
        ),
        copy_groups=tuple(
            " = ".join(show_name(name, 60) for name in group) for group in groups[:SHOWN_GROUPS]
        ),
        more_groups=_rest(len(groups), SHOWN_GROUPS, "group"),
        constant=_tell_constant(audit),
        shortcut=_tell_shortcut(audit),
        unusable=tuple(
            (show_name(file.image), show_name(file.detail, 300))
            for file in audit.unusable[:SHOWN_FILES]
        ),
        more_unusable=_rest(len(audit.unusable), SHOWN_FILES, "file"),
        strays=tuple(show_name(stray.sentence, 300) for stray in audit.strays),
        limit=f"at most {MAX_BITS} of {HASH_BITS} bits",
        version=audit.version,
    )


def _parts(audit: Audit) -> str:
    return "one folder" if audit.parts == ["all"] else f"the parts {join_words(audit.parts)}"


def _count_rows(audit: Audit) -> tuple[tuple[str, str, str, str], ...]:
    return tuple(
        (c.part, c.label or "not opened", c.cause if c.label == CLASSES[1] else "", f"{c.images:,}")
        for c in audit.counts
    )


def _tell_patients(audit: Audit) -> str:
    patients = audit.patients
    if not patients.patients:
        return (
            "No file name tells a patient, so films of one person cannot be kept on one side of a "
            "split, and every film counts as a patient of its own."
        )
    text = f"File names tell {count(patients.patients, 'patient')}, counted in each part by itself."
    if patients.images_without_patient:
        text += f" For {count(patients.images_without_patient, 'film')} the name tells none."
    if patients.both_causes:
        text += (
            f" {patients.both_causes:,} numbers stand before bacterial as well as viral films: "
            "either these people had both, or the two were numbered separately and one number "
            "means two people."
        )
    return text


def _tell_shared(audit: Audit) -> list[str]:
    return [
        f"{count(shared.patients, 'patient number')} in both {shared.parts[0]} and "
        f"{shared.parts[1]}: {shared.images[0]:,} films of {shared.parts[0]}, "
        f"{shared.images[1]:,} of {shared.parts[1]}."
        for shared in audit.patients.shared
    ]


def _copy_row(kind: str, facts: CopyFacts) -> CopyRow:
    counts = facts.counts
    across = [f"{pair}: {number:,}" for pair, number in counts.across.items()]
    return CopyRow(
        kind,
        counts.groups,
        counts.images,
        join_words(across) if across else "0",
        counts.mixed_labels,
        counts.mixed_patients,
    )


def _tell_constant(audit: Audit) -> str:
    varying = charts.varying(audit)
    same = [name for name in charts.UNITS if name not in varying]
    if not same or not audit.appearance:
        return ""
    return (
        f"The same for every film, so not drawn: {join_words(same)}. Where films were resized "
        "after they were published, what their first size told is gone."
    )


def _tell_shortcut(audit: Audit) -> str:
    found = audit.shortcut
    if found.missing:
        return found.missing
    text = f"Cross-validated by patient: AUC {show_estimate(found.cross_validation[TOGETHER])}."
    if found.test:
        tried = show_estimate(found.test[TOGETHER])
        text += f" Fitted on all the other films and tried on test: AUC {tried}."
    return text


def _rest(found: int, shown: int, one: str) -> str:
    return (
        f"The first {shown} of {count(found, one)}; all are in {FACTS_FILE}."
        if found > shown
        else ""
    )


def _draw(audit: Audit) -> dict[str, Markup]:
    """The figures that this data set gives, by name, ready to stand in the page."""
    drawn = {
        "counts": (
            charts.draw_counts(audit.counts),
            "Share of each class and cause in each part; the numbers are in the table below.",
        ),
    }
    if audit.patients.images_per_patient:
        drawn["patients"] = (charts.draw_films_per_patient(audit), "Patients by number of films.")
    if audit.patients.shared:
        text = " ".join(_tell_shared(audit))
        drawn["shared"] = (charts.draw_shared(audit.patients.shared, audit), text)
    if charts.varying(audit):
        drawn["looks"] = (
            charts.draw_looks(audit),
            "Spread of brightness, contrast, border and size by part and class: "
            + "; ".join(
                f"{s.name} {s.part} {s.label} median {s.quantiles[2]:g}" for s in audit.appearance
            ),
        )
    if audit.shortcut.cross_validation:
        drawn["shortcut"] = (
            charts.draw_shortcut(audit),
            "; ".join(
                f"{name} AUC {show_estimate(estimate)}"
                for name, estimate in audit.shortcut.cross_validation.items()
            ),
        )
    return {name: _inline(svg, name, alt) for name, (svg, alt) in drawn.items()}


def _inline(svg: str, name: str, alt: str) -> Markup:
    """An SVG document as an element of a page: its ids its own, its meaning told in words."""
    element = _XML_NAME.sub(rf"\g<1>{name}-", svg[svg.index("<svg ") :])
    said = f'<svg role="img" aria-label="{escape(printable(alt))}" '
    return Markup(said + element.removeprefix("<svg "))  # noqa: S704 - drawn here, its texts escaped


def _fonts() -> list[tuple[int, str]]:
    """Weight and base64 text of each font file."""
    folder = files("report_templates") / "fonts"
    return [
        (weight, base64.b64encode((folder / name).read_bytes()).decode())
        for weight, name in zip((400, 600), FONT_FILES, strict=True)
    ]
