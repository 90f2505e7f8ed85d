"""The changes since the run before, for scheduled runs. Pure functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batch_scorer.report.content.text import format_count, format_run_date

if TYPE_CHECKING:
    from batch_scorer.results.schema import RunChanges, RunManifest


def describe_changes(manifest: RunManifest) -> str:
    """Say which files came and went since the run before, and how many of them are flagged.

    Returns:
        A few sentences; empty where there was no run before.
    """
    changes = manifest.changes
    if changes is None:
        return ""
    earlier_run = format_earlier_run(changes)
    parts = []
    if changes.new_or_changed:
        verb = "is" if changes.flagged == 1 else "are"
        flagged = f"{changes.flagged:,} of them {verb} flagged."
        parts.append(f"{_describe_new_or_changed(changes)} since {earlier_run}: {flagged}")
    else:
        parts.append(f"No file is new since {earlier_run}.")
    if changes.new and changes.changed:
        parts.append(f"{changes.changed:,} of them had another content or answer before.")
    if changes.gone:
        verb = "is" if changes.gone == 1 else "are"
        parts.append(f"{format_count(changes.gone, 'file')} of that night {verb} gone.")
    return " ".join(parts)


def format_earlier_run(changes: RunChanges) -> str:
    """Name the run before by its date."""
    return f"the night of {format_run_date(changes.run_date)}"


def _describe_new_or_changed(changes: RunChanges) -> str:
    files, verb = (
        format_count(changes.new_or_changed, "file"),
        "is" if changes.new_or_changed == 1 else "are",
    )
    if not changes.changed:
        return f"{files} {verb} new"
    return f"{files} {verb} new or changed" if changes.new else f"{files} changed"
