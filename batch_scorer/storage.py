"""File systems by URL: this machine's, or any that fsspec reads."""

from __future__ import annotations

from typing import Any

import fsspec

from batch_scorer.errors import MissingPackage, UsageError

EXTRAS = {"s3": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure"}


def open_filesystem(url: str) -> tuple[Any, str]:
    """The file system that a path or URL names, and the path inside it.

    Raises:
        UsageError: It is no path or URL.
        MissingPackage: The cloud's file system is not installed.
    """
    if not url.strip():
        raise UsageError("Expected a folder, a URL or a file, found an empty name.")
    try:
        filesystem, root = fsspec.core.url_to_fs(url)
    except ImportError as exc:
        protocol = url.split(":", 1)[0]
        extra = EXTRAS.get(protocol)
        hint = f'Install it with: pip install "cxr-batch[{extra}]"' if extra else str(exc)
        raise MissingPackage(f"{protocol} support is missing.", hint) from exc
    except ValueError as exc:
        raise UsageError(f"{url} is no path or URL that can be read: {exc}.") from exc
    return filesystem, root


def is_local(filesystem: Any) -> bool:
    """Whether a file system is this machine's."""
    protocol = filesystem.protocol
    return "file" in ((protocol,) if isinstance(protocol, str) else protocol)
