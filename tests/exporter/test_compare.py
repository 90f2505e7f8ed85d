"""The comparison of a run's models, read from its folders, and its place in the manifest."""

from __future__ import annotations

import csv
import json
import logging
import os

import msgspec
import numpy as np
import pytest

from batch_scorer.errors import ConversionError
from batch_scorer.metrics import classification
from batch_scorer.model.card import CLASSES, encode_card
from batch_scorer.model.classifier import MANIFEST_NAME, Manifest
from batch_scorer.storage.output import open_output
from exporter import export
from exporter.compare import compare_models
from tests.factories import make_card, make_comparison

FILMS = {"validation": 80, "test": 120}
NOISE = {"cnn": 0.8, "vgg16": 0.8, "mlp": 3.0}


def fill(run, *names, splits=("validation", "test"), offset=0):
    """Run folders as the trainer leaves them, as far as the comparison reads them."""
    for index, name in enumerate(names):
        rng = np.random.default_rng(index)
        folder = run / name
        folder.mkdir(parents=True)
        card = make_card(name, splits=splits)
        rows = []
        for split in splits:
            truth = np.arange(FILMS[split]) % 2
            scores = 1 / (1 + np.exp(-rng.normal(3 * (truth - 0.5), NOISE[name])))
            rows += [
                {
                    "split": split,
                    "image": f"{split}/film_{number + offset}.jpeg",
                    "patient": f"p{number // 2 + offset}",
                    "label": CLASSES[label],
                    "logit": "0",
                    "probability": f"{score:.6f}",
                }
                for number, (label, score) in enumerate(zip(truth, scores, strict=True))
            ]
            reference = msgspec.structs.replace(
                card.references[split],
                images=FILMS[split],
                metrics=classification.compute_metrics(
                    truth, scores, card.threshold.value, resamples=10
                ),
            )
            card.references[split] = reference
        (folder / "card.json").write_text(encode_card(card))
        with (folder / "predictions.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows[:: 1 if index % 2 else -1])  # their order must not matter
    return [run / name for name in names]


def test_every_pair_is_compared_on_the_test_films_and_corrected_by_holm(tmp_path):
    folders = fill(tmp_path, "cnn", "mlp", "vgg16")
    found = compare_models(folders)
    assert (found.split, found.images, found.patients) == ("test", 120, 60)
    assert len(found.pairs) == 6
    cards = {folder.name: json.loads((folder / "card.json").read_text()) for folder in folders}
    for pair in found.pairs:
        first, second = (
            cards[name]["references"]["test"]["metrics"][pair.metric]["value"]
            for name in (pair.first, pair.second)
        )
        assert pair.difference.value == pytest.approx(first - second, abs=1e-4)
        if pair.metric == "auc":
            assert pair.difference.value >= 0
    ranked = sorted(found.pairs, key=lambda pair: pair.p)
    by_hand = np.maximum.accumulate([(6 - k) * pair.p for k, pair in enumerate(ranked)])
    assert [pair.p_holm for pair in ranked] == pytest.approx(np.minimum(by_hand, 1))
    assert all(pair.p_holm < 0.05 for pair in found.pairs if pair.second == "mlp")
    assert compare_models(folders[::-1]) == found


def test_validation_films_serve_where_the_test_films_were_not_opened(tmp_path):
    folders = [*fill(tmp_path, "cnn"), *fill(tmp_path, "mlp", splits=("validation",))]
    found = compare_models(folders)
    assert (found.split, found.images) == ("validation", 80)


def test_one_model_has_no_comparison(tmp_path):
    assert compare_models(fill(tmp_path, "cnn")) is None


def test_models_of_different_films_are_not_compared_and_it_is_said(tmp_path, caplog):
    folders = [*fill(tmp_path, "cnn"), *fill(tmp_path, "mlp", offset=7)]
    with caplog.at_level(logging.WARNING, logger="exporter"):
        assert compare_models(folders) is None
    assert "the models of this run have different test images" in caplog.text


@pytest.mark.parametrize("damage", ["pipe", "no text", "device"])
def test_a_card_that_cannot_be_read_ends_the_export(tmp_path, damage):
    folders = fill(tmp_path, "cnn", "mlp")
    path = folders[1] / "card.json"
    path.unlink()
    if damage == "pipe":
        os.mkfifo(path)
    elif damage == "device":
        path.symlink_to("/dev/zero")
    else:
        path.write_bytes(b"\xff")
    with pytest.raises(ConversionError, match=r"cannot be read: card\.json.*`cxr train`"):
        compare_models(folders)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file"),
        ("split,image\ntest,a\n", "'label'"),
        ("split,image,patient,label,probability\ntest,a,p,NORMAL,high\n", "high"),
        (
            "split,image,patient,label,probability\ntest,a,p,NORMAL,0.5\n",
            "expected 120 test images in predictions.csv, found 1",
        ),
        ("split,image,patient,label,probability\ntest,a,p,TUMOUR,0.5\n", "found TUMOUR"),
        ("split,image,patient,label,probability\ntest,a,p,NORMAL,nan\n", "found nan"),
        ("pipe", "found a folder, a pipe or a device"),
    ],
)
def test_predictions_that_cannot_be_read_end_the_export(tmp_path, text, message):
    folders = fill(tmp_path, "cnn", "mlp")
    path = folders[1] / "predictions.csv"
    path.unlink()
    if text == "pipe":
        os.mkfifo(path)
    elif text is not None:
        path.write_text(text)
    with pytest.raises(ConversionError, match=message):
        compare_models(folders)


