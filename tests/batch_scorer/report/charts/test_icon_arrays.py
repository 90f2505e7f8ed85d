"""The further figures: as many people as the numbers say, the same bytes, nothing hostile."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from batch_scorer.metrics.classification import Curve
from batch_scorer.report.charts import icon_arrays
from batch_scorer.report.charts.performance import AMBER, BLUE
from batch_scorer.report.content.domain_shift import ProbabilityHistogram
from batch_scorer.report.content.reliability import ReliabilityCurve
from batch_scorer.report.content.report import build_report_facts
from batch_scorer.report.content.view import RunView
from tests.factories import make_manifest, make_models, make_rows, make_unscored

HOSTILE = "$\\frac{1}{2}$ <svg onload=x> & \u80ba \n"


def drawn(svg: str, colour: str) -> int:
    """How many people are filled with a colour."""
    return len(re.findall(rf"<use [^>]*fill: {colour}", svg))


@pytest.mark.parametrize("found", [0, 1, 98, 100])
def test_as_many_people_are_filled_as_the_number_says(found: int) -> None:
    svg = icon_arrays.draw_performance_icons(
        icon_arrays.IconArray("ill", found, BLUE), icon_arrays.IconArray("well", 100 - found, AMBER)
    )
    assert drawn(svg, BLUE) == found
    assert drawn(svg, AMBER) == 100 - found


def test_a_crowd_for_each_prevalence() -> None:
    svg = icon_arrays.draw_ppv_icons(
        [icon_arrays.IconArray(f"{n} ill", n, BLUE) for n in (19, 34, 60, 87)]
    )
    assert drawn(svg, BLUE) == 200
    assert svg.count("<use ") == 400


def test_the_same_numbers_give_the_same_bytes() -> None:
    crowd = icon_arrays.IconArray("ill", 3, BLUE)
    assert icon_arrays.draw_performance_icons(crowd, crowd) == icon_arrays.draw_performance_icons(
        crowd, crowd
    )
    scores = ProbabilityHistogram((0.0, 0.5, 1.0), (0.2, 0.8), (0.5, 0.5), "films")
    assert icon_arrays.draw_score_histogram(scores) == icon_arrays.draw_score_histogram(scores)
    assert "<dc:date>" not in icon_arrays.draw_score_histogram(scores)


def test_a_hostile_title_is_text() -> None:
    line = ReliabilityCurve(HOSTILE, Curve([0.1, 0.9], [0.2, 0.8]))
    for svg in (
        icon_arrays.draw_reliability([line]),
        icon_arrays.draw_ppv_icons([icon_arrays.IconArray(HOSTILE, 1, BLUE)]),
        icon_arrays.draw_score_histogram(ProbabilityHistogram((0.0, 1.0), (1.0,), (1.0,), HOSTILE)),
    ):
        assert ET.fromstring(svg) is not None
        assert "<svg onload" not in svg
        assert "\u80ba" not in svg


def test_each_part_draws_what_it_has() -> None:
    models = make_models("cnn", "mlp", "vgg16")
    rows = make_rows(models, 60, 40)
    full = icon_arrays.draw_report_charts(
        build_report_facts(RunView(make_manifest(rows, models), rows))
    )
    reference = {"reference-people", "reference-reliability", "reference-flagged"}
    assert set(full) == reference | {
        *("batch-people", "batch-reliability", "batch-flagged"),
        "scores",
    }
    failed = make_unscored(3)
    assert (
        set(
            icon_arrays.draw_report_charts(
                build_report_facts(RunView(make_manifest(failed, models), failed))
            )
        )
        == reference
    )
    for svg in full.values():
        assert ET.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
