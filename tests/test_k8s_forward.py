"""Port-forward on a real control plane (kwok leads to servers here), through a relay that cuts; SIMULATED servers."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import random
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websocket import ABNF

from runbook.actions import _kube_forward as forward
from runbook.actions import _kube_kinds as kinds
from runbook.actions import _kube_tunnel as tunnels
from runbook.actions import _kube_websocket as frames
from runbook.actions._kube import ForbiddenError, MissingError, connect
from runbook.actions._kube_kinds import Ref
from runbook.contract import PermanentError, TemporaryError
from runbook.sandbox import surroundings
from tests import http_server
from tests.context import LocalContext
from tests.kube import Caller, opened
from tests.postgres import Postgres, postgres
from tests.testbed.plane import Plane

__all__ = ["postgres"]

PORT = 8001
"""The pods' port; `Plane.local(PORT)` is ours."""
Handler = Callable[[socket.socket], None]


@pytest.fixture
def caller(control_plane: Plane, tmp_path: Path) -> Caller:
    return Caller(control_plane, tmp_path)


@pytest.fixture(scope="module")
def space(control_plane: Plane) -> str:
    """A namespace with a Service `web` (8001) and two pods behind it, `one` and `two`."""
    name = control_plane.namespace()
    control_plane.kubectl("-n", name, "create", "service", "clusterip", "web", f"--tcp={PORT}:{PORT}")
    for pod in ("one", "two"):
        start_pod(control_plane, name, pod)
    return name


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


@pytest.fixture
def relay(control_plane: Plane, caller: Caller) -> Iterator[Relay]:
    """The API server behind a relay, for this test's caller."""
    made = Relay(control_plane.port)
    config = caller.folder / "relayed"
    config.write_text(control_plane.kubeconfig.read_text().replace(f":{control_plane.port}", f":{made.port}"))
    caller.environ["KUBECONFIG"] = str(config)
    yield made
    made.close()


# -- many, idle, half-closed


def test_fifty_connections_at_once_through_one_forward(control_plane: Plane, caller: Caller, space: str) -> None:
    together = threading.Barrier(50, timeout=60)
    faults: list[BaseException] = []

    def handle(connection: socket.socket) -> None:
        together.wait()  # all of them are open before the first one gets a word
        echo(connection)

    def use(number: int) -> None:
        content = random.Random(number).randbytes(200_000)
        try:
            with dialled(at) as mine:
                sender = threading.Thread(target=mine.sendall, args=(content,), daemon=True)
                sender.start()
                assert exactly(mine, len(content)) == content
                sender.join()
        except BaseException as error:
            faults.append(error)

    before = sockets()
    with program(control_plane.local(PORT), handle) as taken, caller.context(seconds=120) as ctx:
        with forward.open_service(ctx, f"web.{space}", PORT) as at:
            users = [threading.Thread(target=use, args=(number,), daemon=True) for number in range(50)]
            for user in users:
                user.start()
            for user in users:
                user.join(100)
        assert not faults
        assert len(taken) == 50
    control_plane.until(lambda: not left())
    del taken
    control_plane.until(lambda: sockets() <= before)


