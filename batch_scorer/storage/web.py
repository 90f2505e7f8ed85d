"""Files from web servers: read only, without redirects, and from public hosts unless allowed.

Each connection is checked where its socket is made, so that a name, an odd spelling of an address
and a name server that changes its mind all meet the same check. Proxies and passwords of the
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
"""How long an answer may take to its last byte."""
READ_TIMEOUT_S = 30
"""How long a server may say nothing."""
MAX_SHOWN_CHARS = 200
_HEAD_UNSUPPORTED = (aiohttp.ClientResponseError, aiohttp.ServerDisconnectedError)
"""What a server answers that knows GET only, as one does for a signed URL."""


class _PrivateHostError(OSError):
    """A connection would leave the public Internet. All have the same words: aiohttp joins them."""

    def __init__(self) -> None:
        super().__init__(errno.EACCES, "the host is not of the public Internet")


def _open_public_socket(found: tuple[Any, ...]) -> socket.socket:
    """A socket for an address that was looked up, if it is a public one."""
    family, kind, protocol, _, address = found
    if not is_public_address(str(address[0])):
        raise _PrivateHostError
    return socket.socket(family, kind, protocol)


async def _open_session(*, private_hosts: bool, **_: Any) -> aiohttp.ClientSession:
    """A client that keeps no cookies and unpacks nothing: what is unpacked has no known size."""
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
    """Web servers as a file system of fsspec: each URL is a file of its own."""

    def __init__(self, *, private_hosts: bool = False, **options: Any) -> None:
        super().__init__(
            get_client=_open_session, client_kwargs={"private_hosts": private_hosts}, **options
        )

    async def _info(self, url: str, **_: Any) -> dict[str, Any]:
        """Size and version, as the server tells them."""
        try:
            async with self._request("HEAD", url) as answer:
                headers = answer.headers
        except _HEAD_UNSUPPORTED:
            async with self._request("GET", url) as answer:
                headers = answer.headers
        length = headers.get("Content-Length", "")
        size = int(length) if length.isdecimal() else None
        return {"name": url, "type": "file", "size": size, "ETag": headers.get("ETag", "")}

    async def _cat_file(
        self, url: str, start: int | None = None, end: int | None = None, **_: Any
    ) -> bytes:
        """The content, of which no more than ``end`` bytes are fetched."""
        data = bytearray()
        async with self._request("GET", url) as answer:
            try:
                async for part in answer.content.iter_any():
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
        """Ask once.

        Raises:
            NotAllowed: The host is private.
            Unreadable: The answer leads elsewhere.
            FileNotFoundError: It is not there.
            OSError: There is no answer.
            aiohttp.ClientError: There is none that helps.
        """
        session = await self.set_session()
        try:
            async with session.request(method, _parse_url(url), allow_redirects=False) as answer:
                _check_status(answer)
                yield answer
        except aiohttp.ClientConnectorError as exc:
            if isinstance(exc.os_error, _PrivateHostError):
                raise NotAllowed(
                    "Expected a host of the public Internet, found one of a private network.",
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
    return OSError(errno.EROFS, "a web server is only read, never written")


def check_url(url: str) -> None:
    """See whether a URL can be asked for at all.

    Raises:
        ValueError: It cannot. The words of the parser may hold pieces of a password: it has none.
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


def _check_status(answer: aiohttp.ClientResponse) -> None:
    """Let an answer pass that holds the file itself."""
    if answer.status == HTTPStatus.NOT_FOUND:
        raise FileNotFoundError
    if HTTPStatus.MULTIPLE_CHOICES <= answer.status < HTTPStatus.BAD_REQUEST:
        raise Unreadable(
            f"The address leads to another one{_describe_target(answer)}, and is not followed.",
            "Write the address that it leads to instead.",
        )
    answer.raise_for_status()


def _describe_target(answer: aiohttp.ClientResponse) -> str:
    try:
        target = answer.url.join(URL(answer.headers.get("Location", "")))
    except ValueError:
        return ""
    return f", {redact_url(str(target))[:MAX_SHOWN_CHARS]}"
