"""The PDF: what it says, how it is tagged, what it may read, and what it leaves behind."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pikepdf
import pytest
from page import validate_pdf
from PIL import Image, ImageFile

from batch_scorer.errors import OutputError, ReportError
from batch_scorer.report.content.branding import Branding
from batch_scorer.report.content.report_options import ReportOptions
from batch_scorer.report.formats import pdf as render
from batch_scorer.report.formats import weasyprint
from batch_scorer.report.formats.draw import draw_report
from batch_scorer.report.formats.pdf import read_report_bundle
from batch_scorer.results import store
from batch_scorer.results.schema import Gallery, Score
from batch_scorer.storage.output import open_output
from tests.batch_scorer.report.documents import read_text, tags
from tests.batch_scorer.report.hostile_names import HOSTILE_NAMES
from tests.factories import (
    PARTS,
    make_band,
    make_comparison,
    make_evidence,
    make_external,
    make_gallery,
    make_models,
    make_rows,
    make_typicality,
    make_unscored,
    with_looks,
    write_run,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rendered run with three models, labels, copies and files that were not scored."""
    output = tmp_path_factory.mktemp("run")
    models = make_models("cnn", "mlp", "vgg16")
    rows = make_rows(models) + make_unscored(2)
    rows.append(msgspec.structs.replace(rows[0], image="zz-copy.jpeg", duplicate_of=rows[0].image))
    write_run(output, rows, models, synthetic=True)
    assert draw_report(output)[0] == str(output / "report.pdf")
    return output


def test_the_pdf_is_tagged_titled_and_dated_by_the_run(run: Path) -> None:
    with pikepdf.open(run / "report.pdf") as pdf:
        assert pdf.Root.Lang == "en-GB"
        assert pdf.Root.MarkInfo.Marked
        assert pdf.docinfo["/Title"] == "Chest X-ray report, run 20261123-201700-abc123"
        assert str(pdf.docinfo["/CreationDate"]).startswith("D:20261123201709")
        assert len(pdf.open_outline().__enter__().root) > 0
        kinds = {str(tag.S) for tag in tags(pdf)}
    assert {"/Document", "/H1", "/H2", "/H3", "/Table", "/TH", "/TD", "/Figure", "/L"} <= kinds


def test_every_picture_has_an_alternative_text(run: Path) -> None:
    with pikepdf.open(run / "report.pdf") as pdf:
        alts = [str(tag.get("/Alt", "")) for tag in tags(pdf) if tag.S == "/Figure"]
    assert len(alts) > 10
    assert all(alts)
    assert any(re.search(r"Confusion matrix.*\d+ were flagged and \d+ missed", alt) for alt in alts)


def test_every_font_is_embedded_and_the_bundled_one(run: Path) -> None:
    with pikepdf.open(run / "report.pdf") as pdf:
        fonts = [
            obj
            for obj in pdf.objects
            if isinstance(obj, pikepdf.Dictionary) and obj.get("/Type") == "/FontDescriptor"
        ]
        assert fonts
        assert all("IBM-Plex-Sans" in str(font.FontName) for font in fonts)
        assert all("/FontFile2" in font or "/FontFile3" in font for font in fonts)


def test_every_page_has_its_footer(run: Path) -> None:
    pages = read_text(run / "report.pdf").rstrip("\f ").split("\f")
    for number, page in enumerate(pages, 1):
        assert f"Page {number} of {len(pages)}" in page
        assert "Research use only. Not a medical device." in page
        assert "Run 20261123-201700-abc123 · model cnn " in page


def test_page_one_answers_alone(run: Path) -> None:
    manifest = store.read_run(open_output(run)).manifest
    page = read_text(run / "report.pdf").split("\f")[0]
    assert f"{manifest.flagged} of 22 scored films were flagged" in page
    for part in (
        "These films are synthetic",
        "What was scored",
        "By which model",
        "How far to trust it",
        "What to do next",
        "What it must not be used for",
        "from AUC 0.95 to 0.54",
    ):
        assert part in page
    assert "2 Films to look at first" in read_text(run / "report.pdf").split("\f")[1]


def test_the_sections_come_in_their_order(run: Path) -> None:
    text = read_text(run / "report.pdf")
    places = [text.index(title) for title in PARTS]
    assert places == sorted(places)


def test_the_part_on_how_it_works_ends_with_what_to_do_and_what_is_to_come(run: Path) -> None:
    text = read_text(run / "report.pdf")
    method = text[text.index("8 How it works") : text.index("9 Appendix for the statistician")]
    titles = ("Limits", "Recommended actions", "Future work", "Labelled films from other hospitals")
    places = [method.index(title) for title in titles]
    assert places == sorted(places)


@pytest.mark.slow
def test_the_same_run_gives_the_same_bytes_anywhere(run: Path, tmp_path: Path) -> None:
    first = (run / "report.pdf").read_bytes()
    assert Path(draw_report(run)[0]).read_bytes() == first
    moved = shutil.copytree(run, tmp_path / "moved")
    (moved / "report.pdf").unlink()
    code = f"from batch_scorer.report.formats.draw import draw_report; draw_report({str(moved)!r})"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (moved / "report.pdf").read_bytes() == first
    assert str(moved).encode() not in first


