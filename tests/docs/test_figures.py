"""make figures: committed pictures are those of the bundled models and show synthetic films."""

from __future__ import annotations

import base64
import io
import re
import shutil
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner
from PIL import Image

from batch_scorer.report.charts.standalone import make_standalone_svg
from docs.making import figures
from tests.images import make_film
from tests.paths import EXAMPLES
from trainer.audit.charts import draw_counts
from trainer.saliency_figures import SYNTHETIC_NOTICE

PICTURE = re.compile(r'"data:image/jpeg;base64,([^"]+)"')


def texts(svg):
    return " ".join("".join(node.itertext()) for node in ET.fromstring(svg).iter())


def test_the_committed_figures_are_those_of_the_bundled_models(update_golden):
    cards = figures.load_bundled_cards()
    drawn = {
        **figures.draw_model_charts(cards),
        "class-balance": draw_counts(figures.count_images(None, cards)),
        **figures.draw_example_charts(EXAMPLES),
    }
    if update_golden:
        for name, svg in drawn.items():
            (figures.FIGURES_FOLDER / f"{name}.svg").write_text(
                make_standalone_svg(svg), encoding="utf-8"
            )
    assert {path.stem for path in figures.FIGURES_FOLDER.glob("*.svg")} == set(drawn)
    for name, svg in drawn.items():
        committed = (figures.FIGURES_FOLDER / f"{name}.svg").read_text(encoding="utf-8")
        # Another processor may round a pixel of a film otherwise; everything else is the same text.
        again = PICTURE.sub("", make_standalone_svg(svg))
        assert PICTURE.sub("", committed) == again, f"{name} is out of date: run make figures"


def test_the_class_balance_has_the_numbers_of_the_card():
    card = figures.load_bundled_cards()[0]
    shown = texts(draw_counts(figures.count_images(None, [card])))
    assert f"{card.audit.images['train NORMAL']:,}" in shown
    assert sum(count.images for count in figures.count_images(None, [card])) == sum(
        card.audit.images.values()
    )


@pytest.mark.parametrize("name", ["example-films", "augmentation"])
def test_committed_films_are_synthetic_and_say_so(name):
    svg = (figures.FIGURES_FOLDER / f"{name}.svg").read_text(encoding="utf-8")
    assert SYNTHETIC_NOTICE in texts(svg)
    pictures = PICTURE.findall(svg)
    assert len(pictures) >= 2 * figures.IMAGES_PER_CLASS
    for picture in pictures:
        with Image.open(io.BytesIO(base64.b64decode(picture))) as film:
            assert film.mode == "L"
            assert max(film.size) <= 150


def test_films_that_are_not_synthetic_never_get_into_docs(tmp_path):
    for label in ("NORMAL", "PNEUMONIA"):
        (tmp_path / "own" / label).mkdir(parents=True)
        (tmp_path / "own" / label / "film.png").write_bytes(make_film())
    arguments = ["--films", str(tmp_path / "own")]
    refused = CliRunner().invoke(figures.main, arguments)
    assert refused.exit_code == 2
    assert "Expected synthetic images to be shown" in refused.output
    drawn = CliRunner().invoke(figures.main, [*arguments, "-o", str(tmp_path / "out")])
    assert drawn.exit_code == 0, drawn.output
    shown = texts((tmp_path / "out" / "example-films.svg").read_text(encoding="utf-8"))
    assert "Images from the given folder" in shown
    assert SYNTHETIC_NOTICE not in shown


def test_another_folder_gives_its_own_class_balance(tmp_path):
    data = tmp_path / "data"
    shutil.copytree(EXAMPLES, data)
    next((data / "NORMAL").iterdir()).unlink()
    counts = figures.count_images(data, [])
    assert {(count.label, count.images) for count in counts} == {("NORMAL", 11), ("PNEUMONIA", 12)}


def test_a_figure_by_itself_has_its_ground_and_its_typeface():
    svg = make_standalone_svg(draw_counts(figures.count_images(None, figures.load_bundled_cards())))
    assert svg.index("<rect") < svg.index("<path")
    assert 'fill="#ffffff"' in svg
    assert "data:font/woff2" in svg
    assert ET.fromstring(svg).tag.endswith("svg")
