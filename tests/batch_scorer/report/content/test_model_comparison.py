"""The sentence about several models claims no order that was not measured."""

from __future__ import annotations

import pytest

from batch_scorer.report.content.model_comparison import describe_comparison, describe_ranking
from tests.factories import make_comparison, make_models

START = "On 624 test films, by AUC, "


@pytest.mark.parametrize(
    ("p_holm", "sentence"),
    [
        (
            {"cnn_vgg16": 0.29, "cnn_mlp": 0.001, "vgg16_mlp": 0.001},
            "cnn and vgg16 cannot be told apart; cnn and vgg16 are both better than mlp.",
        ),
        ({"cnn_mlp": 0.001}, "cnn is better than mlp."),
        ({"cnn_mlp": 0.05}, "cnn and mlp cannot be told apart."),
        (
            {"cnn_vgg16": 0.2, "cnn_mlp": 0.2, "vgg16_mlp": 0.9},
            "cnn, vgg16 and mlp cannot be told apart.",
        ),
        (
            {"cnn_vgg16": 0.2, "cnn_mlp": 0.01, "vgg16_mlp": 0.2},
            "cnn and vgg16 cannot be told apart; vgg16 and mlp cannot be told apart; cnn is better "
            "than mlp.",
        ),
        (
            {"cnn_vgg16": 0.01, "cnn_mlp": 0.01, "vgg16_mlp": 0.01},
            "cnn is better than vgg16; cnn and vgg16 are both better than mlp.",
        ),
    ],
)
def test_one_plain_sentence(p_holm: dict[str, float], sentence: str) -> None:
    assert describe_ranking(make_comparison(**p_holm)) == START + sentence


def test_the_table_has_every_difference_with_its_interval_and_corrected_p() -> None:
    found = make_comparison(cnn_mlp=0.0004, cnn_vgg16=0.3, vgg16_mlp=0.01)
    models = make_models("cnn", "mlp", comparison=found)
    facts = describe_comparison([model.card for model in models])
    assert facts is not None
    assert [(row.models, row.metric) for row in facts.rows] == [
        ("Convolutional network minus Multilayer perceptron", "AUC"),
        ("Convolutional network minus Multilayer perceptron", "Accuracy"),
    ]
    row = facts.rows[0]
    assert (row.difference, row.interval, row.p) == ("+0.030", "−0.010 to 0.050", "under 0.001")
    assert row.significant == "yes"
    assert "Convolutional network is better than Multilayer perceptron." in facts.sentence
    assert "VGG16" not in facts.sentence


def test_without_a_shared_comparison_there_is_none() -> None:
    models = make_models("cnn", "mlp")
    assert describe_comparison([model.card for model in models]) is None
