"""Images unlike the training images, and the model outputs besides the probability."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from batch_scorer.engine.runner import run_score_job
from batch_scorer.engine.score_job import ScoreJob
from batch_scorer.errors import ModelFileError
from batch_scorer.model.card import CARD_KEY, encode_card
from batch_scorer.model.classifier import Classifier
from batch_scorer.results import store
from batch_scorer.storage.output import open_output
from tests.factories import make_etiology, make_evidence, make_typicality
from tests.images import make_film
from tests.tiny_model import make_tiny_card, save_tiny_model

# The tiny model's atypicality grows with the distance of the mean from mid-grey.
BRIGHTNESS = {"typical": 150, "edge": 185, "strange": 230}


@pytest.fixture
def model(tmp_path):
    return save_tiny_model(
        tmp_path / "tiny.onnx",
        typicality=make_typicality(flag_above=0.8, reject_above=1.5),
        etiology=make_etiology(),
    )


@pytest.fixture
def xrays(tmp_path):
    root = tmp_path / "films"
    root.mkdir()
    for name, brightness in BRIGHTNESS.items():
        (root / f"{name}.png").write_bytes(make_film(brightness))
    (root / "strange_copy.png").write_bytes(make_film(BRIGHTNESS["strange"]))
    return root


def score(xrays, model, output, **options):
    run_score_job(ScoreJob(str(xrays), output, (str(model),), **options))
    with (output / "predictions.csv").open(newline="") as file:
        rows = {row["image"].removesuffix(".png"): row for row in csv.DictReader(file)}
    return rows, json.loads((output / "run.json").read_text())


def test_an_image_far_from_the_training_images_is_rejected_with_a_reason(xrays, model, tmp_path):
    rows, run = score(xrays, model, tmp_path / "out")
    assert {name: row["status"] for name, row in rows.items()} == {
        "typical": "scored",
        "edge": "scored",
        "strange": "rejected",
        "strange_copy": "rejected",
    }
    strange = rows["strange"]
    assert strange["reason"] == "not_radiograph"
    assert "found an image that is unlike them. Check for a photo" in strange["detail"]
    assert strange["probability"] == strange["prediction"] == ""
    assert rows["strange_copy"]["duplicate_of"] == "strange.png"
    assert (run["scored"], run["rejected"], run["failed"]) == (2, 2, 0)
    assert run["atypical"] == 1


def test_an_image_at_the_edge_is_scored_and_marked_atypical(xrays, model, tmp_path):
    rows, _ = score(xrays, model, tmp_path / "out")
    assert (rows["typical"]["atypical"], rows["edge"]["atypical"]) == ("false", "true")
    typicality = {name: float(row["typicality"]) for name, row in rows.items()}
    # atypicality is 4 |mean / 255 - 0.5|; the card's training values lie evenly in -1..1
    assert typicality["typical"] == pytest.approx((1 - 4 * (150 / 255 - 0.5)) / 2, abs=0.02)
    assert typicality["edge"] == pytest.approx((1 - 4 * (185 / 255 - 0.5)) / 2, abs=0.02)
    assert typicality["strange"] == 0
    assert float(rows["typical"]["viral"]) == pytest.approx(150 / 255, abs=0.01)


def test_atypical_images_can_be_kept(xrays, model, tmp_path):
    rows, run = score(xrays, model, tmp_path / "out", keep_atypical=True)
    assert {row["status"] for row in rows.values()} == {"scored"}
    assert rows["strange"]["atypical"] == "true"
    assert rows["strange"]["detail"] == ""
    assert float(rows["strange"]["probability"]) > 0.9
    assert run["atypical"] == 3


def test_a_model_without_typicality_rejects_nothing(xrays, tiny_model, tmp_path):
    rows, run = score(xrays, tiny_model, tmp_path / "out")
    assert {row["status"] for row in rows.values()} == {"scored"}
    assert {row["atypical"] + row["typicality"] + row["viral"] for row in rows.values()} == {""}
    assert run["atypical"] is None


def test_a_model_file_without_an_output_of_its_card_is_refused(tmp_path):
    path = save_tiny_model(tmp_path / "tiny.onnx")
    model = onnx.load(path)
    card = make_tiny_card("tiny", evidence=make_evidence())
    helper.set_model_props(model, {CARD_KEY: encode_card(card)})
    onnx.save(model, path)
    with pytest.raises(ModelFileError, match=r"found no \['evidence'\]"):
        Classifier.load(path)


def without_number(path, output, bright, value):
    """Give one output of a model another value for images brighter than a limit."""
    model = onnx.load(path)
    graph = model.graph
    (node,) = (node for node in graph.node if output in node.output)
    node.output[0] = "before"
    condition = "white_image"
    if output == "evidence":
        graph.initializer.append(helper.make_tensor("places", TensorProto.INT64, [2], [1, 2]))
        graph.node.append(helper.make_node("Unsqueeze", ["white_image", "places"], ["each_place"]))
        condition = "each_place"
    graph.initializer.append(helper.make_tensor("limit", TensorProto.FLOAT, [], [bright]))
    graph.initializer.append(helper.make_tensor("wrong", TensorProto.FLOAT, [], [value]))
    at = len(graph.node) - (output == "evidence")
    graph.node.insert(at, helper.make_node("Greater", ["mean", "limit"], ["white_image"]))
    graph.node.append(helper.make_node("Where", [condition, "wrong", "before"], [output]))
    onnx.save(model, path)
    return path


WRONG = [
    *(("probability", value) for value in (math.nan, math.inf, 7, -5, -0.01, 1.01)),
    *(("viral", value) for value in (math.nan, 2)),
    *(("atypicality", value) for value in (math.nan, math.inf, -math.inf)),
    *(("evidence", value) for value in (math.nan, math.inf)),
]


@pytest.mark.parametrize("keep_atypical", [False, True])
@pytest.mark.parametrize("primary", [True, False])
@pytest.mark.parametrize(("output", "value"), WRONG)
def test_an_output_that_cannot_be_fails_its_image_alone(
    xrays, tmp_path, output, value, primary, keep_atypical
):
    parts = {"typicality": make_typicality(0.8, 1.5), "etiology": make_etiology()}
    wrong = save_tiny_model(tmp_path / "wrong.onnx", "wrong", evidence=make_evidence(4), **parts)
    without_number(wrong, output, 200, value)
    models = [str(wrong), str(save_tiny_model(tmp_path / "tiny.onnx"))]
    job = ScoreJob(
        str(xrays),
        tmp_path / "out",
        tuple(models if primary else models[::-1]),
        keep_atypical=keep_atypical,
    )
    manifest = run_score_job(job)
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        rows = {row["image"].removesuffix(".png"): row for row in csv.DictReader(file)}
    for name in ("strange", "strange_copy"):
        assert rows[name]["status"] == "failed"
        assert rows[name]["reason"] == "model_output_invalid"
        sentence = f"as {output} from the model wrong, found {value:g}. Score the image with"
        assert sentence in rows[name]["detail"]
        assert {rows[name][cell] for cell in ("prediction", "probability", "typicality")} == {""}
    assert {rows[name]["status"] for name in ("typical", "edge")} == {"scored"}
    assert (manifest.scored, manifest.rejected, manifest.failed) == (2, 0, 2)
    assert manifest.reasons == {"model_output_invalid": 2}
    assert manifest.flagged == 2


def test_rounding_above_one_is_accepted_and_clipped(xrays, tmp_path):
    model = save_tiny_model(tmp_path / "tiny.onnx")
    without_number(model, "probability", 200, 1.0000001)
    rows, run = score(xrays, model, tmp_path / "out")
    assert run["failed"] == 0
    assert rows["strange"]["probability"] == "1.000000"
    stored = store.read_run(open_output(tmp_path / "out")).rows
    assert max(row.probability for row in stored) == 1.0


def test_every_output_is_returned_under_its_name(model):
    found = Classifier.load(model).predict(np.full((3, 32, 32, 1), 150, np.uint8))
    assert found.evidence is None
    assert found.atypicality == pytest.approx(4 * (150 / 255 - 0.5), abs=1e-4)
    assert found.probability.shape == found.viral.shape == (3,)
