"""Shards: every film in exactly one, by its key alone, as each platform numbers its tasks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_scorer.errors import UsageError
from batch_scorer.results.shards import (
    Shard,
    assign_shard,
    parse_shard,
    read_execution_id,
    select_shard,
)


@given(st.sets(st.text(), max_size=200), st.integers(1, 12))
def test_shards_hold_every_film_exactly_once(keys, count):
    shards = [Shard(number, count) for number in range(1, count + 1)]
    assert [key for key in keys if sum(shard.contains(key) for shard in shards) != 1] == []


def test_the_shard_of_a_film_never_changes():
    """Rows of an earlier run would be looked for in another folder."""
    assert [assign_shard(f"person{n}.jpeg", 10) for n in range(8)] == [3, 3, 10, 10, 8, 3, 5, 10]


def test_films_spread_evenly():
    sizes = [
        sum(assign_shard(f"film {n}", 4) == shard for n in range(4000)) for shard in (1, 2, 3, 4)
    ]
    assert min(sizes) > 900


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"CLOUD_RUN_TASK_INDEX": "0", "CLOUD_RUN_TASK_COUNT": "3"}, Shard(1, 3)),
        ({"AWS_BATCH_JOB_ARRAY_INDEX": "9", "AWS_BATCH_JOB_ARRAY_SIZE": "10"}, Shard(10, 10)),
        ({"AWS_BATCH_JOB_ARRAY_INDEX": "1", "CXR_SHARD_COUNT": "4"}, Shard(2, 4)),
        ({"JOB_COMPLETION_INDEX": "2", "CXR_SHARD_COUNT": "5"}, Shard(3, 5)),
        (
            {
                "SLURM_ARRAY_TASK_ID": "14",
                "SLURM_ARRAY_TASK_MIN": "10",
                "SLURM_ARRAY_TASK_COUNT": "4",
                "SLURM_ARRAY_TASK_STEP": "2",
            },
            Shard(3, 4),
        ),
    ],
)
def test_auto_reads_what_the_platform_says(environment, expected):
    assert parse_shard("auto", environment) == expected


@pytest.mark.parametrize(
    ("text", "environment", "message"),
    [
        ("0/3", {}, "from 1 to 3, found 0/3"),
        ("4/3", {}, "from 1 to 3, found 4/3"),
        ("1/0", {}, "found 1/0"),
        ("third", {}, "such as 2/10, or auto, found 'third'"),
        ("auto", {}, "found none of CLOUD_RUN_TASK_INDEX"),
        ("auto", {"JOB_COMPLETION_INDEX": "2"}, "CXR_SHARD_COUNT, found nothing"),
        ("auto", {"JOB_COMPLETION_INDEX": "x", "CXR_SHARD_COUNT": "2"}, "INDEX, found 'x'"),
        (
            "auto",
            {"CLOUD_RUN_TASK_INDEX": "3", "CLOUD_RUN_TASK_COUNT": "3"},
            "CLOUD_RUN_TASK_INDEX=3 of CLOUD_RUN_TASK_COUNT=3",
        ),
    ],
)
def test_a_share_that_is_none_is_refused(text, environment, message):
    with pytest.raises(UsageError) as refusal:
        parse_shard(text, environment)
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("environment", "execution"),
    [
        ({}, ""),
        ({"CLOUD_RUN_EXECUTION": "night-8x7fz"}, "night-8x7fz"),
        ({"AWS_BATCH_JOB_ID": "0aa4b9f8-1c2d:17"}, "0aa4b9f8-1c2d"),
        ({"SLURM_ARRAY_JOB_ID": "4711", "SLURM_ARRAY_TASK_ID": "3"}, "4711"),
        ({"CONTAINER_APP_JOB_EXECUTION_NAME": "night-abc12"}, "night-abc12"),
        ({"JOB_COMPLETION_INDEX": "12", "HOSTNAME": "cxr-29412-12"}, "cxr-29412"),
        ({"HOSTNAME": "laptop-12"}, ""),
        ({"JOB_COMPLETION_INDEX": "1", "HOSTNAME": "node"}, ""),
    ],
)
def test_all_tasks_of_a_start_read_the_same_name_of_it(environment, execution):
    assert read_execution_id(environment) == execution


@pytest.mark.parametrize(
    ("text", "tasks", "environment", "share"),
    [
        (None, None, {}, (Shard(1, 1), 1)),
        (None, 1, {}, (Shard(1, 1), 1)),
        ("claim", 4, {}, (None, 4)),
        ("2/4", None, {}, (Shard(2, 4), 4)),
        (None, 4, {"JOB_COMPLETION_INDEX": "3"}, (Shard(4, 4), 4)),
        (
            None,
            None,
            {"CLOUD_RUN_TASK_INDEX": "0", "CLOUD_RUN_TASK_COUNT": "2"},
            (Shard(1, 2), 2),
        ),
    ],
)
def test_a_share_is_chosen_by_hand_by_the_platform_or_claimed(text, tasks, environment, share):
    assert select_shard(text, tasks, environment) == share
