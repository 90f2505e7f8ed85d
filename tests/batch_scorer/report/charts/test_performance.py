"""Figures: valid SVG, the same bytes every time, nothing global, and hostile titles harmless."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from xml.etree import ElementTree as ET

import matplotlib as mpl
import pytest

from batch_scorer.metrics.classification import ConfusionMatrix, Curve, Estimate
from batch_scorer.model.card_sections import History
from batch_scorer.report.charts import performance
from batch_scorer.report.content.accuracy import RocCurve
from batch_scorer.report.content.typeface import FONT_FAMILY, replace_unsupported
from tests.batch_scorer.report.documents import texts
from tests.factories import TITLES, make_card

HOSTILE = "$\\frac{1}{2}$ <svg onload=x> & \u80ba \U0001fac1 \n"


@pytest.mark.parametrize("names", [("cnn",), ("cnn", "mlp"), ("mlp", "cnn", "vgg16")])
def test_curves_are_drawn_for_one_and_for_more_models(names: tuple[str, ...]) -> None:
    cards = [make_card(name) for name in names]
    for svg in (performance.draw_training_curves(cards), performance.draw_roc(cards)):
        assert ET.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
    for name in names:
        assert TITLES[name] in texts(performance.draw_roc(cards))


def test_the_same_numbers_give_the_same_bytes() -> None:
    card = make_card("cnn")
    assert performance.draw_training_curves([card]) == performance.draw_training_curves([card])
    assert performance.draw_roc([card]) == performance.draw_roc([card])
    confusion = ConfusionMatrix(3, 1, 4, 1)
    assert performance.draw_confusion(confusion) == performance.draw_confusion(confusion)


def test_a_figure_carries_no_date_and_uses_the_bundled_typeface() -> None:
    svg = performance.draw_confusion(ConfusionMatrix(3, 1, 4, 1))
    assert "<dc:date>" not in svg
    families = set(re.findall(r"'([^']+)'", " ".join(re.findall(r'style="(font[^"]*)"', svg))))
    assert families == {FONT_FAMILY}


def test_drawing_leaves_the_settings_of_matplotlib_alone() -> None:
    before = mpl.rcParams.copy()
    performance.draw_training_curves([make_card("cnn")])
    assert mpl.rcParams.copy() == before


def test_pyplot_is_never_imported() -> None:
    code = (
        "import sys; from batch_scorer.report.charts import performance as figures; "
        "from batch_scorer.metrics.classification import ConfusionMatrix; "
        "figures.draw_confusion(ConfusionMatrix(1, 1, 1, 1)); "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_hostile_title_is_text_and_warns_of_nothing() -> None:
    card = make_card("cnn", title=HOSTILE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svgs = [performance.draw_training_curves([card, card]), performance.draw_roc([card])]
    for svg in svgs:
        assert "<svg onload" not in svg
        assert "\u80ba" not in svg
        assert "$\\frac" in texts(svg)


def test_edges_are_drawn_too() -> None:
    one = make_card("cnn", history=History([0.5], [0.6], [0.7], [0.6]))
    assert ET.fromstring(performance.draw_training_curves([one])) is not None
    assert "no such film" in texts(performance.draw_confusion(ConfusionMatrix(0, 0, 0, 0)))
    undefined = Estimate(None, None, None, 0)
    assert performance.draw_roc_curves([RocCurve("none", Curve([], []), undefined, undefined)])


def test_the_operating_point_is_drawn_with_its_intervals() -> None:
    curve = Curve([0.0, 0.25, 1.0], [0.0, 0.75, 1.0])
    undefined = Estimate(None, None, None, 0)

    def drawn(sensitivity: Estimate, specificity: Estimate) -> int:
        svg = performance.draw_roc_curves([RocCurve("one", curve, sensitivity, specificity)])
        return len(re.findall(r'<g id="line2d_', svg))

    plain = drawn(undefined, undefined)
    assert drawn(Estimate(0.75, None, None, 4), undefined) == plain, "a point needs both"
    ring = drawn(Estimate(0.75, None, None, 4), Estimate(0.75, None, None, 4))
    assert ring > plain
    cross = drawn(Estimate(0.75, 0.3, 0.95, 4), Estimate(0.75, 0.3, 0.95, 4))
    assert cross == ring + 2


def test_characters_without_a_glyph_become_their_number() -> None:
    assert replace_unsupported("film é ≥ \u80ba.jpg") == "film é ≥ ‹U+80BA›.jpg"
