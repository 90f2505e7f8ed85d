"""``make docs``: the website builds without warnings, loads from no server, and has no bad link."""

from __future__ import annotations

import re
import subprocess
import sys
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup

import batch_scorer
from batch_scorer.model.classifier import list_bundled_models
from tests.paths import REPOSITORY

pytestmark = pytest.mark.slow

LOADED = {"script": "src", "img": "src", "source": "src", "iframe": "src", "link": "href"}
CSS_ADDRESS = re.compile(r"(?:url\(|@import)\s*['\"]?((?:https?:)?//[^'\")\s]+)")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    output = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", "docs"),
            *("-d", str(output / "doctrees"), ".", str(output / "html")),
        ],
        check=False,
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )
    assert done.returncode == 0, done.stderr
    return output / "html"


@pytest.fixture(scope="module")
def pages(site):
    return {
        path: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
        for path in site.rglob("*.html")
    }


def test_every_page_of_the_repository_is_there(site):
    shown = {path.name for path in REPOSITORY.glob("*.md")}
    for folder in ("docs", "deploy", "batch_scorer/models"):
        shown |= {
            path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / folder).rglob("*.md")
        }
    assert len(shown) > 18
    assert [page for page in shown if not (site / page).with_suffix(".html").is_file()] == []
    assert {f"batch_scorer/models/{name}.md" for name in list_bundled_models()} <= shown
    assert (site / "index.html").read_bytes() == (site / "README.html").read_bytes()


def test_nothing_is_loaded_from_another_server(site, pages):
    loaded = [
        tag[attribute]
        for page in pages.values()
        for name, attribute in LOADED.items()
        for tag in page.find_all(name)
        if tag.get(attribute)
    ]
    assert len(loaded) > 50
    assert [address for address in loaded if urlsplit(address).netloc] == []
    for style in site.rglob("*.css"):
        assert CSS_ADDRESS.findall(style.read_text(encoding="utf-8")) == [], style


def test_every_picture_and_link_leads_to_a_file_of_the_site(site, pages):
    missing = []
    for path, page in pages.items():
        for tag in page.find_all(["a", "img", "link", "script"]):
            address = urlsplit(tag.get("href") or tag.get("src") or "")
            if address.scheme or not address.path:
                continue
            target = (path.parent / unquote(address.path)).resolve()
            if not target.is_file():
                missing.append(f"{path.relative_to(site)}: {address.path}")
    assert missing == []


def test_the_reference_has_every_public_name(site):
    page = BeautifulSoup((site / "docs" / "api.html").read_text(encoding="utf-8"), "html.parser")
    documented = {tag["id"].rpartition(".")[2] for tag in page.select("dt[id]")}
    assert {"CxrError", "UsageError", "ImageError"} <= documented
    assert set(getattr(batch_scorer, "__all__", ())) - {"__version__"} <= documented
