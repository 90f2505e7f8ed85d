"""make slides, make video and the README's pictures: of the demo, current, of synthetic films."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import pypdfium2 as pdfium
import pytest
from click.testing import CliRunner
from PIL import Image

from batch_scorer.errors import MissingPackage
from batch_scorer.model.classifier import Classifier, list_bundled_models
from batch_scorer.report.formats.pdf import read_report_bundle
from batch_scorer.report.formats.slides_pdf import read_speaker_notes
from batch_scorer.storage.output import open_output
from docs.making import pictures, video
from docs.making.committed import FIGURES_FOLDER, REPOSITORY
from docs.making.figures import load_bundled_cards
from docs.making.narration import format_script, format_webvtt, plan_narration

pytestmark = pytest.mark.slow

PRESENTATION = REPOSITORY / "docs" / "presentation.pdf"
MOST_BYTES_OF_PICTURE = 200_000


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo, scored and drawn as `make slides` does."""
    output = tmp_path_factory.mktemp("out") / "demo"
    options = ["-o", output, "--model", "all", "--format", "pdf,slides"]
    command = [sys.executable, "-m", "batch_scorer", "score", "examples/xrays", *map(str, options)]
    subprocess.run(command, check=True, capture_output=True, cwd=REPOSITORY)
    return output


@pytest.fixture(scope="module")
def talk(demo):
    return plan_narration(read_speaker_notes(read_report_bundle(open_output(demo))))


def words_of(path):
    with pdfium.PdfDocument(path) as document:
        return [page.get_textpage().get_text_range() for page in document]


def test_script_and_captions_are_those_of_the_slides(talk, update_golden):
    committed = {
        video.SCRIPT_FILE: format_script(talk, video.ABOUT),
        video.CAPTIONS_FILE: format_webvtt(talk),
    }
    for name, text in committed.items():
        if update_golden:
            (video.TEXT_FOLDER / name).write_text(text, encoding="utf-8")
        assert (video.TEXT_FOLDER / name).read_text(encoding="utf-8") == text, "run make video"


def without_run(page):
    """The words of a slide without what each run has of its own: its name and its time."""
    page = re.sub(r"\d{8}-\d{6}-[0-9a-f]+", "RUN", page)
    return re.sub(r"\d+ \w+ \d{4}, \d\d:\d\d UTC, in .*", "WHEN", page).split()


def test_the_committed_presentation_is_that_of_the_demo(demo, talk):
    slides = words_of(PRESENTATION)
    for committed, drawn in zip(slides, words_of(demo / "slides.pdf"), strict=True):
        assert without_run(committed) == without_run(drawn), "run make slides"
    assert len(slides) == len(talk), "run make slides"
    for slide, page in zip(slides, talk, strict=True):
        assert "".join(page.title.split()) in "".join(slide.split()), "run make slides"
    told = " ".join(" ".join(slides).split())
    assert "These films are synthetic" in told
    decides = Classifier.load(list_bundled_models()[0], "cpu")
    assert decides.sha256[:12] in told, "the models were exported again: run make video"
    for card in load_bundled_cards():
        assert f"{card.reference.metrics['auc'].value:.3f}" in told


def test_every_slide_has_something_said_to_it(talk):
    assert all(page.title and page.sentences for page in talk)
    told = [sentence.text for page in talk for sentence in page.sentences]
    assert [text for text in told if re.search(r"[.!?][A-Z]", text)] == [], "a space is missing"
    assert 120 < sum(page.duration_s for page in talk) < 900


@pytest.mark.needs("espeak-ng", "ffmpeg")
def test_the_film_has_picture_sound_and_captions_as_long_as_the_talk(
    demo, talk, tmp_path, monkeypatch
):
    monkeypatch.setattr(video, "HEIGHT_PX", 180)  # a small one is made in no time
    made = CliRunner().invoke(video.main, [str(demo), "-o", str(tmp_path)], catch_exceptions=False)
    assert made.exit_code == 0, made.output
    probe = ["ffprobe", "-v", "error", "-of", "json", "-show_streams", "-show_format"]
    found = json.loads(subprocess.check_output([*probe, tmp_path / video.VIDEO_FILE]))
    kinds = [stream["codec_type"] for stream in found["streams"]]
    assert kinds == ["video", "audio", "subtitle"]
    seconds = sum(page.duration_s for page in talk)
    lasting = [float(stream["duration"]) for stream in found["streams"]]
    assert lasting == pytest.approx([seconds] * 3, abs=0.5)
    assert {path.name for path in tmp_path.iterdir()} == {
        video.VIDEO_FILE,
        video.SCRIPT_FILE,
        video.CAPTIONS_FILE,
    }


def test_a_run_without_slides_is_told_how_to_draw_them(tmp_path):
    refused = CliRunner().invoke(video.main, [str(tmp_path), "-o", str(tmp_path / "out")])
    assert refused.exit_code == 1
    assert "--format slides" in refused.output


def test_a_missing_program_is_named(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingPackage, match="The program espeak-ng is not installed"):
        video.find_program("espeak-ng")


def test_the_pictures_of_the_report_are_small_and_can_be_drawn_again(demo, tmp_path):
    drawn = CliRunner().invoke(pictures.main, [str(demo), "-o", str(tmp_path)])
    assert drawn.exit_code == 0, drawn.output
    for name in pictures.PAGE_FILES.values():
        with Image.open(tmp_path / name) as new, Image.open(FIGURES_FOLDER / name) as committed:
            assert new.size == committed.size
            assert new.width == pictures.WIDTH_PX
        assert (FIGURES_FOLDER / name).stat().st_size < MOST_BYTES_OF_PICTURE


def test_a_run_of_real_films_gives_no_picture_to_docs(demo, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(demo, run)
    marked = (run / "run.json").read_text(encoding="utf-8")
    assert '"synthetic": true' in marked or '"synthetic":true' in marked
    (run / "run.json").write_text(
        marked.replace('"synthetic": true', '"synthetic": false').replace(
            '"synthetic":true', '"synthetic":false'
        ),
        encoding="utf-8",
    )
    for command, options in (
        (pictures.main, []),
        (video.main, ["--words", str(video.TEXT_FOLDER)]),
    ):
        output = ["-o", str(FIGURES_FOLDER if command is pictures.main else tmp_path)]
        refused = CliRunner().invoke(command, [str(run), *output, *options])
        assert refused.exit_code == 2
        assert "no real X-ray may be committed" in refused.output