def test_an_idle_connection_is_kept_awake(
    control_plane: Plane, caller: Caller, space: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pings: list[int] = []
    encode = frames.encode

    def counted(opcode: int, content: bytes) -> bytes:
        pings.extend([1] if opcode == frames.PING else [])
        return encode(opcode, content)

    monkeypatch.setattr(frames, "encode", counted)
    monkeypatch.setattr(tunnels, "PING", 0.05)
    with program(control_plane.local(PORT), echo), caller.context() as ctx:
        with forward.open_service(ctx, f"web.{space}", PORT) as at, dialled(at) as mine:
            mine.sendall(b"before")
            assert exactly(mine, 6) == b"before"
            control_plane.until(lambda: len(pings) >= 5)
            mine.sendall(b"after")
            assert exactly(mine, 5) == b"after"


def test_our_side_is_done_and_the_answer_still_comes(
    control_plane: Plane, caller: Caller, space: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tunnels, "SILENCE", 0.5)
    answer = random.Random(1).randbytes(1_000_000)

    def handle(connection: socket.socket) -> None:
        assert exactly(connection, 8) == b"question"
        connection.sendall(answer)
        connection.recv(1)  # this protocol cannot tell it that our side is done; it ends with the connection

    with program(control_plane.local(PORT), handle), caller.context() as ctx:
        with forward.open_service(ctx, f"web.{space}", PORT) as at, dialled(at) as mine:
            mine.sendall(b"question")
            mine.shutdown(socket.SHUT_WR)
            assert exactly(mine, len(answer)) == answer
            assert mine.recv(1) == b""  # and then it ends by itself: not before the pod was silent for a while
            control_plane.until(lambda: len(left()) == 1)


def test_more_connections_than_there_is_room_for_wait_their_turn(
    control_plane: Plane, caller: Caller, space: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "AT_ONCE", 2)
    monkeypatch.setattr(tunnels, "SILENCE", 0.1)
    with program(control_plane.local(PORT), echo) as taken, caller.context() as ctx:
        with forward.open_service(ctx, f"web.{space}", PORT) as at:
            held = [dialled(at) for _ in range(3)]
            for mine in held:
                mine.sendall(b"hello")
            assert [exactly(mine, 5) for mine in held[:2]] == [b"hello", b"hello"]
            assert len(taken) == 2
            held[0].close()
            assert exactly(held[2], 5) == b"hello"
            for mine in held:
                mine.close()


def test_a_slow_reader_costs_no_memory(control_plane: Plane, caller: Caller, space: str) -> None:
    sent = [0]

    def flood(connection: socket.socket) -> None:
        content = b"x" * 65536
        while sent[0] < 1 << 30:
            connection.sendall(content)
            sent[0] += len(content)

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    with program(control_plane.local(PORT), flood), caller.context() as ctx:
        cluster = connect(ctx, "current")
        with forward.open_pod(ctx, cluster, Ref(kinds.POD, space, "one"), PORT) as (near, tunnel):
            near.settimeout(30)
            before = resident()
            assert exactly(near, 10) == b"x" * 10
            last = -1
            while last != sent[0]:  # until the flood stands still: everybody's buffers are full
                last = sent[0]
                time.sleep(0.5)
            assert 0 < sent[0] < 1 << 28
            assert tunnel.held <= 2 * tunnels.ROOM
            assert resident() - before < 16 << 20
            assert exactly(near, 5_000_000) == b"x" * 5_000_000  # and goes on where it stood


# -- laws


@st.composite
def talks(draw: st.DrawFn) -> dict[str, Any]:
    sizes = st.lists(st.one_of(st.integers(1, 40), st.integers(1, 150_000)), max_size=6)
    return {"seed": draw(st.integers(0, 2**32)), "up": draw(sizes), "down": draw(sizes)}


def chunks(talk: dict[str, Any], way: str) -> list[bytes]:
    source = random.Random(f"{talk['seed']} {way}")
    return [source.randbytes(size) for size in talk[way]]


def test_what_goes_in_comes_out_whole_and_in_order(control_plane: Plane, caller: Caller, space: str) -> None:
    heard: dict[int, bytes] = {}

    def say(connection: socket.socket, parts: list[bytes]) -> None:
        for part in parts:
            connection.sendall(part)

    def handle(connection: socket.socket) -> None:
        (size,) = struct.unpack("!I", exactly(connection, 4))
        talk = json.loads(exactly(connection, size))
        speaker = threading.Thread(target=say, args=(connection, chunks(talk, "down")), daemon=True)
        speaker.start()
        heard[talk["number"]] = exactly(connection, sum(talk["up"]))
        speaker.join()
        connection.sendall(b"!")
        connection.recv(1)

    with program(control_plane.local(PORT), handle), caller.context(seconds=250) as ctx:
        with forward.open_service(ctx, f"web.{space}", PORT) as at:

            @given(talks())
            @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck), database=None)
            def law(talk: dict[str, Any]) -> None:
                number = len(heard)
                head = json.dumps(talk | {"number": number}).encode()
                with dialled(at) as mine:
                    speaker = threading.Thread(
                        target=say, args=(mine, [struct.pack("!I", len(head)) + head, *chunks(talk, "up")]), daemon=True
                    )
                    speaker.start()
                    down = b"".join(chunks(talk, "down"))
                    assert exactly(mine, len(down) + 1) == down + b"!"
                    speaker.join()
                assert heard[number] == b"".join(chunks(talk, "up"))

            law()


