"""Reads and checks of family k8s on a real control plane, port-forward, and the deadline."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runbook.actions._kube.cluster import read_secret
from runbook.actions._kube.forward import open_service
from runbook.contract import PermanentError, Sensitive, TemporaryError
from tests.kube import Caller, opened
from tests.test_k8s_change import custom_definition, service
from tests.testbed.plane import Plane

pytestmark = pytest.mark.control_plane


@pytest.fixture
def caller(control_plane: Plane, tmp_path: Path) -> Caller:
    return Caller(control_plane, tmp_path)


@pytest.fixture
def space(control_plane: Plane) -> str:
    return control_plane.namespace()


# -- k8s.get


def test_get_in_every_spelling(control_plane: Plane, caller: Caller, space: str) -> None:
    control_plane.deployment(space, "web", "r/web:1", wait=False)
    for kind in (
        "deployment",
        "Deployment",
        "deployments",
        "deploy",
        "DEPLOYMENT",
        "deployments.apps",
        "deployment.v1.apps",
    ):
        found = caller.read("k8s.get", {"namespace": space, "kind": kind, "name": "web"})
        assert found["found"], kind
        assert found["object"]["kind"] == "Deployment"
        assert found["object"]["apiVersion"] == "apps/v1"
        assert "managedFields" not in found["object"]["metadata"]
    for kind in ("pdb", "PodDisruptionBudget", "ingress", "netpol", "cronjob", "storageclass"):  # by discovery
        assert caller.read("k8s.get", {"namespace": space, "kind": kind}) == {
            "found": False, "object": None, "objects": [],
        }  # fmt: skip


def test_get_many_and_none(control_plane: Plane, caller: Caller, space: str) -> None:
    for name in ("b", "a"):
        control_plane.kubectl("-n", space, "create", "configmap", name)
        control_plane.kubectl("-n", space, "label", "configmap", name, f"name={name}", "tier=x")
    found = caller.read("k8s.get", {"namespace": space, "kind": "cm", "selector": "tier=x"})
    assert [entry["metadata"]["name"] for entry in found["objects"]] == ["a", "b"]
    assert found["object"] is None
    assert {entry["kind"] for entry in found["objects"]} == {"ConfigMap"}
    one = caller.read("k8s.get", {"namespace": space, "kind": "cm", "selector": "name in (a)"})
    assert one["object"]["metadata"]["name"] == "a"
    gone = {"namespace": space, "kind": "cm", "name": "c"}
    assert caller.read("k8s.get", {**gone, "optional": True}) == {"found": False, "object": None, "objects": []}
    with pytest.raises(PermanentError, match='configmaps "c" not found'):
        caller.read("k8s.get", gone)


def test_more_objects_than_one_page(control_plane: Plane, caller: Caller, space: str) -> None:
    documents = [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"c{number:04}"}} for number in range(520)
    ]
    control_plane.kubectl(
        "-n", space, "create", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": documents})
    )
    found = caller.read("k8s.get", {"namespace": space, "kind": "configmap"})
    assert len(found["objects"]) == 520


def test_what_a_secret_holds_is_sensitive(control_plane: Plane, caller: Caller, space: str) -> None:
    document = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "db"},
        "stringData": {"password": "canary-pass"},
    }
    control_plane.kubectl("-n", space, "apply", "-f", "-", stdin=json.dumps(document))
    found = caller.read("k8s.get", {"namespace": space, "kind": "secret", "name": "db"})["object"]
    assert isinstance(found["data"]["password"], Sensitive)
    applied = found["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"]
    assert isinstance(applied, Sensitive)
    assert "canary-pass" not in repr(found)


def test_the_resolver_of_secrets(control_plane: Plane, space: str) -> None:
    control_plane.kubectl("-n", space, "create", "secret", "generic", "db", "--from-literal=password=päss")
    environ = control_plane.environ()
    assert read_secret(environ, "current", space, "db", "password") == "päss"
    assert read_secret(environ, "testbed", space, "db", "other") is None
    assert read_secret(environ, "current", space, "nope", "password") is None
    with pytest.raises(PermanentError, match=f"no right to get secrets 'db' in namespace '{space}'"):
        read_secret(control_plane.environ(user="nobody"), "current", space, "db", "password")


# -- k8s.status


def test_status_counts_what_serves(control_plane: Plane, caller: Caller, space: str) -> None:
    control_plane.deployment(space, "web", "r/web:1")
    control_plane.deployment(space, "idle", "r/idle:1", replicas=0)
    found = caller.read("k8s.status", {"namespace": space, "names": ["web", "idle", "gone"]})
    web, idle, gone = found["workloads"]
    assert web == {
        "name": "web", "labels": {"app": "web"}, "found": True, "desired": 2, "ready": 2, "updated": 2, "available": 2,
        "images": ["r/web:1"], "revision": 1,
    }  # fmt: skip
    assert (idle["found"], idle["desired"], idle["ready"]) == (True, 0, 0)
    assert gone == {
        "name": "gone", "labels": {}, "found": False, "desired": 0, "ready": 0, "updated": 0, "available": 0,
        "images": [], "revision": None,
    }  # fmt: skip
    assert (found["total"], found["ready_count"], found["degraded"], found["all_ready"]) == (
        3,
        1,
        ["idle", "gone"],
        False,
    )
    selected = caller.read("k8s.status", {"namespace": space, "selector": "app=web"})
    assert (selected["total"], selected["all_ready"]) == (1, True)
    none = caller.read("k8s.status", {"namespace": space, "selector": "app=nothing"})
    assert (none["total"], none["all_ready"]) == (0, False)


# -- k8s.wait


def test_wait_sees_it_when_it_is_so(control_plane: Plane, caller: Caller, space: str) -> None:
    service(control_plane, space, app="web")
    web = {"namespace": space, "kind": "deployment", "name": "web"}
    traffic = {"namespace": space, "kind": "service", "name": "web", "for": "endpoints"}
    assert not caller.read("k8s.wait", traffic)["ok"]
    control_plane.deployment(space, "web", "r/web:1", wait=False)
    for wanted in ("rollout", "available", "replicas=2", "condition=Available", "condition=progressing=True"):
        control_plane.until(lambda wanted=wanted: caller.read("k8s.wait", {**web, "for": wanted})["ok"])  # type: ignore[misc]
    control_plane.until(lambda: caller.read("k8s.wait", traffic)["ok"])
    control_plane.kubectl("-n", space, "patch", "service", "web", "-p", '{"spec":{"selector":{"app":"other"}}}')
    control_plane.until(lambda: not caller.read("k8s.wait", traffic)["ok"])
    control_plane.kubectl("-n", space, "scale", "deployment", "web", "--replicas=0")
    control_plane.until(lambda: caller.read("k8s.wait", {**web, "for": "replicas=0"})["ok"])
    assert not caller.read("k8s.wait", {**web, "for": "deleted"})["ok"]
    control_plane.kubectl("-n", space, "delete", "deployment", "web")
    assert caller.read("k8s.wait", {**web, "for": "deleted"})["ok"]
    with pytest.raises(PermanentError, match="not found"):
        caller.read("k8s.wait", {**web, "for": "rollout"})


def test_replicas_counts_pods_that_are_on_their_way_out(control_plane: Plane, caller: Caller, space: str) -> None:
    control_plane.deployment(space, "web", "r/web:1", replicas=1)
    (pod,) = control_plane.read(space, "pods")["items"]
    name = pod["metadata"]["name"]
    hold = json.dumps({"metadata": {"finalizers": ["runbook.example/hold"]}})
    control_plane.kubectl("-n", space, "patch", "pod", name, "--type=merge", "-p", hold)
    control_plane.kubectl("-n", space, "scale", "deployment", "web", "--replicas=0")
    web = {"namespace": space, "kind": "deployment", "name": "web", "for": "replicas=0"}
    control_plane.until(lambda: control_plane.read(space, "deployment", "web")["status"].get("replicas", 0) == 0)
    assert not caller.read("k8s.wait", web)["ok"]  # it may still write
    control_plane.kubectl("-n", space, "patch", "pod", name, "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
    control_plane.until(lambda: caller.read("k8s.wait", web)["ok"])


def test_a_roll_out_that_cannot_end_ends_the_wait(control_plane: Plane, caller: Caller, space: str) -> None:
    control_plane.deployment(space, "web", "r/web:1")
    web = {"namespace": space, "kind": "deployment", "name": "web", "for": "rollout"}
    control_plane.kubectl("-n", space, "rollout", "pause", "deployment/web")
    with pytest.raises(PermanentError, match="the roll-out is paused"):
        caller.read("k8s.wait", web)
    control_plane.kubectl("-n", space, "rollout", "resume", "deployment/web")
    stuck = {
        "spec": {
            "progressDeadlineSeconds": 1,
            "template": {"spec": {"nodeSelector": {"no": "such-node"}}},
        }
    }
    control_plane.kubectl("-n", space, "patch", "deployment", "web", "-p", json.dumps(stuck))

    def over() -> bool:
        try:
            assert not caller.read("k8s.wait", web)["ok"]
        except PermanentError as error:
            return "ProgressDeadlineExceeded" in error.message
        return False

    control_plane.until(over)


def test_wait_refuses_what_it_does_not_know(caller: Caller, space: str) -> None:
    with pytest.raises(PermanentError, match="for: "):
        caller.read("k8s.wait", {"namespace": space, "kind": "deployment", "name": "web", "for": "happiness"})
    with pytest.raises(PermanentError, match="endpoints belong to a Service"):
        caller.read("k8s.wait", {"namespace": space, "kind": "deployment", "name": "web", "for": "endpoints"})


# -- k8s.http, port-forward


@contextlib.contextmanager
def answering(port: int, *answers: tuple[int, str] | float) -> Iterator[list[str]]:
    """A local server on a forwarded port: one answer after another, the last one for good; a number: silent so long."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = answers[min(len(asked), len(answers) - 1)]
            asked.append(self.path)
            if isinstance(answer, float):
                with contextlib.suppress(OSError):
                    for _ in range(int(answer * 10)):
                        time.sleep(0.1)
                        self.wfile.write(b"H")  # an answer that drips
                return
            body = answer[1].encode()
            self.send_response(answer[0])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_http_asks_every_ready_pod(control_plane: Plane, caller: Caller, space: str) -> None:
    control_plane.deployment(space, "web", "r/web:1", replicas=3)
    given = {"namespace": space, "deployment": "web", "port": 8000, "path": "/health?full=1"}
    with answering(control_plane.local(8000), (200, '{"version": "1"}')) as asked:
        found = caller.read("k8s.http", given)
    assert found["ok"]
    assert [pod["status"] for pod in found["pods"]] == [200, 200, 200]
    assert found["json"] == {"version": "1"}
    assert asked == ["/health?full=1"] * 3
    assert found["elapsed"] == max(pod["elapsed"] for pod in found["pods"])
    with answering(control_plane.local(8000), (200, "fine"), (200, "fine"), (503, '{"why": "sick"}')):
        found = caller.read("k8s.http", given)
    assert not found["ok"]
    assert sorted(pod["status"] for pod in found["pods"]) == [200, 200, 503]
    assert re.fullmatch("web-[a-z0-9-]+: 503", found["message"])
    gone = caller.read("k8s.http", given)  # nobody listens
    assert not gone["ok"]
    assert [pod["status"] for pod in gone["pods"]] == [0, 0, 0]
    assert all(pod["error"] for pod in gone["pods"])


