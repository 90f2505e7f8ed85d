"""The report tells the data's faults from the card that has them, and as before without."""

from __future__ import annotations

import msgspec
import pytest

from batch_scorer.metrics.classification import Estimate
from batch_scorer.model.card import decode_card, encode_card
from batch_scorer.model.card_sections import Appearance, DataAudit, DuplicateCounts
from batch_scorer.report.content.data_quality import describe_data_faults
from batch_scorer.report.content.report import build_report_facts
from batch_scorer.report.content.view import RunView
from batch_scorer.report.formats.pdf import TEMPLATE
from batch_scorer.report.formats.templates import load_template
from tests.factories import make_card, make_manifest, make_models, make_rows

NO_COPIES = DuplicateCounts(0, 0, {}, {}, 0, 0)
AUDIT = DataAudit(
    images={"train NORMAL": 1341, "train PNEUMONIA viral": 1345, "val NORMAL": 8, "test": 624},
    patients=3288,
    images_without_patient=0,
    images_per_patient={"1": 2130, "2": 605, "30": 1},
    shared_patients={"train and test": 170},
    shared_with_same_cause={"train and test": 0},
    identical=DuplicateCounts(30, 62, {"train": 24, "test": 6}, {}, 0, 1),
    near_duplicates=NO_COPIES,
    appearance=[
        Appearance("train", "NORMAL", 224, 224, 122.2, 61.1),
        Appearance("train", "PNEUMONIA", 224, 224, 123.2, 54.3),
    ],
    metadata_auc={
        "cross-validation": Estimate(0.9016, 0.8921, 0.9107, 5232),
        "test": Estimate(0.8413, 0.8061, 0.8737, 624),
    },
)
CLEAN = msgspec.structs.replace(
    AUDIT,
    images={"all NORMAL": 20, "all PNEUMONIA": 20},
    images_per_patient={"1": 40},
    shared_patients={},
    shared_with_same_cause={},
    identical=NO_COPIES,
    appearance=[],
    metadata_auc={},
)


def page_of(models):
    rows = make_rows(models)
    facts = build_report_facts(RunView(make_manifest(rows, models), rows))
    return load_template(TEMPLATE).render(facts=facts, pictures=frozenset(), created="")


def test_each_fault_is_told_with_its_numbers():
    faults = describe_data_faults(AUDIT)
    for expected in (
        "The part val has 8 films, too few to choose anything on.",
        "606 of 3,288 patients have several films, up to 30.",
        "The parts train and test have 170 patient numbers in common.",
        "With the same cause (bacteria, virus or none) in both: none of them.",
        "62 films are identical to another, in 30 groups, none across the parts of the set, "
        "1 under two patient numbers.",
        "AUC of 0.902 (95 % interval 0.892 to 0.911, n = 5,232) cross-validated by patient and "
        "0.841 (95 % interval 0.806 to 0.874, n = 624) on the test films.",
        "The median normal film in train has 224 by 224 pixels, brightness 122 and contrast 61",
    ):
        assert any(expected in fault for fault in faults), expected
    assert len(faults) == 6


def test_what_was_not_found_is_not_told():
    assert describe_data_faults(CLEAN) == ()
    changed = msgspec.structs.replace(
        CLEAN,
        images_without_patient=7,
        near_duplicates=DuplicateCounts(2, 4, {}, {"train and test": 2}, 1, 0),
        metadata_auc={"cross-validation": Estimate(0.7, 0.6, 0.8, 40)},
    )
    unknown, copies, metadata = describe_data_faults(changed)
    assert unknown.startswith("7 of 40 file names tell no patient")
    assert "2 across train and test, 1 with two different labels" in copies
    assert "test" not in metadata


@pytest.mark.parametrize("audit", [None, AUDIT])
def test_a_card_keeps_its_audit_and_an_old_card_has_none(audit):
    card = make_card("cnn", audit=audit)
    assert decode_card(encode_card(card), "here").audit == audit
    old = msgspec.json.decode(encode_card(card))
    del old["audit"]
    assert decode_card(msgspec.json.encode(old).decode(), "here").audit is None


def test_the_report_takes_the_faults_from_the_card():
    html = page_of(make_models("cnn", audit=AUDIT))
    assert "have 170 patient numbers in common" in html
    assert "The official validation part has 16 films" not in html
    assert "All films come from one hospital" in html


def test_without_an_audit_the_report_says_what_is_known_of_the_published_set():
    html = page_of(make_models("cnn"))
    assert "The official validation part has 16 films" in html
    assert "170 patient numbers appear both among the training and among the test films" in html


def test_faults_of_an_unknown_set_are_told_without_a_word_about_its_origin():
    models = make_models("cnn", audit=AUDIT)
    card = models[0].card
    training = msgspec.structs.replace(
        card.training, images={"train NORMAL": 5, "train PNEUMONIA": 6}
    )
    models = [
        msgspec.structs.replace(models[0], card=msgspec.structs.replace(card, training=training))
    ]
    html = page_of(models)
    assert "have 170 patient numbers in common" in html
    assert "does not say where these films come from" in html
    assert "one hospital and one age group" not in html
