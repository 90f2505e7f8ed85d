"""Runs, rows and model cards for the report's tests, computed from seeded scores."""

from __future__ import annotations

import hashlib
from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from PIL import Image

from batch_scorer.imaging.decode import DECODE_VERSION
from batch_scorer.imaging.file_names import parse_patient
from batch_scorer.imaging.heatmap import Peak, overlay_heatmap
from batch_scorer.metrics import classification
from batch_scorer.model.card import CARD_VERSION, CLASSES, ModelCard
from batch_scorer.model.card_sections import (
    Calibration,
    Etiology,
    Evaluation,
    Evidence,
    ExternalDataset,
    Faithfulness,
    History,
    ModelComparison,
    OodDetection,
    PairedDifference,
    Threshold,
    Training,
    UndecidedBand,
)
from batch_scorer.results import store
from batch_scorer.results.schema import BatchMetrics, Gallery, ModelUsed, RunManifest, Score
from batch_scorer.results.worklist import select_for_review
from batch_scorer.storage.output import open_output

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from batch_scorer.results.schema import Heatmaps

PARTS = (
    "1 Summary",
    "2 Films to look at first",
    "3 How good are the models",
    "4 What a flag means in your clinic",
    "5 Does this batch look like the data the models know",
    "6 Files not scored, and why",
    "7 All predictions",
    "8 How it works",
    "9 Appendix for the statistician",
)
"""The parts of the report, in their order."""
TITLES = {
    "mlp": "Multilayer perceptron",
    "cnn": "Convolutional network",
    "vgg16": "VGG16",
}
SKILL = {"mlp": 1.6, "cnn": 2.8, "vgg16": 2.6}


