"""The HTML page in Chromium: sort, filter, open, read aloud, print; nothing leaves the page."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import pypdfium2
import pytest
from axe_playwright_python.base import AXE_FILE_PATH
from playwright.sync_api import expect, sync_playwright

from batch_scorer.report.content.report_options import ReportOptions
from batch_scorer.report.content.text import sanitize_text
from batch_scorer.report.formats.draw import draw_report
from tests.batch_scorer.report.hostile_names import HOSTILE_NAMES, SCRIPT_ENDS
from tests.factories import make_band, make_models, make_rows, make_unscored, write_run
from tests.needs import find_browser

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

    Opener = Callable[..., "Opened"]

pytestmark = pytest.mark.needs("chromium")
FILMS = 330
UNSCORED = 3


@dataclass
class Opened:
    """A page in the browser, and everything that it asked for or complained about."""

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def column(self, title: str) -> list[str]:
        """The texts of one column of the table, from top to bottom."""
        heads = self.page.locator("#films-table thead button").all_text_contents()
        cells = self.page.locator(f"#films-table tbody tr > :nth-child({heads.index(title) + 1})")
        return cells.all_text_contents()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=find_browser())
        yield launched
        launched.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Opener]:
    """Open a report; at the end, it must have asked for nothing and complained about nothing."""
    visits = []

    def visit(output: Path, **options: object) -> Opened:
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **options})
        opened = Opened(context.new_page())
        opened.page.on("request", lambda request: opened.requests.append(request.url))
        opened.page.on("console", lambda message: opened.complaints.append(message.text))
        opened.page.on("pageerror", lambda error: opened.complaints.append(str(error)))
        opened.page.on("dialog", lambda dialog: opened.complaints.append(dialog.message))
        opened.page.goto((output / "report.html").as_uri())
        visits.append((opened, output))
        return opened

    yield visit
    for opened, output in visits:
        asked = [url for url in opened.requests if not url.startswith("data:")]
        assert asked == [(output / "report.html").as_uri()]
        assert opened.complaints == []
        opened.page.context.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run with more rows than are listed at first, three models, labels and unread files."""
    output = tmp_path_factory.mktemp("run")
    models = make_models("cnn", "mlp", "vgg16", band=make_band())
    rows = make_rows(models, FILMS // 3, FILMS - FILMS // 3) + make_unscored(UNSCORED)
    write_run(output, sorted(rows, key=lambda row: row.image), models, synthetic=True)
    draw_report(output, ReportOptions(("html",)))
    return output


def test_the_table_sorts_by_any_column_both_ways(run, visit):
    opened = visit(run)
    head = opened.page.locator("#films-table th", has=opened.page.get_by_role("button", name="cnn"))
    assert head.get_attribute("aria-sort") is None
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    falling = opened.column("cnn")
    numbers = [float(text) for text in falling if text[0] == "0"]
    assert numbers == sorted(numbers, reverse=True)
    assert falling[0] == "over 0.99" or float(falling[0]) > 0.9
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    rising = opened.column("cnn")
    assert rising[0] in ("under 0.01", min(rising))
    opened.page.get_by_role("button", name="Why not scored").click()
    assert opened.column("Why not scored")[:UNSCORED] == ["Ends too early"] * UNSCORED
    opened.page.get_by_role("button", name="Why not scored").click()
    assert opened.column("Why not scored")[:UNSCORED] == ["Ends too early"] * UNSCORED, (
        "files without a value stay at the end"
    )
    sorted_heads = opened.page.locator("#films-table th[aria-sort] button")
    assert sorted_heads.all_text_contents() == ["Why not scored"]


def test_filters_say_how_many_they_found(run, visit):
    opened = visit(run)
    page, total = opened.page, FILMS + UNSCORED
    status = page.get_by_role("status")
    expect(status).to_have_text(f"Files found: {total} of {total}; the first 200 are listed.")
    page.get_by_label("File name contains").fill("PERSON12_")
    expect(status).to_have_text(f"Files found: 1 of {total}.")
    assert opened.column("File") == ["NORMAL/person12_bacteria_84.jpeg"]
    page.get_by_label("File name contains").fill("nowhere")
    expect(status).to_have_text(f"Files found: 0 of {total}.")
    page.get_by_label("File name contains").fill("")
    page.get_by_label("Show").select_option(label=f"Not scored ({UNSCORED})")
    expect(status).to_have_text(f"Files found: {UNSCORED} of {total}.")
    assert opened.column("Answer") == ["Not scored"] * UNSCORED


def test_the_groups_hold_the_totals_of_page_one(run, visit):
    page = visit(run).page
    tiles = page.locator(".tile").all()
    assert len(tiles) >= 3
    for tile in tiles:
        number, label = (tile.locator(f".{part}").text_content() for part in ("big", "tile-label"))
        page.get_by_label("Show").select_option(label=f"{label.capitalize()} ({number})")
        expect(page.get_by_role("status")).to_contain_text(f"Files found: {number} of ")


def test_more_rows_are_listed_on_demand(run, visit):
    opened = visit(run)
    page = opened.page
    assert len(opened.column("File")) == 200
    page.get_by_role("button", name=f"List {FILMS + UNSCORED - 200} more").press("Enter")
    assert len(opened.column("File")) == FILMS + UNSCORED
    expect(page.locator("#more")).to_be_hidden()
    focused = page.evaluate("document.activeElement.textContent")
    assert focused == opened.column("File")[200], "reading goes on at the first new row"


def test_a_film_opens_and_closes_by_keyboard_alone(run, visit):
    page = visit(run).page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the report"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "report"
    page.get_by_label("File name contains").focus()
    page.keyboard.type("person2_")
    while not page.evaluate("document.activeElement.classList.contains('open')"):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    film = page.get_by_role("dialog")
    expect(film).to_be_visible()
    expect(film).to_have_accessible_name("NORMAL/person2_bacteria_14.jpeg")
    assert page.evaluate("document.activeElement.id") == "film-name"
    for name in ("Answer", "Probability by cnn", "Probability by vgg16", "Label", "Size in pixels"):
        expect(film.get_by_role("rowheader", name=name, exact=True)).to_be_visible()
    page.keyboard.press("Escape")
    expect(film).to_be_hidden()
    assert page.evaluate("document.activeElement.textContent") == "NORMAL/person2_bacteria_14.jpeg"


def test_an_opened_film_leads_to_the_next_one_in_the_order_of_the_table(run, visit):
    opened = visit(run)
    page = opened.page
    names = opened.column("File")
    page.get_by_role("button", name=names[0], exact=True).click()
    film = page.get_by_role("dialog")
    expect(film.get_by_role("button", name="Previous file")).to_be_disabled()
    film.get_by_role("button", name="Next file").click()
    film.get_by_role("button", name="Next file").click()
    expect(film.get_by_role("heading")).to_have_text(names[2])
    film.get_by_role("button", name="Close").click()
    assert page.evaluate("document.activeElement.textContent") == names[2]


def test_a_film_of_the_gallery_opens_with_its_picture(run, visit):
    page = visit(run).page
    shown = page.locator("main .film").first
    shown.get_by_role("button").click()
    picture = page.get_by_role("dialog").get_by_role("img")
    expect(picture).to_have_attribute("alt", shown.get_by_role("img").get_attribute("alt"))
    assert picture.evaluate("image => image.naturalWidth") >= 200
    expect(page.get_by_text("No picture of this file")).to_be_hidden()
    page.keyboard.press("Escape")
    page.get_by_label("File name contains").fill("broken")
    page.locator("#films-table tbody button").first.click()
    expect(page.get_by_text("No picture of this file")).to_be_visible()
    expect(page.get_by_role("dialog").get_by_role("img")).to_have_count(0)


def test_every_picture_and_the_typeface_are_shown(run, visit):
    page = visit(run).page
    broken = "images => images.filter(image => !image.complete || !image.naturalWidth).length"
    assert page.locator("main img").count() > 10
    assert page.locator("main img").evaluate_all(broken) == 0
    page.evaluate("document.fonts.ready.then(() => true)")
    assert page.evaluate("[...document.fonts].map(face => face.status)") == ["loaded", "loaded"]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"color_scheme": "dark"},
        {"viewport": {"width": 390, "height": 844}},
        {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"},
    ],
    ids=["light", "dark", "narrow", "narrow and dark"],
)
def test_axe_finds_no_barrier(run, visit, options):
    page = visit(run, **options).page
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "scrolls sideways"
    page.evaluate(AXE_FILE_PATH.read_text(encoding="utf-8"))
    assert barriers(page) == []
    page.locator("main .film button").first.click()
    expect(page.get_by_role("dialog")).to_be_visible()
    assert barriers(page) == []


