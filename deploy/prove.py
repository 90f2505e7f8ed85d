"""Build the image's own steps in a bare Debian and run what comes out, without a container engine.

Each RUN, COPY, ENV and USER line is read from ``deploy/Dockerfile`` and carried out in a root that
``debootstrap`` made of the same Debian release. What the last stage holds then runs as a platform
would run it: as its own user, without capabilities or network, on a root that is read-only.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pathspec

from deploy.recipe import RecipeError, Settings, Stage, Step, expand, needed, read_stages, settle
from deploy.roots import TOOLS, Root, build_in, call, make_base, run_in

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

REPOSITORY = Path(__file__).parent.parent
DOCKERFILE = REPOSITORY / "deploy" / "Dockerfile"
FILMS = REPOSITORY / "examples" / "xrays"
NO_DIGEST = f"sha256:{64 * '0'}"
"""Stands for the digest of a base that comes from debootstrap instead."""


@dataclass(frozen=True)
class Check:
    """A command that must end with one of some exit codes in the finished image."""

    command: str
    codes: tuple[int, ...] = (0,)
    user: str = ""
    """Another user and group than the image's own, as on Lambda and OpenShift."""


CHECKS = (
    Check('test "$(id -u):$(id -g)" = 10001:10001'),
    Check("! touch /opt/cxr/written"),
    Check("for tool in gcc cc c++ ld make pip pip3; do ! command -v $tool || exit 1; done"),
    Check("cxr doctor"),
    Check("cxr models test"),
    Check("cxr models test", user="993:990"),
    Check('python -c "import awslambdaric, batch_scorer.job.lambda_handler"'),
    Check("cxr score /mnt/films -o /mnt/out/run --model all --labels none", (0, 3)),
    Check("cxr verify /mnt/out/run/report.pdf"),
    Check("cxr job run /mnt/films -o /mnt/out/nights --model cnn --labels none"),
    Check("cxr verify /mnt/out/nights/latest/report.pdf"),
    Check("cxr job run /mnt/films -o /mnt/out/nights --model cnn --labels none"),
)
_CUDA = "/opt/cxr/lib/python3*/site-packages/onnxruntime/capi/libonnxruntime_providers_cuda.so"
OF_TARGET = {
    "cuda": (Check(f"test \"$(ldd {_CUDA} | awk '/not found/ {{print $1}}')\" = libcuda.so.1"),),
}
"""Here no driver is: it comes from the machine that the image runs on, and nothing else does."""


@click.command(epilog="Example: python -m deploy.prove --target cpu")
@click.option("--target", default="cpu", show_default=True, help="Stage of the Dockerfile.")
@click.option(
    "--keep",
    type=click.Path(path_type=Path, file_okay=False),
    help="Build below this new folder, and leave everything there.",
)
def main(target: str, keep: Path | None) -> None:
    """Build a target of deploy/Dockerfile in a bare Debian, run it, and say its time and size.

    Needs root, debootstrap and the package registries. Exit code 1: a step or a check failed.
    """
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if os.geteuid() or missing:
        found = f"{', '.join(missing)} missing" if missing else f"user {os.geteuid()}"
        raise click.ClickException(f"Expected root and {', '.join(TOOLS)}, found {found}.")
    if keep:
        keep.mkdir(parents=True)
    place = nullcontext(str(keep)) if keep else tempfile.TemporaryDirectory(prefix="cxr-image-")
    with place as folder:
        try:
            root = build(target, Path(folder).resolve())
        except RecipeError as exc:
            raise click.ClickException(str(exc)) from exc
        click.echo(f"size      {say_size(root.folder)}")
        checks = (*CHECKS, *OF_TARGET.get(target, ()))
        failed = _check(root, Path(folder).resolve() / "out", checks)
    if failed:
        raise click.ClickException(f"Failed in the image: {'; '.join(failed)}.")
    click.echo(f"proved    all {len(checks)} checks hold")