def test_http_by_service_goes_to_the_target_port(control_plane: Plane, caller: Caller, space: str) -> None:
    service(control_plane, space, app="web")  # 80 -> 8080
    control_plane.deployment(space, "web", "r/web:1", replicas=1)
    with answering(control_plane.local(8080), (204, "")):
        assert caller.read("k8s.http", {"namespace": space, "service": "web", "port": 80})["ok"]
    with pytest.raises(PermanentError, match=r"Service web has no port 81 \(it has 80\)"):
        caller.read("k8s.http", {"namespace": space, "service": "web", "port": 81})


def test_http_without_a_ready_pod_is_a_no(control_plane: Plane, caller: Caller, space: str) -> None:
    control_plane.deployment(space, "web", "r/web:1", replicas=0)
    found = caller.read("k8s.http", {"namespace": space, "deployment": "web", "port": 8000})
    assert not found["ok"]
    assert (found["elapsed"], found["pods"], found["json"]) == (0.0, [], None)
    assert re.fullmatch("no pod of [Dd]eployment.*web.* is ready", found["message"])


@pytest.mark.timed
def test_http_gives_each_pod_its_time_and_no_more(control_plane: Plane, caller: Caller, space: str) -> None:
    control_plane.deployment(space, "web", "r/web:1", replicas=2)
    given = {"namespace": space, "deployment": "web", "port": 8000, "each": "500ms"}
    with answering(control_plane.local(8000), 5.0):
        began = time.monotonic()
        found = caller.read("k8s.http", given)
        assert time.monotonic() - began < 1.5
    assert not found["ok"]
    assert all("no answer within 0.5s" in pod["error"] for pod in found["pods"])


