"""What tests of a port-forward need: programs that listen in pods, a relay that cuts, and what is left afterwards."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator

from tests.testbed.plane import Plane

PORT = 8001
"""The pods' port; `Plane.local(PORT)` is ours."""
Handler = Callable[[socket.socket], None]


def start_pod(plane: Plane, namespace: str, name: str) -> None:
    plane.kubectl("-n", namespace, "run", name, "--image=r/web:1", "--labels=app=web")
    plane.kubectl("-n", namespace, "wait", "--for=condition=Ready", f"pod/{name}", "--timeout=60s")


@contextlib.contextmanager
def program(port: int, handle: Handler) -> Iterator[list[socket.socket]]:
    """What listens in the pods: a thread for each connection."""
    taken: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", port), backlog=128) as listener:

        def serve(connection: socket.socket) -> None:
            with contextlib.suppress(OSError), connection:
                handle(connection)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    taken.append(connection)
                    threading.Thread(target=serve, args=(connection,), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield taken
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            for connection in taken:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            thread.join()


def echo(connection: socket.socket) -> None:
    while content := connection.recv(65536):
        connection.sendall(content)


def exactly(connection: socket.socket, size: int) -> bytes:
    content = bytearray()
    while len(content) < size:
        part = connection.recv(min(65536, size - len(content)))
        if not part:
            raise AssertionError(f"ended after {len(content)} of {size} bytes")
        content += part
    return bytes(content)


def dialled(at: tuple[str, int]) -> socket.socket:
    return socket.create_connection(at, timeout=60)


def left() -> list[str]:
    """Threads of forwards that still run."""
    return [thread.name for thread in threading.enumerate() if thread.name == "port-forward"]


def sockets() -> int:
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
    return found


class Relay:
    """Passes bytes on to the API server; `cut` resets all that is open; while `mute`, nothing is passed on."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._listener.getsockname()[1]
        self.mute = False
        self.open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def cut(self) -> None:
        for side in self.open:
            with contextlib.suppress(OSError):
                side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                side.shutdown(socket.SHUT_RDWR)
        self.open.clear()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        self._thread.join()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self.open.append(near)
                if self.mute:
                    continue
                far = socket.create_connection(("127.0.0.1", self._to))
                self.open.append(far)
                for a, b in ((near, far), (far, near)):
                    threading.Thread(target=self.carry, args=(a, b), daemon=True).start()

    @staticmethod
    def carry(a: socket.socket, b: socket.socket) -> None:
        """Bytes from one to the other until one of them ends; then both do."""
        with contextlib.suppress(OSError):
            while content := a.recv(65536):
                b.sendall(content)
        for side in (a, b):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)