def test_the_manifest_has_a_comparison_of_all_its_models_or_none(tmp_path):
    output = open_output(tmp_path)
    cards = {name: make_card(name) for name in ("mlp", "cnn")}
    manifest = Manifest({})
    for card in cards.values():
        manifest = export._add_model(manifest, card, "0" * 64, 1, "")
    output.write(MANIFEST_NAME, export.format_manifest(manifest))
    export.write_comparison(tmp_path, make_comparison(cnn_vgg16=0.2))
    assert export.read_manifest(output).comparison is None
    both = make_comparison(cnn_mlp=0.2)
    export.write_comparison(tmp_path, both)
    assert export.read_manifest(output).comparison == both
    again = export._add_model(export.read_manifest(output), cards["mlp"], "1" * 64, 1, "")
    assert again.comparison is None
    assert list(again.models) == ["cnn", "mlp"]


@pytest.mark.parametrize(
    "other",
    [
        {"sha256": "00", "notes": "mine"},
        {"metrics": {"validation": {"auc": None}}},
        {"notes": "mine"},
        {"metrics": []},
        7,
    ],
)
def test_a_manifest_with_a_further_entry_that_is_none_is_refused_before_all(tmp_path, other):
    path = tmp_path / MANIFEST_NAME
    listed = export._add_model(Manifest({}), make_card("mlp"), "0" * 64, 1, "")
    path.write_bytes(export.format_manifest(listed))
    manifest = json.loads(path.read_text())
    if isinstance(other, dict) and "metrics" not in other and "sha256" not in other:
        other = {**manifest["models"]["mlp"], **other}
    manifest["models"]["mine"] = other
    path.write_text(before := json.dumps(manifest))
    with pytest.raises(ConversionError, match="not a manifest of this release"):
        export.open_model_folder(tmp_path)
    assert path.read_text() == before
    assert [*tmp_path.iterdir()] == [path]


def test_a_model_of_an_unknown_auc_comes_last(tmp_path):
    manifest = export._add_model(Manifest({}), make_card("mlp"), "0" * 64, 1, "")
    entry = manifest.models["mlp"]
    unknown = {
        "one": msgspec.structs.replace(entry, metrics={"validation": {"auc": None}}),
        "two": msgspec.structs.replace(entry, metrics={}),
    }
    found = export._add_model(Manifest(unknown), make_card("mlp"), "0" * 64, 1, "")
    assert list(found.models) == ["mlp", "one", "two"]
    (tmp_path / MANIFEST_NAME).write_bytes(export.format_manifest(found))
    assert export.read_manifest(open_output(tmp_path)) == found


def test_a_manifest_of_an_older_release_is_not_overwritten(tmp_path):
    (tmp_path / MANIFEST_NAME).write_text('{"cnn": {"sha256": "0"}}')
    with pytest.raises(ConversionError, match="not a manifest of this release"):
        export.export_model(tmp_path, tmp_path)
    assert (tmp_path / MANIFEST_NAME).read_text() == '{"cnn": {"sha256": "0"}}'
