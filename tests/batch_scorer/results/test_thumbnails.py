"""The pictures that a run leaves for its report: which films, which maps, and why none."""

from __future__ import annotations

import io
from functools import partial

import numpy as np
import pytest
from PIL import Image

from batch_scorer.engine import local
from batch_scorer.engine.runner import run_score_job
from batch_scorer.engine.score_job import ScoreJob
from batch_scorer.imaging.burned_in import mask_border
from batch_scorer.imaging.decode import decode_radiograph
from batch_scorer.imaging.decode_pool import Decoder
from batch_scorer.model.classifier import Classifier, Predictions
from batch_scorer.results import store, thumbnails
from batch_scorer.results.schema import Gallery
from batch_scorer.results.thumbnails import ReportImages, write_thumbnails
from batch_scorer.storage.output import open_output
from batch_scorer.storage.source import Source, open_source
from tests.batch_scorer.imaging.fake_workers import command_of
from tests.batch_scorer.imaging.pixel_table import dicom
from tests.factories import make_evidence
from tests.images import encode, make_film
from tests.tiny_model import save_tiny_model


@pytest.fixture(scope="module")
def telling_model(tmp_path_factory):
    """A tiny model that answers evidence: bright patches speak for pneumonia."""
    folder = tmp_path_factory.mktemp("telling")
    return save_tiny_model(folder / "telling.onnx", "telling", evidence=make_evidence(4))


def run(folder, output, model, **options):
    return run_score_job(ScoreJob(str(folder), str(output), (str(model),), **options))


def pictures(output):
    return {path.name for path in (output / "films").iterdir()}


def stems(output, *, flagged):
    rows = store.read_run(open_output(output)).rows
    return {
        store.thumbnail_stem(row) for row in rows if not flagged or row.prediction == "PNEUMONIA"
    }


def test_flagged_films_that_are_shown_get_a_map_each(folder, tmp_path, telling_model):
    manifest = run(folder, tmp_path / "out", telling_model)
    flagged = stems(tmp_path / "out", flagged=True)
    assert len(flagged) == 3
    assert manifest.gallery.maps.keys() == flagged
    assert manifest.gallery.no_maps_reason == ""
    assert {f"{stem}-evidence.jpg" for stem in flagged} < pictures(tmp_path / "out")
    assert len([name for name in pictures(tmp_path / "out") if "evidence" in name]) == 3


def test_the_peak_and_the_map_are_those_of_the_model(tmp_path, telling_model):
    film = np.full((96, 192), 140, np.uint8)
    film[48:72, 144:] = 250  # the third row and the last column of the model's 4 by 4 places
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "one.png").write_bytes(encode(film))
    manifest = run(tmp_path / "films", tmp_path / "out", telling_model)
    (stem, peak), *others = manifest.gallery.maps.items()
    assert others == []
    assert (peak.x, peak.y) == (0.875, 0.625)
    assert peak.value == pytest.approx(8.0 * (250 / 255 - 0.5), abs=0.2)
    with Image.open(tmp_path / "out" / "films" / f"{stem}-evidence.jpg") as drawn:
        assert drawn.size == (320, 160)
        grey = np.asarray(drawn.convert("L"), dtype=float)
    y, x = np.unravel_index(grey.argmax(), grey.shape)
    assert (y > 70, x > 230) == (True, True)


def test_all_films_or_none_get_a_map_where_that_is_asked_for(folder, tmp_path, telling_model):
    (folder / "close.png").write_bytes(make_film(125))
    everything = run(folder, tmp_path / "all", telling_model, heatmaps="all")
    shown = {name[:16] for name in pictures(tmp_path / "all")}
    assert everything.gallery.maps.keys() == shown
    assert shown > stems(tmp_path / "all", flagged=True)
    nothing = run(folder, tmp_path / "none", telling_model, heatmaps="none")
    assert nothing.gallery == Gallery("none")
    assert not any("evidence" in name for name in pictures(tmp_path / "none"))


def test_a_model_without_evidence_leaves_the_reason(folder, tmp_path, tiny_model):
    manifest = run(folder, tmp_path / "out", tiny_model)
    assert manifest.gallery == Gallery("flagged", no_maps_reason="unanswered")
    assert len(pictures(tmp_path / "out")) > 0


