"""``cxr models show``: everything a newcomer needs, in short lines, with and without new fields."""

from __future__ import annotations

import re

from batch_scorer.report.formats.card_text import LINE_CHARS, format_card
from tests.factories import (
    make_band,
    make_card,
    make_comparison,
    make_etiology,
    make_evidence,
    make_external,
    make_typicality,
)


def joined(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def test_a_full_card_says_what_was_measured() -> None:
    card = make_card(
        "vgg16",
        band=make_band(),
        external=[make_external()],
        comparison=make_comparison(cnn_vgg16=0.2, cnn_mlp=0.001, vgg16_mlp=0.001),
    )
    page = format_card(card)
    text = joined(page)
    assert all(len(line) <= LINE_CHARS for line in page.splitlines())
    recall = card.reference.metrics["recall"]
    assert f"it flags {100 * (recall.value or 0):.0f} (95 % interval" in text
    assert "From 0.300 to 0.600 an X-ray is undecided" in text
    assert "Of 100 validation films, 10 (95 % interval 7 to 13, n = 655) are undecided." in text
    assert (
        "Of 600 normal films of “adults elsewhere” it wrongly flags 132; of 100 that is 22 "
        "(95 % interval 18 to 26, n = 600). No model was trained on them." in text
    )
    assert "cnn and vgg16 are both better than mlp." in text
    assert "the ECE went from 0.040 to 0.020 and the Brier score from 0.060 to 0.050" in text
    assert "On the official test films the ECE is" in text
    assert "from AUC 0.95 to 0.54" in text
    assert "likely to be too good" not in text


def test_a_full_card_says_what_else_the_model_answers() -> None:
    card = make_card(
        "cnn", evidence=make_evidence(), typicality=make_typicality(), etiology=make_etiology()
    )
    page = format_card(card)
    text = joined(page)
    assert all(len(line) <= LINE_CHARS for line in page.splitlines())
    assert "Evidence map, 12 by 12 cells" in text
    assert "lowers the logit by 0.90, blurring a random tenth by 0.20" in text
    assert "validation 0.5% and 2.0%; adults elsewhere 13.3% and 35.0%." in text
    assert "Bacterial or viral, a weaker output for study only: of 100 test films" in text
    assert "no ground for any treatment" in text


def test_a_card_without_the_new_fields_says_what_it_lacks() -> None:
    text = joined(format_card(make_card("cnn", splits=("validation",))))
    assert "It leaves no X-ray undecided." in text
    assert "External data sets Not measured." in text
    assert "Not compared." in text
    assert "likely to be too good" in text
    assert "None" not in text
