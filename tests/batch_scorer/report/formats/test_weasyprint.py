"""The PDF as a document: by the rules of PDF/A-3 and PDF/UA, with its data inside, reading nothing.

Four programs that share no code judge it: page (a validator of PDF/A and PDF/UA), qpdf through
pikepdf, PDFium and poppler.
"""

from __future__ import annotations

import hashlib
import io
import logging
import re
import subprocess
import threading
import zlib
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import click
import msgspec
import page
import pikepdf
import pydyf
import pypdfium2
import pytest

from batch_scorer.cli.main import cxr as commands
from batch_scorer.errors import ReportError
from batch_scorer.metrics.classification import ConfusionMatrix
from batch_scorer.report.charts.performance import draw_confusion
from batch_scorer.report.content.report_options import ReportOptions
from batch_scorer.report.content.statements import Statements
from batch_scorer.report.formats import pdf as render
from batch_scorer.report.formats import weasyprint
from batch_scorer.report.formats.draw import draw_report
from tests.batch_scorer.report.documents import PROFILES
from tests.factories import PARTS, make_band, make_models, make_rows, make_unscored, write_run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

IMPRINT = weasyprint.PdfMetadata(b"i" * 16)
SVG = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">%s</svg>'
REFUSED = {
    "picture": '<img alt="a" src="URL">',
    "style sheet": '<link rel="stylesheet" href="URL">',
    "import": '<style>@import url("URL");</style>',
    "background": '<p style="background: url(URL)">x</p>',
    "list mark": '<ul style="list-style-image: url(URL)"><li>x</ul>',
    "typeface": '<style>@font-face { font-family: q; src: url("URL") }</style>',
    "base": '<base href="URL"><img alt="a" src="y.png">',
    "attachment": '<link rel="attachment" href="URL">',
    "attached by a link": '<a rel="attachment" href="URL">x</a>',
    "object": '<object data="URL">x</object>',
    "embed": '<embed src="URL">',
    "svg in the page": SVG % '<image href="URL" width="9" height="9"/>',
}
REFUSED_IN_SVG = {
    "picture": SVG % '<image xlink:href="URL" width="9" height="9"/>',
    "entity": '<!DOCTYPE svg [<!ENTITY e SYSTEM "URL">]>' + SVG % '<text y="8">&e;</text>',
}
IGNORED_IN_SVG = {
    "use": SVG % '<use href="URL#a"/>',
    "import": SVG % '<style>@import url("URL");</style><rect width="9" height="9"/>',
    "style sheet": '<?xml-stylesheet href="URL"?>' + SVG % '<rect width="9" height="9"/>',
    "fill": SVG % '<rect width="9" height="9" fill="url(URL#g)"/>',
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a report of each variant."""
    output = tmp_path_factory.mktemp("run")
    models = make_models("cnn", "mlp", "vgg16", band=make_band())
    rows = make_rows(models) + make_unscored(2)
    rows.append(msgspec.structs.replace(rows[0], image="zz-copy.jpeg", duplicate_of=rows[0].image))
    write_run(output, rows, models, synthetic=True)
    for variant in weasyprint.VARIANTS:
        draw_report(output, ReportOptions(variant=variant))
        (output / "report.pdf").rename(output / name_of(variant))
    return output


@pytest.fixture
def website() -> Iterator[tuple[str, list[str]]]:
    """The address of a server of this machine, and what was asked of it."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Stay quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/x", asked
        server.shutdown()
        thread.join()


def name_of(variant: str) -> str:
    return variant.replace("/", "-") + ".pdf"


def page_of(body: str) -> str:
    return f"<html lang=en><head><title>t</title></head><body>{body}</body></html>"


@pytest.mark.parametrize("variant", weasyprint.VARIANTS)
def test_a_validator_finds_no_fault(run: Path, variant: str) -> None:
    report = page.validate_pdf(run / name_of(variant), profile=PROFILES[variant])
    assert report.failures == []
    assert report.is_compliant
    assert report.rules.passed == report.rules.total > 100


def test_the_validator_does_find_faults(run: Path, tmp_path: Path) -> None:
    with pikepdf.open(run / "pdf-a-3a.pdf") as pdf:
        del pdf.Root.OutputIntents
        del pdf.Root.AF[0].AFRelationship
        pdf.save(tmp_path / "broken.pdf")
    report = page.validate_pdf(tmp_path / "broken.pdf", profile=PROFILES["pdf/a-3a"])
    assert not report.is_compliant
    assert len({failure.rule_id for failure in report.failures}) >= 2


def test_it_says_that_it_is_an_archive_copy(run: Path) -> None:
    with pikepdf.open(run / "pdf-a-3a.pdf") as pdf:
        assert pdf.check_pdf_syntax() == []
        assert not pdf.is_encrypted
        with pdf.open_metadata() as metadata:
            assert metadata.pdfa_status == "3A"
        assert "/Filter" not in pdf.Root.Metadata
        [intent] = pdf.Root.OutputIntents
        assert intent.S == "/GTS_PDFA1"
        assert b"sRGB" in intent.DestOutputProfile.read_bytes()
        assert pdf.Root.Lang == "en-GB"
        assert pdf.Root.MarkInfo.Marked
        images = [obj for obj in pdf.objects if is_a(obj, "/Subtype", "/Image")]
        assert len(images) > 10
        assert not any(image.get("/Interpolate", False) for image in images)


def test_the_other_variant_says_that_it_is_accessible(run: Path) -> None:
    with pikepdf.open(run / "pdf-ua-1.pdf") as pdf:
        assert b'pdfuaid:part="1"' in pdf.Root.Metadata.read_bytes()
        assert b"pdfaid" not in pdf.Root.Metadata.read_bytes()
        assert pdf.Root.ViewerPreferences.DisplayDocTitle
        assert sorted(pdf.attachments) == ["predictions.csv", "run.json", "statements.json"]


def is_a(obj: object, key: str, value: str) -> bool:
    return isinstance(obj, pikepdf.Dictionary | pikepdf.Stream) and obj.get(key) == value


def test_every_part_has_a_bookmark(run: Path) -> None:
    with pikepdf.open(run / "pdf-a-3a.pdf") as pdf, pdf.open_outline() as outline:
        [first] = outline.root
        assert tuple(item.title for item in first.children) == PARTS


def test_rows_and_run_are_attached_whole_as_its_data(run: Path) -> None:
    with pikepdf.open(run / "pdf-a-3a.pdf") as pdf:
        assert sorted(pdf.attachments) == ["predictions.csv", "run.json", "statements.json"]
        for name, kind in (("predictions.csv", "/text/csv"), ("run.json", "/application/json")):
            specification = pdf.attachments[name]
            file = specification.get_file()
            assert file.read_bytes() == (run / name).read_bytes()
            assert specification.relationship == "/Data"
            assert specification.description
            assert file.obj.Subtype == kind
            assert file.obj.Params.ModDate == "D:20261123201709Z"
        assert [str(entry.F) for entry in pdf.Root.AF] == sorted(pdf.attachments)
    with pypdfium2.PdfDocument(run / "pdf-a-3a.pdf") as other:
        found = {
            (file := other.get_attachment(index)).get_name(): bytes(file.get_data())
            for index in range(other.count_attachments())
        }
    statements = msgspec.json.decode(found.pop("statements.json"), type=Statements)
    assert statements.run_sha256 == hashlib.sha256(found["run.json"]).hexdigest()
    assert found == {name: (run / name).read_bytes() for name in ("predictions.csv", "run.json")}


@pytest.mark.needs("poppler")
def test_poppler_reads_text_pictures_and_attachments(run: Path, tmp_path: Path) -> None:
    report = run / "pdf-a-3a.pdf"

    def say(*command: object) -> str:
        return subprocess.run(
            list(map(str, command)), check=True, capture_output=True, text=True
        ).stdout

    about = say("pdfinfo", report)
    assert re.search(r"Tagged: +yes", about)
    assert re.search(r"Encrypted: +no", about)
    assert re.search(r"JavaScript: +no", about)
    text = say("pdftotext", report, "-")
    assert all(part.partition(" ")[2] in text for part in PARTS)
    assert len(say("pdfimages", "-list", report).splitlines()) > 10
    say("pdfdetach", "-saveall", "-o", tmp_path, report)
    for name in ("predictions.csv", "run.json"):
        assert (tmp_path / name).read_bytes() == (run / name).read_bytes()


def test_a_large_attachment_is_whole_and_small() -> None:
    data = b"".join(b"films/%08d.jpeg,scored,PNEUMONIA,0.912345\n" % i for i in range(300_000))
    file = weasyprint.Attachment("predictions.csv", "All of them.", data)
    pdf = weasyprint.render_pdf(
        page_of("x"), {}, weasyprint.PdfMetadata(b"i" * 16, attachments=(file,))
    )
    assert len(pdf) < len(data) / 4
    with pypdfium2.PdfDocument(pdf) as opened:
        assert bytes(opened.get_attachment(0).get_data()) == data


def test_a_stream_whose_last_byte_looks_like_a_line_end_keeps_its_length() -> None:
    # A zlib stream ends with the checksum of its content.
    numbers = (b"%d" % number for number in range(10_000, 99_999))
    data = next(number for number in numbers if zlib.adler32(number) & 0xFF == ord("\r"))
    file = weasyprint.Attachment("predictions.csv", "All of them.", data)
    pdf = weasyprint.render_pdf(
        page_of("<p>x"), {}, weasyprint.PdfMetadata(b"i" * 16, attachments=(file,))
    )
    assert page.validate_pdf_bytes(pdf).failures == []
    with pypdfium2.PdfDocument(pdf) as opened:
        assert bytes(opened.get_attachment(0).get_data()) == data


def test_streams_that_are_added_last_keep_their_length_too() -> None:
    data = next(b"%d" % i for i in range(10_000, 99_999) if zlib.adler32(b"%d" % i) & 0xFF == 13)
    pdf = pydyf.PDF()
    weasyprint._fix_pdf(None, pdf)
    pdf.add_object(pydyf.Stream([data], compress=True))
    written = io.BytesIO()
    pdf.write(written)
    assert b"stream\n" + data + b"\nendstream" in written.getvalue()
    assert b"\r\nendstream" not in written.getvalue()


@pytest.mark.parametrize("finished", ["", "yesterday", "2026-11-23T20:17:09", "2026-13-01T00:00Z"])
def test_what_is_no_moment_is_none(finished: str) -> None:
    assert render._parse_timestamp(finished) is None


def test_an_attachment_without_a_date_does_not_get_the_present_one() -> None:
    file = weasyprint.Attachment("run.json", "The run.", b"{}")
    pdf = weasyprint.render_pdf(
        page_of("x"), {}, weasyprint.PdfMetadata(b"i" * 16, attachments=(file,))
    )
    assert b"/ModDate (D:19700101000000Z)" in pdf


def test_a_moment_keeps_its_time_zone() -> None:
    moment = render._parse_timestamp("2026-11-23T22:17:09+02:00")
    assert moment == datetime(2026, 11, 23, 20, 17, 9, tzinfo=UTC)
    file = weasyprint.Attachment("run.json", "The run.", b"{}")
    imprint = weasyprint.PdfMetadata(b"i" * 16, moment, attachments=(file,))
    assert b"D:20261123201709Z" in weasyprint.render_pdf(page_of("x"), {}, imprint)


def test_the_options_are_the_variants() -> None:
    for name in ("score", "merge", "report"):
        command = commands.get_command(click.Context(commands), name)
        assert command is not None
        [option] = [param for param in command.params if param.name == "pdf_variant"]
        assert isinstance(option.type, click.Choice)
        assert tuple(option.type.choices) == weasyprint.VARIANTS


def test_the_fetcher_reads_nothing_but_what_it_was_handed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.svg"
    secret.write_text("<svg/>")
    fetch = weasyprint._make_fetcher({"0" * 16: (b"x", "image/jpeg")})
    assert fetch("report:style.css").read().startswith(b"/* One typeface")
    assert fetch("film:" + "0" * 16).read() == b"x"
    for url in (
        secret.as_uri(),
        "http://example.org/x.png",
        "data:text/plain,x",
        "report:../pyproject.toml",
        "report:__init__.py",
        "film:../run.json",
    ):
        with pytest.raises(ValueError, match="the report may not read"):
            fetch(url)


def test_anything_that_weasyprint_complains_about_fails_the_report() -> None:
    before = list(logging.getLogger("weasyprint").handlers)
    figure = {"x": (draw_confusion(ConfusionMatrix(1, 1, 1, 1)).encode(), "image/svg+xml")}
    body = "<html lang=en><title>t</title><img src='figure:x'>"
    with pytest.raises(ReportError, match=r"gave a warning.*no required alt"):
        weasyprint.render_pdf(body, figure, IMPRINT)
    with pytest.raises(ReportError, match="Failed to load image at 'figure:x'"):
        weasyprint.render_pdf(body, {}, IMPRINT)
    with pytest.raises(ReportError, match="lang"):
        weasyprint.render_pdf("<html><title>t</title><p>text", {}, IMPRINT)
    assert logging.getLogger("weasyprint").handlers == before


@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("kind", ["web", "file"])
def test_a_page_that_names_anything_else_is_not_printed(
    website: tuple[str, list[str]], kind: str, body: str
) -> None:
    address, asked = website
    body = body.replace("URL", address if kind == "web" else "file:///etc/passwd")
    with pytest.raises(ReportError, match=r"may not read|cannot be loaded"):
        weasyprint.render_pdf(page_of(body), {}, IMPRINT)
    assert asked == []


@pytest.mark.parametrize("picture", REFUSED_IN_SVG.values(), ids=REFUSED_IN_SVG)
@pytest.mark.parametrize("kind", ["web", "file"])
def test_a_figure_that_names_anything_else_is_not_printed(
    website: tuple[str, list[str]], kind: str, picture: str
) -> None:
    address, asked = website
    picture = picture.replace("URL", address if kind == "web" else "file:///etc/passwd")
    figure = {"x": (picture.encode(), "image/svg+xml")}
    with pytest.raises(ReportError, match="Failed to load image"):
        weasyprint.render_pdf(page_of('<img alt="a" src="figure:x">'), figure, IMPRINT)
    assert asked == []


@pytest.mark.parametrize("picture", IGNORED_IN_SVG.values(), ids=IGNORED_IN_SVG)
def test_what_a_figure_names_otherwise_is_not_fetched(
    website: tuple[str, list[str]], tmp_path: Path, picture: str
) -> None:
    address, asked = website
    secret = tmp_path / "secret.svg"
    secret.write_text(SVG % '<text id="a" y="8">SECRET</text>')
    for url in (address, secret.as_uri()):
        figure = {"x": (picture.replace("URL", url).encode(), "image/svg+xml")}
        pdf = weasyprint.render_pdf(page_of('<img alt="a" src="figure:x">'), figure, IMPRINT)
        with pypdfium2.PdfDocument(pdf) as opened:
            assert "SECRET" not in opened[0].get_textpage().get_text_bounded()
    assert asked == []
