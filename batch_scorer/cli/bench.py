"""cxr bench: options -> job -> measure_speed -> a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from batch_scorer.cli.options import model_options
from batch_scorer.errors import UsageError
from batch_scorer.storage.output_file import OwnFile
from batch_scorer.system.strict_json import UNREADABLE

if TYPE_CHECKING:
    from batch_scorer.engine.benchmark import Speed

MAX_JSON_BYTES = 1_000_000


@click.command(epilog="Example: cxr bench my-xrays --model all --json speed.json")
@click.argument("images")
@model_options
@click.option("--films", type=click.IntRange(1), default=200, show_default=True, help="To sample.")
@click.option("--turns", type=click.IntRange(1), default=5, show_default=True)
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    help="Write what was measured there too.",
)
def bench(films: int, turns: int, json_file: Path | None, **options: Any) -> None:
    """Measure how many films of IMAGES a second each stage of `cxr score` does.

    The ceiling is what reading, decoding and the models, each measured alone, allow together.
    Nothing but the --json file is written.
    """
    from batch_scorer.engine.benchmark import measure_speed
    from batch_scorer.engine.score_job import ScoreJob
    from batch_scorer.model.classifier import expand_names

    file = _own_file(json_file) if json_file else None
    if file:
        file.read()
    job = ScoreJob(output="", models=expand_names(options.pop("model")), **options)
    speed = measure_speed(job, films, turns)
    click.echo(say_speed(speed))
    if file:
        _write(file, speed)


def say_speed(speed: Speed) -> str:
    """What was measured, as a table."""
    lines = [
        f"{', '.join(speed.models)} on {speed.provider}, {speed.threads} threads, batches of "
        f"{speed.batch_size}; medians of {speed.turns} turns over {speed.films} films"
        + (f", {speed.not_decoded} of which cannot be read" if speed.not_decoded else ""),
        "",
        f"{'stage':<12s}{'films/s':>10s}{'of ceiling':>12s}{'p50 ms':>10s}{'p95 ms':>10s}",
    ]
    lines += [
        f"{stage.name:<12s}{stage.films_per_second:>10.1f}"
        + (f"{stage.share:>12.0%}" if stage.share is not None else f"{'':12s}")
        + f"{stage.p50_ms:>10.1f}{stage.p95_ms:>10.1f}"
        for stage in speed.stages
    ]
    lines += [
        f"{'ceiling':<12s}{speed.ceiling:>10.1f}",
        "",
        "p50 and p95: from the end of one batch to the end of the next.",
        "Ceiling: what decode and models allow together, " + speed.formula + ".",
    ]
    return "\n".join(lines)


def _own_file(path: Path) -> OwnFile:
    """The file of what was measured before, if anything."""
    from batch_scorer.engine.benchmark import Speed

    def recognises(data: bytes) -> bool:
        try:
            msgspec.json.decode(data, type=Speed)
        except UNREADABLE:
            return False
        return True

    return OwnFile(path, "--json", "measurements of `cxr bench`", MAX_JSON_BYTES, recognises)


def _write(file: OwnFile, speed: Speed) -> None:
    try:
        file.replace(msgspec.json.format(msgspec.json.encode(speed), indent=2) + b"\n")
    except OSError as exc:
        raise UsageError(f"{file.path} cannot be written: {exc.strerror or exc}.") from exc
