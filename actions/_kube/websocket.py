"""A WebSocket to the API server (RFC 6455): an upgrade that ends in time, and frames that never wait.

The client library's WebSocket connects without a time-out and blocks until a frame is whole, in both directions: two
sides that both send more than the buffers hold then wait for each other for ever. Here the connection is the one that
every other request has (TLS, client certificates, proxies), and frames are read and written in pieces.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from runbook.actions._kube.transport import Answer, Bounds, Transport
from runbook.contract import PermanentError, TemporaryError

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
_HEAD = 64 * 1024
_HINT = "is there a proxy in between that does not pass WebSockets on?"


class RefusedError(Exception):
    """The server gave an answer in place of the upgrade."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"HTTP {answer.status}")
        self.answer = answer


class DroppedError(TemporaryError):
    """The server was asked, and gave no answer: what it was asked for may have begun."""


class FrameError(Exception):
    """Bytes that are no WebSocket frame of a server."""


@dataclass(frozen=True, slots=True)
class Upgraded:
    """An open WebSocket: `wire` does not block, `early` came right behind the answer."""

    wire: socket.socket
    early: bytes


def upgrade(transport: Transport, bounds: Bounds, path: str, protocol: str) -> Upgraded:
    """Open a WebSocket to a path of the API server, cut at the deadline.

    RefusedError with the answer where the server gave another one than 101; DroppedError where it gave none,
    TemporaryError where it could not be asked,
    PermanentError where what it gave is no WebSocket of `protocol`. Credentials that it refuses are got anew once.
    """
    try:
        return _upgraded(transport, bounds, path, protocol)
    except RefusedError as refused:
        if refused.answer.status != 401 or not transport.renew(bounds):
            raise
    return _upgraded(transport, bounds, path, protocol)


def _upgraded(transport: Transport, bounds: Bounds, path: str, protocol: str) -> Upgraded:
    until = time.monotonic() + bounds.remaining()
    wire = transport.dial(bounds)

    def cut() -> None:
        # Not SSLSocket.shutdown: that one drops the TLS object under the feet of the thread that reads.
        with contextlib.suppress(OSError):
            socket.socket.shutdown(wire, socket.SHUT_RDWR)

    forget = bounds.on_stop(cut)
    try:
        key = base64.b64encode(os.urandom(16)).decode()
        wire.settimeout(max(0.05, until - time.monotonic()))
        wire.sendall(_question(transport, bounds, path, protocol, key))
        status, headers, rest = _head(wire, until)
        if status != 101:
            raise RefusedError(Answer(status, headers, _body(wire, headers, rest, until)))
        _agreed(headers, protocol, key)
        wire.setblocking(False)
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # a network that is gone says nothing
        return Upgraded(wire, rest)
    except OSError as error:
        wire.close()
        bounds.checkpoint()
        said = "no answer in time" if isinstance(error, TimeoutError) else error.strerror or str(error)
        raise DroppedError(f"the API server dropped the upgrade to a WebSocket: {said.lower()}") from error
    except BaseException:
        wire.close()
        raise
    finally:
        forget()


def _question(transport: Transport, bounds: Bounds, path: str, protocol: str, key: str) -> bytes:
    fields = (
        ("Host", urlsplit(transport.host).netloc.rpartition("@")[2]),
        ("User-Agent", "runbook"),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", key),
        ("Sec-WebSocket-Protocol", protocol),
        *transport.authorization(bounds),
    )
    lines = [f"GET {transport.target(path)} HTTP/1.1", *(f"{name}: {value}" for name, value in fields), "", ""]
    return "\r\n".join(lines).encode("latin-1")


def _receive(wire: socket.socket, until: float) -> bytes:
    wire.settimeout(max(0.05, until - time.monotonic()))
    content = wire.recv(16384)
    if not content:
        raise ConnectionResetError("it closed the connection")
    return content


