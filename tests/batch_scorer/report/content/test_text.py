"""Numbers, names and times as a reader sees them."""

from __future__ import annotations

import pytest

from batch_scorer.metrics.classification import Estimate
from batch_scorer.report.content import text as wording


@pytest.mark.parametrize(
    ("probability", "words"),
    [
        (1.0, "very likely"),
        (0.97, "very likely"),
        (0.895, "very likely"),  # printed as 0.90, so named as 0.90
        (0.894, "likely"),
        (0.66, "likely"),
        (0.5, "about as likely as not"),
        (0.33, "about as likely as not"),
        (0.32, "unlikely"),
        (0.1, "unlikely"),
        (0.05, "very unlikely"),
        (0.0, "very unlikely"),
    ],
)
def test_the_words_for_a_probability_are_fixed(probability: float, words: str) -> None:
    assert wording.format_likelihood(probability) == words


@pytest.mark.parametrize(
    ("probability", "text"),
    [
        (0.97, "0.97"),
        (0.4322, "0.4322"),  # beside the threshold two decimals would hide the side
        (0.4320, "0.4320"),
        (0.4321, "0.432"),
        (0.43, "0.430"),
        (0.9999, "over 0.99"),
        (0.0001, "under 0.01"),
    ],
)
def test_a_probability_never_looks_certain_or_like_the_threshold(
    probability: float, text: str
) -> None:
    assert wording.format_probability(probability, 0.4321) == text


def test_people_are_counted_with_an_interval_rounded_outwards() -> None:
    estimate = Estimate(0.954, 0.931, 0.968, 390)
    assert wording.format_per_hundred(estimate) == "95 (95 % interval 93 to 97, n = 390)"
    assert wording.format_per_hundred(estimate, inverse=True) == "5 (95 % interval 3 to 7, n = 390)"


@pytest.mark.parametrize(
    ("difference", "text"),
    [
        (0.00123, "+0.0012"),
        (-0.0002, "−0.0002"),
        (-0.00004, "less than 0.0001"),
        (0.0, "less than 0.0001"),
    ],
)
def test_a_change_has_a_sign_or_is_called_small(difference: float, text: str) -> None:
    assert wording.format_change(difference) == text


def test_what_the_films_do_not_define_is_said_to_be_so() -> None:
    missing = Estimate(None, None, None, 0)
    assert wording.format_value(missing) == "not defined"
    assert wording.format_per_hundred(missing) == "not defined"
    assert wording.format_interval(missing) == ""


def test_an_interval_without_width_is_not_shown_as_certainty() -> None:
    assert wording.format_interval(Estimate(1.0, 1.0, 1.0, 1)) == "no interval"
    assert wording.format_estimate(Estimate(None, None, None, 0)) == "not defined (n = 0)"
    assert wording.format_estimate(Estimate(1.0, 1.0, 1.0, 1)) == "1.000 (no interval, n = 1)"
    told = "0.902 (95 % interval 0.892 to 0.911, n = 5,232)"
    assert wording.format_estimate(Estimate(0.902, 0.892, 0.911, 5232)) == told


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("film.jpg", "film.jpg"),
        ("<b>&\"'.jpg", "<b>&\"'.jpg"),
        ("a\nb", "a‹U+000A›b"),
        ("\u202egpj.exe", "‹U+202E›gpj.exe"),
        ("zero\u200bwidth", "zero‹U+200B›width"),
        ("thin\u2009space", "thin‹U+2009›space"),
        ("e\u0301", "é"),
        ("e\u0301\u0301", "é‹U+0301›"),
    ],
)
def test_a_name_shows_what_is_invisible(name: str, shown: str) -> None:
    assert wording.sanitize_text(name) == shown


def test_a_long_name_keeps_its_beginning_and_its_end() -> None:
    shown = wording.sanitize_text("start" + "x" * 4000 + "end.jpg")
    assert len(shown) == wording.MAX_NAME_CHARS
    assert shown.startswith("start")
    assert shown.endswith("end.jpg")
    assert "…" in shown


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 films"), (1, "1 film"), (2, "2 films"), (1204, "1,204 films")]
)
def test_nouns_follow_their_number(number: int, text: str) -> None:
    assert wording.format_count(number, "film") == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "less than a second"),
        (1.2, "1 second"),
        (90, "90 seconds"),
        (600, "10 minutes"),
        (9000, "2.5 hours"),
    ],
)
def test_time_spans_are_said_to_the_precision_that_matters(seconds: float, text: str) -> None:
    assert wording.format_duration(seconds) == text


def test_a_moment_is_said_in_words() -> None:
    assert wording.format_timestamp("2026-11-03T08:05:00+00:00") == "3 November 2026, 08:05 UTC"
    assert wording.format_timestamp("yesterday\n") == "yesterday‹U+000A›"
