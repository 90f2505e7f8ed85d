"""The appendix: whole hashes, seeds, subgroups, and guideline items that are there or not."""

from __future__ import annotations

import re

import msgspec
import pytest

from batch_scorer.model.card import CLASSES
from batch_scorer.report.content.appendix import Appendix, describe_appendix
from batch_scorer.report.content.guidelines import NOT_AVAILABLE, GuidelineItem
from batch_scorer.report.content.view import RunView
from batch_scorer.results.usage import CoreHourPrice
from tests.factories import (
    make_comparison,
    make_evidence,
    make_external,
    make_manifest,
    make_models,
    make_reference,
    make_rows,
    make_unscored,
)


def tell(rows: list, models: list) -> Appendix:
    return describe_appendix(RunView(make_manifest(rows, models), rows))


def texts(part: Appendix, title: str) -> str:
    return "\n".join(
        text
        for topic in (*part.topics, *part.software)
        if topic.title == title
        for text in topic.texts
    )


def item(part: Appendix, topic: str) -> GuidelineItem:
    return next(found for found in part.guidelines if found.topic == topic)


def test_every_model_tells_its_seed_threshold_and_whole_hash() -> None:
    models = make_models("cnn", "mlp", "vgg16")
    part = tell(make_rows(models), models)
    for model in models:
        assert f"{model.file}: {model.sha256}" in texts(part, "Hashes (SHA-256)")
        assert f"{model.card.title}: 0.432, the highest threshold" in texts(
            part, "Operating threshold"
        )
    assert texts(part, "Training").count("seed 1;") == 3
    assert "cxr-batch 0.1.0, onnxruntime 1.32.0." in texts(part, "Software of this run")
    assert "keras 3.15.1" in texts(part, "Software that made the models")
    assert "Validation: 655 films, 486 with pneumonia, of 328 patients." in texts(
        part, "Splits and patients"
    )
    assert "predictions.csv: " in texts(part, "Hashes (SHA-256)")


def test_what_the_run_spent_is_told_and_its_price_where_one_was_stated() -> None:
    models = make_models("cnn")
    rows = make_rows(models)
    title = "Time, memory and price of this run"
    told = texts(tell(rows, models), title)
    assert "list 0.10, start 0.90, score 7.50, record 0.50." in told
    assert "read 0.20, decode 6.10, classify 8.40." in told
    assert (
        "3.1 films a second; 12.3 MB of films read; 0 calls to storage made again; "
        "one process had at most 456 MB of memory." in told
    )
    assert "core-hour" not in told
    price = CoreHourPrice(0.05, "EUR\u202e").compute_cost(18.0, len(rows))
    manifest = make_manifest(rows, models, cost=price)
    priced = texts(describe_appendix(RunView(manifest, rows)), title)
    assert f"18.0 core-seconds for {len(rows)}, at 0.050 EUR‹U+202E› a core-hour. That is" in priced
    early = make_manifest(rows, models, worker_seconds={})  # of a version that did not count them
    assert "films a second" not in texts(describe_appendix(RunView(early, rows)), title)


def test_calibration_stands_by_split_validation_first() -> None:
    models = make_models("cnn")
    card = models[0].card
    shifted = make_reference("cnn", "shifted validation", 0.4321, 9)
    references = {"shifted validation": shifted, "test": card.references["test"]} | card.references
    models = [
        msgspec.structs.replace(
            models[0], card=msgspec.structs.replace(card, references=references)
        )
    ]
    part = tell(make_rows(models), models)
    row = part.calibration[0]
    assert row.method == "Platt scaling: slope 1.100, intercept -0.200; fitted on validation"
    assert [split[0] for split in row.splits] == ["validation", "shifted validation", "test"]
    ece = card.references["test"].metrics["ece"].value
    assert row.splits[2][2].startswith(f"{ece:.3f} (95 % interval")
    assert item(part, "Robustness to shifted films").section == "section 9"


