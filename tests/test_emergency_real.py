"""The emergency rollback on a real Kubernetes control plane, with real Helm and PostgreSQL; kills, resume and undo.

What is stood in for: the applications in the pods (kwok's pods have no containers; port-forward leads to a server here
that answers as they would), Prometheus, and nobody is told (no keys are given).
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import runbook
from runbook.runner import session
from runbook.runner.store import Store
from runbook.runner.surroundings import Real
from tests import emergency, rollbacks
from tests.kube import meaning
from tests.postgres import PASSWORD, Postgres, postgres
from tests.rollback_platform import SERVICE, answering, marked
from tests.test_emergency_kill import Nursery
from tests.testbed.plane import Plane

__all__ = ["postgres"]  # a fixture

pytestmark = [pytest.mark.control_plane, pytest.mark.slow]

SPACE = emergency.SPACE
DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {app}-{slot}, labels: {{app: {app}, slot: {slot}}}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {app}, slot: {slot}}}}}
  template:
    metadata: {{labels: {{app: {app}, slot: {slot}}}}}
    spec:
      containers: [{{name: app, image: "registry.invalid/{app}:{tag}", ports: [{{containerPort: {port}}}]}}]
"""

# -- what stands in for the applications


@contextlib.contextmanager
def relaying(port: int, target: int) -> Iterator[None]:
    """What comes to one port goes to another: kwok's port-forward knows only fixed ports."""
    listener = socket.create_server(("127.0.0.1", port))

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while content := source.recv(65536):
                sink.sendall(content)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", target))
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


# -- the platform


