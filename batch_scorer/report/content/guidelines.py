"""Items of three reporting guidelines, each with the section that answers it. Pure functions.

Source: CLAIM 2024 (Tejani et al., Radiology: Artificial Intelligence 6, e240300), TRIPOD+AI
(Collins et al., BMJ 2024, 385:e078378), STARD-AI (Sounderajah et al., Nature Medicine 2025, 31,
3283-3289).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batch_scorer.model.card_sections import find_shared_comparison
from batch_scorer.report.content.methods import is_trained_on_kermany

if TYPE_CHECKING:
    from batch_scorer.report.content.view import RunView

NOT_AVAILABLE = "not available"
NO_ITEM = "no item"


@dataclass(frozen=True)
class GuidelineItem:
    """One topic, its items in CLAIM 2024, TRIPOD+AI and STARD-AI, and the section on it."""

    topic: str
    claim: str
    tripod: str
    stard: str
    section: str


# Every report answers these.
ALWAYS_ANSWERED = (
    GuidelineItem("Intended use and role", "3, 41", "3b", "3, 34", "section 1"),
    GuidelineItem("Who is to use it", "41", "27b", "15d", "section 1"),
    GuidelineItem(
        "Numbers scored and not scored", "35", "20a", "24 (counts, no diagram)", "section 1"
    ),
    GuidelineItem("Files without an answer, and what to do", "12", "11, 27a", "20", "section 6"),
    GuidelineItem("Measures and figures used", "28", "12e", "18", "sections 3 and 9"),
    GuidelineItem("Performance with intervals", "37, 38", "23a", "31", "section 3"),
    GuidelineItem("Table of answers against reference standard", "37", "23a", "30", "section 3"),
    GuidelineItem("Intervals and tests", "29", "12e", "18", "section 9"),
    GuidelineItem("Calibration", "28", "12e, 23a", NO_ITEM, "sections 3 and 9"),
    GuidelineItem("Predictive values by prevalence", "41", "12e", "34", "section 4"),
    GuidelineItem("Batch against training films", NO_ITEM, "16, 20c", "29", "section 5"),
    GuidelineItem("Source of the data", "7", "5a", "11", "section 8"),
    GuidelineItem("How films were split", "19", "12a", "15b", "section 9"),
    GuidelineItem("Level at which the parts are disjoint", "20", "12a", "15b", "section 9"),
    GuidelineItem("Preprocessing", "9", "7, 12b", "14", "section 9"),
    GuidelineItem("Model", "22", "12c, 22", "15a", "section 8"),
    GuidelineItem("Software and versions", "23", "12g", "13", "section 9"),
    GuidelineItem("First weights", "24", "12c", "15b", "section 9"),
    GuidelineItem("Training and choice of the final model", "25, 26", "12c", "15b", "section 9"),
    GuidelineItem("Class imbalance", "25", "13", "15b", "section 9"),
    GuidelineItem("Output and threshold", "22", "15", "15c", "section 9"),
    GuidelineItem("Numbers of films in each analysis", "19", "21", "15b", "section 9"),
    GuidelineItem("Limits", "40", "26", "33", "section 8"),
    GuidelineItem("Outputs stored and open to audit", NO_ITEM, NO_ITEM, "40b", "section 9, hashes"),
)
# Neither rows nor model files say anything about these.
NEVER_ANSWERED = (
    GuidelineItem("Ethics approval", NO_ITEM, "17", "6", NOT_AVAILABLE),
    GuidelineItem("Dates and setting of the films", NO_ITEM, "5b, 6a", "9", NOT_AVAILABLE),
    GuidelineItem("Inclusion and exclusion of patients", "8", "6b", "7", NOT_AVAILABLE),
    GuidelineItem("De-identification", "11", NO_ITEM, NO_ITEM, NOT_AVAILABLE),
    GuidelineItem("Image acquisition and devices", "13", NO_ITEM, "13, 14", NOT_AVAILABLE),
    GuidelineItem(
        "Reference standard and annotators", "14 to 17", "8a to 8c", "12, 16a to 16c", NOT_AVAILABLE
    ),
    GuidelineItem("Agreement between annotators", "18", NO_ITEM, NO_ITEM, NOT_AVAILABLE),
    GuidelineItem("Blinding", NO_ITEM, "8c", "17a, 17b", NOT_AVAILABLE),
    GuidelineItem("Intended sample size", "21", "10", "22", NOT_AVAILABLE),
    GuidelineItem("Characteristics of the patients", "36", "20b", "25", NOT_AVAILABLE),
    GuidelineItem("Fairness", NO_ITEM, "14", "23, 35", NOT_AVAILABLE),
    GuidelineItem("Registration and protocol", "34, 42", "18c, 18d", "36, 37", NOT_AVAILABLE),
    GuidelineItem("Patient and public involvement", NO_ITEM, "19", NO_ITEM, NOT_AVAILABLE),
    GuidelineItem("Availability of code", "43", "18f", "40a", NOT_AVAILABLE),
    GuidelineItem("Funding and interests", "44", "18a, 18b", "38, 39", NOT_AVAILABLE),
)


def describe_guidelines(view: RunView, *, subgroups: bool) -> tuple[GuidelineItem, ...]:
    """List all topics with their items; a topic without an answer is marked as not available.

    Args:
        view: The run.
        subgroups: True if the report has figures by etiology.
    """
    cards = view.cards

    def find_section(section: str, *, available: bool) -> str:
        return section if available else NOT_AVAILABLE

    sometimes = (
        GuidelineItem(
            "Comparison of models on the same films",
            *("29", "12e", "18"),
            find_section("section 3", available=find_shared_comparison(cards) is not None),
        ),
        GuidelineItem(
            "Subgroups by cause", "37", "23a", "21", find_section("section 9", available=subgroups)
        ),
        GuidelineItem(
            "Wrong answers, film by film",
            *("39", NO_ITEM, "23"),
            find_section("section 2", available=bool(view.manifest.metrics)),
        ),
        GuidelineItem(
            "Explanations (evidence maps)",
            *("31", NO_ITEM, NO_ITEM),
            find_section("section 9", available=any(card.evidence for card in cards)),
        ),
        GuidelineItem(
            "Robustness to shifted films",
            *("30", NO_ITEM, "21"),
            find_section(
                "section 9", available=any("shifted validation" in c.references for c in cards)
            ),
        ),
        GuidelineItem("Evaluation on internal data", "32", "23a", "31", "section 3"),
        GuidelineItem(
            "Testing on films from elsewhere",
            *("33", "23a", "29"),
            find_section("section 3", available=any(card.external for card in cards)),
        ),
        GuidelineItem(
            "Availability of the data",
            *("43", "18e", "40a"),
            find_section("section 8", available=all(is_trained_on_kermany(card) for card in cards)),
        ),
    )
    return (*ALWAYS_ANSWERED, *sometimes, *NEVER_ANSWERED)
