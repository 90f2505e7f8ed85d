"""Conversion: every network maps, weights are halved without loss, and a bad file never appears."""

from __future__ import annotations

import json
import logging
import os
import shutil

import keras
import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from batch_scorer.errors import ConversionError, ForeignFile, ParityError, SelfTestFailed
from batch_scorer.model.card_sections import SelfTest
from batch_scorer.model.classifier import MANIFEST_NAME, Classifier
from batch_scorer.model.onnx_runtime import ort
from batch_scorer.report.formats.card_markdown import format_card_markdown
from batch_scorer.storage.output import INTERNAL_FOLDER, Output, sha256_hex
from exporter import convert, export
from exporter.run_reader import read_run
from exporter.validate import verify_model_file
from tests.exporter.runs import make_network, make_whole_card, save_run
from tests.factories import make_typicality
from tests.tiny_model import make_tiny_card, save_tiny_model, tiny_probability
from trainer.config import RECIPES
from trainer.model.heads import build_inference_model
from trainer.model.networks import BUILDERS, SIZE_PX
from trainer.model.ood import fit_ood_detector

pytestmark = pytest.mark.slow

PIXELS = np.random.default_rng(0).integers(0, 255, (7, SIZE_PX, SIZE_PX, 1), np.uint8)


@pytest.mark.parametrize("name", BUILDERS)
def test_a_network_converts_and_answers_as_in_keras(name):
    network = BUILDERS[name](1, augment=False)
    for layer in network.layers:
        if layer.trainable and isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
            layer.set_weights([w.astype(np.float16) for w in layer.get_weights()])
    typical = fit_ood_detector(np.concatenate([PIXELS, PIXELS[::-1, ::-1]]))
    model = build_inference_model(network, typical, both_ways=RECIPES[name].flip_tta)
    graph = convert.convert(model, make_whole_card())
    whole = graph.ByteSize()
    graph = convert.store_half_weights(graph)
    if name == "mlp":  # tf2onnx folds normalisation into weights that then need all 32 bits
        assert graph.ByteSize() < 0.7 * whole
    assert graph.opset_import[0].version == convert.OPSET
    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = model.predict(PIXELS, verbose=0)
    logits = expected["logit"][:, 0].astype(float)
    names = ["probability", "viral", "atypicality", "evidence"]
    for size in (1, 2, 7):
        probability, viral, atypicality, evidence = session.run(names, {"pixels": PIXELS[:size]})
        assert probability == pytest.approx(
            1 / (1 + np.exp(-(1.7 * logits - 0.4)))[:size], abs=1e-4
        )
        # rounding may turn one ReLU or maximum the other way, and with it one film's gradient
        off = np.abs(evidence - expected["evidence"][:size]).max(axis=(1, 2))
        assert np.median(off) < 1e-3
        assert off.max() < 0.03 * np.ptp(expected["evidence"])
        assert atypicality == pytest.approx(expected["atypicality"][:size, 0], abs=1e-3)
        assert viral.shape == (size,)
        assert ((viral > 0) & (viral < 1)).all()


def test_a_file_answers_only_what_its_card_describes():
    model = build_inference_model(BUILDERS["mlp"](1, augment=False), None, both_ways=False)
    card = msgspec.structs.replace(make_whole_card(), typicality=None, etiology=None)
    graph = convert.convert(model, card)
    assert {output.name for output in graph.graph.output} == {"probability", "evidence"}


def test_a_weight_that_half_precision_would_change_stays_as_it_is():
    network = BUILDERS["mlp"](1, augment=False)
    network.get_layer("hidden1").set_weights(
        [np.full((12288, 32), 1 / 3, np.float32), np.zeros(32)]
    )
    model = build_inference_model(network, None, both_ways=False)
    card = make_tiny_card("mlp", size_px=SIZE_PX)
    graph = convert.store_half_weights(convert.convert(model, card))
    kept = [w for w in graph.graph.initializer if list(w.dims) == [12288, 32]]
    assert [w.data_type for w in kept] == [TensorProto.FLOAT]
    assert numpy_helper.to_array(kept[0])[0, 0] == np.float32(1 / 3)


