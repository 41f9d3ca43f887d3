"""The shipped actions in a SIMULATED world: what the emergency playbooks call, against the scenarios that ship."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from runbook.contract import PermanentError, TemporaryError
from runbook.interpreter.errors import Exit
from runbook.runner import files, registry, session
from runbook.runner.session import World
from runbook.runner.store import Store
from runbook.sandbox import kinds, scenario, surroundings
from runbook.sandbox.surroundings import Sandbox
from tests.context import LocalContext, call

SCENARIOS = Path(__file__).resolve().parent.parent / "playbooks/scenarios/emergency"
NAMESPACE = "tracktion-production"
SERVICES = ["analysis-service", "file-watcher", "tracklist-service", "notification-service"]


class Inside(LocalContext):
    """A context whose surroundings are a sandbox."""

    def __init__(self, sandbox: Sandbox, folder: Path, seconds: float = 30.0) -> None:
        super().__init__(folder, seconds=seconds, environ=sandbox.environ, simulated=True)
        self._sandbox = sandbox

    def address(self, service: str, url: str) -> str:
        return self._sandbox.address(service, url)

    def permit(self, what: str, target: str) -> None:
        self._sandbox.permit(what, target)


class Rehearsal:
    """A running scenario, and the shipped actions in it."""

    def __init__(self, sandbox: Sandbox, folder: Path) -> None:
        self.sandbox = sandbox
        self._folder = folder

    def do(self, action: str, **args: Any) -> Mapping[str, Any]:
        """One action in this world. `_seconds`: its deadline."""
        family = action.partition(".")[0]
        given = ({"namespace": NAMESPACE} if family in {"k8s", "helm"} else {}) | args
        with Inside(self.sandbox, self._folder, given.pop("_seconds", 30.0)) as ctx:
            return call(registry.find(action), given, ctx)

    def serving(self) -> str:
        """The slot that the live Service selects."""
        slot: str = self.sandbox.world.get(kinds.SERVICE, NAMESPACE, "tracktion")["spec"]["selector"]["slot"]
        return slot


@pytest.fixture
def rehearse(tmp_path: Path) -> Iterator[Any]:
    """Starts a shipped scenario by its name."""
    running: list[Sandbox] = []

    def start(name: str) -> Rehearsal:
        running.append(surroundings.start(scenario.read(SCENARIOS / f"{name}.yaml")))
        return Rehearsal(running[-1], tmp_path)

    yield start
    for sandbox in running:
        sandbox.close()


def healthy(world: Rehearsal, slot: str) -> list[bool]:
    return [bool(world.do("k8s.http", deployment=f"{one}-{slot}", port=8000, path="/health")["ok"]) for one in SERVICES]


def test_traffic_heals(rehearse: Any) -> None:
    world = rehearse("traffic")
    assert world.do("k8s.status", selector="slot=green")["degraded"] == [], "sick, and yet every pod is ready"
    assert healthy(world, "green") == [False] * 4
    errors = {"url": f"http://prometheus.{NAMESPACE}:9090", "via": "k8s", "query": "sum(rate(http_requests_total[2m]))"}
    assert world.do("prometheus.query", **errors)["value"] == 42
    for service in SERVICES:
        world.do("k8s.scale", name=f"{service}-blue", replicas=2, only="up")
    assert healthy(world, "blue") == [True] * 4
    world.do("k8s.patch", kind="Service", name="tracktion", patch={"spec": {"selector": {"slot": "blue"}}})
    deadline = time.monotonic() + 10
    while not world.do("k8s.wait", kind="Service", name="tracktion", **{"for": "endpoints"})["ok"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert world.serving() == "blue"
    assert world.do("prometheus.query", **errors)["value"] == pytest.approx(0.1)
    assert world.sandbox.unmodelled == ()


def test_helm_heals(rehearse: Any) -> None:
    world = rehearse("helm")
    assert healthy(world, "blue") == [True] * 4
    world.do("k8s.patch", kind="Service", name="tracktion", patch={"spec": {"selector": {"slot": "blue"}}})
    assert healthy(world, "blue") == [False] * 4, "it breaks under traffic"
    world.do("k8s.patch", kind="Service", name="tracktion", patch={"spec": {"selector": {"slot": "green"}}})
    history = world.do("helm.history", release="tracktion")
    assert (history["current"]["revision"], history["target"]["revision"]) == (3, 2)
    outputs = world.do("helm.rollback", release="tracktion", revision=2)
    assert outputs["from_revision"] == 3
    assert healthy(world, "green") == [True] * 4
    newest = world.do("helm.history", release="tracktion")["current"]
    assert (newest["revision"], newest["status"]) == (4, "deployed")
    item = world.sandbox.world.get(kinds.DEPLOYMENT, NAMESPACE, "file-watcher-green")
    assert item["spec"]["template"]["spec"]["containers"][0]["image"].endswith(":2.3.0")
    assert world.sandbox.unmodelled == ()


def test_restart_heals(rehearse: Any) -> None:
    world = rehearse("restart")
    assert len(world.do("k8s.status", selector="slot=green")["degraded"]) == 4
    assert world.do("helm.history", release="tracktion")["target"] is None
    for service in SERVICES:
        assert world.do("k8s.delete_pods", deployment=f"{service}-green")["deleted"]
    names = [f"{service}-green" for service in SERVICES]
    deadline = time.monotonic() + 10
    while world.do("k8s.status", names=names)["ready_count"] < 4:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert healthy(world, "green") == [True] * 4


def test_undoing_a_rollout(rehearse: Any) -> None:
    world = rehearse("stable")
    name = "file-watcher-green"
    change = {
        "spec": {"template": {"spec": {"containers": [{"name": "file-watcher", "image": "registry.invalid/f:9"}]}}}
    }
    world.do("k8s.patch", kind="Deployment", name=name, type="strategic", patch=change)
    history = world.do("k8s.history", name=name)
    assert history["current"]["images"] == ["registry.invalid/f:9"]
    world.do("k8s.rollout_undo", name=name)
    assert world.do("k8s.history", name=name)["current"]["images"] == ["registry.invalid/file-watcher:2.4.0"]


def test_people_are_told(rehearse: Any) -> None:
    world = rehearse("stable")
    secrets = world.sandbox.scenario.secrets
    token = secrets["SLACK_BOT_TOKEN"]
    ts = world.do("slack.post", token=token, channel="#incidents", text="hello")["ts"]
    assert ts
    world.do("slack.post", webhook="https://hooks.slack.com/services/T/B/secret", text="hello")
    api, hook = world.sandbox.received("slack")
    assert (api.body["channel"], api.authorization) == ("#incidents", f"Bearer {token}")
    assert hook.path == "/services/T/B/secret"
    key = world.do("pagerduty.trigger", routing_key="k", summary="down", dedup_key="incident-1")["dedup_key"]
    assert key == "incident-1"
    world.do("pagerduty.resolve", routing_key="k", dedup_key="incident-1")
    assert [one.body["event_action"] for one in world.sandbox.received("pagerduty")] == ["trigger", "resolve"]
    page = {"api_key": "k", "page": "tracktion", "key": "i", "title": "Down"}
    assert world.do("statuspage.incident", status="investigating", message="we look", **page)["created"] is True
    assert world.do("statuspage.incident", status="monitoring", message="better", **page)["created"] is False


def test_nothing_else_is_reached(rehearse: Any) -> None:
    world = rehearse("stable")
    refused: dict[str, dict[str, Any]] = {
        "shell.run": {"command": ["true"]},
        "http.check": {"url": "https://example.com/token-in-path"},
        "http.request": {"url": "https://example.com/"},
    }
    for action, args in refused.items():
        with pytest.raises(PermanentError) as caught:
            world.do(action, **args)
        assert "SIMULATED" in caught.value.message
        assert "token-in-path" not in caught.value.message
        assert "answers:" in (caught.value.hint or "")


def test_an_unknown_metric_is_loud(rehearse: Any) -> None:
    world = rehearse("stable")
    with pytest.raises(PermanentError, match="SIMULATED"):
        world.do("prometheus.query", url="http://prometheus:9090", query="node_load1")
    assert any("node_load1" in one for one in world.sandbox.unmodelled)


@pytest.mark.timed
def test_faults_meet_the_shipped_actions(tmp_path: Path) -> None:
    text = (SCENARIOS / "stable.yaml").read_text() + (
        "faults:\n"
        "  - {on: kubernetes, verb: patch, resource: services, dry_run: false, nth: 2, answer: 503}\n"
        "  - {on: slack, hang: true}\n"
        "  - {on: helm, verb: rollback, times: 1,"
        ' answer: "another operation (install/upgrade/rollback) is in progress"}\n'
    )
    with surroundings.start(scenario.parse(text)) as sandbox:
        world = Rehearsal(sandbox, tmp_path)
        blue: dict[str, Any] = {
            "kind": "Service",
            "name": "tracktion",
            "patch": {"spec": {"selector": {"slot": "blue"}}},
        }
        green = blue | {"patch": {"spec": {"selector": {"slot": "green"}}}}
        world.do("k8s.patch", **blue)
        with pytest.raises(TemporaryError):
            world.do("k8s.patch", **green)
        assert world.serving() == "blue"
        world.do("k8s.patch", **green)
        assert world.serving() == "green"
        with pytest.raises(TemporaryError):
            world.do("helm.rollback", release="tracktion", revision=2)
        begun = time.monotonic()
        failed: list[Exception] = []

        def post() -> None:
            try:
                world.do("slack.post", _seconds=1.0, token="t", channel="#c", text="x")
            except Exception as error:
                failed.append(error)

        thread = threading.Thread(target=post)
        thread.start()
        thread.join(10)
        assert failed
        assert time.monotonic() - begun < 5
        assert sandbox.received("slack") == [], "who hung up was not heard"


def test_no_key_of_a_kubeconfig_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client writes what stands inside a kubeconfig into files; they are the run's own, and go with it."""
    elsewhere = tmp_path / "tmp"
    elsewhere.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    file = tmp_path / "look.yaml"
    file.write_text(
        "runbook: 1\nname: look\nsteps:\n"
        "  - {id: a, action: k8s.get, with: {namespace: tracktion-production, kind: Service, name: tracktion}}\n"
        "  - {id: b, action: k8s.get, with: {namespace: tracktion-production, kind: Service, name: tracktion}}\n"
    )
    with surroundings.start(SCENARIOS / "traffic.yaml") as running:
        before = {path.name for path in elsewhere.iterdir()}
        world = World(store=Store(tmp_path / "home"), surroundings=running)
        for _ in range(2):
            ended = session.start(files.read_playbook(str(file), registry.catalogue()), {}, world=world)
            assert ended.exit == Exit.SUCCEEDED
            assert list(ended.folder.path.glob("kubeconfig-*")) == []
        assert {path.name for path in elsewhere.iterdir()} == before
