"""A local Lambda Runtime API, and the runtime interface client itself as a process before it.

What AWS documents as "Using the Lambda runtime API for custom runtimes": the client asks for the
next invocation, runs the handler, and posts its response or its error.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue
from typing import TYPE_CHECKING, Any

from tests.paths import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator

PATH = "/2018-06-01/runtime"
HANDLER = "batch_scorer.cli.lambda_handler.handle"


@dataclass(frozen=True)
class Reply:
    """Kind of the client's post ("response" or "error"), and its JSON."""

    kind: str
    body: Any


class RuntimeApi(ThreadingHTTPServer):
    """Server that hands out one invocation after another, and keeps each result."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.invocations: Queue[tuple[str, bytes, int]] = Queue()
        self.replies: Queue[Reply] = Queue()
        self.count = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def send(self, event: object, within_s: float = 300) -> None:
        self.count += 1
        deadline_ms = int((time.time() + within_s) * 1000)
        self.invocations.put((f"request-{self.count}", json.dumps(event).encode(), deadline_ms))

    def invoke(self, event: object, within_s: float = 300) -> Reply:
        """Let the function handle one event, without any other in progress."""
        self.send(event, within_s)
        return self.replies.get(timeout=120)


class _Handler(BaseHTTPRequestHandler):
    server: RuntimeApi

    def do_GET(self) -> None:
        assert self.path == f"{PATH}/invocation/next"
        request, event, deadline_ms = self.server.invocations.get()
        self.send_response(200)
        self.send_header("Lambda-Runtime-Aws-Request-Id", request)
        self.send_header("Lambda-Runtime-Deadline-Ms", str(deadline_ms))
        self.send_header("Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:::function:night")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(event)))
        self.end_headers()
        self.wfile.write(event)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.replies.put(Reply(self.path.rpartition("/")[2], body))
        self.send_response(202)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


@dataclass(frozen=True)
class Function:
    """One instance of the function, as Lambda runs it."""

    api: RuntimeApi
    process: subprocess.Popen[str]

    def end(self) -> str:
        """Stop the function; return its log."""
        self.process.kill()
        return self.process.communicate(timeout=20)[0]


@contextmanager
def run_function(environment: dict[str, str]) -> Iterator[Function]:
    """Run an instance that waits for events until the block ends."""
    api = RuntimeApi()
    serving = threading.Thread(target=api.serve_forever)
    serving.start()
    function = Function(
        api,
        subprocess.Popen(
            [sys.executable, "-m", "awslambdaric", HANDLER],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=REPOSITORY,
            env={**environment, "AWS_LAMBDA_RUNTIME_API": api.address},
        ),
    )
    try:
        yield function
    finally:
        function.end()
        api.shutdown()
        api.server_close()
        serving.join()
