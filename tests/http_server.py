"""A loopback HTTP server whose paths misbehave in the ways that the world does."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Asked:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Server:
    """`answers`: path -> what to send: (status, headers, body), or a function of the socket and the request."""

    port: int
    scheme: str = "http"
    asked: list[Asked] = field(default_factory=list)
    answers: dict[str, Any] = field(default_factory=dict)

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        return f"{self.scheme}://{host}:{self.port}{path}"


def reply(status: int, body: bytes | str | Any = b"", **headers: str) -> tuple[int, dict[str, str], bytes]:
    if isinstance(body, str):
        body = body.encode()
    elif not isinstance(body, bytes):
        body = json.dumps(body).encode()
    return status, {name.replace("_", "-"): value for name, value in headers.items()}, body


def drip_body(connection: socket.socket, asked: Asked) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(1000):
        connection.sendall(b"x")
        time.sleep(0.1)


def drip_head(connection: socket.socket, asked: Asked) -> None:
    for letter in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"y" * 1000:
        connection.sendall(bytes([letter]))
        time.sleep(0.1)


def black_hole(connection: socket.socket, asked: Asked) -> None:
    time.sleep(30)


def reset(connection: socket.socket, asked: Asked) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def cut_short(connection: socket.socket, asked: Asked) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this")


def endless(connection: socket.socket, asked: Asked) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    while True:
        connection.sendall(b"z" * 65536)


@contextlib.contextmanager
def serving(tls: ssl.SSLContext | None = None, *, mute: bool = False) -> Iterator[Server]:
    """A server on a loopback port. `mute`: it accepts connections and never says a word (a hanging handshake)."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    server = Server(listener.getsockname()[1], "https" if tls or mute else "http")
    closing = threading.Event()
    held: list[socket.socket] = []

    def accept() -> None:
        while not closing.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            held.append(connection)
            if not mute:
                threading.Thread(target=_serve, args=(connection, server, tls), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield server
    finally:
        closing.set()
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for connection in held:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def _serve(connection: socket.socket, server: Server, tls: ssl.SSLContext | None) -> None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        if tls is not None:
            connection = tls.wrap_socket(connection, server_side=True)
        with connection:
            stream = connection.makefile("rb")
            try:
                method, target, _ = stream.readline().decode().split()
            except ValueError:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
                return
            headers: dict[str, str] = {}
            while line := stream.readline().decode().strip():
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            body = stream.read(int(headers.get("content-length", "0")))
            asked = Asked(method, target, headers, body)
            server.asked.append(asked)
            answer = server.answers.get(target.partition("?")[0], (404, {}, b"not here"))
            if isinstance(answer, list):
                answer = answer.pop(0) if len(answer) > 1 else answer[0]
            _send(connection, asked, answer)


def _send(connection: socket.socket, asked: Asked, answer: Any) -> None:
    if isinstance(answer, Callable):  # type: ignore[arg-type]
        answer = answer(connection, asked)
        if answer is None:
            return
    status, fields, body = answer
    head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    connection.sendall(head.encode() + b"\r\n" + (b"" if asked.method == "HEAD" else body))


def certificate(folder: Path, *names: str) -> Path:
    """A self-signed certificate with its key in one PEM file, for `names` (host names or addresses)."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    alternatives: list[x509.GeneralName] = [
        x509.IPAddress(ipaddress.ip_address(name)) if name[0].isdigit() else x509.DNSName(name) for name in names
    ]
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(who)
        .issuer_name(who)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{names[0]}.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    return path


def tls_server(pem: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context