def test_an_error_that_tf2onnx_only_logs_is_an_error(monkeypatch):
    def log_only(*args, **options):
        logging.getLogger("tf2onnx.tfonnx").error("Tensorflow op [x: Strange] is not supported")
        return onnx.ModelProto(), None

    model = build_inference_model(BUILDERS["mlp"](1, augment=False), None, both_ways=False)
    monkeypatch.setattr(convert.tf2onnx.convert, "from_function", log_only)
    with pytest.raises(ConversionError, match=r"op .x: Strange. is not supported"):
        convert.convert(model, make_tiny_card("mlp", size_px=SIZE_PX))


def test_parity_and_self_test_are_really_checked(tmp_path):
    path = save_tiny_model(tmp_path / "tiny.onnx")
    pixels = np.random.default_rng(0).integers(0, 255, (70, 32, 32, 1), np.uint8)
    expected = tiny_probability(pixels, 8.0)
    assert verify_model_file(path, pixels, expected) < 1e-5
    with pytest.raises(ParityError, match="differs from the expected answers by up to"):
        verify_model_file(path, pixels, expected + 2e-4)
    with pytest.raises(ParityError, match="with 70 label flips"):
        verify_model_file(path, pixels, np.where(expected >= 0.5, 0.49999, 0.50001))
    model = onnx.load(path)
    model.graph.node[0].op_type = "Nonsense"
    onnx.save(model, tmp_path / "broken.onnx")
    with pytest.raises(ConversionError, match=r"onnx.checker refuses broken.onnx"):
        verify_model_file(tmp_path / "broken.onnx", pixels, expected)


def test_a_check_that_fails_leaves_no_file(tmp_path, monkeypatch):
    run = read_run(save_run(tmp_path / "run", make_network()))
    monkeypatch.setattr(
        export,
        "_add_self_test",
        lambda card, answers, tolerance: msgspec.structs.replace(
            card, self_test=SelfTest("phantom-1", [0.5] * 4, 1e-9)
        ),
    )
    with pytest.raises(SelfTestFailed, match=r"self-test of .*, found"):
        export.export_model(run, tmp_path / "models")
    assert [path.name for path in (tmp_path / "models").iterdir()] == [INTERNAL_FOLDER]


def test_a_model_file_that_was_not_exported_here_stays(tmp_path):
    run = read_run(save_run(tmp_path / "run", make_network()))
    folder = tmp_path / "models"
    folder.mkdir()
    file = folder / f"{run.card.name}.onnx"
    file.write_bytes(b"mine")
    with pytest.raises(ForeignFile, match=r"holds a small\.onnx that cxr-batch did not write"):
        export.export_model(run, folder)
    assert file.read_bytes() == b"mine"
    file.unlink()
    assert export.export_model(run, folder).path == export.export_model(run, folder).path == file


def test_a_card_lies_beside_the_model_file_and_says_what_is_in_it(tmp_path):
    run = read_run(save_run(tmp_path / "run", make_network()))
    folder = tmp_path / "models"
    done = export.export_model(run, folder, license_id="mit")
    data = (folder / "small.md").read_bytes()
    card = Classifier.load(done.path, "cpu").card
    assert data.decode() == format_card_markdown(card, done.sha256, "mit")
    listed = json.loads((folder / MANIFEST_NAME).read_bytes())["models"]["small"]
    assert listed["card_sha256"] == sha256_hex(data)


def test_a_card_that_was_not_exported_here_stays_and_no_model_is_written(tmp_path):
    run = read_run(save_run(tmp_path / "run", make_network()))
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "small.md").write_text("mine")
    with pytest.raises(ForeignFile, match=r"holds a small\.md that cxr-batch did not write"):
        export.export_model(run, folder)
    assert (folder / "small.md").read_text() == "mine"
    assert not (folder / "small.onnx").exists()


