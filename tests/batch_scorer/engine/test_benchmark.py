"""cxr bench and cxr score --dry-run measure the scorer's own stages and write nothing."""

from __future__ import annotations

import json
from itertools import count

import pytest

from batch_scorer.engine import benchmark
from batch_scorer.engine.dry_run import Forecast, forecast_run, format_forecast
from batch_scorer.engine.score_job import ScoreJob
from batch_scorer.errors import UsageError
from batch_scorer.results.usage import CoreHourPrice
from batch_scorer.system.process import peak_memory_bytes
from tests.images import make_film


def job(folder, model, **options):
    return ScoreJob(str(folder), "", (str(model),), **options)


def test_the_stages_are_measured_on_a_sample_and_nothing_is_written(folder, tiny_model):
    (folder / "broken.png").write_bytes(make_film()[:200])
    before = sorted(folder.rglob("*"))
    found = benchmark.run_benchmark(job(folder, tiny_model, batch_size=2, threads=2), 5, 2)
    assert sorted(folder.rglob("*")) == before
    assert [stage.name for stage in found.stages] == ["read", "decode", "models", "end to end"]
    assert (found.images, found.turns, found.threads, found.batch_size) == (5, 2, 2, 2)
    assert found.models == ["tiny"]
    assert all(stage.images_per_second > 0 for stage in found.stages)
    assert all(0 <= stage.p50_ms <= stage.p95_ms for stage in found.stages)
    assert [stage.share for stage in found.stages[:3]] == [None] * 3
    assert found.stages[3].share == found.share > 0


def test_the_sample_is_spread_over_the_listing(folder, tiny_model):
    engine_job, n_images = benchmark.prepare_sample(job(folder, tiny_model), 3)
    names = [ref.key for ref in engine_job.refs]
    assert n_images == 6
    assert names[0].startswith("NORMAL/film_0")
    assert names[-1].startswith("PNEUMONIA/film_5")
    assert len(names) == 3


def test_the_ceiling_follows_from_stages_that_share_the_cores():
    times = {
        benchmark.DECODE: benchmark._StageTimes(rates=[100.0, 200.0]),
        benchmark.MODELS: benchmark._StageTimes(rates=[100.0, 50.0]),
    }
    assert benchmark._compute_ceilings(benchmark.SHARED_FORMULA, times) == [50.0, 40.0]
    assert benchmark._compute_ceilings(benchmark.SEPARATE_FORMULA, times) == [100.0, 50.0]


def test_turns_go_back_and_forth_and_the_first_is_not_counted(monkeypatch):
    clock, order = count(), []
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: float(next(clock)))

    def stage(name):
        def batches():
            order.append(name)
            yield from (4, 4)

        return batches

    times = benchmark._time_stages({"a": stage("a"), "b": stage("b")}, 2)
    assert order == ["b", "a", "a", "b", "b", "a"]
    assert times["a"].rates == [4.0, 4.0]  # eight images in two ticks
    assert times["a"].batches_s == [1.0] * 4


def test_files_that_are_not_images_cannot_be_benchmarked(tmp_path, tiny_model):
    (tmp_path / "x.png").write_bytes(b"no film")
    with pytest.raises(UsageError, match="found none in a sample of 1 files"):
        benchmark.run_benchmark(job(tmp_path, tiny_model), 5, 1)


def test_the_command_prints_a_table_and_writes_json(cxr, folder, tiny_model, tmp_path):
    file = tmp_path / "speed.json"
    done = cxr("bench", folder, "--model", tiny_model, "--turns", 1, "--json", file)
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    lines = done.stdout.splitlines()
    assert lines[0].startswith("tiny on cpu, ")
    (row,) = [line for line in lines if line.startswith("end to end")]
    assert row.split()[3:5] == [
        f"{found['stages'][3]['films_per_second']:.1f}",
        f"{found['share']:.0%}",
    ]
    assert found["formula"] in lines[-1]


def test_results_replace_earlier_results_and_nothing_else(cxr, folder, tiny_model, tmp_path):
    file = tmp_path / "speed.json"
    arguments = ("bench", folder, "--model", tiny_model, "--turns", 1, "--json", file)
    file.write_text('{"dear": "diary"}')
    refused = cxr(*arguments)
    assert refused.returncode == 2
    assert "Expected measurements of `cxr bench` in" in refused.stderr
    assert file.read_text() == '{"dear": "diary"}'
    file.unlink()
    assert (cxr(*arguments).returncode, cxr(*arguments).returncode) == (0, 0)


def test_a_forecast_extrapolates_from_its_sample():
    forecast = Forecast(
        images=36_000,
        sampled=50,
        unscored=0,
        images_per_second=10,
        start_s=5,
        threads=2,
        peak_bytes=200_000_000,
        cores=4,
    )
    assert forecast.run_s == 3605
    assert forecast.count_shards(3605) == 1
    assert forecast.count_shards(3604) == 2
    assert forecast.count_shards(365) == 10
    assert forecast.count_shards(364) == 11
    with pytest.raises(UsageError, match=r"start-up time of 5\.0 s, found 5\.0 s"):
        forecast.count_shards(5)
    assert "about 1 h 01 min" in format_forecast(forecast, None)
    assert "about 308 MB" in format_forecast(forecast, None)
    assert "11 on machines like this one finish within 7 min" in format_forecast(
        forecast, 364 / 3600
    )
    assert "none needed for 8 h 00 min" in format_forecast(forecast, 8)
    assert "Cost" not in format_forecast(forecast, 8)
    cost = format_forecast(forecast, None, CoreHourPrice(0.05, "EUR")).splitlines()[-1]
    assert cost == (  # 4 cores for 3,605 s at 0.05 EUR an hour: 0.2003 EUR for 36,000 images
        "Cost      about 0.0056 EUR per 1,000 films: 14,420.0 core-seconds for 36,000, "
        "at 0.050 EUR a core-hour"
    )


def test_a_forecast_scores_a_sample_and_counts_unreadable_files(folder, tiny_model):
    (folder / "broken.png").write_bytes(make_film()[:200])
    found = forecast_run(job(folder, tiny_model))
    assert (found.images, found.sampled, found.unscored) == (7, 7, 1)
    assert found.images_per_second > 0
    assert 20e6 < found.peak_bytes < peak_memory_bytes() + 4e9


def test_a_dry_run_writes_nothing(cxr, folder, tiny_model, tmp_path):
    arguments = ("score", folder, "-o", tmp_path / "out", "--model", tiny_model)
    done = cxr(*arguments, "--dry-run", "--deadline-h", 8)
    assert done.returncode == 0, done.stderr
    assert "Sample    6 of 6 images" in done.stdout
    assert "Shards    none needed for 8 h 00 min" in done.stdout
    assert not (tmp_path / "out").exists()
    refused = cxr(*arguments, "--deadline-h", 8)
    assert refused.returncode == 2
    assert "--deadline-h requires --dry-run" in refused.stderr
