"""What is said of evidence maps: what they show, what they do not prove, and why there are none."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from batch_scorer.imaging.heatmap import Peak
from batch_scorer.report.content.saliency import (
    describe_evidence,
    describe_map,
    describe_missing_maps,
    find_peak_region,
    format_peak,
)
from batch_scorer.report.content.view import RunView
from batch_scorer.results.schema import Gallery
from tests.factories import make_evidence, make_gallery, make_manifest, make_models, make_rows


def view_with(gallery: Gallery | None = None, **evidence: Any) -> RunView:
    found = make_evidence()
    checked = msgspec.structs.replace(found.faithfulness, **evidence)
    models = make_models("cnn", evidence=msgspec.structs.replace(found, faithfulness=checked))
    rows = make_rows(models)
    return RunView(make_manifest(rows, models, gallery=gallery or make_gallery(rows)), rows)


def test_a_map_is_told_in_a_sentence_and_so_is_what_it_does_not_prove() -> None:
    facts = describe_evidence(view_with())
    assert facts is not None
    assert facts.explanation == (
        "Beside each flagged film lies its evidence map: the brighter a place, the more it raised "
        "the probability that the model Convolutional network gave; what lowered it is dark."
    )
    assert "a bright place proves no pneumonia, a dark one no healthy lung" in facts.limitation
    assert "12 by 12 places a film" in facts.limitation
    assert facts.checks == (
        "Checked on 100 validation films with pneumonia: blurring the brightest 10% of places "
        "lowers the log odds by 0.90, blurring as much at random lowers the log odds by 0.20."
    )


def test_the_scale_has_the_numbers_of_the_picture() -> None:
    facts = describe_evidence(view_with())
    assert facts is not None
    assert (facts.scale_low, facts.scale_high) == ("0, or against", "9.5")
    assert facts.scale_alt.endswith("to bright, 9.5 in log odds.")


def test_maps_beside_every_film_are_called_so() -> None:
    facts = describe_evidence(view_with(Gallery("all", None, {"0" * 16: Peak(1.0, 0.5, 0.5)})))
    assert facts is not None
    assert facts.explanation.startswith("Beside each film lies")


def test_a_map_that_failed_its_checks_says_so() -> None:
    facts = describe_evidence(
        view_with(
            deletion=[0.1, -0.05, 0.1], random_deletion=[0.2, 0.3, 0.4], randomised_correlation=0.43
        )
    )
    assert facts is not None
    assert "raises the log odds by 0.05, blurring as much at random lowers" in facts.checks
    assert "no better than chance: do not rely on these maps" in facts.checks
    assert "partly the same map (rank correlation 0.43)" in facts.checks
    facts = describe_evidence(view_with(randomised_correlation=-0.32))
    assert facts is not None
    assert "partly the reverse map (rank correlation −0.32)" in facts.checks


def test_maps_that_are_all_brightest_in_one_place_are_called_a_habit() -> None:
    def of(places: list[tuple[float, float]]) -> str:
        maps = {f"{i:016}": Peak(2.0, x, y) for i, (x, y) in enumerate(places)}
        facts = describe_evidence(view_with(Gallery("flagged", None, maps)))
        assert facts is not None
        return facts.checks

    lower_right, upper_left = (0.9, 0.9), (0.1, 0.1)
    assert "Of these 6 maps 5 are brightest in the lower right of the picture" in of(
        [lower_right] * 5 + [upper_left]
    )
    assert "Of these" not in of([lower_right] * 3 + [upper_left] * 3)
    assert "Of these" not in of([lower_right] * 5)


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (0.1, 0.1, "upper left"),
        (0.5, 0.5, "centre"),
        (0.5, 0.99, "lower centre"),
        (1.0, 0.4, "middle right"),
    ],
)
def test_places_are_named_as_printed(x: float, y: float, words: str) -> None:
    assert find_peak_region(Peak(1.0, x, y)) == words


def test_the_text_of_a_map_says_where_it_is_brightest_and_how_much() -> None:
    card = view_with().card
    assert describe_map("a.png", Peak(6.24, 0.9, 0.9), card) == (
        "Evidence map of a.png by Convolutional network: brightest in the lower right of the "
        "picture, 6.2 in log odds for pneumonia."
    )
    assert format_peak(Peak(0.244, 0.9, 0.1)) == "most in the upper right: 0.24"
    assert "no place speaks for pneumonia" in describe_map("a.png", Peak(-0.1, 0, 0), card)
    assert format_peak(Peak(0.0, 0, 0)) == "no place speaks for pneumonia"


@pytest.mark.parametrize(
    ("reason", "sentence"),
    [
        ("unanswered", "The model Convolutional network gives no evidence maps"),
        ("model", "the file of the model Convolutional network was not at hand"),
        ("films", "the films were not at hand"),
        ("", ""),
    ],
)
def test_maps_that_are_missing_are_explained_once(reason: str, sentence: str) -> None:
    view = view_with(Gallery("flagged", no_maps_reason=reason))
    found = describe_missing_maps(view)
    assert sentence in found
    assert bool(found) == bool(reason)
    assert describe_evidence(view) is None


def test_a_scale_without_any_evidence_ends_at_nothing() -> None:
    facts = describe_evidence(view_with(Gallery("all", None, {"0" * 16: Peak(-1.0, 0.5, 0.5)})))
    assert facts is not None
    assert facts.scale_high == "0.00"


def test_checks_at_other_steps_are_told_as_they_are() -> None:
    facts = describe_evidence(
        view_with(images=1, steps=[0.25], deletion=[1.0], random_deletion=[0.5])
    )
    assert facts is not None
    assert facts.checks.startswith(
        "Checked on 1 validation film with pneumonia: blurring the brightest 25%"
    )
