"""Folders with committed files, and a check that no real X-ray gets there."""

from __future__ import annotations

from pathlib import Path

from batch_scorer.errors import UsageError
from trainer.data.layout import is_synthetic

REPOSITORY = Path(__file__).parent.parent.parent
FIGURES_FOLDER = REPOSITORY / "docs" / "figures"
EXAMPLE_IMAGES = REPOSITORY / "examples" / "xrays"
COMMITTED_FOLDERS = (REPOSITORY / "docs", REPOSITORY / "notebooks")


def check_synthetic(images: Path, output: Path) -> None:
    """Refuse to write figures of real X-rays into a folder of committed files.

    Raises:
        UsageError: ``output`` is such a folder, and ``images`` is not marked as synthetic.
    """
    committed = any(output.resolve().is_relative_to(folder) for folder in COMMITTED_FOLDERS)
    if committed and not is_synthetic(images):
        raise UsageError(
            f"Expected synthetic images to be shown in {output}, found others in {images}.",
            "Choose another folder with -o: no real X-ray may be committed.",
        )
