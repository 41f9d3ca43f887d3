"""Port-forward on a real control plane (kwok leads to servers here), some of it through a relay that cuts."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runbook.actions._kube import forward, kinds
from runbook.actions._kube import tunnel as tunnels
from runbook.actions._kube import websocket as frames
from runbook.actions._kube.cluster import ForbiddenError, MissingError, connect
from runbook.actions._kube.kinds import Ref
from runbook.contract import TemporaryError
from tests.context import LocalContext
from tests.forwards import PORT, Relay, dialled, echo, exactly, left, program, sockets, start_pod
from tests.kube import Caller, opened
from tests.postgres import Postgres, postgres
from tests.testbed.plane import Plane

__all__ = ["postgres"]

pytestmark = pytest.mark.control_plane


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
    """And then it is no end: a pod that has said all looks like one that is slow, and a half is not to be the whole."""
    monkeypatch.setattr(tunnels, "PING", 0.1)  # so that it looks soon at the other one
    answer = random.Random(1).randbytes(1_000_000)
    rest = threading.Event()

    def handle(connection: socket.socket) -> None:
        assert exactly(connection, 8) == b"question"
        connection.sendall(answer)
        rest.wait(60)
        connection.sendall(b"the rest")  # this protocol cannot tell it that our side is done
        connection.recv(1)  # it ends with the connection

    def use(ctx: LocalContext) -> None:
        with forward.open_service(ctx, f"web.{space}", PORT) as at, dialled(at) as mine:
            mine.sendall(b"question")
            mine.shutdown(socket.SHUT_WR)
            assert exactly(mine, len(answer)) == answer
            monkeypatch.setattr(tunnels, "SILENCE", 0.2)
            with pytest.raises(ConnectionResetError):
                mine.recv(1)
            control_plane.until(lambda: len(left()) == 1)
            raise TemporaryError("an answer that has no end")

    told = r"^an answer that has no end \(port 8001 of pod \w+: 0.2 s of silence after the client was done"
    with program(control_plane.local(PORT), handle), caller.context() as ctx:
        with pytest.raises(TemporaryError, match=told):
            use(ctx)
        rest.set()


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
            @settings(max_examples=30, suppress_health_check=list(HealthCheck), database=None)
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


@pytest.mark.postgres
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
