"""File systems by URL, reads that end, and calls that are tried again.

No URL is taken for a chain of file systems, and no protocol is opened but those of `PROTOCOLS`:
fsspec knows many more, of which some run programs or read files of this machine.

Credentials come from each cloud's usual chain (environment, configuration files, the machine's own
role); nothing here reads, keeps or passes one on. The clients' own retries are switched off where
they can be, so that every repetition is made, waited for and counted in one place: ``call_with_retries``.
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

from batch_scorer.errors import MissingPackage, ProtocolRefused, UsageError
from batch_scorer.storage.access import AccessPolicy
from batch_scorer.storage.retry import DOCS_HINT, is_past_end, is_transient, storage_errors
from batch_scorer.system.redact import redact_url
from batch_scorer.system.regular_file import FileTooLarge, read_regular_file

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
EXTRA_BY_PROTOCOL = {
    **dict.fromkeys(("s3", "s3a"), "s3"),
    **dict.fromkeys(("gs", "gcs"), "gcs"),
    **dict.fromkeys(("az", "abfs", "abfss"), "azure"),
}
WEB_PROTOCOLS = ("http", "https")
PROTOCOLS = ("file", "local", "memory", *WEB_PROTOCOLS, *EXTRA_BY_PROTOCOL)
"""All that are opened. ``memory`` is of this process alone."""
MAX_ATTEMPTS = 7
"""How often a call is made at most: eight seconds of waiting on average, sixteen at most."""
MAX_REMOTE_READS = 16
"""Reads that are in flight at once from a bucket, where waiting costs no processor."""
_OPTIONS: dict[str, dict[str, Any]] = {
    # max_concurrency 1: else every read of a small file costs a second request for its size.
    "s3": {
        "config_kwargs": {
            "retries": {"total_max_attempts": 1},
            "max_pool_connections": 4 * MAX_REMOTE_READS,
        },
        "max_concurrency": 1,
        "use_listings_cache": False,
    },
    "gcs": {"use_listings_cache": False},
    "azure": {"max_concurrency": 1, "use_listings_cache": False},
}
log = logging.getLogger(__name__)


def open_filesystem(url: str, access: AccessPolicy | None = None) -> tuple[Any, str]:
    """The file system that a path or URL names, and the path inside it.

    Args:
        url: A path of this machine, or a URL of one of `PROTOCOLS`.
        access: Which hosts a web address may lead to; public ones unless it says more.

    Raises:
        UsageError: It is no path or URL, or no account is named.
        ProtocolRefused: It is a URL of another protocol.
        MissingPackage: The file system is not installed.
    """
    if not url.strip():
        raise UsageError("Expected a folder, a URL or a file, found an empty name.")
    protocol, url = _split_protocol(url)
    extra = EXTRA_BY_PROTOCOL.get(protocol, "web" if protocol in WEB_PROTOCOLS else "")
    if extra in _OPTIONS and not url.partition("://")[2].strip("/"):
        raise UsageError(f"{url} names no bucket.", "Write its name after the two slashes.")
    try:
        filesystem, root = _open(protocol, url, extra, access or AccessPolicy())
    except ImportError as exc:
        hint = f'Install it with: pip install "cxr-batch[{extra}]"'
        raise MissingPackage(f"{protocol} support is missing.", hint) from exc
    except ValueError as exc:
        shown, private = redact_url(url), (redact_url(url),)
        if extra == "azure":
            raise UsageError(
                f"{shown} names no Azure storage account that can be used.",
                "Set AZURE_STORAGE_ACCOUNT_NAME or AZURE_STORAGE_CONNECTION_STRING. " + DOCS_HINT,
                private,
            ) from exc
        raise UsageError(f"{shown} is no path or URL that can be read.", private=private) from exc
    if extra in _OPTIONS:
        _disable_client_retries(filesystem, extra)
    return filesystem, root


def _split_protocol(url: str) -> tuple[str, str]:
    """The protocol of a URL, and the URL with the protocol in small letters.

    Raises:
        ProtocolRefused: It is none that is opened.
    """
    protocol, mark, rest = url.partition("://")
    if not mark:
        return "file", url
    if protocol.lower() not in PROTOCOLS:
        raise ProtocolRefused(
            f"{redact_url(url)} is no path or URL that can be read.",
            f"Give a path, or a URL that begins with {', '.join(_ACCEPTED_PREFIXES[:-1])} or {_ACCEPTED_PREFIXES[-1]}.",
            private=[redact_url(url)],
        )
    return protocol.lower(), f"{protocol.lower()}{mark}{rest}"


_ACCEPTED_PREFIXES = ("file://", "http://", "https://", "s3://", "gs://", "az://", "abfs://")


def _open(protocol: str, url: str, extra: str, access: AccessPolicy) -> tuple[Any, str]:
    """As fsspec does it for a URL without a chain."""
    if protocol in WEB_PROTOCOLS:
        from batch_scorer.storage.web import WebFileSystem, check_url

        check_url(url)
        return WebFileSystem(private_hosts=access.private_hosts), url
    kind = fsspec.get_filesystem_class(protocol)
    told = kind._get_kwargs_from_urls(url)  # noqa: SLF001 - of the interface for file systems
    return kind(**_OPTIONS.get(extra, {}) | told), kind._strip_protocol(url)  # noqa: SLF001


def read_file(filesystem: Any, path: str, limit_bytes: int) -> bytes:
    """Read a whole file of any file system, but no more than it may hold, and never without end.

    Every file that the program reads and did not bring along comes through here, or, where only a
    file of this machine can be meant, straight through `read_regular_file`. It is one attempt:
    `call` repeats it.

    Args:
        filesystem: Of `open_filesystem`.
        path: The path inside it.
        limit_bytes: The most that the file may hold; no more is fetched or held in memory.

    Returns:
        Its content.

    Raises:
        TooLong: It holds more. Like all that follow, one of `faults.failures`: `faults.explain`
            makes a sentence of it.
        FileNotFoundError: It is not there.
        OSError: It is no file (a folder, a pipe, a device), cannot be read, or does not end.
        Exception: What else the file system raises.
    """
    if is_local(filesystem):
        return read_regular_file(path, limit_bytes)
    try:
        data: bytes = filesystem.cat_file(path, start=0, end=limit_bytes + 1)
    except storage_errors() as exc:
        if is_past_end(exc):  # an empty file has no first byte
            return b""
        raise
    if len(data) > limit_bytes:
        raise FileTooLarge(limit_bytes)
    return data


def is_local(filesystem: Any) -> bool:
    """Whether a file system is this machine's."""
    return "file" in _protocols(filesystem)


