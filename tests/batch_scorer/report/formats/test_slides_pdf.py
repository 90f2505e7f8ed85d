"""The slides: a page for each message, what is said to it, and the rules of the report's PDF."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import page
import pikepdf
import pypdfium2
import pytest
from PIL import Image

from batch_scorer.report.content.branding import Branding
from batch_scorer.report.content.report_options import ReportOptions
from batch_scorer.report.formats import weasyprint
from batch_scorer.report.formats.draw import WRITERS, draw_report
from batch_scorer.report.formats.pdf import read_report_bundle
from batch_scorer.report.formats.slides_pdf import SpeakerNotes, read_speaker_notes
from batch_scorer.results import store
from batch_scorer.storage.output import open_output
from tests.batch_scorer.report.documents import PROFILES, read_text, tags
from tests.batch_scorer.report.hostile_names import HOSTILE_NAMES
from tests.factories import (
    make_comparison,
    make_evidence,
    make_gallery,
    make_models,
    make_rows,
    make_typicality,
    make_unscored,
    with_looks,
    write_run,
)

ORDER = (
    "scored films were flagged as possible pneumonia",
    "In 2018 pneumonia killed a child every 39 seconds",
    "One command reads a whole folder",
    "learned from, 74 show pneumonia",
    "These are films of this batch",
    "In training no film was shown twice",
    "Three networks look at every film",
    "The three models find",
    "Of 100 children with pneumonia the model",
    "was best after",
    "films with pneumonia and wrongly flagged",
    "In this batch the model",
    "Whether this batch looks like the training films",
    "Where 5 of 100 patients have pneumonia",
    "What is missing most is films from other hospitals",
    "Read the flagged films first",
    "These are the sources",
    "Appendix: The model",
    "Appendix: The model",
    "Appendix: this is how all models learned",
)
"""The parts of the seed's presentation, as their slides say them."""


def tell(output: Path) -> tuple[SpeakerNotes, ...]:
    return read_speaker_notes(read_report_bundle(open_output(output)))


def draw(output: Path, **drawing: Any) -> Path:
    [place] = draw_report(output, ReportOptions(("slides",), **drawing))
    return Path(place)


