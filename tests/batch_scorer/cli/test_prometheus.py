"""The Prometheus textfile is whole and has the right names, even if a run failed."""

from __future__ import annotations

import json
import math
import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from batch_scorer.cli.prometheus import MetricsFile, _parse_values
from batch_scorer.errors import OutputError, TransientError, UsageError
from batch_scorer.results.usage import CoreHourPrice
from batch_scorer.storage import filesystem
from tests.factories import make_manifest, make_models, make_rows, make_unscored
from tests.images import make_film


def read(path):
    """Read every value by name and labels; each family must have documentation."""
    found = {}
    for family in text_string_to_metric_families(path.read_text()):
        assert family.documentation
        assert family.type in {"gauge", "counter"}
        for sample in family.samples:
            found[sample.name, *sample.labels.values()] = sample.value
    return found


def manifest_of(**changes):
    models = make_models("cnn")
    rows = [*make_rows(models, 6, 6), *make_unscored(3)]
    started = "2999-01-01T00:00:00+00:00"  # after this command began
    return make_manifest(rows, models, started=started, **changes)


def end(path, manifest=None, code=0, error=None):
    with MetricsFile(path) as metrics_file:
        if error:
            raise error
        if manifest:
            metrics_file.set_result(manifest)
        metrics_file.exit_code = code


def test_a_score_leaves_its_numbers_and_a_failure_keeps_the_last_success(
    cxr, folder, tiny_model, tmp_path
):
    file = tmp_path / "cxr.prom"
    (folder / "DoeJane.png").write_bytes(b"no film")
    arguments = ("score", folder, "-o", tmp_path / "out", "--model", tiny_model, "--no-report")
    run = cxr(*arguments, "--metrics", file, "--core-hour-price", "0.05")
    assert run.returncode == 3, run.stderr
    told, first = json.loads((tmp_path / "out" / "run.json").read_text()), read(file)
    assert first["cxr_films", "scored"] == told["scored"] == 6
    assert first["cxr_films", "rejected"] == told["rejected"] == 1
    assert first["cxr_films", "failed"] == 0
    assert first["cxr_flagged",] == told["flagged"] == 3
    assert first["cxr_films_read",] == 7
    for stage in ("list", "start", "score", "record"):
        assert first["cxr_run_seconds", stage] == told["seconds"][stage]
    assert first["cxr_worker_seconds", "decode"] == told["worker_seconds"]["decode"]
    assert first["cxr_images_per_second",] == told["images_per_second"]
    assert first["cxr_bytes_read_total",] == told["bytes_read"]
    assert first["cxr_peak_memory_bytes",] == told["peak_memory_bytes"]
    assert first["cxr_price_per_1000_films", "USD"] == told["cost"]["per_1000_images"]
    assert (first["cxr_retries_total",], first["cxr_exit_code",]) == (0, 3)
    assert time.time() - 60 < first["cxr_last_success_timestamp_seconds",] <= time.time()
    assert "Doe" not in file.read_text()

    (tmp_path / "out" / "predictions.parquet").write_bytes(b"broken")
    assert cxr(*arguments, CXR_SCORE_METRICS=str(file)).returncode == 1
    second = read(file)
    kept = "cxr_last_success_timestamp_seconds"
    assert second[kept,] == first[kept,]
    assert second["cxr_exit_code",] == 1
    assert second["cxr_last_run_timestamp_seconds",] >= first["cxr_last_run_timestamp_seconds",]
    assert second["cxr_bytes_read_total",] == first["cxr_bytes_read_total",]
    assert ("cxr_films", "scored") not in second
    assert [path.name for path in tmp_path.glob("cxr.prom*")] == ["cxr.prom"]


def test_counters_continue_and_an_earlier_run_adds_nothing(tmp_path):
    file = tmp_path / "cxr.prom"
    end(file, manifest_of(bytes_read=10))
    end(file, manifest_of(bytes_read=5))
    assert read(file)["cxr_bytes_read_total",] == 15
    filesystem.add_retries(2)  # before the command
    with MetricsFile(file) as metrics_file:
        filesystem.add_retries(3)
        metrics_file.exit_code = 75
    end(file, make_manifest(make_rows(make_models("cnn")), make_models("cnn"), bytes_read=7))
    assert read(file)["cxr_bytes_read_total",] == 15
    assert read(file)["cxr_retries_total",] == 3


def test_unfinished_work_is_recorded_without_a_result(tmp_path):
    file = tmp_path / "cxr.prom"
    with MetricsFile(file) as metrics_file:
        metrics_file.set_result(None, own=[manifest_of(bytes_read=4), manifest_of(bytes_read=3)])
        metrics_file.exit_code = 0
    found = read(file)
    assert found["cxr_bytes_read_total",] == 7
    assert ("cxr_flagged",) not in found
    assert ("cxr_last_success_timestamp_seconds",) in found


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OutputError("full"), 1),
        (UsageError("wrong"), 2),
        (TransientError("away"), 75),
        (KeyboardInterrupt(), 75),
        (ZeroDivisionError(), 1),
    ],
)
def test_every_error_is_recorded_with_its_exit_code(tmp_path, error, code):
    with pytest.raises(type(error)):
        end(tmp_path / "cxr.prom", error=error)
    found = read(tmp_path / "cxr.prom")
    assert found["cxr_exit_code",] == code
    assert ("cxr_last_success_timestamp_seconds",) not in found


