"""What a run spends is counted from every thread and process, and its price follows by division."""

from __future__ import annotations

import json
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from batch_scorer.engine.runner import run_score_job
from batch_scorer.engine.score_job import ScoreJob
from batch_scorer.results.usage import (
    CoreHourPrice,
    Usage,
    UsageMeter,
    describe_cost,
    format_amount,
)
from batch_scorer.system.process import available_cores, peak_memory_bytes
from tests.images import make_film


def test_a_meter_counts_from_any_thread_and_also_what_ends_in_an_error():
    meter = UsageMeter()

    def spend(_: int) -> None:
        meter.count_bytes(3)
        with pytest.raises(ValueError, match="broken"), meter.timing("read"):
            raise ValueError("broken")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(spend, range(500)))
    assert meter.bytes_read == 1500
    assert meter.worker_seconds["read"] > 0
    assert meter.worker_seconds["decode"] == 0


def test_seconds_of_workers_side_by_side_add_up():
    meter, together = UsageMeter(), threading.Barrier(4)

    def wait(_: int) -> None:
        with meter.timing("decode"):
            together.wait()
            threading.Event().wait(0.05)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(wait, range(4)))
    assert meter.worker_seconds["decode"] >= 4 * 0.05


def test_what_another_process_spent_is_added_and_its_memory_compared():
    meter = pickle.loads(pickle.dumps(UsageMeter(cores=2)))  # as it travels to a worker elsewhere
    meter.add(Usage({"read": 1.0, "decode": 2.0, "classify": 3.0}, 10, 500))
    meter.add(Usage({"read": 1.0, "decode": 0.0, "classify": 0.5}, 5, 400))
    assert meter.worker_seconds == {"read": 2.0, "decode": 2.0, "classify": 3.5}
    assert (meter.bytes_read, meter.peak_memory_bytes) == (15, 500)
    before = peak_memory_bytes()  # it may grow between two looks
    assert before <= meter.snapshot().peak_memory_bytes <= peak_memory_bytes()


def test_the_price_of_a_thousand_films_is_a_division():
    price = CoreHourPrice(0.048, "EUR").compute_cost(core_seconds=7200, images=400)
    assert price is not None
    assert price.per_1000_images == pytest.approx(2 * 0.048 * 1000 / 400)
    assert price.core_hour_price == CoreHourPrice(0.048, "EUR")
    assert describe_cost(price, 7200) == (
        "0.24 EUR per 1,000 films: 7,200.0 core-seconds for 400, at 0.048 EUR a core-hour"
    )
    assert CoreHourPrice(0.048).compute_cost(7200, images=0) is None


@pytest.mark.parametrize(
    ("amount", "text"),
    [(1234.5, "1,234.50"), (1, "1.00"), (0.2, "0.20"), (0.048, "0.048"), (0.00012, "0.00012")],
)
def test_small_amounts_keep_two_digits(amount, text):
    assert format_amount(amount) == text


def test_a_run_says_what_it_spent(folder, tmp_path, tiny_model):
    films = sum(path.stat().st_size for path in folder.rglob("*.png"))
    job = ScoreJob(
        str(folder),
        str(tmp_path / "out"),
        (str(tiny_model),),
        batch_size=2,
        core_hour_price=CoreHourPrice(3.6),
    )
    found = run_score_job(job)
    assert list(found.seconds) == ["list", "start", "score", "record"]
    assert set(found.worker_seconds) == {"read", "decode", "classify"}
    assert all(seconds > 0 for seconds in found.worker_seconds.values())
    assert found.bytes_read == films
    # The kernel adds up the pages of threads now and then: a later reading may be a bit smaller.
    assert 20e6 < found.peak_memory_bytes <= peak_memory_bytes() + 2**20
    whole_s = sum(found.seconds.values())
    assert found.core_seconds == pytest.approx(available_cores() * whole_s, abs=0.01)
    assert found.cost is not None
    assert found.cost.per_1000_images == pytest.approx(found.core_seconds / 6)
    (folder / "late.png").write_bytes(make_film(seed=44))
    second = run_score_job(job)
    assert second.bytes_read == (folder / "late.png").stat().st_size
    assert second.cost is not None
    assert second.cost.images == 1


def test_score_prints_the_price_where_one_is_given(cxr, folder, tiny_model, tmp_path):
    arguments = ("score", folder, "-o", tmp_path / "out", "--model", tiny_model, "--no-report")
    run = cxr(*arguments, "--currency", "CHF", CXR_SCORE_CORE_HOUR_PRICE="0.05")
    assert run.returncode == 0, run.stderr
    line = next(line for line in run.stdout.splitlines() if line.startswith("Cost"))
    told = json.loads((tmp_path / "out" / "run.json").read_text())
    assert told["cost"]["core_hour"] == 0.05
    assert told["cost"]["images"] == 6
    shown = format_amount(told["cost"]["per_1000_images"])
    assert line == (
        f"Cost      {shown} CHF per 1,000 films: {told['core_seconds']:,.1f} core-seconds for 6, "
        "at 0.050 CHF a core-hour"
    )
    for wrong in ("0", "nan", "inf"):
        assert cxr(*arguments, "--core-hour-price", wrong).returncode == 2
