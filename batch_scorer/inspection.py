"""cxr models and cxr doctor: look at what is installed, and prove that it works."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import click

from batch_scorer import __version__
from batch_scorer.errors import EXIT_FAILED, EXIT_OK, CxrError

if TYPE_CHECKING:
    from batch_scorer.card import ModelCard
    from batch_scorer.metrics import Estimate

OPTIONAL = {
    "tensorflow": "train",
    "tf2onnx": "train",
    "s3fs": "s3",
    "gcsfs": "gcs",
    "adlfs": "azure",
    "ray": "ray",
}
BASE = ("numpy", "pillow", "pydicom", "pyarrow", "weasyprint")


@click.group(invoke_without_command=True, epilog="Example: cxr models show cnn")
@click.pass_context
def models(ctx: click.Context) -> None:
    """List the bundled models; show one in plain words; test them all."""
    if ctx.invoked_subcommand is not None:
        return
    from batch_scorer.classifier import bundled_manifest, bundled_names, find_model

    for name in bundled_names():
        entry = bundled_manifest()[name]
        scores = entry["metrics"].get("test") or entry["metrics"]["validation"]
        click.echo(
            f"{name:6s} {find_model(name).stat().st_size / 1e6:5.1f} MB  "
            f"{entry.get('precision', 'float32'):7s}  "
            f"accuracy {scores['accuracy']:.3f}  AUC {scores['auc']:.3f}  "
            f"threshold {entry['threshold']:.3f}  sha256 {entry['sha256'][:12]}"
        )
    click.echo("See `cxr models show NAME`.")


@models.command(epilog="Example: cxr models show vgg16")
@click.argument("model")
def show(model: str) -> None:
    """Say in plain words what MODEL (a name or a path) is, how good, and from what data."""
    from batch_scorer.classifier import Classifier

    classifier = Classifier.load(model, "cpu")
    click.echo("\n".join(_describe(classifier.card)))
    click.echo(f"File: {classifier.path.name}, sha256 {classifier.sha256}.")


@models.command(epilog="Example: cxr models test")
def test() -> int:
    """Replay the self-test of every bundled model."""
    from batch_scorer.classifier import Classifier, bundled_names

    code = EXIT_OK
    for name in bundled_names():
        try:
            worst = Classifier.load(name, "cpu").self_test()
        except CxrError as exc:
            click.echo(f"{name:6s} FAILED  {exc}")
            code = EXIT_FAILED
        else:
            click.echo(f"{name:6s} ok      largest difference {worst:.1e}")
    return code


@click.command(epilog="Example: cxr doctor")
def doctor() -> int:
    """Say what is installed, which provider really runs, and how to add what is missing."""
    import onnxruntime as ort

    from batch_scorer.classifier import Classifier, bundled_names
    from batch_scorer.process import available_cores
    from batch_scorer.report.render import missing_system_library

    click.echo(
        f"cxr-batch    {__version__} on Python {platform.python_version()}, {sys.platform}, "
        f"{available_cores()} cores to use"
    )
    click.echo(f"{'onnxruntime':12s} {ort.__version__}")
    for name in BASE:
        click.echo(f"{name:12s} {version(name)}")
    code = EXIT_OK
    for provider in ("cpu", "cuda"):
        try:
            Classifier.load(bundled_names()[0], provider)
        except CxrError as exc:
            click.echo(f"{provider:12s} not available: {exc}")
            code = EXIT_FAILED if provider == "cpu" else code
        else:
            click.echo(f"{provider:12s} runs, self-test passed")
    missing = missing_system_library()
    click.echo(f"{'report':12s} {missing or 'can be drawn'}")
    for name, extra in OPTIONAL.items():
        click.echo(f"{name:12s} {_optional(name, extra)}")
    return EXIT_FAILED if missing else code


def _optional(name: str, extra: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return f'not installed (optional): pip install "cxr-batch[{extra}]"'


def _describe(card: ModelCard) -> list[str]:
    reference, training = card.reference, card.training
    values = reference.metrics
    films = ", ".join(f"{name} {count:,}" for name, count in training.films.items())
    return [
        f"{card.title} ({card.name}). {card.summary}",
        "Research use only, not a medical device.",
        "",
        f"How good, on the {reference.films} {reference.split} films"
        + (f" of {reference.patients} patients" if reference.patients else "")
        + " (95 % interval):",
        f"  of 100 films with pneumonia it flags {_of_100(values['recall'])}",
        f"  of 100 films without it leaves clear {_of_100(values['specificity'])}",
        *(f"  {name:12s} {_interval(values[name])}" for name in values),
        "",
        f"A film is flagged at a probability of {card.threshold.value:.3f} or more: "
        f"{card.threshold.rule}, chosen on {card.threshold.chosen_on}.",
        f"Probabilities: {card.calibration.method}, fitted on {card.calibration.fitted_on}.",
        f"Trained on {training.data}: {films}.",
        f"  {training.split_policy}",
        f"  {training.imbalance}",
        f"  {training.parameters:,} weights, first {training.initial_weights}; {training.epochs} "
        f"epochs in {training.minutes:g} minutes, best {training.best_epoch}; "
        f"seed {training.seed}; {training.command}",
        *_say_precision(card),
        "Known limits: it knows only films like those above; on films of other hospitals such "
        "models have done far worse.",
        f"Decode version {card.decode_version}, card version {card.card_version}, "
        + ", ".join(f"{name} {value}" for name, value in card.versions.items()),
    ]


def _say_precision(card: ModelCard) -> list[str]:
    precision = card.precision
    if precision is None:
        return ["Computes in float32."]
    ranges = f", its ranges from {precision.calibrated_on}" if precision.calibrated_on else ""
    lines = [
        f"Computes its convolutions in {precision.kind}{ranges}.",
        "  The figures above, the threshold and the calibration are the float32 network's.",
        f"  On the {precision.films} validation films this file's AUC is {precision.auc:.4f} "
        f"({precision.auc_difference:+.4f}), a probability is off by at most "
        f"{precision.largest_difference:.4f}, and labels changed: {len(precision.flips)}",
    ]
    return [*lines, *(f"    {film}" for film in precision.flips)]


def _of_100(estimate: Estimate) -> str:
    if estimate.value is None:
        return "not defined"
    return f"{estimate.value:.0%} ({estimate.low:.0%} to {estimate.high:.0%})".replace("%", "")


def _interval(estimate: Estimate) -> str:
    if estimate.value is None:
        return "not defined"
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f}), n={estimate.n}"
