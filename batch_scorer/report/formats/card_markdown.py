"""A model card as Markdown, with the front matter that the Hugging Face Hub reads.

The sections are those of ``cxr models show``; the template adds the intended use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batch_scorer.model.card import output_shapes
from batch_scorer.report.content.text import format_interval, format_value, sanitize_text
from batch_scorer.report.formats.card_text import (
    METRIC_DESCRIPTIONS,
    METRICS_SECTION,
    describe_card,
)
from batch_scorer.report.formats.templates import load_template

if TYPE_CHECKING:
    from batch_scorer.model.card import ModelCard
    from batch_scorer.model.card_sections import Evaluation

TEMPLATE = "model_card.md.j2"
HUB_METRICS = {"auc": "roc_auc", "brier": "brier_score"}
"""Metrics that the Hub knows by another name."""


def format_card_markdown(card: ModelCard, sha256: str, license_id: str = "") -> str:
    """Format a model card as Markdown; the same card gives the same text.

    Args:
        card: The card in the model file NAME.onnx, where NAME is its own.
        sha256: The SHA-256 of that file.
        license_id: The Hub's identifier of a license; empty states none.
    """
    shapes = output_shapes(card, 1)
    return load_template(TEMPLATE).render(
        card=card,
        title=sanitize_text(card.title, 60),
        summary=sanitize_text(card.summary, 600),
        file=f"{card.name}.onnx",
        sha256=sha256,
        license=license_id,
        outputs={name: _format_shape(shape[1:]) for name, shape in shapes.items()},
        hub_metrics=[HUB_METRICS.get(name, name) for name in METRIC_DESCRIPTIONS],
        results={
            split: _list_hub_results(evaluation)
            for split, evaluation in sorted(  # the split to quote comes first
                card.references.items(), key=lambda item: item[1] is not card.reference
            )
        },
        metrics=[
            (name, format_value(estimate), format_interval(estimate), meaning)
            for key, (name, meaning) in METRIC_DESCRIPTIONS.items()
            for estimate in [card.reference.metrics[key]]
        ],
        metrics_section=METRICS_SECTION,
        sections=describe_card(card),
    )


def _list_hub_results(evaluation: Evaluation) -> list[tuple[str, float, str]]:
    """List the defined metrics of a split: the Hub's name, the value, and a title with interval."""
    return [
        (HUB_METRICS.get(key, key), round(estimate.value, 4), _format_metric_title(name, interval))
        for key, (name, _) in METRIC_DESCRIPTIONS.items()
        for estimate in [evaluation.metrics[key]]
        for interval in [format_interval(estimate)]
        if estimate.value is not None
    ]


def _format_metric_title(name: str, interval: str) -> str:
    return f"{name} (95 % interval {interval})" if interval else name


def _format_shape(dimensions: tuple[int, ...]) -> str:
    """Format the shape for N images: "(N,)" or "(N, 6, 6)"."""
    return f"(N, {', '.join(map(str, dimensions))})" if dimensions else "(N,)"
