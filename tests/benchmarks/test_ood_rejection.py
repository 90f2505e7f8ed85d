"""Images that are no films, and the counting of what is rejected."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from batch_scorer.errors import DatasetError
from batch_scorer.model.classifier import Predictions
from benchmarks.nonfilms import (
    OOD_GENERATORS,
    OOD_TRANSFORMS,
    WHOLE_PHOTOS,
    crop_photos,
    encode_png,
    load_photos,
)
from benchmarks.ood_rejection import (
    JPEG_SUFFIXES,
    RejectionRow,
    count_rejected,
    count_rejected_files,
    format_row,
    read_files,
)
from tests.images import make_film


def classifier():
    """Calls the mean grey, from 0 to 1, the atypicality."""
    card = SimpleNamespace(size_px=32, typicality=SimpleNamespace(flag_above=0.4, reject_above=0.6))

    def predict(pixels):
        strange = pixels.mean(axis=(1, 2, 3), dtype=np.float32) / 255
        return Predictions(probability=strange, atypicality=strange)

    return SimpleNamespace(card=card, predict=predict)


@pytest.mark.parametrize("kind", sorted(OOD_GENERATORS))
def test_every_kind_is_seeded_varied_and_decodes(kind):
    first, again, other = (
        [encode_png(image) for image in OOD_GENERATORS[kind](np.random.default_rng(seed), 4)]
        for seed in (0, 0, 1)
    )
    assert first == again
    assert kind == WHOLE_PHOTOS or first != other
    assert len(first) >= 4
    assert len(set(first)) == len(first)
    row = count_rejected_files(kind, classifier(), first)
    assert row.undecodable == (2 if kind == "plain colours" else 0), "one flat grey is no film"


def test_colours_begin_with_black_and_white():
    black, white, *_ = OOD_GENERATORS["plain colours"](np.random.default_rng(0), 3)
    assert (black.max(), white.min()) == (0, 255)


def test_crops_are_parts_of_the_photos():
    whole = list(load_photos(np.random.default_rng(0), 0))
    for photo, crop in zip(whole, crop_photos(np.random.default_rng(0), len(whole)), strict=True):
        assert all(
            0.19 < c / p < 0.81 for c, p in zip(crop.shape[:2], photo.shape[:2], strict=True)
        )
        assert (photo == crop[0, 0]).reshape(*photo.shape[:2], -1).all(axis=-1).any()


def test_films_are_turned_and_inverted():
    film = np.arange(12, dtype=np.uint8).reshape(3, 4)
    turned = {kind: change(film) for kind, change in OOD_TRANSFORMS.items()}
    assert (turned["images inverted"] + film == 255).all()
    assert turned["images rotated 90 degrees"][:, 0].tolist() == [3, 2, 1, 0]
    assert turned["images rotated 180 degrees"][0].tolist() == [11, 10, 9, 8]
    assert turned["images rotated 270 degrees"][:, -1].tolist() == [0, 1, 2, 3]


def test_what_is_flagged_rejected_and_refused_is_counted():
    files = [*(make_film(level) for level in (60, 90, 120, 130, 200)), b"no image"]
    row = count_rejected_files("mixed", classifier(), files)
    assert row == RejectionRow("mixed", n=6, flagged=4, rejected=2, undecodable=1)
    assert row.is_met
    assert format_row(row).split() == ["mixed", "6", "66.7%", "33.3%", "[9.7%,", "70.0%]", "1"]


def test_more_images_than_one_batch_are_all_counted():
    pixels = np.full((150, 32, 32, 1), 200, np.uint8)
    pixels[:10] = 0
    assert count_rejected("many", classifier(), pixels) == RejectionRow("many", 150, 140, 140)


@pytest.mark.parametrize(
    ("in_distribution", "rejected", "kept"),
    [(True, 2, True), (True, 3, False), (False, 190, True), (False, 189, False)],
)
def test_the_rules_for_films_and_for_what_is_none(in_distribution, rejected, kept):
    row = RejectionRow("some", 200, 200, rejected, in_distribution=in_distribution)
    assert row.is_met is kept
    assert ("MISSED" in format_row(row)) is not kept
    assert ("at most 1%" if in_distribution else "at least 95%") in format_row(row)


def test_an_empty_folder_is_an_error():
    with pytest.raises(DatasetError, match="Expected images of nothing, found none"):
        count_rejected_files("nothing", classifier(), [])


def test_files_are_read_in_order_by_their_endings(tmp_path):
    for place in ("b/2.JPG", "a/1.jpeg", "a/notes.txt", ".hidden.jpg"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text(place)
    assert list(read_files(tmp_path, JPEG_SUFFIXES)) == [b"a/1.jpeg", b"b/2.JPG"]
    assert list(read_files(tmp_path)) == [b"a/1.jpeg", b"a/notes.txt", b"b/2.JPG"]
