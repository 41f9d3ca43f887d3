"""Port-forward over a WebSocket (RFC 6455), as the official Python client speaks it: subprotocol v4.channel.k8s.io.

Each forwarded port has two channels, data (2n) and error (2n + 1); both begin with a frame that holds the port number.
Behind the data channel stands a simulated program (pods.py).
"""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from runbook.sandbox import statuses
from runbook.sandbox.faults import close
from runbook.sandbox.http_server import Incoming, Reply
from runbook.sandbox.world import Document

PROTOCOLS = ("v4.channel.k8s.io", "portforward.k8s.io")
_MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_FRAME_LIMIT = 8 * 1024 * 1024


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


def decode(read: Callable[[int], bytes]) -> Frame | None:
    """The next whole message; None at the end of the connection."""
    opcode, content = 0, b""
    while True:
        head = read(2)
        if len(head) < 2:
            return None
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


class _Forward:
    """One port-forward: frames on one side, simulated programs on the other."""

    def __init__(self, connection: socket.socket, pod: Document, ports: list[int], pods: Pods) -> None:
        self._connection = connection
        self._reader = connection.makefile("rb")
        self._pod = pod
        self._ports = ports
        self._pods = pods
        self._programs: dict[int, socket.socket] = {}
        self._writing = threading.Lock()

    def run(self) -> None:
        try:
            for index, port in enumerate(self._ports):
                for channel in (2 * index, 2 * index + 1):
                    self._send(channel, struct.pack("<H", port))
            for index, port in enumerate(self._ports):
                self._open(index, port)
            self._receive()
        except OSError:
            pass  # the client hung up, which is how port-forwards end
        finally:
            for program in self._programs.values():
                close(program)
            self._reader.close()
            close(self._connection)

    def _open(self, index: int, port: int) -> None:
        try:
            program = self._pods.connect(self._pod, port)
        except ConnectionRefusedError as error:
            meta = self._pod["metadata"]
            text = f"error forwarding port {port} to pod {meta['name']}, uid {meta['uid']}: {error}"
            self._send(2 * index + 1, text.encode())
            return
        self._programs[index] = program
        threading.Thread(target=self._pump, args=(index, program), daemon=True).start()

    def _pump(self, index: int, program: socket.socket) -> None:
        try:
            while content := program.recv(65536):
                self._send(2 * index, content)
            with self._writing:
                self._connection.sendall(encode(Frame(CLOSE, struct.pack("!H", 1000))))
        except OSError:
            pass  # whoever closed first ends the other side too

    def _receive(self) -> None:
        while (frame := decode(self._reader.read)) is not None:
            if frame.opcode == CLOSE:
                return
            if frame.opcode == PING:
                with self._writing:
                    self._connection.sendall(encode(Frame(PONG, frame.content)))
            elif frame.opcode in {TEXT, BINARY} and frame.content:
                program = self._programs.get(frame.content[0] // 2)
                if program is not None and frame.content[0] % 2 == 0:
                    program.sendall(frame.content[1:])

    def _send(self, channel: int, content: bytes) -> None:
        with self._writing:
            self._connection.sendall(encode(Frame(BINARY, bytes([channel]) + content)))
