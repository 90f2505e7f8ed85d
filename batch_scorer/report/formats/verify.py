"""Verify a report against its attachments: files, hashes, totals, and the text of page 1.

PDFium reads the PDF, as in Chrome. The text of page 1 is extracted from the page itself, because
that is what people see; metadata can say anything. Its numbers are found by the sentences in the
attached statements.json. Older reports have none, so theirs are found by the words of version
0.1.0, never by those that this version would write.
"""

from __future__ import annotations

import csv
import ctypes
import hashlib
import io
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pypdfium2

from batch_scorer.errors import ReportError
from batch_scorer.model.card import CLASSES
from batch_scorer.report.content.predictions import STATEMENTS_FILE
from batch_scorer.report.content.statements import (
    Statements,
    collect_totals,
    fill_tags,
    find_numbers,
    format_legacy_model,
    list_legacy_sentences,
)
from batch_scorer.report.content.text import format_count, join_words, sanitize_text
from batch_scorer.results.old_versions import RENAMED_COLUMNS, decode_manifest
from batch_scorer.results.run_dates import RUN_DATE_COLUMN
from batch_scorer.results.store import CSV_FILE, RUN_FILE
from batch_scorer.storage.access import raise_as_run_error
from batch_scorer.storage.filesystem import call_with_retries, open_filesystem, read_file
from batch_scorer.storage.retry import storage_errors, translate_error
from batch_scorer.system.redact import redact_url
from batch_scorer.system.strict_json import decode_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batch_scorer.results.schema import RunManifest

MAX_REPORT_BYTES = 1_000_000_000
MAX_ATTACHMENTS = 100
"""A report has three; PDFium finds each one by a linear search."""
MAX_RUN_BYTES = 20_000_000
MAX_STATEMENTS_BYTES = 200_000
MAX_TABLE_BYTES = 500_000_000
MAX_ROW_BYTES = 10_000
"""The mean over all rows; a real row has a few hundred."""
_HYPHENS = {0x02: "-", 0xFFFE: "-"}
"""PDFium returns a hyphen at the end of a line as one of these, depending on its version."""


@dataclass(frozen=True)
class CheckedTotal:
    """One total by its sources.

    ``rows`` is None where the rows do not give it. ``page`` is empty where page 1 does not state
    it, and has several numbers where page 1 contradicts itself.
    """

    name: str
    rows: int | None
    run: int | None
    page: tuple[int, ...]

    @property
    def is_consistent(self) -> bool:
        """True if all sources agree."""
        return len({self.run, *self.page} | ({self.rows} - {None})) == 1

    def __str__(self) -> str:
        """Format the total by source: "7 by the rows and by run.json, 8 on page 1"."""
        rows = [] if self.rows is None else ["by the rows"]
        page = ["on page 1"] if self.page else []
        if self.is_consistent:
            return f"{self.run:,} {join_words([*rows, 'by run.json', *page])}"
        run = "none" if self.run is None else f"{self.run:,}"
        printed = " and ".join(f"{number:,}" for number in self.page)
        parts = [
            *(f"{self.rows:,} {source}" for source in rows),
            f"{run} by run.json",
            *(f"{printed} {source}" for source in page),
        ]
        return ", ".join(parts)


@dataclass(frozen=True)
class Verification:
    """The result for one report: its run, its totals, and a sentence for each fault."""

    manifest: RunManifest
    rows_sha256: str
    totals: tuple[CheckedTotal, ...]
    faults: tuple[str, ...]


def verify_report(url: str) -> Verification:
    """Extract the attachments of a report and compare them with each other and with page 1.

    Args:
        url: A PDF, as a path or URL.

    Raises:
        ReportError: The file is not a PDF, is encrypted, or lacks the rows or the run.
    """
    data, url = _read_pdf(url), redact_url(url)
    try:
        with pypdfium2.PdfDocument(data) as pdf:
            if pypdfium2.raw.FPDF_GetSecurityHandlerRevision(pdf) >= 0:
                raise _encrypted_error(url)
            attachments = _find_attachments(pdf, url)
            run = _extract_attachment(attachments, RUN_FILE, MAX_RUN_BYTES, url)
            manifest = _decode_run(run, url)
            statements = _decode_statements(attachments, url)
            max_bytes = min(MAX_TABLE_BYTES, MAX_ROW_BYTES * (manifest.found + 1))
            table = _extract_attachment(attachments, CSV_FILE, max_bytes, url)
            page = pdf[0].get_textpage().get_text_bounded().translate(_HYPHENS)
    except pypdfium2.PdfiumError as exc:
        if exc.err_code == pypdfium2.raw.FPDF_ERR_PASSWORD:
            raise _encrypted_error(url) from exc
        # PDFium reports "Success" for a document without pages, so its text is not passed on.
        raise ReportError(
            f"Expected a PDF with at least one page at {url}, found none or a damaged one.",
            "Give the report.pdf of a run.",
        ) from exc
    sha256 = hashlib.sha256(table).hexdigest()
    readings, page_faults = _check_page(page, manifest, statements)
    counted = _count_rows(table, url, manifest.run_date if manifest.changes else "")
    totals = tuple(
        CheckedTotal(name, number, stated, tuple(sorted(readings.get(name, ()))))
        for name, (number, stated) in _pair_totals(counted, manifest).items()
    )
    changed = _find_changed_attachments(
        manifest, sha256, statements, hashlib.sha256(run).hexdigest()
    )
    disagreeing = [f"{total.name}: {total}" for total in totals if not total.is_consistent]
    return Verification(manifest, sha256, totals, (*changed, *disagreeing, *page_faults))


