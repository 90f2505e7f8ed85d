"""The command ``cxr export``: convert -> embed card -> verify -> rename into place."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple, cast

import click

from batch_scorer.cli.options import FolderPath
from batch_scorer.errors import EXIT_NOT_ALL_SCORED, EXIT_OK, MissingPackage, PrecisionRefused
from batch_scorer.system.log import log_event, logs_json
from batch_scorer.system.process import quiet_import
from batch_scorer.system.redact import redact_secrets

if TYPE_CHECKING:
    from pathlib import Path

    from exporter.export import ExportedModel, PrecisionName
    from exporter.run_reader import TrainedRun


PRECISIONS = ("float32", "float16", "int8")


class PrecisionOption(NamedTuple):
    """A number format, for the named model or, without a name, for every model."""

    model: str
    kind: PrecisionName


def _parse_precisions(
    ctx: click.Context,  # noqa: ARG001 - click's signature
    param: click.Parameter,  # noqa: ARG001
    values: tuple[str, ...],
) -> tuple[PrecisionOption, ...]:
    options = []
    for value in values:
        model, _, kind = value.rpartition("=")
        if kind not in PRECISIONS:
            raise click.BadParameter(f"expected one of {', '.join(PRECISIONS)}, found {kind}")
        options.append(PrecisionOption(model, cast("PrecisionName", kind)))
    return tuple(dict.fromkeys(options))


@click.command(
    epilog="Example: cxr export runs/first -o models --precision float32 --precision vgg16=int8"
)
@click.argument("run", type=FolderPath())
@click.option(
    "-o",
    "--output",
    required=True,
    type=FolderPath(),
    help="Output folder for NAME.onnx, its model card NAME.md, and manifest.json.",
)
@click.option(
    "--precision",
    "precisions",
    metavar="[NAME=]float32|float16|int8",
    multiple=True,
    default=["float32"],
    show_default=True,
    callback=_parse_precisions,
    help="Number format; repeatable. The first one that passes becomes NAME.onnx, further ones "
    "NAME.PRECISION.onnx. With NAME=, it applies to that model only, and replaces the formats "
    "without a name unless it is refused.",
)
@click.option(
    "--license",
    "license_id",
    metavar="ID",
    default="",
    help="License that NAME.md states, by its Hugging Face ID: mit, cc-by-4.0, ... Default: none.",
)
def export(
    run: Path, output: Path, precisions: tuple[PrecisionOption, ...], license_id: str
) -> int:
    """Convert trained networks to verified ONNX model files.

    RUN is the run folder of `cxr train`. A file is written only after it gives the same scores as
    Keras on real images. float16 (for CUDA) and int8 (for CPUs) may change scores within limits; a
    format beyond them is refused: exit code 3. Several networks are first compared on the same
    images.
    """
    os.environ["KERAS_BACKEND"] = "tensorflow"
    try:
        with quiet_import():
            from batch_scorer.report.content.model_comparison import describe_ranking
            from exporter.compare import compare_models
            from exporter.export import open_model_folder, write_comparison
            from exporter.run_reader import find_run_folders, read_run, read_run_card
    except ModuleNotFoundError as exc:
        raise MissingPackage(
            f"Expected the package {exc.name} for exporting, found none.",
            'Install it with: pip install "cxr-batch[train]"',
        ) from exc

    code = EXIT_OK
    folders = find_run_folders(run)
    for folder in folders:
        read_run_card(folder)  # fails before a folder is created if a model may not be exported
    open_model_folder(output)  # fails before any computation if the folder cannot be written
    comparison = compare_models(folders)
    for folder in folders:
        trained = read_run(folder, comparison)
        refused = _export_in_first_accepted(
            trained, output, _select_precisions(precisions, trained.card.name), license_id
        )
        code = EXIT_NOT_ALL_SCORED if refused else code
    write_comparison(output, comparison)
    if comparison:
        click.echo(describe_ranking(comparison))
    return code


def _select_precisions(
    options: tuple[PrecisionOption, ...], model: str
) -> list[list[PrecisionName]]:
    """Select the formats for a model: first those named for it; if none passes, the others."""
    own_precisions = [option.kind for option in options if option.model == model]
    return [own_precisions, [option.kind for option in options if not option.model] or ["float32"]]


def _export_in_first_accepted(
    run: TrainedRun, output: Path, choices: list[list[PrecisionName]], license_id: str
) -> bool:
    """Export in the first of ``choices`` with an accepted format; True if any was refused."""
    from exporter.export import export_model

    passed, refused = 0, False
    for kinds in choices:
        for kind in kinds:
            try:
                exported = export_model(
                    run, output, kind, with_suffix=passed > 0, license_id=license_id
                )
            except PrecisionRefused as exc:
                if logs_json():
                    log_event("precision_refused", model=run.card.name, precision=kind)
                else:
                    click.echo(redact_secrets(f"{run.card.name} as {kind}: {exc}"), err=True)
                refused = True
            else:
                passed += 1
                click.echo(redact_secrets(_format_result(exported)))
        if passed:
            break
    return refused


def _format_result(exported: ExportedModel) -> str:
    """Format one line on an exported file."""
    file = f"{exported.path}  {exported.size_bytes / 1e6:.1f} MB  sha256 {exported.sha256[:12]}  "
    precision = exported.precision
    if precision is None:
        return (
            f"{file}differs from Keras by at most {exported.difference:.1e} "
            f"on {exported.images} images"
        )
    return (
        f"{file}{precision.kind}, on {precision.images} validation images: AUC {precision.auc:.4f} "
        f"({precision.auc_difference:+.4f}), probability off by at most "
        f"{precision.largest_difference:.4f}, labels changed: {len(precision.flips)}"
        + (f" ({', '.join(precision.flips)})" if precision.flips else "")
    )