def test_an_export_that_was_killed_before_the_manifest_is_made_again(tmp_path, monkeypatch):
    run = read_run(save_run(tmp_path / "run", make_network()))
    folder = tmp_path / "models"
    put = Output._put

    def put_or_stop(output, name, *rest):
        if name == MANIFEST_NAME:
            raise KeyboardInterrupt
        put(output, name, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Output, "_put", put_or_stop)
        with pytest.raises(KeyboardInterrupt):
            export.export_model(run, folder)
    assert (folder / "small.onnx").is_file()
    assert not (folder / MANIFEST_NAME).exists()
    done = export.export_model(run, folder)
    listed = json.loads((folder / MANIFEST_NAME).read_bytes())["models"]["small"]
    assert listed["sha256"] == done.sha256 == sha256_hex(done.path.read_bytes())


def test_an_export_of_a_version_without_records_is_replaced_where_it_is_as_stated(tmp_path):
    run = read_run(save_run(tmp_path / "run", make_network()))
    folder = tmp_path / "models"
    path = export.export_model(run, folder).path
    shutil.rmtree(folder / INTERNAL_FOLDER)
    assert export.export_model(run, folder).path == path
    shutil.rmtree(folder / INTERNAL_FOLDER)
    card = folder / "small.md"
    exported = card.read_bytes()
    card.write_bytes(b"mine")
    with pytest.raises(ForeignFile):
        export.export_model(run, folder)
    assert card.read_bytes() == b"mine"
    shutil.rmtree(folder / INTERNAL_FOLDER)
    card.write_bytes(exported)
    path.write_bytes(b"mine")
    with pytest.raises(ForeignFile):
        export.export_model(run, folder)
    assert path.read_bytes() == b"mine"


def test_a_model_file_that_was_changed_since_is_kept_beside(tmp_path):
    run = read_run(save_run(tmp_path / "run", make_network()))
    path = export.export_model(run, tmp_path / "models").path
    path.write_bytes(b"mine")
    export.export_model(run, tmp_path / "models")
    assert [kept.read_bytes() for kept in tmp_path.glob("models/earlier/*/small.onnx")] == [b"mine"]


def identify(path):
    """What changes when a file is replaced or written."""
    found = path.lstat()
    return found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns


@pytest.mark.parametrize(
    "manifest",
    [
        b'{"models": {}}',
        b'{"models": {}, "notes": "mine"}',
        b'{"models": {}, "notes": "\xff\xfe"}',
        b'{"models": {"small": {"sha256": "0"}}}',
        b'{"models": {"../run/model": {"sha256": "0"}}}',
        b"[" * 100_000,
        b"",
        "link",
        "dangling link",
        "folder",
        "pipe",
    ],
)
def test_a_manifest_that_was_not_exported_here_stays(tmp_path, manifest):
    run = read_run(save_run(tmp_path / "run", make_network()))
    folder = tmp_path / "models"
    path = folder / MANIFEST_NAME
    folder.mkdir()
    if isinstance(manifest, bytes):
        path.write_bytes(manifest)
    elif manifest == "folder":
        path.mkdir()
    elif manifest == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(tmp_path / "mine")
        if manifest == "link":
            (tmp_path / "mine").write_text('{"models": {}}')
    before = identify(path)
    with pytest.raises((ForeignFile, ConversionError)):
        export.export_model(run, folder)
    assert (list(folder.iterdir()), identify(path)) == ([path], before)
    if isinstance(manifest, bytes):
        assert path.read_bytes() == manifest


def test_an_answer_beside_the_probability_that_is_not_keras_s_is_an_error(tmp_path):
    path = save_tiny_model(tmp_path / "tiny.onnx", typicality=make_typicality())
    pixels = np.random.default_rng(1).integers(0, 255, (9, 32, 32, 1), np.uint8)
    expected = tiny_probability(pixels, slope=8.0)
    strange = 4 * np.abs(pixels.mean(axis=(1, 2, 3)) / 255 - 0.5)[:, None]
    verify_model_file(path, pixels, expected, {"atypicality": strange, "evidence": strange})
    with pytest.raises(ParityError, match=r"by up to 1\.00e-01 in atypicality"):
        verify_model_file(path, pixels, expected, {"atypicality": strange + 0.1})