@given(
    st.lists(
        st.tuples(st.sampled_from([0, 1, 7]), st.lists(st.binary(max_size=300), min_size=1, max_size=4)), max_size=6
    ),
    st.lists(st.integers(1, 64), min_size=1, max_size=30),
    st.booleans(),
)
def test_frames_come_out_however_they_are_cut(
    messages: list[tuple[int, list[bytes]]], cuts: list[int], pinged: bool
) -> None:
    """Written by another implementation (websocket-client's), in parts, with control frames in between."""
    wire = b""
    for channel, parts in messages:
        whole = [bytes([channel]) + parts[0], *parts[1:]]
        for number, part in enumerate(whole):
            last = number == len(whole) - 1
            opcode = ABNF.OPCODE_BINARY if number == 0 else ABNF.OPCODE_CONT
            wire += ABNF(int(last), 0, 0, 0, opcode, 0, part).format()
            if pinged:
                wire += ABNF(1, 0, 0, 0, ABNF.OPCODE_PING, 0, b"still there?").format()
    reader = frames.Incoming()
    found: dict[int, bytes] = {}
    pings, at, turn = 0, 0, 0
    while at < len(wire):
        size = cuts[turn % len(cuts)]
        for piece in reader.feed(wire[at : at + size]):
            if piece.opcode == frames.PING:
                assert piece.content == b"still there?"
                pings += 1
            else:
                found[piece.channel] = found.get(piece.channel, b"") + piece.content
        at, turn = at + size, turn + 1
    wanted: dict[int, bytes] = {}
    for channel, parts in messages:
        wanted[channel] = wanted.get(channel, b"") + b"".join(parts)
    assert found == {channel: content for channel, content in wanted.items() if content}
    assert pings == (sum(len(parts) for _, parts in messages) if pinged else 0)


@given(st.binary(max_size=400), st.integers(1, 50))
def test_what_is_no_frame_is_refused_and_nothing_else_happens(content: bytes, step: int) -> None:
    reader = frames.Incoming()
    with contextlib.suppress(frames.FrameError):
        for at in range(0, len(content), step):
            for piece in reader.feed(content[at : at + step]):
                assert piece.opcode in (frames.BINARY, frames.CLOSE, frames.PING, frames.PONG)


@given(st.lists(st.binary(min_size=1, max_size=3000), max_size=5), st.data())
@settings(deadline=None, suppress_health_check=list(HealthCheck))
def test_a_part_is_never_taken_for_the_whole(parts: list[bytes], data: st.DataObject) -> None:
    """Wherever the connection breaks: all of it came and it ended well, or a beginning came and it did not."""
    wire = BEGUN + b"".join(frame(0, part) for part in parts) + CLOSED
    early, cut = sorted((data.draw(st.integers(0, len(wire))), data.draw(st.integers(0, len(wire)))))
    near, far = socket.socketpair()
    web, server = socket.socketpair()
    web.setblocking(False)
    tunnel = tunnels.Tunnel(far, frames.Upgraded(web, wire[:early]))
    thread = threading.Thread(target=tunnel.run, daemon=True)
    with near, far, server:
        thread.start()
        with contextlib.suppress(BrokenPipeError):  # it ended before
            server.sendall(wire[early:cut])
        server.close()
        thread.join(60)
        assert not thread.is_alive()
        far.close()
        near.settimeout(60)
        came = b""
        while content := near.recv(65536):
            came += content
    whole = b"".join(parts)
    assert whole.startswith(came)
    if cut == len(wire):
        assert came == whole
        assert tunnel.failure is None
    else:
        assert tunnel.failure == "the connection to the API server was lost: it closed the connection"


# -- pods that go, and connections that break


def test_a_pod_that_is_gone_is_passed_over(control_plane: Plane, caller: Caller) -> None:
    space = control_plane.namespace()
    control_plane.kubectl("-n", space, "create", "service", "clusterip", "web", f"--tcp={PORT}:{PORT}")
    for pod in ("one", "two"):
        start_pod(control_plane, space, pod)
    with program(control_plane.local(PORT), echo), caller.context() as ctx:
        with forward.open_service(ctx, f"web.{space}", PORT) as at:
            control_plane.kubectl("-n", space, "delete", "pod", "one", "--force", "--grace-period=0")
            control_plane.until(
                lambda: [pod["metadata"]["name"] for pod in control_plane.read(space, "pods")["items"]] == ["two"]
            )
            for _ in range(2):
                with dialled(at) as mine:
                    mine.sendall(b"hello")
                    assert exactly(mine, 5) == b"hello"
            (line,) = ctx.lines  # the second connection knows
            assert 'pods "one" not found' in line
            assert line.endswith("trying another pod")
            control_plane.kubectl("-n", space, "delete", "pod", "two", "--force", "--grace-period=0")
            control_plane.until(lambda: not control_plane.read(space, "pods")["items"])
            with dialled(at) as mine, pytest.raises(ConnectionResetError):
                mine.recv(1)
            assert ctx.lines[-1].startswith("cannot create pods/portforward 'two'")
        with pytest.raises(MissingError, match='pods "two" not found'):
            with forward.open_pod(ctx, connect(ctx, "current"), Ref(kinds.POD, space, "two"), PORT):
                pass


