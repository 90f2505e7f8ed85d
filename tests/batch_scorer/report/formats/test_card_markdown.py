"""Model cards in Markdown: what the Hub reads, what a person reads, and the bundled ones.

``pytest tests/batch_scorer/report/formats/test_card_markdown.py --update-golden`` writes the
bundled ones, and their hashes in the manifest, anew.
"""

from __future__ import annotations

import html
import re

import msgspec
import pytest
import yaml
from markdown_it import MarkdownIt

from batch_scorer.metrics.classification import Estimate
from batch_scorer.model.card_sections import Threshold
from batch_scorer.model.classifier import (
    BUNDLED_FOLDER,
    MANIFEST_NAME,
    Classifier,
    list_bundled_models,
    read_bundled_manifest,
)
from batch_scorer.report.formats.card_markdown import format_card_markdown
from batch_scorer.report.formats.card_text import describe_card, format_card
from batch_scorer.storage.output import sha256_hex
from tests.factories import make_band, make_card, make_evidence, make_external, make_typicality

FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---\n\n(.*)\Z", re.DOTALL)
HASH = "0123abcd" * 8


def read_back(text):
    """The front matter as the Hub reads it, and the page as HTML."""
    found = FRONT_MATTER.match(text)
    assert found, text[:200]
    return yaml.safe_load(found[1]), MarkdownIt().enable("table").render(found[2])


def words_of(page):
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", page)))


def update_bundled(name, text):
    """Write the card of a bundled model, and its hash in the manifest."""
    (BUNDLED_FOLDER / f"{name}.md").write_text(text, encoding="utf-8")
    manifest = read_bundled_manifest()
    entry = msgspec.structs.replace(manifest.models[name], card_sha256=sha256_hex(text.encode()))
    changed = msgspec.structs.replace(manifest, models={**manifest.models, name: entry})
    data = msgspec.json.format(msgspec.json.encode(changed), indent=2) + b"\n"
    (BUNDLED_FOLDER / MANIFEST_NAME).write_bytes(data)


@pytest.mark.parametrize("name", list_bundled_models())
def test_the_card_beside_a_bundled_model_says_what_is_in_the_file(name, update_golden):
    model = Classifier.load(name, "cpu")
    text = format_card_markdown(model.card, model.sha256, "mit")
    if update_golden:
        update_bundled(name, text)
    path = BUNDLED_FOLDER / f"{name}.md"
    assert path.read_text(encoding="utf-8") == text, "run pytest --update-golden"
    assert read_bundled_manifest().models[name].card_sha256 == sha256_hex(path.read_bytes())


def test_the_front_matter_is_what_the_hub_reads():
    card = make_card("vgg16")
    found, _ = read_back(format_card_markdown(card, HASH, "cc-by-4.0"))
    assert found["license"] == "cc-by-4.0"
    assert found["library_name"] == "onnx"
    assert found["pipeline_tag"] == "image-classification"
    assert {"onnx", "chest-x-ray", "pneumonia"} <= set(found["tags"])
    (index,) = found["model-index"]
    assert index["name"] == card.title
    results = index["results"]
    assert {result["dataset"]["split"] for result in results} == set(card.references)
    assert results[0]["dataset"]["split"] == "test", "the split to quote comes first"
    for result in results:
        assert result["task"] == {"type": "image-classification"}
        metrics = card.references[result["dataset"]["split"]].metrics
        values = {metric["type"]: metric["value"] for metric in result["metrics"]}
        assert set(values) == set(found["metrics"])
        for hub, ours in {"roc_auc": "auc", "recall": "recall", "brier_score": "brier"}.items():
            assert values[hub] == pytest.approx(metrics[ours].value, abs=5e-5)
        assert all("95 % interval" in metric["name"] for metric in result["metrics"])


def test_a_license_is_stated_only_where_one_is_given():
    found, _ = read_back(format_card_markdown(make_card("cnn"), HASH))
    assert "license" not in found


def test_a_metric_that_is_not_defined_is_no_result():
    card = make_card("cnn")
    metrics = {**card.reference.metrics, "auc": Estimate(None, None, None, 0)}
    reference = msgspec.structs.replace(card.reference, metrics=metrics)
    card = msgspec.structs.replace(card, references={**card.references, "test": reference})
    found, page = read_back(format_card_markdown(card, HASH))
    types = [metric["type"] for metric in found["model-index"][0]["results"][0]["metrics"]]
    assert "roc_auc" not in types
    assert "accuracy" in types
    assert "AUC not defined" in words_of(page)


def test_a_person_reads_every_section_of_cxr_models_show():
    card = make_card(
        "vgg16",
        band=make_band(),
        external=[make_external()],
        evidence=make_evidence(),
        typicality=make_typicality(),
    )
    _, page = read_back(format_card_markdown(card, HASH))
    words, shown = words_of(page), re.sub(r"\s+", " ", format_card(card))
    for title, texts in describe_card(card).items():
        assert f"<h2>{title}</h2>" in page
        for text in texts:
            sentence = text.removeprefix("- ")
            assert sentence in shown
            assert sentence in words
    assert "Research use only. Not a medical device." in words
    assert HASH in words
    assert "(N, 12, 12)" in words
    assert page.count("<table>") == 2
    assert "<li>Evidence map" in page


def test_a_card_can_neither_forge_the_front_matter_nor_bring_markup_along():
    card = msgspec.structs.replace(
        make_card("cnn"),
        title='"\n---\nlicense: mit',
        summary="[x]: https://example.org <script>1</script> [here](https://example.org) **b** `a`",
        threshold=Threshold(0.5, "![x](https://example.org/x.png) <b>", "validation"),
    )
    found, page = read_back(format_card_markdown(card, HASH))
    assert "license" not in found
    assert "<script" not in page
    assert not re.search(r"<(a|img|b|strong)\b(?!>Research)", page)
    assert "[x]: https://example.org" in words_of(page)
    assert "[here](https://example.org) **b** `a`" in words_of(page)
