"""Each run is reported once: by notification, by metrics and by the log."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tenacity import wait_none

from batch_scorer.engine.score_job import ScoreJob
from batch_scorer.errors import UsageError
from batch_scorer.jobs import notify
from batch_scorer.jobs.finalize import FinalizeOptions, finalize_newest_run
from batch_scorer.jobs.task import TaskSpec, run_task
from batch_scorer.results.shards import Shard
from tests.batch_scorer.jobs.servers import web_server
from tests.images import make_film


def job_of(folder, output, model, *notify, **options):
    score = ScoreJob(str(folder), str(output), (str(model),))
    return TaskSpec(score, report_options=None, notify=notify, lease_s=2, **options)


def values(path):
    families = text_string_to_metric_families(path.read_text())
    return {s.name: s.value for family in families for s in family.samples}


@pytest.mark.slow
def test_each_run_is_reported_once_with_its_changes(cxr, folder, tiny_model, tmp_path):
    out, file = tmp_path / "out", tmp_path / "cxr.prom"
    arguments = ("job", "run", folder, "-o", out, "--model", tiny_model, "--metrics", file)
    with web_server(204) as (host, posted):
        environment = {"CXR_JOB_NOTIFY": f"http://{host}/s3cr3t", "CXR_LOG_FORMAT": "json"}
        first = cxr(*arguments, "--title", "Ward 7", **environment)
        (folder / "PNEUMONIA" / "late.png").write_bytes(make_film(180, seed=44))
        second = cxr(*arguments, "--no-report", **environment)
        third = cxr(*arguments, "--no-report", **environment)
    runs = (first, second, third)
    assert [run.returncode for run in runs] == [0, 0, 0], [run.stderr for run in runs]
    bodies = [body for _, _, body in posted]
    assert [body["title"] for body in bodies] == ["Ward 7", "Chest X-rays", "Chest X-rays"]
    assert [body["found"] for body in bodies] == [6, 7, 7]
    assert [body["new"] for body in bodies] == [6, 1, 0]
    assert [body["new_flagged"] for body in bodies] == [3, 1, 0]
    assert [body["since"] for body in bodies] == ["", bodies[0]["night"], bodies[1]["night"]]
    assert bodies[0]["report"] == f"{out}/latest/report.pdf"
    assert bodies[1]["report"] == f"{out}/nights/{bodies[1]['night']}/predictions.csv"
    assert bodies[2]["report"] == f"{out}/latest"
    assert "too few to tell whether this batch looks like" in bodies[0]["likeness"]
    for run, body in zip(runs, bodies, strict=True):
        lines = [json.loads(line) for line in run.stderr.splitlines()]
        events = [line["event"] for line in lines]
        assert events.count("night_finished") == events.count("notice_sent") == 1
        assert {line.get("night") for line in lines} == {body["night"]}
        assert "s3cr3t" not in run.stderr + run.stdout
        assert "film" not in run.stderr.replace("films_per_second", "").replace('"films"', "")
    found = values(file)
    assert found["cxr_films_read"] == 0
    assert found["cxr_exit_code"] == 0
    films = sum(path.stat().st_size for path in folder.rglob("*.png"))
    assert found["cxr_bytes_read_total"] == films


def test_only_the_last_of_many_tasks_notifies(folder, tiny_model, tmp_path):
    with web_server(200) as (host, posted):
        job = job_of(folder, tmp_path / "out", tiny_model, f"http://{host}", tasks=2)
        for number in (1, 2):
            assert len(posted) == 0
            outcome = run_task(replace(job, shard=Shard(number, 2)))
        assert outcome.manifest
        assert len(posted) == 1
        again = finalize_newest_run(
            FinalizeOptions(str(tmp_path / "out"), None, 2, notify=(f"http://{host}",))
        )
    assert again.already_finished
    assert len(posted) == 1


def test_finish_notifies_if_the_tasks_did_not(folder, tiny_model, tmp_path):
    out = tmp_path / "out"
    with web_server(200) as (host, posted):
        run_task(job_of(folder, out, tiny_model, f"http://{host}", finish=False))
        assert not posted
        finalize_newest_run(FinalizeOptions(str(out), None, 2, notify=(f"http://{host}",)))
    assert [body["found"] for _, _, body in posted] == [6]


def test_a_refused_notification_does_not_fail_the_run(
    folder, tiny_model, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(notify._RETRYING, "wait", wait_none())
    with web_server(500) as (host, posted):
        outcome = run_task(job_of(folder, tmp_path / "out", tiny_model, f"http://{host}/s3cr3t"))
    assert outcome.manifest
    assert len(posted) == notify.MAX_ATTEMPTS
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert warnings == [
        "The notification to address 1 of 1 (http) was not sent: HTTP 500, 4 times."
    ]


def test_an_unusable_address_ends_the_task_before_a_run_is_opened(folder, tiny_model, tmp_path):
    with pytest.raises(UsageError, match="as number 1 of --notify"):
        run_task(job_of(folder, tmp_path / "out", tiny_model, "s3cr3t"))
    assert not (tmp_path / "out").exists()
