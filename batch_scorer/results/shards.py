"""Shards: one task's share of the images of a run by many tasks.

A hash of its key assigns an image to a shard, not its position in a listing. An image that is added
or removed while the tasks run thus moves no other image.
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
"""Above the task limit of every platform."""
SHARD_COUNT_VARIABLE = "CXR_SHARD_COUNT"
"""Variable with the number of tasks, for platforms that do not give it."""


@dataclass(frozen=True)
class Shard:
    """Shard ``number`` (1 to ``count``) of a run."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def folder(self) -> str:
        """Folder of its results, below the output of the whole run."""
        return f"{SHARDS_FOLDER}/{self.number}-of-{self.count}"

    def contains(self, key: str) -> bool:
        """Return whether an image is in this shard."""
        return assign_shard(key, self.count) == self.number


SHARDS_FOLDER = "shards"


@dataclass(frozen=True)
class _PlatformVariables:
    """Environment variables in which a platform numbers its tasks."""

    index: str
    count: str
    first: str = ""
    """Variable with the index of the first task, 0 without one."""
    step: str = ""
    """Variable with the distance between two indices, 1 without one."""


_EXECUTION_VARIABLES = (
    "CLOUD_RUN_EXECUTION",
    "AWS_BATCH_JOB_ID",
    "SLURM_ARRAY_JOB_ID",
    "CONTAINER_APP_JOB_EXECUTION_NAME",
)
"""Variables in which a platform names the execution that its tasks belong to."""
_PLATFORMS = (
    _PlatformVariables("CLOUD_RUN_TASK_INDEX", "CLOUD_RUN_TASK_COUNT"),
    _PlatformVariables("AWS_BATCH_JOB_ARRAY_INDEX", "AWS_BATCH_JOB_ARRAY_SIZE"),
    _PlatformVariables(
        "SLURM_ARRAY_TASK_ID",
        "SLURM_ARRAY_TASK_COUNT",
        first="SLURM_ARRAY_TASK_MIN",
        step="SLURM_ARRAY_TASK_STEP",
    ),
    # Kubernetes gives no number of tasks.
    _PlatformVariables("JOB_COMPLETION_INDEX", SHARD_COUNT_VARIABLE),
)


def assign_shard(key: str, count: int) -> int:
    """Return the number, 1 to ``count``, of the shard of an image."""
    digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") % count + 1


def parse_shard(text: str, environment: Mapping[str, str]) -> Shard:
    """Parse ``--shard``: "2/10", or "auto" for the shard in the platform's environment.

    Raises:
        UsageError: It is neither, or the environment names no shard.
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
    """Select the shard of a task.

    Args:
        text: As for `parse_shard`, or "claim" to take one free shard after another. None means
            "auto" if a platform numbers its tasks, else one shard with all images.
        tasks: The number of shards, if neither the text nor the platform gives it.
        environment: The environment of the process.

    Returns:
        The shard, None for "claim"; and the number of shards.

    Raises:
        UsageError: They contradict each other, or one is missing.
    """
    if text == "claim":
        if tasks is None:
            raise UsageError("--shard claim expected the number of shards, found no --tasks.")
        return None, tasks
    if text is None and not any(platform.index in environment for platform in _PLATFORMS):
        if tasks is not None and tasks > 1:
            raise UsageError(
                f"Expected the number of this task among {tasks} tasks, found nothing.",
                f"Add --shard 1/{tasks}, or --shard claim.",
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
    """Read the platform's id of the execution that this task belongs to; empty without one.

    All tasks of one execution have the same id, and so do their retries. A Kubernetes indexed job
    names the hosts of its pods after itself and the index.
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
        "Give the shard by hand, such as --shard 2/10.",
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
