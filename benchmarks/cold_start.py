"""How long does `cxr score` of one film take, from the shell's point of view.

A process for each turn, with an output folder of its own; the median is told.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import click

from benchmarks.command import BenchmarkCommand

EXAMPLE_IMAGE = (
    Path(__file__).parent.parent / "examples" / "xrays" / "NORMAL" / "synthetic_normal_01.jpeg"
)
MAX_START_S = 1.2


@click.command(cls=BenchmarkCommand, epilog="Example: python benchmarks/cold_start.py --turns 20")
@click.argument(
    "film", type=click.Path(path_type=Path, exists=True, dir_okay=False), default=EXAMPLE_IMAGE
)
@click.option("--model", default="cnn", show_default=True)
@click.option("--turns", type=click.IntRange(1), default=10, show_default=True)
@click.pass_context
def main(ctx: click.Context, film: Path, model: str, turns: int) -> None:
    """Measure `cxr score` of one FILM, without a report.

    Exit code 1: the median is over 1.2 s.
    """
    taken = [measure_start_time(film, model) for _ in range(turns)]
    wall, processor = (median(each) for each in zip(*taken, strict=True))
    pandas = "with" if find_spec("pandas") else "without"
    click.echo(
        f"{model}, {turns} turns, {pandas} pandas installed (which pyarrow then imports): "
        f"{wall:.2f} s, of which the processor {processor:.2f} s"
    )
    imported = median(measure_import_time() for _ in range(turns))
    click.echo(f"import batch_scorer: {1000 * imported:.1f} ms")
    ctx.exit(0 if wall <= MAX_START_S else 1)


def measure_start_time(film: Path, model: str) -> tuple[float, float]:
    """Seconds by the clock, and seconds of processor time, of one run."""
    with tempfile.TemporaryDirectory(prefix="cxr-start-") as output:
        command = ["score", film, "-o", output, "--model", model, "--no-report"]
        start = time.perf_counter()
        process = subprocess.Popen(  # noqa: S603 - this project's own program
            [sys.executable, "-m", "batch_scorer", *map(str, command)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise click.ClickException(f"cxr score ended with exit code {process.returncode}.")
    return seconds, used.ru_utime + used.ru_stime


def measure_import_time() -> float:
    """Measure the seconds that `import batch_scorer` takes in a new process."""
    code = (
        "import time; start = time.perf_counter(); import batch_scorer; "
        "print(time.perf_counter() - start)"
    )
    return float(subprocess.check_output([sys.executable, "-c", code]))  # noqa: S603 - own code


if __name__ == "__main__":
    main()
