"""How a report is to be drawn: in which formats, with what on it, by which standard."""

from __future__ import annotations

from dataclasses import dataclass

from batch_scorer.report.content.branding import NO_BRANDING, Branding


@dataclass(frozen=True)
class ReportOptions:
    """What a user may choose of a report.

    ``formats`` are names from ``ledger.REPORT_FILES``; ``variant`` is one of ``paper.VARIANTS``, or
    None for the first of them.
    """

    formats: tuple[str, ...] = ("pdf",)
    branding: Branding = NO_BRANDING
    variant: str | None = None

    @property
    def is_custom(self) -> bool:
        """Whether it asks for anything that a report drawn before may not have."""
        return self.branding.is_custom or self.variant is not None


DEFAULT_OPTIONS = ReportOptions()
