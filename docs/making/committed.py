"""Where committed things lie, and that no real image gets there."""

from __future__ import annotations

from pathlib import Path

from batch_scorer.errors import UsageError
from trainer.data.layout import is_synthetic

REPOSITORY = Path(__file__).parent.parent.parent
FIGURES_FOLDER = REPOSITORY / "docs" / "figures"
EXAMPLE_IMAGES = REPOSITORY / "examples" / "xrays"
COMMITTED_FOLDERS = (REPOSITORY / "docs", REPOSITORY / "notebooks")


def check_synthetic(films: Path, output: Path) -> None:
    """Refuse to show images that are not synthetic where things are committed.

    Raises:
        UsageError: That was asked for.
    """
    committed = any(output.resolve().is_relative_to(folder) for folder in COMMITTED_FOLDERS)
    if committed and not is_synthetic(films):
        raise UsageError(
            f"Expected synthetic films to be shown in {output}, found others in {films}.",
            "Give a place of your own with -o: no real film may be committed.",
        )