def barriers(page: Page) -> list[str]:
    """What axe-core finds, with all its rules: the rule and the first place of each."""
    found = page.evaluate("axe.run()")["violations"]
    return [f"{rule['id']}: {rule['nodes'][0]['html']}" for rule in found]


def test_hostile_names_are_only_text(tmp_path, visit):
    models = make_models("cnn")
    card = msgspec.structs.replace(models[0].card, name="</script><b>", title="<img src=x>")
    models = [msgspec.structs.replace(models[0], card=card)]
    names = (*HOSTILE_NAMES, *SCRIPT_ENDS, "\u05d0\u05d1.jpg")
    rows = make_rows(models, 6, len(names) - 6, names=names)
    write_run(tmp_path, rows, models, source="<script>alert(4)</script>")
    draw_report(tmp_path, ReportOptions(("html",)))
    opened = visit(tmp_path)
    page = opened.page
    assert sorted(opened.column("File")) == sorted(sanitize_text(name, 5_000) for name in names)
    assert page.locator("script").count() == 2
    assert page.locator("b, svg, iframe, object, embed, link").count() == 0
    assert page.locator("img:not([src^='data:'])").count() == 0
    for button in page.locator("#films-table tbody button").all():
        button.click()
        expect(page.locator("#film-name")).to_have_text(button.text_content())
        page.keyboard.press("Escape")
    assert (
        page.locator("body *").evaluate_all("all => all.filter(e => e.onclick || e.onload)") == []
    )