def pages_of(deck: Path) -> list[str]:
    return read_text(deck).split("\f")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The slides of a labelled run with three models, evidence maps and files not scored."""
    output = tmp_path_factory.mktemp("run")
    models = make_models(
        *("cnn", "mlp", "vgg16"),
        evidence=make_evidence(),
        comparison=make_comparison(cnn_mlp=0.0001, cnn_vgg16=0.4),
    )
    rows = make_rows(models) + make_unscored(2)
    write_run(output, rows, models, gallery=make_gallery(rows))
    draw(output)
    return output


def test_the_slides_follow_the_presentation_part_by_part(run: Path) -> None:
    titles = [slide.title for slide in tell(run)]
    assert len(titles) == len(ORDER)
    for title, part in zip(titles, ORDER, strict=True):
        assert part in title


def test_every_slide_is_one_page_with_its_message_and_its_footer(run: Path) -> None:
    pages, slides = pages_of(run / "slides.pdf"), tell(run)
    assert len(pages) == len(slides)
    for number, (text, slide) in enumerate(zip(pages, slides, strict=True), 1):
        assert slide.title in text
        assert f"Page {number} of {len(pages)}" in text
        assert "Research use only. Not a medical device." in text
        assert "Run 20261123-201700-abc123 · model cnn " in text
        assert slide.notes[-40:] not in text


def test_the_pages_are_wide(run: Path) -> None:
    with pypdfium2.PdfDocument(run / "slides.pdf") as pdf:
        width, height = pdf[0].get_size()
    assert width / height == pytest.approx(16 / 9, abs=0.001)


def test_numbers_are_those_of_run_and_cards(run: Path) -> None:
    manifest = store.read_run(open_output(run)).manifest
    text = " ".join(pages_of(run / "slides.pdf"))
    for model in manifest.models:
        for name in ("accuracy", "auc"):
            found = model.card.reference.metrics[name]
            assert f"{found.value:.3f} {found.low:.3f} to {found.high:.3f} n = 624" in text
    assert f"{manifest.flagged} flagged" in text
    assert f"{manifest.not_flagged} clear" in text
    assert "Kermany et al. 2018 0.928 0.932 0.901 0.968" in text


def test_the_notes_lie_beside_the_slides_as_plain_text(run: Path) -> None:
    text = (run / "slides-notes.txt").read_text(encoding="utf-8")
    assert text.startswith("Speaker notes to slides.pdf, run 20261123-201700-abc123\n")
    joined = re.sub(r"\s+", " ", text)
    for number, slide in enumerate(tell(run), 1):
        assert f"{number}. {slide.title} {slide.notes}" in joined
    assert max(map(len, text.splitlines())) <= 88


@pytest.mark.parametrize("variant", weasyprint.VARIANTS)
def test_a_validator_finds_no_fault(run: Path, tmp_path: Path, variant: str) -> None:
    deck = draw(shutil.copytree(run, tmp_path / "copy"), variant=variant)
    report = page.validate_pdf(deck, profile=PROFILES[variant])
    assert report.failures == []
    assert report.is_compliant


def test_the_slides_are_tagged_and_every_message_is_a_bookmark(run: Path) -> None:
    titles = [slide.title for slide in tell(run)]
    with pikepdf.open(run / "slides.pdf") as pdf, pdf.open_outline() as outline:
        assert pdf.Root.Lang == "en-GB"
        assert pdf.docinfo["/Title"] == "Chest X-ray report, slides, run 20261123-201700-abc123"
        [first] = outline.root
        assert [first.title, *(item.title for item in first.children)] == titles
        figures = [tag for tag in tags(pdf) if tag.S == "/Figure"]
        assert len(figures) > 15
        assert all(str(tag.get("/Alt", "")) for tag in figures)
        kinds = {str(tag.S) for tag in tags(pdf)}
        fonts = [o for o in pdf.objects if isinstance(o, pikepdf.Dictionary) and "/FontName" in o]
        assert fonts
        assert all("IBM-Plex-Sans" in str(font.FontName) for font in fonts)
        assert all("/FontFile2" in font or "/FontFile3" in font for font in fonts)
    assert {"/H1", "/H2", "/Table", "/TH", "/TD", "/L"} <= kinds


def test_only_films_are_made_of_pixels(run: Path) -> None:
    with pikepdf.open(run / "slides.pdf") as pdf:
        filters = [
            str(obj.get("/Filter"))
            for obj in pdf.objects
            if isinstance(obj, pikepdf.Stream) and obj.get("/Subtype") == "/Image"
        ]
    assert filters
    assert set(filters) == {"/DCTDecode"}


@pytest.mark.slow
def test_the_same_run_gives_the_same_bytes(run: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(run, tmp_path / "moved")
    for name in ("slides.pdf", "slides-notes.txt"):
        (moved / name).unlink()
    code = (
        "from batch_scorer.report.content.report_options import ReportOptions; "
        "from batch_scorer.report.formats.draw import draw_report; "
        f"draw_report({str(moved)!r}, ReportOptions(('slides',)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    for name in ("slides.pdf", "slides-notes.txt"):
        assert (moved / name).read_bytes() == (run / name).read_bytes()


def test_every_format_has_a_writer_and_a_file() -> None:
    assert set(WRITERS) == set(store.REPORT_FILES)
    assert {*store.REPORT_FILES.values(), store.NOTES_FILE} == set(store.RENDERED_FILES)


def unlike(models: list[Any]) -> list[Any]:
    return with_looks(make_rows(models, 30, 40, labelled=False), brighter=3)


CASES = {
    "nothing": lambda models: [],
    "all failed": lambda models: make_unscored(4),
    "one film": lambda models: make_rows(models, 0, 1),
    "one without a label": lambda models: make_rows(models, 0, 1, labelled=False),
    "no labels": lambda models: with_looks(make_rows(models, 40, 60, labelled=False)),
    "one class": lambda models: make_rows(models, 4, 0),
    "unlike": unlike,
    "labels": lambda models: with_looks(make_rows(models, 40, 60)),
}


@pytest.mark.parametrize("rows_of", CASES.values(), ids=CASES)
@pytest.mark.parametrize(("number", "synthetic"), [(1, True), (3, False)])
def test_notes_are_spoken_in_half_a_minute_and_have_no_slip(
    tmp_path: Path, rows_of: Any, number: int, *, synthetic: bool
) -> None:
    models = make_models(*("cnn", "mlp", "vgg16")[:number], typicality=make_typicality())
    write_run(tmp_path, rows_of(models), models, synthetic=synthetic)
    for title, notes in ((slide.title, slide.notes) for slide in tell(tmp_path)):
        assert 40 <= len(notes.split()) <= 90, f"{title}: {len(notes.split())} words"
        assert notes.endswith(".")
        for slip in ("None", "nan", "  ", " .", "..", "()", "{", "}", " 1 films", "%", "‹"):
            assert slip not in notes
        assert not title.endswith(".") or title.count(" ") < 20


@pytest.mark.slow
@pytest.mark.parametrize("rows_of", CASES.values(), ids=CASES)
def test_thin_runs_have_slides_of_one_page_each(tmp_path: Path, rows_of: Any) -> None:
    models = make_models("vgg16", typicality=make_typicality())
    write_run(tmp_path, rows_of(models), models)
    pages, slides = pages_of(draw(tmp_path)), tell(tmp_path)
    assert [slide.title in text for text, slide in zip(pages, slides, strict=True)] == [True] * len(
        pages
    )
    assert "None" not in " ".join(pages)


@pytest.mark.slow
def test_long_and_hostile_names_are_text_and_fit(tmp_path: Path) -> None:
    titles = {
        "cnn": "<b>bold</b> & \"long\" 'title' <script>alert(1)</script> \u80f8" + " x" * 60,
        "mlp": "W" * 90,
        "vgg16": "$\\frac{1}{2}$ {{ 7*7 }}\n\u202etitle of many words that goes on and on and on",
    }
    models = [
        msgspec.structs.replace(m, card=msgspec.structs.replace(m.card, title=titles[m.name]))
        for m in make_models(*titles, typicality=make_typicality(), evidence=make_evidence())
    ]
    rows = with_looks(make_rows(models, 30, 40, names=HOSTILE_NAMES), brighter=3)
    write_run(
        *(tmp_path, rows, models),
        gallery=make_gallery(rows),
        synthetic=True,
        source="s3://bucket/<i>/" + "y" * 500,
        run_id="2026 <i>" + "r" * 80,
    )
    logo = io.BytesIO()
    Image.new("RGB", (300, 240), "navy").save(logo, "PNG")
    brand = Branding("<u>Title</u> " * 6, "Organisation <s> " * 4, logo.getvalue())
    deck = draw(tmp_path, branding=brand)
    pages, slides = pages_of(deck), tell(tmp_path)
    assert len(pages) == len(slides)
    assert "<script>" in " ".join(pages)
    assert "‹U+202E›" in " ".join(pages)
    assert "<u>Title</u>" in pages[0]
    assert page.validate_pdf(deck).failures == []


def test_where_no_film_is_at_hand_a_drawn_chest_is_changed(tmp_path: Path) -> None:
    models = make_models("cnn")
    write_run(tmp_path, make_rows(models), models)
    shutil.rmtree(tmp_path / "films")
    pages = pages_of(draw(tmp_path))
    assert not any("of this batch, and what the model says" in text for text in pages)
    [shown] = [text for text in pages if "In training no film was shown twice" in text]
    assert "A drawn chest, no patient" in shown


@pytest.mark.slow
def test_synthetic_films_are_called_so_wherever_they_are_shown(tmp_path: Path) -> None:
    models = make_models("cnn")
    write_run(tmp_path, make_rows(models), models, synthetic=True)
    pages = pages_of(draw(tmp_path))
    for part in ("possible pneumonia", "what the model says", "In training no film"):
        [text] = [text for text in pages if part in text.split("Page ")[0][:150]]
        assert re.search("synthetic", text, re.IGNORECASE)


def test_of_a_real_film_nobody_says_that_nothing_was_trained_on_it(run: Path) -> None:
    [shown] = [text for text in pages_of(run / "slides.pdf") if "In training no film" in text]
    assert "A film of this batch; changed more than in training" in shown
    assert "nothing was trained" not in shown


def test_a_model_that_learned_from_films_as_they_are_has_no_slide_on_changes(
    tmp_path: Path,
) -> None:
    [model] = make_models("cnn")
    training = msgspec.structs.replace(
        model.card.training, command="cxr train DATA -o RUN --set augmentation=0.0"
    )
    card = msgspec.structs.replace(model.card, training=training)
    models = [msgspec.structs.replace(model, card=card)]
    write_run(tmp_path, make_rows(models), models)
    assert not any("In training no film" in slide.title for slide in tell(tmp_path))


@pytest.mark.slow
def test_a_batch_unlike_the_training_films_is_warned_of_on_the_first_slide(tmp_path: Path) -> None:
    models = make_models("cnn", typicality=make_typicality())
    write_run(tmp_path, unlike(models), models)
    pages = pages_of(draw(tmp_path))
    assert "Warning: this batch looks unlike the films that the model learned from" in pages[0]
    assert any(text.startswith("This batch looks unlike the films that") for text in pages)
    assert any(text.startswith("Read every film as if there were no model") for text in pages)
    assert not any(text.startswith("Read the flagged films first") for text in pages)


def test_the_appendix_does_not_call_the_model_that_decides_a_second_opinion(
    tmp_path: Path,
) -> None:
    models = make_models("mlp", "cnn")  # the second has the higher AUC
    write_run(tmp_path, make_rows(models), models)
    [slide] = [slide for slide in tell(tmp_path) if slide.title.startswith("Appendix: The model")]
    assert "Multilayer perceptron" in slide.title
    assert "It is the one that decides here" in slide.notes
    assert "second opinion" not in slide.notes
