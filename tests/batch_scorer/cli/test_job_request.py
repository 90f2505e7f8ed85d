"""Response to an event: a run's counts, a reason, or a one-line error."""

from __future__ import annotations

import pytest

from batch_scorer.cli.job_request import JobResponse, handle_event, read_task_spec
from batch_scorer.jobs.events import JobRequest
from tests.servers import SECRET


@pytest.fixture
def job_output(folder, tiny_model, tmp_path, monkeypatch):
    """Set the environment for a folder of six images, and return the output."""
    output = tmp_path / "out"
    for name, value in (("IMAGES", folder), ("OUTPUT", output), ("MODEL", tiny_model)):
        monkeypatch.setenv(f"CXR_JOB_{name}", str(value))
    return output


def test_a_schedule_returns_the_run_s_counts_and_names_no_image(job_output, folder):
    (folder / "NORMAL" / "letter.txt").write_text("Dear doctor")
    answer = handle_event({})
    night = answer.facts.pop("night")
    assert answer == JobResponse(
        0,
        {
            "found": 7,
            "scored": 6,
            "rejected": 1,
            "failed": 0,
            "flagged": 3,
            "new": 7,
            "reports": [f"{job_output}/latest/report.pdf"],
            "latest": f"{job_output}/latest",
        },
    )
    assert (job_output / "nights" / night / "run.json").exists()


def test_a_run_without_new_images_draws_no_report(job_output):
    first, second = handle_event(None), handle_event(None)
    assert (first.facts["new"], second.facts["new"]) == (6, 0)
    assert second.facts["reports"] == []
    assert second.facts["night"] > first.facts["night"]


def test_a_stopped_run_is_resumed(job_output, folder, monkeypatch):
    monkeypatch.setenv("CXR_JOB_BATCH_SIZE", "2")
    stopped = handle_event({}, lambda: True)
    assert (stopped.exit_code, stopped.facts, stopped.code) == (75, {}, "interrupted")
    assert stopped.error.startswith("Interrupted: 2 of 6 images are done.")
    assert handle_event({}).facts["scored"] == 6


@pytest.mark.parametrize(
    ("name", "value", "exit_code", "words"),
    [
        ("OUTPUT", "", 2, "Missing option '-o' / '--output'"),
        ("IMAGES", "", 2, "Missing argument 'IMAGES'"),
        ("BATCH_SIZE", "many", 2, "'many' is not a valid integer range"),
        ("SHARD", "5/4", 2, "Expected a shard from 1 to 4, found 5/4"),
        ("MODEL", "no-such-model", 2, "no-such-model"),
        ("IMAGES", "/no/such/folder", 1, "/no/such/folder"),
        (
            "IMAGES",
            f"http://me:{SECRET}@127.0.0.1:9/films?sig={SECRET}",
            2,
            "--allow-private-hosts",
        ),
    ],
)
def test_an_error_is_one_line_with_the_exit_code_of_the_command(
    job_output, monkeypatch, name, value, exit_code, words
):
    monkeypatch.setenv(f"CXR_JOB_{name}", value)
    answer = handle_event({})
    assert (answer.exit_code, answer.facts) == (exit_code, {})
    assert words in answer.error
    assert answer.error.isprintable()
    assert SECRET not in answer.error


def test_an_event_that_is_not_known_is_wrong_usage(job_output):
    answer = handle_event({"key1": "value1"})
    assert answer.exit_code == 2
    assert answer.error.startswith("Expected an event of S3")


def test_the_folder_of_an_event_overrides_that_of_the_settings(job_output, tiny_model):
    job = read_task_spec(JobRequest("s3://clinic/-new", "s3://results/clinic/-new"))
    assert (job.score.images, job.score.output) == ("s3://clinic/-new", "s3://results/clinic/-new")
    assert job.score.models == (str(tiny_model),)
    assert read_task_spec(JobRequest()).score.output == str(job_output)