def test_a_dry_run_does_not_count_as_a_success(cxr, folder, tiny_model, tmp_path):
    arguments = ("score", folder, "-o", tmp_path / "out", "--model", tiny_model, "--dry-run")
    assert cxr(*arguments, "--metrics", tmp_path / "cxr.prom").returncode == 0
    found = read(tmp_path / "cxr.prom")
    assert found["cxr_exit_code",] == 0
    assert ("cxr_last_success_timestamp_seconds",) not in found


def test_an_unwritable_metrics_file_is_reported_first_or_costs_no_result(
    cxr, folder, tiny_model, tmp_path
):
    arguments = ("score", folder, "-o", tmp_path / "out", "--model", tiny_model, "--no-report")
    run = cxr(*arguments, "--metrics", tmp_path / "none" / "cxr.prom")
    assert run.returncode == 2
    assert f"Expected a folder for the metrics at {tmp_path}/none, found none." in run.stderr
    assert not (tmp_path / "out").exists()
    long = tmp_path / ("x" * 255 + ".prom")
    run = cxr(*arguments, "--metrics", long)
    assert run.returncode == 0
    assert f"Cannot write the metrics to {long}: File name too long." in run.stderr
    assert (tmp_path / "out" / "run.json").exists()


@pytest.mark.parametrize(
    ("data", "values"),
    [
        *((b"", {}), (b"\xff", {}), (b"Dear diary", {}), (b"a 1\nb", {}), (b"a 1_0", {})),
        (b"# HELP a b\n# TYPE a gauge\na 1.5\n", {"a": 1.5}),
        (b'a 1\nb{c="d"} 2\nc 3 1700000000\n', {"a": 1, "c": 3}),
        (b"a +Inf\nb -1e3", {"a": math.inf, "b": -1000}),
    ],
)
def test_only_values_without_labels_of_a_whole_textfile_are_kept(data, values):
    assert _parse_values(data) == values


@settings(deadline=None)
@given(st.binary(max_size=60) | st.text('a_{}="\\,# \n1.eE+-NanInf', max_size=60).map(str.encode))
def test_any_existing_file_is_kept_or_ignored_and_ends_no_run(data):
    found = {k: v for k, v in _parse_values(data).items() if re.fullmatch(r"[a-zA-Z_:][\w:]*", k)}
    again = "".join(f"{name} {value!r}\n" for name, value in found.items())
    assert repr(_parse_values(again.encode())) == repr(found)


@pytest.mark.parametrize(
    "path", ["out", "out/predictions.csv", "out/films/cxr.prom", "link/cxr.prom", "./x/../out/new"]
)
def test_metrics_never_lie_among_the_results(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out" / "films").mkdir(parents=True)
    (tmp_path / "x").mkdir()
    (tmp_path / "link").symlink_to("out")
    for output in ("out", f"file://{tmp_path}/out"):
        with pytest.raises(UsageError, match="Expected a metrics file outside the output"):
            MetricsFile(Path(path), output)
    MetricsFile(Path("out.prom"), "out")
    MetricsFile(Path("x/cxr.prom"), "memory://out")


def test_a_score_refuses_metrics_among_its_results_and_writes_nothing(
    cxr, folder, tiny_model, tmp_path
):
    out = tmp_path / "out"
    out.mkdir()
    arguments = ("score", folder, "-o", out, "--model", tiny_model, "--no-report")
    refused = cxr(*arguments, "--metrics", out / "predictions.csv")
    assert refused.returncode == 2, refused.stderr
    assert not list(out.iterdir())


def test_metrics_check_the_file_again_before_they_are_written(tmp_path, caplog):
    file = tmp_path / "cxr.prom"
    with MetricsFile(file) as metrics_file:
        metrics_file.exit_code = 0
        file.write_text("Dear diary")
    assert "found another file" in caplog.text
    assert file.read_text() == "Dear diary"


def test_a_price_is_a_gauge_of_its_currency(tmp_path):
    end(tmp_path / "a.prom", manifest_of(cost=CoreHourPrice(0.05, "CHF").compute_cost(3600, 100)))
    assert read(tmp_path / "a.prom")["cxr_price_per_1000_films", "CHF"] == 0.5
    end(tmp_path / "b.prom", manifest_of())
    assert "price" not in (tmp_path / "b.prom").read_text()


def test_a_late_image_is_counted_as_read(cxr, folder, tiny_model, tmp_path):
    arguments = ("score", folder, "-o", tmp_path / "out", "--model", tiny_model, "--no-report")
    assert cxr(*arguments).returncode == 0
    (folder / "late.png").write_bytes(make_film(seed=44))
    assert cxr(*arguments, "--metrics", tmp_path / "cxr.prom").returncode == 0
    found = read(tmp_path / "cxr.prom")
    assert found["cxr_films_read",] == 1
    assert found["cxr_films", "scored"] == 7