def test_nothing_listens_in_the_pod_and_another_one_is_told_the_same(
    control_plane: Plane, caller: Caller, space: str
) -> None:
    with contextlib.ExitStack() as stack, caller.context() as ctx:
        log = ctx.log

        def start(text: str) -> None:
            log(text)
            stack.enter_context(program(control_plane.local(PORT), echo))

        ctx.log = start  # type: ignore[method-assign]
        with forward.open_service(ctx, f"web.{space}", PORT) as at, dialled(at) as mine:
            mine.sendall(b"said to the first")
            assert exactly(mine, 17) == b"said to the first"
        (line,) = ctx.lines
        assert line.startswith(f"port {PORT} of pod one: ")
        assert line.endswith("connection refused; trying another pod")


def test_nothing_listens_in_any_pod(control_plane: Plane, caller: Caller, space: str) -> None:
    def use(ctx: LocalContext) -> None:
        with forward.open_service(ctx, f"web.{space}", PORT) as at, dialled(at) as mine:
            mine.sendall(b"hello")
            with pytest.raises(ConnectionResetError):
                mine.recv(1)
            control_plane.until(lambda: len(ctx.lines) == 3)
            raise TemporaryError("the client's own words")

    with caller.context() as ctx, pytest.raises(TemporaryError) as caught:
        use(ctx)
    assert caught.value.message.startswith(
        f"the client's own words (port {PORT} of pod two: error forwarding port {PORT}"
    )
    assert caught.value.message.endswith("connection refused)")
    with (
        caller.context() as ctx,
        forward.open_pod(ctx, connect(ctx, "current"), Ref(kinds.POD, space, "one"), PORT) as (
            near,
            tunnel,
        ),
    ):
        near.settimeout(30)
        assert near.recv(1) == b""
        assert tunnel.failure is not None
        assert "connection refused" in tunnel.failure
    with (
        caller.context() as ctx,
        forward.open_pod(ctx, connect(ctx, "current"), Ref(kinds.POD, space, "one"), 4711) as (
            near,
            tunnel,
        ),
    ):
        near.settimeout(30)
        assert near.recv(1) == b""
        assert tunnel.failure is not None
        assert "no forward found for port 4711" in tunnel.failure  # kwok's words


def test_a_connection_that_breaks_in_the_middle_is_an_error_and_the_next_one_works(
    control_plane: Plane, caller: Caller, space: str, relay: Relay
) -> None:
    def use(ctx: LocalContext) -> None:
        with forward.open_service(ctx, f"web.{space}", PORT) as at:
            with dialled(at) as mine:
                mine.sendall(b"hello")
                assert exactly(mine, 5) == b"hello"
                relay.cut()
                with pytest.raises(ConnectionResetError):  # not an end: what came is not the whole
                    mine.recv(1)
            with dialled(at) as mine:
                mine.sendall(b"again")
                assert exactly(mine, 5) == b"again"
            raise TemporaryError("broken off")

    lost = r"^broken off \(port 8001 of pod one: the connection to the API server"
    with program(control_plane.local(PORT), echo), caller.context() as ctx:
        with pytest.raises(TemporaryError, match=lost):
            use(ctx)
        with forward.open_pod(ctx, connect(ctx, "current"), Ref(kinds.POD, space, "one"), PORT) as (near, tunnel):
            near.settimeout(30)
            near.sendall(b"hello")
            assert exactly(near, 5) == b"hello"
            relay.cut()
            assert near.recv(1) == b""
            assert tunnel.failure is not None
            assert tunnel.failure.startswith("the connection to the API server was lost")


# -- the end


