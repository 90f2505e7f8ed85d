"""Which films are one task's share of a run that many tasks do together.

A film belongs to a shard by a hash of its key, never by its place in a listing: a film that comes
or goes while the tasks run moves no other film.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batch_scorer.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_SHARDS = 100_000
"""No platform starts more tasks at once."""
SHARD_COUNT_VARIABLE = "CXR_SHARD_COUNT"
"""Says how many tasks there are where the platform does not."""


@dataclass(frozen=True)
class Shard:
    """Share ``number`` (1 to ``count``) of a run."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def folder(self) -> str:
        """Where its results lie below those of the whole run."""
        return f"{SHARDS_FOLDER}/{self.number}-of-{self.count}"

    def holds(self, key: str) -> bool:
        """Whether a film is in this share."""
        return assign_shard(key, self.count) == self.number


SHARDS_FOLDER = "shards"


@dataclass(frozen=True)
class _PlatformVariables:
    """Environment variables by which a platform numbers its tasks."""

    index: str
    count: str
    first: str = ""
    """Variable with the index of the first task: 0 where there is none."""
    step: str = ""
    """Variable with the distance from one index to the next: 1 where there is none."""


_EXECUTION_VARIABLES = (
    "CLOUD_RUN_EXECUTION",
    "AWS_BATCH_JOB_ID",
    "SLURM_ARRAY_JOB_ID",
    "CONTAINER_APP_JOB_EXECUTION_NAME",
)
"""Variables in which a platform names the start that all its tasks belong to."""
_PLATFORMS = (
    _PlatformVariables("CLOUD_RUN_TASK_INDEX", "CLOUD_RUN_TASK_COUNT"),
    _PlatformVariables("AWS_BATCH_JOB_ARRAY_INDEX", "AWS_BATCH_JOB_ARRAY_SIZE"),
    _PlatformVariables(
        "SLURM_ARRAY_TASK_ID",
        "SLURM_ARRAY_TASK_COUNT",
        first="SLURM_ARRAY_TASK_MIN",
        step="SLURM_ARRAY_TASK_STEP",
    ),
    _PlatformVariables(
        "JOB_COMPLETION_INDEX", SHARD_COUNT_VARIABLE
    ),  # Kubernetes does not say how many
)


def assign_shard(key: str, count: int) -> int:
    """The number, 1 to ``count``, of the shard that a film is in."""
    digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") % count + 1


def parse_shard(text: str, environment: Mapping[str, str]) -> Shard:
    """Read ``--shard``: "2/10", or "auto" for what the platform's environment says.

    Raises:
        UsageError: It is neither, or no platform says anything.
    """
    if text == "auto":
        return _read_platform_shard(environment)
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match:
        raise UsageError(f"Expected a shard such as 2/10, or auto, found {text!r}.")
    return _make_shard(int(match[1]), int(match[2]), text)


def select_shard(
    text: str | None, tasks: int | None, environment: Mapping[str, str]
) -> tuple[Shard | None, int]:
    """Which share a task does, and how many there are.

    Args:
        text: As for `read_shard`, or "claim" for one after another. None is "auto" where a platform
            numbers its tasks, else all films are one share.
        tasks: How many shares there are, where the text and the platform need not say it.
        environment: Of the process.

    Returns:
        The share, None for "claim"; and the number of shares.

    Raises:
        UsageError: They contradict each other, or one is missing.
    """
    if text == "claim":
        if tasks is None:
            raise UsageError("--shard claim expected the number of shares, found no --tasks.")
        return None, tasks
    if text is None and not any(platform.index in environment for platform in _PLATFORMS):
        if tasks is not None and tasks > 1:
            raise UsageError(
                f"Expected to be told which of {tasks} tasks this is, found nothing.",
                f"Say --shard 1/{tasks}, or --shard claim.",
            )
        return Shard(1, 1), 1
    known = (
        dict(environment) if tasks is None else {**environment, SHARD_COUNT_VARIABLE: str(tasks)}
    )
    shard = parse_shard(text or "auto", known)
    if tasks not in (None, shard.count):
        raise UsageError(f"Expected one of {tasks} tasks, found shard {shard}.")
    return shard, shard.count


def read_execution_id(environment: Mapping[str, str]) -> str:
    """What the platform calls the start that this task belongs to; empty where it says nothing.

    All tasks of one start give the same, its repetitions too; the next start another. A Kubernetes
    indexed job calls its pods' hosts by its own name and the index.
    """
    for name in _EXECUTION_VARIABLES:
        if environment.get(name):
            return environment[name].partition(":")[0]  # AWS Batch appends the task's index
    host, index = environment.get("HOSTNAME", ""), environment.get("JOB_COMPLETION_INDEX")
    return host.removesuffix(f"-{index}") if index and host.endswith(f"-{index}") else ""


def _read_platform_shard(environment: Mapping[str, str]) -> Shard:
    for platform in _PLATFORMS:
        if platform.index in environment:
            index = _read_integer(environment, platform.index)
            first = (
                _read_integer(environment, platform.first) if platform.first in environment else 0
            )
            step = _read_integer(environment, platform.step) if platform.step in environment else 1
            count_name = (
                SHARD_COUNT_VARIABLE if SHARD_COUNT_VARIABLE in environment else platform.count
            )
            count = _read_integer(environment, count_name)
            text = f"{platform.index}={index} of {count_name}={count}"
            return _make_shard((index - first) // max(step, 1) + 1, count, text)
    known = ", ".join(platform.index for platform in _PLATFORMS)
    raise UsageError(
        f"--shard auto found none of {known} in the environment.",
        "Say the share by hand, such as --shard 2/10.",
    )


def _read_integer(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    if not text.isdecimal():
        found = repr(text) if text else "nothing"
        raise UsageError(
            f"--shard auto expected a whole number in {name}, found {found}.",
            f"Set {SHARD_COUNT_VARIABLE} to the number of tasks." if "INDEX" not in name else "",
        )
    return int(text)


def _make_shard(number: int, count: int, text: str) -> Shard:
    if not 1 <= number <= count <= MAX_SHARDS:
        raise UsageError(
            f"Expected a shard from 1 to {min(count, MAX_SHARDS)}, found {text}.",
            "Shards count from 1: of ten they are 1/10 to 10/10.",
        )
    return Shard(number, count)
