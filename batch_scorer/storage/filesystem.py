"""File systems by URL, bounded reads, and calls with retries.

Only the protocols of `PROTOCOLS` are opened, and chained URLs are refused: fsspec knows many more,
some of which run programs or read files of this machine.

Credentials come from each cloud's usual chain (environment, configuration files, the machine's
role); this module never reads, keeps or passes them. The clients' own retries are switched off
where possible, so that `call_with_retries` makes, delays and counts every retry.
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
"""All supported protocols. ``memory`` belongs to this process alone."""
_ACCEPTED_PREFIXES = ("file://", "http://", "https://", "s3://", "gs://", "az://", "abfs://")
MAX_ATTEMPTS = 7
"""Attempts of one call: eight seconds of waiting on average, sixteen at most."""
MAX_REMOTE_READS = 16
"""Concurrent reads from a bucket, where a waiting thread costs no processor time."""
_OPTIONS: dict[str, dict[str, Any]] = {
    # With a higher max_concurrency, every read of a small file costs a second request for its size.
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
    """Open the file system that a path or URL names.

    Args:
        url: A path of this machine, or a URL of one of `PROTOCOLS`.
        access: Permissions for web addresses; public hosts only by default.

    Returns:
        The fsspec file system, and the path inside it.

    Raises:
        UsageError: It is not a path or URL, or lacks a bucket or an account.
        ProtocolRefused: It is a URL of another protocol.
        MissingPackage: The file system is not installed.
    """
    if not url.strip():
        raise UsageError(
            "Expected a folder, a URL or a file, found an empty name.", "Give a path or a URL."
        )
    protocol, url = _split_protocol(url)
    extra = EXTRA_BY_PROTOCOL.get(protocol, "web" if protocol in WEB_PROTOCOLS else "")
    if extra in _OPTIONS and not url.partition("://")[2].strip("/"):
        raise UsageError(
            f"Expected the name of a bucket, found {url}.", "Write the name after the two slashes."
        )
    try:
        filesystem, root = _open(protocol, url, extra, access or AccessPolicy())
    except ImportError as exc:
        hint = f'Install it with: pip install "cxr-batch[{extra}]"'
        raise MissingPackage(f"{protocol} support is missing.", hint) from exc
    except ValueError as exc:
        shown, private = redact_url(url), (redact_url(url),)
        if extra == "azure":
            raise UsageError(
                f"Expected a URL with a valid Azure storage account, found {shown}.",
                "Set AZURE_STORAGE_ACCOUNT_NAME or AZURE_STORAGE_CONNECTION_STRING. " + DOCS_HINT,
                private,
            ) from exc
        raise UsageError(
            f"Expected a readable path or URL, found {shown}.", "Check its spelling.", private
        ) from exc
    if extra in _OPTIONS:
        _disable_client_retries(filesystem, extra)
    return filesystem, root


def _split_protocol(url: str) -> tuple[str, str]:
    """Return the protocol of a URL, and the URL with the protocol in lower case.

    Raises:
        ProtocolRefused: The protocol is not supported.
    """
    protocol, mark, rest = url.partition("://")
    if not mark:
        return "file", url
    if protocol.lower() not in PROTOCOLS:
        raise ProtocolRefused(
            f"Expected a readable path or URL, found {redact_url(url)}.",
            "Give a path, or a URL that begins with "
            f"{', '.join(_ACCEPTED_PREFIXES[:-1])} or {_ACCEPTED_PREFIXES[-1]}.",
            private=[redact_url(url)],
        )
    return protocol.lower(), f"{protocol.lower()}{mark}{rest}"


def _open(protocol: str, url: str, extra: str, access: AccessPolicy) -> tuple[Any, str]:
    """Open a file system as fsspec does for a URL without a chain."""
    if protocol in WEB_PROTOCOLS:
        from batch_scorer.storage.web import WebFileSystem, check_url

        check_url(url)
        return WebFileSystem(private_hosts=access.private_hosts), url
    kind = fsspec.get_filesystem_class(protocol)
    url_options = kind._get_kwargs_from_urls(url)  # noqa: SLF001 - fsspec's own interface
    return kind(**_OPTIONS.get(extra, {}) | url_options), kind._strip_protocol(url)  # noqa: SLF001


def read_file(filesystem: Any, path: str, limit_bytes: int) -> bytes:
    """Read a whole file of any file system, within a limit.

    Every file from outside the program is read here, or by `read_regular_file` where it must lie on
    this machine. This is a single attempt: `call_with_retries` repeats it.

    Args:
        filesystem: A file system of `open_filesystem`.
        path: The path inside it.
        limit_bytes: The largest size accepted; no more is fetched or held in memory.

    Returns:
        Its content.

    Raises:
        FileTooLarge: It is larger. All errors here belong to `storage_errors`, and
            `translate_error` turns them into a sentence.
        FileNotFoundError: It does not exist.
        OSError: It is not a file (but a folder, a pipe, a device), or cannot be read to its end.
        Exception: Another error of the file system.
    """
    if is_local(filesystem):
        return read_regular_file(path, limit_bytes)
    try:
        data: bytes = filesystem.cat_file(path, start=0, end=limit_bytes + 1)
    except storage_errors() as exc:
        if is_past_end(exc):  # the file is empty
            return b""
        raise
    if len(data) > limit_bytes:
        raise FileTooLarge(limit_bytes)
    return data


def is_local(filesystem: Any) -> bool:
    """Return whether a file system is the local one."""
    return "file" in _protocols(filesystem)


def needs_folders(filesystem: Any) -> bool:
    """Return whether folders must be created; in a bucket, that could create the bucket too."""
    return not _protocols(filesystem) & EXTRA_BY_PROTOCOL.keys()


def _protocols(filesystem: Any) -> set[str]:
    protocol = filesystem.protocol
    return {protocol} if isinstance(protocol, str) else set(protocol)


def call_with_retries(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Call a function of a file system; retry transient errors with exponential random delays.

    Raises:
        Exception: The error of the last attempt, one of `storage_errors`.
    """
    return _RETRYING(function, *args, **kwargs)


def count_retries() -> int:
    """Return the number of calls that this process has repeated so far."""
    return _retry_counter.count


def add_retries(count: int) -> None:
    """Add the retries of a worker in another process."""
    _retry_counter.count += count


class _RetryCounter:
    """Thread-safe counter of repeated calls."""

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
    if extra == "gcs":  # retries in a decorator without settings
        filesystem._request = MethodType(  # noqa: SLF001
            inspect.unwrap(type(filesystem)._request),  # noqa: SLF001
            filesystem,
        )
    if extra == "azure":  # adlfs forwards no retry policy, and the default waits 15 s or more
        filesystem.service_client._config.retry_policy.total_retries = 0  # noqa: SLF001