@pytest.mark.parametrize("change", ["replaced", "removed"])
def test_no_map_is_drawn_by_another_model_than_the_one_that_scored(folder, tmp_path, change):
    model = save_tiny_model(tmp_path / "m.onnx", evidence=make_evidence(4))

    def change_the_model(*_):
        model.unlink(missing_ok=True)
        if change == "replaced":
            save_tiny_model(model, slope=9.0, evidence=make_evidence(4))

    job = ScoreJob(str(folder), str(tmp_path / "out"), (str(model),))
    manifest = run_score_job(job, change_the_model)
    assert manifest.gallery == Gallery("flagged", no_maps_reason="model")
    assert not any("evidence" in name for name in pictures(tmp_path / "out"))


def test_nothing_flagged_is_no_missing_map(tmp_path, tiny_model):
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "dark.png").write_bytes(make_film(60))
    assert run(tmp_path / "films", tmp_path / "out", tiny_model).gallery == Gallery("flagged")


def test_only_films_that_get_a_map_go_through_the_model_again(
    folder, tmp_path, telling_model, monkeypatch
):
    asked = []
    predict = Classifier.predict

    def counting(self: Classifier, pixels: np.ndarray) -> Predictions:
        asked.append(len(pixels))
        return predict(self, pixels)

    monkeypatch.setattr(Classifier, "predict", counting)
    run(folder, tmp_path / "none", telling_model, heatmaps="none")
    scoring = [4, 6]  # the self-test, then all films at once
    assert asked == scoring
    run(folder, tmp_path / "flagged", telling_model)
    assert asked[2:] == [*scoring, 4, 3]


def test_evidence_that_is_no_number_draws_no_map(folder, tmp_path, telling_model, monkeypatch):
    first = run(folder, tmp_path / "first", telling_model)
    predict, times = Classifier.predict, []

    def wrong(self: Classifier, pixels: np.ndarray) -> Predictions:
        times.append(len(pixels))
        answers = predict(self, pixels)
        if times == [4, 6, 4, 3]:  # the images that get a map, as they go through it once more
            answers.evidence[0, 1, 2] = np.inf
            answers.evidence[1, 3, 0] = np.nan
        return answers

    monkeypatch.setattr(Classifier, "predict", wrong)
    manifest = run(folder, tmp_path / "out", telling_model)
    assert manifest.scored == 6
    ((stem, peak),) = manifest.gallery.maps.items()
    assert peak == first.gallery.maps[stem]
    assert [name for name in pictures(tmp_path / "out") if "evidence" in name] == [
        f"{stem}-evidence.jpg"
    ]


def test_minutes_choose_the_films_and_another_choice_draws_them_again(
    folder, tmp_path, telling_model
):
    first = run(folder, tmp_path / "out", telling_model, review_minutes=2)
    assert first.gallery.review_minutes == 2
    assert len([name for name in pictures(tmp_path / "out") if "evidence" not in name]) == 2
    again = run(folder, tmp_path / "out", telling_model, review_minutes=2)
    assert again == first
    more = run(folder, tmp_path / "out", telling_model, review_minutes=4, heatmaps="all")
    assert (more.reused, more.rows_sha256) == (6, first.rows_sha256)
    assert len([name for name in pictures(tmp_path / "out") if "evidence" not in name]) == 3


def test_a_film_that_is_gone_or_changed_since_it_was_scored_has_no_picture(
    folder, tmp_path, telling_model
):
    manifest = run(folder, tmp_path / "out", telling_model)
    output = open_output(tmp_path / "out")
    rows = store.read_run(output).rows
    (folder / "PNEUMONIA" / "film_3.png").write_bytes(make_film(200, seed=77))
    (folder / "PNEUMONIA" / "film_4.png").unlink()
    output.remove(*store.find_report_images(output))
    gallery = write_thumbnails(
        output,
        ReportImages(open_source(str(folder))),
        rows,
        manifest.models[0].threshold,
        Gallery("flagged"),
        partial(Classifier.load, telling_model),
    )
    left = store.thumbnail_stem(next(row for row in rows if row.image.endswith("film_5.png")))
    assert gallery.maps == {left: manifest.gallery.maps[left]}
    assert pictures(tmp_path / "out") == {f"{left}.jpg", f"{left}-evidence.jpg"}


