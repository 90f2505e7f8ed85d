"""The calls of the Python API that no lower room has: score a batch, and read its rows back.

``import batch_scorer`` offers them, with the classes and errors that they need.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypedDict

from batch_scorer.engine.runner import run_score_job
from batch_scorer.engine.score_job import ScoreJob
from batch_scorer.model.classifier import expand_model_names
from batch_scorer.report.content.report_options import DEFAULT_OPTIONS
from batch_scorer.results.store import read_run
from batch_scorer.results.tables import build_arrow_table
from batch_scorer.storage.output import open_output
from batch_scorer.storage.output_lock import OutputLock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from os import PathLike
    from typing import Unpack

    import pyarrow as pa

    from batch_scorer.imaging.deidentify import Deidentifier
    from batch_scorer.report.content.report_options import ReportOptions
    from batch_scorer.results.schema import Heatmaps, RunManifest
    from batch_scorer.results.usage import CoreHourPrice
    from batch_scorer.storage.access import AccessPolicy

    PathOrURL = str | PathLike[str]


class JobOptions(TypedDict, total=False):
    """Settings of a `ScoreJob` beyond images, output and models."""

    labels: str
    provider: str
    batch_size: int
    threads: int | None
    limit: int | None
    keep_atypical: bool
    engine: str
    identifiers: Deidentifier
    heatmaps: Heatmaps
    review_minutes: int | None
    core_hour_price: CoreHourPrice | None
    access: AccessPolicy


def score(
    images: PathOrURL,
    output: PathOrURL,
    models: str | Sequence[str] = "vgg16",
    *,
    report: ReportOptions | None = DEFAULT_OPTIONS,
    progress: Callable[[int, int], None] | None = None,
    **options: Unpack[JobOptions],
) -> RunManifest:
    """Score chest X-rays and draw the report, as ``cxr score`` does.

    A run that was stopped continues with the same call. Finished work is not repeated.

    Args:
        images: A folder, a list, one image, or the URL of one of these.
        output: A folder or URL for the rows, the report and run.json.
        models: Names of bundled models, paths, or "all". The first model decides.
        report: Formats and branding; None draws no report.
        progress: Called with (images done, images found) after every batch.
        **options: Further settings of `ScoreJob`, such as ``labels`` or ``limit``.

    Returns:
        The content of run.json: counts, models, metrics and versions.

    Raises:
        AlreadyRunning: Another run is writing to the output.
        ReportError: The rows are complete, but the report cannot be drawn.
        CxrError: The run cannot continue. A single unreadable image never raises.
    """
    names = expand_model_names([models] if isinstance(models, str) else models)
    job = ScoreJob(os.fspath(images), os.fspath(output), names, **options)
    target = open_output(job.output)
    with OutputLock(target) as lock:
        manifest = run_score_job(job, progress, None, lock)
        if report:
            from batch_scorer.report.formats.draw import draw_missing_reports

            draw_missing_reports(target, report, lock)
    return manifest


def read_results(output: PathOrURL) -> pa.Table:
    """Read the rows of a finished run, one per image.

    Args:
        output: The folder or URL of the run.

    Returns:
        The columns of predictions.csv with their types, as a `pyarrow.Table`. Its ``to_pandas()``
        makes a data frame where pandas is installed.

    Raises:
        OutputError: The output has no finished run, or its files were changed afterwards.
    """
    run = read_run(open_output(output))
    return build_arrow_table(run.rows, run.manifest.models, run.extra_columns)
