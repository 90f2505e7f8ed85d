"""Limits of one image's parts, and of all images' pixels together."""

from __future__ import annotations

import threading
from contextlib import ExitStack

import numpy as np
import pytest

from batch_scorer.errors import TooLarge
from batch_scorer.imaging.decode import read_image
from batch_scorer.imaging.grayscale import MAX_PIXELS
from batch_scorer.imaging.limits import LARGE_IMAGE_PIXELS, BudgetedBytesIO, reserve_pixels
from tests.images import encode


def test_a_parser_that_swallows_the_first_failure_cannot_go_on():
    file = BudgetedBytesIO(bytes(100), max_steps=3)
    for _ in range(3):
        file.read(1)
    for _ in range(2):
        with pytest.raises(TooLarge, match="far too many parts"):
            file.read(1)
    assert BudgetedBytesIO(bytes(10_000), max_steps=0).read() == bytes(10_000)  # a block is no step


def waiting(pixels, entered):
    with reserve_pixels(pixels):
        entered.set()


def test_large_images_wait_until_there_is_room_and_small_ones_never_do():
    entered = threading.Event()
    with reserve_pixels(MAX_PIXELS - LARGE_IMAGE_PIXELS):
        late = threading.Thread(target=waiting, args=(LARGE_IMAGE_PIXELS + 1, entered))
        late.start()
        with reserve_pixels(LARGE_IMAGE_PIXELS):  # not large yet
            assert not entered.wait(0.2)
    assert entered.wait(60)
    late.join()


def test_as_many_large_images_as_fit_are_decoded_side_by_side():
    third, whole = threading.Event(), threading.Event()
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(reserve_pixels(LARGE_IMAGE_PIXELS + 1))
        threading.Thread(target=waiting, args=(LARGE_IMAGE_PIXELS + 1, third), daemon=True).start()
        assert third.wait(60)
    threading.Thread(target=waiting, args=(MAX_PIXELS, whole), daemon=True).start()
    assert whole.wait(60), "all room is free again"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "WEBP"])
def test_every_decoder_asks_for_its_pixels_first(kind):
    asked = []

    class Refused(Exception):
        pass

    def reserve(pixels):
        asked.append(pixels)
        raise Refused

    film = np.arange(100 * 80, dtype=np.uint32).astype(np.uint8).reshape(80, 100)
    with pytest.raises(Refused):
        read_image(encode(np.stack([film] * 3, -1), kind), [32], reserve)
    assert asked == [8000]
