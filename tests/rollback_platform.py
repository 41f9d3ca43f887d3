"""A platform for the shipped rollbacks on a real Kubernetes control plane, and what stands in for its software.

Stood in for: the applications in the pods (kwok's pods have no containers; port-forward leads to a server here that
answers as they would) and Prometheus. Nobody is told: no keys are given.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import runbook
from runbook.runner import session
from runbook.runner.store import Store
from runbook.runner.surroundings import Real
from tests import emergency, rollbacks
from tests.kube import meaning
from tests.test_emergency_kill import Nursery
from tests.testbed import gateway
from tests.testbed.plane import Plane

SPACE = "tracktion-staging"
GREEN, BLUE = "analysis-service-green", "analysis-service-blue"
ROLLED = "tracktion.io/rolled-back-by"
DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, labels: {labels}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {labels}}}
  template:
    metadata: {{labels: {labels}}}
    spec:
      containers: [{{name: app, image: "registry.invalid/{image}", ports: [{{containerPort: {port}}}]}}]
"""
SERVICE = """
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{selector: {selector}, ports: [{{port: {port}, targetPort: {target}}}]}}
"""
ROUTE = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: analysis-service}}
spec:
  parentRefs: [{{name: gateway}}]
  rules:
    - backendRefs: [{{name: {green}, port: 80, weight: 100}}, {{name: {blue}, port: 80, weight: 0}}]
"""


class Answers(http.server.BaseHTTPRequestHandler):
    """`/health` of every service, and Prometheus's query."""

    def do_GET(self) -> None:
        """A service: well, unless this server was told that it is not."""
        self._reply(200 if self.server.well() else 503, {"status": "here"})  # type: ignore[attr-defined]

    def do_POST(self) -> None:
        """Prometheus: what this server was told of the query."""
        form = parse_qs(self.rfile.read(int(self.headers.get("content-length", 0))).decode())
        value = self.server.measured(form["query"][0])  # type: ignore[attr-defined]
        found = {"resultType": "vector", "result": [{"metric": {}, "value": [0, str(value)]}]}
        self._reply(200, {"status": "success", "data": found})

    def _reply(self, status: int, body: Any) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the library's name
        """Quiet."""