@pytest.mark.timed
def test_a_stop_cuts_everything_within_a_second(control_plane: Plane, caller: Caller, space: str, relay: Relay) -> None:
    before = sockets()

    def mute(connection: socket.socket) -> None:
        connection.recv(1)

    with program(control_plane.local(PORT), mute) as taken, caller.context() as ctx:
        with forward.open_service(ctx, f"web.{space}", PORT) as at:
            held = [dialled(at) for _ in range(20)]
            control_plane.until(lambda: len(taken) == 20)
            relay.mute = True
            held += [dialled(at) for _ in range(5)]  # these are in mid-handshake for ever
            control_plane.until(lambda: len(relay.open) >= 2 * 20 + 5)
            began = time.monotonic()
            ctx.stop()
            for mine in held:
                with contextlib.suppress(ConnectionResetError):
                    assert mine.recv(1) == b""
            control_plane.until(lambda: not left())
            assert time.monotonic() - began < 1
        for mine in held:
            mine.close()
    relay.close()
    control_plane.until(lambda: sockets() <= before)


def test_nothing_is_left_when_the_block_ends(control_plane: Plane, caller: Caller, space: str) -> None:
    before = sockets()
    with program(control_plane.local(PORT), echo), caller.context() as ctx:
        with forward.open_service(ctx, f"web.{space}", PORT) as at:
            held = [dialled(at) for _ in range(10)]
            for mine in held:
                mine.sendall(b"hello")
                assert exactly(mine, 5) == b"hello"
        assert not left()
        for mine in held:
            with contextlib.suppress(ConnectionResetError):
                assert mine.recv(1) == b""
            mine.close()
        with pytest.raises(OSError):
            dialled(at)
    control_plane.until(lambda: sockets() <= before)


@pytest.mark.parametrize(("given", "missing"), [("get", "create"), ("create", "get")])
def test_the_right_that_is_missing_is_said_to_who_connects(
    control_plane: Plane, given: str, missing: str, tmp_path: Path
) -> None:
    space = control_plane.namespace()
    control_plane.kubectl("-n", space, "create", "service", "clusterip", "web", f"--tcp={PORT}:{PORT}")
    start_pod(control_plane, space, "one")
    control_plane.allow(space, "get,list=services,pods", f"{given}=pods/portforward")

    def use(ctx: LocalContext) -> None:
        with forward.open_service(ctx, f"web.{space}", PORT) as at, dialled(at) as mine:
            with pytest.raises(ConnectionResetError):
                mine.recv(1)
            raise TemporaryError("the client's own words")

    refused = rf"^no right to {missing} pods/portforward 'one' in namespace"
    with Caller(control_plane, tmp_path, user="nobody").context() as ctx, pytest.raises(ForbiddenError, match=refused):
        use(ctx)


# -- what goes through it


def test_a_database_in_the_cluster_is_asked(
    control_plane: Plane, caller: Caller, postgres: Postgres, tmp_path: Path
) -> None:
    space = control_plane.namespace()
    control_plane.kubectl("-n", space, "create", "service", "clusterip", "web", "--tcp=5432:5432")
    start_pod(control_plane, space, "db")

    def reach(connection: socket.socket) -> None:
        with socket.create_connection((postgres.host, postgres.port)) as far:
            back = threading.Thread(target=Relay.carry, args=(far, connection), daemon=True)
            back.start()
            Relay.carry(connection, far)
            back.join()

    given = {**postgres.with_, "host": f"web.{space}.svc", "port": 5432, "via": "k8s"}
    sql = "SELECT repeat('x', 3000000) AS long, generate_series(1, 3) AS number"
    with program(control_plane.local(5432), reach):
        found = caller.read("pg.query", {**given, "sql": sql})
    assert [row["number"] for row in found["rows"]] == [1, 2, 3]
    assert {len(row["long"]) for row in found["rows"]} == {3_000_000}
    with pytest.raises(TemporaryError, match=r"port 5432 of pod db: .*connection refused\)$"):
        caller.read("pg.query", {**given, "sql": "SELECT 1"})
    nobody = Caller(control_plane, tmp_path, user="nobody")
    control_plane.allow(space, "get,list=services,pods", "get=pods/portforward")
    with nobody.context() as ctx:
        action, args = opened("pg.query", {**given, "sql": "SELECT 1"})
        assert action.preflight(args, ctx) == [
            f"no right to create pods/portforward in namespace '{space}' (to reach Service web; context 'testbed')"
        ]