def test_a_service_as_a_local_socket(control_plane: Plane, caller: Caller, space: str) -> None:
    service(control_plane, space, app="web")
    control_plane.deployment(space, "web", "r/web:1", replicas=1)
    large = "x" * 3_000_000
    with answering(control_plane.local(8080), (200, large)), caller.context() as ctx:
        with open_service(ctx, f"web.{space}.svc.cluster.local", 80) as (host, port):
            for _ in range(3):
                connection = http.client.HTTPConnection(host, port, timeout=10)
                connection.request("GET", "/", headers={"X-Long": "y" * 30_000})
                assert connection.getresponse().read().decode() == large
                connection.close()
        with pytest.raises(OSError):
            socket.create_connection((host, port), timeout=1)
    with caller.context() as ctx, pytest.raises(PermanentError, match="in which namespace"):
        with open_service(ctx, "web", 80):
            pass
    control_plane.kubectl("-n", space, "scale", "deployment", "web", "--replicas=0")
    control_plane.until(lambda: not control_plane.read(space, "pods")["items"])
    with caller.context() as ctx, pytest.raises(TemporaryError, match="no pod of Service web"):
        with open_service(ctx, "web", 80, namespace=space):
            pass


def test_port_forward_without_the_right_says_so(control_plane: Plane, space: str, tmp_path: Path) -> None:
    control_plane.deployment(space, "web", "r/web:1", replicas=1)
    control_plane.allow(space, "get,list=deployments.apps,pods")
    nobody = Caller(control_plane, tmp_path, user="nobody")
    given = {"namespace": space, "deployment": "web", "port": 8000}
    (pod,) = nobody.read("k8s.http", given)["pods"]
    assert pod["error"].startswith("no right to get pods/portforward ")
    with nobody.context() as ctx:
        action, args = opened("k8s.http", given)
        assert action.preflight(args, ctx) == [
            f"no right to {verb} pods/portforward in namespace '{space}' (context 'testbed')"
            for verb in ("get", "create")
        ]


