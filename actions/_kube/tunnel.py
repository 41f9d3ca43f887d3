"""One forwarded connection: bytes between a socket of ours and a pod's port, over one WebSocket.

Subprotocol v4.channel.k8s.io: channel 0 is the data, channel 1 an error, and both begin with the port's number in two
bytes, little-endian (k8s.io/kubelet, portforward). It can't say that one direction has ended: when our side is done
writing, the pod's program is not told so; what it still has to say is awaited until it has been silent for a while, and
then it is a failure: a program that is slow and one that has said all look alike.
"""

from __future__ import annotations

import contextlib
import re
import selectors
import socket
import ssl
import struct
import threading
import time

from runbook.actions._kube import websocket
from runbook.actions._kube.websocket import FrameError, Upgraded
from runbook.contract import shorten

PROTOCOL = "v4.channel.k8s.io"
ROOM = 64 * 1024
"""Bytes that wait in each direction before the other side's are left where they are."""
PING = 20.0
"""Seconds without a word of ours, after which one is sent: middle boxes forget idle connections."""
SILENCE = 30.0
"""Seconds that a pod may be silent once our side is done; whether that one only stopped writing can't be told."""
_NOTHING_LISTENS = re.compile(r"connection refused|failed to (dial|connect)", re.IGNORECASE)
_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class Tunnel:
    """A forward to one port. `run` carries until either side ends, or `close` is called.

    `failure`: why it ended otherwise than by an end of either side (no process listens on that port, the connection to
    the API server was lost); set before `ours` shows its end.
    """

    def __init__(self, ours: socket.socket, upgraded: Upgraded, *, said: bytes = b"", done: bool = False) -> None:
        """`said`, `done`: what an earlier tunnel took from `ours` in vain, and whether that was all."""
        self.failure: str | None = None
        self.done = done
        self._said = bytearray(said)
        self._heard = False  # something came from the pod
        self._ours = ours
        self._web = upgraded.wire
        self._frames = websocket.Incoming()
        self._incoming = bytearray()
        self._outgoing = bytearray()
        self._prefix = {0: 2, 1: 2}  # bytes of the port's number that are still to come
        self._ended = False  # the pod's side
        self._deaf = False  # the pod's side takes nothing any more
        self._gone = False  # our side, altogether
        self._error = bytearray()
        self._lock = threading.Lock()
        self._over = False
        self._sent_at = self._heard_at = time.monotonic()
        self._early = upgraded.early
        self._send(said)

    @property
    def held(self) -> int:
        """Bytes that wait here."""
        return len(self._incoming) + len(self._outgoing)

    @property
    def unheard(self) -> bytes | None:
        """What another pod can be told instead: nothing listened in this one. None where it may have been heard."""
        refused = self.failure is not None and _NOTHING_LISTENS.search(self.failure) is not None
        return bytes(self._said) if refused and not self._heard and len(self._said) <= ROOM else None

    def close(self) -> None:
        """End both sides, from any thread; whoever reads from the other end of `ours` sees its end."""
        with self._lock:
            if self._over:
                return
            self._gone = True
            for side in (self._ours, self._web):
                with contextlib.suppress(OSError):
                    # Not SSLSocket.shutdown: that one drops the TLS object under the feet of the thread that reads.
                    socket.socket.shutdown(side, socket.SHUT_RDWR)

    def run(self) -> None:
        """Carry until it is over. The WebSocket is closed then; `ours` is not, nor has it been told."""
        try:
            self._take(self._early)
            self._pump()
        except FrameError as error:
            self.failure = f"the API server does not speak WebSocket: {error}"
        except OSError as error:
            self._lost(error)
        finally:
            with self._lock:
                self._over = True
                with contextlib.suppress(OSError):
                    self._web.send(websocket.encode(websocket.CLOSE, struct.pack("!H", 1000)))
                self._web.close()

    # -- the loop

    def _pump(self) -> None:
        self._ours.setblocking(False)
        with selectors.DefaultSelector() as ready:
            while not self._is_over():
                now = time.monotonic()
                heard = not self._ended and not self._deaf
                if now - self._sent_at > PING and not self._outgoing and heard:
                    self._frame(websocket.PING, b"")
                listens = heard and not self.done and len(self._outgoing) < ROOM
                reads = not self._ended and len(self._incoming) < ROOM
                _want(ready, self._ours, _READ * listens | _WRITE * bool(self._incoming))
                _want(ready, self._web, _READ * reads | _WRITE * bool(self._outgoing))
                # TLS decrypts more than select shows
                held = reads and isinstance(self._web, ssl.SSLSocket) and self._web.pending() > 0
                happened = {key.fileobj: mask for key, mask in ready.select(0 if held else self._patience(now))}
                ours, web = happened.get(self._ours, 0), happened.get(self._web, 0)
                if ours & _READ:
                    self._listen()
                if web & _READ or held:
                    self._read()
                if self._incoming:
                    self._tell()
                if self._outgoing:
                    self._write()

    def _is_over(self) -> bool:
        if self._gone or (self._ended and not self._incoming):
            return True
        waited = time.monotonic() - self._heard_at
        if self._error and waited > 1:  # its text comes in one piece or soon
            self._finish()
            return True
        if self.done and not self.held and waited > SILENCE:
            self.failure = f"{SILENCE:g} s of silence after the client was done; whether it had said all can't be told"
            return True
        return False

    def _patience(self, now: float) -> float:
        """Seconds until time alone changes something."""
        until = self._sent_at + PING
        if self.done:
            until = min(until, self._heard_at + SILENCE)
        if self._error:
            until = min(until, self._heard_at + 1)
        return max(0.01, until - now + 0.01)

    def _listen(self) -> None:
        """Take what our side says."""
        try:
            content = self._ours.recv(ROOM)
        except BlockingIOError:
            return
        except OSError:
            self._gone = True
            return
        if not content:
            self.done = True
            self._heard_at = time.monotonic()
            return
        if not self._heard and len(self._said) <= ROOM:
            self._said += content
        self._send(content)

    def _tell(self) -> None:
        """Give our side what came."""
        try:
            sent = self._ours.send(self._incoming)
        except BlockingIOError:
            return
        except OSError:
            self._gone = True
            return
        del self._incoming[:sent]

    def _read(self) -> None:
        """Take what the API server sends."""
        try:
            content = self._web.recv(ROOM)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        if not content:
            raise ConnectionResetError
        self._take(content)

    def _write(self) -> None:
        if self._ended or self._deaf:
            self._outgoing.clear()
            return
        try:
            sent = self._web.send(self._outgoing)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError:  # whether it is over, reading tells, and what was said before
            self._deaf = True
            return
        del self._outgoing[:sent]

    # -- what is said

    def _take(self, content: bytes) -> None:
        for piece in self._frames.feed(content):
            if piece.opcode == websocket.CLOSE:
                self._finish()
                return
            if piece.opcode == websocket.PING and len(self._outgoing) < ROOM:
                self._frame(websocket.PONG, piece.content)
            if piece.opcode != websocket.BINARY or piece.channel not in self._prefix:
                continue
            number = self._prefix[piece.channel]
            self._prefix[piece.channel] = max(0, number - len(piece.content))
            part = piece.content[number:]
            self._heard_at = time.monotonic()
            if piece.channel == 1:
                self._error += part[: 4096 - len(self._error)]
            elif part:
                self._heard = True
                self._incoming += part

    def _send(self, content: bytes) -> None:
        if content:
            self._frame(websocket.BINARY, b"\x00" + content)

    def _frame(self, opcode: int, content: bytes) -> None:
        self._outgoing += websocket.encode(opcode, content)
        self._sent_at = time.monotonic()

    def _finish(self) -> None:
        """The pod's side has ended, by itself or with an error."""
        self._ended = True
        if self._error:
            self.failure = shorten(" ".join(self._error.decode("utf-8", "replace").split()), 500)

    def _lost(self, error: OSError) -> None:
        if self._error:
            self._finish()
        elif not self._gone:
            said = error.strerror or "it closed the connection"
            self.failure = f"the connection to the API server was lost: {said.lower()}"


def _want(ready: selectors.BaseSelector, side: socket.socket, mask: int) -> None:
    """Register what is awaited of a socket: for nothing at all it must not be registered."""
    known = ready.get_map().get(side)
    if known is None:
        if mask:
            ready.register(side, mask)
    elif not mask:
        ready.unregister(side)
    elif known.events != mask:
        ready.modify(side, mask)
