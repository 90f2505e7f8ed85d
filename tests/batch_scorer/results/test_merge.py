"""Shards joined are the run that one machine would have made; what is missing is named."""

from __future__ import annotations

import json
import shutil

import pytest

from batch_scorer.engine.runner import run_score_job
from batch_scorer.engine.score_job import ScoreJob
from batch_scorer.errors import OutputError
from batch_scorer.results import store
from batch_scorer.results.merge import merge_shards
from batch_scorer.results.schema import Gallery
from batch_scorer.results.shards import Shard
from batch_scorer.results.usage import CoreHourPrice
from batch_scorer.storage.output import INTERNAL_FOLDER, open_output
from tests.images import make_film
from tests.tiny_model import save_tiny_model


@pytest.fixture
def films(folder):
    """Labelled films, some of them copies, some broken."""
    for index in range(40):
        (folder / f"more_{index:02d}.png").write_bytes(make_film(50 + 4 * index, seed=index % 30))
        (folder / f"same_{index:02d}.png").write_bytes(make_film(90, seed=1000))
    (folder / "empty.png").write_bytes(b"")
    (folder / "letter.png").write_bytes(b"Dear doctor")
    return folder


def score_shards(films, output, model, count, **options):
    for number in range(1, count + 1):
        job = ScoreJob(
            str(films), str(output), (str(model),), shard=Shard(number, count), **options
        )
        run_score_job(job)


def test_three_shards_joined_are_one_run_byte_for_byte(films, tmp_path, tiny_model):
    alone = run_score_job(ScoreJob(str(films), str(tmp_path / "alone"), (str(tiny_model),)))
    score_shards(films, tmp_path / "out", tiny_model, 3)
    merged = merge_shards(str(tmp_path / "out"))
    whole = (tmp_path / "alone" / store.CSV_FILE).read_bytes()
    assert (tmp_path / "out" / store.CSV_FILE).read_bytes() == whole
    for name in ("found", "listed", "selected", "scored", "flagged", "duplicates", "metrics"):
        assert getattr(merged, name) == getattr(alone, name)
    assert merged.duplicates == 39
    pictures = {path.name for path in (tmp_path / "alone" / "films").iterdir()}
    assert {path.name for path in (tmp_path / "out" / "films").iterdir()} == pictures


def test_merged_shards_sum_what_each_spent(films, tmp_path, tiny_model):
    out = tmp_path / "out"
    score_shards(films, out, tiny_model, 2, core_hour_price=CoreHourPrice(0.05))
    parts = [
        store.read_run(open_output(out / "shards" / f"{number}-of-2")).manifest for number in (1, 2)
    ]
    merged = merge_shards(str(out))
    assert merged.bytes_read == sum(path.stat().st_size for path in films.rglob("*.png"))
    assert merged.worker_seconds == {
        step: pytest.approx(sum(part.worker_seconds[step] for part in parts), abs=0.01)
        for step in ("read", "decode", "classify")
    }
    assert merged.peak_memory_bytes >= max(part.peak_memory_bytes for part in parts)
    assert merged.core_seconds > sum(part.core_seconds for part in parts)
    assert merged.seconds["record"] > sum(part.seconds["record"] for part in parts)
    assert merged.cost is not None
    assert merged.cost == CoreHourPrice(0.05).compute_cost(merged.core_seconds, merged.found)
    rewrite(out, cost=None)
    assert merge_shards(str(out)).cost is None


def test_a_missing_shard_is_named_and_nothing_is_written(cxr, films, tmp_path, tiny_model):
    score_shards(films, tmp_path / "out", tiny_model, 4)
    (tmp_path / "out" / "shards" / "3-of-4" / store.RUN_FILE).unlink()  # it never finished
    run = cxr("merge", tmp_path / "out")
    assert run.returncode == 1
    assert "found 3: missing 3/4." in run.stderr
    assert f"cxr score IMAGES -o {tmp_path / 'out'} --shard 3/4" in run.stderr
    assert run.stderr.count("\n") == 1
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"shards", INTERNAL_FOLDER}


@pytest.mark.slow
def test_the_command_line_scores_shards_and_merges_them_with_a_report(
    cxr, films, tmp_path, tiny_model
):
    for index in range(2):
        run = cxr(
            *("score", films, "-o", tmp_path / "out", "--model", tiny_model, "--shard", "auto"),
            CLOUD_RUN_TASK_INDEX=str(index),
            CLOUD_RUN_TASK_COUNT="2",
        )
        assert run.returncode in (0, 3), run.stderr
        assert "Report" not in run.stdout
    run = cxr("merge", tmp_path / "out")
    assert run.returncode == 3, run.stderr
    assert run.stdout.startswith("Files     88 found = 86 scored + 1 rejected + 1 failed (")
    assert (tmp_path / "out" / "report.pdf").stat().st_size > 10_000


def test_more_shards_than_films_are_fine(folder, tmp_path, tiny_model):
    score_shards(folder, tmp_path / "out", tiny_model, 12)
    assert merge_shards(str(tmp_path / "out")).found == 6