@pytest.mark.timed
def test_everything_is_cut_at_the_deadline(control_plane: Plane, caller: Caller, space: str) -> None:
    control_plane.deployment(space, "web", "r/web:1", replicas=1)
    with answering(control_plane.local(8000), 30.0):
        began = time.monotonic()
        given = {"namespace": space, "deployment": "web", "port": 8000, "each": "20s"}
        assert not caller.read("k8s.http", given, seconds=1.0)[
            "ok"
        ]  # a verdict just before the deadline is better than none
        assert time.monotonic() - began < 2.0


@pytest.mark.timed
def test_an_api_that_drips_is_cut_at_the_deadline(control_plane: Plane, tmp_path: Path) -> None:
    with answering(control_plane.local(9090), 30.0):
        kubeconfig = tmp_path / "kubeconfig"
        plain = control_plane.kubeconfig.read_text().replace(
            f"https://127.0.0.1:{control_plane.port}", f"http://127.0.0.1:{control_plane.local(9090)}"
        )
        kubeconfig.write_text(plain)
        caller = Caller(control_plane, tmp_path)
        caller.environ["KUBECONFIG"] = str(kubeconfig)
        began = time.monotonic()
        with pytest.raises(TemporaryError):
            caller.read("k8s.get", {"namespace": "default", "kind": "pod"}, seconds=1.0)
        assert time.monotonic() - began < 2.0


