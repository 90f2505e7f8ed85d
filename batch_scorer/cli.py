"""The command line: click options -> ScoreJob -> score_batch -> exit code.

``cxr`` finds its commands through the entry-point group ``cxr.commands`` and imports a command's
work only when it is called, so that ``cxr --help`` loads nothing heavy.
"""

from __future__ import annotations

import logging
import signal
import sys
import time
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import click

from batch_scorer import __version__
from batch_scorer.errors import (
    EXIT_NOT_ALL_SCORED,
    EXIT_OK,
    EXIT_RETRY,
    CxrError,
)

if TYPE_CHECKING:
    from types import TracebackType

    from tqdm import tqdm

    from batch_scorer.records import BatchMetrics, RunManifest

log = logging.getLogger("cxr")


class Commands(click.Group):
    """Commands by entry point, each loaded when it is asked for, each with --debug."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Names of all commands, without importing them."""
        return sorted(entry_points(group="cxr.commands").names)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import one command, or None if there is none of that name."""
        for entry in entry_points(group="cxr.commands", name=cmd_name):
            return _load(entry)
        return None


def _load(entry: EntryPoint) -> click.Command:
    return _with_debug(entry.load())


def _with_debug(command: click.Command) -> click.Command:
    """Give a command, and every command below it, the option --debug."""
    for below in command.commands.values() if isinstance(command, click.Group) else ():
        _with_debug(below)
    if not any(param.name == "debug" for param in command.params):
        show = click.Option(
            ["--debug"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_set_debug,
            help="Show the whole traceback of an error.",
        )
        command.params.append(show)
    return command


def _set_debug(ctx: click.Context, param: click.Parameter, value: bool) -> None:  # noqa: ARG001
    if value:
        log.setLevel(logging.DEBUG)


@click.command(
    cls=Commands,
    context_settings={"auto_envvar_prefix": "CXR", "help_option_names": ["-h", "--help"]},
    epilog="Example: cxr score my-xrays -o out --model all",
)
@click.version_option(__version__, prog_name="cxr-batch")
def cxr() -> None:
    """Read a folder of chest X-rays for pneumonia, and report on it.

    For research and screening studies. Not a medical device.
    """


def main() -> None:
    """Run ``cxr``; turn every expected error into one line and an exit code."""
    sys.excepthook = _unexpected
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's way to say Ctrl-C
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    log.setLevel(logging.INFO)
    try:
        code = cxr.main(standalone_mode=False)
    except CxrError as exc:
        if _debugging():
            raise
        click.echo(f"Error: {exc}", err=True)
        code = exc.exit_code
    except click.ClickException as exc:
        exc.show()
        code = exc.exit_code
    except click.Abort:
        click.echo("Interrupted. Run the same command again.", err=True)
        code = EXIT_RETRY
    sys.exit(code or EXIT_OK)


def _debugging() -> bool:
    return log.isEnabledFor(logging.DEBUG)


def _unexpected(kind: type[BaseException], exc: BaseException, trace: TracebackType | None) -> None:
    """What nobody foresaw is a defect: two lines and exit 1; the traceback with --debug."""
    if _debugging():
        sys.__excepthook__(kind, exc, trace)
        return
    text = (str(exc).splitlines() or [""])[0]
    sys.stderr.write(
        f"Error: an unexpected {kind.__name__}: {text}\n"
        "This is a defect of cxr-batch. Run again with --debug and report what it prints.\n"
    )


@click.command(epilog="Example: cxr score my-xrays -o out --model all --labels none")
@click.argument("images")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for predictions.csv, predictions.parquet, run.json and report.pdf.",
)
@click.option(
    "--model",
    multiple=True,
    default=("vgg16",),
    show_default=True,
    metavar="NAME|PATH|all",
    help="May be repeated; the first decides. See `cxr models`.",
)
@click.option(
    "--labels",
    default="folders",
    show_default=True,
    metavar="folders|none|CSV",
    help="Reference standard: parent folders NORMAL and PNEUMONIA, or columns image and label.",
)
@click.option(
    "--provider",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where the models run. One that is asked for and not there is an error.",
)
@click.option("--batch-size", type=click.IntRange(1, 1024), default=32, show_default=True)
@click.option(
    "--threads", type=click.IntRange(1), help="Default: every core that this process may use."
)
@click.option("--limit", type=click.IntRange(1), help="Score only the first so many files.")
@click.option(
    "--keep-atypical",
    is_flag=True,
    help="Score also what does not look like the films the model knows, instead of rejecting it.",
)
@click.option(
    "--identifiers",
    type=click.Choice(["hash", "keep", "drop"]),
    default="hash",
    show_default=True,
    help="Patient and study of a DICOM film in its row: as keyed hashes, as they are, or not.",
)
@click.option(
    "--identifiers-key",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File with the key of the hashes; else CXR_IDENTIFIERS_KEY holds it. Without, both are "
    "left out.",
)
@click.option("--report/--no-report", default=True, show_default=True, help="Draw report.pdf.")
def score(report: bool, identifiers: str, identifiers_key: Path | None, **options: Any) -> int:
    """Score the X-rays in IMAGES: a folder, a bucket URL or one file.

    Every file ends in one row of predictions.csv. Exit codes: 0 all scored, 1 the run failed,
    2 wrong usage, 3 finished but some files were not scored, 75 interrupted, try again.
    """
    from batch_scorer.identifiers import Identifiers
    from batch_scorer.ledger import CSV_FILE
    from batch_scorer.report.render import render_report
    from batch_scorer.runner import ScoreJob, score_batch

    told = Identifiers.from_options(identifiers, identifiers_key)
    job = ScoreJob(models=_expand(options.pop("model")), identifiers=told, **options)
    with _Progress() as progress:
        manifest = score_batch(job, progress)
    _print_summary(manifest)
    click.echo(f"Rows      {job.output / CSV_FILE}")
    if report:
        click.echo(f"Report    {render_report(job.output)}")
    return EXIT_NOT_ALL_SCORED if manifest.not_scored else EXIT_OK


@click.command(epilog="Example: cxr report out")
@click.argument("output", type=click.Path(path_type=Path, file_okay=False))
def report(output: Path) -> int:
    """Draw report.pdf again from the finished run in OUTPUT."""
    from batch_scorer.report.render import render_report

    click.echo(f"Report    {render_report(output)}")
    return EXIT_OK


class _Progress:
    """A bar with rate and time left on a terminal, a log line now and then elsewhere."""

    LINE_EVERY_S = 30

    def __enter__(self) -> Self:
        self._bar: tqdm[Any] | None = None
        self._last_line = time.monotonic()
        return self

    def __call__(self, done: int, total: int) -> None:
        if sys.stderr.isatty():
            if self._bar is None:
                from tqdm import tqdm

                self._bar = tqdm(total=total, unit="film", desc="Scoring", leave=False)
            self._bar.update(done - self._bar.n)
        elif done == total or time.monotonic() - self._last_line > self.LINE_EVERY_S:
            self._last_line = time.monotonic()
            log.info("scored %d of %d films", done, total)

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.close()


def _expand(models: tuple[str, ...]) -> tuple[str, ...]:
    from batch_scorer.classifier import bundled_names

    names = [name for model in models for name in (bundled_names() if model == "all" else [model])]
    return tuple(dict.fromkeys(names))


def _print_summary(manifest: RunManifest) -> None:
    synthetic = " synthetic" if manifest.synthetic else ""
    click.echo(
        f"Films     {manifest.found}{synthetic}: {manifest.flagged} flagged, "
        f"{manifest.clear} clear, {manifest.not_scored} not scored"
        + ("" if manifest.uncertain is None else f", {manifest.uncertain} uncertain")
        + ("" if manifest.atypical is None else f", {manifest.atypical} atypical")
        + "".join(f", {n} {reason}" for reason, n in manifest.reasons.items())
    )
    names = " ".join(f"{model.name} {model.sha256[:12]}" for model in manifest.models)
    click.echo(f"Models    {names} on {manifest.provider}, {manifest.images_per_second} films/s")
    scores = " · ".join(
        f"{part.model} accuracy {_shown(part, 'accuracy')} AUC {_shown(part, 'auc')}"
        for part in manifest.metrics
    )
    click.echo(f"Labels    {manifest.labelled} films with a label{': ' if scores else ''}{scores}")


def _shown(part: BatchMetrics, name: str) -> str:
    value = part.metrics[name].value
    return "undefined" if value is None else f"{value:.3f}"
