"""The HTML page as a document: whole by itself, the PDF's facts, hostile text harmless."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import msgspec
import pypdfium2
import pytest

from batch_scorer.errors import OutputError, ReportError
from batch_scorer.report.content.report_options import ReportOptions
from batch_scorer.report.formats.draw import draw_report
from batch_scorer.report.formats.html import embed_images, find_headings, render_html
from batch_scorer.report.formats.pdf import read_report_bundle
from batch_scorer.results.schema import Score
from batch_scorer.storage.output import open_output
from tests.batch_scorer.report.hostile_names import HOSTILE_NAMES, SCRIPT_ENDS
from tests.factories import make_band, make_models, make_rows, make_unscored, write_run

if TYPE_CHECKING:
    from pathlib import Path


class Page(HTMLParser):
    """What matters of a page: its elements with their attributes, and their texts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.texts: dict[str, list[str]] = {}
        self._open = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._open = tag

    def handle_data(self, data):
        self.texts.setdefault(self._open, []).append(data)

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]


def render(output: Path) -> str:
    return render_html(read_report_bundle(open_output(output)))


def rows_of(html: str) -> dict:
    return json.loads(
        re.search(r'<script type="application/json" id="rows">(.*?)</script>', html)[1]
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Both documents of a run with three models, labels, and files that were not scored."""
    output = tmp_path_factory.mktemp("run")
    models = make_models("cnn", "mlp", "vgg16", band=make_band())
    write_run(output, make_rows(models) + make_unscored(2), models, synthetic=True)
    assert draw_report(output, ReportOptions(("pdf", "html"))) == [
        str(output / "report.pdf"),
        str(output / "report.html"),
    ]
    return output


@pytest.fixture(scope="module")
def html(run) -> str:
    return (run / "report.html").read_text(encoding="utf-8")


def test_the_page_needs_no_other_file(html):
    page = Page(html)
    for _, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "action", "poster", "data", "srcset"):
            assert attributes.get(name, "data:").startswith(("data:", "#"))
    assert not page.all("link")
    reached = re.findall(r"""(?:url\(|@import)\s*["']?([^"')]{1,14})""", html)
    assert set(reached) == {"data:font/woff", *(place for place in reached if place[0] == "#")}


def test_the_policy_lets_only_the_page_s_own_style_and_script_through(html):
    page = Page(html)
    policy = next(m["content"] for m in page.all("meta") if "http-equiv" in m)
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["img-src"] == rules["font-src"] == "data:"
    for tag, rule in (("style", "style-src"), ("script", "script-src")):
        text = re.search(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    assert [s.get("type") for s in page.all("script")] == ["application/json", None]
    assert len(page.all("style")) == 1
    for _, attributes in page.elements:
        assert not [name for name in attributes if name == "style" or name.startswith("on")]


def test_the_page_says_what_the_pdf_says(run, html):
    with pypdfium2.PdfDocument(run / "report.pdf") as pdf:
        pages = [page.get_textpage().get_text_bounded() for page in pdf]
    first = re.sub(r"\s+", " ", pages[0])
    shown = Page(html)
    facts = read_report_bundle(open_output(run)).facts
    for tile in facts.summary.tiles:
        assert f"{tile.number} {tile.label}" in first
        assert re.search(
            rf'class="big">{re.escape(tile.number)}</p>\s*<p class="tile-label">{tile.label}<', html
        )
        assert {group["title"]: group["files"] for group in rows_of(html)["groups"]}[
            tile.label.capitalize()
        ] == int(tile.number)
    assert facts.summary.headline in shown.texts["h1"]
    assert facts.summary.headline in first
    printed = re.sub(r"\s+", " ", " ".join(pages))
    for _, _, title in find_headings(html):
        assert title in printed
    assert len(find_headings(html)) == html.count("<h2 id=") - html.count('<h2 id="film-name"')


def test_every_figure_and_film_of_the_pdf_is_in_the_page_with_its_words(run, html):
    material = read_report_bundle(open_output(run))
    pictures = Page(html).all("img")
    assert {picture["data-picture"] for picture in pictures} == set(material.resources)
    assert all(picture["alt"] for picture in pictures)
    for picture in pictures:
        kind, data = re.fullmatch(r"data:([a-z/+]+);base64,(.+)", picture["src"]).groups()
        body = base64.b64decode(data)
        if kind == "image/svg+xml":
            assert body.count(b"@font-face") == 2
        else:
            assert body == material.resources[picture["data-picture"]][0]


def test_all_rows_are_in_the_page_beyond_the_pdf_s_cap(tmp_path):
    models = make_models("cnn")
    rows = make_rows(models, 1_000, 1_200)
    write_run(tmp_path, rows, models)
    page = render(tmp_path)
    assert [row[0][0] for row in rows_of(page)["rows"]] == [row.image for row in rows]
    assert "The first 2,000 of 2,200 files are listed here" in page


def test_the_same_run_gives_the_same_bytes_anywhere(run, html, tmp_path):
    moved = shutil.copytree(run, tmp_path / "moved")
    (moved / "report.html").unlink()
    code = (
        "from batch_scorer.report.content.report_options import ReportOptions\n"
        "from batch_scorer.report.formats.draw import draw_report\n"
        f"draw_report({str(moved)!r}, ReportOptions(('html',)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONHASHSEED": "7"})
    assert (moved / "report.html").read_text(encoding="utf-8") == html
    assert str(moved) not in html


def test_hostile_text_reaches_neither_markup_nor_script(tmp_path):
    models = make_models("cnn")
    title = "</style><svg onload=alert(3)>"
    card = msgspec.structs.replace(models[0].card, name="</script><b>", title=title)
    models = [msgspec.structs.replace(models[0], card=card)]
    names = (*HOSTILE_NAMES, *SCRIPT_ENDS)
    rows = make_rows(models, 7, len(names) - 7, names=names)
    rows.append(
        Score(image="<script>.jpg", status="failed", reason="<i>odd</i>", detail="</script>\n<b>")
    )
    write_run(tmp_path, rows, models, source="s3://b/</script><b>/" + "y" * 500, run_id="<b>'\"")
    hostile = render(tmp_path)
    page = Page(hostile)
    tags = {tag for tag, _ in page.elements}
    assert tags.isdisjoint({"b", "i", "svg", "iframe"})
    assert len(page.all("script")) == hostile.count("<script") == hostile.count("</script") == 2
    assert len(page.all("style")) == hostile.count("</style") == 1
    assert not set(re.findall(r"[\u202a-\u202e\u2066-\u2069\u2028\u2029]", hostile))
    data = hostile[hostile.index('id="rows">') :]
    assert "<" not in data[len('id="rows">') : data.index("</script>")]
    kept = {row[0][0] for row in rows_of(hostile)["rows"]}
    assert SCRIPT_ENDS[0] in kept
    assert "\u4e2d\u6587/\u80f8\u7247.jpg" in kept, "a browser has its own fonts for these"


@pytest.mark.parametrize(
    ("rows_from", "sentence"),
    [
        (lambda models: [], "No file was found to score."),
        (lambda models: make_unscored(4), "No film could be scored."),
        (lambda models: make_rows(models, 0, 1), "of 1 scored film "),
        (lambda models: make_rows(models, labelled=False), "have no labels"),
    ],
    ids=["nothing found", "all failed", "one film", "no labels"],
)
def test_thin_runs_have_a_page(tmp_path, rows_from, sentence):
    models = make_models("cnn")
    write_run(tmp_path, rows_from(models), models)
    page = render(tmp_path)
    assert sentence in re.sub(r"\s+", " ", page)
    assert "None" not in re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)


def test_a_picture_that_is_missing_is_an_empty_frame(tmp_path):
    models = make_models("cnn")
    write_run(tmp_path, make_rows(models, labelled=False), models)
    min((tmp_path / "films").iterdir()).write_bytes(b"not a picture")
    assert render(tmp_path).count("picture not available") == 1


def test_a_figure_that_was_not_drawn_is_an_error():
    with pytest.raises(ReportError, match="shows an image “roc” that was not drawn"):
        embed_images('<img class="wide" src="figure:roc" alt="ROC">', {})
    text = 'alt="src=&#34;film:x&#34;"'
    assert embed_images(text, {}) == text


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(OutputError, match="Expected a finished run"):
        draw_report(tmp_path, ReportOptions(("html",)))
    assert not (tmp_path / "report.html").exists()
