"""What is new in a night of ``cxr job``, as page 1 tells it. Pure functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batch_scorer.report.content.text import format_count, format_run_date

if TYPE_CHECKING:
    from batch_scorer.results.schema import RunChanges, RunManifest


def describe_changes(manifest: RunManifest) -> str:
    """What came and went since the night before, and how much of it is flagged.

    Empty where there was no night before.
    """
    since = manifest.changes
    if since is None:
        return ""
    night = format_earlier_run(since)
    parts = []
    if since.new_or_changed:
        verb = "is" if since.flagged == 1 else "are"
        flagged = f"{since.flagged:,} of them {verb} flagged."
        parts.append(f"{_describe_new_or_changed(since)} since {night}: {flagged}")
    else:
        parts.append(f"No file is new since {night}.")
    if since.new and since.changed:
        parts.append(f"{since.changed:,} of them had another content or answer before.")
    if since.gone:
        verb = "is" if since.gone == 1 else "are"
        parts.append(f"{format_count(since.gone, 'file')} of that night {verb} gone.")
    return " ".join(parts)


def format_earlier_run(since: RunChanges) -> str:
    """The night before, in words."""
    return f"the night of {format_run_date(since.run_date)}"


def _describe_new_or_changed(since: RunChanges) -> str:
    files, verb = (
        format_count(since.new_or_changed, "file"),
        "is" if since.new_or_changed == 1 else "are",
    )
    if not since.changed:
        return f"{files} {verb} new"
    return f"{files} {verb} new or changed" if since.new else f"{files} changed"
