"""Options that several commands share."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    Command = Callable[..., int]

MOST_MINUTES = 480


def brand_options(command: Command) -> Command:
    """Add --title, --organisation and --logo; the command gets them as one ``branding``."""

    @click.option("--title", default="", metavar="TEXT", help="Title of the report.")
    @click.option(
        "--organisation", default="", metavar="TEXT", help="Whose report it is, below the title."
    )
    @click.option(
        "--logo",
        metavar="FILE",
        help="PNG or SVG for page 1 and the footers, at most 2 MB.",
    )
    @wraps(command)
    def branded(*, title: str, organisation: str, logo: str | None, **options: Any) -> int:
        from batch_scorer.report.branding import read_branding

        return command(branding=read_branding(title, organisation, logo), **options)

    return branded


def gallery_options(command: Command) -> Command:
    """Add --heatmaps and --review-minutes."""
    for add in (
        click.option(
            "--review-minutes",
            type=click.IntRange(1, MOST_MINUTES),
            help="Show as many films as can be looked at in so many minutes, at 45 seconds a film. "
            "Default: up to 6 for each reason to look.",
        ),
        click.option(
            "--heatmaps",
            type=click.Choice(["flagged", "all", "none"]),
            default="flagged",
            show_default=True,
            help="Which of the films shown get a map of the first model's evidence beside them.",
        ),
    ):
        command = add(command)
    return command
