"""cxr export: convert -> embed card -> verify -> rename into place."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batch_scorer.errors import EXIT_OK, MissingPackage, PrecisionRefused
from batch_scorer.process import quiet_import

if TYPE_CHECKING:
    from exporter.publish import Kind, Published


@click.command(epilog="Example: cxr export runs/first -o models")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for NAME.onnx and manifest.json.",
)
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(["float32", "float16", "int8"]),
    multiple=True,
    default=["float32"],
    show_default=True,
    help="May be repeated; the first that passes is NAME.onnx, the others NAME.PRECISION.onnx.",
)
def export(run: Path, output: Path, precisions: tuple[Kind, ...]) -> int:
    """Convert the trained networks in RUN to ONNX files that describe and test themselves.

    A file appears only after it gave the same answers as Keras on real films. float16 (for CUDA)
    and int8 (for CPUs) may change them within limits, or are refused: exit code 3. Several networks
    are compared with each other first, on the same films.
    """
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with quiet_import():
            from batch_scorer.report.comparison import say_comparison
            from exporter.compare import compare_models
            from exporter.publish import note_comparison, publish
            from exporter.run import find_runs, read_run
    except ModuleNotFoundError as exc:
        raise MissingPackage(
            f"Exporting needs the package {exc.name}, which is not installed.",
            'Install it with: pip install "cxr-batch[train]"',
        ) from exc

    code = EXIT_OK
    folders = find_runs(run)
    comparison = compare_models(folders)
    for folder in folders:
        trained, passed = read_run(folder, comparison), 0
        for kind in dict.fromkeys(precisions):
            try:
                done = publish(trained, output, kind, beside=passed > 0)
            except PrecisionRefused as exc:
                click.echo(f"{trained.card.name} as {kind}: {exc}", err=True)
                code = exc.exit_code
            else:
                passed += 1
                click.echo(_say(done))
    note_comparison(output, comparison)
    if comparison:
        click.echo(say_comparison(comparison))
    return code


def _say(done: Published) -> str:
    """One line on a file that is in place."""
    file = f"{done.path}  {done.size_bytes / 1e6:.1f} MB  sha256 {done.sha256[:12]}  "
    judged = done.precision
    if judged is None:
        return f"{file}differs from Keras by at most {done.difference:.1e} on {done.films} films"
    return (
        f"{file}{judged.kind}, on {judged.films} validation films: AUC {judged.auc:.4f} "
        f"({judged.auc_difference:+.4f}), probability off by at most "
        f"{judged.largest_difference:.4f}, labels changed: {len(judged.flips)}"
        + (f" ({', '.join(judged.flips)})" if judged.flips else "")
    )
