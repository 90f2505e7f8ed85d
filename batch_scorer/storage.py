"""File systems by URL: this machine's, or any that fsspec reads; and calls that are tried again.

Credentials come from each cloud's usual chain (environment, configuration files, the machine's own
role); nothing here reads, keeps or passes one on. The clients' own retries are switched off where
they can be, so that every repetition is made, waited for and counted in one place: ``call``.
"""

from __future__ import annotations

import inspect
import logging
import threading
from types import MethodType
from typing import TYPE_CHECKING, Any, TypeVar

import fsspec
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    wait_random_exponential,
)

from batch_scorer.errors import MissingPackage, UsageError
from batch_scorer.faults import MANUAL_PART, is_transient, scrub

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
EXTRAS = {
    **dict.fromkeys(("s3", "s3a"), "s3"),
    **dict.fromkeys(("gs", "gcs"), "gcs"),
    **dict.fromkeys(("az", "abfs", "abfss"), "azure"),
}
ATTEMPTS = 7
"""How often a call is made at most: eight seconds of waiting on average, sixteen at most."""
REMOTE_READERS = 16
"""Reads that are in flight at once from a bucket, where waiting costs no processor."""
_OPTIONS: dict[str, dict[str, Any]] = {
    # max_concurrency 1: else every read of a small file costs a second request for its size.
    "s3": {
        "config_kwargs": {
            "retries": {"total_max_attempts": 1},
            "max_pool_connections": 4 * REMOTE_READERS,
        },
        "max_concurrency": 1,
        "use_listings_cache": False,
    },
    "gcs": {"use_listings_cache": False},
    "azure": {"max_concurrency": 1, "use_listings_cache": False},
}
_CHATTY = ("adlfs", "aiobotocore", "asyncio", "azure", "botocore", "gcsfs", "google", "s3fs")


def open_filesystem(url: str) -> tuple[Any, str]:
    """The file system that a path or URL names, and the path inside it.

    Raises:
        UsageError: It is no path or URL, or no account is named.
        MissingPackage: The cloud's file system is not installed.
    """
    if not url.strip():
        raise UsageError("Expected a folder, a URL or a file, found an empty name.")
    protocol = url.split("://", 1)[0] if "://" in url and "::" not in url else ""
    extra = EXTRAS.get(protocol, "")
    try:
        filesystem, root = fsspec.core.url_to_fs(url, **_OPTIONS.get(extra, {}))
    except ImportError as exc:
        hint = f'Install it with: pip install "cxr-batch[{extra}]"' if extra else str(exc)
        raise MissingPackage(f"{protocol} support is missing.", hint) from exc
    except ValueError as exc:
        if extra == "azure":
            raise UsageError(
                f"{scrub(url)} names no Azure storage account that can be used: {scrub(str(exc))}.",
                "Set AZURE_STORAGE_ACCOUNT_NAME or AZURE_STORAGE_CONNECTION_STRING. " + MANUAL_PART,
            ) from exc
        raise UsageError(
            f"{scrub(url)} is no path or URL that can be read: {exc}.", private=[scrub(url)]
        ) from exc
    if not is_local(filesystem):
        _quieten(filesystem, extra)
    return filesystem, root


def is_local(filesystem: Any) -> bool:
    """Whether a file system is this machine's."""
    return "file" in _protocols(filesystem)


def has_folders(filesystem: Any) -> bool:
    """Whether folders have to be made; to make one in a bucket could make the bucket too."""
    return not _protocols(filesystem) & EXTRAS.keys()


def _protocols(filesystem: Any) -> set[str]:
    protocol = filesystem.protocol
    return {protocol} if isinstance(protocol, str) else set(protocol)


def call(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Call a file system; what fails transiently is called again, later and later, at random times.

    Raises:
        Exception: What the last attempt raised, one of `faults.failures`.
    """
    return _RETRYING(function, *args, **kwargs)


def retries() -> int:
    """How many calls this process has repeated so far."""
    return _counter.count


def add_retries(times: int) -> None:
    """Count calls that a worker elsewhere repeated for this process."""
    _counter.count += times


class _Counter:
    """Counts repeated calls, from any thread."""

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()

    def add(self, state: RetryCallState) -> None:
        with self._lock:
            self.count += 1
        logging.getLogger("cxr").debug(
            "trying again: %s", scrub(repr(state.outcome and state.outcome.exception()))
        )


_counter = _Counter()
_RETRYING = Retrying(
    retry=retry_if_exception(is_transient),
    stop=stop_after_attempt(ATTEMPTS),
    wait=wait_random_exponential(multiplier=0.25, max=30),
    before_sleep=_counter.add,
    reraise=True,
)


def _quieten(filesystem: Any, extra: str) -> None:
    """One call is one request: the client repeats nothing by itself, and its log stays silent."""
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if extra == "s3":
        filesystem.retries = 1
    if extra == "gcs":  # repeats by a decorator that takes no setting
        filesystem._request = MethodType(  # noqa: SLF001
            inspect.unwrap(type(filesystem)._request),  # noqa: SLF001
            filesystem,
        )
    if extra == "azure":  # adlfs passes no retry policy on; the default waits 15 s and more
        filesystem.service_client._config.retry_policy.total_retries = 0  # noqa: SLF001
