"""Fixed batch shapes: an image's scores do not depend on its position or its neighbours."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from batch_scorer.imaging.decode import decode_radiograph
from batch_scorer.model.classifier import Classifier, Predictions, list_bundled_models
from tests.paths import EXAMPLES
from tests.tiny_model import tiny_probability

BATCH = 16


@pytest.fixture(scope="module")
def images():
    paths = sorted(EXAMPLES.rglob("*.jpeg"))
    return np.stack([decode_radiograph(path.read_bytes(), 224) for path in paths])[..., None]


def named(predictions: Predictions) -> dict[str, np.ndarray]:
    found = {name: getattr(predictions, name) for name in Predictions.__dataclass_fields__}
    return {name: values for name, values in found.items() if values is not None}


@pytest.mark.parametrize("name", list_bundled_models())
def test_the_scores_of_an_image_are_bit_identical_in_any_position(name, images):
    model = Classifier.load(name, "cpu", threads=1, batch_size=BATCH)
    others = {
        "on two threads": Classifier.load(name, "cpu", threads=2, batch_size=BATCH),
        "alone on the session": model,
    }
    expected = named(model.predict(images))
    assert len(expected["probability"]) == len(images) == 24
    assert {"probability", "atypicality", "viral", "evidence"} <= set(expected)
    rng = np.random.default_rng(0)
    orders = {
        "backwards": np.arange(len(images))[::-1],
        "shuffled": rng.permutation(len(images)),
        "the last batch nearly empty": np.arange(BATCH + 1),
        "one image alone": np.array([5]),
        "beside copies of another": np.array([7, *[2] * 9, 11]),
    }
    for order_name, order in orders.items():
        for model_name, other in others.items():
            found = named(other.predict(images[order]))
            for output, values in expected.items():
                assert np.array_equal(found[output], values[order]), (
                    order_name,
                    model_name,
                    output,
                )


def test_blank_films_fill_a_batch_and_leave_no_answer(tiny_model):
    pixels = np.random.default_rng(0).integers(0, 255, (5, 32, 32, 1), np.uint8)
    model = Classifier.load(tiny_model, "cpu", batch_size=4)
    shapes = []
    binding = model.session.io_binding

    class Watched:
        def __getattr__(self, name):
            return getattr(model.session, name)

        def io_binding(self):
            bound = binding()
            bind = bound.bind_cpu_input
            bound.bind_cpu_input = lambda name, array: (
                shapes.append(array.shape),
                bind(name, array),
            )
            return bound

    watched = Classifier(model.card, model.path, model.sha256, model.provider, Watched(), 4)
    found = watched.predict(pixels).probability
    assert shapes == [(4, 32, 32, 1), (4, 32, 32, 1)]
    assert found == pytest.approx(tiny_probability(pixels, 8.0), abs=1e-5)


def test_many_threads_share_one_model(images):
    model = Classifier.load("mlp", "cpu", threads=1, batch_size=8)
    expected = model.predict(images).probability
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: model.predict(images).probability, range(12)):
            assert np.array_equal(found, expected)
