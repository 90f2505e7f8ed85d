"""The local engine: one pool, rows in order, copies judged once even while one is under way."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from batch_scorer import pipeline
from batch_scorer.decoding import decode_radiograph
from batch_scorer.pipeline import score_locally
from batch_scorer.runner import ScoreJob
from batch_scorer.speed import prepare_work
from tests.cards import tiny_probability
from tests.conftest import make_film

if TYPE_CHECKING:
    import numpy as np

    from batch_scorer.classifier import Answers, Classifier


class Watched:
    """A model that counts what it is asked, and how many ask at once."""

    def __init__(self, model: Classifier) -> None:
        self.card, self.model = model.card, model
        self.films, self.busy, self.most = [], 0, 0
        self.lock = threading.Lock()

    def predict(self, pixels: np.ndarray) -> Answers:
        with self.lock:
            self.busy += 1
            self.most = max(self.most, self.busy)
            self.films += [film.tobytes() for film in pixels]
        found = self.model.predict(pixels)
        with self.lock:
            self.busy -= 1
        return found


@pytest.fixture
def work(tmp_path, tiny_model):
    """Forty films, of which every fourth is a copy of the first one."""
    for index in range(40):
        film = make_film(90 + index, seed=0 if index % 4 == 0 else index)
        (tmp_path / f"{index:02d}.png").write_bytes(make_film(90) if index % 4 == 0 else film)
    job = ScoreJob(str(tmp_path), "", (str(tiny_model),), batch_size=2, threads=4)
    made, _ = prepare_work(job, 40)
    return replace(made, classifiers=[Watched(made.classifiers[0])])


def test_copies_are_judged_once_while_the_first_is_still_under_way(work):
    batches = list(score_locally(work))
    rows = [row for batch in batches for row in batch]
    assert [row.image for row in rows] == [ref.key for ref in work.refs]
    assert [len(batch) for batch in batches] == [2] * 20
    model = work.classifiers[0]
    assert len(model.films) == len(set(model.films)) == 31
    assert len({row.probability for row in rows[::4]}) == 1
    for row, film in zip(
        rows[1::4], [make_film(90 + i, seed=i) for i in range(1, 40, 4)], strict=True
    ):
        pixels = decode_radiograph(film, 32)[None]
        assert row.probability == pytest.approx(tiny_probability(pixels, 8.0)[0], abs=1e-5)


def test_no_more_threads_work_than_were_allowed(work, monkeypatch):
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
            for batch in score_locally(replace(work, threads=threads, known={}))
            for row in batch
        ]
        assert len(rows) == 40
        assert 1 <= most <= threads


def test_an_engine_that_is_closed_early_stops_decoding(work, monkeypatch):
    read = []
    decode = pipeline.decode_film

    def decode_and_note(work, ref, *coming):
        read.append(ref.key)
        return decode(work, ref, *coming)

    monkeypatch.setattr(pipeline, "decode_film", decode_and_note)
    engine = score_locally(replace(work, threads=1))
    next(engine)
    engine.close()
    assert 2 <= len(read) < 40
