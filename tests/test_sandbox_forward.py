"""The SIMULATED API's port-forward over TLS: much in both directions at once, on many connections."""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from runbook.actions._kube import websocket
from runbook.actions._kube.tunnel import PROTOCOL, Tunnel
from runbook.actions._kube.websocket import Upgraded
from runbook.sandbox import portforward, tls
from runbook.sandbox.http_server import Incoming, Reply, Server

POD: Any = {"metadata": {"name": "web", "uid": "1"}, "status": {"phase": "Running"}}


class Echo:
    """A cluster of one pod whose port 7 gives back what it gets; nothing listens on its other ports."""

    def answer(self, incoming: Incoming) -> Reply:
        return portforward.upgrade(incoming, POD, self)

    def fault(self, incoming: Incoming) -> None: ...

    def failure(self, fault: Any) -> Reply:
        raise AssertionError(fault)

    def connect(self, pod: Any, port: int) -> socket.socket:
        if port != 7:
            raise ConnectionRefusedError("connection refused")
        ours, theirs = socket.socketpair()

        def echo() -> None:
            with ours, contextlib.suppress(OSError):  # the other side hung up
                while content := ours.recv(65536):
                    ours.sendall(content)

        threading.Thread(target=echo, daemon=True).start()
        return theirs


@pytest.fixture
def address(tmp_path: Path) -> Iterator[tuple[int, ssl.SSLContext]]:
    authority, context = tls.issue(tmp_path)
    server = Server(Echo(), context)
    server.start()
    yield server.port, ssl.create_default_context(cadata=authority.decode())
    server.stop()


def upgraded(address: tuple[int, ssl.SSLContext], port: int) -> Upgraded:
    """The WebSocket of a forward to the pod's port."""
    where, context = address
    wire = context.wrap_socket(socket.create_connection(("127.0.0.1", where), 10), server_hostname="127.0.0.1")
    key = base64.b64encode(os.urandom(16)).decode()
    lines = [f"GET /?ports={port} HTTP/1.1", "Host: x", "Upgrade: websocket", "Connection: Upgrade"]
    lines += [f"Sec-WebSocket-Key: {key}", f"Sec-WebSocket-Protocol: {PROTOCOL}", "", ""]
    wire.sendall("\r\n".join(lines).encode())
    said = b""
    while b"\r\n\r\n" not in said:
        said += wire.recv(4096)
    head, _, early = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    return Upgraded(wire, early)


def dial(address: tuple[int, ssl.SSLContext], port: int) -> tuple[socket.socket, Tunnel, threading.Thread]:
    """Our end of a forward to the pod's port, and what carries it."""
    web = upgraded(address, port)
    web.wire.setblocking(False)
    near, far = socket.socketpair()
    near.settimeout(60)
    tunnel = Tunnel(far, web)

    def carry() -> None:
        with far:
            tunnel.run()

    thread = threading.Thread(target=carry, daemon=True)
    thread.start()
    return near, tunnel, thread


def test_what_goes_both_ways_at_once_arrives_whole(address: tuple[int, ssl.SSLContext]) -> None:
    """More than any buffer holds, and neither side waits for the other; read and written by two threads at once, a
    connection of TLS breaks, and takes the process with it."""

    def exchange(number: int) -> bool:
        near, tunnel, thread = dial(address, 7)
        said, heard = os.urandom(3_000_000 + number), bytearray()
        teller = threading.Thread(target=near.sendall, args=(said,))
        with near:
            teller.start()
            while len(heard) < len(said):
                heard += near.recv(65536)
            teller.join()
            tunnel.close()
            thread.join(10)
        return bytes(heard) == said and not thread.is_alive()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(exchange, range(16))) == [True] * 16


def test_where_nothing_listens_the_forward_says_so_and_ends(address: tuple[int, ssl.SSLContext]) -> None:
    near, tunnel, thread = dial(address, 8)
    with near:
        assert near.recv(1) == b""
        thread.join(10)
    assert tunnel.failure == "error forwarding port 8 to pod web, uid 1: connection refused"


def test_an_end_of_the_server_ends_its_forwards(tmp_path: Path) -> None:
    authority, context = tls.issue(tmp_path)
    server = Server(Echo(), context)
    server.start()
    near, tunnel, thread = dial((server.port, ssl.create_default_context(cadata=authority.decode())), 7)
    with near:
        near.sendall(b"there?")
        assert near.recv(6) == b"there?"
        server.stop()
        assert near.recv(1) == b""
        thread.join(10)
    assert tunnel.failure == "the connection to the API server was lost: it closed the connection"


def test_clients_that_are_killed_in_the_middle_do_no_harm(address: tuple[int, ssl.SSLContext]) -> None:
    """Their connections are reset while the pod still speaks: what a killed run leaves, again and again."""

    def hang_up(number: int) -> None:
        wire = upgraded(address, 7).wire
        wire.settimeout(0.5)
        with contextlib.suppress(OSError):  # full: nobody reads the echo
            for _ in range(number % 40):
                wire.sendall(websocket.encode(websocket.BINARY, b"\0" + os.urandom(20_000)))
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        wire.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(hang_up, range(200)))
    near, tunnel, thread = dial(address, 7)
    with near:
        near.sendall(b"there?")
        assert near.recv(6) == b"there?"
        tunnel.close()
        thread.join(10)
