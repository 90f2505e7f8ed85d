"""docs/article.md: written from the cards of the bundled models, and not out of date."""

from __future__ import annotations

import re

import msgspec
import pytest

from batch_scorer.errors import CardMissing
from batch_scorer.metrics.classification import Estimate
from docs.making.article import ARTICLE, write_article
from docs.making.figures import load_bundled_cards

LINK = re.compile(r"\]\(([^)]+)\)")


@pytest.fixture(scope="module")
def cards():
    return load_bundled_cards()


def test_the_article_is_that_of_the_bundled_models(cards, update_golden):
    if update_golden:
        ARTICLE.write_text(write_article(cards), encoding="utf-8")
    assert ARTICLE.read_text(encoding="utf-8") == write_article(cards), "run make article"


def test_everything_that_it_points_to_is_there():
    links = LINK.findall(ARTICLE.read_text(encoding="utf-8"))
    local = [link for link in links if not link.startswith("https://")]
    assert len(local) >= 7
    assert [link for link in local if not (ARTICLE.parent / link).is_file()] == []


def test_another_figure_makes_another_article(cards):
    best = cards[0]
    reference = best.references["test"]
    found = {**reference.metrics, "recall": Estimate(0.5, 0.4, 0.6, 390)}
    worse = msgspec.structs.replace(
        best,
        references={
            **best.references,
            "test": msgspec.structs.replace(reference, metrics=found),
        },
    )
    text = write_article([worse, *cards[1:]])
    assert f"{best.title} finds 50 (95 % interval 40 to 60, n = 390)" in text
    assert "| 0.500 [0.400, 0.600] |" in text


def test_a_reader_sees_text_and_no_markup_of_another_kind(cards):
    text = write_article(cards)
    assert re.findall(r"&#?\w+;|\{\{|\{%|None|not defined", text) == []


@pytest.mark.parametrize("missing", [{"audit": None}, {"comparison": None}, {"external": []}])
def test_a_card_that_lacks_what_is_told_is_refused(cards, missing):
    poorer = msgspec.structs.replace(cards[0], **missing)
    with pytest.raises(CardMissing, match="an audit, a comparison, test images"):
        write_article([poorer, *cards[1:]])
