"""A command in a container, over one WebSocket: a channel for each of its streams.

Subprotocol v5.channel.k8s.io (KEP-4006, Kubernetes 1.30): the first byte of a message is its channel: 0 stdin,
1 stdout, 2 stderr, 3 how it ended (a Status), and 255 says that the channel named by the next byte is over. v4 is the
same without that last one: a command could not see the end of its input. Framing: RFC 6455.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import io
import json
import os
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

from runbook.actions import _kube_kinds as kinds
from runbook.actions._kube import Cluster, explain
from runbook.actions._kube_kinds import Ref
from runbook.actions._kube_transport import Answer
from runbook.contract import Context, PermanentError, TemporaryError

STDIN, STDOUT, STDERR, OUTCOME, OVER = 0, 1, 2, 3, 255
V4, V5 = "v4.channel.k8s.io", "v5.channel.k8s.io"
CHUNK = 32 * 1024
HEAD = 64 * 1024
"""Bytes of an answer's head, or of the body of one that is no upgrade."""
FRAME = 16 << 20
"""Bytes of one frame; Kubernetes sends 32 KiB."""
LINGER = 2.0
"""Seconds for the last output to come after the outcome is known."""
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TEXT, _BINARY, _CLOSE, _PING, _PONG = 1, 2, 8, 9, 10


class LostError(Exception):
    """A command was perhaps started, and how it ended nobody heard: the connection broke, or was cut (`cut`)."""

    def __init__(self, why: str, *, cut: bool = False) -> None:
        super().__init__(why)
        self.cut = cut


def start(cluster: Cluster, ctx: Context, pod: Ref, command: list[str], container: str | None, stdin: bool) -> Streams:
    """Start a command in a container. The errors of the contract where none was started; LostError where that is not
    known."""
    ref = Ref(kinds.POD, pod.namespace, pod.name, "exec")
    query = [("command", part) for part in command] + [("stdout", "true"), ("stderr", "true")]
    query += [("container", container)] if container else []
    query += [("stdin", "true")] if stdin else []
    protocols = V5 if stdin else f"{V5}, {V4}"
    headers = cluster.transport.authorization(ctx)
    wire = cluster.transport.dial(ctx)
    forget = ctx.on_stop(lambda: _cut(wire))
    try:
        wire.settimeout(max(0.05, ctx.remaining()))
        return Streams(wire, _upgraded(wire, cluster, ref, f"{ref.path()}?{urlencode(query)}", protocols, headers))
    except OSError as error:
        wire.close()
        raise _lost(ctx, error) from error
    except BaseException:
        wire.close()
        raise
    finally:
        forget()


def _upgraded(
    wire: socket.socket, cluster: Cluster, ref: Ref, path: str, protocols: str, authorization: Mapping[str, str]
) -> bytes:
    """Ask for the WebSocket. What has come of it already; the errors of the contract where there is none."""
    key = base64.b64encode(os.urandom(16))
    headers = {
        "Host": cluster.transport.host.partition("://")[2],
        "User-Agent": "runbook",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": key.decode(),
        "Sec-WebSocket-Protocol": protocols,
        **authorization,
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    wire.sendall(f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode())
    head, rest = _until(wire, b"\r\n\r\n")
    first, _, fields = head.partition(b"\r\n")
    found = http.client.parse_headers(io.BytesIO(fields + b"\r\n\r\n"))
    status = int(first.split(b" ")[1]) if first.startswith(b"HTTP/1.1 ") else 0
    if status != http.HTTPStatus.SWITCHING_PROTOCOLS:
        body = _body(wire, rest, found.get("Content-Length"))
        raise explain(Answer(status, dict(found), body), f"create {ref}", cluster.context)
    proof = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest()).decode()
    if found.get("Sec-WebSocket-Accept") != proof or found.get("Sec-WebSocket-Protocol") not in protocols.split(", "):
        raise PermanentError(f"cannot create {ref}: what answers at {cluster.transport.host} speaks no {protocols}")
    return rest


