"""A proxy in front of a real API server that misbehaves as proxies do: it drips, cuts short, closes, answers itself.

    with proxied(plane) as proxy:
        proxy.fault("PATCH", "/deployments/web", "lose")     # the server makes the change, its answer never arrives
        environ = plane.environ() | {"KUBECONFIG": proxy.kubeconfig(folder)}

Plain HTTP on this side, TLS to the server; each request has a connection of its own behind it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.testbed.plane import Plane

Fault = str | Callable[[socket.socket, str, bytes], None] | tuple[int, dict[str, str], bytes]
"""`drip`, `truncate`, `half` (of a body whose length nobody says), `lose` the answer, `refuse` the request, `reset`,
a whole answer in place of the server's, or a function of the connection, the path and the server's answer."""


@dataclass
class Rule:
    """What happens to requests of that method whose path and query match; `times`: to so many of them."""

    method: str
    path: str
    fault: Fault
    times: int


@dataclass
class Proxy:
    """`asked`: method and path with query of every request, in order; `connections`: how many were opened."""

    port: int
    plane: Plane
    asked: list[tuple[str, str]] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)
    connections: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fault(self, method: str, path: str, fault: Fault, times: int = 1) -> None:
        """Misbehave: `path` is a regular expression that is searched for."""
        with self._lock:
            self.rules.append(Rule(method, path, fault, times))

    def count(self, method: str, path: str) -> int:
        """How many such requests came."""
        return sum(verb == method and re.search(path, where) is not None for verb, where in list(self.asked))

    def kubeconfig(self, folder: Path, *, user: dict[str, Any] | None = None) -> str:
        """The plane's own, through here; `user`: other credentials."""
        import yaml

        found = yaml.safe_load(self.plane.kubeconfig.read_text())
        found["clusters"][0]["cluster"] = {"server": f"http://127.0.0.1:{self.port}"}
        if user is not None:
            found["users"][0]["user"] = user
        path = folder / "kubeconfig-proxied"
        path.write_text(yaml.safe_dump(found))
        return str(path)

    def meet(self, method: str, path: str) -> Fault | None:
        """The fault of this request."""
        with self._lock:
            self.asked.append((method, path))
            for rule in self.rules:
                if rule.times > 0 and rule.method == method and re.search(rule.path, path):
                    rule.times -= 1
                    return rule.fault
        return None


@contextlib.contextmanager
def proxied(plane: Plane) -> Iterator[Proxy]:
    """Start one on a free port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    proxy = Proxy(listener.getsockname()[1], plane)
    held: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            held.append(client)
            proxy.connections += 1
            threading.Thread(target=_serve, args=(client, proxy), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield proxy
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for client in held:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
            client.close()


def _serve(client: socket.socket, proxy: Proxy) -> None:
    with contextlib.suppress(OSError, ValueError, http.client.HTTPException), client:
        reader = client.makefile("rb")
        while line := reader.readline():
            method, path, _ = line.decode().split(" ", 2)
            headers = http.client.parse_headers(reader)
            body = reader.read(int(headers.get("Content-Length") or 0))
            fault = proxy.meet(method, path)
            if fault == "refuse":
                return
            if isinstance(fault, tuple):
                client.sendall(written(*fault))
                continue
            if not _pass_on(client, proxy, method, path, dict(headers.items()), body, fault):
                return


def _pass_on(
    client: socket.socket,
    proxy: Proxy,
    method: str,
    path: str,
    headers: dict[str, str],
    body: bytes,
    fault: Fault | None,
) -> bool:
    """Ask the server; whether the connection can go on. Of a watch that meets a fault the server is not asked."""
    if fault is not None and "watch=1" in path:
        _misbehave(client, path, b"", fault)
        return False
    trust = ssl._create_unverified_context()  # the testbed's own certificate
    wire = http.client.HTTPSConnection("127.0.0.1", proxy.plane.port, context=trust, timeout=60)
    try:
        wire.request(method, path, body=body or None, headers={**headers, "Accept-Encoding": "identity"})
        answer = wire.getresponse()
        if "watch=1" in path and answer.status == 200:
            _stream(client, answer)
            return False
        found = written(answer.status, dict(answer.headers.items()), answer.read())
    finally:
        wire.close()
    if fault is None:
        client.sendall(found)
        return True
    _misbehave(client, path, found, fault)
    return False


def _misbehave(client: socket.socket, path: str, answer: bytes, fault: Fault) -> None:
    head, _, body = answer.partition(b"\r\n\r\n")
    if callable(fault):
        fault(client, path, answer)
    elif fault == "drip":
        client.sendall(head + b"\r\n\r\n")
        for position in range(len(body)):
            client.sendall(body[position : position + 1])
            time.sleep(0.05)
    elif fault == "truncate":
        client.sendall(head + b"\r\n\r\n" + body[: len(body) // 2])
    elif fault == "half":
        client.sendall(
            re.sub(rb"\r\nContent-Length: \d+", b"", head) + b"\r\nConnection: close\r\n\r\n" + body[: len(body) // 2]
        )
    elif fault == "reset":
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    else:
        assert fault == "lose"


def _stream(client: socket.socket, answer: http.client.HTTPResponse) -> None:
    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
    while piece := answer.read1(65536):
        client.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
    client.sendall(b"0\r\n\r\n")


def written(status: int, headers: dict[str, str], body: bytes) -> bytes:
    """A whole answer as it goes over the wire."""
    left = {name: value for name, value in headers.items() if name not in ("Transfer-Encoding", "Content-Length")}
    lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in left.items())]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def refusal(status: int, message: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """An answer as the API server gives it: a Status."""
    said = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": status}
    found = {"Content-Type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return status, found, json.dumps(said).encode()
