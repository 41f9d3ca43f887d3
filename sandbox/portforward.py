"""Port-forward over a WebSocket (RFC 6455), as the official Python client speaks it: subprotocol v4.channel.k8s.io.

Each forwarded port has two channels, data (2n) and error (2n + 1); both begin with a frame that holds the port number.
Behind the data channel stands a simulated program (pods.py).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import os
import select
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from runbook.sandbox import statuses
from runbook.sandbox.faults import close
from runbook.sandbox.http_server import Incoming, Reply
from runbook.sandbox.world import Document

PROTOCOLS = ("v4.channel.k8s.io", "portforward.k8s.io")
_MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_FRAME_LIMIT = 8 * 1024 * 1024
_ROOM = 64 * 1024  # bytes that wait for one side before no more are taken from the other
_READ, _WRITE = select.POLLIN, select.POLLOUT


class Pods(Protocol):
    """What stands behind pods' ports."""

    def connect(self, pod: Document, port: int) -> socket.socket:
        """A connection to a program in a pod; ConnectionRefusedError with a sentence where nothing listens."""
        ...


def upgrade(incoming: Incoming, pod: Document, pods: Pods | None) -> Reply:
    """Switch a request to a port-forward, or refuse it as the server would."""
    if "websocket" not in incoming.headers.get("upgrade", "").lower():
        raise statuses.not_modelled("port-forward by SPDY (kubectl); the official Python client's works")
    offered = [text.strip() for text in incoming.headers.get("sec-websocket-protocol", "").split(",")]
    chosen = next((one for one in PROTOCOLS if one in offered), None)
    if chosen is None:
        raise statuses.not_modelled(f"port-forward by the protocols {', '.join(offered)}")
    try:
        ports = [int(part) for value in incoming.every.get("ports", []) for part in value.split(",")]
    except ValueError:
        raise statuses.bad_request(f'unable to parse "{incoming.query.get("ports")}" as a port') from None
    if not ports:
        raise statuses.bad_request('query parameter "ports" is required')
    if pod.get("status", {}).get("phase") != "Running" or pods is None:
        phase = pod.get("status", {}).get("phase")
        text = f"unable to forward port because pod is not running. Current status={phase}"
        raise statuses.StatusError(500, "InternalError", text)
    key = incoming.headers.get("sec-websocket-key", "")
    accept = base64.b64encode(hashlib.sha1(f"{key}{_MAGIC}".encode()).digest()).decode()  # noqa: S324  (RFC 6455, 4.2.2)

    def takeover() -> None:
        head = (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: {chosen}\r\nX-Simulated: runbook\r\n\r\n"
        )
        incoming.connection.sendall(head.encode())
        _Forward(incoming.connection, pod, ports, pods).run()

    return Reply(101, takeover=takeover)


@dataclass(frozen=True, slots=True)
class Frame:
    """One WebSocket frame."""

    opcode: int
    content: bytes


TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def encode(frame: Frame, *, mask: bool = False) -> bytes:
    """A frame on the wire. Clients mask, servers do not."""
    size = len(frame.content)
    flag = 0x80 if mask else 0
    if size < 126:
        head = struct.pack("!BB", 0x80 | frame.opcode, flag | size)
    elif size < 65536:
        head = struct.pack("!BBH", 0x80 | frame.opcode, flag | 126, size)
    else:
        head = struct.pack("!BBQ", 0x80 | frame.opcode, flag | 127, size)
    if not mask:
        return head + frame.content
    key = os.urandom(4)
    return head + key + _masked(frame.content, key)


class _PartialError(Exception):
    """A frame of which not all has come yet."""


