"""Run notebooks/pneumonia.ipynb on a labelled folder, and store it with its outputs.

The outputs depend on the data only: they contain no times and no paths. The images in the committed
notebook are the synthetic ones of ``examples/xrays``.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from traitlets.config import Config

from batch_scorer.errors import ReportError
from batch_scorer.system.atomic_write import write_atomic
from benchmarks.command import BenchmarkCommand
from docs.making.committed import EXAMPLE_IMAGES, REPOSITORY, check_synthetic

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nbformat import NotebookNode

NOTEBOOK = REPOSITORY / "notebooks" / "pneumonia.ipynb"
CELL_TIMEOUT_S = 3600
START_TIMEOUT_S = 300
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


@click.command(cls=BenchmarkCommand, epilog="Example: python docs/making/notebook.py chest_xray")
@click.argument("data", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=NOTEBOOK,
    help="Output file.  [default: the notebook itself]",
)
@click.option(
    "--validation",
    type=click.Choice(["patient", "official", "test"]),
    default="patient",
    show_default=True,
    help="Validation images of the network that the notebook trains.",
)
@click.option("--epochs", type=click.IntRange(1), default=6, show_default=True)
@click.option(
    "--films",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=EXAMPLE_IMAGES,
    help="Folder of the images to show.  [default: examples/xrays]",
)
def main(data: Path, output: Path, validation: str, epochs: int, films: Path) -> None:
    """Run the notebook on the labelled images in DATA, which has train, val and test."""
    check_synthetic(films, output)
    settings = {
        "CXR_NOTEBOOK_DATA": str(data.resolve()),
        "CXR_NOTEBOOK_VALIDATION": validation,
        "CXR_NOTEBOOK_EPOCHS": str(epochs),
        "CXR_NOTEBOOK_FILMS": str(films.resolve()),
    }
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    execute_notebook(notebook, settings)
    write_atomic(output, f"{nbformat.writes(notebook)}\n".encode())
    click.echo(output)


def execute_notebook(notebook: NotebookNode, settings: Mapping[str, str]) -> None:
    """Run every cell in a kernel of this environment and store the outputs.

    Args:
        notebook: Modified: its outputs are replaced.
        settings: Environment variables that the notebook reads.

    Raises:
        ReportError: A cell failed.
    """
    resources = {"metadata": {"path": str(NOTEBOOK.parent)}}
    with tempfile.TemporaryDirectory() as sockets:
        # Socket files instead of ports, which other users could connect to.
        kernel_manager = {"transport": "ipc", "ip": f"{sockets}/kernel"}
        client = NotebookClient(
            notebook,
            timeout=CELL_TIMEOUT_S,
            startup_timeout=START_TIMEOUT_S,
            kernel_name=KERNEL["name"],
            resources=resources,
            record_timing=False,
            config=Config({"KernelManager": kernel_manager}),
        )
        try:
            client.execute(env={**os.environ, **settings})
        except CellExecutionError as exc:
            raise ReportError(f"The notebook stopped with {exc.ename}: {exc.evalue}") from exc
        except (CellTimeoutError, DeadKernelError) as exc:
            raise ReportError(f"The notebook's kernel did not respond: {exc}") from exc
    notebook.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}


if __name__ == "__main__":
    main()
