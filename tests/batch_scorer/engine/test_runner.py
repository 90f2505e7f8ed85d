"""run_score_job: every file gets one row, and the rows are right."""

from __future__ import annotations

import csv
import json
from collections import Counter

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from tenacity import stop_after_attempt

from batch_scorer.engine import runner
from batch_scorer.engine.runner import run_score_job
from batch_scorer.engine.score_job import ScoreJob
from batch_scorer.errors import ModelFileError, OutputError, UsageError
from batch_scorer.imaging.decode import decode_radiograph
from batch_scorer.results import store
from batch_scorer.storage import filesystem
from batch_scorer.storage.output import open_output
from tests.batch_scorer.imaging.pixel_table import GREY, dicom
from tests.factories import make_band
from tests.images import make_film
from tests.tiny_model import save_tiny_model, tiny_probability

HOSTILE = [
    '<img src=x onerror="alert(1)">.png',
    "=cmd|' C calc'!A0.png",
    "new\nline.png",
    "quote\"and'comma,.png",
    "-dash.png",
    "\u202eright-to-left.png",
    "é" * 100 + ".png",
]


def score(folder, output, model, **options):
    manifest = run_score_job(ScoreJob(str(folder), output, (str(model),), **options))
    return manifest, store.read_run(open_output(output)).rows


def test_the_rows_hold_what_the_model_says_of_the_decoded_pixels(folder, tmp_path, tiny_model):
    manifest, rows = score(folder, tmp_path / "out", tiny_model)
    assert [row.image for row in rows] == sorted(row.image for row in rows)
    for row in rows:
        pixels = decode_radiograph((folder / row.image).read_bytes(), 32)[None]
        assert row.probability == pytest.approx(tiny_probability(pixels, 8.0)[0], abs=1e-5)
        assert row.prediction == row.label
        assert (row.width_px, row.height_px) == (128, 96)
    assert (manifest.found, manifest.scored, manifest.flagged, manifest.not_flagged) == (6, 6, 3, 3)
    assert manifest.metrics[0].metrics["accuracy"].value == 1


def test_batches_and_threads_change_nothing(folder, tmp_path, tiny_model):
    first = score(folder, tmp_path / "a", tiny_model)[1]
    second = score(folder, tmp_path / "b", tiny_model, batch_size=1, threads=1)[1]
    assert [r.image for r in first] == [r.image for r in second]
    assert [r.probability for r in first] == pytest.approx(
        [r.probability for r in second], abs=1e-6
    )


