"""A proxy before the S3 server that fails one request in ten, in the ways that object stores and networks do."""

from __future__ import annotations

import http.client
import random
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SLOW_DOWN = b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>'
WAYS = ("503", "dropped", "answer lost", "cut short")


class Faults:
    """Which requests fail, and how: drawn with a seed, one draw a request."""

    def __init__(self, share: float, seed: int) -> None:
        self.share, self._rng, self._lock = share, random.Random(seed), threading.Lock()
        self.count: Counter[str] = Counter()

    def draw(self) -> str:
        with self._lock:
            way = self._rng.choice(WAYS) if self._rng.random() < self.share else "passed"
            self.count[way] += 1
            return way


def _handler(port: int, faults: Faults) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            way = faults.draw()
            if way == "503":
                self._answer(503, [("Content-Type", "application/xml")], SLOW_DOWN)
            elif way == "dropped":
                self._drop()
            else:
                self._forward(body, way)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass

        def _forward(self, body: bytes, way: str) -> None:
            there = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            there.request(self.command, self.path, body, dict(self.headers.items()))
            answer = there.getresponse()
            said, headers = answer.read(), [(k, v) for k, v in answer.getheaders() if k.lower() not in ("connection", "transfer-encoding")]
            there.close()
            if way == "answer lost":
                self._drop()
                return
            self._answer(answer.status, headers, said, short=way == "cut short")

        def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, short: bool = False) -> None:
            self.send_response_only(status)
            named = {k.lower() for k, _ in headers}
            for name, value in headers:
                self.send_header(name, value)
            if "content-length" not in named and status != 204:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "HEAD":
                return
            self.wfile.write(body[: len(body) // 2] if short else body)
            if short and body:
                self._drop()

        def _drop(self) -> None:
            self.close_connection = True
            self.wfile.flush()
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@contextmanager
def faulty(port: int, *, share: float = 0.1, seed: int = 1) -> Iterator[tuple[str, Faults]]:
    """The address of a proxy before a local port, and what it has done."""
    faults = Faults(share, seed)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(port, faults))
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that went away
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", faults
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