def test_prometheus_in_the_cluster_is_asked(control_plane: Plane, caller: Caller, tmp_path: Path) -> None:
    space = control_plane.namespace()
    control_plane.kubectl("-n", space, "create", "service", "clusterip", "web", "--tcp=80:9090")
    start_pod(control_plane, space, "prometheus")
    answer = b'{"status": "success", "data": {"resultType": "scalar", "result": [0, "42"]}}'

    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(answer), answer))
        connection.recv(1)

    given = {"url": "http://web", "via": "k8s", "query": "up", "namespace": space}
    with program(control_plane.local(9090), serve):
        assert caller.read("prometheus.query", given)["value"] == 42
    with pytest.raises(TemporaryError, match=r"port 9090 of pod prometheus: .*connection refused\)$"):
        caller.read("prometheus.query", given)
    with Caller(control_plane, tmp_path, user="nobody").context() as ctx:
        action, args = opened("prometheus.query", given)
        assert len(action.preflight(args, ctx)) == 4  # services, pods, pods/portforward twice
        action, args = opened("prometheus.query", {**given, "namespace": ""})
        assert action.preflight(args, ctx) == ["in which namespace is Service 'web'? (write web.<namespace>)"]


def test_fifty_steps_at_once_have_a_forward_each(control_plane: Plane, caller: Caller) -> None:
    """As the parallel steps of one run: they share the connection to the API server, and nothing of their forwards."""
    space = control_plane.namespace()
    control_plane.kubectl("-n", space, "create", "service", "clusterip", "web", "--tcp=80:9090")
    start_pod(control_plane, space, "prometheus")
    together = threading.Barrier(50, timeout=50)

    def serve(connection: socket.socket) -> None:
        asked = b""
        while not re.search(rb"query=\d+%2B1", asked):
            asked += connection.recv(65536)
        number = re.search(rb"query=(\d+)", asked)
        assert number is not None
        together.wait()
        answer = b'{"status": "success", "data": {"resultType": "scalar", "result": [0, "%s"]}}' % number[1]
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(answer), answer))
        connection.recv(1)

    values: dict[int, float] = {}

    def ask(number: int) -> None:
        given = {"url": "http://web", "via": "k8s", "query": f"{number}+1", "namespace": space, "at": 0}
        action, args = opened("prometheus.query", given)
        values[number] = action.read(args, ctx)["value"]  # type: ignore[attr-defined]

    before = sockets()
    with program(control_plane.local(9090), serve), caller.context(seconds=60) as ctx:
        connect(ctx, "current")
        steps = [threading.Thread(target=ask, args=(number,), daemon=True) for number in range(50)]
        for step in steps:
            step.start()
        for step in steps:
            step.join(70)
    assert values == {number: number for number in range(50)}
    control_plane.until(lambda: not left() and sockets() <= before)


# -- SIMULATED: API servers that misbehave


