"""A command in a container, over one WebSocket: a channel for each of its streams.

Subprotocol v5.channel.k8s.io (KEP-4006, Kubernetes 1.30): the first byte of a message is its channel: 0 stdin,
1 stdout, 2 stderr, 3 how it ended (a Status), and 255 says that the channel named by the next byte is over. v4 is the
same without that last one: a command could not see the end of its input.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from runbook.actions._kube import kinds, websocket
from runbook.actions._kube.cluster import Cluster, explain
from runbook.actions._kube.kinds import Ref
from runbook.actions._kube.websocket import DroppedError, FrameError, RefusedError, Upgraded
from runbook.contract import Context, PermanentError, TemporaryError

PROTOCOL = "v5.channel.k8s.io"
STDIN, STDOUT, STDERR, OUTCOME, OVER = 0, 1, 2, 3, 255
CHUNK = 32 * 1024
LINGER = 2.0
"""Seconds for the last output to come after the outcome is known."""


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
    try:
        return Streams(websocket.upgrade(cluster.transport, ctx, f"{ref.path()}?{urlencode(query)}", PROTOCOL))
    except RefusedError as refused:
        answer = refused.answer
        if answer.status < 400:
            raise PermanentError(f"the API server answered the start of a command by HTTP {answer.status}") from refused
        verb = "get" if b"cannot get" in answer.body else "create"
        raise explain(answer, f"{verb} {ref}", cluster.context) from refused
    except DroppedError as error:
        raise LostError(error.message) from error
    except TemporaryError as error:
        _raise_cut(ctx, error)
        raise


class Streams:
    """The streams of a running command. One thread for all: a TLS object is not for two at a time, and a command that
    writes before it has read everything must not bring both sides to a stop."""

    def __init__(self, upgraded: Upgraded) -> None:
        self._wire = upgraded.wire
        self._early = upgraded.early
        self._frames = websocket.Incoming()
        self._out = bytearray()
        self._status = bytearray()
        self._over = False

    def run(self, ctx: Context, stdin: bytes | None, take: Callable[[int, bytes], None]) -> dict[str, Any]:
        """Carry the streams until the command has ended: the Status that says how. `take`: channel and bytes of output.

        LostError when the connection ends before.
        """
        forget = ctx.on_stop(self._cut)
        try:
            self._carry(ctx, stdin, take)
        except (OSError, FrameError, TemporaryError) as error:
            _raise_cut(ctx, error)
            raise LostError(str(error) or type(error).__name__) from error
        finally:
            forget()
            self._cut()
            self._wire.close()
        outcome = self._outcome()
        if outcome is None:
            _raise_cut(ctx, None)
            raise LostError("it was closed")
        return outcome

    def _carry(self, ctx: Context, stdin: bytes | None, take: Callable[[int, bytes], None]) -> None:
        left, ended = memoryview(stdin or b""), stdin is None
        until: float | None = None
        self._take(self._early, take)
        while True:
            if until is None and self._outcome() is not None:
                until = time.monotonic() + LINGER
            if self._over or (until is not None and time.monotonic() >= until):
                return
            while left and len(self._out) < 2 * CHUNK:
                self._out += websocket.encode(websocket.BINARY, bytes([STDIN]) + left[:CHUNK])
                left = left[CHUNK:]
            if not left and not ended:
                self._out += websocket.encode(websocket.BINARY, bytes([OVER, STDIN]))
                ended = True
            self._take(self._step(ctx, until), take)

    def _outcome(self) -> dict[str, Any] | None:
        try:
            found = json.loads(bytes(self._status))
        except ValueError:
            return None
        return found if isinstance(found, dict) else None

    def _step(self, ctx: Context, until: float | None) -> bytes:
        """Wait until bytes can go one way or the other, and let them: what came."""
        ctx.checkpoint()
        patience = ctx.remaining() if until is None else min(ctx.remaining(), max(0.0, until - time.monotonic()))
        waiting = select.poll()  # not select: a descriptor may be above 1024
        waiting.register(self._wire, select.POLLIN | (select.POLLOUT if self._out else 0))
        if not (isinstance(self._wire, ssl.SSLSocket) and self._wire.pending()):
            waiting.poll(min(patience, 5.0) * 1000)
        ctx.checkpoint()
        if self._out:
            with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                del self._out[: self._wire.send(self._out)]
        with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            came = self._wire.recv(2 * CHUNK)
            self._over = self._over or not came
            return came
        return b""

    def _take(self, came: bytes, take: Callable[[int, bytes], None]) -> None:
        for piece in self._frames.feed(came):
            if piece.opcode == websocket.CLOSE:
                self._over = True
                return
            if piece.opcode == websocket.PING:
                self._out += websocket.encode(websocket.PONG, piece.content)
            elif piece.opcode == websocket.BINARY and piece.channel == OUTCOME:
                self._status += piece.content
            elif piece.opcode == websocket.BINARY and piece.channel in (STDOUT, STDERR):
                take(piece.channel, piece.content)

    def _cut(self) -> None:
        # Not SSLSocket.shutdown: that one drops the TLS object under the feet of the thread that reads.
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._wire, socket.SHUT_RDWR)


def _raise_cut(ctx: Context, error: Exception | None) -> None:
    """LostError where the call is over: then that is why."""
    try:
        ctx.checkpoint()
    except TemporaryError as over:
        raise LostError(over.message, cut=True) from error
