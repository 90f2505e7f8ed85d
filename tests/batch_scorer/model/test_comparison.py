"""Which comparison may be shown for the models of a run."""

from __future__ import annotations

import msgspec

from batch_scorer.model.card_sections import find_shared_comparison
from tests.factories import make_card, make_comparison

SET = make_comparison(cnn_vgg16=0.2, cnn_mlp=0.01, vgg16_mlp=0.01)


def card(name, comparison):
    return make_card(name, splits=("validation",), comparison=comparison)


def test_models_of_one_set_share_its_comparison():
    assert find_shared_comparison([card(name, SET) for name in ("mlp", "cnn", "vgg16")]) == SET


def test_only_the_models_that_are_here_are_compared():
    found = find_shared_comparison([card("mlp", SET), card("cnn", SET)])
    assert found is not None
    assert {(pair.first, pair.second) for pair in found.pairs} == {("cnn", "mlp")}
    assert found.images == 624


def test_a_model_that_was_measured_on_other_films_is_left_out():
    other = msgspec.structs.replace(SET, images_sha256="1" * 64)
    found = find_shared_comparison([card("vgg16", other), card("cnn", SET), card("mlp", SET)])
    assert found is not None
    assert found.names == {"cnn", "mlp"}
    assert find_shared_comparison([card("cnn", SET), card("mlp", other)]) is None


def test_one_model_or_models_without_a_comparison_have_none():
    assert find_shared_comparison([card("cnn", SET)]) is None
    assert find_shared_comparison([card("cnn", SET), card("mlp", None)]) is None
    assert find_shared_comparison([card("cnn", None), card("mlp", None)]) is None


def test_a_model_under_another_name_is_not_taken_for_one_of_the_set():
    renamed = msgspec.structs.replace(card("cnn", SET), name="mine")
    assert find_shared_comparison([renamed, card("mlp", SET)]) is None