def build(target: str, folder: Path) -> Root:
    """Carry out every step that a target needs.

    Args:
        target: A stage of the Dockerfile.
        folder: Where each stage gets a root.

    Raises:
        RecipeError: A step failed, or cannot be carried out here.
    """
    given = {"DEBIAN_DIGEST": NO_DIGEST}
    stages, arguments = read_stages(DOCKERFILE, given)
    done: dict[str, Root] = {}
    began = time.monotonic()
    for stage in needed(target, stages):
        started = time.monotonic()
        place = folder / stage.name
        if stage.parent in done:
            parent = done[stage.parent]
            call("cp", "--archive", "--reflink=auto", str(parent.folder), str(place))
            root = replace(parent, folder=place)
        else:
            root = make_base(stage.parent, place)
        done[stage.name] = _carry_out(stage, root, done, {**arguments, **given})
        click.echo(f"stage     {stage.name:10s} {time.monotonic() - started:5.0f} s")
    click.echo(f"built     {target:10s} {time.monotonic() - began:5.0f} s")
    return done[target]


def say_size(folder: Path) -> str:
    """The size of an image's files, and of one gzip layer of them, as a registry keeps it."""
    stats = [path.lstat() for path in folder.rglob("*")]
    sizes = {(stat.st_dev, stat.st_ino): stat.st_size for stat in stats}
    packed = subprocess.run(  # noqa: S603 - the words below
        ["/bin/sh", "-euc", 'tar --create --directory "$0" . | gzip | wc --bytes', folder],
        check=True,
        capture_output=True,
        text=True,
    )
    return f"{sum(sizes.values()) / 1e6:.0f} MB, {int(packed.stdout) / 1e6:.0f} MB compressed"


def _carry_out(
    stage: Stage, root: Root, done: Mapping[str, Root], given: Mapping[str, str]
) -> Root:
    for step in stage.steps:
        if step.word == "RUN":
            if step.flags or len(step.values) != 1 or root.settings.user != Settings.user:
                raise RecipeError(f"Line {step.line}: only a plain RUN of root is done here.")
            if build_in(root, step.values[0]):
                raise RecipeError(f"Line {step.line} of the Dockerfile failed: {step.values[0]}")
        elif step.word == "COPY":
            _copy(step, root, done)
        else:
            root = replace(root, settings=settle(step, root.settings, given))
            (root.folder / root.settings.workdir.lstrip("/")).mkdir(parents=True, exist_ok=True)
    return root


def _copy(step: Step, root: Root, done: Mapping[str, Root]) -> None:
    other = [flag for flag in step.flags if not flag.startswith("--from=")]
    if other or len(step.values) != 2:  # noqa: PLR2004 - a source and a destination
        raise RecipeError(f"Line {step.line}: only COPY FOLDER FOLDER is carried out here.")
    source, place = (expand(value, root.settings.variables) for value in step.values)
    there = root.folder / (Path(root.settings.workdir) / place).relative_to("/")
    there.mkdir(parents=True, exist_ok=True)
    if step.source:
        call("cp", "--archive", f"{done[step.source].folder}{source}/.", str(there))
    else:
        shutil.copytree(REPOSITORY / source, there, ignore=ignored(), dirs_exist_ok=True)


def ignored() -> Callable[[str, list[str]], set[str]]:
    """What .dockerignore keeps out, for ``shutil.copytree``.

    It is read as a .gitignore file is, which means the same where patterns begin with / or **.
    """
    lines = (REPOSITORY / ".dockerignore").read_text().splitlines()
    spec = pathspec.GitIgnoreSpec.from_lines(lines)

    def ignore(folder: str, names: list[str]) -> set[str]:
        at = Path(folder).relative_to(REPOSITORY)
        return {name for name in names if spec.match_file(at / name)}

    return ignore


def _check(root: Root, out: Path, checks: tuple[Check, ...]) -> list[str]:
    """Run every check; the commands of those that failed."""
    out.mkdir()
    os.chown(out, *map(int, root.settings.user.split(":")))
    failed = []
    for check in checks:
        click.echo(f"$ {check.command}")
        began = time.monotonic()
        settings = replace(root.settings, user=check.user or root.settings.user)
        code = run_in(replace(root, settings=settings), FILMS, out, check.command)
        click.echo(f"-> exit code {code}, {time.monotonic() - began:.1f} s")
        if code not in check.codes:
            failed.append(check.command)
    return failed


if __name__ == "__main__":
    main()
