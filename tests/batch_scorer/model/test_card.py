"""The model card: it round-trips, and whatever is not right about it is refused."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_scorer.errors import CardMissing, CardVersionUnsupported, DecodeVersionMismatch
from batch_scorer.model.card import ModelCard, decode_card, draw_self_test_images, encode_card
from batch_scorer.model.card_sections import Precision, SelfTest, Threshold
from tests.factories import (
    make_band,
    make_comparison,
    make_etiology,
    make_evidence,
    make_external,
    make_typicality,
)
from tests.tiny_model import make_tiny_card

CARD = make_tiny_card(
    band=make_band(),
    external=[make_external()],
    comparison=make_comparison(tiny_other=0.01),
)

FULL = msgspec.structs.replace(
    CARD, typicality=make_typicality(), evidence=make_evidence(), etiology=make_etiology()
)


@given(
    st.text(),
    st.floats(0, 1, exclude_min=True, exclude_max=True),
    st.integers(0, 2**31),
    st.floats(-50, 50),
)
def test_a_card_round_trips(text, threshold, seed, slope):
    card = msgspec.structs.replace(
        CARD,
        summary=text,
        threshold=Threshold(threshold, text, text),
        calibration=msgspec.structs.replace(CARD.calibration, slope=slope),
        training=msgspec.structs.replace(CARD.training, seed=seed),
    )
    assert decode_card(encode_card(card), "a file") == card
    assert encode_card(decode_card(encode_card(card), "a file")) == encode_card(card)


def _changed(**changes: object) -> str:
    return json.dumps({**json.loads(encode_card(CARD)), **changes})


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
        (
            _changed(more=[]).replace('"more": []', f'"more": {"[" * 9000}{"]" * 9000}'),
            CardVersionUnsupported,
            "recursion",
        ),
        (_changed(title="x" * 10_000_000), CardVersionUnsupported, "at most 1,000,000 characters"),
        (
            _changed(title="x" * 2_001),
            CardVersionUnsupported,
            "texts of up to 2,000 characters, found one of 2,001",
        ),
        (_changed(versions={"x" * 2_001: ""}), CardVersionUnsupported, "found one of 2,001"),
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
        decode_card(text, "m.onnx")


@pytest.mark.parametrize(
    "name", ["", "x" * 41, "=1+1", "a b", "a,b", "a\n", "\x1b[31m", "../a", "ä"]
)
def test_a_name_that_is_no_plain_word_is_refused(name):
    with pytest.raises(CardVersionUnsupported, match="a name of up to 40 letters"):
        decode_card(_changed(name=name), "m.onnx")


def _put(field: str, value: object) -> str:
    """Return the card as JSON with another value of a field such as "threshold.value"."""
    card = json.loads(encode_card(FULL))
    *path, last = (int(name) if name.isdigit() else name for name in field.split("."))
    part = card
    for name in path:
        part = part[name]
    part[last] = value
    return json.dumps(card)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("threshold.value", [-1, 0, 1, 5, None, "0.5"]),
        ("self_test.tolerance", [-1, 0, 1.1e-3, 1e9]),
        ("self_test.probabilities", [[], [0.5] * 3, [0.5] * 5, [7, -5, 0, 0], [0, 0, 0, 1.1]]),
        ("classes", [["PNEUMONIA", "NORMAL"], ["a", "b"], ["NORMAL"]]),
        ("size_px", [-1, 0, 15, 1025, 10**9]),
        ("references", [{}, {"test": json.loads(encode_card(CARD))["references"]["validation"]}]),
        ("references.validation.metrics", [{}]),
        ("references.validation.metrics.recall.low", [-1, 1e308]),
        ("references.validation.reliability.x", [[], [0.5]]),
        ("references.validation.roc.y", [[]]),
        ("references.validation.score_quantiles", [[], [0.5], [1, 0]]),
        ("references.validation.confusion.true_negative", [-1]),
        ("history.val_accuracy", [[], [0.5]]),
        ("history.loss.0", [1e308, -1e308]),
        ("training.films", [{}]),
        ("etiology.references", [{}, {"test": {}}]),
        ("etiology.references.test.accuracy.high", [1.5]),
        ("external.0.share.low", [-0.5]),
        ("typicality.quantiles", [[], [1], [2, 1], [0, 1, 0.5]]),
        ("typicality.flagged.validation.value", [1.5]),
        ("typicality.rejected", [{}]),
        ("evidence.faithfulness.steps", [[], [0.5]]),
        ("band.share.value", [1e308]),
        ("band.low", [-0.1, 0.7]),
        ("band.high", [0.1, 1.1]),
        ("evidence.height", [-1, 0, 1025]),
        ("evidence.width", [-1, 0, 10**12]),
    ],
)
def test_impossible_numbers_are_refused_with_the_name_of_their_field(field, values):
    assert decode_card(encode_card(FULL), "m.onnx") == FULL
    for value in values:
        with pytest.raises(CardVersionUnsupported, match=r"The model card of m\.onnx is broken: "):
            decode_card(_put(field, value), "m.onnx")


@pytest.mark.parametrize("text", ["1e999", "NaN", "Infinity"])
def test_what_is_no_finite_number_is_refused(text):
    broken = _changed(calibration={"slope": 1}).replace('"slope": 1', f'"slope": {text}')
    with pytest.raises(CardVersionUnsupported, match="is broken"):
        decode_card(broken, "m.onnx")


def test_half_precision_may_be_off_by_more_and_by_how_much():
    half = Precision("float16", 100, 0.9, 0.0, 0.004, [], "")
    test = SelfTest("phantom-1", [0.5] * 4, 5e-3)
    card = msgspec.structs.replace(CARD, precision=half, self_test=test)
    assert decode_card(encode_card(card), "m.onnx") == card
    text = encode_card(card).replace('"tolerance":0.005', '"tolerance":0.0051')
    with pytest.raises(CardVersionUnsupported, match="tolerance"):
        decode_card(text, "m.onnx")
    with pytest.raises(CardVersionUnsupported, match=r"tolerance up to 0\.001, found 0\.005"):
        decode_card(encode_card(card).replace('"float16"', '"int8"'), "m.onnx")


def test_a_rounded_sigmoid_may_give_a_little_more_than_one():
    test = SelfTest("phantom-1", [0.5, 0.5, 0.5, float(np.float32(1.0000001))], 1e-3)
    card = msgspec.structs.replace(CARD, self_test=test)
    assert decode_card(encode_card(card), "m.onnx") == card


def test_a_card_of_before_the_band_is_still_read():
    older = json.loads(encode_card(CARD))
    for name in ("band", "external", "comparison"):
        del older[name]
    card = decode_card(json.dumps(older), "a file")
    assert (card.band, card.external, card.comparison) == (None, [], None)


def test_an_empty_band_can_be_read():
    card = msgspec.structs.replace(CARD, band=make_band(0.5, 0.5))
    assert decode_card(encode_card(card), "a file") == card


def test_a_band_holds_its_lower_edge_and_not_its_upper_one():
    band = make_band(0.3, 0.6)
    assert [band.contains(p) for p in (0.29, 0.3, 0.45, 0.6)] == [False, True, True, False]


def test_the_test_films_are_quoted_where_they_were_opened():
    opened = msgspec.structs.replace(CARD.reference, split="test")
    both: ModelCard = msgspec.structs.replace(CARD, references={**CARD.references, "test": opened})
    assert CARD.reference.split == "validation"
    assert both.reference.split == "test"


def test_the_self_test_draws_four_different_films_the_same_every_time():
    images = draw_self_test_images(224)
    assert images.shape == (4, 224, 224, 1)
    assert np.array_equal(images, draw_self_test_images(224))
    assert len({image.tobytes() for image in images}) == 4
    assert images.min() < 70
    assert images.max() > 200