def test_labels_of_a_table_may_all_be_of_other_shards(folder, tmp_path, tiny_model):
    table = tmp_path / "labels.csv"
    table.write_text("image,label\nNORMAL/film_0.png,0\n")
    score_shards(folder, tmp_path / "out", tiny_model, 3, labels=str(table))
    assert merge_shards(str(tmp_path / "out")).labelled == 1


def test_a_shard_goes_on_where_it_was_and_only_its_own_films_count(folder, tmp_path, tiny_model):
    score_shards(folder, tmp_path / "out", tiny_model, 2)
    (folder / "late.png").write_bytes(make_film(seed=9))
    score_shards(folder, tmp_path / "out", tiny_model, 2)
    merged = merge_shards(str(tmp_path / "out"))
    assert (merged.found, merged.reused) == (7, 6)


def test_files_that_came_between_two_listings_are_said(cxr, folder, tmp_path, tiny_model):
    job = ScoreJob(str(folder), str(tmp_path / "out"), (str(tiny_model),), shard=Shard(1, 2))
    run_score_job(job)
    for index in range(8):
        (folder / f"late_{index}.png").write_bytes(make_film(seed=index + 20))
    score_shards(folder, tmp_path / "later", tiny_model, 2)
    shutil.copytree(tmp_path / "later/shards/2-of-2", tmp_path / "out/shards/2-of-2")
    run = cxr("merge", tmp_path / "out", "--no-report")
    assert run.returncode == 0, run.stderr
    assert "Files were added or removed while the shards were listed" in run.stderr


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda out: shutil.rmtree(out / "shards"), "found no finished one"),
        (
            lambda out: shutil.copytree(out / "shards/1-of-2", out / "shards/1-of-3"),
            "found shards of 2 and of 3",
        ),
        (lambda out: rewrite(out, version="9.9"), "the version of cxr-batch of shard 2/2"),
        (lambda out: rewrite(out, config_hash="other"), "models or options of shard"),
        (lambda out: rewrite(out, selected=7) or rewrite(out, 2, selected=7), "rows of 7 images"),
        (lambda out: (out / "shards/1-of-2/predictions.csv").write_text(""), "was changed after"),
        (lambda out: (out / "shards/1-of-2/run.json").write_text("{"), "cannot be read"),
    ],
)
def test_shards_that_do_not_belong_together_are_refused(
    folder, tmp_path, tiny_model, spoil, message
):
    score_shards(folder, tmp_path / "out", tiny_model, 2)
    spoil(tmp_path / "out")
    with pytest.raises(OutputError, match=message):
        merge_shards(str(tmp_path / "out"))
    assert not (tmp_path / "out" / store.CSV_FILE).exists()


def test_shards_of_two_models_are_refused(folder, tmp_path, tiny_model):
    score_shards(folder, tmp_path / "out", tiny_model, 2)
    other = save_tiny_model(tmp_path / "other.onnx", "other")
    job = ScoreJob(str(folder), str(tmp_path / "out"), (str(other),), shard=Shard(2, 2))
    run_score_job(job)
    with pytest.raises(OutputError, match="models or options of shard 2/2 differ"):
        merge_shards(str(tmp_path / "out"))


def test_films_that_are_gone_leave_the_report_without_pictures(folder, tmp_path, tiny_model):
    score_shards(folder, tmp_path / "out", tiny_model, 2)
    shutil.rmtree(folder)
    merged = merge_shards(str(tmp_path / "out"))
    assert merged.found == 6
    assert store.read_run(open_output(tmp_path / "out")).manifest == merged


def test_merged_shards_of_a_bundled_model_have_the_maps_of_one_run(folder, tmp_path):
    options = {"keep_atypical": True, "heatmaps": "all", "review_minutes": 3}
    alone = run_score_job(ScoreJob(str(folder), str(tmp_path / "alone"), ("mlp",), **options))
    score_shards(folder, tmp_path / "out", "mlp", 2, **options)
    merged = merge_shards(str(tmp_path / "out"))
    assert len(alone.gallery.maps) == len(list((tmp_path / "alone" / "films").iterdir())) / 2 > 0
    assert merged.gallery == alone.gallery
    for path in (tmp_path / "alone" / "films").iterdir():
        assert (tmp_path / "out" / "films" / path.name).read_bytes() == path.read_bytes()


def test_merged_shards_say_why_they_have_no_maps(folder, tmp_path, tiny_model):
    score_shards(folder, tmp_path / "out", tiny_model, 2)
    assert merge_shards(str(tmp_path / "out")).gallery == Gallery("flagged", no_maps_reason="model")
    shutil.rmtree(folder)
    assert merge_shards(str(tmp_path / "out")).gallery == Gallery("flagged", no_maps_reason="films")


def test_shards_with_other_pictures_in_mind_are_refused(folder, tmp_path, tiny_model):
    score_shards(folder, tmp_path / "out", tiny_model, 2)
    job = ScoreJob(
        str(folder), str(tmp_path / "out"), (str(tiny_model),), shard=Shard(2, 2), review_minutes=9
    )
    run_score_job(job)
    with pytest.raises(OutputError, match="--heatmaps or --review-minutes of shard 2/2 differ"):
        merge_shards(str(tmp_path / "out"))


def rewrite(out, number=1, **changes):
    path = out / "shards" / f"{number}-of-2" / store.RUN_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
