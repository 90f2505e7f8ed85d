"""The options of a report: its formats, its branding and the standard of its PDF."""

from __future__ import annotations

from dataclasses import dataclass

from batch_scorer.report.content.branding import NO_BRANDING, Branding


@dataclass(frozen=True)
class ReportOptions:
    """The user's choices for a report.

    ``formats`` are names from ``store.REPORT_FILES``. ``variant`` is one of
    ``weasyprint.VARIANTS``, or None for the first of them.
    """

    formats: tuple[str, ...] = ("pdf",)
    branding: Branding = NO_BRANDING
    variant: str | None = None

    @property
    def is_custom(self) -> bool:
        """True if an earlier report may lack what these options ask for."""
        return self.branding.is_custom or self.variant is not None


DEFAULT_OPTIONS = ReportOptions()
