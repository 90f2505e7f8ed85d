"""Real web and mail servers that receive notifications."""

from __future__ import annotations

import email
import json
import threading
from contextlib import contextmanager
from email import policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from aiosmtpd.controller import Controller

from tests.servers import free_port


class _QuietHandler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass


@contextmanager
def _serving(handler):
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def web_server(*statuses):
    """Run a server that sends each status in turn, the last one forever; yield its posts."""
    posted = []

    class Handler(_QuietHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            posted.append((self.path, dict(self.headers), json.loads(body)))
            status = statuses[min(len(posted), len(statuses)) - 1]
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self):
            posted.append((self.path, {}, None))
            self.send_response(200)
            self.end_headers()

    with _serving(Handler) as address:
        yield address, posted


@contextmanager
def dripping_server():
    """Run a server that responds byte by byte until the block ends."""
    over = threading.Event()

    class Handler(_QuietHandler):
        def do_POST(self):
            self.send_response(200)
            self.end_headers()
            while not over.wait(0.05):
                self.wfile.write(b".")

    with _serving(Handler) as address:
        try:
            yield address
        finally:
            over.set()


@contextmanager
def mail_server(*answers):
    """Run a mail server that sends each reply in turn; yield the mails it received."""
    mails = []

    class Handler:
        async def handle_DATA(self, server, session, envelope):  # noqa: N802 - aiosmtpd's
            mails.append(email.message_from_bytes(envelope.content, policy=policy.default))
            return answers[min(len(mails), len(answers)) - 1]

    controller = Controller(Handler(), hostname="127.0.0.1", port=free_port())
    controller.start()
    try:
        yield controller.port, mails
    finally:
        controller.stop()
