"""A proxy before a storage server that drops, delays, refuses and cuts answers by a seeded plan.

Run as ``python -m tests.fault_proxy PORT TARGET_URL SEED``. What happens to a request depends on
the seed, its method, its path and how often it came before, never on timing: two runs with the same
seed meet the same faults. No request fails more than twice; with the seed "calm" none does. What
has one of DENIED's words in its path is refused, gone or elsewhere, for good. ``GET /.faults``
tells the counts. ``PUT /.order`` gives an order for requests whose method and path match a pattern:
{"hold": pattern} lets each wait, and cuts it off when the next order comes; {"outage": pattern,
"seconds": s} cuts off every request for so long from the first match on; {} ends both.

Of Google's preconditions the emulator knows none: that an object is not there yet is kept here.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from urllib.parse import quote

from aiohttp import ClientSession, ClientTimeout, TCPConnector, web
from yarl import URL

KINDS = ("drop", "delay", "refuse", "cut")
SHARE = 0.5
"""Share of first requests that meet a fault; of those, a quarter meet a second one."""
DENIED = {
    "forbidden": (403, "AccessDenied"),
    "vanished": (404, "NoSuchKey"),
    "skewed": (403, "RequestTimeTooSkewed"),
    "elsewhere": (400, "AuthorizationHeaderMalformed"),
}
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
        self.order: dict[str, str] = {}
        self.outage_ends = 0.0
        self.freed = asyncio.Event()
        self.creating = asyncio.Lock()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/.faults":
            return web.json_response(self.faults)
        denied = [answer for word, answer in DENIED.items() if word in request.path]
        if denied:
            return await self._deny(request, *denied[0])
        if await self._is_cut_off(request):
            return self._hang_up(request)
        if request.query.get("ifGenerationMatch") == "0":
            return await self._create(request)
        return await self._answer_or_fail(request)

    async def take_order(self, request: web.Request) -> web.Response:
        self.order, self.outage_ends = await request.json(), 0.0
        self.freed.set()
        self.freed = asyncio.Event()
        return web.Response()

    async def _answer_or_fail(self, request: web.Request) -> web.StreamResponse:
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

    async def _deny(self, request: web.Request, status: int, code: str) -> web.Response:
        await request.read()
        date = datetime.now(UTC) + timedelta(hours=code == "RequestTimeTooSkewed")
        return web.Response(
            status=status,
            body=f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode(),
            headers={"Date": format_datetime(date, usegmt=True), "Content-Type": "application/xml"},
        )

    async def _is_cut_off(self, request: web.Request) -> bool:
        """Whether the order of now cuts this request off; a held one waits for the next order."""
        loop, text = asyncio.get_running_loop(), f"{request.method} {request.path}"
        if "hold" in self.order and re.search(self.order["hold"], text):
            self.faults["hold"] += 1
            await self.freed.wait()
            return True
        if "outage" in self.order and re.search(self.order["outage"], text):
            self.outage_ends = loop.time() + float(self.order["seconds"])
            self.order = {}
        down = loop.time() < self.outage_ends
        self.faults["outage"] += down
        return down

    async def _create(self, request: web.Request) -> web.Response:
        """Upload to Google what is not there yet."""
        bucket = request.path.split("/")[-2]
        name = json.loads((await request.read()).split(b"\n")[3])["name"]
        url = f"{self.target}/storage/v1/b/{bucket}/o/{quote(name, safe='')}"
        async with self.creating:
            async with self.session.get(URL(url, encoded=True)) as answer:
                if answer.status == web.HTTPOk.status_code:
                    return web.Response(status=412)
            status, headers, body = await self._forward(request)
            return web.Response(status=status, headers=headers, body=body)

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
    app.router.add_put("/.order", proxy.take_order)
    app.router.add_route("*", "/{path:.*}", proxy.answer)
    web.run_app(app, host="127.0.0.1", port=int(port), print=None, access_log=None)


if __name__ == "__main__":
    main()
