"""A proxy before a storage server that drops, delays, refuses and cuts answers by a seeded plan.

Run as ``python -m tests.fault_proxy PORT TARGET_URL SEED``. What happens to a request depends on
the seed, its method, its path and how often it came before, never on timing: two runs with the same
seed meet the same faults. No request fails more than twice; with the seed "calm" none does. What
has "forbidden" or "vanished" in its path is refused or gone, for good. ``GET /.faults`` tells the
counts.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections import Counter

from aiohttp import ClientSession, ClientTimeout, TCPConnector, web
from yarl import URL

KINDS = ("drop", "delay", "refuse", "cut")
SHARE = 0.5
"""Share of first requests that meet a fault; of those, a quarter meet a second one."""
DENIED = {"forbidden": 403, "vanished": 404}
HOPS = {"connection", "keep-alive", "transfer-encoding", "content-length", "content-encoding"}


def fault_of(seed: str, method: str, path: str, attempt: int) -> str:
    """What happens to this request: one of KINDS, or nothing."""
    if seed == "calm":
        return ""
    digest = hashlib.sha256(f"{seed} {method} {path} {attempt}".encode()).digest()
    share = {1: SHARE, 2: SHARE / 4}.get(attempt, 0)
    return KINDS[digest[1] % len(KINDS)] if digest[0] / 256 < share else ""


class Proxy:
    def __init__(self, target: str, seed: str) -> None:
        self.target, self.seed = target.rstrip("/"), seed
        self.attempts: Counter[tuple[str, str]] = Counter()
        self.faults: Counter[str] = Counter()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/.faults":
            return web.json_response(self.faults)
        denied = [status for word, status in DENIED.items() if word in request.path]
        if denied:
            await request.read()
            return web.Response(status=denied[0])
        key = (request.method, request.raw_path)
        self.attempts[key] += 1
        fault = fault_of(self.seed, *key, self.attempts[key])
        self.faults[fault] += bool(fault)
        if fault == "drop":
            return self._hang_up(request)
        if fault == "refuse":
            await request.read()
            return web.Response(status=503, headers={"Connection": "close"})
        if fault == "delay":
            await asyncio.sleep(0.3)
        status, headers, body = await self._forward(request)
        if fault == "cut" and request.method == "GET" and len(body) > 1:
            return await self._cut(request, status, headers, body)
        response = web.Response(status=status, headers=headers, body=body)
        if request.method == "HEAD":  # says the size of what it does not send
            response.headers["Content-Length"] = headers.get("Content-Length", "0")
        return response

    async def _forward(self, request: web.Request) -> tuple[int, dict[str, str], bytes]:
        data = await request.read()
        async with self.session.request(
            request.method,
            URL(self.target + request.raw_path, encoded=True),
            headers={k: v for k, v in request.headers.items() if k.lower() not in HOPS},
            data=data or None,
            allow_redirects=False,
        ) as answer:
            body = await answer.read()
            keep = HOPS - ({"content-length"} if request.method == "HEAD" else set())
            headers = {k: v for k, v in answer.headers.items() if k.lower() not in keep}
            return answer.status, headers, body

    async def _cut(
        self, request: web.Request, status: int, headers: dict[str, str], body: bytes
    ) -> web.StreamResponse:
        """Announce the whole body, send half of it and hang up."""
        response = web.StreamResponse(status=status, headers=headers)
        response.content_length = len(body)
        await response.prepare(request)
        await response.write(body[: len(body) // 2])
        return self._hang_up(request, response)

    def _hang_up(
        self, request: web.Request, response: web.StreamResponse | None = None
    ) -> web.StreamResponse:
        assert request.transport
        request.transport.close()
        return response or web.Response()

    async def connect(self, _: web.Application):
        connector = TCPConnector(limit=0)
        async with ClientSession(
            connector=connector, auto_decompress=False, timeout=ClientTimeout(30)
        ) as self.session:
            yield


def main() -> None:
    port, target, seed = sys.argv[1:]
    proxy = Proxy(target, seed)
    app = web.Application(client_max_size=2**30)
    app.cleanup_ctx.append(proxy.connect)
    app.router.add_route("*", "/{path:.*}", proxy.answer)
    web.run_app(app, host="127.0.0.1", port=int(port), print=None, access_log=None)


if __name__ == "__main__":
    main()
