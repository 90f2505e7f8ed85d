"""What a rule that sees tone and texture alone says of films, and which of them it misleads on."""

from __future__ import annotations

import numpy as np
import pytest

from batch_scorer.errors import DatasetError
from benchmarks.held_out import hold_out_by_tone
from benchmarks.tone import PERCENTILES, SCALES, answer_by_tone, describe_tone, misled
from trainer.audit.shortcut import FOLDS
from trainer.dataset import Dataset, Films

SIDE = 32
PER_CLASS = 60
STEPS_FROM = 2 + len(PERCENTILES) + 4


def films_by_brightness(odd=0):
    """Normal films are dark and others bright, but for the first ``odd`` of each class."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], PER_CLASS)
    bright = labels == 1
    bright[[*range(odd), *range(PER_CLASS, PER_CLASS + odd)]] ^= True
    noise = rng.integers(0, 90, (len(labels), SIDE, SIDE, 1))
    pixels = (noise + np.where(bright, 120, 0)[:, None, None, None]).astype(np.uint8)
    names = np.array([f"film{number}" for number in range(len(labels))])
    return Films(pixels, labels, np.array([f"patient{n // 2}" for n in range(len(labels))]), names)


def test_no_place_in_a_film_matters():
    films = films_by_brightness().pixels
    inner = slice(SIDE // 16, -(SIDE // 16))
    moved = films.copy()
    moved[:, inner, inner] = moved[:, inner, inner][:, ::-1, ::-1]
    found, after = describe_tone(films), describe_tone(moved)
    assert found.shape == (2 * PER_CLASS, STEPS_FROM + 2 * SCALES)
    assert found[:, :STEPS_FROM] == pytest.approx(after[:, :STEPS_FROM], abs=1e-5)


def test_brightness_and_sharpness_are_seen():
    flat = np.full((1, SIDE, SIDE, 1), 100, np.uint8)
    brighter, striped = flat + 50, flat.copy()
    striped[:, ::2] += 50
    found = describe_tone(np.concatenate([flat, brighter, striped]))
    assert found[1, 0] > found[0, 0]
    down, across = STEPS_FROM, STEPS_FROM + 1
    assert found[2, down] > found[0, down]
    assert found[2, across] == found[0, across]


def test_films_that_look_like_the_other_class_are_the_misleading_ones():
    films = films_by_brightness(odd=6)
    answers = answer_by_tone(films)
    found = np.flatnonzero(misled(films.labels, answers, 0.1))
    assert found.tolist() == [*range(6), *range(PER_CLASS, PER_CLASS + 6)]


def test_nobody_is_in_both_parts():
    films = films_by_brightness(odd=9)
    half = len(films) // 3
    dataset = Dataset(
        "set", "", "", films.take(np.arange(half)), films.take(np.arange(half, len(films))), films
    )
    split = hold_out_by_tone(dataset)
    assert sorted(split.validation.labels) == [0] * 9 + [1] * 9
    judged = set(split.validation.patients)
    assert sorted(split.train.keys) == sorted(films.keys[~np.isin(films.patients, list(judged))])
    assert split.test is None


@pytest.mark.parametrize("few", [1, FOLDS - 1])
def test_too_few_patients_are_named(few):
    films = films_by_brightness()
    some = [*range(2 * few), *range(PER_CLASS, 2 * PER_CLASS)]
    dataset = Dataset("set", "", "", films.take(np.array(some)), films.take(np.array([0])), None)
    with pytest.raises(DatasetError, match=f"at least {FOLDS} patients of each class, found {few}"):
        hold_out_by_tone(dataset)