def test_bad_files_become_rows_with_a_reason_and_the_counts_add_up(folder, tmp_path, tiny_model):
    film = make_film()
    (folder / "cut.png").write_bytes(film[: len(film) // 2])
    (folder / "empty.jpeg").write_bytes(b"")
    (folder / "letter.jpeg").write_text("Dear doctor")
    (folder / "ct.dcm").write_bytes(dicom(GREY, Modality="CT"))
    (folder / "film_without_ending").write_bytes(dicom(GREY))
    manifest, rows = score(folder, tmp_path / "out", tiny_model)
    found = {row.image: (row.status, row.reason) for row in rows}
    assert found["cut.png"] == ("failed", "truncated")
    assert found["empty.jpeg"] == ("failed", "unreadable")
    assert found["letter.jpeg"] == ("rejected", "unsupported")
    assert found["ct.dcm"] == ("rejected", "not_radiograph")
    assert found["film_without_ending"] == ("scored", "")
    assert all(row.detail for row in rows if row.status != "scored")
    assert manifest.found == 11 == manifest.scored + manifest.rejected + manifest.failed
    assert manifest.reasons == {
        "not_radiograph": 1,
        "truncated": 1,
        "unreadable": 1,
        "unsupported": 1,
    }


def test_hostile_names_are_rows_like_any_other(tmp_path, tiny_model):
    root = tmp_path / "xrays"
    root.mkdir()
    for index, name in enumerate(HOSTILE):
        (root / name).write_bytes(make_film(seed=index))
    (root / b"invalid-\xff.png".decode("utf-8", "surrogateescape")).write_bytes(make_film(seed=99))
    manifest, rows = score(root, tmp_path / "out", tiny_model)
    assert manifest.scored == len(HOSTILE) + 1
    assert {row.image for row in rows} == {*HOSTILE, "invalid-\\udcff.png"}
    with (tmp_path / "out" / store.CSV_FILE).open(newline="", encoding="utf-8") as file:
        cells = [row["image"] for row in csv.DictReader(file)]
    assert "'=cmd|' C calc'!A0.png" in cells
    assert not any(cell.startswith(("=", "-", "+", "@")) for cell in cells)


def test_a_copy_is_computed_once_and_names_its_first(folder, tmp_path, tiny_model):
    (folder / "zz_copy.png").write_bytes((folder / "NORMAL" / "film_1.png").read_bytes())
    for batch_size in (1, 32):
        manifest, rows = score(
            folder, tmp_path / f"out{batch_size}", tiny_model, batch_size=batch_size
        )
        by_name = {row.image: row for row in rows}
        copy, first = by_name["zz_copy.png"], by_name["NORMAL/film_1.png"]
        assert copy.duplicate_of == "NORMAL/film_1.png"
        assert first.duplicate_of == ""
        assert copy.probability == first.probability
        assert manifest.duplicates == 1


def test_several_models_agree_or_do_not(folder, tmp_path, tiny_model):
    contrary = save_tiny_model(tmp_path / "contrary.onnx", "contrary", slope=-8.0, size_px=48)
    job = ScoreJob(str(folder), tmp_path / "out", (str(tiny_model), str(contrary)))
    manifest = run_score_job(job)
    rows = store.read_run(open_output(tmp_path / "out")).rows
    assert all(row.agreement == 0.5 for row in rows)
    for row in rows:
        assert row.spread == pytest.approx(abs(row.probabilities[0] - row.probabilities[1]))
    assert all(sum(row.probabilities) == pytest.approx(1, abs=0.01) for row in rows)
    assert [model.name for model in manifest.models] == ["tiny", "contrary"]
    columns = pq.read_table(tmp_path / "out" / store.PARQUET_FILE).column_names
    assert columns == [
        "image",
        "status",
        "reason",
        "detail",
        "label",
        "prediction",
        "probability",
        "threshold",
        "undecided",
        "typicality",
        "atypical",
        "viral",
        "model",
        "probability_tiny",
        "probability_contrary",
        "agreement",
        "spread",
        "duplicate_of",
        "width_px",
        "height_px",
        "brightness",
        "contrast",
        "patient",
        "study",
        "sha256",
        "stamp",
    ]


def test_scores_in_the_band_are_undecided_and_counted(folder, tmp_path, tiny_model):
    (folder / "NORMAL" / "copy.png").write_bytes((folder / "NORMAL" / "film_2.png").read_bytes())
    (folder / "NORMAL" / "letter.txt").write_text("Dear doctor")
    _, plain = score(folder, tmp_path / "plain", tiny_model)
    answers = [row.probability for row in plain if row.status == "scored"]
    low, high = np.quantile(answers, [0.3, 0.7]).tolist()
    model = save_tiny_model(tmp_path / "band.onnx", band=make_band(low, high))
    manifest, rows = score(folder, tmp_path / "out", model)
    for row in rows:
        scored = row.status == "scored"
        assert row.undecided is (low <= row.probability < high if scored else None)
    assert 0 < manifest.undecided == sum(bool(row.undecided) for row in rows) < manifest.scored
    with (tmp_path / "out" / store.CSV_FILE).open(newline="", encoding="utf-8") as file:
        cells = [row["undecided"] for row in csv.DictReader(file)]
    assert sorted(set(cells)) == ["", "false", "true"]
    assert cells.count("true") == manifest.undecided


def test_without_a_band_or_a_second_model_their_columns_are_empty(folder, tmp_path, tiny_model):
    manifest, rows = score(folder, tmp_path / "out", tiny_model)
    assert manifest.undecided is None
    assert {(row.undecided, row.spread) for row in rows} == {(None, None)}


def test_two_models_of_one_name_are_refused(folder, tmp_path, tiny_model):
    with pytest.raises(UsageError, match="found two named tiny"):
        run_score_job(ScoreJob(str(folder), tmp_path / "out", (str(tiny_model), str(tiny_model))))


def test_an_output_among_the_images_is_refused(folder, tiny_model):
    with pytest.raises(UsageError, match="lies inside the scored folder"):
        run_score_job(ScoreJob(str(folder), folder / "out", (str(tiny_model),)))


def test_a_model_replaced_during_a_run_adds_no_row_to_the_other_configuration(
    folder, tmp_path, monkeypatch
):
    model = save_tiny_model(tmp_path / "model.onnx")
    load = runner.load_models

    def replace_first(*given):
        save_tiny_model(model, slope=-8.0)
        return load(*given)

    monkeypatch.setattr(runner, "load_models", replace_first)
    with pytest.raises(ModelFileError, match="It was replaced meanwhile"):
        score(folder, tmp_path / "out", model)
    monkeypatch.undo()
    rows = score(folder, tmp_path / "out", model)[1]
    pixels = decode_radiograph((folder / rows[0].image).read_bytes(), 32)[None]
    assert rows[0].probability == pytest.approx(tiny_probability(pixels, -8.0)[0], abs=1e-5)


def test_labels_can_be_left_out(folder, tmp_path, tiny_model):
    manifest, rows = score(folder, tmp_path / "out", tiny_model, labels="none")
    assert manifest.metrics == []
    assert not any(row.label for row in rows)


def test_the_limit_takes_the_first_keys(folder, tmp_path, tiny_model):
    rows = score(folder, tmp_path / "out", tiny_model, limit=2)[1]
    assert [row.image for row in rows] == ["NORMAL/film_0.png", "NORMAL/film_1.png"]
    manifest = store.read_run(open_output(tmp_path / "out")).manifest
    assert (manifest.listed, manifest.found) == (6, 2)


def test_progress_counts_up_to_all(folder, tmp_path, tiny_model):
    seen = []
    job = ScoreJob(str(folder), tmp_path / "out", (str(tiny_model),), batch_size=4)
    run_score_job(job, lambda done, total: seen.append((done, total)))
    assert seen == [(4, 6), (6, 6)]


def test_pictures_are_written_for_the_report_at_their_own_proportions(folder, tmp_path, tiny_model):
    from PIL import Image

    score(folder, tmp_path / "out", tiny_model)
    pictures = list((tmp_path / "out" / store.IMAGES_FOLDER).glob("*.jpg"))
    assert len(pictures) == 3  # the flagged ones; none lies close to the threshold
    with Image.open(pictures[0]) as picture:
        assert picture.size == (320, 240)
        assert np.asarray(picture).std() > 0


def test_a_run_that_was_changed_afterwards_is_not_read(folder, tmp_path, tiny_model):
    score(folder, tmp_path / "out", tiny_model)
    rows = tmp_path / "out" / store.CSV_FILE
    rows.write_text(rows.read_text().replace("PNEUMONIA", "NORMAL"))
    with pytest.raises(OutputError, match="changed after the run ended"):
        store.read_run(open_output(tmp_path / "out"))


def test_rows_of_another_run_are_not_read(folder, tmp_path, tiny_model):
    score(folder, tmp_path / "a", tiny_model)
    score(folder, tmp_path / "b", tiny_model, limit=2)
    (tmp_path / "b" / store.PARQUET_FILE).replace(tmp_path / "a" / store.PARQUET_FILE)
    with pytest.raises(OutputError, match=r"predictions.parquet in .* was changed"):
        store.read_run(open_output(tmp_path / "a"))


def test_a_run_that_cannot_start_leaves_the_older_one_alone(folder, tmp_path, tiny_model):
    score(folder, tmp_path / "out", tiny_model)
    with pytest.raises(UsageError):
        score(folder, tmp_path / "out", "no-such-model")
    assert store.read_run(open_output(tmp_path / "out")).manifest.scored == 6


def test_a_new_run_withdraws_the_older_one_s_report_and_pictures(folder, tmp_path, tiny_model):
    score(folder, tmp_path / "out", tiny_model)
    reports = [tmp_path / "out" / name for name in store.RENDERED_FILES]
    open_output(tmp_path / "out").write_all(dict.fromkeys(store.RENDERED_FILES, b"old"))
    for film in (folder / "PNEUMONIA").iterdir():
        film.unlink()
    score(folder, tmp_path / "out", tiny_model)
    assert not any(report.exists() for report in reports)
    assert not (tmp_path / "out" / store.IMAGES_FOLDER).exists()


def test_copies_add_no_evidence(folder, tmp_path, tiny_model):
    alone = score(folder, tmp_path / "a", tiny_model)[0].metrics[0].metrics["brier"]
    for index in range(30):
        (folder / "NORMAL" / f"copy_{index}.png").write_bytes(make_film(60, seed=0))
    copied = score(folder, tmp_path / "b", tiny_model)[0].metrics[0].metrics["brier"]
    assert copied.n == alone.n + 30
    assert copied.high - copied.low > 0.5 * (alone.high - alone.low)


def test_run_json_is_plain_json_with_the_whole_card(folder, tmp_path, tiny_model):
    manifest, _ = score(folder, tmp_path / "out", tiny_model)
    found = json.loads((tmp_path / "out" / store.RUN_FILE).read_text())
    assert found["run_id"] == manifest.run_id
    assert found["models"][0]["card"]["threshold"]["value"] == 0.5
    assert found["provider"] == "cpu"
    assert set(found["seconds"]) == {"list", "start", "score", "record"}


def test_images_that_an_outage_hit_are_read_again_at_the_end(
    folder, tmp_path, tiny_model, monkeypatch
):
    """Unreadable local files are not retried: a retry would not help."""
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/outage", recursive=True)
    memory.pipe_file("/outage/broken.png", b"\x89PNG\r\n\x1a\nno film")
    reads: Counter[str] = Counter()
    whole = type(memory).cat_file

    def cat_file(self, path, *args, **options):
        reads[path] += 1
        if reads[path] == 1:
            raise ConnectionResetError(104, "Connection reset by peer")
        return whole(self, path, *args, **options)

    monkeypatch.setattr(type(memory), "cat_file", cat_file)
    monkeypatch.setattr(filesystem._RETRYING, "stop", stop_after_attempt(1))
    output = tmp_path / "out"
    manifest = run_score_job(ScoreJob("memory://outage", str(output), (str(tiny_model),)))
    memory.rm("/outage", recursive=True)
    assert (manifest.found, manifest.scored, manifest.failed) == (7, 6, 1)
    films = {path: n for path, n in reads.items() if path.endswith(".png")}
    assert len(films) == 7
    assert all(n >= 2 for n in films.values())