def decode(read: Callable[[int], bytes]) -> Frame | None:
    """The next whole message; None for one that is too large. What `read` raises where not all has come is raised."""
    opcode, content = 0, b""
    while True:
        head = read(2)
        size = head[1] & 0x7F
        if size == 126:
            (size,) = struct.unpack("!H", read(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", read(8))
        if size + len(content) > _FRAME_LIMIT:
            return None
        key = read(4) if head[1] & 0x80 else b"\0\0\0\0"
        content += _masked(read(size), key)
        opcode = opcode or head[0] & 0x0F
        if head[0] & 0x80:
            return Frame(opcode, content)


def _masked(content: bytes, key: bytes) -> bytes:
    if not content:
        return content
    stretched = (key * (len(content) // 4 + 1))[: len(content)]
    return (int.from_bytes(content, "big") ^ int.from_bytes(stretched, "big")).to_bytes(len(content), "big")


class _Incoming:
    """What a client sends, in pieces of any size, as messages."""

    def __init__(self) -> None:
        self._content = bytearray()

    def feed(self, content: bytes) -> Iterator[Frame | None]:
        """The messages that are whole now; None after something that is too large to be one."""
        self._content += content
        while self._content:
            rest = io.BytesIO(self._content)
            try:
                frame = decode(lambda size, rest=rest: _whole(rest, size))  # type: ignore[misc]
            except _PartialError:
                return
            del self._content[: rest.tell()]
            yield frame


def _whole(rest: io.BytesIO, size: int) -> bytes:
    content = rest.read(size)
    if len(content) < size:
        raise _PartialError
    return content


class _Forward:
    """One port-forward: frames on one side, simulated programs on the other.

    All in one thread: a TLS connection must not be read by one and written by another at once (OpenSSL: an SSL object
    belongs to one thread), and blocked writes to both sides must not wait for each other.
    """

    def __init__(self, connection: socket.socket, pod: Document, ports: list[int], pods: Pods) -> None:
        self._web = connection
        self._pod = pod
        self._ports = ports
        self._pods = pods
        self._programs: dict[int, socket.socket] = {}
        self._to_web = bytearray()
        self._to_program: dict[int, bytearray] = {}
        self._incoming = _Incoming()
        self._over = False

    def run(self) -> None:
        try:
            for index, port in enumerate(self._ports):
                for channel in (2 * index, 2 * index + 1):
                    self._frame(channel, struct.pack("<H", port))
            for index, port in enumerate(self._ports):
                self._open(index, port)
            self._web.setblocking(False)
            while not self._over:
                self._turn()
        except OSError:
            pass  # the client hung up, which is how port-forwards end
        finally:
            for program in self._programs.values():
                close(program)
            close(self._web)

    def _open(self, index: int, port: int) -> None:
        try:
            program = self._pods.connect(self._pod, port)
        except ConnectionRefusedError as error:
            meta = self._pod["metadata"]
            text = f"error forwarding port {port} to pod {meta['name']}, uid {meta['uid']}: {error}"
            self._frame(2 * index + 1, text.encode())
            return
        program.setblocking(False)
        self._programs[index] = program
        self._to_program[index] = bytearray()

    def _turn(self) -> None:
        """Wait until something can be read or written, and do that."""
        reads = all(len(waiting) < _ROOM for waiting in self._to_program.values())
        hears = len(self._to_web) < _ROOM
        wanted = {self._web: _READ * reads | _WRITE * bool(self._to_web)}
        for index, program in self._programs.items():
            wanted[program] = _READ * hears | _WRITE * bool(self._to_program[index])
        poll = select.poll()
        for side, mask in wanted.items():
            if mask:
                poll.register(side, mask)
        held = reads and isinstance(self._web, ssl.SSLSocket) and self._web.pending() > 0  # more than poll shows
        readable = {number for number, events in poll.poll(0 if held else None) if events & ~_WRITE}
        if held or (reads and self._web.fileno() in readable):
            self._hear_web()
        for index, program in list(self._programs.items()):
            if self._to_program[index]:
                self._tell(index, program)
            if hears and program.fileno() in readable:
                self._hear(index, program)
        if self._to_web:
            with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                del self._to_web[: self._web.send(self._to_web)]

    def _hear_web(self) -> None:
        try:
            content = self._web.recv(_ROOM)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        if not content:
            self._over = True
        for frame in self._incoming.feed(content):
            if frame is None or frame.opcode == CLOSE:
                self._over = True
                return
            if frame.opcode == PING:
                self._to_web += encode(Frame(PONG, frame.content))
            elif frame.opcode in {TEXT, BINARY} and frame.content and frame.content[0] % 2 == 0:
                waiting = self._to_program.get(frame.content[0] // 2)
                if waiting is not None:
                    waiting += frame.content[1:]

    def _tell(self, index: int, program: socket.socket) -> None:
        """Give a program what came for it; one that has ended takes nothing."""
        waiting = self._to_program[index]
        try:
            del waiting[: program.send(waiting)]
        except BlockingIOError:
            pass
        except OSError:
            waiting.clear()

    def _hear(self, index: int, program: socket.socket) -> None:
        """Take what a program says; its end is the end of the forward."""
        try:
            content = program.recv(_ROOM)
        except BlockingIOError:
            return
        except OSError:
            content = b""
        if content:
            self._frame(2 * index, content)
            return
        del self._programs[index], self._to_program[index]
        close(program)
        self._to_web += encode(Frame(CLOSE, struct.pack("!H", 1000)))

    def _frame(self, channel: int, content: bytes) -> None:
        self._to_web += encode(Frame(BINARY, bytes([channel]) + content))