@dataclass
class Platform:
    """Tracktion in its namespace: green is live and of a Helm release, blue stands by."""

    plane: Plane
    helm: int
    folder: Path

    @classmethod
    def install(cls, plane: Plane, helm: int, folder: Path, postgres: Postgres) -> Platform:
        platform = cls(plane, helm, folder)
        plane.kubectl("create", "namespace", SPACE)
        chart = folder / "tracktion"
        (chart / "templates").mkdir(parents=True)
        (chart / "Chart.yaml").write_text("{apiVersion: v2, name: tracktion, version: 1.4.0, appVersion: 2.4.0}\n")
        owned = [cls._deployment(app, "green", "{{ .Values.tag }}", 2) for app in emergency.SERVICES]
        (chart / "templates/green.yaml").write_text("---".join(owned))
        own = [cls._deployment(app, "blue", "2.3.1", 1) for app in emergency.SERVICES]
        own += [DEPLOYMENT.format(app="prometheus", slot="none", replicas=1, tag="3", port=9090)]
        own += [DEPLOYMENT.format(app="postgres", slot="none", replicas=1, tag="17", port=5432)]
        own += [SERVICE.format(name="tracktion", selector="{slot: green}", port=80, target=8000)]
        own += [SERVICE.format(name="prometheus", selector="{app: prometheus}", port=9090, target=9090)]
        own += [SERVICE.format(name="postgres", selector="{app: postgres}", port=5432, target=5432)]
        plane.kubectl("-n", SPACE, "apply", "-f", "-", stdin="---".join(own))
        url = f"postgresql://postgres:{PASSWORD}@postgres.{SPACE}:5432/postgres"
        plane.kubectl("-n", SPACE, "create", "secret", "generic", "db-credentials", f"--from-literal=url={url}")
        for tag in ("2.2.0", "2.3.0", "2.4.0"):
            plane.helm(
                helm, "-n", SPACE, "upgrade", "--install", "tracktion", str(chart), "--set", f"tag={tag}", "--wait"
            )
        platform.rest()
        return platform

    @staticmethod
    def _deployment(app: str, slot: str, tag: str, replicas: int) -> str:
        return DEPLOYMENT.format(app=app, slot=slot, tag=tag, replicas=replicas, port=8000)

    def rest(self) -> None:
        """Wait until all Deployments are rolled out."""
        self.plane.kubectl("-n", SPACE, "wait", "deployment", "--all", "--for=condition=Available", "--timeout=60s")
        for app in emergency.SERVICES:
            self.plane.rolled_out(SPACE, f"{app}-green")

    def remove(self) -> None:
        self.plane.kubectl("delete", "namespace", SPACE, "--timeout=60s")

    def slot(self) -> str:
        return str(self.plane.read(SPACE, "service", "tracktion")["spec"]["selector"]["slot"])

    def objects(self) -> dict[str, Any]:
        """The meaning of all that the playbook may touch."""
        found = self.plane.read(SPACE, "deployments,services")["items"]
        return {f"{item['kind']}/{item['metadata']['name']}": meaning(item) for item in found}

    def versions(self) -> dict[str, str]:
        """The resource version of each object: a write of any kind shows."""
        found = self.plane.read(SPACE, "deployments,services,secrets,configmaps")["items"]
        return {f"{item['kind']}/{item['metadata']['name']}": item["metadata"]["resourceVersion"] for item in found}

    def generations(self) -> dict[str, int]:
        """How often each Deployment's specification was changed."""
        found = self.plane.read(SPACE, "deployments")["items"]
        return {item["metadata"]["name"]: int(item["metadata"]["generation"]) for item in found}

    def history(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(
            self.plane.helm(self.helm, "-n", SPACE, "history", "tracktion", "-o", "json")
        )
        return found

    def changed(self, before: dict[str, int]) -> dict[str, int]:
        """How often each Deployment's specification was changed since `before`; those that were."""
        return {name: now - before[name] for name, now in self.generations().items() if now != before[name]}


@dataclass
class Scene:
    """Runs against the platform, in processes that can be killed."""

    platform: Platform
    nursery: Nursery
    folder: Path
    playbook: Path
    number: int = 0

    def fresh(self) -> Path:
        """A home of its own for the next run."""
        self.number += 1
        folder = emergency.wipe(self.folder / f"run-{self.number}")
        where = {"environ": self.platform.plane.environ(self.platform.helm)}
        (folder / "coordinates.json").write_text(json.dumps(where))
        return folder

    def order(self, folder: Path, what: str, at: int = 0, when: str = "after") -> dict[str, Any]:
        found: dict[str, Any] = self.nursery.order(folder, self.playbook, what, at, when)
        return found


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    made = Nursery(1)
    yield made
    made.close()


@pytest.fixture(scope="module", params=[3, 4], ids=["helm3", "helm4"])
def platform(
    request: pytest.FixtureRequest, control_plane: Plane, tmp_path_factory: pytest.TempPathFactory, postgres: Postgres
) -> Iterator[Platform]:
    """One for all tests of a Helm version: each gives back what it found."""
    made = Platform.install(control_plane, int(request.param), tmp_path_factory.mktemp("chart"), postgres)
    try:
        with relaying(control_plane.local(5432), postgres.port):
            yield made
    finally:
        made.remove()


def killed_and_resumed(scene: Scene, points: list[tuple[int, str]], calm: dict[str, Any]) -> int:
    """Kill at each point, resume, compare with the undisturbed run, undo, compare with what was before. Kills."""
    platform, kills = scene.platform, 0
    for at, when in points:
        where = f"{when} write {at}"
        platform.rest()
        begin, count = platform.objects(), platform.generations()
        folder = scene.fresh()
        first = scene.order(folder, "start", at, when)
        if "signal" in first:
            kills += 1
            first = scene.order(folder, "resume")
        assert first["exit"] == 0, (where, first)
        assert first["outputs"] == calm["outputs"], where
        assert platform.objects() == calm["objects"], where
        assert platform.changed(count) == calm["changed"], f"{where}: an object was changed more or less often"
        assert platform.history()[-1]["status"] == "deployed", where
        undone = scene.order(folder, "undo")
        assert undone["exit"] == 0, (where, undone)
        assert platform.objects() == begin, f"{where}: undo gives back what was observed"
    return kills


def undisturbed(scene: Scene, chosen: str) -> dict[str, Any]:
    platform = scene.platform
    before, count = platform.objects(), platform.generations()
    folder = scene.fresh()
    around = session.World(store=Store(folder / "home"), surroundings=Real(platform.plane.environ(platform.helm)))
    versions = platform.versions()
    rows = {row["key"]: row for row in json.loads(runbook.plan(scene.playbook, world=around).to_json())["rows"]}
    assert platform.versions() == versions, "a plan changes nothing"
    ended = scene.order(folder, "start")
    assert ended["exit"] == 0, ended
    certain, made = rollbacks.promised(rows), rollbacks.made(emergency.events_of(around.store.find("last")))
    assert len(certain) == 5
    assert set(certain) <= set(made)
    assert rollbacks.broken(certain, made) == {}, "the plan's diff is what the run changed"
    assert ended["outputs"]["chosen"] == chosen
    assert ended["outputs"]["issues"] == {"down": [], "errors": True, "database": False}  # it was asked, for real
    calm = {**ended, "objects": platform.objects(), "changed": platform.changed(count)}
    undone = scene.order(folder, "undo")
    assert undone["exit"] == 0, undone
    assert platform.objects() == before
    return calm


def failing(_query: str) -> float:
    """Prometheus: so many per cent of all requests fail."""
    return 42.0


def test_traffic(platform: Platform, nursery: Nursery, tmp_path: Path) -> None:
    """Blue is scaled up, asked, and gets the traffic."""
    scene = Scene(platform, nursery, tmp_path, emergency.playbook(tmp_path))
    with answering(platform.plane, measured=failing):
        calm = undisturbed(scene, "by_traffic")
        assert calm["objects"]["Service/tracktion"]["spec"]["selector"] == {"slot": "blue"}
        assert calm["changed"] == {f"{app}-blue": 1 for app in emergency.SERVICES}
        grow, switch = marked(calm, "call.result", "grow"), marked(calm, "call.result", "switch")
        points = [(grow, "before"), (switch, "before"), (switch, "after"), (calm["writes"], "before")]
        assert killed_and_resumed(scene, points, calm) >= 3


def test_helm_after_a_switch_that_is_taken_back(platform: Platform, nursery: Nursery, tmp_path: Path) -> None:
    """Blue breaks as soon as it has the traffic: switched back, scaled back, and Helm rolls green back."""
    scene = Scene(platform, nursery, tmp_path, emergency.playbook(tmp_path, emergency.IMPATIENT))
    with answering(platform.plane, well=lambda: platform.slot() != "blue", measured=failing):
        calm = undisturbed(scene, "by_helm")
        assert calm["objects"]["Service/tracktion"]["spec"]["selector"] == {"slot": "green"}
        for app in emergency.SERVICES:
            (container,) = calm["objects"][f"Deployment/{app}-green"]["spec"]["template"]["spec"]["containers"]
            assert container["image"] == f"registry.invalid/{app}:2.3.0"
        back = marked(calm, "call.result", "helm_back")
        intent = marked(calm, "call.intent", "helm_back")
        switched = marked(calm, "call.result", "switch")
        points = [
            (switched, "before"),
            ((switched + intent) // 2, "before"),
            (intent, "after"),
            (intent, "amid"),
            (back, "before"),
        ]
        assert killed_and_resumed(scene, points, calm) >= 4
