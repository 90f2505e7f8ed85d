"""Results of version 1, as cxr-batch 0.1.0 left them, are read, gone on with and merged.

The archive holds four images, a model, and what that version made of them: a finished run of three,
the same one as two shards, one that was stopped after its first image, and two scheduled runs, the
second of which found the fourth image.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import pytest

from batch_scorer.engine.runner import run_score_job
from batch_scorer.engine.score_job import ScoreJob
from batch_scorer.errors import OutputError
from batch_scorer.jobs import latest
from batch_scorer.jobs.task import TaskSpec, run_task
from batch_scorer.results import store
from batch_scorer.results.merge import merge_shards
from batch_scorer.results.run_dates import RUN_DATE_COLUMN, read_run_dates
from batch_scorer.results.schema import SCHEMA_VERSION
from batch_scorer.results.shards import Shard
from batch_scorer.storage.output import open_output
from tests.paths import REPOSITORY

ARCHIVE = REPOSITORY / "tests" / "archive" / "results_version_1.tar.xz"
NEW_IMAGE = "PNEUMONIA/film_3.png"


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    """The archive, unpacked in the working directory: its runs name their source without a root."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)


def read(folder):
    return store.read_run(open_output(folder))


def without_stamps(rows):
    """The rows but for what the file system says of their files, which are new copies here."""
    return [msgspec.structs.replace(row, stamp="") for row in rows]


def score(output, **options):
    return ScoreJob("xrays", output, ("tiny.onnx",), **options)


def test_a_run_is_read_without_a_column_that_nobody_filled():
    run = read("run")
    assert (run.manifest.schema_version, run.manifest.run_date) == (SCHEMA_VERSION, "")
    assert [row.prediction for row in run.rows] == ["NORMAL", "NORMAL", "PNEUMONIA"]
    assert run.extra_columns == {}
    assert read_run_dates(run) == ["", "", ""]


def test_a_scheduled_run_is_read_with_its_dates():
    run = latest.read_newest_run(open_output("nightly"))
    stored = json.loads(Path("nightly/latest/run.json").read_bytes())
    assert (run.manifest.run_date, run.manifest.changes.run_date) == (
        *(stored["night"], stored["since"]["night"]),
    )
    assert read_run_dates(run) == [stored["since"]["night"]] * 3 + [stored["night"]]


@pytest.mark.parametrize("output", ["run", "stopped"])
def test_a_run_is_gone_on_with(output):
    before = read("run").rows
    manifest = run_score_job(score(output))
    run = read(output)
    assert run.manifest == manifest
    assert without_stamps(run.rows[:3]) == without_stamps(before)
    assert [row.image for row in run.rows[3:]] == [NEW_IMAGE]
    assert not Path(output, "earlier").exists()
    assert run_score_job(score(output)) == manifest
    names = pq.read_schema(Path(output, store.PARQUET_FILE)).names
    assert not {"night", RUN_DATE_COLUMN} & {*names}


def test_shards_are_merged():
    merged = merge_shards("sharded")
    assert read("sharded").rows == read("run").rows
    stored = json.loads(Path("run/run.json").read_bytes())
    assert merged.config_hash == stored["method"]
    assert (merged.found, merged.flagged, merged.shard) == (3, 1, "")


def test_a_scheduled_run_follows_one_of_version_1():
    before = latest.read_newest_run(open_output("nightly"))
    job = TaskSpec(score("nightly"), shard=Shard(1, 1), report_options=None)
    outcome = run_task(job)
    assert outcome.changes.run_date == before.manifest.run_date
    assert (outcome.changes.images, outcome.changes.new_or_changed, outcome.changes.gone) == (
        4,
        0,
        0,
    )
    assert read("nightly/latest").extra_columns == {RUN_DATE_COLUMN: read_run_dates(before)}
    Path("xrays", NEW_IMAGE).unlink()
    third = run_task(job)
    assert (third.changes.run_date, third.changes.gone) == (outcome.run_date, 1)


def test_results_of_a_later_version_are_refused():
    keys = json.loads(Path("run/run.json").read_bytes()) | {"schema_version": SCHEMA_VERSION + 1}
    Path("run/run.json").write_text(json.dumps(keys))
    with pytest.raises(OutputError, match=r"has version 3 of the results.*or a newer one"):
        read("run")


def test_dates_that_are_none_are_refused():
    run = latest.read_newest_run(open_output("nightly"))
    broken = run._replace(extra_columns={RUN_DATE_COLUMN: [*read_run_dates(run)[:3], "tomorrow"]})
    with pytest.raises(OutputError, match=r"column run_date of run .* cannot be read"):
        read_run_dates(broken)