def test_no_unfinished_file_is_left(run: Path) -> None:
    assert not list(run.glob("*.partial"))


def test_pillow_still_refuses_truncated_films(run: Path) -> None:
    code = (
        "from PIL import ImageFile\n"
        "from batch_scorer.report.formats.draw import draw_report\n"
        "import sys\n"
        "assert 'weasyprint' not in sys.modules\n"
        f"draw_report({str(run)!r})\n"
        "assert 'weasyprint' in sys.modules\n"
        "assert ImageFile.LOAD_TRUNCATED_IMAGES is False\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_hostile_names_are_text(tmp_path: Path) -> None:
    models = make_models("cnn")
    card = msgspec.structs.replace(
        models[0].card, name="<b>n'\"\n", title="$\\frac{1}$ <svg> \u80f8" + "t" * 80
    )
    models = [msgspec.structs.replace(models[0], card=card)]
    rows = make_rows(models, 5, 8, names=HOSTILE_NAMES)
    rows.append(
        Score(image="<script>.jpg", status="failed", reason="<i>odd</i>", detail="</td>\n" * 99)
    )
    write_run(tmp_path, rows, models, source="s3://bucket/<b>/" + "y" * 500, run_id='2026 <i>"x"')
    report = draw_report(tmp_path)[0]
    assert validate_pdf(report).failures == []
    text = read_text(report)
    assert "3 How good are the models" in text
    for shown in (
        "<b>bold</b>\"'&.jpg",
        "‹U+202E›gpj.exe‹U+2066›",
        "{{ 7*7 }}",
        "<script>.jpg",
        "<i>odd</i>",
    ):
        assert shown in text
    assert "line‹U+000A›break" in text


@pytest.mark.slow
def test_band_elsewhere_and_comparison_are_printed(tmp_path: Path) -> None:
    models = make_models(
        *("cnn", "mlp"),
        band=make_band(),
        external=[make_external()],
        comparison=make_comparison(cnn_mlp=0.0001, cnn_vgg16=0.4),
    )
    rows = make_rows(models)
    write_run(tmp_path, rows, models)
    text = read_text(draw_report(tmp_path)[0])
    for part in (
        "Uncertain",
        "around the threshold. Read these as if the model had said nothing.",
        "uncertain: in the band around the threshold",
        "Normal films from elsewhere",
        "Of 600 normal films of “adults elsewhere” the model Convolutional network wrongly flags",
        "The models against each other",
        "by AUC, Convolutional network is better than Multilayer perceptron.",
        "+0.030 −0.010 to 0.050 under 0.001 yes",
    ):
        assert part in text
    assert "VGG16" not in text


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rendered run whose flagged films have evidence maps."""
    output = tmp_path_factory.mktemp("mapped")
    models = make_models("cnn", "mlp", evidence=make_evidence())
    rows = make_rows(models, 20, 30)
    write_run(output, rows, models, gallery=make_gallery(rows))
    draw_report(output)
    return output


def test_maps_lie_beside_their_films_with_one_scale_and_texts(mapped: Path) -> None:
    text = read_text(mapped / "report.pdf")
    assert text.count("Beside each flagged film lies its evidence map") == 1
    assert text.count("one scale for all maps") == 1
    assert "picture not available" not in text
    with pikepdf.open(mapped / "report.pdf") as pdf:
        alts = [str(tag.get("/Alt", "")) for tag in tags(pdf) if tag.S == "/Figure"]
    maps = [alt for alt in alts if alt.startswith("Evidence map of ")]
    films = [alt for alt in alts if alt.startswith("Chest film ")]
    assert len(maps) == sum(alt.endswith(" flagged.") for alt in films) - sum(
        alt.endswith("not flagged.") for alt in films
    )
    assert all(
        re.search(r"brightest in the [a-z ]+ of the picture, \d+\.\d+ in log", m) for m in maps
    )
    assert [alt for alt in alts if alt.startswith("Scale of the evidence maps")] == [
        "Scale of the evidence maps: from dark, no evidence or evidence against, to bright, 9.5 in "
        "log odds."
    ]


@pytest.mark.slow
def test_a_map_that_is_missing_or_broken_is_an_empty_frame(mapped: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(mapped, tmp_path / "broken")
    first, second, *_ = sorted((broken / "films").glob("*-evidence.jpg"))
    first.unlink()
    second.write_bytes(b"<svg/>")
    assert read_text(draw_report(broken)[0]).count("picture not available") == 2


def test_a_name_in_run_json_reaches_no_other_file(mapped: Path, tmp_path: Path) -> None:
    facts = read_report_bundle(open_output(mapped)).facts
    film = next(f for row in facts.gallery for part in row for f in part.images if f.evidence)
    assert render._REPORT_IMAGE_NAME.fullmatch(film.evidence)
    for name in ("../run", "0" * 16 + "-other", "0" * 16 + "-evidence/../../run", "0" * 15):
        assert not render._REPORT_IMAGE_NAME.fullmatch(name)


@pytest.mark.slow
def test_a_run_without_maps_says_once_why(tmp_path: Path) -> None:
    models = make_models("cnn")
    rows = make_rows(models)
    write_run(tmp_path, rows, models, gallery=Gallery("flagged", no_maps_reason="unanswered"))
    text = read_text(draw_report(tmp_path)[0])
    assert text.count("gives no evidence maps, so the films stand alone") == 1
    assert "one scale" not in text


@pytest.mark.slow
def test_a_batch_unlike_the_training_films_is_warned_of_on_page_one(tmp_path: Path) -> None:
    models = make_models("cnn", typicality=make_typicality())
    rows = with_looks(make_rows(models, 30, 40, labelled=False), brighter=3)
    write_run(tmp_path, rows, models)
    pages = read_text(draw_report(tmp_path)[0]).split("\f")
    assert (
        "Warning: this batch looks unlike the films that the model learned from (sect" in pages[0]
    )
    assert "What it must not be used for" in pages[0]
    text = " ".join(pages)
    for part in (
        "Warning: this batch looks unlike the films that the model learned from.",
        "What may be expected of it, without labels",
        "do not use these estimates.",
        "Filled: flagged by the model. Hollow: not flagged.",
        "With pneumonia, of 100 flagged",
        "Where three reporting guidelines are answered",
        "not available",
    ):
        assert part in text


@pytest.mark.slow
def test_page_one_stays_one_page(tmp_path: Path) -> None:
    models = [
        msgspec.structs.replace(
            model, card=msgspec.structs.replace(model.card, title=f"{model.name} " + "long " * 40)
        )
        for model in make_models(
            "cnn", "mlp", "vgg16", band=make_band(), typicality=make_typicality()
        )
    ]
    rows = with_looks(make_rows(models, 40, 50), brighter=3) + make_unscored(3)
    rows.append(msgspec.structs.replace(rows[0], image="zz", duplicate_of=rows[0].image))
    write_run(tmp_path, rows, models, synthetic=True, hidden=12, source="s3://" + "x" * 900)
    logo = io.BytesIO()
    Image.new("RGB", (300, 240), "navy").save(logo, "PNG")
    brand = Branding("Title " * 11, "Organisation " * 5, logo.getvalue())
    pages = read_text(draw_report(tmp_path, ReportOptions(branding=brand))[0]).split("\f")
    write_run(
        *(tmp_path, rows, models),
        synthetic=True,
        hidden=12,
        atypical=2,
        reasons={"truncated": 3, "not_radiograph": 2},
        source="s3://" + "x" * 900,
    )
    pages = read_text(draw_report(tmp_path)[0]).split("\f")
    assert "Warning: this batch looks unlike" in pages[0]
    assert "What it must not be used for" in pages[0]
    assert pages[1].strip().startswith("2 Films to look at first")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows_of", "sentence"),
    [
        (lambda models: [], "No file was found to score."),
        (lambda models: make_unscored(4), "No film could be scored."),
        (lambda models: make_rows(models, 0, 1), "of 1 scored film "),
        (lambda models: make_rows(models, 3, 0), "No film here is labelled pneumonia"),
        (lambda models: make_rows(models, labelled=False), "have no labels"),
    ],
    ids=["nothing found", "all failed", "one film", "one class", "no labels"],
)
def test_thin_runs_have_a_report(tmp_path: Path, rows_of: Any, sentence: str) -> None:
    models = make_models("cnn")
    write_run(tmp_path, rows_of(models), models)
    text = read_text(draw_report(tmp_path)[0])
    assert sentence in text
    assert "None" not in text


@pytest.mark.slow
def test_a_picture_that_is_missing_or_broken_is_an_empty_frame(tmp_path: Path) -> None:
    models = make_models("cnn")
    rows = make_rows(models, labelled=False)
    write_run(tmp_path, rows, models)
    pictures = sorted((tmp_path / "films").iterdir())
    pictures[0].unlink()
    pictures[1].write_bytes(b"not a picture")
    pictures[2].unlink()
    pictures[2].symlink_to("/etc/hostname")
    text = read_text(draw_report(tmp_path)[0])
    assert text.count("picture not available") == 3


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="Expected a finished run"):
        draw_report(tmp_path)


def test_a_machine_without_pango_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert weasyprint.find_missing_library() is None
    models = make_models("cnn")
    write_run(tmp_path, make_rows(models, 1, 1), models)

    class NoPango:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "weasyprint":
                raise OSError("cannot load library 'libpango-1.0-0'")

    for name in [name for name in sys.modules if name.split(".")[0] == "weasyprint"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [NoPango(), *sys.meta_path])
    assert "apt-get install libpango-1.0-0" in (weasyprint.find_missing_library() or "")
    with pytest.raises(ReportError, match="brew install pango"):
        draw_report(tmp_path)
    assert not (tmp_path / "report.pdf").exists()
