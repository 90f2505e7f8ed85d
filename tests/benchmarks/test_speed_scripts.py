"""The scripts behind `make bench-speed` measure whole runs, on films that are what they say."""

from __future__ import annotations

import io

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from benchmarks import cold_start, decoder_cost, end_to_end, keras_baseline, memory
from tests.images import encode, make_film
from tests.paths import EXAMPLES


def test_films_with_a_comment_differ_in_bytes_and_not_in_pixels(tmp_path):
    film = tmp_path / "film.jpeg"
    film.write_bytes(encode(np.asarray(Image.open(io.BytesIO(make_film()))), "JPEG"))
    memory.make_images([film], tmp_path / "films", 3)
    made = sorted((tmp_path / "films").iterdir())
    assert len({path.read_bytes() for path in made}) == 3
    for path in made:
        assert np.array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(film)))


def test_peaks_are_told_and_a_run_that_grows_ends_with_exit_code_1(monkeypatch):
    arguments = [str(EXAMPLES), "--few", "2", "--many", "3"]
    peaks = iter([200e6, 219e6, 200e6, 221e6, 601e6, 601e6])
    monkeypatch.setattr(memory, "measure_peak", lambda folder, model: next(peaks))
    results = [CliRunner().invoke(memory.main, arguments) for _ in range(3)]
    assert [result.exit_code for result in results] == [0, 1, 1]
    assert "vgg16       3 images  peak    219 MB" in results[0].output
    assert "growth +9.5%" in results[0].output


def test_the_peak_is_that_of_a_whole_run(tmp_path):
    memory.make_images(sorted(EXAMPLES.rglob("*.jpeg")), tmp_path / "films", 30)
    peak = memory.measure_peak(tmp_path, "mlp")
    assert 50e6 < peak < 600e6
    assert (tmp_path / "out" / "run.json").is_file()


def test_the_start_is_measured_by_the_clock_and_by_the_processor():
    wall, processor = cold_start.measure_start_time(cold_start.EXAMPLE_IMAGE, "mlp")
    assert processor > 0
    assert wall > 0.1


def test_a_whole_run_is_timed_without_its_start(monkeypatch):
    monkeypatch.setattr(end_to_end, "MODEL", "mlp")
    found = end_to_end.run_score(EXAMPLES, ["--limit", "10"])
    assert found["films"] == 10
    assert found["seconds"] > 0
    assert end_to_end.run_bench(EXAMPLES, 10)["share"] > 0


@pytest.mark.parametrize(
    ("ours", "peer", "share", "code"), [(2.0, 9.0, 0.9, 0), (2.0, 8.9, 0.95, 1), (1, 9, 0.89, 1)]
)
def test_what_is_too_slow_ends_with_exit_code_1(monkeypatch, ours, peer, share, code):
    monkeypatch.setattr(
        end_to_end, "run_score", lambda *_: {"films": 18, "seconds": ours, "once": 0.5}
    )
    told = {"films": 18, "seconds": peer, "weights": "random"}
    monkeypatch.setattr(end_to_end, "_run_script", lambda *_: told)
    monkeypatch.setattr(end_to_end, "run_bench", lambda *_: {"share": share})
    result = CliRunner().invoke(end_to_end.main, [str(EXAMPLES)])
    assert result.exit_code == code
    assert f"ratio {peer / ours:.2f}" in result.output
    assert f"{18 / ours:.1f}" in result.output


def test_the_notebook_reads_films_as_grey_squares():
    paths = sorted(EXAMPLES.rglob("*.jpeg"))[:3]
    films = keras_baseline.read_images(paths, 80)
    assert films.shape == (3, 80, 80, 1)
    assert films.dtype == np.uint8
    assert films.std() > 10


def test_decoding_in_workers_is_compared_with_this_process(monkeypatch):
    monkeypatch.setattr(decoder_cost, "HEIGHT_PX", 90)
    monkeypatch.setattr(decoder_cost, "WIDTH_PX", 120)
    spent = iter([np.array([[2.05, 2.05], [2.0, 2.0]]), np.array([[2.2], [2.0]])])
    monkeypatch.setattr(decoder_cost, "time_alternately", lambda *_: (found := next(spent), found))
    arguments = ["--kind", "plain", "--images", "2", "--turns", "2", "--threads", "1"]
    results = [CliRunner().invoke(decoder_cost.main, arguments) for _ in range(2)]
    assert [result.exit_code for result in results] == [0, 1]
    assert "processor time +2.5%" in results[0].output
    assert "processor time +10.0%" in results[1].output


def test_images_are_timed_both_ways(tmp_path):
    paths = decoder_cost.write_images(tmp_path)
    for path in paths.values():
        content = decoder_cost.read_image(path.read_bytes(), [32])
        assert content.error is None
        assert (content.width_px, content.height_px) == (2140, 1760)
    for seconds in decoder_cost.time_alternately([lambda: content] * 2, 3, 2, 1):
        assert seconds.shape == (2, 2)
        assert (seconds > 0).all()
