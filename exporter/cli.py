"""cxr export: convert -> embed card -> verify -> rename into place."""

from __future__ import annotations

import os
from pathlib import Path

import click

from batch_scorer.errors import EXIT_OK, MissingPackage
from batch_scorer.process import quiet_import


@click.command(epilog="Example: cxr export runs/first -o models")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for NAME.onnx and manifest.json.",
)
def export(run: Path, output: Path) -> int:
    """Convert the trained networks in RUN to ONNX files that describe and test themselves.

    A file appears only after it gave the same answers as Keras on real films. Several networks are
    compared with each other first, on the same films.
    """
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with quiet_import():
            from batch_scorer.report.comparison import say_comparison
            from exporter.compare import compare_models
            from exporter.publish import find_runs, note_comparison, publish
    except ModuleNotFoundError as exc:
        raise MissingPackage(
            f"Exporting needs the package {exc.name}, which is not installed.",
            'Install it with: pip install "cxr-batch[train]"',
        ) from exc

    folders = find_runs(run)
    comparison = compare_models(folders)
    for folder in folders:
        done = publish(folder, output, comparison)
        click.echo(
            f"{done.path}  {done.size_bytes / 1e6:.1f} MB  sha256 {done.sha256[:12]}  "
            f"differs from Keras by at most {done.difference:.1e} on {done.films} films"
        )
    note_comparison(output, comparison)
    if comparison:
        click.echo(say_comparison(comparison))
    return EXIT_OK
