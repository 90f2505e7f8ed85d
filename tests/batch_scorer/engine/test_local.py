"""The local engine: one thread pool, rows in order, and each copy scored once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from batch_scorer.engine import local
from batch_scorer.engine.benchmark import prepare_sample
from batch_scorer.engine.local import score_locally
from batch_scorer.engine.score_job import ScoreJob
from batch_scorer.imaging import decode_pool
from batch_scorer.imaging.decode import decode_radiograph
from tests.batch_scorer.imaging.fake_workers import options_of
from tests.batch_scorer.imaging.pixel_table import GREY, dicom
from tests.images import encode, make_film
from tests.tiny_model import tiny_probability

if TYPE_CHECKING:
    from batch_scorer.model.classifier import Classifier, Predictions


class CountingModel:
    """A model that counts its images and its concurrent calls."""

    def __init__(self, model: Classifier) -> None:
        self.card, self.model = model.card, model
        self.images, self.busy, self.most = [], 0, 0
        self.lock = threading.Lock()

    def predict(self, pixels: np.ndarray) -> Predictions:
        with self.lock:
            self.busy += 1
            self.most = max(self.most, self.busy)
            self.images += [image.tobytes() for image in pixels]
        found = self.model.predict(pixels)
        with self.lock:
            self.busy -= 1
        return found


@pytest.fixture
def engine_job(tmp_path, tiny_model):
    """Forty images, of which every fourth is a copy of the first one."""
    for index in range(40):
        image = make_film(90 + index, seed=0 if index % 4 == 0 else index)
        (tmp_path / f"{index:02d}.png").write_bytes(make_film(90) if index % 4 == 0 else image)
    job = ScoreJob(str(tmp_path), "", (str(tiny_model),), batch_size=2, threads=4)
    made, _ = prepare_sample(job, 40)
    return replace(made, classifiers=[CountingModel(made.classifiers[0])])


def test_copies_are_scored_once_even_while_the_first_is_still_pending(engine_job):
    batches = list(score_locally(engine_job))
    rows = [row for batch in batches for row in batch]
    assert [row.image for row in rows] == [ref.key for ref in engine_job.refs]
    assert [len(batch) for batch in batches] == [2] * 20
    model = engine_job.classifiers[0]
    assert len(model.images) == len(set(model.images)) == 31
    assert len({row.probability for row in rows[::4]}) == 1
    for row, image in zip(
        rows[1::4], [make_film(90 + i, seed=i) for i in range(1, 40, 4)], strict=True
    ):
        pixels = decode_radiograph(image, 32)[None]
        assert row.probability == pytest.approx(tiny_probability(pixels, 8.0)[0], abs=1e-5)


def test_no_more_threads_run_than_allowed(engine_job, monkeypatch):
    busy, most, lock = 0, 0, threading.Lock()
    submit = ThreadPoolExecutor.submit

    def watched(self, do, *arguments):
        def counted():
            nonlocal busy, most
            with lock:
                busy += 1
                most = max(most, busy)
            try:
                return do(*arguments)
            finally:
                with lock:
                    busy -= 1

        return submit(self, counted)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", watched)
    for threads in (1, 3):
        most = 0
        rows = [
            row
            for batch in score_locally(replace(engine_job, threads=threads, known={}))
            for row in batch
        ]
        assert len(rows) == 40
        assert 1 <= most <= threads


def test_an_engine_that_is_closed_early_stops_decoding(engine_job, monkeypatch):
    read = []
    decode = local.decode_image

    def decode_and_note(engine_job, ref, *coming):
        read.append(ref.key)
        return decode(engine_job, ref, *coming)

    monkeypatch.setattr(local, "decode_image", decode_and_note)
    engine = score_locally(replace(engine_job, threads=1))
    next(engine)
    engine.close()
    assert 2 <= len(read) < 40


def make_engine_job(folder, model, **changes):
    job = ScoreJob(str(folder), "", (str(model),), batch_size=2, threads=1)
    return replace(prepare_sample(job, 40)[0], **changes)


def test_a_suspect_image_of_any_kind_cannot_end_the_run(tmp_path, tiny_model, monkeypatch):
    monkeypatch.setattr(decode_pool, "_COMMAND", options_of("die_of_everything"))
    for seed in range(4):
        pixels = np.random.default_rng(seed).integers(90, 160, (90, 120), np.uint8)
        (tmp_path / f"{seed}.jpeg").write_bytes(encode(pixels, "JPEG"))
    engine_job = make_engine_job(tmp_path, tiny_model, suspects=frozenset({"1.jpeg"}))
    rows = [row for batch in score_locally(engine_job) for row in batch]
    assert [row.reason for row in rows] == ["", "decoder_killed", "", ""]
    assert [row.status for row in rows] == ["scored", "failed", "scored", "scored"]


def test_copies_of_an_image_that_killed_its_decoder_kill_no_more(tmp_path, tiny_model, monkeypatch):
    monkeypatch.setattr(decode_pool, "_COMMAND", options_of("die_of_patients"))
    started = []
    start = decode_pool.Decoder._start_worker
    monkeypatch.setattr(
        decode_pool.Decoder, "_start_worker", lambda self: started.append(self) or start(self)
    )
    for name in "abcd":
        (tmp_path / name).write_bytes(dicom(GREY, PatientID="FATAL"))
    rows = [row for batch in score_locally(make_engine_job(tmp_path, tiny_model)) for row in batch]
    assert [row.image for row in rows] == ["a", "b", "c", "d"]
    assert {row.reason for row in rows} == {"decoder_killed"}
    assert len(started) == 2


def test_no_process_is_left_when_a_run_ends_early(tmp_path, tiny_model, monkeypatch):
    started = []
    start = decode_pool.Decoder._start_worker

    def start_and_note(self):
        worker = start(self)
        started.append(worker._process)
        return worker

    monkeypatch.setattr(decode_pool.Decoder, "_start_worker", start_and_note)
    for index in range(20):
        (tmp_path / f"{index:02}").write_bytes(dicom(GREY, PatientID=str(index)))
    engine = score_locally(make_engine_job(tmp_path, tiny_model))
    next(engine)
    engine.close()
    assert len(started) == 1
    assert started[0].returncode is not None


def test_a_run_says_how_much_memory_its_workers_took(tmp_path, tiny_model):
    (tmp_path / "film").write_bytes(dicom(GREY))
    engine_job = make_engine_job(tmp_path, tiny_model)
    list(score_locally(engine_job))
    assert engine_job.usage.peak_memory_bytes > 10_000_000