class Streams:
    """The streams of a running command. One thread for all: a TLS object is not for two at a time, and a command that
    writes before it has read everything must not bring both sides to a stop."""

    def __init__(self, wire: socket.socket, begun: bytes) -> None:
        self._wire = wire
        self._in = bytearray(begun)
        self._out = bytearray()
        self._channel: int | None = None
        self._status = bytearray()
        self._over = False

    def run(self, ctx: Context, stdin: bytes | None, take: Callable[[int, bytes], None]) -> dict[str, Any]:
        """Carry the streams until the command has ended: the Status that says how. `take`: channel and bytes of output.

        LostError when the connection ends before.
        """
        forget = ctx.on_stop(lambda: _cut(self._wire))
        try:
            self._wire.setblocking(False)
            self._carry(ctx, stdin, take)
        except (OSError, TemporaryError) as error:
            raise _lost(ctx, error) from error
        finally:
            forget()
            _cut(self._wire)
            self._wire.close()
        outcome = self._outcome()
        if outcome is None:
            raise _lost(ctx, ConnectionError("it was closed"))
        return outcome

    def _carry(self, ctx: Context, stdin: bytes | None, take: Callable[[int, bytes], None]) -> None:
        left, ended = memoryview(stdin or b""), stdin is None
        until: float | None = None
        while True:
            for channel, content in self._messages():
                if channel == OUTCOME:
                    self._status += content
                elif channel in (STDOUT, STDERR) and content:
                    take(channel, content)
            if until is None and self._outcome() is not None:
                until = time.monotonic() + LINGER
            if self._over or (until is not None and time.monotonic() >= until):
                return
            while left and len(self._out) < 2 * CHUNK:
                self._send(_BINARY, bytes([STDIN]) + left[:CHUNK])
                left = left[CHUNK:]
            if not left and not ended:
                self._send(_BINARY, bytes([OVER, STDIN]))
                ended = True
            self._step(ctx, until)

    def _outcome(self) -> dict[str, Any] | None:
        try:
            found = json.loads(bytes(self._status))
        except ValueError:
            return None
        return found if isinstance(found, dict) else None

    def _step(self, ctx: Context, until: float | None) -> None:
        """Wait until bytes can go one way or the other, and let them."""
        ctx.checkpoint()
        patience = ctx.remaining() if until is None else min(ctx.remaining(), max(0.0, until - time.monotonic()))
        waiting = select.poll()  # not select: a descriptor may be above 1024
        waiting.register(self._wire, select.POLLIN | (select.POLLOUT if self._out else 0))
        pending = isinstance(self._wire, ssl.SSLSocket) and self._wire.pending()
        if not pending:
            waiting.poll(min(patience, 5.0) * 1000)
        ctx.checkpoint()
        if self._out:
            with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                del self._out[: self._wire.send(self._out)]
        with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            piece = self._wire.recv(2 * CHUNK)
            self._in += piece
            self._over = self._over or not piece

    def _messages(self) -> Iterator[tuple[int, bytes]]:
        """The pieces of output that have come, each with its channel; pings are answered."""
        while (frame := self._frame()) is not None:
            opcode, content = frame
            if opcode == _CLOSE:
                self._over = True
                return
            if opcode == _PING:
                self._send(_PONG, content)
            if opcode in (_TEXT, _BINARY) and content:
                self._channel, content = content[0], content[1:]
            if opcode in (_TEXT, _BINARY, 0) and self._channel is not None:
                yield self._channel, content

    def _frame(self) -> tuple[int, bytes] | None:
        """The next whole frame out of what has come."""
        have = self._in
        if len(have) < 2:
            return None
        length, at = have[1] & 0x7F, 2
        if length > 125:
            at = 4 if length == 126 else 10
            if len(have) < at:
                return None
            length = int.from_bytes(have[2:at], "big")
        if have[1] & 0x80 or length > FRAME:  # a server does not mask
            raise LostError("what came is no WebSocket frame")
        if len(have) < at + length:
            return None
        opcode, content = have[0] & 0x0F, bytes(have[at : at + length])
        del have[: at + length]
        return opcode, content

    def _send(self, opcode: int, content: bytes) -> None:
        """Queue a frame, masked as clients must."""
        length, mask = len(content), os.urandom(4)
        size = bytes([0x80 | length]) if length < 126 else bytes([0x80 | 126]) + length.to_bytes(2, "big")
        whole = (mask * (length // 4 + 1))[:length]
        masked = int.from_bytes(content, "little") ^ int.from_bytes(whole, "little")
        self._out += bytes([0x80 | opcode]) + size + mask + masked.to_bytes(length, "little")


def _lost(ctx: Context, error: Exception) -> LostError:
    try:
        ctx.checkpoint()
    except TemporaryError as over:
        return LostError(over.message, cut=True)
    return LostError(str(error) or type(error).__name__)


def _cut(wire: socket.socket) -> None:
    # Not SSLSocket.shutdown: that one drops the TLS object under the feet of the thread that reads.
    with contextlib.suppress(OSError):
        socket.socket.shutdown(wire, socket.SHUT_RDWR)


def _until(wire: socket.socket, mark: bytes) -> tuple[bytes, bytes]:
    """What comes before the mark, and what has come behind it."""
    have = bytearray()
    while mark not in have:
        piece = wire.recv(CHUNK)
        if not piece or len(have) > HEAD:
            raise ConnectionError("the connection was closed" if not piece else "what answers does not speak HTTP")
        have += piece
    head, _, rest = bytes(have).partition(mark)
    return head, rest


def _body(wire: socket.socket, begun: bytes, length: str | None) -> bytes:
    """The body of a refusal; a part of it is enough."""
    have, wanted = bytearray(begun), int(length) if length and length.isdigit() else HEAD
    with contextlib.suppress(OSError):
        while len(have) < min(wanted, HEAD):
            piece = wire.recv(CHUNK)
            if not piece:
                break
            have += piece
    return bytes(have[:HEAD])