def make_scores(
    skill: float, normal: int, pneumonia: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Labels and probabilities of a model of some skill."""
    rng = np.random.default_rng(seed)
    truth = np.repeat([0, 1], [normal, pneumonia])
    logits = rng.normal(0, 1.3, len(truth)) + skill * (truth - 0.45)
    return truth, 1 / (1 + np.exp(-logits))


@cache
def make_reference(name: str, split: str, threshold: float, seed: int) -> Evaluation:
    """The reference figures of a model on a split as large as the real one."""
    normal, pneumonia = (234, 390) if split == "test" else (169, 486)
    truth, scores = make_scores(SKILL[name], normal, pneumonia, seed)
    patients = [f"p{index // 2}" for index in range(len(truth))]
    return Evaluation(
        split=split,
        images=len(truth),
        patients=len(set(patients)),
        pneumonia=pneumonia,
        metrics=classification.compute_metrics(truth, scores, threshold, patients, resamples=200),
        confusion=classification.confusion_matrix(truth, scores, threshold),
        roc=classification.roc_points(truth, scores),
        reliability=classification.reliability_points(truth, scores),
        score_quantiles=np.quantile(scores, np.linspace(0, 1, 21)).round(6).tolist(),
    )


def make_card(
    name: str = "cnn", *, splits: Sequence[str] = ("validation", "test"), **changes: Any
) -> ModelCard:
    """A card as ``cxr train`` writes it."""
    rng = np.random.default_rng(len(name))
    epochs = np.arange(1, 21)
    loss = 0.12 + 0.5 * np.exp(-epochs / 4)
    val_loss = loss + 0.03 + 0.004 * np.maximum(epochs - 12, 0) + rng.normal(0, 0.01, len(epochs))
    threshold = 0.4321
    card = ModelCard(
        card_version=CARD_VERSION,
        name=name,
        title=TITLES[name],
        summary="Layers on the film at 160 by 160.",
        decode_version=DECODE_VERSION,
        classes=CLASSES,
        size_px=224,
        threshold=Threshold(
            threshold, "the highest threshold with a sensitivity of at least 95%", "validation"
        ),
        calibration=Calibration("Platt scaling", 1.1, -0.2, "validation", 0.06, 0.04, 0.05, 0.02),
        references={split: make_reference(name, split, threshold, 3) for split in splits},
        history=History(
            loss=loss.tolist(),
            val_loss=val_loss.tolist(),
            accuracy=(1 - loss / 2).tolist(),
            val_accuracy=(1 - val_loss / 2).tolist(),
        ),
        training=make_training(int(np.argmin(val_loss)) + 1, len(epochs)),
        versions={"keras": "3.15.1"},
    )
    return msgspec.structs.replace(card, **changes)


def make_band(low: float = 0.3, high: float = 0.6) -> UndecidedBand:
    """A band around the threshold of ``make_card``."""
    return UndecidedBand(
        low,
        high,
        "few errors lie beyond it",
        "validation",
        classification.estimate_proportion(66, 655),
    )


def make_evidence(side: int = 12) -> Evidence:
    """An evidence map that passed its checks."""
    checked = Faithfulness(100, [0.05, 0.1, 0.5], [0.4, 0.9, 2.5], [0.1, 0.2, 1.4], 0.05)
    return Evidence("exact class activation map", side, side, checked)


def make_gallery(rows: Sequence[Score], heatmaps: Heatmaps = "flagged", **changes: Any) -> Gallery:
    """A gallery in which every flagged film has a map, ever stronger, along the diagonal."""
    flagged = [row for row in rows if row.prediction == CLASSES[1]]
    steps = np.linspace(0.05, 0.95, len(flagged)).round(2).tolist()
    maps = {
        store.thumbnail_stem(row): Peak(10 * step, step, step)
        for row, step in zip(flagged, steps, strict=True)
    }
    return msgspec.structs.replace(Gallery(heatmaps, None, maps), **changes)


def make_typicality(flag_above: float = 0.8, reject_above: float = 1.0) -> OodDetection:
    """Limits of atypicality; a training film lies anywhere from -1 to 1."""
    share = classification.estimate_proportion(3, 650)
    return OodDetection(
        "distance to the training films",
        flag_above,
        reject_above,
        "training",
        np.linspace(-1, 1, 101).tolist(),
        {
            "validation": classification.estimate_proportion(13, 650),
            "adults elsewhere": classification.estimate_proportion(210, 600),
        },
        {"validation": share, "adults elsewhere": classification.estimate_proportion(80, 600)},
    )


def make_etiology() -> Etiology:
    """A second answer that is right for about three films in four."""
    rng = np.random.default_rng(2)
    truth = np.arange(148) % 2
    answers = np.clip(0.5 + 0.2 * (truth - 0.5) + rng.normal(0, 0.2, 148), 0.01, 0.99)
    return Etiology(
        ("bacterial", "viral"),
        Calibration("Platt scaling", 1.2, 0.3, "validation", 0.2, 0.1),
        {"test": classification.compute_metrics(truth, answers, 0.5, resamples=50)},
    )


def make_external(flagged: int = 132, films: int = 600) -> ExternalDataset:
    """What a card says of normal films of another place."""
    return ExternalDataset(
        "adults elsewhere",
        films,
        flagged,
        classification.estimate_proportion(flagged, films),
        "No model was trained on them.",
    )


def make_comparison(**p_holm: float) -> ModelComparison:
    """The pairs "first_second" with a corrected p each, the first one ahead by 0.03."""
    return ModelComparison(
        split="test",
        images=624,
        patients=427,
        images_sha256="0" * 64,
        method="paired bootstrap by patient",
        pairs=[
            PairedDifference(
                *pair.split("_"), metric, classification.Estimate(0.03, -0.01, 0.05, 624), p / 2, p
            )
            for pair, p in p_holm.items()
            for metric in classification.COMPARED_METRICS
        ],
    )


def make_training(best_epoch: int, epochs: int) -> Training:
    """How a model was made."""
    return Training(
        data="chest_xray",
        data_fingerprint="0" * 64,
        images={
            "train NORMAL": 1180,
            "train PNEUMONIA": 3397,
            "validation NORMAL": 169,
            "validation PNEUMONIA": 486,
            "test NORMAL": 234,
            "test PNEUMONIA": 390,
        },
        split_policy="Official train and val pooled, then split 7 : 1 by patient.",
        seed=1,
        epochs=epochs,
        best_epoch=best_epoch,
        minutes=10.0,
        parameters=590_000,
        backend="tensorflow",
        command="cxr train DATA -o RUN",
        commit="0" * 40,
        imbalance="Each class weighs the same in the loss.",
        initial_weights="He initialisation",
        brightness_mean=120.0,
        brightness_sd=20.0,
        contrast_mean=55.0,
        contrast_sd=9.0,
    )


def make_models(*names: str, **changes: Any) -> list[ModelUsed]:
    """Models as a run lists them, the first one primary."""
    return [
        ModelUsed(
            f"{name}.onnx", hashlib.sha256(name.encode()).hexdigest(), make_card(name, **changes)
        )
        for name in names
    ]


def make_rows(
    models: Sequence[ModelUsed],
    normal: int = 9,
    pneumonia: int = 12,
    *,
    labelled: bool = True,
    names: Sequence[str] = (),
    seed: int = 5,
) -> list[Score]:
    """Scored rows, sorted by name."""
    answers = [
        make_scores(SKILL.get(model.name, 2.5), normal, pneumonia, seed + index)
        for index, model in enumerate(models)
    ]
    rows = []
    band = models[0].card.band
    for index, truth in enumerate(np.repeat([0, 1], [normal, pneumonia])):
        probabilities = tuple(float(scores[index]) for _, scores in answers)
        flags = [p >= m.threshold for p, m in zip(probabilities, models, strict=True)]
        label = CLASSES[truth]
        name = (
            names[index]
            if index < len(names)
            else f"{label}/person{index}_bacteria_{index * 7}.jpeg"
        )
        rows.append(
            Score(
                image=name,
                status="scored",
                label=label if labelled else "",
                prediction=CLASSES[flags[0]],
                probabilities=probabilities,
                undecided=band.contains(probabilities[0]) if band else None,
                agreement=flags.count(flags[0]) / len(flags),
                spread=max(probabilities) - min(probabilities) if len(models) > 1 else None,
                width_px=1400,
                height_px=1000,
                patient=parse_patient(name),
                sha256=hashlib.sha256(name.encode()).hexdigest(),
            )
        )
    return sorted(rows, key=lambda row: row.image)


def with_looks(
    rows: Sequence[Score], *, stranger: float = 1.0, brighter: float = 0.0
) -> list[Score]:
    """Rows whose films look like those that ``make_training`` and ``make_typicality`` tell of.

    Args:
        rows: Scored rows.
        stranger: Power of the typicality: 1 as the training films, 4 mostly strange.
        brighter: Standard deviations that the films are brighter than the training films.
    """
    rng = np.random.default_rng(8)
    changed = []
    for row, typicality in zip(rows, rng.permutation(len(rows)), strict=True):
        share = float((typicality + 0.5) / len(rows)) ** stranger
        looks = {
            "typicality": share,
            "atypical": share < 0.02,
            "brightness": float(rng.normal(120 + 20 * brighter, 20)),
            "contrast": float(rng.normal(55, 9)),
        }
        changed.append(msgspec.structs.replace(row, **looks))
    return changed


def make_unscored(number: int, *, status: str = "failed", reason: str = "truncated") -> list[Score]:
    """Rows of files without an answer."""
    return [
        Score(
            image=f"broken/film-{index:04}.jpg",
            status=status,
            reason=reason,
            detail="The file ends before the image does. Copy it again.",
        )
        for index in range(number)
    ]


def make_manifest(
    rows: Sequence[Score], models: Sequence[ModelUsed], **changes: Any
) -> RunManifest:
    """The manifest that the runner would write for these rows."""
    by_status = {
        name: sum(row.status == name for row in rows) for name in ("scored", "rejected", "failed")
    }
    reasons = sorted({row.reason for row in rows if row.reason})
    manifest = RunManifest(
        run_id="20261123-201700-abc123",
        version="0.1.0",
        started="2026-11-23T20:17:00+00:00",
        finished="2026-11-23T20:17:09+00:00",
        source="films",
        synthetic=False,
        listed=len(rows),
        found=len(rows),
        **by_status,
        flagged=sum(row.prediction == CLASSES[1] for row in rows),
        duplicates=sum(bool(row.duplicate_of) for row in rows),
        hidden=0,
        reasons={reason: sum(row.reason == reason for row in rows) for reason in reasons},
        labels="folders",
        labelled=sum(bool(row.label) for row in rows if row.status == "scored"),
        models=list(models),
        metrics=make_batch_metrics(rows, models),
        provider="CPUExecutionProvider",
        decode_version=DECODE_VERSION,
        batch_size=32,
        threads=2,
        seconds={"list": 0.1, "start": 0.9, "score": 7.5, "record": 0.5},
        worker_seconds={"read": 0.2, "decode": 6.1, "classify": 8.4},
        bytes_read=12_300_000,
        peak_memory_bytes=456_000_000,
        core_seconds=18.0,
        images_per_second=3.1,
        rows_sha256="0" * 64,
        parquet_sha256="0" * 64,
        versions={"onnxruntime": "1.32.0"},
        undecided=sum(bool(row.undecided) for row in rows) if models[0].card.band else None,
    )
    return msgspec.structs.replace(manifest, **changes)


def make_batch_metrics(rows: Sequence[Score], models: Sequence[ModelUsed]) -> list[BatchMetrics]:
    """The labelled films' metrics, one per model."""
    labelled = [row for row in rows if row.status == "scored" and row.label]
    truth = [CLASSES.index(row.label) for row in labelled]
    found = []
    for index, model in enumerate(models if labelled else ()):
        scores = [row.probabilities[index] for row in labelled]
        found.append(
            BatchMetrics(
                model=model.name,
                images=len(labelled),
                pneumonia=sum(truth),
                metrics=classification.compute_metrics(
                    truth, scores, model.threshold, resamples=200
                ),
                confusion=classification.confusion_matrix(truth, scores, model.threshold),
                roc=classification.roc_points(truth, scores),
            )
        )
    return found


def write_run(
    output: Path,
    rows: Sequence[Score],
    models: Sequence[ModelUsed],
    added: Mapping[str, Sequence[str]] | None = None,
    **changes: Any,
) -> RunManifest:
    """A finished run on disk: rows, pictures, manifest."""
    place = open_output(output)
    place.prepare()
    rows_sha256, parquet_sha256 = store.write_rows(place, rows, models, extra_columns=added)
    gallery = changes.get("gallery", Gallery())
    groups = select_for_review(rows, models[0].threshold, gallery.review_minutes).values()
    for index, row in enumerate(row for group in groups for row in group):
        place.write(*store.encode_thumbnail(row, draw_film(index)))
        if store.thumbnail_stem(row) in gallery.maps:
            evidence = np.linspace(-1, 2, 12)[None].repeat(12, axis=0).astype(np.float32)
            overlay = overlay_heatmap(draw_film(index), evidence, 2.0)
            place.write(*store.encode_evidence_map(row, overlay))
    manifest = make_manifest(
        rows, models, rows_sha256=rows_sha256, parquet_sha256=parquet_sha256, **changes
    )
    store.write_manifest(place, manifest)
    return manifest


def draw_film(index: int) -> Image.Image:
    """A grey picture with two dark ellipses, of varying proportions."""
    width, height = ((320, 240), (320, 320), (210, 320), (320, 150))[index % 4]
    y, x = np.mgrid[0:height, 0:width]
    lungs = sum(
        np.exp(-(((x / width - center) / 0.13) ** 2) - ((y / height - 0.5) / 0.3) ** 2)
        for center in (0.3, 0.7)
    )
    return Image.fromarray(np.clip(205 - 150 * lungs + index % 9, 0, 255).astype(np.uint8))
