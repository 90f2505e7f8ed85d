"""Title, organisation and logo: shown where they should be, and harmless whatever they hold."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pikepdf
import pytest
from PIL import Image

from batch_scorer.errors import UsageError
from batch_scorer.report.content import branding
from batch_scorer.report.content.branding import (
    NO_BRANDING,
    Branding,
    describe_branding,
    read_branding,
)
from batch_scorer.report.content.report_options import ReportOptions
from batch_scorer.report.formats.draw import draw_report
from tests.batch_scorer.report.documents import read_text, tags
from tests.factories import make_models, make_rows, write_run
from tests.images import encode

if TYPE_CHECKING:
    from collections.abc import Callable

SVG = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
BLUE_HALF = '<rect width="50" height="100" fill="#0000ff"/>'


def draw(path: Path, body: str, size: str = 'width="100" height="100"', head: str = "") -> Path:
    path.write_text(f"{head}{SVG}{size}>{body}</svg>", encoding="utf-8")
    return path


def logo_of(path: Path) -> Image.Image:
    logo = read_branding(logo=path).logo
    assert logo is not None
    return Image.open(io.BytesIO(logo))


def test_nothing_given_is_the_plain_report() -> None:
    assert read_branding() == NO_BRANDING
    assert not read_branding(" ", "").is_custom
    facts = describe_branding(NO_BRANDING)
    assert (facts.title, facts.footer, facts.has_logo) == ("Chest X-ray report", "", False)
    assert facts.kicker == "Chest X-ray report · pneumonia"


def test_texts_that_would_not_fit_are_refused_and_hostile_ones_are_made_visible() -> None:
    with pytest.raises(UsageError, match=r"--title of at most 70 characters, found 71"):
        read_branding("x" * 71)
    with pytest.raises(UsageError, match="--organisation of at most 70"):
        read_branding("", "x" * 71)
    facts = describe_branding(Branding("a\u202eb", "c\nd"))
    assert (facts.title, facts.organisation) == ("a‹U+202E›b", "c‹U+000A›d")
    assert facts.footer == "c‹U+000A›d · a‹U+202E›b"


def test_a_png_is_drawn_anew_on_white_and_no_larger_than_needed(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (3000, 500), (0, 0, 255, 255))
    picture.paste((0, 0, 0, 0), (1500, 0, 3000, 500))
    path = tmp_path / "logo.png"
    picture.save(path, pnginfo=None)
    with path.open("ab") as file:
        file.write(b"<script>alert(1)</script>")
    logo = logo_of(path)
    assert (logo.size, logo.mode) == ((720, 120), "RGB")
    assert logo.getpixel((10, 60)) == (0, 0, 255)
    assert logo.getpixel((700, 60)) == (255, 255, 255)
    assert b"script" not in (read_branding(logo=path).logo or b"")


def test_an_svg_is_drawn_in_its_proportions_with_the_bundled_typeface(tmp_path: Path) -> None:
    text = '<text x="60" y="60" font-size="30" font-family="Arial, IBM Plex Sans">Clinic</text>'
    logo = logo_of(draw(tmp_path / "a.svg", BLUE_HALF + text, 'viewBox="0 0 200 100"'))
    assert logo.size == (480, 240)
    assert logo.getpixel((10, 120)) == (0, 0, 255)
    written = np.asarray(logo.convert("L"))[:, 150:]
    assert (written < 100).sum() > 500, "the text is drawn"
    assert logo_of(tmp_path / "a.svg").tobytes() == logo.tobytes()


@pytest.mark.parametrize(
    ("says", "size"),
    [
        ('viewBox="0 0 400000 1000"', (720, 2)),
        ('width="1" height="1"', (240, 240)),
        ('width="90000" height="45000"', (480, 240)),
    ],
)
def test_a_logo_is_as_large_as_needed_whatever_it_says(
    tmp_path: Path, says: str, size: tuple[int, int]
) -> None:
    assert logo_of(draw(tmp_path / "a.svg", BLUE_HALF, says)).size == size


@pytest.mark.parametrize(
    "body",
    [
        "<script>alert(1)</script>" + BLUE_HALF,
        '<rect width="50" height="100" fill="#0000ff" onclick="alert(1)" onload="alert(1)"/>',
        '<foreignObject width="100" height="100"><body xmlns="http://www.w3.org/1999/xhtml">'
        "<iframe/><h1>words</h1></body></foreignObject>" + BLUE_HALF,
        "<style>@import url(http://127.0.0.1:9/x.css); rect{x:0}</style>" + BLUE_HALF,
        '<rect x="50" width="50" height="100" fill="url(http://127.0.0.1:9/x.svg#a) #fff"/>'
        + BLUE_HALF,
        "<animate attributeName='x' from='0' to='9'/><set/>" + BLUE_HALF,
    ],
    ids=["script", "handlers", "foreignObject", "import", "paint server", "animation"],
)
def test_what_is_no_picture_in_an_svg_is_not_drawn(tmp_path: Path, body: str) -> None:
    logo = logo_of(draw(tmp_path / "hostile.svg", body))
    colours = {colour for _, colour in logo.getcolors(100_000) or ()}
    assert (0, 0, 255) in colours
    assert colours <= {(0, 0, 255), (255, 255, 255), (0, 0, 0)}


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ('<image href="{secret}" width="100" height="100"/>', "a link to"),
        ('<image xlink:href="{secret}" width="100" height="100"/>', "a link to"),
        ('<image xlink:href="file://{secret}" width="9" height="9"/>', "a link to file:"),
        ('<image href="../{secret}" width="9" height="9"/>', "a link to"),
        ('<image href=" http://127.0.0.1:9/a.png" width="9" height="9"/>', "a link to"),
        ('<image href="data:image/svg+xml;base64,PHN2Zy8+"/>', "a link to data:image/svg"),
        ('<filter id="f"><feImage href="{secret}"/></filter>', "a link to"),
        ('<use href="http://127.0.0.1:9/a.svg#x"/>', "a link to http"),
        ('<a xmlns:z="http://www.w3.org/1999/xlink" z:href="javascript:x()"/>', "a link to java"),
    ],
)
def test_an_svg_that_points_outside_itself_is_refused(
    tmp_path: Path, body: str, found: str
) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(encode(np.full((9, 9), 7, np.uint8)))
    path = draw(tmp_path / "hostile.svg", body.format(secret=secret))
    with pytest.raises(UsageError, match=re.escape(f"found {found}")):
        read_branding(logo=path)


@pytest.mark.parametrize(
    "declared",
    [
        '<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;">',
        '<!ENTITY c SYSTEM "file:///etc/hostname">',
        '<!ENTITY % c SYSTEM "http://127.0.0.1:9/x.dtd">',
    ],
    ids=["bomb", "external", "parameter"],
)
def test_an_svg_that_declares_entities_is_refused(tmp_path: Path, declared: str) -> None:
    path = draw(tmp_path / "a.svg", "<text>&c;</text>", head=f"<!DOCTYPE svg [{declared}]>")
    with pytest.raises(UsageError, match="found entity declarations"):
        read_branding(logo=path)


def test_an_svg_that_grows_without_end_is_refused(tmp_path: Path) -> None:
    levels = "".join(
        f'<g id="l{level}">' + f'<use href="#l{level - 1}"/>' * 12 + "</g>"
        for level in range(1, 12)
    )
    path = draw(tmp_path / "a.svg", f'<g id="l0">{BLUE_HALF}</g>{levels}<use href="#l11"/>')
    with pytest.raises(UsageError, match=r"cannot be drawn: ValueError: .* nodes limit reached"):
        read_branding(logo=path)


def test_an_svg_that_takes_too_long_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(branding, "RENDER_TIMEOUT_S", 0.001)
    with pytest.raises(UsageError, match=r"to render within 0\.001 seconds"):
        read_branding(logo=draw(tmp_path / "a.svg", BLUE_HALF))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "cannot be read: No such file"),
        (lambda path: path.write_bytes(b""), "neither PNG nor SVG"),
        (lambda path: path.write_text("<html>"), "neither PNG nor SVG"),
        (lambda path: path.write_text("<html/>"), "cannot be drawn"),
        (lambda path: path.write_text(f'{SVG}width="0" height="0"/>'), "SVG has an invalid size"),
        (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 99), "cannot be read"),
        (lambda path: path.write_bytes(b"x" * 2_000_001), "at most 2 MB"),
        (
            lambda path: Image.new("1", (5000, 4001)).save(path, "PNG"),
            "at most 20 megapixels",
        ),
        (lambda path: Image.new("1", (10_000, 9_500)).save(path, "PNG"), "at most 20 megapixels"),
        (lambda path: Image.new("L", (9, 9)).save(path, "JPEG"), "neither PNG nor SVG"),
    ],
)
def test_what_is_no_logo_is_refused_in_one_sentence(
    tmp_path: Path, make: Callable[[Path], Any], message: str
) -> None:
    path = tmp_path / "logo"
    make(path)
    with pytest.raises(UsageError, match=message):
        read_branding(logo=path)


@pytest.mark.slow
def test_the_report_carries_them_on_page_one_and_in_every_footer(tmp_path: Path) -> None:
    models = make_models("cnn")
    write_run(tmp_path, make_rows(models), models)
    plain = Path(draw_report(tmp_path)[0]).read_bytes()
    logo = draw(tmp_path / "logo.svg", BLUE_HALF)
    brand = read_branding("Screening <b>2</b>", "Ministry & Co", logo)
    path = draw_report(tmp_path, ReportOptions(branding=brand))[0]
    pages = read_text(path).split("\f")
    assert pages[0].startswith("Screening <b>2</b> Ministry & Co")
    assert all("Ministry & Co · Screening <b>2</b> Research use only." in page for page in pages)
    with pikepdf.open(path) as pdf:
        assert pdf.docinfo["/Title"] == "Screening <b>2</b>, run 20261123-201700-abc123"
        assert pdf.docinfo["/Author"] == "Ministry & Co"
        alts = [str(tag.get("/Alt", "")) for tag in tags(pdf) if tag.S == "/Figure"]
    assert "Logo of Ministry & Co." in alts
    assert Path(draw_report(tmp_path)[0]).read_bytes() == plain
