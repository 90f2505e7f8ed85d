"""How a report is to be drawn: in which formats, with what on it, by which standard."""

from __future__ import annotations

from dataclasses import dataclass

from batch_scorer.report.content.branding import PLAIN, Branding


@dataclass(frozen=True)
class Drawing:
    """What a user may choose of a report.

    ``formats`` are names from ``ledger.REPORT_FILES``; ``variant`` is one of ``paper.VARIANTS``, or
    None for the first of them.
    """

    formats: tuple[str, ...] = ("pdf",)
    branding: Branding = PLAIN
    variant: str | None = None

    @property
    def given(self) -> bool:
        """Whether it asks for anything that a report drawn before may not have."""
        return self.branding.given or self.variant is not None


AS_USUAL = Drawing()
