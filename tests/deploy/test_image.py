"""The container image: its recipe is sound, its packages are those that were tested, it runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy import prove, recipe, roots
from tests.paths import REPOSITORY

DEPLOY = REPOSITORY / "deploy"
DOCKERFILE = DEPLOY / "Dockerfile"
DIGEST = {"DEBIAN_DIGEST": "sha256:0123"}
PINNED = re.compile(r"^([a-z0-9][a-z0-9.-]*)==(\S+) \\$", re.MULTILINE)


def hadolint(text: str) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).parent / "hadolint", "--failure-threshold", "style", "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False)


def settings_of(target: str) -> recipe.Settings:
    stages, arguments = recipe.read_stages(DOCKERFILE, DIGEST)
    lineage, settings = [target], recipe.Settings()
    while stages[lineage[-1]].parent in stages:
        lineage.append(stages[lineage[-1]].parent)
    for name in reversed(lineage):
        for step in stages[name].steps:
            if step.word not in {"RUN", "COPY"}:
                settings = recipe.settle(step, settings, {**arguments, **DIGEST})
    return settings


def locked(name: str) -> dict[str, str]:
    return dict(PINNED.findall((DEPLOY / "locks" / f"{name}.txt").read_text()))


def closure(extras: set[str]) -> set[str]:
    """Every package that cxr-batch needs with these extras, as this environment says it."""
    found: set[tuple[str, str]] = set()
    todo = [("cxr-batch", extra) for extra in {"", *extras}]
    while todo:
        name, extra = todo.pop()
        if (name, extra) in found:
            continue
        found.add((name, extra))
        for line in requires(name) or ():
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                child = canonicalize_name(needed.name)
                todo += [(child, more) for more in {"", *needed.extras}]
    return {name for name, _ in found} - {"cxr-batch"}


def test_hadolint_finds_nothing():
    result = hadolint(DOCKERFILE.read_text())
    assert (result.returncode, result.stdout) == (0, "")


@pytest.mark.parametrize(
    ("sound", "broken", "rule"),
    [
        ("debian:${DEBIAN_TAG}@${DEBIAN_DIGEST:?}", "debian", "DL3006"),
        ("    && rm -rf /var/lib/apt/lists/* \\\n", "", "DL3009"),
        ("--no-install-recommends ", "", "DL3015"),
        ("WORKDIR /src", "WORKDIR src", "DL3000"),
        ('ENTRYPOINT ["cxr"]', "ENTRYPOINT cxr", "DL3025"),
        ("USER 10001:10001", "USER root", "DL3002"),
        ("# hadolint ignore=DL3008\n", "", "DL3008"),
    ],
)
def test_hadolint_finds_what_was_broken(sound, broken, rule):
    text = DOCKERFILE.read_text()
    assert sound in text
    result = hadolint(text.replace(sound, broken))
    assert result.returncode == 1
    assert rule in result.stdout


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_the_image_runs_cxr_as_another_user_than_root_and_writes_below_tmp_alone(target):
    settings = settings_of(target)
    assert settings.entrypoint == ("cxr",)
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", settings.user)
    assert settings.volume == ("/tmp",)
    caches = ("HOME", "MPLCONFIGDIR", "XDG_CACHE_HOME")
    assert all(settings.environment[name].startswith("/tmp") for name in caches)
    assert settings.environment["PATH"].startswith("/opt/cxr/bin:/usr/local/sbin:")
    assert settings.labels["org.opencontainers.image.base.digest"] == "sha256:0123"


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_the_image_sends_no_telemetry_whatever_is_started_in_it(target):
    assert settings_of(target).environment["ORT_DISABLE_TELEMETRY"] == "1"


def test_a_base_without_digest_is_refused():
    with pytest.raises(recipe.RecipeError, match="DEBIAN_DIGEST must be given"):
        recipe.read_stages(DOCKERFILE, {})


def test_only_the_stages_of_the_target_are_built():
    stages, _ = recipe.read_stages(DOCKERFILE, DIGEST)
    names = [stage.name for stage in recipe.needed("cpu", stages)]
    assert names[-1] == "cpu"
    assert names.index("base") < names.index("build") < names.index("build-cpu")
    assert "build-cuda" not in names
    with pytest.raises(recipe.RecipeError, match=r"Expected one of the stages base, .*, found gpu"):
        recipe.needed("gpu", stages)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ADD https://example.org/x /x", "ADD is not carried out here"),
        ("ENV A=${B:-1}", "is not read here"),
    ],
)
def test_what_cannot_be_carried_out_is_an_error(tmp_path, line, message):
    path = tmp_path / "Dockerfile"
    path.write_text(f"FROM debian:bookworm AS base\n{line}\n")
    stages, _ = recipe.read_stages(path, {})
    with pytest.raises(recipe.RecipeError, match=re.escape(message)):
        recipe.settle(stages["base"].steps[0], recipe.Settings(), {})


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("RUN --mount=type=cache,target=/root/.cache true", "only a plain RUN of root"),
        ('RUN ["true", "twice"]', "only a plain RUN of root"),
        ("USER 10001:10001\nRUN true", "only a plain RUN of root"),
        ("COPY --chown=10001 a b", "only COPY FOLDER FOLDER"),
        ("COPY a b c/", "only COPY FOLDER FOLDER"),
        ("RUN false", "Line 2 of the Dockerfile failed: false"),
    ],
)
def test_no_line_is_carried_out_by_half(monkeypatch, tmp_path, lines, message):
    path = tmp_path / "Dockerfile"
    path.write_text(f"FROM debian:bookworm AS base\n{lines}\n")
    monkeypatch.setattr(prove, "DOCKERFILE", path)
    monkeypatch.setattr(prove, "make_base", lambda image, folder: roots.Root(folder))
    monkeypatch.setattr(prove, "build_in", lambda root, command: int(command == "false"))
    with pytest.raises(recipe.RecipeError, match=message):
        prove.build("base", tmp_path / "roots")


def test_another_base_than_debian_is_refused(tmp_path):
    with pytest.raises(recipe.RecipeError, match="Expected a base image debian:RELEASE"):
        roots.make_base("alpine:3.22@sha256:0123", tmp_path / "root")


def test_the_build_sees_the_packages_and_nothing_private(tmp_path):
    shutil.copytree(REPOSITORY, tmp_path / "seen", ignore=prove.ignored())
    seen = tmp_path / "seen"
    assert {path.name for path in seen.iterdir()} == {
        "LICENSE",
        "README.md",
        "batch_scorer",
        "constraints.txt",
        "deploy",
        "exporter",
        "pyproject.toml",
        "report_templates",
        "trainer",
    }
    assert [path.name for path in (seen / "deploy").iterdir()] == ["locks"]
    assert not list(seen.rglob("__pycache__"))
    assert sorted(path.name for path in (seen / "batch_scorer" / "models").glob("*.onnx"))


def test_the_image_holds_the_packages_that_were_tested():
    lines = (REPOSITORY / "constraints.txt").read_text()
    found = re.findall(r"^([^#\s]+)==(\S+)$", lines, re.MULTILINE)
    tested = {canonicalize_name(name): number for name, number in found}
    image = locked("cpu")
    assert image.items() <= tested.items(), "run `make image-lock`"
    assert set(image) == closure({"cloud"}), "run `make image-lock`"


def test_every_package_of_the_image_has_hashes():
    for path in (DEPLOY / "locks").iterdir():
        text = path.read_text()
        packages = re.findall(r"^\S+==", text, re.MULTILINE)
        hashed = re.findall(r"^\S+==\S+ \\\n    --hash=sha256:[0-9a-f]{64}\b", text, re.MULTILINE)
        assert 0 < len(packages) == len(hashed)


def test_cuda_differs_from_cpu_by_its_own_libraries_alone():
    cpu, cuda = locked("cpu"), locked("cuda")
    own = {name for name in cuda if name.startswith("nvidia-")} | {"onnxruntime-gpu"}
    assert {name: number for name, number in cuda.items() if name not in own}.items() <= cpu.items()


def test_a_failed_check_fails_the_proof(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "chown", lambda *args: None)
    monkeypatch.setattr(shutil, "which", lambda tool: tool)
    monkeypatch.setattr(
        prove, "build", lambda target, folder: roots.Root(folder, settings_of("cpu"))
    )
    monkeypatch.setattr(prove, "run_in", lambda *args: int(args[-1] == "cxr doctor"))
    result = CliRunner().invoke(prove.main, ["--keep", str(tmp_path / "keep")])
    assert result.exit_code == 1
    assert "Failed in the image: cxr doctor." in result.output


def test_the_proof_says_what_it_needs(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    result = CliRunner().invoke(prove.main, [])
    assert result.exit_code == 1
    assert "Expected root and debootstrap" in result.output


@pytest.mark.image
def test_the_image_is_built_and_runs_in_a_bare_debian():
    command = [sys.executable, "-m", "deploy.prove"]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert "proved " in result.stdout
    assert "24 found = 24 scored" in result.stdout