# -- k8s.logs


def test_logs_go_into_a_private_file_of_the_run(control_plane: Plane, caller: Caller, space: str) -> None:
    control_plane.deployment(space, "web", "r/web:1", replicas=2)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    (control_plane.folder / "pod.log").write_text("".join(f"{stamp} stdout F line {number}\n" for number in range(100)))
    given = {"namespace": space, "selector": "app=web"}
    found = caller.read("k8s.logs", given)
    path = Path(found["path"])
    assert path.parent == caller.folder
    assert path.stat().st_mode & 0o777 == 0o600
    text = path.read_text()
    assert found["bytes"] == len(text.encode())
    assert text.count("line 99") == 2
    assert text.count("==> web-") == 2
    old = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 7200))
    with (control_plane.folder / "pod.log").open("r+") as file:
        rest = file.read()
        file.seek(0)
        file.write(f"{old} stdout F two hours ago\n{rest}")
    assert "two hours ago" not in Path(caller.read("k8s.logs", given)["path"]).read_text()
    assert "two hours ago" in Path(caller.read("k8s.logs", {**given, "since": "3h"})["path"]).read_text()
    small = caller.read("k8s.logs", {**given, "max_bytes": 600})
    assert small["bytes"] <= 600
    assert Path(small["path"]).read_text().count("==> web-") == 2


# -- histories


@pytest.mark.parametrize("kind", ["statefulset", "daemonset"])
def test_history_of_controller_revisions(kind: str, control_plane: Plane, caller: Caller, space: str) -> None:
    from tests.test_k8s_change import workload

    control_plane.kubectl("-n", space, "apply", "-f", "-", stdin=json.dumps(workload(kind)))
    control_plane.kubectl("-n", space, "rollout", "status", f"{kind}/web", "--timeout=60s")
    control_plane.kubectl("-n", space, "set", "image", f"{kind}/web", "web=r/web:2")
    control_plane.kubectl("-n", space, "rollout", "status", f"{kind}/web", "--timeout=60s")
    found = caller.read("k8s.history", {"namespace": space, "kind": kind, "name": "web"})
    assert [entry["images"] for entry in found["revisions"]] == [["r/web:1"], ["r/web:2"]]
    assert found["current"]["revision"] == 2
    assert found["target"]["revision"] == 1


def test_kinds_of_custom_resources(control_plane: Plane, caller: Caller, space: str) -> None:
    group = f"{space}.example"
    control_plane.kubectl("apply", "-f", "-", stdin=json.dumps(custom_definition(group)))

    def served() -> bool:
        try:
            return not caller.read("k8s.get", {"namespace": space, "kind": f"routes.{group}"})["found"]
        except PermanentError:
            return False

    control_plane.until(served)
    assert not caller.read("k8s.get", {"namespace": space, "kind": f"rt.{group}"})["found"]
    control_plane.kubectl("apply", "-f", "-", stdin=json.dumps(custom_definition(f"other.{group}")))

    def ambiguous() -> bool:
        try:
            caller.read("k8s.get", {"namespace": space, "kind": "rt"})
        except PermanentError as error:
            return f"routes.other.{group}" in error.message and f" routes.{group}" in error.message
        return False

    control_plane.until(ambiguous)
