"""Some of the mutated films of ``make fuzz``, so that every run of the tests breaks a few."""

from __future__ import annotations

from tests.fuzz import KINDS, fuzz

COUNT = 2_000
SEED = 7


def test_mutated_films_give_pixels_or_an_image_error():
    outcomes = fuzz(COUNT, SEED)
    assert outcomes.total() == COUNT
    for kind in KINDS:  # the mutations reach beyond the first bytes, and are not all harmless
        assert outcomes[f"{kind} pixels"] > 0
        assert outcomes[f"{kind} unreadable"] > 0
