"""notebooks/pneumonia.ipynb: it runs, is stored executed and small, and types no figure."""

from __future__ import annotations

import re

import nbformat
import pytest
from click.testing import CliRunner

from batch_scorer.model.card import CLASSES
from docs.making.figures import load_bundled_cards
from docs.making.notebook import NOTEBOOK, main
from tests.images import make_film, make_labelled_folder
from tests.paths import EXAMPLES
from trainer.saliency_figures import SYNTHETIC_NOTICE

pytestmark = pytest.mark.slow

MOST_BYTES_OF_OUTPUT = 150_000
HEADINGS = (
    "# PART I: EDA",
    "## Data Source",
    "# PART II: Modeling",
    "## Multilayer Perceptron Model",
    "## Convolutional Neural Network Model",
    "## VGG16 Model",
    "# Summary of Key Findings",
    "# Summary of Actionable Insights",
    "# Future Work",
    "# References",
)
NO_MEASUREMENTS = {
    "2": "version of the data set",
    "2018": "year of the data set",
    "4.0": "of its licence",
    "95": "level of every interval",
}


def read(path=NOTEBOOK):
    return nbformat.read(path, as_version=4)


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def shown(notebook):
    """All text that the outputs hold."""
    texts = []
    for output in outputs(notebook):
        texts.append(output.get("text", ""))
        texts += output.get("data", {}).values()
    return "\n".join(texts)


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The notebook as it comes out on a small folder, validated in the way that leaks."""
    data = tmp_path_factory.mktemp("data") / "kaggle"
    make_labelled_folder(data / "train", 40, 60)
    make_labelled_folder(data / "val", 4, 4, start=500)
    make_labelled_folder(data / "test", 12, 12, start=900)
    output = data.parent / "executed.ipynb"
    options = ["-o", str(output), "--validation", "test", "--epochs", "1"]
    ran = CliRunner().invoke(main, [str(data), *options])
    assert ran.exit_code == 0, ran.output
    return read(output)


def test_it_runs_on_another_folder_and_warns_of_the_leak(executed):
    assert [output for output in outputs(executed) if output.output_type == "error"] == []
    text = shown(executed)
    assert "Warning.** It was validated on the test films" in text
    assert "the model is not exported" in text
    assert re.search(r"\*\*[+-]\d+\.\d points\*\*", text)
    assert "124 films of" not in text
    assert "132 films of" in text


def test_running_it_changes_outputs_alone(executed):
    assert [cell.source for cell in executed.cells] == [cell.source for cell in read().cells]
    assert executed.metadata == read().metadata


def test_it_is_stored_executed_without_an_error():
    notebook = read()
    nbformat.validate(notebook)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    assert {output.output_type for output in outputs(notebook)} <= {
        "display_data",
        "execute_result",
        "stream",
    }
    assert [output for output in outputs(notebook) if output.get("name") == "stderr"] == []


def test_what_is_stored_is_small_and_of_no_machine():
    for output in outputs(read()):
        assert set(output.get("data", {})) <= {
            "image/svg+xml",
            "text/html",
            "text/markdown",
            "text/plain",
        }
        assert len(str(output)) < MOST_BYTES_OF_OUTPUT
    assert re.findall(r"/(?:home|root|tmp|work|Users)/\S*", NOTEBOOK.read_text()) == []


def test_the_stored_films_are_synthetic():
    pictures = [text for text in shown(read()).split("</svg>") if "data:image/" in text]
    assert len(pictures) == 2
    assert all(SYNTHETIC_NOTICE in text for text in pictures)


def test_its_parts_are_those_of_the_table_of_contents():
    text = "\n".join(cell.source for cell in read().cells if cell.cell_type == "markdown")
    places = [text.find(heading + "\n") for heading in HEADINGS]
    assert -1 not in places
    assert places == sorted(places)


def test_no_figure_is_typed_into_its_text():
    text = "\n".join(cell.source for cell in read().cells if cell.cell_type == "markdown")
    text = text[: text.index("# References\n")]
    prose = re.sub(r"`[^`]*`|<http\S+>|\]\(\S+\)|doi:\S+", "", text)
    numbers = set(re.findall(r"(?<![A-Za-z\d])\d[\d.,]*\d|(?<![A-Za-z\d])\d", prose))
    assert numbers <= set(NO_MEASUREMENTS)


def test_the_stored_findings_are_those_of_the_bundled_models():
    text = shown(read())
    for card in load_bundled_cards():
        for name in ("accuracy", "auc"):
            found = card.reference.metrics[name]
            assert f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]" in text, (
                "run make notebook DATA=/path/to/chest_xray"
            )


def test_films_that_are_not_synthetic_are_not_stored_in_its_place(tmp_path):
    for label in CLASSES:
        (tmp_path / label).mkdir()
        (tmp_path / label / "film.png").write_bytes(make_film())
    refused = CliRunner().invoke(main, [str(EXAMPLES), "--films", str(tmp_path)])
    assert refused.exit_code == 2
    assert "no real X-ray may be committed" in refused.output
