"""cxr models, doctor, verify and bench: inspect models, installation, reports and speed."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from batch_scorer import __version__
from batch_scorer.cli.options import model_options
from batch_scorer.errors import EXIT_FAILED, EXIT_OK, CxrError, ReportError, UsageError
from batch_scorer.storage.output_file import OutputFile
from batch_scorer.system.strict_json import DECODE_ERRORS

if TYPE_CHECKING:
    from batch_scorer.engine.benchmark import BenchmarkResult

OPTIONAL_PACKAGES = {
    "tensorflow": "train",
    "tf2onnx": "train",
    "imagehash": "audit",
    "s3fs": "s3",
    "gcsfs": "gcs",
    "adlfs": "azure",
    "ray": "ray",
    "prometheus-client": "metrics",
    "apprise": "notify",
}
REQUIRED_PACKAGES = ("numpy", "pillow", "pydicom", "pyarrow", "weasyprint")


@click.group(invoke_without_command=True, epilog="Example: cxr models show cnn")
@click.pass_context
def models(ctx: click.Context) -> None:
    """List, describe or test the bundled models."""
    if ctx.invoked_subcommand is not None:
        return
    from batch_scorer.model.classifier import find_model_file, read_bundled_manifest
    from batch_scorer.report.content.model_comparison import describe_ranking

    manifest = read_bundled_manifest()
    for name, entry in manifest.models.items():
        scores = entry.metrics.get("test") or entry.metrics["validation"]
        click.echo(
            f"{name:6s} {find_model_file(name).stat().st_size / 1e6:5.1f} MB  "
            f"{entry.precision:7s}  "
            f"accuracy {scores['accuracy']:.3f}  AUC {scores['auc']:.3f}  "
            f"threshold {entry.threshold:.3f}  sha256 {entry.sha256[:12]}"
        )
    if manifest.comparison:
        click.echo(describe_ranking(manifest.comparison))
    click.echo("See `cxr models show NAME`.")


@models.command(epilog="Example: cxr models show vgg16")
@click.argument("model")
def show(model: str) -> None:
    """Describe MODEL (a name or a path): its quality and training data."""
    from batch_scorer.model.classifier import Classifier
    from batch_scorer.report.formats.card_text import format_card

    classifier = Classifier.load(model, "cpu")
    click.echo(format_card(classifier.card))
    click.echo(f"\nFile {classifier.path.name}, sha256\n{classifier.sha256}")


@models.command(epilog="Example: cxr models test")
def test() -> int:
    """Run the self-test of every bundled model."""
    from batch_scorer.model.classifier import Classifier, list_bundled_models

    code = EXIT_OK
    for name in list_bundled_models():
        try:
            max_difference = Classifier.load(name, "cpu").self_test()
        except CxrError as exc:
            click.echo(f"{name:6s} FAILED  {exc}")
            code = EXIT_FAILED
        else:
            click.echo(f"{name:6s} ok      largest difference {max_difference:.1e}")
    return code


@click.command(epilog="Example: cxr verify out/report.pdf")
@click.argument("report", metavar="REPORT.pdf")
def verify(report: str) -> int:
    """Check that a PDF report agrees with its attached data.

    The hashes must match, and the totals on page 1 must match a recount of the attached rows. Exit
    codes: 0 everything agrees, 1 something does not.
    """
    from batch_scorer.report.content.text import sanitize_text
    from batch_scorer.report.formats.verify import verify_report
    from batch_scorer.results.store import CSV_FILE

    found = verify_report(report)
    click.echo(
        f"Run         {sanitize_text(found.manifest.run_id)}, cxr-batch {found.manifest.version}"
    )
    for model in found.manifest.models:
        click.echo(f"Model       {sanitize_text(model.file)}, SHA-256 {model.sha256}")
    click.echo(f"Rows        {CSV_FILE}, SHA-256 {found.rows_sha256}")
    for total in found.totals:
        click.echo(f"{total.name.capitalize():11s} {total}")
    if found.faults:
        raise ReportError(
            f"{report} does not agree with itself: {'; '.join(found.faults)}.",
            "Do not rely on it: use the rows in the run's output, or draw it again with: "
            "cxr report OUT",
        )
    click.echo("Agrees      page 1, run.json and the rows agree.")
    return EXIT_OK


@click.command(epilog="Example: cxr doctor")
def doctor() -> int:
    """Check the installation, and print how to add what is missing."""
    from batch_scorer.model.classifier import Classifier, list_bundled_models
    from batch_scorer.model.onnx_runtime import ort
    from batch_scorer.report.formats.weasyprint import find_missing_library
    from batch_scorer.system.process import available_cores

    click.echo(
        f"{'cxr-batch':18s} {__version__} on Python {platform.python_version()}, {sys.platform}, "
        f"{available_cores()} cores available"
    )
    click.echo(f"{'onnxruntime':18s} {ort.__version__}")
    for name in REQUIRED_PACKAGES:
        click.echo(f"{name:18s} {version(name)}")
    code = EXIT_OK
    for provider in ("cpu", "cuda"):
        try:
            Classifier.load(list_bundled_models()[0], provider)
        except CxrError as exc:
            click.echo(f"{provider:18s} not available: {exc}")
            code = EXIT_FAILED if provider == "cpu" else code
        else:
            click.echo(f"{provider:18s} works, self-test passed")
    missing = find_missing_library()
    click.echo(f"{'report':18s} {missing or 'can be drawn'}")
    for name, extra in OPTIONAL_PACKAGES.items():
        click.echo(f"{name:18s} {_format_optional(name, extra)}")
    return EXIT_FAILED if missing else code


def _format_optional(name: str, extra: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return f'not installed (optional): pip install "cxr-batch[{extra}]"'


MAX_JSON_BYTES = 1_000_000


@click.command(epilog="Example: cxr bench my-xrays --model all --json speed.json")
@click.argument("images")
@model_options
@click.option(
    "--films",
    metavar="N",
    type=click.IntRange(1),
    default=200,
    show_default=True,
    help="Maximum number of images to sample.",
)
@click.option(
    "--turns",
    metavar="N",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="Measurements per stage; the results are medians.",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    help="Also write the results to this JSON file.",
)
def bench(films: int, turns: int, json_file: Path | None, **options: Any) -> None:
    """Measure the speed of each stage of `cxr score` on this machine.

    The ceiling is the speed that decoding and models allow together, each measured alone. Writes
    nothing but the --json file.
    """
    from batch_scorer.engine.benchmark import run_benchmark
    from batch_scorer.engine.score_job import ScoreJob
    from batch_scorer.model.classifier import expand_model_names

    file = _make_output_file(json_file) if json_file else None
    if file:
        file.read()
    job = ScoreJob(output="", models=expand_model_names(options.pop("model")), **options)
    result = run_benchmark(job, films, turns)
    click.echo(format_benchmark(result))
    if file:
        _write_json(file, result)


def format_benchmark(result: BenchmarkResult) -> str:
    """Format benchmark results as a table."""
    lines = [
        f"{', '.join(result.models)} on {result.provider}, {result.threads} threads, batches of "
        f"{result.batch_size}; medians of {result.turns} turns over {result.images} images"
        + (f", {result.not_decoded} of which cannot be decoded" if result.not_decoded else ""),
        "",
        f"{'stage':<12s}{'images/s':>10s}{'of ceiling':>12s}{'p50 ms':>10s}{'p95 ms':>10s}",
    ]
    lines += [
        f"{stage.name:<12s}{stage.images_per_second:>10.1f}"
        + (f"{stage.share:>12.0%}" if stage.share is not None else f"{'':12s}")
        + f"{stage.p50_ms:>10.1f}{stage.p95_ms:>10.1f}"
        for stage in result.stages
    ]
    lines += [
        f"{'ceiling':<12s}{result.ceiling:>10.1f}",
        "",
        "p50 and p95: from the end of one batch to the end of the next.",
        "Ceiling: speed that decode and models allow together, " + result.formula + ".",
    ]
    return "\n".join(lines)


def _make_output_file(path: Path) -> OutputFile:
    """Open the output file; an existing file must hold earlier results of `cxr bench`."""
    from batch_scorer.engine.benchmark import BenchmarkResult

    def is_benchmark(data: bytes) -> bool:
        try:
            msgspec.json.decode(data, type=BenchmarkResult)
        except DECODE_ERRORS:
            return False
        return True

    return OutputFile(path, "--json", "measurements of `cxr bench`", MAX_JSON_BYTES, is_benchmark)


def _write_json(file: OutputFile, result: BenchmarkResult) -> None:
    try:
        file.replace(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")
    except OSError as exc:
        raise UsageError(f"Cannot write {file.path}: {exc.strerror or exc}.") from exc
