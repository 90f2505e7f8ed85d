"""The container image: its recipe is sound, its packages are those that were tested, it runs."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import dockerfile
import pathspec
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.paths import REPOSITORY

DEPLOY = REPOSITORY / "deploy"
DOCKERFILE = DEPLOY / "Dockerfile"
PINNED = re.compile(r"^([a-z0-9][a-z0-9.-]*)==(\S+) \\$", re.MULTILINE)


def hadolint(text: str) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).parent / "hadolint", "--failure-threshold", "style", "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False)


def values_of(word: str) -> list[tuple[str, ...]]:
    """The values of every instruction of one kind, as Docker's own parser reads them."""
    commands = dockerfile.parse_file(str(DOCKERFILE))
    return [command.value for command in commands if command.cmd.upper() == word]


def pairs(instructions: list[tuple[str, ...]]) -> dict[str, str]:
    return {
        name: value
        for values in instructions
        for name, value in zip(values[::2], values[1::2], strict=True)
    }


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
        ("debian:${DEBIAN_TAG}@${DEBIAN_DIGEST}", "debian", "DL3006"),
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


def test_the_image_runs_cxr_as_another_user_than_root_and_writes_below_tmp_alone():
    assert values_of("ENTRYPOINT") == [("cxr",)]
    [[user]] = values_of("USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    assert values_of("VOLUME") == [("/tmp",)]
    environment = pairs(values_of("ENV"))
    caches = ("HOME", "MPLCONFIGDIR", "XDG_CACHE_HOME")
    assert all(environment[name].startswith("/tmp") for name in caches)
    assert environment["PATH"] == "/opt/cxr/bin:${PATH}"
    labels = pairs(values_of("LABEL"))
    assert labels["org.opencontainers.image.base.digest"] == '"${DEBIAN_DIGEST}"'


def test_the_image_sends_no_telemetry_whatever_is_started_in_it():
    assert pairs(values_of("ENV"))["ORT_DISABLE_TELEMETRY"] == "1"


def test_a_base_without_digest_is_refused():
    assert ("DEBIAN_DIGEST",) in values_of("ARG"), "a default would be an old base"
    assert values_of("FROM")[0] == ("debian:${DEBIAN_TAG}@${DEBIAN_DIGEST}", "AS", "base")


def test_the_build_sees_the_packages_and_nothing_private():
    # .dockerignore means what a .gitignore file means where patterns begin with / or **.
    ignored = pathspec.GitIgnoreSpec.from_lines(
        (REPOSITORY / ".dockerignore").read_text().splitlines()
    )
    seen = set(ignored.match_tree_files(REPOSITORY, negate=True))
    assert {path.partition("/")[0] for path in seen} == {
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
    assert all(path.startswith("deploy/locks/") for path in seen if path.startswith("deploy/"))
    assert not [path for path in seen if "__pycache__" in path]
    assert [path for path in seen if re.fullmatch(r"batch_scorer/models/\w+\.onnx", path)]


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


@pytest.mark.image
def test_the_image_is_built_and_runs_in_a_bare_debian():
    command = ["make", "image-proof"]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert "proved " in result.stdout
    assert "24 found = 24 scored" in result.stdout
