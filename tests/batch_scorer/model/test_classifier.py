"""Classifier.load refuses what cannot be trusted, and says what to do."""

from __future__ import annotations

import os

import msgspec
import numpy as np
import onnx
import pytest
from onnx import helper

from batch_scorer.engine.run_plan import config_hash
from batch_scorer.engine.score_job import ScoreJob
from batch_scorer.errors import (
    CardMissing,
    CardVersionUnsupported,
    ModelFileError,
    ProviderUnavailable,
    SelfTestFailed,
    UsageError,
)
from batch_scorer.model import classifier as module
from batch_scorer.model.card import CARD_KEY, encode_card
from batch_scorer.model.classifier import (
    Classifier,
    Manifest,
    find_model_file,
    list_bundled_models,
    load_if_unchanged,
    read_bundled_manifest,
)
from tests.tiny_model import make_tiny_card, tiny_probability


def _rewritten(tiny_model, path, card):
    model = onnx.load(tiny_model)
    del model.metadata_props[:]
    if card is not None:
        helper.set_model_props(model, {CARD_KEY: encode_card(card)})
    onnx.save(model, path)
    return path


def test_it_predicts_one_probability_a_film(tiny_model):
    pixels = np.random.default_rng(0).integers(0, 255, (5, 32, 32, 1), np.uint8)
    found = Classifier.load(tiny_model).predict(pixels).probability
    assert found.shape == (5,)
    assert found == pytest.approx(tiny_probability(pixels, 8.0), abs=1e-5)


def test_a_file_that_is_no_model_is_refused(tmp_path):
    path = tmp_path / "x.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(ModelFileError, match=r"ONNX Runtime cannot run"):
        Classifier.load(path)


def test_a_model_without_card_or_self_test_is_refused(tiny_model, tmp_path):
    with pytest.raises(CardMissing, match="without a model card"):
        Classifier.load(_rewritten(tiny_model, tmp_path / "a.onnx", None))
    card = msgspec.structs.replace(make_tiny_card(), self_test=None)
    with pytest.raises(CardVersionUnsupported, match="no self-test"):
        Classifier.load(_rewritten(tiny_model, tmp_path / "b.onnx", card))


def test_a_model_that_answers_otherwise_than_its_card_says_is_refused(tiny_model, tmp_path):
    other = make_tiny_card(slope=9.0)
    with pytest.raises(SelfTestFailed, match=r"self-test of .* at most .*, found 0\.0"):
        Classifier.load(_rewritten(tiny_model, tmp_path / "x.onnx", other))


def test_a_provider_that_is_not_there_is_never_replaced_in_silence(tiny_model, monkeypatch):
    monkeypatch.setattr(module, "list_providers", lambda: ["cpu"])
    with pytest.raises(ProviderUnavailable, match="Expected the CUDA provider"):
        Classifier.load(tiny_model, "cuda")
    assert Classifier.load(tiny_model, "auto").provider == "cpu"


def test_an_unknown_model_names_the_known_ones():
    with pytest.raises(UsageError, match=r"one of .*vgg16.*found resnet"):
        find_model_file("resnet")


@pytest.mark.parametrize("name", list_bundled_models())
def test_every_bundled_model_is_whole_and_passes_its_self_test(name):
    classifier = Classifier.load(name)
    assert classifier.self_test() <= 1e-3
    assert classifier.sha256 == read_bundled_manifest().models[name].sha256
    assert classifier.card.name == name


def test_the_bundled_models_meet_their_first_figures():
    limits = {"mlp": (0.81, 0.90), "cnn": (0.91, 0.975), "vgg16": (0.915, 0.97)}
    for name, (accuracy, auc) in limits.items():
        values = Classifier.load(name).card.references["test"].metrics
        assert values["accuracy"].value >= accuracy
        assert values["auc"].value >= auc


def test_the_bundled_models_were_compared_on_the_films_of_their_cards():
    comparison = read_bundled_manifest().comparison
    assert comparison.names == set(list_bundled_models())
    references = {name: Classifier.load(name).card.references for name in list_bundled_models()}
    for pair in comparison.pairs:
        first, second = (references[name][comparison.split] for name in (pair.first, pair.second))
        assert comparison.images == first.images == second.images == pair.difference.n
        expected = first.metrics[pair.metric].value - second.metrics[pair.metric].value
        assert pair.difference.value == pytest.approx(expected, abs=1e-4)
        assert pair.difference.low < pair.difference.value < pair.difference.high
        assert pair.p <= pair.p_holm <= 1


def test_a_damaged_bundled_model_is_refused(monkeypatch):
    name = list_bundled_models()[0]
    models = read_bundled_manifest().models
    manifest = Manifest({**models, name: msgspec.structs.replace(models[name], sha256="0" * 64)})
    monkeypatch.setattr(module, "read_bundled_manifest", lambda: manifest)
    with pytest.raises(ModelFileError, match="is damaged: expected sha256 000000000000"):
        Classifier.load(name)


def test_the_bundled_models_are_small_enough_to_clone():
    assert sum(find_model_file(name).stat().st_size for name in list_bundled_models()) < 45e6


def test_a_model_s_file_is_read_with_an_end(tmp_path):
    endless, pipe = tmp_path / "endless.onnx", tmp_path / "pipe.onnx"
    endless.touch()
    os.truncate(endless, module.MAX_MODEL_BYTES + 1)
    os.mkfifo(pipe)
    for read in (Classifier.load, module.hash_model_file, module.read_model_file):
        with pytest.raises(ModelFileError, match=r"endless.onnx cannot be read: .* 2000 MB\."):
            read(endless)
    with pytest.raises(ModelFileError, match="found a folder, a pipe or a device"):
        module.read_model_file(pipe)
    job = ScoreJob("films", "out", (str(endless),))
    with pytest.raises(ModelFileError, match="more than 2000 MB"):
        config_hash(job)


def test_a_name_that_is_too_long_for_a_file_is_no_model():
    with pytest.raises(UsageError, match="Expected a model file or one of"):
        find_model_file("x" * 5000)


def test_a_model_that_is_not_the_file_that_was_named_is_refused(tiny_model):
    sha256 = module.hash_model_file(tiny_model)
    assert Classifier.load(tiny_model, "cpu", sha256=sha256).sha256 == sha256
    with pytest.raises(ModelFileError, match=r"tiny.onnx with sha256 000000000000 on .*replaced"):
        Classifier.load(tiny_model, "cpu", sha256="0" * 64)


def test_the_model_that_a_run_used_is_loaded_only_where_its_file_is_still_the_same(
    tiny_model, tmp_path
):
    sha256 = module.hash_model_file(tiny_model)
    assert load_if_unchanged(tiny_model, "cpu", 1, sha256).sha256 == sha256
    assert load_if_unchanged(tiny_model, "cpu", 1, "0" * 64) is None
    assert load_if_unchanged(tmp_path / "gone.onnx", "cpu", 1, sha256) is None
    os.mkfifo(tmp_path / "pipe.onnx")
    assert load_if_unchanged(tmp_path / "pipe.onnx", "cpu", 1, sha256) is None
