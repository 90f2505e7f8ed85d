"""Compare a report with what it carries: attached files, hashes, totals, and what page 1 says.

PDFium reads the PDF, as Chrome does. What page 1 says is read as text from the page itself, because
that is what people see; metadata can say anything. A sentence is found by the words that the report
puts around its numbers.
"""

from __future__ import annotations

import csv
import ctypes
import hashlib
import io
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pypdfium2

from batch_scorer.access import end_the_run
from batch_scorer.addresses import scrub_url
from batch_scorer.card import CLASSES
from batch_scorer.errors import ReportError
from batch_scorer.faults import explain, failures
from batch_scorer.ledger import CSV_FILE, RUN_FILE
from batch_scorer.old_versions import RENAMED_COLUMNS, decode_manifest
from batch_scorer.report.listing import ATTACHED
from batch_scorer.report.summary import describe_summary, name_model
from batch_scorer.report.typeface import printable
from batch_scorer.report.wording import count, join_words, show_name
from batch_scorer.run_dates import COLUMN
from batch_scorer.storage import call, open_filesystem, read_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batch_scorer.records import RunManifest

MAX_REPORT_BYTES = 1_000_000_000
MAX_ATTACHMENTS = 100
"""A report carries those of ``ATTACHED``; PDFium looks each one up from the start."""
MAX_RUN_BYTES = 20_000_000
MAX_TABLE_BYTES = 500_000_000
MAX_ROW_BYTES = 10_000
"""On average, over all rows; one has some hundred."""
_NUMBER = r"(\d{1,18}(?:,\d{3}){0,6})"
"""Longer ones are none that a report counts."""


@dataclass(frozen=True)
class Total:
    """One number in up to three places.

    ``page`` is empty where page 1 does not state it, and has several numbers where page 1
    contradicts itself.
    """

    name: str
    rows: int
    run: int | None
    page: tuple[int, ...]

    @property
    def agrees(self) -> bool:
        """Whether all places say the same."""
        return {self.rows, self.run, *self.page} == {self.rows}

    def __str__(self) -> str:
        """The number by its places: "7 by the rows and by run.json, 8 on page 1"."""
        page = " and ".join(f"{number:,}" for number in self.page)
        if self.agrees:
            places = ["by the rows", "by run.json", *(["on page 1"] if page else [])]
            return f"{self.rows:,} {join_words(places)}"
        run = "none" if self.run is None else f"{self.run:,}"
        return f"{self.rows:,} by the rows, {run} by run.json" + (page and f", {page} on page 1")


@dataclass(frozen=True)
class Verification:
    """What was found in a report: its run, its totals, and a sentence for each fault."""

    manifest: RunManifest
    rows_sha256: str
    totals: tuple[Total, ...]
    faults: tuple[str, ...]


def verify_report(url: str) -> Verification:
    """Take the attachments out of a report and compare them with each other and with page 1.

    Args:
        url: A PDF, as a path or URL.

    Raises:
        ReportError: It is no PDF, is encrypted, or does not carry the rows and the run.
    """
    data, url = _read(url), scrub_url(url)
    try:
        with pypdfium2.PdfDocument(data) as pdf:
            if pypdfium2.raw.FPDF_GetSecurityHandlerRevision(pdf) >= 0:
                raise _encrypted(url)
            attachments = _find_attachments(pdf, url)
            manifest = _read_run(_extract(attachments, RUN_FILE, MAX_RUN_BYTES, url), url)
            most = min(MAX_TABLE_BYTES, MAX_ROW_BYTES * (manifest.found + 1))
            table = _extract(attachments, CSV_FILE, most, url)
            page = pdf[0].get_textpage().get_text_bounded()
    except pypdfium2.PdfiumError as exc:
        if exc.err_code == pypdfium2.raw.FPDF_ERR_PASSWORD:
            raise _encrypted(url) from exc
        # What PDFium says of a document without pages is "Success": its words are not repeated.
        raise ReportError(
            f"{url} is no PDF, or a damaged one, or has no page.", "Give the report.pdf of a run."
        ) from exc
    sha256 = hashlib.sha256(table).hexdigest()
    readings, unsaid = _read_page(page, manifest)
    counted = _count_rows(table, url, manifest.run_date if manifest.since else "")
    totals = tuple(
        Total(name, number, run, tuple(sorted(readings.get(name, ()))))
        for name, (number, run) in _pair(counted, manifest).items()
    )
    return Verification(
        manifest, sha256, totals, tuple(_faults(manifest, sha256, totals)) + tuple(unsaid)
    )