BRIGHT = np.random.default_rng(3).integers(190, 220, (96, 128), np.uint8)
KINDS = {
    "film.jpeg": encode(BRIGHT, "JPEG"),
    "film.png": encode(BRIGHT),
    "film.tiff": encode(BRIGHT, "TIFF"),
    "film.dcm": dicom(BRIGHT, WindowCenter=128, WindowWidth=256),
    "burned.dcm": dicom(BRIGHT, WindowCenter=128, WindowWidth=256, BurnedInAnnotation="YES"),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_picture_shows_the_pixels_of_its_film_whatever_its_kind(name, tmp_path, telling_model):
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / name).write_bytes(KINDS[name])
    run(tmp_path / "films", tmp_path / "out", telling_model, heatmaps="all")
    (row,) = store.read_run(open_output(tmp_path / "out")).rows
    pixels = Image.fromarray(decode_radiograph(KINDS[name], 320))
    scale = 320 / max(row.width_px, row.height_px)
    size = (round(row.width_px * scale), round(row.height_px * scale))
    expected = pixels.resize(size, Image.Resampling.BILINEAR)
    if name.startswith("burned"):
        expected = mask_border(expected)
    path, data = store.encode_thumbnail(row, expected)
    assert (tmp_path / "out" / path).read_bytes() == data


@pytest.mark.parametrize("name", ["film.tiff", "film.dcm"])
def test_a_film_that_breaks_its_decoder_breaks_a_worker_and_has_no_picture(
    name, folder, tmp_path, telling_model, monkeypatch
):
    (folder / name).write_bytes(KINDS[name])
    job = ScoreJob(str(folder), str(tmp_path / "out"), (str(telling_model),), heatmaps="all")
    deadly = partial(Decoder, command=command_of("die_of_everything"))
    monkeypatch.setattr(thumbnails, "Decoder", deadly)
    monkeypatch.setattr(thumbnails, "MOST_KEPT", 0)
    manifest = run_score_job(job)
    assert manifest.scored == 7
    rows = store.read_run(open_output(job.output)).rows
    missing = {
        row.image
        for row in rows
        if row.prediction == "PNEUMONIA"
        and f"{store.thumbnail_stem(row)}.jpg" not in pictures(tmp_path / "out")
    }
    assert missing == {name}


@pytest.fixture
def read(monkeypatch):
    """The keys of all images that were read, as often as they were."""
    keys = []
    read = Source.read

    def watch(self, ref):
        keys.append(ref.key)
        return read(self, ref)

    monkeypatch.setattr(Source, "read", watch)
    return keys


def test_a_small_run_reads_each_image_once_and_draws_what_a_large_one_does(
    folder, tmp_path, telling_model, read, monkeypatch
):
    for name, data in KINDS.items():
        (folder / name).write_bytes(data)
    small = run(folder, tmp_path / "small", telling_model, heatmaps="all")
    assert len(read) == len(set(read)) == 11
    monkeypatch.setattr(thumbnails, "MOST_KEPT", 10)
    large = run(folder, tmp_path / "large", telling_model, heatmaps="all")
    assert len(read) > 2 * 11
    assert large.gallery == small.gallery
    assert pictures(tmp_path / "large") == pictures(tmp_path / "small") != set()
    for name in pictures(tmp_path / "small"):
        paths = [tmp_path / output / "films" / name for output in ("small", "large")]
        assert paths[0].read_bytes() == paths[1].read_bytes()


def test_images_that_were_scored_before_are_read_again(folder, tmp_path, telling_model, read):
    run(folder, tmp_path / "out", telling_model, review_minutes=2)
    del read[:]
    run(folder, tmp_path / "out", telling_model, review_minutes=4)
    assert len(read) == 3
    assert len([name for name in pictures(tmp_path / "out") if "evidence" not in name]) == 3


@pytest.mark.parametrize("start", [0, 128, 132])
def test_the_header_of_a_dicom_file_is_read_once_for_its_row_and_its_picture(
    start, tmp_path, telling_model, monkeypatch
):
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "one.dcm").write_bytes(KINDS["film.dcm"][start:])
    monkeypatch.setenv("HEADERS", str(tmp_path / "headers"))
    counting = partial(Decoder, command=command_of("count_headers"))
    monkeypatch.setattr(local, "Decoder", counting)
    monkeypatch.setattr(thumbnails, "Decoder", counting)
    manifest = run(tmp_path / "films", tmp_path / "out", telling_model, heatmaps="all")
    assert len(pictures(tmp_path / "out")) == 2
    assert manifest.scored == 1
    assert (tmp_path / "headers").read_text() == "header\n"


def test_the_pictures_are_grey_thumbnails_and_coloured_maps(folder, tmp_path, telling_model):
    run(folder, tmp_path / "out", telling_model)
    paths = list((tmp_path / "out" / "films").iterdir())
    assert {"evidence" in path.name for path in paths} == {True, False}
    for path in paths:
        with Image.open(io.BytesIO(path.read_bytes())) as picture:
            assert picture.format == "JPEG"
            assert picture.mode == ("RGB" if "evidence" in path.name else "L")
            assert max(picture.size) == 320