def test_subgroups_by_cause_are_measured_where_names_tell_it() -> None:
    models = make_models("cnn")
    rows = make_rows(models, 20, 40)
    viral = [
        msgspec.structs.replace(row, image=row.image.replace("bacteria", "virus"))
        if row.label == CLASSES[1] and index % 2
        else row
        for index, row in enumerate(rows)
    ]
    part = tell(viral, models)
    assert [group.name for group in part.subgroups] == ["Bacterial pneumonia", "Viral pneumonia"]
    assert sum(int(group.images) for group in part.subgroups) == 40
    ill = [r for r in viral if r.label == CLASSES[1] and "virus" in r.image]
    share = sum(r.prediction == CLASSES[1] for r in ill) / len(ill)
    assert part.subgroups[1].sensitivity.startswith(f"{share:.3f} (95 % interval")
    assert part.no_subgroups_reason == ""
    assert item(part, "Subgroups by cause").section == "section 9"


@pytest.mark.parametrize("kind", ["no labels", "no names", "failed", "nothing", "normal only"])
def test_without_them_subgroups_are_not_available(kind: str) -> None:
    models = make_models("cnn")
    rows = {
        "no labels": make_rows(models, labelled=False),
        "no names": make_rows(models, 5, 9, names=[f"film {i}.png" for i in range(14)]),
        "failed": make_unscored(4),
        "nothing": [],
        "normal only": make_rows(models, 9, 0),
    }[kind]
    part = tell(rows, models)
    assert part.subgroups == ()
    assert part.no_subgroups_reason.startswith(
        "Sensitivity by cause: not available; it needs labelled"
    )
    assert item(part, "Subgroups by cause").section == NOT_AVAILABLE


def test_ill_films_of_one_cause_without_normal_ones_leave_the_auc_undefined() -> None:
    models = make_models("cnn")
    part = tell(make_rows(models, 0, 12), models)
    assert part.subgroups[0].auc == "not defined (n = 12)"


def test_what_a_model_file_lacks_is_called_not_available() -> None:
    models = make_models("cnn")
    part = tell(make_rows(models, labelled=False), models)
    assert texts(part, "Evidence maps") == "Not available."
    assert "Comparison of models on the same films: not available." in texts(
        part, "Intervals and tests"
    )
    for topic in (
        "Comparison of models on the same films",
        "Explanations (evidence maps)",
        "Robustness to shifted films",
        "Testing on films from elsewhere",
        "Wrong answers, film by film",
        "Ethics approval",
        "Funding and interests",
    ):
        assert item(part, topic).section == NOT_AVAILABLE


def test_what_a_model_file_has_is_pointed_to() -> None:
    models = make_models(
        *("cnn", "mlp"),
        comparison=make_comparison(cnn_mlp=0.01),
        evidence=make_evidence(),
        external=[make_external()],
    )
    part = tell(make_rows(models), models)
    assert "On 100 validation films with pneumonia, blurring the 10 of 100 places" in texts(
        part, "Evidence maps"
    )
    assert "paired bootstrap by patient." in texts(part, "Intervals and tests")
    for topic, where in {
        "Comparison of models on the same films": "section 3",
        "Explanations (evidence maps)": "section 9",
        "Testing on films from elsewhere": "section 3",
        "Wrong answers, film by film": "section 2",
    }.items():
        assert item(part, topic).section == where


def test_item_numbers_are_within_their_guidelines() -> None:
    """CLAIM 2024 has 44 items, TRIPOD+AI 27 and STARD-AI 40, some of them with letters."""
    part = tell([], make_models("cnn"))
    for found in part.guidelines:
        for text, last in ((found.claim, 44), (found.tripod, 27), (found.stard, 40)):
            numbers = [int(number) for number in re.findall(r"\d+", text)]
            assert numbers or text == "no item"
            assert all(1 <= number <= last for number in numbers)
    assert len({found.topic for found in part.guidelines}) == len(part.guidelines)
    assert item(part, "Level at which the parts are disjoint").claim == "20"
    assert item(part, "Class imbalance").tripod == "13"
    assert item(part, "Outputs stored and open to audit").stard == "40b"


def test_every_claim_item_is_spoken_of_or_named_as_missing() -> None:
    part = tell([], make_models("cnn"))
    named: set[int] = set()
    for found in part.guidelines:
        for first, last in re.findall(r"(\d+)(?: to (\d+))?", found.claim):
            named |= set(range(int(first), int(last or first) + 1))
    # Title, abstract, aims, design, goal, subsets and ensembles are of a study, not of a run.
    assert set(range(1, 45)) - named == {1, 2, 4, 5, 6, 10, 27}
