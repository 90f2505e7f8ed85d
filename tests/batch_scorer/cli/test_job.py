"""``cxr job`` on a platform: every error is one line with the right exit code."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from batch_scorer.jobs.schedule import find_scheduled_run
from batch_scorer.storage.lease import acquire_lease
from batch_scorer.storage.output import open_output
from tests.servers import run_proxy, without_credentials
from tests.tiny_model import save_tiny_model

if TYPE_CHECKING:
    from collections.abc import Iterator


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "batch_scorer", "job", *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        env={**without_credentials(), **environment},
    )


@pytest.fixture(scope="module")
def behind(clouds) -> Iterator[dict[str, str]]:
    """Environment of an S3 server behind a proxy that denies some names."""
    with run_proxy(clouds["s3"], "calm") as proxy:
        yield clouds["s3"].behind(proxy.url).environment


@pytest.fixture
def films(folder, tiny_model) -> tuple[object, ...]:
    return ("run", folder, "--model", tiny_model, "--no-report")


@pytest.mark.parametrize(
    ("bucket", "words"),
    [
        ("no-such-bucket", r"cannot be written: the bucket does not exist\. Check its name"),
        ("forbidden-bucket", r"cannot be written: access is refused\. Check the account"),
        ("elsewhere-bucket", r"cannot be written: the bucket is in another region.*AWS_DEFAULT"),
        ("skewed-bucket", r"cannot be written: this machine's clock differs .*\. Set the clock"),
    ],
)
def test_an_output_that_is_not_right_is_one_line_and_not_worth_another_try(
    behind, films, bucket, words
):
    found = run(*films, "-o", f"s3://{bucket}/read", **behind)
    assert found.returncode == 1
    assert re.fullmatch(rf"Error: .*s3://{bucket}/read.*{words}.*\n", found.stderr)


@pytest.mark.parametrize(
    ("bucket", "words"),
    [
        ("no-such-bucket", "the bucket does not exist|found nothing there"),
        ("forbidden-bucket", "cannot be listed: access is refused"),
        ("elsewhere-bucket", "cannot be listed: the bucket is in another region"),
        ("skewed-bucket", "cannot be listed: this machine's clock differs"),
    ],
)
def test_images_that_cannot_be_listed_open_no_run(behind, tiny_model, tmp_path, bucket, words):
    found = run("run", f"s3://{bucket}/films", "-o", tmp_path, "--model", tiny_model, **behind)
    assert found.returncode == 1
    assert re.fullmatch(rf"Error: .*s3://{bucket}/films.*({words}).*\n", found.stderr)
    assert list(tmp_path.iterdir()) == []


def test_no_credentials_is_one_line(films, tmp_path):
    nowhere = {"AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path)}
    found = run(*films, "-o", "s3://bucket/read", **nowhere)
    assert found.returncode == 1
    assert re.fullmatch(
        r"Error: .*credentials are missing or invalid.* Set AWS_PROFILE.*\n", found.stderr
    )


def test_two_jobs_at_once_are_one_line_worth_another_try(films, tmp_path):
    share = ("-o", tmp_path / "out", "--lease-s", 1)
    assert run(*films, *share, "--shard", "1/2").returncode == 0
    night = find_scheduled_run(open_output(tmp_path / "out"))
    with acquire_lease(night.run_output, "2-of-2", 6):
        found = run(*films, *share, "--shard", "2/2")
    assert found.returncode == 75
    assert re.fullmatch(r"Error: Another task \(.*\) is working on 2-of-2 of .*\n", found.stderr)


def test_another_model_than_that_of_latest_is_one_line(films, tmp_path):
    assert run(*films, "-o", tmp_path / "out").returncode == 0
    other = save_tiny_model(tmp_path / "other.onnx", slope=4.0)
    found = run(*films[:2], "-o", tmp_path / "out", "--model", other)
    assert found.returncode == 1
    assert re.fullmatch(
        r"Error: Expected the models of the rows in .*latest, tiny \w{12}; found other \w{12}\. "
        r"Add --rescore .*\n",
        found.stderr,
    )


@pytest.mark.parametrize(
    ("options", "environment", "words"),
    [
        (("--shard", "5/4"), {}, "Expected a shard from 1 to 4, found 5/4"),
        (
            (),
            {"JOB_COMPLETION_INDEX": "4", "CXR_SHARD_COUNT": "4"},
            "Expected a shard from 1 to 4, found JOB_COMPLETION_INDEX=4 of CXR_SHARD_COUNT=4",
        ),
        (("--shard", "claim"), {}, "--shard claim expected the number of shards, found no --tasks"),
        (("--tasks", "4"), {}, "Expected the number of this task among 4 tasks, found nothing"),
        (("--shard", "2/3", "--tasks", "4"), {}, "Expected one of 4 tasks, found shard 2/3"),
    ],
)
def test_an_impossible_shard_is_wrong_usage(films, tmp_path, options, environment, words):
    found = run(*films, "-o", tmp_path / "out", *options, **environment)
    assert found.returncode == 2
    assert found.stderr.startswith(f"Error: {words}")
    assert found.stderr.count("\n") == 1


def test_a_missing_output_or_one_among_the_images_is_wrong_usage(films, folder):
    found = run(*films)
    assert found.returncode == 2
    assert "Missing option '-o'" in found.stderr
    found = run(*films, "-o", folder / "out")
    assert found.returncode == 2
    assert re.fullmatch(r"Error: The output folder .* lies inside the scored .*\n", found.stderr)
    found = run(*films, "-o", folder.parent)
    assert found.returncode == 2
    assert re.fullmatch(r"Error: The scored folder .* lies inside the output .*\n", found.stderr)


@pytest.mark.slow
def test_all_commands_share_one_prefix_of_environment_variables(folder, tiny_model, tmp_path):
    (folder / "letter.txt").write_text("Dear doctor")
    environment = {
        "CXR_JOB_IMAGES": str(folder),
        "CXR_JOB_OUTPUT": str(tmp_path / "out"),
        "CXR_JOB_MODEL": str(tiny_model),
        "CXR_JOB_LABELS": "none",
        "CXR_JOB_SHARD": "claim",
        "CXR_JOB_TASKS": "2",
        "CXR_JOB_FORMAT": "pdf,html",
        "CXR_JOB_FAIL_NOT_SCORED": "1",
    }
    status = run("status", **environment)
    assert (status.returncode, status.stdout[:18]) == (0, "Run       none yet")
    found = run("run", **environment)
    assert found.returncode == 3, found.stderr
    latest = tmp_path / "out" / "latest"
    assert f"Report    {latest}/report.html\n" in found.stdout
    assert (latest / "report.pdf").stat().st_size > 10_000
    again = run("finish", **environment)
    assert again.returncode == 3
    assert "was already finished" in again.stdout
    told = run("finish", **{**environment, "CXR_JOB_FAIL_NOT_SCORED": "0"})
    assert told.returncode == 0
    status = run("status", **environment)
    assert "is finished\nLatest    " in status.stdout
    assert "Files     7 found = 6 scored + 1 rejected + 0 failed" in status.stdout