def _read_pdf(url: str) -> bytes:
    filesystem, path = open_filesystem(url)
    try:
        with raise_as_run_error():
            return call_with_retries(read_file, filesystem, path, MAX_REPORT_BYTES)
    except FileNotFoundError as exc:
        raise ReportError(f"Expected a report at {redact_url(url)}, found nothing.") from exc
    except storage_errors() as exc:
        raise translate_error(exc, redact_url(url), ReportError, "read") from exc


def _find_attachments(pdf: pypdfium2.PdfDocument, url: str) -> dict[str, pypdfium2.PdfAttachment]:
    """Return the attached files by name, still packed.

    Raises:
        ReportError: A required file is missing, or a name occurs twice.
    """
    number = pdf.count_attachments()
    if number > MAX_ATTACHMENTS:
        raise ReportError(
            f"Expected at most {MAX_ATTACHMENTS} files inside {url}, found {number:,}.",
            "Give the report.pdf of a run.",
        )
    found = [pdf.get_attachment(index) for index in range(number)]
    names = [file.get_name() for file in found]
    for name in (CSV_FILE, RUN_FILE, STATEMENTS_FILE):
        if names.count(name) != 1 and name in (CSV_FILE, RUN_FILE, *names):
            raise ReportError(
                f"Expected one file {name} inside {url}, found "
                f"{format_count(names.count(name), 'file')} of that name.",
                "Give the report.pdf of a run, or draw it again with: cxr report OUT",
            )
    return dict(zip(names, found, strict=True))


def _extract_attachment(
    attachments: dict[str, pypdfium2.PdfAttachment], name: str, max_bytes: int, url: str
) -> bytes:
    """Return the content of one attached file.

    PDFium unpacks the file to find its length, up to 1 GB, and releases it again.

    Args:
        attachments: All attached files by name.
        name: The name of the file.
        max_bytes: The largest accepted size.
        url: The report, for messages.

    Raises:
        ReportError: The file is empty, or larger than ``max_bytes``.
    """
    file, size = attachments[name], ctypes.c_ulong()
    pypdfium2.raw.FPDFAttachment_GetFile(file, None, 0, size)
    if not 0 < size.value <= max_bytes:
        raise ReportError(
            f"Expected 1 to {max_bytes:,} bytes in {name} inside {url}, found {size.value:,}.",
            "Take the report.pdf from the run's folder.",
        )
    return bytes(file.get_data())


def _encrypted_error(url: str) -> ReportError:
    return ReportError(
        f"Expected an unencrypted PDF at {url}, found an encrypted one.",
        "Take the report.pdf from the run's folder.",
    )


def _decode_run(data: bytes, url: str) -> RunManifest:
    hint = "Verify it with the version of cxr-batch that drew it."
    return decode_manifest(data, f"{RUN_FILE} inside {url}", hint, ReportError)


def _decode_statements(
    attachments: dict[str, pypdfium2.PdfAttachment], url: str
) -> Statements | None:
    """Decode the statements about page 1; None in reports older than these."""
    if STATEMENTS_FILE not in attachments:
        return None
    data = _extract_attachment(attachments, STATEMENTS_FILE, MAX_STATEMENTS_BYTES, url)
    hint = "Verify it with the version of cxr-batch that drew it."
    return decode_json(data, Statements, f"{STATEMENTS_FILE} inside {url}", hint, ReportError)


