"""Mean and deviation over seeds, and what is no such comparison."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from batch_scorer import metrics
from batch_scorer.card import write_card
from batch_scorer.errors import UsageError
from batch_scorer.metrics import Curve
from benchmarks.seeds import check_alike, find_cards, main, specificity_at, summarise
from tests.factories import make_card, make_reference, make_scores


def make_run(folder, seed, **changes):
    """A run folder of one network whose answers depend on the seed."""
    card = make_card("cnn", splits=())
    card = msgspec.structs.replace(
        card,
        references={
            "validation": make_reference("cnn", "validation", 0.4, seed),
            "test": make_reference("cnn", "test", 0.4, seed),
        },
        training=msgspec.structs.replace(card.training, seed=seed, **changes),
    )
    (folder / "cnn").mkdir(parents=True)
    (folder / "cnn" / "card.json").write_text(write_card(card))
    return card


@pytest.fixture
def cards(tmp_path):
    return [make_run(tmp_path / f"seed{seed}", seed) for seed in (1, 2, 3)]


def test_mean_and_standard_deviation_of_every_column(cards, tmp_path):
    found = summarise(cards)
    assert set(found) == {"validation", "test"}
    values = [card.references["test"].metrics["auc"].value for card in cards]
    assert found["test"][1] == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    assert found["test"][1][1] > 0
    runs = [str(tmp_path / f"seed{seed}") for seed in (1, 2, 3)]
    result = CliRunner().invoke(main, runs)
    assert result.exit_code == 0, result.output
    header, _, *rows = result.output.split("\n\n")[0].splitlines()
    assert len(rows) == 2
    assert {row.count("|") for row in [header, *rows]} == {9}
    assert {row.split(" | ")[1] for row in rows} == {"validation", "test"}
    tested = next(row for row in rows if row.startswith("| cnn | test | 3 |"))
    assert f"| {np.mean(values):.4f} ± {np.std(values, ddof=1):.4f} |" in tested


def test_specificity_is_the_best_that_keeps_the_sensitivity():
    truth, scores = make_scores(1.2, 200, 300, seed=4)
    threshold = metrics.threshold_at_sensitivity(truth, scores, 0.95)
    counts = metrics.confusion(truth, scores, threshold)
    expected = counts.true_negative / (counts.true_negative + counts.false_positive)
    roc = metrics.roc_points(truth, scores)
    assert specificity_at(roc, 0.95) == pytest.approx(expected, abs=1e-5)
    assert specificity_at(Curve([0.0, 0.0, 0.3, 1.0], [0.0, 0.94, 0.95, 1.0]), 0.95) == 0.7
    assert specificity_at(Curve([0.0, 0.1, 1.0], [0.0, 0.66667, 1.0]), 2 / 3) == 0.9, "rounded"


def test_runs_that_differ_in_more_than_their_seed_are_refused(cards, tmp_path):
    with pytest.raises(UsageError, match=r"at least two runs of cnn.*found the seeds 1\."):
        check_alike("cnn", cards[:1])
    with pytest.raises(UsageError, match="found the seeds 1, 1"):
        check_alike("cnn", [cards[0], cards[0]])
    other = make_run(tmp_path / "other", 9, data_fingerprint="f" * 64)
    with pytest.raises(UsageError, match=r"found different films: 0{64}, f{64}"):
        check_alike("cnn", [cards[0], other])
    longer = make_run(tmp_path / "longer", 8, epochs=99)
    with pytest.raises(UsageError, match="different numbers of epochs: 20, 99"):
        check_alike("cnn", [cards[0], longer])


def test_a_folder_without_a_run_is_told_in_one_line(tmp_path):
    with pytest.raises(UsageError, match=r"found no card\.json"):
        find_cards(tmp_path)
    result = CliRunner().invoke(main, [str(tmp_path)])
    assert result.exit_code == 2
    assert result.output.startswith("Error: Expected a finished training run")
    assert "Traceback" not in result.output
