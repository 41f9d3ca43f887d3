"""k8s.wait is woken by a watch in place of looking again and again: same verdicts, sooner, and no worse for any fault.

A real API server, behind a proxy of the test's own."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runbook.contract import PermanentError, TemporaryError
from tests.context import LocalContext
from tests.kube import Caller, opened
from tests.proxy import Proxy, proxied
from tests.testbed.plane import Plane

pytestmark = pytest.mark.control_plane

WATCH = r"[?&]watch=1"


@pytest.fixture
def proxy(control_plane: Plane) -> Iterator[Proxy]:
    with proxied(control_plane) as found:
        yield found


@pytest.fixture
def caller(control_plane: Plane, proxy: Proxy, tmp_path: Path) -> Caller:
    made = Caller(control_plane, tmp_path)
    made.environ["KUBECONFIG"] = proxy.kubeconfig(tmp_path)
    return made


@pytest.fixture
def space(control_plane: Plane) -> str:
    name = control_plane.namespace()
    control_plane.kubectl("-n", name, "create", "configmap", "flag")
    return name


def look(ctx: LocalContext, given: dict[str, Any]) -> bool:
    action, args = opened("k8s.wait", given)
    outputs = action.read(args, ctx)  # type: ignore[attr-defined]
    return bool(outputs["ok"])


def gone(space: str) -> dict[str, Any]:
    return {"namespace": space, "kind": "configmap", "name": "flag", "for": "deleted"}


class Meanwhile:
    """Does something as soon as a condition holds, while the test waits."""

    def __init__(self, holds: Any, act: Any) -> None:
        self._thread = threading.Thread(target=self._go, args=(holds, act), daemon=True)
        self._thread.start()

    @staticmethod
    def _go(holds: Any, act: Any) -> None:
        Plane.until(holds)
        act()

    def over(self) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive()


def test_a_second_look_is_woken_by_the_change(control_plane: Plane, proxy: Proxy, caller: Caller, space: str) -> None:
    with caller.context() as ctx:
        assert not look(ctx, gone(space)), "the first look says at once how it is"
        assert proxy.count("GET", WATCH) == 0
        deleted = Meanwhile(
            lambda: proxy.count("GET", WATCH) == 1,
            lambda: control_plane.kubectl("-n", space, "delete", "configmap", "flag"),
        )
        assert look(ctx, gone(space)), "it waited for it"
        deleted.over()
    assert proxy.count("GET", "/configmaps/flag") <= 5, "not by asking again and again"


@pytest.mark.parametrize("wanted", ["rollout", "available", "replicas=3", "endpoints", "condition=Available"])
def test_every_kind_of_wait_sees_it_come(
    wanted: str, control_plane: Plane, proxy: Proxy, caller: Caller, space: str
) -> None:
    control_plane.deployment(space, "web", "r/web:1", replicas=0)
    control_plane.kubectl("-n", space, "expose", "deployment", "web", "--port=80")
    stuck = {"spec": {"template": {"spec": {"nodeSelector": {"there": "not-yet"}}}}}
    control_plane.kubectl("-n", space, "patch", "deployment", "web", "-p", json.dumps(stuck))
    control_plane.kubectl("-n", space, "scale", "deployment", "web", "--replicas=3")
    kind = "service" if wanted == "endpoints" else "deployment"
    given = {"namespace": space, "kind": kind, "name": "web", "for": wanted}
    control_plane.until(
        lambda: control_plane.read(space, "deployment", "web")["status"].get("unavailableReplicas") == 3
    )
    free = json.dumps([{"op": "remove", "path": "/spec/template/spec/nodeSelector"}])

    def release() -> None:
        control_plane.kubectl("-n", space, "patch", "deployment", "web", "--type=json", "-p", free)

    with caller.context(seconds=40.0) as ctx:
        if wanted == "replicas=3":  # they are there, all of them, though none runs: a fourth one comes
            given["for"] = "replicas=4"
            free = json.dumps([{"op": "replace", "path": "/spec/replicas", "value": 4}])
        assert not look(ctx, given)
        released = Meanwhile(lambda: proxy.count("GET", WATCH) > 0, release)
        assert look(ctx, given)
        released.over()


def test_a_roll_out_that_fails_ends_the_wait_while_it_watches(
    control_plane: Plane, proxy: Proxy, caller: Caller, space: str
) -> None:
    control_plane.deployment(space, "web", "r/web:1")
    stuck = {"spec": {"template": {"spec": {"nodeSelector": {"there": "never"}}}}}
    control_plane.kubectl("-n", space, "patch", "deployment", "web", "-p", json.dumps(stuck))
    given = {"namespace": space, "kind": "deployment", "name": "web", "for": "rollout"}
    with caller.context() as ctx:
        assert not look(ctx, given)
        paused = Meanwhile(
            lambda: proxy.count("GET", WATCH) > 0,
            lambda: control_plane.kubectl("-n", space, "rollout", "pause", "deployment/web"),
        )
        with pytest.raises(PermanentError, match="paused"):
            look(ctx, given)
        paused.over()


# -- faults of the watch


def test_a_version_that_is_too_old_is_listed_again(
    control_plane: Plane, proxy: Proxy, caller: Caller, space: str
) -> None:
    def expired(client: socket.socket, path: str, answer: bytes) -> None:
        # SIMULATED: as the API server ends a watch from a version that it has compacted (five minutes later).
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410}
        line = json.dumps({"type": "ERROR", "object": status}) + "\n"
        client.sendall(f"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{line}".encode())

    proxy.fault("GET", WATCH, expired)
    with caller.context() as ctx:
        assert not look(ctx, gone(space))
        deleted = Meanwhile(
            lambda: proxy.count("GET", WATCH) == 2,
            lambda: control_plane.kubectl("-n", space, "delete", "configmap", "flag"),
        )
        assert look(ctx, gone(space))
        deleted.over()
    assert proxy.count("GET", r"[?&]limit=1(&|$)") == 2


def test_a_watch_goes_on_from_its_bookmark(control_plane: Plane, proxy: Proxy, caller: Caller, space: str) -> None:
    marks: list[str] = []

    def marked(client: socket.socket, path: str, answer: bytes) -> None:
        # SIMULATED: a bookmark comes once a minute.
        control_plane.kubectl("-n", space, "create", "configmap", "later")
        metadata = control_plane.read(space, "configmap", "later")["metadata"]
        marks.append(metadata["resourceVersion"])
        event = {"type": "BOOKMARK", "object": {"kind": "ConfigMap", "metadata": {"resourceVersion": marks[0]}}}
        client.sendall(f"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{json.dumps(event)}\n".encode())

    proxy.fault("GET", WATCH, marked)
    with caller.context() as ctx:
        assert not look(ctx, gone(space))
        deleted = Meanwhile(
            lambda: proxy.count("GET", WATCH) == 2,
            lambda: control_plane.kubectl("-n", space, "delete", "configmap", "flag"),
        )
        assert look(ctx, gone(space))
        deleted.over()
    assert proxy.count("GET", rf"{WATCH}.*resourceVersion={marks[0]}(&|$)") == 1
    assert proxy.count("GET", WATCH + ".*allowWatchBookmarks=true") == 2


@pytest.mark.parametrize("fault", ["reset", "refuse"])
def test_a_watch_that_breaks_is_opened_again(
    fault: str, control_plane: Plane, proxy: Proxy, caller: Caller, space: str
) -> None:
    proxy.fault("GET", WATCH, fault, times=2)
    with caller.context() as ctx:
        assert not look(ctx, gone(space))
        deleted = Meanwhile(
            lambda: proxy.count("GET", WATCH) == 3,
            lambda: control_plane.kubectl("-n", space, "delete", "configmap", "flag"),
        )
        assert look(ctx, gone(space))
        deleted.over()


def test_who_may_not_watch_polls(control_plane: Plane, space: str, tmp_path: Path) -> None:
    control_plane.allow(space, "get=configmaps")
    nobody = Caller(control_plane, tmp_path, user="nobody")
    with nobody.context() as ctx:
        for _ in range(3):
            assert not look(ctx, gone(space))
        control_plane.kubectl("-n", space, "delete", "configmap", "flag")
        assert look(ctx, gone(space))


@pytest.mark.timed
def test_a_watch_says_what_it_saw_before_its_attempt_ends(proxy: Proxy, caller: Caller, space: str) -> None:
    with caller.context(seconds=5.0) as ctx:
        assert not look(ctx, gone(space))
        began = time.monotonic()
        assert not look(ctx, gone(space))
        assert 2.0 < time.monotonic() - began < 4.8
    assert proxy.count("GET", WATCH) == 1


@pytest.mark.timed
def test_a_cancel_ends_a_watch_at_once(proxy: Proxy, caller: Caller, space: str) -> None:
    with caller.context() as ctx:
        assert not look(ctx, gone(space))
        stopped: list[float] = []

        def stop() -> None:
            stopped.append(time.monotonic())
            ctx.stop()

        stopping = Meanwhile(lambda: proxy.count("GET", WATCH) == 1, stop)
        with pytest.raises(TemporaryError):
            look(ctx, gone(space))
        assert time.monotonic() - stopped[0] < 1.0
        stopping.over()
