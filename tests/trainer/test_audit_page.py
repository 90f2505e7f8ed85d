"""The audit's page: whole by itself, hostile names harmless, its numbers those of the facts."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import msgspec
import pytest

from batch_scorer.metrics.classification import Estimate
from batch_scorer.storage.output import INTERNAL_FOLDER
from tests.paths import EXAMPLES
from trainer.audit import charts
from trainer.audit.audit import ImageCount, SharedPatients, StrayFiles, audit_dataset
from trainer.audit.confounders import Shortcut
from trainer.audit.html import MAX_SHOWN_FILES, build_page_facts, render_html, write_audit
from trainer.audit.image_stats import UnusableFile

HOSTILE = "<script>alert(1)</script>\u202e\u80ba'\".jpeg"


@pytest.fixture(scope="module")
def examples():
    return audit_dataset(EXAMPLES)


@pytest.fixture(scope="module")
def rich(examples):
    """The examples with everything that a data set can have."""
    changes = msgspec.structs.replace
    estimate = Estimate(0.9, 0.85, 0.95, 24)
    return changes(
        examples,
        data=HOSTILE,
        counts=[
            ImageCount("train", "NORMAL", "normal", 9),
            ImageCount("train", "PNEUMONIA", "viral", 3),
            ImageCount("train", "PNEUMONIA", "bacterial", 4),
            ImageCount("test", "", "", 8),
        ],
        patients=changes(
            examples.patients,
            patients=14,
            images_per_patient={"NORMAL": {1: 9}, "PNEUMONIA": {2: 1, 13: 2}, "": {1: 2}},
            shared=[SharedPatients(("train", "test"), 3, (4, 7), None)],
            both_causes=2,
        ),
        identical=changes(examples.identical, groups=[[HOSTILE, "b.png"]]),
        shortcut=Shortcut(
            {"contrast": estimate, "together": estimate},
            {"contrast": estimate, "together": estimate},
            ["width"],
        ),
        unusable=[
            UnusableFile(f"{HOSTILE}{n}", "truncated", "Ends.") for n in range(MAX_SHOWN_FILES + 2)
        ],
        strays=[StrayFiles("class", f"train/{HOSTILE}", 5)],
    )


class Page(HTMLParser):
    """What matters of a page: its tags, what they refer to, ids, and its text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.ids, self.links, self.text = [], [], [], ""
        self.attributes = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append(tag)
        self.attributes.append((tag, found))
        self.ids += [found["id"]] if "id" in found else []
        self.links += [v for k, v in attrs if k in ("href", "src", "xlink:href")]

    def handle_data(self, data):
        self.text += data


def test_the_page_needs_no_other_file_and_runs_nothing(rich):
    html = render_html(rich)
    page = Page(html)
    assert "script" not in page.tags
    assert all(link.startswith("#") for link in page.links)
    reached = re.findall(r"""(?:url\(|@import )["']?([^"')]{1,12})""", html)
    assert len(reached) > 2
    assert all(place.startswith(("data:font/tt", "#")) for place in reached)


def test_the_page_can_be_read_aloud(rich):
    page = Page(render_html(rich))
    assert ("html", {"lang": "en-GB"}) in page.attributes
    assert "title" in page.tags
    drawn = [found for tag, found in page.attributes if tag == "svg"]
    assert len(drawn) == 5
    assert all(found["role"] == "img" and found["aria-label"] for found in drawn)
    assert len(page.ids) == len(set(page.ids)), "two figures share an id"
    targets = {link.removeprefix("#") for link in page.links if link.startswith("#")}
    assert targets <= set(page.ids)


def test_a_hostile_name_is_text(rich):
    html = render_html(rich)
    assert "<script>alert" not in html
    assert "\u202e" not in html
    assert "\u80ba" not in html
    assert "&lt;script&gt;alert(1)" in html


def test_the_page_says_what_was_found(rich):
    text = Page(render_html(rich)).text
    for expected in (
        "3 patient numbers in both train and test: 4 images of train, 7 of test.",
        "2 numbers have both bacterial and viral images",
        "AUC 0.900 (95 % interval 0.850 to 0.950, n = 24)",
        "The first 50 of 52 files; all are in audit.json.",
        "These images are synthetic",
        "with 5 files.",
    ):
        assert expected in text, expected
    sealed = msgspec.structs.replace(rich, test_labels_opened=False)
    assert "The labels of the test part stayed hidden." in build_page_facts(sealed).about


def test_a_poor_set_has_a_page_too(examples):
    poor = msgspec.structs.replace(
        examples,
        appearance=[],
        counts=[ImageCount("all", "NORMAL", "normal", 1)],
        shortcut=Shortcut({}, {}, [], "Too few to measure this on."),
    )
    page = Page(render_html(poor))
    assert page.tags.count("svg") == 1
    assert "Too few to measure this on." in page.text
    assert "No file name contains a patient number" in page.text
    assert "Every file in a class folder decodes." in page.text


def test_the_same_facts_give_the_same_page(examples, tmp_path):
    assert write_audit(examples, tmp_path / "a").read_bytes() == render_html(examples).encode()
    assert render_html(examples) == render_html(examples)
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert names == {"audit.html", "audit.json", INTERNAL_FOLDER}


def test_figures_have_the_numbers_of_the_facts(rich):
    counts = charts.draw_counts(rich.counts)
    assert ">9<" in counts
    assert "label hidden" in counts
    assert "10 or more" in charts.draw_images_per_patient(rich)
    shared = charts.draw_shared_patients(rich.patients.shared, rich)
    assert "4 of 16 images" in shared
    assert "7 of 8 images" in shared
    assert "on the test part" in charts.draw_shortcut(rich)
    assert "File size (kB)" in charts.draw_appearance(rich)
