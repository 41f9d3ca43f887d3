"""Port-forward: laws of its frames, and SIMULATED API servers that misbehave as no test can make a real one do."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import random
import socket
import struct
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websocket import ABNF

from runbook.actions._kube import forward, kinds
from runbook.actions._kube import tunnel as tunnels
from runbook.actions._kube import websocket as frames
from runbook.actions._kube.cluster import ForbiddenError, connect
from runbook.actions._kube.kinds import Ref
from runbook.contract import PermanentError, TemporaryError
from runbook.sandbox import surroundings
from tests import http_server
from tests.context import LocalContext
from tests.forwards import PORT, exactly, left
from tests.kube import opened


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


# -- frames


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
@settings(suppress_health_check=list(HealthCheck))
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


# -- upgrades, and forwards


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


@pytest.mark.parametrize("done", [False, True], ids=["open", "half-closed"])
@pytest.mark.parametrize("parts", [1, 7, 100_000])
def test_the_pod_ends_and_its_last_words_arrive(parts: int, done: bool, tmp_path: Path) -> None:
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
            if done:
                near.shutdown(socket.SHUT_WR)
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
