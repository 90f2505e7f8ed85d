"""The model card: it round-trips, and whatever is not right about it is refused."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_scorer.card import ModelCard, Threshold, read_card, self_test_pixels, write_card
from batch_scorer.errors import CardMissing, CardVersionUnsupported, DecodeVersionMismatch
from tests.cards import make_tiny_card
from tests.factories import make_band, make_comparison, make_external

CARD = make_tiny_card(
    band=make_band(),
    external=[make_external()],
    comparison=make_comparison(tiny_other=0.01),
)


@given(st.text(), st.floats(0, 1), st.integers(0, 2**31), st.floats(-50, 50))
def test_a_card_round_trips(text, threshold, seed, slope):
    card = msgspec.structs.replace(
        CARD,
        summary=text,
        threshold=Threshold(threshold, text, text),
        calibration=msgspec.structs.replace(CARD.calibration, slope=slope),
        training=msgspec.structs.replace(CARD.training, seed=seed),
    )
    assert read_card(write_card(card), "a file") == card
    assert write_card(read_card(write_card(card), "a file")) == write_card(card)


def _changed(**changes: object) -> str:
    return json.dumps({**json.loads(write_card(CARD)), **changes})


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (None, CardMissing, "m.onnx is an ONNX file without a model card"),
        ("{", CardVersionUnsupported, "The model card of m.onnx is broken"),
        ("{}", CardVersionUnsupported, "missing required field `card_version`"),
        (
            _changed(card_version=99),
            CardVersionUnsupported,
            "Expected model card version 1, found 99",
        ),
        (_changed(threshold="high"), CardVersionUnsupported, "threshold"),
        (_changed(precision={"kind": "int4"}), CardVersionUnsupported, "'int4'.*precision.kind"),
        (
            _changed(decode_version=99),
            DecodeVersionMismatch,
            "Expected a model for decode version 1, found 99",
        ),
    ],
)
def test_a_card_that_is_not_right_is_refused(text, error, message):
    with pytest.raises(error, match=message):
        read_card(text, "m.onnx")


def test_a_card_of_before_the_band_is_still_read():
    older = json.loads(write_card(CARD))
    for name in ("band", "external", "comparison"):
        del older[name]
    card = read_card(json.dumps(older), "a file")
    assert (card.band, card.external, card.comparison) == (None, [], None)


def test_a_band_holds_its_lower_edge_and_not_its_upper_one():
    band = make_band(0.3, 0.6)
    assert [band.holds(p) for p in (0.29, 0.3, 0.45, 0.6)] == [False, True, True, False]


def test_the_test_films_are_quoted_where_they_were_opened():
    opened = msgspec.structs.replace(CARD.reference, split="test")
    both: ModelCard = msgspec.structs.replace(CARD, references={**CARD.references, "test": opened})
    assert CARD.reference.split == "validation"
    assert both.reference.split == "test"


def test_the_self_test_draws_four_different_films_the_same_every_time():
    films = self_test_pixels(224)
    assert films.shape == (4, 224, 224, 1)
    assert np.array_equal(films, self_test_pixels(224))
    assert len({film.tobytes() for film in films}) == 4
    assert films.min() < 70
    assert films.max() > 200
