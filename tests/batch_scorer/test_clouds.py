"""Buckets as users meet them: real servers, a proxy that drops, delays, refuses and cuts answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import fsspec
import pypdfium2
import pytest

from batch_scorer import ledger, storage
from batch_scorer.errors import SourceError, TransientError
from batch_scorer.source import open_source
from tests.conftest import make_film
from tests.servers import SECRET, clouds, free_port, run_proxy, without_credentials

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers import Cloud

__all__ = ["clouds"]
FILMS = 40
PROTOCOLS = ("s3", "az", "gs")


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    """Forty small films, a copy, a file that is none, and a folder's marker of its own."""
    root = tmp_path_factory.mktemp("films")
    for index in range(FILMS):
        label, brightness = ("PNEUMONIA", 180) if index % 2 else ("NORMAL", 70)
        path = root / label / f"film_{index:02d}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(make_film(brightness, seed=index))
    (root / "copy of a film, ü.png").write_bytes((root / "NORMAL" / "film_00.png").read_bytes())
    (root / "letter.txt").write_text("Dear doctor")
    return root


@pytest.fixture(scope="module")
def local_csv(films, tiny_model, tmp_path_factory) -> bytes:
    """The rows of the same films, scored from disk."""
    output = tmp_path_factory.mktemp("local")
    run = score(films, output, tiny_model, {}, "--no-report")
    assert run.returncode == 3, run.stderr
    return (output / ledger.CSV_FILE).read_bytes()


@pytest.fixture(scope="module", params=PROTOCOLS)
def cloud(request, clouds) -> Cloud:
    return clouds[request.param]


@pytest.fixture(scope="module")
def bucket(cloud, films) -> str:
    """The URL of the films in a bucket."""
    return cloud.fill("films-bucket", films)


def score(images, output, model, environment, *options) -> subprocess.CompletedProcess[str]:
    command = ("score", images, "-o", output, "--model", model, "--batch-size", 8, *options)
    return subprocess.run(
        [sys.executable, "-m", "batch_scorer", *map(str, command)],
        check=False,
        capture_output=True,
        text=True,
        env={**without_credentials(), **environment},
    )


def read_manifest(output: Path) -> dict:
    return json.loads((output / ledger.RUN_FILE).read_text())


def test_a_bucket_behind_a_bad_line_gives_the_rows_of_the_folder(
    cloud, bucket, tiny_model, local_csv, tmp_path
):
    with run_proxy(cloud, seed=3) as proxy:
        environment = cloud.behind(proxy.url).environment
        run = score(bucket, tmp_path / "out", tiny_model, environment, "--no-report")
        faults = proxy.faults()
    assert run.returncode == 3, run.stderr
    assert (tmp_path / "out" / ledger.CSV_FILE).read_bytes() == local_csv
    assert all(faults.get(kind, 0) > 0 for kind in ("drop", "delay", "refuse", "cut")), faults
    manifest = read_manifest(tmp_path / "out")
    assert manifest["retries"] > 0
    assert (manifest["found"], manifest["scored"], manifest["failed"]) == (FILMS + 2, FILMS + 1, 0)
    assert run.stderr == f"scored {FILMS + 2} of {FILMS + 2} films\n"
