"""Files from web servers: read only, without redirects, by default from public hosts.

Each connection is checked when its socket is created. The same check thus covers host names, odd
spellings of an address, and a name server that changes its response. Proxies and passwords of the
environment (``HTTP_PROXY``, ``.netrc``) are not used.
"""

from __future__ import annotations

import errno
import socket
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import aiohttp
from fsspec.implementations.http import HTTPFileSystem
from yarl import URL

from batch_scorer.errors import NotAllowed, Unreadable
from batch_scorer.storage.access import is_public_address
from batch_scorer.system.redact import redact_url

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TOTAL_TIMEOUT_S = 120
"""Limit for a whole response, to its last byte."""
READ_TIMEOUT_S = 30
"""Limit for a pause of the server."""
MAX_SHOWN_CHARS = 200
_HEAD_UNSUPPORTED = (aiohttp.ClientResponseError, aiohttp.ServerDisconnectedError)
"""Errors of a server that supports GET only, as for a signed URL."""


class _PrivateHostError(OSError):
    """A connection would leave the public Internet. The text is constant: aiohttp merges them."""

    def __init__(self) -> None:
        super().__init__(errno.EACCES, "the host is not of the public Internet")


def _open_public_socket(found: tuple[Any, ...]) -> socket.socket:
    """Create a socket for a resolved address.

    Raises:
        _PrivateHostError: The address is not public.
    """
    family, kind, protocol, _, address = found
    if not is_public_address(str(address[0])):
        raise _PrivateHostError
    return socket.socket(family, kind, protocol)


async def _open_session(*, private_hosts: bool, **_: Any) -> aiohttp.ClientSession:
    """Create a client without cookies and decompression: decompressed content has no known size."""
    connector = aiohttp.TCPConnector(socket_factory=None if private_hosts else _open_public_socket)
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Accept-Encoding": "identity"},
        auto_decompress=False,
        timeout=aiohttp.ClientTimeout(
            total=TOTAL_TIMEOUT_S, sock_connect=READ_TIMEOUT_S, sock_read=READ_TIMEOUT_S
        ),
    )


class WebFileSystem(HTTPFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Web servers as a file system of fsspec: each URL is a file."""

    def __init__(self, *, private_hosts: bool = False, **options: Any) -> None:
        super().__init__(
            get_client=_open_session, client_kwargs={"private_hosts": private_hosts}, **options
        )

    async def _info(self, url: str, **_: Any) -> dict[str, Any]:
        """Return the size and version that the server gives."""
        try:
            async with self._request("HEAD", url) as response:
                headers = response.headers
        except _HEAD_UNSUPPORTED:
            async with self._request("GET", url) as response:
                headers = response.headers
        length = headers.get("Content-Length", "")
        size = int(length) if length.isdecimal() else None
        return {"name": url, "type": "file", "size": size, "ETag": headers.get("ETag", "")}

    async def _cat_file(
        self, url: str, start: int | None = None, end: int | None = None, **_: Any
    ) -> bytes:
        """Return the content; fetch no more than ``end`` bytes."""
        data = bytearray()
        async with self._request("GET", url) as response:
            try:
                async for part in response.content.iter_any():
                    data += part
                    if end is not None and len(data) >= end:
                        break
            except aiohttp.SocketTimeoutError:
                raise
            except TimeoutError as exc:
                raise OSError(
                    errno.ETIME, f"it did not end within {TOTAL_TIMEOUT_S} seconds"
                ) from exc
        return bytes(data[start:end])

    @asynccontextmanager
    async def _request(self, method: str, url: str) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send one request.

        Raises:
            NotAllowed: The host is private.
            Unreadable: The response is a redirect.
            FileNotFoundError: The file does not exist.
            OSError: The server does not respond.
            aiohttp.ClientError: The server responds with another error.
        """
        session = await self.set_session()
        try:
            async with session.request(method, _parse_url(url), allow_redirects=False) as response:
                _check_status(response)
                yield response
        except aiohttp.ClientConnectorError as exc:
            if isinstance(exc.os_error, _PrivateHostError):
                raise NotAllowed(
                    "Expected a host of the public Internet, found a host of a private network.",
                    "Allow such hosts with --allow-private-hosts.",
                ) from exc
            raise

    async def _isfile(self, path: str, **_: Any) -> bool:
        return bool(path)

    async def _pipe_file(self, *_: Any, **__: Any) -> None:
        raise _read_only_error()

    async def _put_file(self, *_: Any, **__: Any) -> None:
        raise _read_only_error()


def _read_only_error() -> OSError:
    return OSError(errno.EROFS, "web servers are read-only")


def check_url(url: str) -> None:
    """Check that a URL can be requested.

    Raises:
        ValueError: It cannot. The parser's own text is left out, as it may quote a password.
    """
    _parse_url(url)


def _parse_url(url: str) -> URL:
    try:
        parsed = URL(url)
        if parsed.host and parsed.port:
            return parsed
    except ValueError:
        pass
    raise ValueError("the URL cannot be used")


def _check_status(response: aiohttp.ClientResponse) -> None:
    """Refuse a response that does not hold the file itself."""
    if response.status == HTTPStatus.NOT_FOUND:
        raise FileNotFoundError
    if HTTPStatus.MULTIPLE_CHOICES <= response.status < HTTPStatus.BAD_REQUEST:
        raise Unreadable(
            f"Expected a file, found a redirect{_describe_target(response)}, which is not "
            "followed.",
            "Give the target address instead.",
        )
    response.raise_for_status()


def _describe_target(response: aiohttp.ClientResponse) -> str:
    try:
        target = response.url.join(URL(response.headers.get("Location", "")))
    except ValueError:
        return ""
    return f" to {redact_url(str(target))[:MAX_SHOWN_CHARS]}"
