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
    """A number within bounds. Click takes "nan" for one within any bounds, and "inf"."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no number that can be counted with.", param, ctx)
        return number


class FolderPath(click.Path):
    """A folder of this machine, there or not; nothing is made yet.

    Click takes an empty name for the current folder, and whatever is no plain file for a folder.
    """

    def __init__(self) -> None:
        super().__init__(path_type=Path, file_okay=False)

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Any:
        """The path."""
        if not os.fspath(value).strip():
            self.fail("expected a folder, found an empty name.", param, ctx)
        try:
            is_folder = stat.S_ISDIR(Path(value).stat().st_mode)
        except FileNotFoundError:
            is_folder = not os.path.lexists(value)  # a link that leads nowhere is there
        except (OSError, ValueError) as exc:
            why = getattr(exc, "strerror", "") or exc
            self.fail(f"expected a folder, found {os.fspath(value)[:60]!a}: {why}.", param, ctx)
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
        help="May be repeated; the first decides. See `cxr models`.",
    ),
    cloup.option(
        "--provider",
        type=click.Choice(["auto", "cpu", "cuda"]),
        default="auto",
        show_default=True,
        help="Where the models run. One that is asked for and not there is an error.",
    ),
    cloup.option(
        "--batch-size", type=click.IntRange(1, 1024), default=BATCH_SIZE, show_default=True
    ),
    cloup.option(
        "--threads",
        type=click.IntRange(1),
        help="Default: every core that this process may use; 1 for each worker of --engine ray.",
    ),
)


def output_option(words: str) -> Callable[[Command], Command]:
    """Give -o, which a command cannot do without, saying what it is for."""
    return cloup.option_group(
        "Output", cloup.option("-o", "--output", required=True, metavar="FOLDER|URL", help=words)
    )


scoring_options = cloup.option_group(
    "Scoring",
    cloup.option(
        "--labels",
        default="folders",
        show_default=True,
        metavar="folders|none|CSV",
        help="Reference standard: parent folders NORMAL and PNEUMONIA, or columns image and label.",
    ),
    cloup.option("--limit", type=click.IntRange(1), help="Score only the first so many files."),
    cloup.option(
        "--keep-atypical",
        is_flag=True,
        help="Score also what does not look like the films the model knows, instead of "
        "rejecting it.",
    ),
    cloup.option(
        "--identifiers",
        type=click.Choice(["hash", "keep", "drop"]),
        default="hash",
        show_default=True,
        help="Patient and study of a DICOM film, and patient numbers in file names, in the "
        "rows: as keyed hashes, as they are (in the files attached to report.pdf too), or not.",
    ),
    cloup.option(
        "--identifiers-key",
        type=click.Path(path_type=Path, dir_okay=False),
        help="File with the key of the hashes; else CXR_IDENTIFIERS_KEY holds it. Without, "
        "both are left out.",
    ),
    cloup.option(
        "--engine",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="This process, or a Ray cluster: that of RAY_ADDRESS, else one on this machine.",
    ),
)


def access_options(command: Command) -> Command:
    """Add --list-root and --allow-private-hosts, as one ``access``."""

    @cloup.option_group(
        "Access",
        cloup.option(
            "--list-root",
            multiple=True,
            type=click.Path(exists=True, file_okay=False),
            metavar="FOLDER",
            help="Also let a list name images below this folder; without it, only below the list's "
            "own. May be repeated.",
        ),
        cloup.option(
            "--allow-private-hosts",
            is_flag=True,
            help="Also read from http addresses that are not of the public Internet, such as "
            "127.0.0.1 or 10.0.0.7.",
        ),
    )
    @wraps(command)
    def permitted(*, list_root: tuple[str, ...], allow_private_hosts: bool, **options: Any) -> Any:
        from batch_scorer.storage.access import AccessPolicy

        return command(access=AccessPolicy(list_root, allow_private_hosts), **options)

    return permitted


def report_options(command: Command) -> Command:
    """Add --format, --pdf-variant, --title, --organisation and --logo, as one ``drawing``."""

    @cloup.option_group(
        "Report",
        cloup.option(
            "--format",
            default="pdf",
            show_default=True,
            metavar="pdf,html,slides",
            callback=_parse_formats,
            help="Which reports to draw, with commas between them: pdf for print, html for a "
            "browser, slides to present.",
        ),
        cloup.option(
            "--pdf-variant",
            type=click.Choice(["pdf/a-3a", "pdf/ua-1"]),
            help="Standard that report.pdf follows. Default: pdf/a-3a, to archive.",
        ),
        cloup.option("--title", default="", metavar="TEXT", help="Title of the report."),
        cloup.option(
            "--organisation",
            default="",
            metavar="TEXT",
            help="Whose report it is, below the title.",
        ),
        cloup.option(
            "--logo",
            metavar="FILE",
            help="PNG or SVG for page 1 and the footers, at most 2 MB.",
        ),
    )
    @wraps(command)
    def drawn(
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
        drawing = ReportOptions(options.pop("format"), branding, pdf_variant)
        return command(drawing=drawing, **options)

    return drawn


def _parse_formats(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
    """The names in "pdf,html", each once."""
    from batch_scorer.results.store import REPORT_FILES

    formats = tuple(dict.fromkeys(name.strip().lower() for name in value.split(",")))
    for name in formats:
        if name not in REPORT_FILES:
            raise click.BadParameter(
                f"expected {' or '.join(REPORT_FILES)}, or several with commas between them; "
                f"found “{name}”.",
                ctx,
                param,
            )
    return formats


def cost_options(command: Command) -> Command:
    """Add --core-hour-price and --currency, as one ``core_hour_price``, None where none is given."""

    @cloup.option_group(
        "Cost",
        cloup.option(
            "--core-hour-price",
            type=FiniteFloatRange(0, min_open=True),
            metavar="PRICE",
            help="What one core costs for an hour: run.json, report and summary then say what "
            "1,000 films cost.",
        ),
        cloup.option(
            "--currency",
            default="USD",
            show_default=True,
            metavar="TEXT",
            help="Of --core-hour-price.",
        ),
    )
    @wraps(command)
    def priced(*, core_hour_price: float | None, currency: str, **options: Any) -> Any:
        from batch_scorer.results.usage import CoreHourPrice

        price = CoreHourPrice(core_hour_price, currency) if core_hour_price else None
        return command(core_hour_price=price, **options)

    return priced


def metrics_option(command: Command) -> Command:
    """Add --metrics, as ``gauges``; they are written when the command has ended, however it did."""

    @click.option(
        "--metrics",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Write there, as a Prometheus textfile, what was done, or that it failed.",
    )
    @wraps(command)
    def measured(*, metrics: Path | None, **options: Any) -> int | None:
        from batch_scorer.cli.prometheus import MetricsFile

        with MetricsFile(metrics, options["output"]) as gauges:
            gauges.exit_code = command(gauges=gauges, **options)
        return gauges.exit_code

    return measured


gallery_options = cloup.option_group(
    "Images in the report",
    cloup.option(
        "--heatmaps",
        type=click.Choice(["flagged", "all", "none"]),
        default="flagged",
        show_default=True,
        help="Which of the films shown get a map of the first model's evidence beside them.",
    ),
    cloup.option(
        "--review-minutes",
        type=click.IntRange(1, MAX_REVIEW_MINUTES),
        help="Show as many films as can be looked at in so many minutes, at 45 seconds a film. "
        "Default: up to 6 for each reason to look.",
    ),
)
