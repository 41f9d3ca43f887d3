"""The shipped rollbacks on a real control plane, with real Helm: to a good end, to a failure, killed, undone.

The applications in the pods and Prometheus are stood in for; see rollback_platform.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import emergency
from tests.rollback_platform import BLUE, GREEN, Platform, Scene, answering, marked
from tests.test_emergency_kill import Nursery
from tests.testbed.plane import Plane

pytestmark = [pytest.mark.control_plane, pytest.mark.slow]

OFTEN = "for: rollout}\n        timeout", "for: rollout}\n        every: 200ms\n        timeout"
EDITS: emergency.Edits = {
    "service-rollback.yaml": [OFTEN],
    "canary-rollback.yaml": [OFTEN, ("        every: 5s\n", "        every: 200ms\n")],
    # a failure takes as many polls in every run, so that a write's number means the same in each
    "rolling-rollback.yaml": [('every: "{{ [inputs.grace / 6, 5] | min }}"', "every: 1s")],
}
"""The same playbooks, but they look more often, or more seldom."""
STAGING = {"environment": "staging", "announce": False}


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    made = Nursery(1)
    yield made
    made.close()


@pytest.fixture(scope="module")
def platform(control_plane: Plane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """One for all tests: each gives back what it found."""
    made = Platform.install(control_plane, tmp_path_factory.mktemp("chart"))
    try:
        yield made
    finally:
        made.remove()


def scene(platform: Platform, nursery: Nursery, folder: Path, name: str, **inputs: object) -> Scene:
    playbook = emergency.playbook(folder, EDITS).with_name(f"{name}.yaml")
    return Scene(platform, nursery, folder, playbook, {**STAGING, **inputs})


def test_service_by_its_own_release(platform: Platform, nursery: Nursery, tmp_path: Path) -> None:
    made = scene(platform, nursery, tmp_path, "service-rollback", service="notification-service")
    with answering(platform.plane):
        calm = made.undisturbed(0, but=["mark"])  # it names the run
        assert calm["outputs"] == {"from_version": "2.4.0", "to_version": "2.3.1", "by": "helm"}
        assert calm["changed"] == {"notification-service": 2}, "rolled back, and marked (annotations count)"
        points = [
            (marked(calm, "call.intent", "by_helm"), "amid"),
            (marked(calm, "call.result", "by_helm"), "before"),
            (marked(calm, "call.result", "mark"), "before"),
        ]
        assert made.killed_and_resumed(points, calm) >= 2, "a run may be over before its kill comes"


def test_service_whose_earlier_version_is_sick(platform: Platform, nursery: Nursery, tmp_path: Path) -> None:
    inputs = {"service": "file-watcher", "patience": "1s"}
    made = scene(platform, nursery, tmp_path, "service-rollback", **inputs)
    with answering(platform.plane, well=lambda: platform.image("file-watcher") == "2.4.0"):
        calm = made.undisturbed(1)
        assert calm["outputs"] == {"from_version": "2.4.0", "to_version": "2.3.1", "by": "kubernetes"}
        assert calm["changed"] == {"file-watcher": 2}, "there and back"
        points = [
            (marked(calm, "call.result", "by_kubernetes"), "before"),
            (calm["writes"] - 2, "before"),
            (calm["writes"] - 4, "before"),
        ]
        assert made.killed_and_resumed(points, calm) >= 2, "a poll fewer, and the last write never comes"


@pytest.mark.parametrize("service", ["file-watcher", "notification-service"])
def test_service_rolled_back_twice_never_returns_to_the_version_that_was_left(
    platform: Platform, nursery: Nursery, tmp_path: Path, service: str
) -> None:
    made = scene(platform, nursery, tmp_path, "service-rollback", service=service)
    before = platform.objects()

    def rolled_back(version: str) -> Path:
        folder = made.fresh()
        ended = made.order(folder, "start")
        assert (ended["exit"], ended["outputs"]["to_version"]) == (0, version), ended
        platform.rest()
        assert platform.image(service) == version
        return folder

    def refused() -> None:
        versions = platform.versions()
        ended = made.order(made.fresh(), "start")
        assert ended["exit"] == 3, ended
        assert f"{service} has no earlier version to go back to" in ended["error"]
        assert platform.versions() == versions, "nothing is changed"

    def undone(folder: Path, version: str) -> None:
        assert made.order(folder, "undo")["exit"] == 0
        platform.rest()
        assert platform.image(service) == version

    with answering(platform.plane):
        once = rolled_back("2.3.1")
        refused()  # not back to 2.4.0
        undone(once, "2.4.0")
        platform.deploy(service, "2.5.0")
        platform.rest()
        once, twice = rolled_back("2.4.0"), rolled_back("2.3.1")  # not back to 2.5.0
        refused()
        undone(twice, "2.4.0")
        undone(once, "2.5.0")
        platform.go_back(service, "2.4.0")
        platform.rest()
    assert platform.objects() == before


ROLLING = {"services": ["file-watcher", "tracklist-service"], "grace": "1s", "patience": "60s", "verify": "none"}


def test_rolling(platform: Platform, nursery: Nursery, tmp_path: Path) -> None:
    made = scene(platform, nursery, tmp_path, "rolling-rollback", **ROLLING)
    with answering(platform.plane):
        calm = made.undisturbed(0)
        assert calm["outputs"] == {"rolled_back": ROLLING["services"], "left_alone": []}
        for name in ("file-watcher", "tracklist-service"):
            (container,) = calm["objects"][f"Deployment/{name}"]["spec"]["template"]["spec"]["containers"]
            assert container["image"] == f"registry.invalid/{name}:2.3.1"
            assert calm["objects"][f"Deployment/{name}"]["spec"]["progressDeadlineSeconds"] == 600, "as it was"
        assert calm["changed"] == {"file-watcher": 3, "tracklist-service": 3}, "gently, back, no longer gently"
        first, second = "roll[0]/services[0]/service", "roll[1]/services[0]/service"
        points = [
            (marked(calm, "call.result", f"{first}/gently"), "before"),
            (marked(calm, "call.result", f"{first}/revert"), "before"),
            (marked(calm, "call.result", f"{second}/revert"), "after"),
        ]
        assert made.killed_and_resumed(points, calm) == 3


def test_rolling_whose_second_service_fails(platform: Platform, nursery: Nursery, tmp_path: Path) -> None:
    made = scene(platform, nursery, tmp_path, "rolling-rollback", **ROLLING)
    with answering(platform.plane, measured=lambda query: 9 if "tracklist-service" in query else 0.1):
        calm = made.undisturbed(1)
        assert calm["outputs"]["rolled_back"] == []
        assert set(calm["changed"]) == {"file-watcher", "tracklist-service"}
        second = "roll[1]/services[0]/service"
        points = [(marked(calm, "call.result", f"{second}/revert"), "before")]
        points += [(calm["writes"] - 4, "before"), (calm["writes"] - 8, "before")]
        assert made.killed_and_resumed(points, calm) >= 2, "a poll fewer, and the last write never comes"


SECOND = ["full/grow", "full/whole/weigh_all", "full/whole/stop_bad"]
"""The second change of one place is planned on what is there now."""
CANARY = {"service": "analysis-service", "soak": "300ms", "percentage": 20, "then": "full"}


def test_canary(platform: Platform, nursery: Nursery, tmp_path: Path) -> None:
    made = scene(platform, nursery, tmp_path, "canary-rollback", **CANARY)
    with answering(platform.plane, measured=_measured(0.2)):
        calm = made.undisturbed(0, but=SECOND)
        assert (calm["outputs"]["choice"], calm["outputs"]["by"]) == ("full", "route")
        rules = calm["objects"]["HTTPRoute/analysis-service"]["spec"]["rules"]
        assert [one["weight"] for one in rules[0]["backendRefs"]] == [0, 100]
        assert calm["objects"][f"Deployment/{BLUE}"]["spec"]["replicas"] == 3
        marks = calm["objects"][f"Deployment/{GREEN}"]["metadata"]["annotations"]
        assert marks["tracktion.io/bad-version"] == "2.4.0"
        points = [
            (marked(calm, "call.result", "canary/size"), "before"),
            (marked(calm, "call.result", "canary/share/weigh"), "before"),
            (marked(calm, "call.result", "full/whole/weigh_all"), "after"),
        ]
        assert made.killed_and_resumed(points, calm) == 3
        assert platform.weights() == [100, 0]


def test_canary_that_does_no_better(platform: Platform, nursery: Nursery, tmp_path: Path) -> None:
    made = scene(platform, nursery, tmp_path, "canary-rollback", **CANARY)
    with answering(platform.plane, measured=_measured(7)):
        calm = made.undisturbed(1)
        assert calm["changed"] == {BLUE: 2}
        points = [
            (marked(calm, "call.result", "canary/share/weigh"), "before"),
            (calm["writes"] - 2, "before"),
            (calm["writes"] - 4, "before"),
        ]
        assert made.killed_and_resumed(points, calm) >= 2, "a poll fewer, and the last write never comes"


def test_canary_by_pods(platform: Platform, nursery: Nursery, tmp_path: Path) -> None:
    """Without an HTTPRoute, and behind one Service: the share is one of pods."""
    plane, space = platform.plane, "tracktion-staging"
    route = plane.kubectl("-n", space, "get", "httproute", "analysis-service", "-o", "json")
    plane.kubectl("-n", space, "delete", "httproute", "analysis-service")
    plane.kubectl("-n", space, "create", "service", "clusterip", "analysis-service", "--tcp=80:8000")
    made = scene(platform, nursery, tmp_path, "canary-rollback", **CANARY)
    try:
        with answering(plane, measured=_measured(0.2)):
            calm = made.undisturbed(0, but=SECOND)
            assert calm["outputs"]["by"] == "pods"
            found = {name: calm["objects"][f"Deployment/{name}"]["spec"]["replicas"] for name in (GREEN, BLUE)}
            assert found == {GREEN: 0, BLUE: 3}
    finally:
        plane.kubectl("-n", space, "delete", "service", "analysis-service")
        plane.kubectl("-n", space, "create", "-f", "-", stdin=_again(route))


def _measured(errors: float) -> Callable[[str], float]:
    """What Prometheus says of the version before: 180 requests, so many per cent of them fail, 0.2 s."""

    def measured(query: str) -> float:
        if query.startswith("sum(increase("):
            return 180
        return 0.2 if "duration" in query else errors if "2.3.1" in query else 42

    return measured


def _again(text: str) -> str:
    """An object as it can be created again."""
    item = json.loads(text)
    for name in ("uid", "resourceVersion", "creationTimestamp", "generation", "managedFields"):
        item["metadata"].pop(name, None)
    return json.dumps(item)