def _read(url: str) -> bytes:
    filesystem, path = open_filesystem(url)
    try:
        with end_the_run():
            return call(read_file, filesystem, path, MAX_REPORT_BYTES)
    except FileNotFoundError as exc:
        raise ReportError(f"Expected a report at {scrub_url(url)}, found nothing.") from exc
    except failures() as exc:
        raise explain(exc, scrub_url(url), ReportError, "read") from exc


def _find_attachments(pdf: pypdfium2.PdfDocument, url: str) -> dict[str, pypdfium2.PdfAttachment]:
    """The attached files that a report has, by name; nothing of them is unpacked yet.

    Raises:
        ReportError: One of them is not there, or not alone.
    """
    number = pdf.count_attachments()
    if number > MAX_ATTACHMENTS:
        raise ReportError(
            f"Expected at most {MAX_ATTACHMENTS} files inside {url}, found {number:,}.",
            "Give the report.pdf of a run.",
        )
    found = [pdf.get_attachment(index) for index in range(number)]
    names = [file.get_name() for file in found]
    for name in ATTACHED:
        if names.count(name) != 1:
            raise ReportError(
                f"Expected the one file {name} inside {url}, found "
                f"{count(names.count(name), 'file')} of that name.",
                "Only a report carries it: give the report.pdf of a run, or draw it again with: "
                "cxr report OUT",
            )
    return dict(zip(names, found, strict=True))


def _extract(
    attachments: dict[str, pypdfium2.PdfAttachment], name: str, most: int, url: str
) -> bytes:
    """One attached file, whole.

    PDFium unpacks it to tell its length, up to 1 GB of its own accord, and lets go of it again.

    Args:
        attachments: What there is, by name.
        name: Of the file.
        most: So many bytes it may have.
        url: Where the report lies.

    Raises:
        ReportError: It is empty, or has more bytes than that.
    """
    file, size = attachments[name], ctypes.c_ulong()
    pypdfium2.raw.FPDFAttachment_GetFile(file, None, 0, size)
    if not 0 < size.value <= most:
        raise ReportError(
            f"Expected 1 to {most:,} bytes in {name} inside {url}, found {size.value:,}.",
            "Take the report.pdf from the run's folder.",
        )
    return bytes(file.get_data())


def _encrypted(url: str) -> ReportError:
    return ReportError(
        f"{url} is encrypted, and a report never is.", "Take the report.pdf from the run's folder."
    )


def _read_run(data: bytes, url: str) -> RunManifest:
    hint = "Verify it with the version of cxr-batch that drew it."
    return decode_manifest(data, f"{RUN_FILE} inside {url}", hint, ReportError)


def _count_rows(table: bytes, url: str, run_date: str) -> Counter[str]:
    """The totals by the attached rows; what is new only for a scheduled run."""
    totals: Counter[str] = Counter()
    text = io.TextIOWrapper(io.BytesIO(table), encoding="utf-8", newline="")
    try:
        reader = csv.DictReader(text, strict=True)
        reader.fieldnames = [RENAMED_COLUMNS.get(name, name) for name in reader.fieldnames or ()]
        for row in reader:
            if None in row.values():
                raise ReportError(
                    f"{CSV_FILE} inside {url} is no table of predictions: row "
                    f"{totals['found'] + 1:,} ends too early."
                )
            scored = row["status"] == "scored"
            totals["found"] += 1
            totals["scored"] += scored
            totals["not scored"] += not scored
            totals["flagged"] += scored and row["prediction"] == CLASSES[1]
            totals["clear"] += scored and row["prediction"] == CLASSES[0]
            totals["uncertain"] += scored and row["uncertain"] == "true"
            totals["atypical"] += scored and row["atypical"] == "true"
            fresh = bool(run_date) and row.get(COLUMN) == run_date
            totals["new"] += fresh
            totals["new flagged"] += fresh and row["prediction"] == CLASSES[1]
    except (csv.Error, KeyError, UnicodeDecodeError) as exc:
        raise ReportError(f"{CSV_FILE} inside {url} is no table of predictions: {exc}.") from exc
    return totals


