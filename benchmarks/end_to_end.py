"""End-to-end speed of `cxr score`, compared with a notebook and with the hardware ceiling.

Each turn runs three processes in sequence: `cxr score` on all images, ``keras_baseline.py`` on the
same images, and `cxr bench`. Times exclude start-up. The ratio compares the common work, from
images to scores: for `cxr score`, the stage "score" of run.json with its checkpoints. The time that
`cxr score` spends once at the end (tables, report images) is printed separately, because no
notebook does this work. Ratios are computed within a turn and their median is printed, so a busy
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
@click.option("--limit", type=click.IntRange(1), help="Maximum number of images.  [default: all]")
@click.option("--turns", type=click.IntRange(1), default=3, show_default=True)
@click.pass_context
def main(ctx: click.Context, images: Path, run: Path | None, limit: int | None, turns: int) -> None:
    """Compare `cxr score` with a notebook on the JPEG images in IMAGES.

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
        f"{available_cores()} cores, {MODEL}, {turns} turns, notebook with "
        f"{baselines[0]['weights']} weights"
    )
    click.echo(f"{'':16s}{'images':>7s}{'seconds':>10s}{'images/s':>10s}")
    for name, found in (("cxr score", ours), ("notebook", baselines)):
        seconds = median(each["seconds"] for each in found)
        n_images = found[0]["films"]
        click.echo(f"{name:16s}{n_images:7d}{seconds:10.2f}{n_images / seconds:10.1f}")
    once_s = median(our["once"] for our in ours)
    click.echo(f"{'':16s}{'':7s}{once_s:10.2f}  once per run, for tables and report images")
    ratio, share = median(ratios), median(shares)
    click.echo(f"ratio {ratio:.2f} (each turn: {', '.join(f'{each:.2f}' for each in ratios)})")
    click.echo(f"share of the ceiling {share:.0%}")
    ctx.exit(0 if ratio >= MIN_SPEEDUP and share >= MIN_CEILING_SHARE else 1)


def run_score(images: Path, options: list[str]) -> dict[str, Any]:
    """Run `cxr score`: number of images, seconds for their scores, and seconds once at the end."""
    with tempfile.TemporaryDirectory(prefix="cxr-bench-") as output:
        arguments = ["score", images, "-o", output, "--model", MODEL, "--no-report", *options]
        arguments += ["--labels", "none", "--heatmaps", "none"]
        _run_python("-m", "batch_scorer", *arguments)
        manifest = json.loads((Path(output) / "run.json").read_text(encoding="utf-8"))
    seconds = manifest["seconds"]
    return {"films": manifest["found"], "seconds": seconds["score"], "once": seconds["record"]}


def run_bench(images: Path, n_images: int) -> dict[str, Any]:
    """Run `cxr bench` for one turn and read its JSON."""
    with tempfile.TemporaryDirectory(prefix="cxr-bench-") as folder:
        file = Path(folder) / "speed.json"
        arguments = ["bench", images, "--model", MODEL, "--json", file, "--turns", 1]
        _run_python("-m", "batch_scorer", *arguments, "--films", n_images)
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def _run_script(script: Path, *arguments: object) -> dict[str, Any]:
    """Run a script and read the JSON line that it prints last."""
    found: dict[str, Any] = json.loads(_run_python(script, *arguments).splitlines()[-1])
    return found


def _run_python(*arguments: object) -> str:
    """Run a Python process and return its output.

    Raises:
        ClickException: The process failed. Exit code 3 is accepted: some files were not images.
    """
    done = subprocess.run(  # noqa: S603 - this project's own programs
        [sys.executable, *map(str, arguments)], check=False, capture_output=True, text=True
    )
    if done.returncode not in {0, 3}:
        raise click.ClickException(f"{arguments[0]} {arguments[1]} failed: {done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    main()
