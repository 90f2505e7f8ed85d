"""Features of the pooled layer, and a fair comparison of two heads on them."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.features_svm import fit_svm, judge, look, main, print_table, read_features
from trainer.answers import answer
from trainer.dataset import Films
from trainer.models import SIZE_PX, build_cnn


def make_films(number=40, seed=0):
    """Bright films are pneumonia; two films a patient."""
    rng = np.random.default_rng(seed)
    labels = np.arange(number) // 2 % 2
    pixels = rng.integers(0, 120, (number, SIZE_PX, SIZE_PX, 1)) + 60 * labels[:, None, None, None]
    names = np.array([f"{index // 2}" for index in range(number)])
    return Films(pixels.astype(np.uint8), labels, names, np.arange(number).astype(str))


def test_the_network_s_head_on_these_features_gives_the_network_s_own_logits():
    network = build_cnn(1, augment=False)
    model = answer(network, None, both_ways=True)
    films = make_films(4)
    seen = look(read_features(model), films)
    assert seen.features.shape == (4, 256)
    kernel, bias = network.get_layer("pneumonia").get_weights()
    expected = model.predict(films.pixels, verbose=0)["logit"][:, 0]
    assert seen.logits == pytest.approx(expected, abs=1e-5)
    assert (seen.features @ kernel + bias)[:, 0] == pytest.approx(expected, abs=1e-5)


def test_the_svm_is_chosen_without_splitting_a_patient(monkeypatch):
    films = make_films(80)
    rng = np.random.default_rng(0)
    features = rng.normal(films.labels[:, None] * [2.0, 0.0, 0.0], 1.0, (80, 3))
    search = fit_svm(films, features)
    for trained, held_out in search.cv.split(features, films.labels, films.groups):
        assert not set(films.patients[trained]) & set(films.patients[held_out])
    assert search.best_score_ > 0.8
    assert set(search.best_params_) == {"svc__C", "svc__gamma"}
    assert search.best_estimator_[-1].class_weight == "balanced"


def test_both_heads_are_calibrated_and_told_side_by_side(capsys):
    films = {"validation": make_films(60), "shifted": make_films(60, seed=1)}
    rng = np.random.default_rng(2)
    good, poor = (
        {split: rng.normal(part.labels * 2.0 - 1, spread) for split, part in films.items()}
        for spread in (0.5, 4.0)
    )
    judged = {"own head": judge(films, poor), "SVM": judge(films, good)}
    probabilities, threshold = judged["SVM"]["validation"]
    caught = probabilities[films["validation"].labels == 1] >= threshold
    assert caught.mean() >= 0.95
    assert judged["SVM"]["shifted"][1] == threshold
    print_table(films, judged)
    table, differences = capsys.readouterr().out.split("\nSVM", 1)
    assert [row.split(" | ")[1:3] for row in table.splitlines()[2:]] == [
        ["60", "own head"],
        ["60", "SVM"],
    ] * 2
    assert " minus own head, validation, auc: 0." in differences


def test_a_run_without_a_cnn_is_refused(tmp_path):
    result = CliRunner().invoke(main, [str(tmp_path), str(tmp_path)])
    assert result.exit_code == 2
    assert "Error: Expected a finished training of the CNN" in result.output
