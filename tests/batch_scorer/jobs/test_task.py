"""The tasks of a run one by one: which run they join, reuse and refuse."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from batch_scorer.engine.score_job import ScoreJob
from batch_scorer.errors import (
    AlreadyRunning,
    Interrupted,
    ModelFileError,
    OutputError,
    UsageError,
)
from batch_scorer.jobs import latest, schedule
from batch_scorer.jobs.finalize import FinalizeOptions, finalize_newest_run, finalize_run
from batch_scorer.jobs.schedule import (
    RunSpec,
    find_scheduled_run,
    join_scheduled_run,
    make_run_date,
)
from batch_scorer.jobs.task import TaskSpec, run_task
from batch_scorer.results import store
from batch_scorer.results.run_dates import RUN_DATE_COLUMN
from batch_scorer.results.shards import Shard
from batch_scorer.storage.lease import LeaseWatcher, acquire_lease, try_acquire_lease
from batch_scorer.storage.output import open_output
from tests.factories import make_evidence
from tests.images import make_film
from tests.tiny_model import save_tiny_model

LEASE_S = 1.0
ALIVE_S = 6.0
"""Term of a lease that stays held even if a busy machine renews it four seconds late."""


@pytest.fixture
def job(folder, tmp_path, tiny_model):
    """The only task of a run over six images."""
    score = ScoreJob(str(folder), str(tmp_path / "out"), (str(tiny_model),))
    return TaskSpec(score, shard=Shard(1, 1), report_options=None, lease_s=LEASE_S)


def task(job, number, count, execution="", **changes):
    return replace(job, tasks=count, shard=Shard(number, count), execution=execution, **changes)


def read_latest(job):
    return store.read_run(open_output(job.score.output).subfolder(latest.LATEST_FOLDER))


def test_the_first_run_scores_all_images_and_the_next_one_only_new_images(job, folder):
    first = run_task(job)
    assert (first.manifest.found, first.changes, first.missing_shards) == (6, None, ())
    (folder / "NORMAL" / "film_0.png").write_bytes(make_film(170, seed=70))
    (folder / "PNEUMONIA" / "film_3.png").unlink()
    (folder / "new.png").write_bytes(make_film(200, seed=71))
    (folder / "letter.txt").write_text("Dear doctor")
    second = run_task(job)
    assert second.manifest.reused == 4
    since = second.changes
    assert (since.run_date, since.images, since.unchanged) == (first.run_date, 6, False)
    assert (since.new, since.changed, since.gone, since.flagged) == (2, 1, 1, 2)
    manifest, rows, added = read_latest(job)
    assert manifest == second.manifest
    dated = zip(rows, added[RUN_DATE_COLUMN], strict=True)
    assert {row.image for row, date in dated if date == second.run_date} == {
        *("NORMAL/film_0.png", "new.png", "letter.txt"),
    }
    images = open_output(second.run_url).list_files(store.IMAGES_FOLDER)
    assert len([name for name in images if "evidence" not in name]) == 2


def test_a_run_draws_no_map_with_a_model_that_did_not_score(job, tmp_path):
    model = save_tiny_model(tmp_path / "m.onnx", evidence=make_evidence(4))

    def replace_the_model(*_):
        save_tiny_model(model, slope=9.0, evidence=make_evidence(4))

    opened = replace(job, score=replace(job.score, models=(str(model),)))
    manifest = run_task(opened, replace_the_model).manifest
    assert (manifest.gallery.maps, manifest.gallery.no_maps_reason) == ({}, "model")


def test_nothing_new_leaves_latest_as_it_is(job, tmp_path):
    first = run_task(job)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out/latest").rglob("*")}
    second = run_task(job)
    assert second.nothing_new
    assert second.changes.run_date == first.run_date
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out/latest").rglob("*")} == before
    assert store.read_run(open_output(second.run_url)).manifest.found == 6
    third = run_task(job)
    assert third.changes.run_date == first.run_date


def test_another_label_gives_no_new_image_but_a_new_report(job, folder, tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("image,label\nNORMAL/film_0.png,0\n")
    job = replace(job, score=replace(job.score, labels=str(table)))
    run_task(job)
    table.write_text("image,label\nNORMAL/film_0.png,1\n")
    second = run_task(job)
    assert (second.changes.new_or_changed, second.changes.unchanged) == (0, False)
    assert read_latest(job)[0] == second.manifest


def test_the_last_task_finishes_and_a_second_finish_says_so(job):
    first = run_task(task(job, 2, 2))
    assert (first.manifest, first.missing_shards) == (None, (Shard(1, 2),))
    with pytest.raises(OutputError, match=r"found 1: missing 1/2\. Run each again: cxr job run"):
        finalize_newest_run(FinalizeOptions(job.score.output, None))
    last = run_task(task(job, 1, 2))
    assert last.run_date == first.run_date
    assert last.manifest.found == 6
    again = finalize_newest_run(FinalizeOptions(job.score.output, None))
    assert (again.already_finished, again.manifest) == (True, last.manifest)


def test_a_separate_finish_merges_the_shards_of_all_tasks(job):
    for number in (1, 2):
        outcome = run_task(task(job, number, 2, finish=False))
    assert (outcome.manifest, outcome.missing_shards) == (None, ())
    assert finalize_newest_run(FinalizeOptions(job.score.output, None)).manifest.found == 6


def test_finish_without_any_run_fails(tmp_path):
    with pytest.raises(OutputError, match=r"found none\. Start one with: cxr job run IMAGES"):
        finalize_newest_run(FinalizeOptions(str(tmp_path)))


def test_repeating_a_task_of_a_finished_run_opens_no_new_run(job):
    for number in (1, 2):
        done = run_task(task(job, number, 2, "monday"))
    late = run_task(task(job, 2, 2, "monday"))
    assert (late.already_finished, late.run_date) == (True, done.run_date)
    run_task(task(job, 1, 2, "tuesday"))
    with pytest.raises(
        OutputError, match=r"of monday: the newer run .* replaced it. Nothing is left to do"
    ):
        run_task(task(job, 2, 2, "monday"))


def test_an_abandoned_run_leaves_its_rows_to_the_next(job):
    given_up = run_task(task(job, 1, 2, "monday"))
    scored = given_up.task_manifests[0].found
    assert 0 < scored < 6
    for number in (1, 2):
        outcome = run_task(task(job, number, 2, "tuesday"))
    assert outcome.run_date > given_up.run_date
    assert outcome.manifest.reused == scored
    third = [run_task(task(job, number, 3, "wednesday")) for number in (1, 2, 3)]
    assert third[-1].nothing_new


def test_rows_of_an_abandoned_run_are_found_with_another_number_of_tasks(job):
    scored = run_task(task(job, 1, 2, "monday")).task_manifests[0].found
    for number in (1, 2, 3):
        outcome = run_task(task(job, number, 3, "tuesday"))
    assert outcome.manifest.reused == scored


def test_an_open_run_with_other_settings_is_not_abandoned_while_alive(job):
    run_task(task(job, 1, 2, "monday"))
    opened = find_scheduled_run(open_output(job.score.output))
    with (
        acquire_lease(opened.run_output, "2-of-2", ALIVE_S),
        pytest.raises(AlreadyRunning, match=r"in progress with other settings \(execution"),
    ):
        run_task(task(job, 1, 2, "tuesday"))


def test_two_concurrent_jobs_do_not_score_the_same_shard(job):
    run_task(task(job, 1, 2))
    opened = find_scheduled_run(open_output(job.score.output))
    with (
        acquire_lease(opened.run_output, "2-of-2", ALIVE_S),
        pytest.raises(AlreadyRunning, match="is working on 2-of-2 of") as error,
    ):
        run_task(task(job, 2, 2))
    assert error.value.exit_code == 75


def test_a_task_that_lost_its_lease_writes_no_rows(job, tmp_path):
    """Another task takes the lease while this one, which renews rarely, still scores."""
    slow = replace(job, lease_s=60)

    def take_over(done, total):
        opened = find_scheduled_run(open_output(job.score.output))
        watch = LeaseWatcher(opened.run_output, "1-of-1")
        watch.poll()
        assert try_acquire_lease(opened.run_output, "1-of-1", watch, 60)

    with pytest.raises(AlreadyRunning, match="Another task took over 1-of-1"):
        run_task(slow, progress=take_over)
    assert not list((tmp_path / "out").glob(f"nights/*/shards/*/{store.RUN_FILE}"))


def test_one_of_two_last_tasks_finalizes_the_run(job):
    output = open_output(job.score.output)
    run_task(task(job, 1, 2, finish=False))
    with acquire_lease(output, "finish", ALIVE_S):
        other = run_task(task(job, 2, 2))
    assert (other.manifest, other.missing_shards) == (None, ())
    assert len(other.task_manifests) == 1
    assert finalize_newest_run(FinalizeOptions(job.score.output, None)).manifest.found == 6


def test_first_tasks_that_start_together_open_one_run(tmp_path):
    output = open_output(tmp_path / "out")
    together = threading.Barrier(8)

    def arrive(_):
        together.wait()
        return join_scheduled_run(output, RunSpec("films", "method", 8), LEASE_S, lambda _: None)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(arrive, range(8)))
    assert len({opened.run_date for opened in found}) == 1
    assert output.list_files(schedule.SPECS_FOLDER) == ["plans/000001.json"]


def test_run_dates_increase_even_if_the_clock_does_not():
    now = datetime(2026, 11, 27, 2, 0, 0, tzinfo=UTC)
    assert make_run_date(now, "") == "20261127-020000"
    assert make_run_date(now, "20261126-235959") == "20261127-020000"
    assert make_run_date(now, "20261127-020000") == "20261127-020001"
    assert make_run_date(now, "20271231-235959") == "20280101-000000"


def test_shards_are_claimed_until_none_is_free(job):
    claim = replace(job, tasks=3, shard=None, lease_s=ALIVE_S)
    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(run_task, [claim, claim]))
    own = [manifest.shard for outcome in outcomes for manifest in outcome.task_manifests]
    assert sorted(own) == ["1/3", "2/3", "3/3"]
    assert finalize_newest_run(FinalizeOptions(job.score.output, None)).manifest.found == 6


def test_a_shard_whose_holder_died_is_claimed_after_a_term(job):
    claim = replace(job, tasks=2, shard=None)
    run_task(task(job, 1, 2))
    opened = find_scheduled_run(open_output(job.score.output))
    try_acquire_lease(
        opened.run_output, "2-of-2", LeaseWatcher(opened.run_output, "2-of-2"), LEASE_S
    )  # and dies
    outcome = run_task(claim)
    assert [manifest.shard for manifest in outcome.task_manifests] == ["2/2"]
    assert outcome.manifest.found == 6


def test_a_shard_whose_holder_is_alive_is_left_to_it(job):
    claim = replace(job, tasks=2, shard=None)
    run_task(task(job, 1, 2))
    opened = find_scheduled_run(open_output(job.score.output))
    with acquire_lease(opened.run_output, "2-of-2", ALIVE_S):
        outcome = run_task(claim)
    assert (outcome.task_manifests, outcome.missing_shards) == ((), (Shard(2, 2),))


def test_a_waiting_task_can_be_stopped(job):
    run_task(task(job, 1, 2))
    opened = find_scheduled_run(open_output(job.score.output))
    try_acquire_lease(opened.run_output, "2-of-2", LeaseWatcher(opened.run_output, "2-of-2"), 60)
    with pytest.raises(Interrupted):
        run_task(task(job, 2, 2), stop=lambda: True)


def test_another_model_is_refused_without_rescore(job, tmp_path):
    first = run_task(job)
    other = save_tiny_model(tmp_path / "other.onnx", slope=4.0)
    changed = replace(job, score=replace(job.score, models=(str(other),)))
    with pytest.raises(
        ModelFileError,
        match=r"latest, tiny [0-9a-f]{12}; found other [0-9a-f]{12}\. Add",
    ):
        run_task(changed)
    second = run_task(replace(changed, rescore=True))
    assert (second.manifest.reused, second.changes.new_or_changed, second.changes.unchanged) == (
        0,
        0,
        False,
    )
    assert {*read_latest(job).extra_columns[RUN_DATE_COLUMN]} == {first.run_date}
    assert run_task(changed).nothing_new
    with pytest.raises(OutputError, match=r"options and decoder version of the rows.*--rescore"):
        run_task(replace(changed, score=replace(changed.score, keep_atypical=True)))


@pytest.mark.parametrize(("images", "output"), [("out/films", "out"), ("films", "films/out")])
def test_images_and_output_must_not_overlap(job, tmp_path, images, output):
    (tmp_path / images).mkdir(parents=True)
    score = replace(job.score, images=str(tmp_path / images), output=str(tmp_path / output))
    with pytest.raises(UsageError, match="lies inside the"):
        run_task(replace(job, score=score))
    assert not (tmp_path / output / "plans").exists()


def test_an_interrupted_finish_is_completed(job, folder, tmp_path):
    """The run is complete, but ``latest/`` holds only half of it."""
    first = run_task(job)
    (folder / "new.png").write_bytes(make_film(200, seed=71))
    second = run_task(job)
    out = tmp_path / "out"
    shutil.copy(out / "nights" / first.run_date / store.RUN_FILE, out / "latest" / store.RUN_FILE)
    assert find_scheduled_run(open_output(out)).read_final_manifest() is None
    again = run_task(job)
    assert (again.run_date, again.manifest.changes) == (second.run_date, second.changes)
    assert read_latest(job)[0] == again.manifest


def test_a_superseded_run_does_not_return_to_latest(job):
    run_task(task(job, 1, 2, "monday"))
    for number in (1, 2):
        newest = run_task(task(job, number, 2, "tuesday"))
    output, options = open_output(job.score.output), FinalizeOptions(job.score.output, None)
    with (
        acquire_lease(output, "finish", ALIVE_S) as lease,
        pytest.raises(OutputError, match=r"Cannot finalize .*: the newer run .* is finished"),
    ):
        finalize_run(find_scheduled_run(output, 1), options, lease)
    assert read_latest(job)[0].run_date == newest.run_date


def test_images_that_arrive_during_a_run_belong_to_the_next_run(job, folder):
    run_task(task(job, 1, 2, "monday"))
    for index in range(8):
        (folder / f"late_{index}.png").write_bytes(make_film(seed=index + 20))
    theirs = sum(Shard(2, 2).contains(f"late_{index}.png") for index in range(8))
    assert 0 < theirs < 8
    first = run_task(task(job, 2, 2, "monday")).manifest
    assert (first.found, first.listed) == (6 + theirs, 6 + theirs)
    for number in (1, 2):
        second = run_task(task(job, number, 2, "tuesday"))
    assert (second.manifest.found, second.changes.new) == (14, 8 - theirs)
