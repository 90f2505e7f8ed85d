"""Films a second from end to end: `cxr score` against the notebook's way, and against the ceiling.

Each turn runs, one after the other and each in a process of its own, `cxr score` on all images,
``keras_baseline.py`` on the same images, and `cxr bench`. Times are without start-up. The ratio
compares what both do: images in, answers out, of `cxr score` the stage "score" of run.json, with its
journal. What `cxr score` does once at the end (tables, pictures for a report), which no notebook
does, is told beside it. Ratios are taken within a turn, and their median is told, so that a busy
machine slows both sides alike.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import click

from batch_scorer.system.process import available_cores
from benchmarks.command import BenchmarkCommand

MODEL = "vgg16"
MIN_SPEEDUP = 4.5
MIN_CEILING_SHARE = 0.90
BASELINE_SCRIPT = Path(__file__).parent / "keras_baseline.py"


@click.command(
    cls=BenchmarkCommand, epilog="Example: python benchmarks/end_to_end.py originals --turns 5"
)
@click.argument("images", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--run", type=click.Path(path_type=Path, exists=True), help="A VGG16 run folder.")
@click.option("--limit", type=click.IntRange(1), help="Only the first so many films.")
@click.option("--turns", type=click.IntRange(1), default=3, show_default=True)
@click.pass_context
def main(ctx: click.Context, images: Path, run: Path | None, limit: int | None, turns: int) -> None:
    """Compare `cxr score` with the notebook's way on the JPEG images in IMAGES.

    Exit code 1: less than 4.5 times as fast, or below 90 % of the ceiling.
    """
    options = ["--limit", str(limit)] if limit else []
    peer_options = [*options, "--run", str(run)] if run else options
    ours, baselines, shares = [], [], []
    for _ in range(turns):
        ours.append(run_score(images, options))
        baselines.append(_run_script(BASELINE_SCRIPT, images, *peer_options))
        shares.append(run_bench(images, limit or 200)["share"])
    ratios = [
        baseline["seconds"] / our["seconds"] for our, baseline in zip(ours, baselines, strict=True)
    ]
    click.echo(
        f"{available_cores()} cores, {MODEL}, {turns} turns, notebook with {baselines[0]['weights']} "
        "weights"
    )
    click.echo(f"{'':16s}{'films':>7s}{'seconds':>10s}{'films/s':>10s}")
    for name, found in (("cxr score", ours), ("notebook's way", baselines)):
        seconds = median(each["seconds"] for each in found)
        n_images = found[0]["films"]
        click.echo(f"{name:16s}{n_images:7d}{seconds:10.2f}{n_images / seconds:10.1f}")
    once_s = median(our["once"] for our in ours)
    click.echo(f"{'':16s}{'':7s}{once_s:10.2f}  once a run, for tables and pictures")
    ratio, share = median(ratios), median(shares)
    click.echo(f"ratio {ratio:.2f} (each turn: {', '.join(f'{each:.2f}' for each in ratios)})")
    click.echo(f"share of the ceiling {share:.0%}")
    ctx.exit(0 if ratio >= MIN_SPEEDUP and share >= MIN_CEILING_SHARE else 1)


def run_score(images: Path, options: list[str]) -> dict[str, Any]:
    """One whole run: number of images, seconds for their answers, and seconds once at the end."""
    with tempfile.TemporaryDirectory(prefix="cxr-bench-") as output:
        arguments = ["score", images, "-o", output, "--model", MODEL, "--no-report", *options]
        arguments += ["--labels", "none", "--heatmaps", "none"]
        _run_python("-m", "batch_scorer", *arguments)
        manifest = json.loads((Path(output) / "run.json").read_text(encoding="utf-8"))
    seconds = manifest["seconds"]
    return {"films": manifest["found"], "seconds": seconds["score"], "once": seconds["record"]}


def run_bench(images: Path, n_images: int) -> dict[str, Any]:
    """What `cxr bench` measures in one turn."""
    with tempfile.TemporaryDirectory(prefix="cxr-bench-") as folder:
        file = Path(folder) / "speed.json"
        arguments = ["bench", images, "--model", MODEL, "--json", file, "--turns", 1]
        _run_python("-m", "batch_scorer", *arguments, "--films", n_images)
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def _run_script(script: Path, *arguments: object) -> dict[str, Any]:
    """The JSON line that a script prints last."""
    found: dict[str, Any] = json.loads(_run_python(script, *arguments).splitlines()[-1])
    return found


def _run_python(*arguments: object) -> str:
    """What a Python process prints.

    Raises:
        ClickException: It failed. Exit code 3 is none: some files were no images.
    """
    done = subprocess.run(  # noqa: S603 - this project's own programs
        [sys.executable, *map(str, arguments)], check=False, capture_output=True, text=True
    )
    if done.returncode not in {0, 3}:
        raise click.ClickException(f"{arguments[0]} {arguments[1]} failed: {done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    main()