@contextlib.contextmanager
def answering(
    plane: Plane, *, well: Callable[[], bool] = lambda: True, measured: Callable[[str], float] = lambda _query: 0.1
) -> Iterator[None]:
    """The applications behind port 8000 of every pod, and Prometheus behind port 9090."""
    servers = [http.server.ThreadingHTTPServer(("127.0.0.1", plane.local(port)), Answers) for port in (8000, 9090)]
    for server in servers:
        server.well = well  # type: ignore[attr-defined]
        server.measured = measured  # type: ignore[attr-defined]
    threads = [threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            server.server_close()
            thread.join(5)


@dataclass
class Platform:
    """Two services that can be rolled back by their history, one by Helm, and one that has two colours and a route."""

    plane: Plane
    folder: Path

    @classmethod
    def install(cls, plane: Plane, folder: Path) -> Platform:
        gateway.install(plane)
        plane.kubectl("create", "namespace", SPACE)
        own = [
            cls.deployment(name, f"{{app: {name}}}", f"{name}:2.3.1") for name in ("file-watcher", "tracklist-service")
        ]
        own += [cls.deployment("prometheus", "{app: prometheus}", "prometheus:3", port=9090)]
        own += [SERVICE.format(name="prometheus", selector="{app: prometheus}", port=9090, target=9090)]
        for name, tag, replicas in ((GREEN, "2.4.0", 3), (BLUE, "2.3.1", 0)):
            labels = f"{{app: analysis-service, slot: {name.rpartition('-')[2]}}}"
            own += [cls.deployment(name, labels, f"analysis-service:{tag}", replicas=replicas)]
            own += [SERVICE.format(name=name, selector=labels, port=80, target=8000)]
        own += [ROUTE.format(green=GREEN, blue=BLUE)]
        plane.kubectl("-n", SPACE, "apply", "-f", "-", stdin="---".join(own))
        (folder / "notification/templates").mkdir(parents=True)
        text = cls.deployment(
            "notification-service", "{app: notification-service}", "notification-service:{{ .Values.tag }}"
        )
        (folder / "notification/templates/deployment.yaml").write_text(text)
        platform = cls(plane, folder)
        platform.deploy("notification-service", "2.3.1")
        platform.rest()
        for name in ("notification-service", "file-watcher", "tracklist-service"):
            platform.deploy(name, "2.4.0")
        platform.rest()
        return platform

    def deploy(self, name: str, tag: str) -> None:
        """A version as it is released: by Helm, or with a new image."""
        if name != "notification-service":
            image = f"app=registry.invalid/{name}:{tag}"
            self.plane.kubectl("-n", SPACE, "set", "image", f"deployment/{name}", image)
            return
        chart = self.folder / "notification"
        text = f"{{apiVersion: v2, name: notification, version: 1.0.0, appVersion: {tag}}}\n"
        (chart / "Chart.yaml").write_text(text)
        release = ("upgrade", "--install", "tracktion-notification-service", str(chart), "--set", f"tag={tag}")
        self.plane.helm(4, "-n", SPACE, *release, "--wait")

    def go_back(self, name: str, tag: str) -> None:
        """To an earlier version, as people do it by hand."""
        if name != "notification-service":
            self.deploy(name, tag)  # the same ReplicaSet
            return
        release = "tracktion-notification-service"
        history = json.loads(self.plane.helm(4, "-n", SPACE, "history", release, "--output", "json"))
        found = max(int(one["revision"]) for one in history if one["app_version"] == tag)
        self.plane.helm(4, "-n", SPACE, "rollback", release, str(found), "--wait")

    @staticmethod
    def deployment(name: str, labels: str, image: str, *, replicas: int = 1, port: int = 8000) -> str:
        return DEPLOYMENT.format(name=name, labels=labels, image=image, replicas=replicas, port=port)

    def remove(self) -> None:
        self.plane.kubectl("delete", "namespace", SPACE, "--timeout=90s")

    def rest(self) -> None:
        """Wait until all Deployments are rolled out."""
        for name in self.generations():
            self.plane.rolled_out(SPACE, name)

    def objects(self) -> dict[str, Any]:
        """The meaning of all that the playbooks may touch; who rolled back is left out where somebody did."""
        found = self.plane.read(SPACE, "deployments,services,httproutes")["items"]
        seen = {f"{item['kind']}/{item['metadata']['name']}": meaning(item) for item in found}
        for item in seen.values():
            if ROLLED in (item["metadata"].get("annotations") or {}):
                item["metadata"]["annotations"][ROLLED] = "a run"
        return seen

    def versions(self) -> dict[str, str]:
        """The resource version of each object: a write of any kind shows."""
        found = self.plane.read(SPACE, "deployments,services,httproutes,secrets,configmaps")["items"]
        return {f"{item['kind']}/{item['metadata']['name']}": item["metadata"]["resourceVersion"] for item in found}

    def image(self, name: str) -> str:
        item = self.plane.read(SPACE, "deployment", name)
        return str(item["spec"]["template"]["spec"]["containers"][0]["image"]).rpartition(":")[2]

    def weights(self) -> list[int]:
        """Green's and blue's."""
        rule = self.plane.read(SPACE, "httproute", "analysis-service")["spec"]["rules"][0]
        return [int(one["weight"]) for one in rule["backendRefs"]]

    def generations(self) -> dict[str, int]:
        """How often each Deployment's specification was changed."""
        found = self.plane.read(SPACE, "deployments")["items"]
        return {item["metadata"]["name"]: int(item["metadata"]["generation"]) for item in found}

    def changed(self, before: dict[str, int]) -> dict[str, int]:
        """How often each Deployment's specification was changed since `before`; those that were."""
        return {name: now - before[name] for name, now in self.generations().items() if now != before[name]}


@dataclass
class Scene:
    """Runs of one playbook against the platform, in processes that can be killed."""

    platform: Platform
    nursery: Nursery
    folder: Path
    playbook: Path
    inputs: dict[str, Any]
    number: int = 0

    def fresh(self) -> Path:
        """A home of its own for the next run."""
        self.number += 1
        folder = emergency.wipe(self.folder / f"run-{self.number}")
        (folder / "coordinates.json").write_text(json.dumps({"environ": self.platform.plane.environ(4)}))
        return folder

    def _around(self, folder: Path) -> session.World:
        return session.World(store=Store(folder / "home"), surroundings=Real(self.platform.plane.environ(4)))

    def order(self, folder: Path, what: str, at: int = 0, when: str = "after") -> dict[str, Any]:
        found: dict[str, Any] = self.nursery.order(folder, self.playbook, what, at, when, inputs=self.inputs)
        return found

    def undisturbed(self, code: int, *, but: Sequence[str] = ()) -> dict[str, Any]:
        """Plan, run once, undo what stands, and say what it came to. `but`: changes that the plan shows otherwise."""
        platform = self.platform
        platform.rest()
        before, count = platform.objects(), platform.generations()
        folder = self.fresh()
        versions = platform.versions()
        planned = runbook.plan(self.playbook, self.inputs, world=self._around(folder))
        assert platform.versions() == versions, "a plan changes nothing"
        ended = self.order(folder, "start")
        rows = {row["key"]: row for row in json.loads(planned.to_json())["rows"]}
        events = emergency.events_of(self._around(folder).store.find("last"))
        certain = rollbacks.promised(rows)
        assert len(certain) >= 2
        assert rollbacks.broken(certain, rollbacks.made(events), but) == {}, "the plan's diff is what the run changed"
        assert ended["exit"] == code, ended
        platform.rest()
        calm = {**ended, "objects": platform.objects(), "changed": platform.changed(count)}
        self._undo(folder, code, before, "undisturbed")
        return calm

    def killed_and_resumed(self, points: list[tuple[int, str]], calm: dict[str, Any]) -> int:
        """Kill at each point, resume, compare with the undisturbed run, undo, compare with what was before. Kills."""
        platform, kills = self.platform, 0
        for at, when in points:
            where = f"{when} write {at}"
            platform.rest()
            before, count = platform.objects(), platform.generations()
            folder = self.fresh()
            ended = self.order(folder, "start", at, when)
            if "signal" in ended:
                kills += 1
                ended = self.order(folder, "resume")
                if "has ended" in ended.get("message", ""):  # its end was on disk: nothing was left to resume
                    ended = {"exit": calm["exit"], "outputs": calm["outputs"]}
            assert ended["exit"] == calm["exit"], (where, ended)
            assert ended["outputs"] == calm["outputs"], where
            platform.rest()
            assert platform.objects() == calm["objects"], where
            assert platform.changed(count) == calm["changed"], f"{where}: an object was changed more or less often"
            self._undo(folder, calm["exit"], before, where)
        return kills

    def _undo(self, folder: Path, code: int, before: dict[str, Any], where: str) -> None:
        if code == 0:
            undone = self.order(folder, "undo")
            assert undone["exit"] == 0, (where, undone)
            self.platform.rest()
        assert self.platform.objects() == before, f"{where}: undo gives back what was observed"


def marked(calm: dict[str, Any], kind: str, step: str) -> int:
    """The write that put the first such event of a step on disk."""
    found: int = min(at for name, at in calm["marks"].items() if name.startswith(f"{kind} ") and f"{step}#" in name)
    return found
