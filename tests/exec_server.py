"""SIMULATED: an API server that knows pods/exec only, and runs the commands here (v5.channel.k8s.io over plain HTTP).

For what kwok's kubelet cannot show: exit statuses, the end of the input, connections that break. The Status objects are
the kubelet's own (k8s.io/apimachinery, remotecommand).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import parse_qs, urlsplit

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
Behaviour = Callable[["Peer", list[str]], None]


class Peer:
    """The server's side of one WebSocket."""

    def __init__(self, wire: socket.socket) -> None:
        self.wire = wire
        self.file = wire.makefile("rb")
        self.pongs: list[bytes] = []
        self.lock = threading.Lock()

    def send(self, opcode: int, content: bytes, *, last: bool = True) -> None:
        length = len(content)
        size = bytes([length]) if length < 126 else b"\x7e" + length.to_bytes(2, "big")
        if length >= 1 << 16:
            size = b"\x7f" + length.to_bytes(8, "big")
        with self.lock:
            self.wire.sendall(bytes([opcode | (0x80 if last else 0)]) + size + content)

    def status(self, status: dict[str, Any]) -> None:
        self.send(2, b"\x03" + json.dumps(status).encode())

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """What the client sends, unmasked; every frame must be masked (RFC 6455, 5.1)."""
        while head := self.file.read(2):
            assert head[1] & 0x80
            length = head[1] & 0x7F
            if length > 125:
                length = int.from_bytes(self.file.read(2 if length == 126 else 8), "big")
            mask, content = self.file.read(4), self.file.read(length)
            yield head[0] & 0x0F, bytes(byte ^ mask[index % 4] for index, byte in enumerate(content))

    def feed(self, stdin: IO[bytes]) -> None:
        """Give the client's input to a command, and its end."""
        with contextlib.suppress(OSError):
            for opcode, content in self.frames():
                if opcode == 10:
                    self.pongs.append(content)
                elif content[:1] == b"\xff":
                    assert content == b"\xff\x00"
                    stdin.close()
                elif opcode == 2:
                    stdin.write(content[1:])
                    stdin.flush()


def run(peer: Peer, command: list[str]) -> None:
    """Run the command as a container's runtime does."""
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)
    assert child.stdin is not None
    threading.Thread(target=peer.feed, args=(child.stdin,), daemon=True).start()
    pipes = ((1, child.stdout), (2, child.stderr))
    outputs = [threading.Thread(target=_carry, args=(peer, channel, pipe)) for channel, pipe in pipes]
    for thread in outputs:
        thread.start()
    for thread in outputs:
        thread.join()
    rc = child.wait()
    if rc == 0:
        peer.status({"metadata": {}, "status": "Success"})
    else:
        peer.status(
            {
                "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
                "message": f"command terminated with non-zero exit code: exit status {rc}",
                "details": {"causes": [{"reason": "ExitCode", "message": str(rc)}]},
            }
        )  # fmt: skip
    peer.send(8, b"\x03\xe8")


def _carry(peer: Peer, channel: int, pipe: Any) -> None:
    with contextlib.suppress(OSError):
        while piece := pipe.read(32 * 1024):
            peer.send(2, bytes([channel]) + piece)


@contextlib.contextmanager
def serving(folder: Path, behave: Behaviour = run, *, protocol: str = "v5.channel.k8s.io") -> Iterator[dict[str, str]]:
    """Serve on loopback; the environment of a caller."""

    def answer(peer: Peer) -> None:
        command, key = _asked(peer)
        proof = base64.b64encode(hashlib.sha1(key + GUID).digest())
        peer.wire.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + proof + b"\r\nSec-WebSocket-Protocol: " + protocol.encode() + b"\r\n\r\n"
        )
        behave(peer, command)

    with _listening(folder, answer) as environ:
        yield environ


@contextlib.contextmanager
def saying(folder: Path, answered: bytes, *, then_silent: bool = False) -> Iterator[dict[str, str]]:
    """Answer each request with these bytes, and close, or say no more."""
    over = threading.Event()

    def answer(peer: Peer) -> None:
        _asked(peer)
        peer.wire.sendall(answered)
        if then_silent:
            over.wait(60)

    with _listening(folder, answer) as environ:
        yield environ
        over.set()


def _asked(peer: Peer) -> tuple[list[str], bytes]:
    """Read a request: its command and its key."""
    head = [peer.file.readline()]
    while (line := peer.file.readline()) not in (b"\r\n", b""):
        head.append(line)
    fields = {name.lower(): value.strip() for name, _, value in (row.partition(b":") for row in head[1:])}
    asked = parse_qs(urlsplit(head[0].split()[1].decode()).query, keep_blank_values=True)
    return asked["command"], fields[b"sec-websocket-key"]


@contextlib.contextmanager
def _listening(folder: Path, answer: Callable[[Peer], None]) -> Iterator[dict[str, str]]:
    listener = socket.create_server(("127.0.0.1", 0))
    wires: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                wire, _ = listener.accept()
            except OSError:
                return
            wires.append(wire)
            threading.Thread(target=attend, args=(wire,), daemon=True).start()

    def attend(wire: socket.socket) -> None:
        with contextlib.suppress(OSError):
            answer(Peer(wire))
        with contextlib.suppress(OSError):
            wire.shutdown(socket.SHUT_RDWR)

    threading.Thread(target=serve, daemon=True).start()
    config = folder / "kubeconfig-exec"
    cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{listener.getsockname()[1]}"}}
    context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
    document = {
        "apiVersion": "v1", "kind": "Config", "current-context": "c", "clusters": [cluster], "contexts": [context],
        "users": [{"name": "u", "user": {"token": "t"}}],
    }  # fmt: skip
    config.write_text(json.dumps(document))
    try:
        yield {"KUBECONFIG": str(config), "HOME": str(folder), "PATH": "/usr/bin:/bin"}
    finally:
        listener.close()
        for wire in wires:
            with contextlib.suppress(OSError):
                wire.shutdown(socket.SHUT_RDWR)