def _count_rows(table: bytes, url: str, run_date: str) -> Counter[str]:
    """Count the totals in the attached rows; new files only for a scheduled run."""
    totals: Counter[str] = Counter()
    text = io.TextIOWrapper(io.BytesIO(table), encoding="utf-8", newline="")
    try:
        reader = csv.DictReader(text, strict=True)
        reader.fieldnames = [RENAMED_COLUMNS.get(name, name) for name in reader.fieldnames or ()]
        for row in reader:
            if None in row.values():
                raise ReportError(
                    f"Expected a table of predictions in {CSV_FILE} inside {url}, found "
                    f"row {totals['found'] + 1:,} too short.",
                    "Take the report.pdf from the run's folder.",
                )
            scored = row["status"] == "scored"
            totals["found"] += 1
            totals["scored"] += scored
            totals["not scored"] += not scored
            totals["flagged"] += scored and row["prediction"] == CLASSES[1]
            totals["not flagged"] += scored and row["prediction"] == CLASSES[0]
            totals["undecided"] += scored and row["undecided"] == "true"
            totals["atypical"] += scored and row["atypical"] == "true"
            is_new = bool(run_date) and row.get(RUN_DATE_COLUMN) == run_date
            totals["new"] += is_new
            totals["new flagged"] += is_new and row["prediction"] == CLASSES[1]
    except (csv.Error, KeyError, UnicodeDecodeError) as exc:
        raise ReportError(
            f"Expected a table of predictions in {CSV_FILE} inside {url}, found: {exc}.",
            "Take the report.pdf from the run's folder.",
        ) from exc
    return totals


def _pair_totals(
    counted: Counter[str], manifest: RunManifest
) -> dict[str, tuple[int | None, int | None]]:
    """Pair each total by the rows with that of run.json, in the order of page 1."""
    stated: dict[str, int | None] = {
        "found": manifest.found,
        "scored": manifest.scored,
        "flagged": manifest.flagged,
        "not flagged": manifest.not_flagged,
        "not scored": manifest.not_scored,
        "undecided": manifest.undecided,
        "atypical": manifest.atypical,
    }
    if manifest.changes:
        stated |= {"new": manifest.changes.new_or_changed, "new flagged": manifest.changes.flagged}
    pairs: dict[str, tuple[int | None, int | None]] = {
        name: (counted[name], number)
        for name, number in stated.items()
        if number is not None or counted[name]
    }
    if manifest.found < manifest.listed:
        pairs["listed"] = (None, manifest.listed)
    return pairs


def _check_page(
    text: str, manifest: RunManifest, statements: Statements | None
) -> tuple[dict[str, set[int]], list[str]]:
    """Find the totals on page 1, and describe each statement that is missing.

    Returns:
        All numbers that page 1 gives, by name of the total, and one sentence for each fault.
    """
    readings: dict[str, set[int]] = {}
    faults = []
    expected = collect_totals(manifest)
    missing = dict.fromkeys(expected)
    legacy = list(list_legacy_sentences(manifest))
    required = [(sentence,) for sentence in statements.sentences] if statements else legacy
    # The legacy sentences count too: a forger who edits statements.json may leave them on page 1.
    for group in dict.fromkeys([*required, *legacy]):
        found = [find_numbers(sentence, text) for sentence in group]
        for tag, number in (pair for pairs in found for pair in pairs or ()):
            readings.setdefault(tag, set()).add(number)
            if group in required:
                missing.pop(tag, None)
        if group in required and all(pairs is None for pairs in found):
            faults.append(f"page 1 does not say “{fill_tags(group[-1], expected)}” with any number")
    faults += [f"page 1 does not state {tag}" for tag in missing]
    return readings, faults + list(_find_unnamed(text, manifest, statements))


def _find_unnamed(text: str, manifest: RunManifest, statements: Statements | None) -> Iterator[str]:
    """Yield a sentence for the run and for the first model where page 1 does not name it."""
    page = _remove_whitespace(text)
    if _remove_whitespace(manifest.run_id) not in page:
        yield f"page 1 does not name the run {sanitize_text(manifest.run_id, 60)}"
    own = format_legacy_model(manifest)
    named = statements.model if statements else own
    if any(word not in named for word in own.split()) or _remove_whitespace(named) not in page:
        yield f"page 1 does not name the model {sanitize_text(own, 60)}"


def _remove_whitespace(text: str) -> str:
    return "".join(text.split())


def _find_changed_attachments(
    manifest: RunManifest, rows_sha256: str, statements: Statements | None, run_sha256: str
) -> Iterator[str]:
    """Yield a sentence for each attachment whose hash differs from the one recorded."""
    if rows_sha256 != manifest.rows_sha256:
        yield (
            f"{CSV_FILE} was changed: its SHA-256 is {rows_sha256[:12]}…, run.json says "
            f"{manifest.rows_sha256[:12]}…"
        )
    if statements and run_sha256 != statements.run_sha256:
        yield (
            f"{RUN_FILE} was changed: its SHA-256 is {run_sha256[:12]}…, {STATEMENTS_FILE} says "
            f"{sanitize_text(statements.run_sha256[:12])}…"
        )
