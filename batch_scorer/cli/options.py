"""Options that several commands share."""

from __future__ import annotations

import math
import os
import stat
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import cloup

from batch_scorer.system.process import BATCH_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

    Command = Callable[..., Any]

MAX_REVIEW_MINUTES = 480


class FiniteFloatRange(click.FloatRange):
    """A finite number within bounds. Click's own type accepts nan and inf."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Convert a value to a finite number."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"expected a finite number, found {value}.", param, ctx)
        return number


class FolderPath(click.Path):
    """A local folder, which need not exist and is not created.

    Click's own type reads an empty name as the current folder, and accepts any path that is not a
    regular file.
    """

    def __init__(self) -> None:
        super().__init__(path_type=Path, file_okay=False)

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Any:
        """Convert a value to the path of a folder or of nothing yet."""
        if not os.fspath(value).strip():
            self.fail("expected a folder, found an empty name.", param, ctx)
        try:
            is_folder = stat.S_ISDIR(Path(value).stat().st_mode)
        except FileNotFoundError:
            is_folder = not os.path.lexists(value)  # a broken link exists, but is not a folder
        except (OSError, ValueError) as exc:
            reason = getattr(exc, "strerror", "") or exc
            self.fail(f"expected a folder, found {os.fspath(value)[:60]!a}: {reason}.", param, ctx)
        if not is_folder:
            self.fail(f"expected a folder, found something else at {value}.", param, ctx)
        return super().convert(value, param, ctx)


model_options = cloup.option_group(
    "Models",
    cloup.option(
        "--model",
        multiple=True,
        default=("vgg16",),
        show_default=True,
        metavar="NAME|PATH|all",
        help="Bundled model, model file or all; repeatable. The first one decides. See `cxr "
        "models`.",
    ),
    cloup.option(
        "--provider",
        type=click.Choice(["auto", "cpu", "cuda"]),
        default="auto",
        show_default=True,
        help="Hardware that runs the models. Fails if the requested provider is unavailable.",
    ),
    cloup.option(
        "--batch-size",
        metavar="N",
        type=click.IntRange(1, 1024),
        default=BATCH_SIZE,
        show_default=True,
        help="Number of images per batch.",
    ),
    cloup.option(
        "--threads",
        metavar="N",
        type=click.IntRange(1),
        help="Number of threads. Default: one per available core; 1 per worker with --engine ray.",
    ),
)


def output_option(help_text: str) -> Callable[[Command], Command]:
    """Add the required option -o/--output with a help text."""
    return cloup.option_group(
        "Output",
        cloup.option("-o", "--output", required=True, metavar="FOLDER|URL", help=help_text),
    )


scoring_options = cloup.option_group(
    "Scoring",
    cloup.option(
        "--labels",
        default="folders",
        show_default=True,
        metavar="folders|none|CSV",
        help="True labels: from parent folders NORMAL and PNEUMONIA, none, or a CSV file with the "
        "columns image and label.",
    ),
    cloup.option(
        "--limit",
        metavar="N",
        type=click.IntRange(1),
        help="Maximum number of files to score. Default: all.",
    ),
    cloup.option(
        "--keep-atypical",
        is_flag=True,
        help="Score images that look unlike the training images, instead of rejecting them.",
    ),
    cloup.option(
        "--identifiers",
        type=click.Choice(["hash", "keep", "drop"]),
        default="hash",
        show_default=True,
        help="Form of patient and study identifiers (from DICOM and file names) in rows and report "
        "attachments: keyed hash, kept as they are, or dropped.",
    ),
    cloup.option(
        "--identifiers-key",
        type=click.Path(path_type=Path, dir_okay=False),
        help="File with the key of the hashes. Default: CXR_IDENTIFIERS_KEY; without a key, "
        "identifiers are dropped.",
    ),
    cloup.option(
        "--engine",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="Run in this process, or on the Ray cluster at RAY_ADDRESS (by default a new local "
        "one).",
    ),
)


def access_options(command: Command) -> Command:
    """Add --list-root and --allow-private-hosts, combined into one ``access``."""

    @cloup.option_group(
        "Access",
        cloup.option(
            "--list-root",
            multiple=True,
            type=click.Path(exists=True, file_okay=False),
            metavar="FOLDER",
            help="Folder from which an image list may name images, besides the list's own folder; "
            "repeatable.",
        ),
        cloup.option(
            "--allow-private-hosts",
            is_flag=True,
            help="Also read images from private addresses, such as 127.0.0.1 or 10.0.0.7.",
        ),
    )
    @wraps(command)
    def with_access(
        *, list_root: tuple[str, ...], allow_private_hosts: bool, **options: Any
    ) -> Any:
        from batch_scorer.storage.access import AccessPolicy

        return command(access=AccessPolicy(list_root, allow_private_hosts), **options)

    return with_access


def report_options(command: Command) -> Command:
    """Add the options of the report, combined into one ``report_options``."""

    @cloup.option_group(
        "Report",
        cloup.option(
            "--format",
            default="pdf",
            show_default=True,
            metavar="pdf,html,slides",
            callback=_parse_formats,
            help="Reports to draw, separated by commas: pdf to print, html for a browser, slides "
            "to present.",
        ),
        cloup.option(
            "--pdf-variant",
            type=click.Choice(["pdf/a-3a", "pdf/ua-1"]),
            help="Standard of report.pdf. Default: pdf/a-3a, for archiving.",
        ),
        cloup.option(
            "--title",
            default="",
            metavar="TEXT",
            help="Title of the report. Default: a standard title.",
        ),
        cloup.option(
            "--organisation",
            default="",
            metavar="TEXT",
            help="Organisation to name below the title.",
        ),
        cloup.option(
            "--logo",
            metavar="FILE",
            help="PNG or SVG logo for page 1 and the page footers, at most 2 MB.",
        ),
    )
    @wraps(command)
    def with_report_options(
        *,
        pdf_variant: str | None,
        title: str,
        organisation: str,
        logo: str | None,
        **options: Any,
    ) -> Any:
        from batch_scorer.report.content.branding import read_branding
        from batch_scorer.report.content.report_options import ReportOptions

        branding = read_branding(title, organisation, logo)
        chosen = ReportOptions(options.pop("format"), branding, pdf_variant)
        return command(report_options=chosen, **options)

    return with_report_options


def _parse_formats(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
    """Parse names such as "pdf,html", without repetitions."""
    from batch_scorer.results.store import REPORT_FILES

    formats = tuple(dict.fromkeys(name.strip().lower() for name in value.split(",")))
    for name in formats:
        if name not in REPORT_FILES:
            raise click.BadParameter(
                f"expected {' or '.join(REPORT_FILES)}, or several separated by commas; "
                f"found “{name}”.",
                ctx,
                param,
            )
    return formats


def cost_options(command: Command) -> Command:
    """Add --core-hour-price and --currency, combined into one ``core_hour_price``."""

    @cloup.option_group(
        "Cost",
        cloup.option(
            "--core-hour-price",
            type=FiniteFloatRange(0, min_open=True),
            metavar="PRICE",
            help="Price of one core-hour; run.json, report and summary then state the cost of "
            "1,000 images.",
        ),
        cloup.option(
            "--currency",
            default="USD",
            show_default=True,
            metavar="TEXT",
            help="Currency of --core-hour-price.",
        ),
    )
    @wraps(command)
    def with_cost(*, core_hour_price: float | None, currency: str, **options: Any) -> Any:
        from batch_scorer.results.usage import CoreHourPrice

        price = CoreHourPrice(core_hour_price, currency) if core_hour_price else None
        return command(core_hour_price=price, **options)

    return with_cost


def metrics_option(command: Command) -> Command:
    """Add --metrics, as a ``metrics_file`` that is written when the command ends."""

    @click.option(
        "--metrics",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Write a Prometheus textfile about the run, even if it fails.",
    )
    @wraps(command)
    def with_metrics(*, metrics: Path | None, **options: Any) -> int | None:
        from batch_scorer.cli.prometheus import MetricsFile

        with MetricsFile(metrics, options["output"]) as metrics_file:
            metrics_file.exit_code = command(metrics_file=metrics_file, **options)
        return metrics_file.exit_code

    return with_metrics


gallery_options = cloup.option_group(
    "Images in the report",
    cloup.option(
        "--heatmaps",
        type=click.Choice(["flagged", "all", "none"]),
        default="flagged",
        show_default=True,
        help="Images in the report that get an evidence map of the first model.",
    ),
    cloup.option(
        "--review-minutes",
        metavar="MINUTES",
        type=click.IntRange(1, MAX_REVIEW_MINUTES),
        help="Show as many images as this review time allows, at 45 seconds each. Default: up to 6 "
        "images per reason.",
    ),
)