def needs_folders(filesystem: Any) -> bool:
    """Whether folders have to be made; to make one in a bucket could make the bucket too."""
    return not _protocols(filesystem) & EXTRA_BY_PROTOCOL.keys()


def _protocols(filesystem: Any) -> set[str]:
    protocol = filesystem.protocol
    return {protocol} if isinstance(protocol, str) else set(protocol)


def call_with_retries(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Call a file system; what fails transiently is called again, later and later, at random times.

    Raises:
        Exception: What the last attempt raised, one of `faults.failures`.
    """
    return _RETRYING(function, *args, **kwargs)


def count_retries() -> int:
    """How many calls this process has repeated so far."""
    return _retry_counter.count


def add_retries(times: int) -> None:
    """Count calls that a worker elsewhere repeated for this process."""
    _retry_counter.count += times


class _RetryCounter:
    """Counts repeated calls, from any thread."""

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()

    def add(self, state: RetryCallState) -> None:
        with self._lock:
            self.count += 1
        failed = state.outcome and state.outcome.exception()
        log.debug("trying again: %s", type(failed).__name__)


_retry_counter = _RetryCounter()
_RETRYING = Retrying(
    retry=retry_if_exception(is_transient),
    stop=stop_after_attempt(MAX_ATTEMPTS),
    wait=wait_random_exponential(multiplier=0.25, max=30),
    before_sleep=_retry_counter.add,
    reraise=True,
)


def _disable_client_retries(filesystem: Any, extra: str) -> None:
    """Make one call one request: the client repeats nothing by itself."""
    if extra == "s3":
        filesystem.retries = 1
    if extra == "gcs":  # repeats by a decorator that takes no setting
        filesystem._request = MethodType(  # noqa: SLF001
            inspect.unwrap(type(filesystem)._request),  # noqa: SLF001
            filesystem,
        )
    if extra == "azure":  # adlfs passes no retry policy on; the default waits 15 s and more
        filesystem.service_client._config.retry_policy.total_retries = 0  # noqa: SLF001