def test_the_browser_holds_to_the_policy(run, browser):
    page = browser.new_page()
    page.goto((run / "report.html").as_uri())
    blocked = page.evaluate(
        """async () => {
            const seen = [];
            document.addEventListener("securitypolicyviolation",
                                      (event) => seen.push(event.effectiveDirective));
            const add = (name, set) =>
                document.body.append(Object.assign(document.createElement(name), set));
            add("script", { textContent: "window.reached = true" });
            add("style", { textContent: "body { display: none }" });
            add("img", { src: "http://example.org/x.png" });
            add("iframe", { src: "http://example.org/" });
            await fetch("http://example.org/").catch(() => {});
            await new Promise((done) => setTimeout(done, 300));
            return [window.reached ?? null, ...seen.sort()];
        }"""
    )
    page.close()
    assert blocked == [
        *(None, "connect-src", "frame-src", "img-src", "script-src-elem", "style-src-elem")
    ]


def test_paper_shows_all_that_the_filter_lets_through(run, visit, tmp_path):
    opened = visit(run)
    opened.page.get_by_label("Show").select_option(index=1)
    listed = len(opened.column("File"))
    opened.page.pdf(path=tmp_path / "printed.pdf", prefer_css_page_size=True)
    assert len(opened.column("File")) == listed, "the screen is as it was"
    with pypdfium2.PdfDocument(tmp_path / "printed.pdf") as pdf:
        pages = [page.get_textpage().get_text_bounded() for page in pdf]
    found = int(opened.page.get_by_role("status").text_content().split()[2].rstrip(";"))
    assert found > listed
    table = [page for page in pages if re.search("Models\\s+apart", page)]
    assert len(table) > 2, "its head stands on every page"
    assert len(re.findall(r"\.jpeg\s+Flagged", "".join(table))) == found
    assert "What it must not be used for" in pages[0]
    assert "Films to look at first" not in pages[0]


def test_without_scripts_the_rows_stand_in_the_page(run, visit):
    page = visit(run, java_script_enabled=False).page
    assert page.locator("#plain .predictions tbody tr:visible").count() == FILMS + UNSCORED
    expect(page.get_by_text("Where scripts may run, this table")).to_be_visible()
    expect(page.locator("#browse")).to_be_hidden()
