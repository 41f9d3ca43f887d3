"""A small threaded HTTP/1.1 server on loopback, with or without TLS, that can misbehave on demand."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from runbook.sandbox.faults import Fault, close, cut

_LIMIT = 8 * 1024 * 1024
"""Bytes of a request's body."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """One request. `gone()` tells whether the client hung up meanwhile; `connection` is for upgrades only."""

    method: str
    path: str
    query: Mapping[str, str]
    every: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: bytes
    connection: socket.socket
    gone: Callable[[], bool]

    def flag(self, name: str) -> bool:
        """Whether a query parameter is on (`watch=1`, `watch=true`)."""
        return self.query.get(name, "").lower() in {"1", "true"}


Write = Callable[[bytes], None]


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. `stream` writes a body of unknown length; `takeover` gets the bare connection (an upgrade)."""

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    stream: Callable[[Write], None] | None = None
    takeover: Callable[[], None] | None = None


def as_json(status: int, document: Any, headers: Mapping[str, str] | None = None) -> Reply:
    """A JSON answer."""
    return Reply(status, json.dumps(document).encode(), headers=headers or {})


class Application(Protocol):
    """What answers requests."""

    def answer(self, incoming: Incoming) -> Reply: ...

    def fault(self, incoming: Incoming) -> Fault | None:
        """The injected fault that this request meets, if any."""
        ...

    def failure(self, fault: Fault) -> Reply:
        """What a fault with an `answer` answers."""
        ...


class Server(ThreadingHTTPServer):
    """Serves one application until stopped; connections end with it."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, application: Application, context: ssl.SSLContext | None = None, port: int = 0) -> None:
        self.application = application
        self.stopping = threading.Event()
        self._context = context
        self._open: set[socket.socket] = set()
        self._guard = threading.Lock()
        super().__init__(("127.0.0.1", port), _Handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self._thread.name = f"SIMULATED server {self.port}"

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the server and every connection, within seconds."""
        self.stopping.set()
        self.shutdown()
        self.server_close()
        with self._guard:
            connections = list(self._open)
        for connection in connections:
            # Not SSLSocket.shutdown: that one drops the TLS object under the feet of the thread that reads. That thread
            # closes it, too: a descriptor's number that is free may be another connection's while it is still read.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
        self._thread.join(5)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """The TLS handshake happens here, in the connection's own thread: a slow client holds nobody up."""
        if self._context is not None:
            try:
                request.settimeout(10)
                request = self._context.wrap_socket(request, server_side=True)
                request.settimeout(None)
            except OSError:
                close(request)
                return
        with self._guard:
            self._open.add(request)
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._guard:
                self._open.discard(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is no event; a bug of ours must not be silent."""
        import sys

        error = sys.exc_info()[1]
        if not isinstance(error, OSError) and not self.stopping.is_set():
            super().handle_error(request, client_address)

    def server_close(self) -> None:
        """Without joining connection threads: they are daemons and their sockets are being closed."""
        self.socket.close()


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    server_version = "runbook-SIMULATED"
    sys_version = ""
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (the name is the base class's)
        """Nothing is printed."""

    def _serve(self) -> None:
        incoming = self._read()
        application = self.server.application
        fault = application.fault(incoming)
        if fault is not None and fault.reset:
            self._cut()
            return
        if fault is not None and not self._pause(fault.hang or fault.latency or 0.0):
            self._cut()
            return
        if fault is not None and fault.answer is not None:
            self._send(application.failure(fault))
            return
        reply = application.answer(incoming)
        if fault is not None and fault.lose_answer:
            self._cut()
            return
        self._send(reply, drip=fault is not None and fault.drip)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = _serve  # noqa: N815  (http.server's names)

    def _read(self) -> Incoming:
        length = min(int(self.headers.get("Content-Length") or 0), _LIMIT)
        body = self.rfile.read(length) if length else b""
        if not length and "chunked" in (self.headers.get("Transfer-Encoding") or ""):
            body = self._chunks()
        parts = urlsplit(self.path)
        every = parse_qs(parts.query, keep_blank_values=True)
        query = {name: values[-1] for name, values in every.items()}
        headers = {name.lower(): value for name, value in self.headers.items()}
        return Incoming(
            self.command,
            unquote(parts.path),
            query,
            every,
            headers,
            body,
            self.connection,
            lambda: gone(self.connection),
        )

    def _chunks(self) -> bytes:
        body = b""
        while (size := int(self.rfile.readline().split(b";")[0], 16)) and len(body) < _LIMIT:
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _pause(self, seconds: float) -> bool:
        """Wait; False when the client or the server went meanwhile."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self.server.stopping.wait(min(0.05, left)) or gone(self.connection):
                return False
        return True

    def _cut(self) -> None:
        self.close_connection = True
        cut(self.connection)

    def _send(self, reply: Reply, *, drip: bool = False) -> None:
        if reply.takeover is not None:
            self.close_connection = True
            reply.takeover()
            return
        self.send_response(reply.status)
        self.send_header("X-Simulated", "runbook")
        self.send_header("Content-Type", reply.content_type)
        for name, value in reply.headers.items():
            for line in value.split("\n"):
                self.send_header(name, line)
        if reply.stream is not None:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.flush()
            reply.stream(self._write_chunk)
            self._write_chunk(b"")
            return
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if not drip:
            self.wfile.write(reply.body)
            return
        for index in range(len(reply.body)):
            self.wfile.write(reply.body[index : index + 1])
            self.wfile.flush()
            if not self._pause(1.0):
                self._cut()
                return

    def _write_chunk(self, content: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(content), content))
        self.wfile.flush()


def gone(connection: socket.socket) -> bool:
    """Whether the peer has hung up."""
    if connection.fileno() < 0:
        return True
    poll = select.poll()
    hung_up = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR
    poll.register(connection, hung_up)
    return any(event & hung_up for _, event in poll.poll(0))