def _head(wire: socket.socket, until: float) -> tuple[int, Mapping[str, str], bytes]:
    """Status, headers by their names in title case, and what came behind them."""
    content = bytearray()
    while (end := content.find(b"\r\n\r\n")) < 0:
        if len(content) > _HEAD:
            raise PermanentError("the API server's answer to an upgrade is no HTTP")
        content += _receive(wire, until)
    first, *lines = content[:end].decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    if not version.startswith("HTTP/1.") or not rest[:3].isdigit():
        raise PermanentError("the API server's answer to an upgrade is no HTTP")
    pairs = (line.partition(":") for line in lines)
    return int(rest[:3]), {name.strip().title(): value.strip() for name, _, value in pairs}, bytes(content[end + 4 :])


def _body(wire: socket.socket, headers: Mapping[str, str], begun: bytes, until: float) -> bytes:
    """What the server says in place of an upgrade; of an error only the text is lost where it does not come whole."""
    content = bytearray(begun)
    length = headers.get("Content-Length", "")
    with contextlib.suppress(OSError):
        while length.isdigit() and len(content) < min(int(length), _HEAD):
            content += _receive(wire, until)
    return bytes(content)


def _agreed(headers: Mapping[str, str], protocol: str, key: str) -> None:
    wanted = base64.b64encode(hashlib.sha1(f"{key}{_GUID}".encode()).digest()).decode()  # noqa: S324  # RFC 6455, 4.2.2
    if headers.get("Sec-Websocket-Accept") != wanted:
        raise PermanentError("the API server's answer to an upgrade is no WebSocket's", hint=_HINT)
    chosen = headers.get("Sec-Websocket-Protocol", protocol)
    if chosen != protocol:
        raise PermanentError(f"the API server speaks {chosen}, not {protocol}", hint=_HINT)


def encode(opcode: int, content: bytes) -> bytes:
    """A frame as a client sends it: whole, and masked."""
    size = len(content)
    if size < 126:
        head = struct.pack("!BB", 0x80 | opcode, 0x80 | size)
    elif size < 65536:
        head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, size)
    key = os.urandom(4)
    stretched = (key * (size // 4 + 1))[:size]
    masked = (int.from_bytes(content, "big") ^ int.from_bytes(stretched, "big")).to_bytes(size, "big")
    return head + key + masked


@dataclass(frozen=True, slots=True)
class Piece:
    """Of a message on a channel, as much as has arrived (`opcode` BINARY), or a control frame, whole."""

    opcode: int
    channel: int
    content: bytes


class Incoming:
    """Frames of a server out of a stream of bytes. Nothing waits until it is whole, so a long frame costs no memory."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._control = 0  # the opcode of the control frame whose content is awaited
        self._left = 0  # bytes of the frame that are still to come
        self._is_last = True  # the frame ends its message
        self._channel: int | None = None  # of the message that is under way

    def feed(self, content: bytes) -> Iterator[Piece]:
        """What these bytes complete. FrameError where they are no frames."""
        self._held += content
        while True:
            if not self._left and not self._control and not self._begin():
                return
            if self._control:
                if len(self._held) < self._left:
                    return
                yield Piece(self._control, -1, self._take(self._left))
                self._control = 0
            elif self._left:
                if not self._held:
                    return
                part = self._take(min(self._left, len(self._held)))
                if self._channel is None:
                    self._channel, part = part[0], part[1:]
                if part:
                    yield Piece(BINARY, self._channel, part)
                self._end()
            else:
                self._end()

    def _end(self) -> None:
        if not self._left and self._is_last:
            self._channel = None

    def _take(self, size: int) -> bytes:
        part = bytes(self._held[:size])
        del self._held[:size]
        self._left -= size
        return part

    def _begin(self) -> bool:
        """Read a frame's head; False where it has not come whole."""
        if len(self._held) < 2:
            return False
        first, second = self._held[0], self._held[1]
        opcode, size = first & 0x0F, second & 0x7F
        if first & 0x70 or second & 0x80 or opcode not in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG):
            raise FrameError("not a frame of a server")
        wide = {126: 2, 127: 8}.get(size, 0)
        if len(self._held) < 2 + wide:
            return False
        if wide:
            size = int.from_bytes(self._held[2 : 2 + wide], "big")
        if opcode >= CLOSE:
            if size > 125 or not first & 0x80:
                raise FrameError("a control frame that is long or in parts")
            self._control = opcode
        else:
            self._is_last = bool(first & 0x80)
        del self._held[: 2 + wide]
        self._left = size
        return True
