"""The further figures: as many people as the numbers say, the same bytes, nothing hostile."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from batch_scorer.metrics import Curve
from batch_scorer.report import plates
from batch_scorer.report.drift import Histogram
from batch_scorer.report.facts import build_facts
from batch_scorer.report.figures import AMBER, BLUE
from batch_scorer.report.people import Line
from tests.factories import make_manifest, make_models, make_rows, make_unscored

HOSTILE = "$\\frac{1}{2}$ <svg onload=x> & \u80ba \n"


def drawn(svg: str, colour: str) -> int:
    """How many people are filled with a colour."""
    return len(re.findall(rf"<use [^>]*fill: {colour}", svg))


@pytest.mark.parametrize("found", [0, 1, 98, 100])
def test_as_many_people_are_filled_as_the_number_says(found: int) -> None:
    svg = plates.draw_people(
        plates.Crowd("ill", found, BLUE), plates.Crowd("well", 100 - found, AMBER)
    )
    assert drawn(svg, BLUE) == found
    assert drawn(svg, AMBER) == 100 - found


def test_a_crowd_for_each_prevalence() -> None:
    svg = plates.draw_flagged([plates.Crowd(f"{n} ill", n, BLUE) for n in (19, 34, 60, 87)])
    assert drawn(svg, BLUE) == 200
    assert svg.count("<use ") == 400


def test_the_same_numbers_give_the_same_bytes() -> None:
    crowd = plates.Crowd("ill", 3, BLUE)
    assert plates.draw_people(crowd, crowd) == plates.draw_people(crowd, crowd)
    scores = Histogram((0.0, 0.5, 1.0), (0.2, 0.8), (0.5, 0.5), "films")
    assert plates.draw_scores(scores) == plates.draw_scores(scores)
    assert "<dc:date>" not in plates.draw_scores(scores)


def test_a_hostile_title_is_text() -> None:
    line = Line(HOSTILE, Curve([0.1, 0.9], [0.2, 0.8]))
    for svg in (
        plates.draw_reliability([line]),
        plates.draw_flagged([plates.Crowd(HOSTILE, 1, BLUE)]),
        plates.draw_scores(Histogram((0.0, 1.0), (1.0,), (1.0,), HOSTILE)),
    ):
        assert ET.fromstring(svg) is not None
        assert "<svg onload" not in svg
        assert "\u80ba" not in svg


def test_each_part_draws_what_it_has() -> None:
    models = make_models("cnn", "mlp", "vgg16")
    rows = make_rows(models, 60, 40)
    full = plates.draw_parts(build_facts(make_manifest(rows, models), rows))
    reference = {"reference-people", "reference-reliability", "reference-flagged"}
    assert set(full) == reference | {
        *("batch-people", "batch-reliability", "batch-flagged"),
        "scores",
    }
    failed = make_unscored(3)
    assert set(plates.draw_parts(build_facts(make_manifest(failed, models), failed))) == reference
    for svg in full.values():
        assert ET.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