def _pair(counted: Counter[str], manifest: RunManifest) -> dict[str, tuple[int, int | None]]:
    """Each total by the rows and by run.json, in the order of page 1."""
    stated = {
        "found": manifest.found,
        "scored": manifest.scored,
        "flagged": manifest.flagged,
        "clear": manifest.clear,
        "not scored": manifest.not_scored,
        "uncertain": manifest.uncertain,
        "atypical": manifest.atypical,
    }
    if manifest.since:
        stated |= {"new": manifest.since.fresh, "new flagged": manifest.since.flagged}
    return {
        name: (counted[name], number)
        for name, number in stated.items()
        if number is not None or counted[name]
    }


def _read_page(text: str, manifest: RunManifest) -> tuple[dict[str, set[int]], list[str]]:
    """The totals that page 1 states, and a sentence for each thing that it should say and does not.

    Returns:
        By name of the total, every number that page 1 gives for it.
    """
    readings: dict[str, set[int]] = {}
    unsaid = []
    for names, sentence in _sentences(manifest):
        found = list(_pattern(sentence, len(names)).finditer(text))
        for match in found:
            for name, number in zip(names, match.groups(), strict=False):
                readings.setdefault(name, set()).add(int(number.replace(",", "")))
        if not found:
            unsaid.append(f"page 1 does not say “{sentence}” with any number")
    squeezed = _squeeze(text)
    for what, name in (("run", show_name(manifest.run_id, 60)), ("model", name_model(manifest))):
        if _squeeze(printable(name)) not in squeezed:
            unsaid.append(f"page 1 does not name the {what} {name}")
    return readings, unsaid


def _sentences(manifest: RunManifest) -> Iterator[tuple[tuple[str, ...], str]]:
    """What page 1 should say, each sentence after the totals that are its first numbers."""
    summary = describe_summary(manifest)
    yield ("flagged", "scored"), summary.headline
    for tile in summary.tiles:
        yield (tile.label,), f"{tile.number} {tile.label} {tile.note}"
    yield ("found",), summary.scored_what.split(" “")[0]
    if manifest.since and manifest.since.fresh:
        new, flagged = summary.news.split(": ", 1)
        yield ("new",), new
        yield ("new flagged",), flagged.split(".")[0]
    for name in ("uncertain", "atypical"):
        sentence = getattr(summary, name).split(": ")[0]
        if sentence:
            yield (name, "scored"), sentence


def _pattern(sentence: str, numbers: int) -> re.Pattern[str]:
    """The sentence however its lines are broken, its first numbers any numbers."""
    parts = re.split(_NUMBER, printable(sentence), maxsplit=numbers)
    parts[::2] = [r"\s+".join(map(re.escape, part.split())) for part in parts[::2]]
    parts[1::2] = [_NUMBER] * (len(parts) // 2)
    text = r"\s*".join(part for part in parts if part)
    return re.compile(rf"(?<![\w,.]){text}(?!\w)")


def _squeeze(text: str) -> str:
    return "".join(text.split())


def _faults(manifest: RunManifest, sha256: str, totals: tuple[Total, ...]) -> Iterator[str]:
    if sha256 != manifest.rows_sha256:
        yield (
            f"{CSV_FILE} was changed: its SHA-256 is {sha256[:12]}…, run.json says "
            f"{manifest.rows_sha256[:12]}…"
        )
    for total in totals:
        if not total.agrees:
            yield f"{total.name}: {total}"