def kubeconfig(folder: Path, port: int) -> LocalContext:
    """A context whose API server is a SIMULATED one, plain HTTP on loopback."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "fake", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "fake", "user": {"token": "t"}}],
        "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
        "current-context": "fake",
    }
    (folder / "fake").write_text(json.dumps(config))
    return LocalContext(folder, environ={"KUBECONFIG": str(folder / "fake"), "HOME": str(folder)})


POD = Ref(kinds.POD, "shop", "web-0")
PATH = "/api/v1/namespaces/shop/pods/web-0/portforward"


def accepted(asked: http_server.Asked, protocol: str = tunnels.PROTOCOL) -> bytes:
    key = asked.headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n"
    ).encode()


def frame(channel: int, content: bytes) -> bytes:
    return bytes(ABNF(1, 0, 0, 0, ABNF.OPCODE_BINARY, 0, bytes([channel]) + content).format())


BEGUN = frame(0, b"\x41\x1f") + frame(1, b"\x41\x1f")
CLOSED = bytes(ABNF(1, 0, 0, 0, ABNF.OPCODE_CLOSE, 0, struct.pack("!H", 1000)).format())


def closes(connection: socket.socket, asked: http_server.Asked) -> None:
    """No answer at all."""


def another_key(connection: socket.socket, asked: http_server.Asked) -> None:
    asked.headers["sec-websocket-key"] = "bm90IHRoZSBvbmUgb2ZmZXJlZA=="
    connection.sendall(accepted(asked))


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (closes, TemporaryError, "dropped the upgrade to a WebSocket: it closed the connection"),
        (http_server.reset, TemporaryError, "dropped the upgrade to a WebSocket: connection reset by peer"),
        (http_server.cut_short, PermanentError, "answered a port-forward by HTTP 200"),
        (http_server.reply(400, {"message": "Upgrade request required"}), PermanentError, "Upgrade request required"),
        (http_server.reply(503, "overloaded", Retry_After="7"), TemporaryError, "overloaded .HTTP 503."),
        (
            http_server.reply(403, {"message": "not yours"}),
            ForbiddenError,
            "no right to create pods/portforward 'web-0'",
        ),
        (another_key, PermanentError, "is no WebSocket's"),
        (lambda c, a: c.sendall(accepted(a, "v9.channel.k8s.io")), PermanentError, "speaks v9.channel.k8s.io, not v4"),
        (lambda c, a: c.sendall(b"SSH-2.0-OpenSSH_9\r\n\r\n"), PermanentError, "is no HTTP"),
    ],
    ids=["closes", "resets", "200", "400", "503", "403", "key", "protocol", "ssh"],
)
def test_an_upgrade_that_is_dropped_says_why(
    answer: Any, kind: type[TemporaryError | PermanentError], says: str, tmp_path: Path
) -> None:
    with http_server.serving() as server, kubeconfig(tmp_path, server.port) as ctx:
        server.answers[PATH] = answer
        with pytest.raises(kind, match=says) as caught:
            with forward.open_pod(ctx, connect(ctx, "current"), POD, PORT):
                pass
        (asked,) = server.asked
        assert asked.path == f"{PATH}?ports={PORT}"
        assert asked.headers["authorization"] == "Bearer t"
        if "503" in says:
            assert isinstance(caught.value, TemporaryError)
            assert caught.value.retry_after == 7
    assert not left()


@pytest.mark.timed
def test_an_upgrade_that_hangs_is_cut(tmp_path: Path) -> None:
    with http_server.serving() as server, kubeconfig(tmp_path, server.port) as ctx:
        server.answers[PATH] = http_server.drip_head
        threading.Timer(0.5, ctx.stop).start()
        began = time.monotonic()
        with pytest.raises(TemporaryError):
            with forward.open_pod(ctx, connect(ctx, "current"), POD, PORT):
                pass
        assert time.monotonic() - began < 1.5


@pytest.mark.parametrize("parts", [1, 7, 100_000])
def test_the_pod_ends_and_its_last_words_arrive(parts: int, tmp_path: Path) -> None:
    """The pod's program closes; containerd then ends the forward, which kwok does not."""
    words = random.Random(parts).randbytes(300_000)

    def serve(connection: socket.socket, asked: http_server.Asked) -> None:
        wire = accepted(asked) + BEGUN + frame(0, words) + CLOSED
        for at in range(0, len(wire), len(wire) // min(parts, 40) + 1):
            connection.sendall(wire[at : at + len(wire) // min(parts, 40) + 1])
        with contextlib.suppress(OSError):
            connection.recv(65536)

    with http_server.serving() as server, kubeconfig(tmp_path, server.port) as ctx:
        server.answers[PATH] = serve
        with forward.open_pod(ctx, connect(ctx, "current"), POD, PORT) as (near, tunnel):
            near.settimeout(30)
            assert exactly(near, len(words)) == words
            assert near.recv(1) == b""
            assert tunnel.failure is None


@pytest.mark.parametrize(
    ("wire", "says"),
    [
        (BEGUN + frame(0, b"half of i"), "the connection to the API server was lost: it closed the connection"),
        (
            BEGUN + frame(1, b"error forwarding port 8001:\n exit status 1") + CLOSED,
            "error forwarding port 8001: exit status 1",
        ),
        (BEGUN + frame(1, b"error forwarding: broken pipe"), "error forwarding: broken pipe"),
        (BEGUN + b"\xff\xff\xff\xff", "the API server does not speak WebSocket: not a frame of a server"),
    ],
    ids=["cut", "error", "error-and-cut", "garbage"],
)
def test_a_forward_that_fails_says_why(wire: bytes, says: str, tmp_path: Path) -> None:
    with http_server.serving() as server, kubeconfig(tmp_path, server.port) as ctx:
        server.answers[PATH] = lambda connection, asked: connection.sendall(accepted(asked) + wire)
        with forward.open_pod(ctx, connect(ctx, "current"), POD, PORT) as (near, tunnel):
            near.settimeout(30)
            while near.recv(100):
                pass
            assert tunnel.failure == says


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "cut"])
def test_an_answer_that_was_cut_short_is_no_answer(whole: bool, tmp_path: Path) -> None:
    """HTTP without a length: where the connection to the API server breaks, nobody may take a part for the whole."""
    labels = {"app": "web"}
    pod = {
        "metadata": {"name": "web-0", "namespace": "shop"},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    }
    deployment = {"kind": "Deployment", "metadata": {"name": "web"}, "spec": {"selector": {"matchLabels": labels}}}

    def serve(connection: socket.socket, asked: http_server.Asked) -> None:
        answer = frame(0, b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{"version": 1}')
        connection.sendall(accepted(asked) + BEGUN)
        connection.recv(65536)  # the question
        connection.sendall(answer + (CLOSED if whole else b""))

    with http_server.serving() as server, kubeconfig(tmp_path, server.port) as ctx:
        server.answers["/apis/apps/v1/namespaces/shop/deployments/web"] = http_server.reply(200, deployment)
        server.answers["/api/v1/namespaces/shop/pods"] = http_server.reply(200, {"items": [pod]})
        server.answers[PATH] = serve
        action, args = opened("k8s.http", {"namespace": "shop", "deployment": "web", "port": PORT})
        found = action.read(args, ctx)  # type: ignore[attr-defined]
    assert found["ok"] is whole, found
    assert found["json"] == ({"version": 1} if whole else None)
    lost = "the connection to the API server was lost: it closed the connection"
    assert found["pods"][0]["error"] == (None if whole else lost)


@pytest.mark.parametrize("missing", ["get", "create"])
def test_the_simulated_api_wants_the_same_rights(missing: str, tmp_path: Path) -> None:
    world = {
        "scenario": 1,
        "world": {
            "namespaces": {"shop": {"deployments": {"web": {"image": "r/web:1", "replicas": 1}}}},
            "forbidden": [{"verb": missing, "resource": "pods/portforward"}],
        },
    }
    (tmp_path / "world.yaml").write_text(json.dumps(world))
    with surroundings.start(tmp_path / "world.yaml") as sandbox:
        with LocalContext(tmp_path, environ=sandbox.environ, simulated=True) as ctx:
            cluster = connect(ctx, "current")
            (pod,) = cluster.select(ctx, Ref(kinds.POD, "shop"))
            refused = rf"^no right to {missing} pods/portforward"
            with pytest.raises(ForbiddenError, match=refused):
                with forward.open_pod(ctx, cluster, Ref(kinds.POD, "shop", pod["metadata"]["name"]), 8000):
                    pass


def test_a_pod_that_goes_away_while_it_is_asked_is_not_waited_for(tmp_path: Path) -> None:
    """Its successor is asked in its place; one that stays and gives no answer is a no."""

    def pod(name: str) -> dict[str, Any]:
        status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
        return {"metadata": {"name": name, "namespace": "shop"}, "status": status}

    def serve(connection: socket.socket, asked: http_server.Asked) -> None:
        connection.sendall(accepted(asked) + BEGUN)
        connection.recv(65536)  # the question
        connection.sendall(frame(0, b"HTTP/1.1 204 Fine\r\n\r\n") + CLOSED)

    labels = {"matchLabels": {"app": "web"}}
    deployment = {"kind": "Deployment", "metadata": {"name": "web"}, "spec": {"selector": labels}}
    lists = [{"items": [pod("a"), pod("b")]}, {"items": [pod("b"), pod("c")]}]
    with http_server.serving() as server, kubeconfig(tmp_path, server.port) as ctx:
        server.answers["/apis/apps/v1/namespaces/shop/deployments/web"] = http_server.reply(200, deployment)
        server.answers["/api/v1/namespaces/shop/pods"] = [http_server.reply(200, one) for one in lists]
        for name, answer in {
            "a": http_server.reply(404, {"message": 'pods "a" not found'}),
            "b": serve,
            "c": serve,
        }.items():
            server.answers[f"/api/v1/namespaces/shop/pods/{name}/portforward"] = answer
        action, args = opened("k8s.http", {"namespace": "shop", "deployment": "web", "port": PORT})
        found = action.read(args, ctx)  # type: ignore[attr-defined]
        assert found["ok"]
        assert [(one["name"], one["status"]) for one in found["pods"]] == [("b", 204), ("c", 204)]
        server.answers["/api/v1/namespaces/shop/pods/b/portforward"] = closes
        found = action.read(args, ctx)  # type: ignore[attr-defined]
        assert not found["ok"]
        assert [(one["name"], one["status"]) for one in found["pods"]] == [("b", 0), ("c", 204)]
