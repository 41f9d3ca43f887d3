"""What an undo of k8s.apply cannot take back at once, or at all: said, and all else is taken back. Whole runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runbook.interpreter.errors import Exit
from tests.command import Commands
from tests.kube import meaning
from tests.testbed.plane import Plane

pytestmark = pytest.mark.control_plane

HOLD = "example.com/hold"


class Shop:
    """A namespace with ConfigMaps `app` and `frozen`, and commands that apply a set to it."""

    def __init__(self, plane: Plane, folder: Path) -> None:
        self.plane, self.space = plane, plane.namespace()
        self.cli = Commands(folder, plane.environ())
        for name in ("app", "frozen"):
            self.make(name)

    def make(self, name: str) -> None:
        self.plane.kubectl("-n", self.space, "create", "configmap", name, "--from-literal=level=info")

    def objects(self) -> dict[str, Any]:
        found = self.plane.read(self.space, "configmaps")["items"]
        return {item["metadata"]["name"]: meaning(item) for item in found}

    def applied(self, *manifests: Any, cleanup: str = "1m") -> None:
        """A run that applies them."""
        given = {"namespace": self.space, "manifest": list(manifests), "force": True}
        steps = [{"id": "it", "action": "k8s.apply", "with": given}]
        self.cli.write("one.yaml", json.dumps({"runbook": 1, "name": "one", "cleanup": cleanup, "steps": steps}))
        made = self.cli("run", "one.yaml", "--yes")
        assert made.code == Exit.SUCCEEDED, made.out + made.err

    def undo(self, code: Exit, *words: str) -> str:
        """What an undo says."""
        undone = self.cli("undo", "last", "--yes", *words)
        assert undone.code == code, undone.out + undone.err
        return undone.out + undone.err


def config(name: str, *, finalizers: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    metadata = {"name": name, **({"finalizers": list(finalizers)} if finalizers else {})}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"level": "debug"}, **more}


@pytest.fixture
def shop(control_plane: Plane, tmp_path: Path) -> Shop:
    return Shop(control_plane, tmp_path)


def test_what_a_finalizer_holds_is_said_while_it_waits_and_when_its_time_is_over(shop: Shop) -> None:
    before = shop.objects()
    held = config("held", finalizers=(HOLD,))
    shop.applied(config("app"), config("fresh"), held, config("last"), cleanup="4s")
    said = shop.undo(Exit.FAILED, "--verbose")
    sentence = f"configmaps 'held' in namespace '{shop.space}' is still there: it waits for {HOLD}"
    assert f"waiting: {sentence}" in said
    assert f"the time is over: {sentence}" in said
    assert "remove it by hand (metadata.finalizers)" in said
    left = shop.objects()
    assert left.pop("held")["metadata"]["deletionTimestamp"]
    assert left == before, "it holds up nothing else"

    free = json.dumps({"metadata": {"finalizers": None}})
    shop.plane.kubectl("-n", shop.space, "patch", "configmap", "held", "--type=merge", "--patch", free)
    shop.undo(Exit.SUCCEEDED)
    assert shop.objects() == before


def test_a_namespace_that_something_in_it_holds_says_what(shop: Shop) -> None:
    plane, name = shop.plane, f"{shop.space}-own"
    inside = config("held", finalizers=(HOLD,))
    inside["metadata"]["namespace"] = name
    shop.applied({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}, inside, cleanup="4s")
    said = shop.undo(Exit.FAILED)
    assert f"configmaps 'held' in namespace '{name}' is still there: it waits for {HOLD}" in said
    assert f"namespaces '{name}' is still there: it waits for kubernetes" in said

    def told() -> bool:
        """Whether its controller has said so by now."""
        conditions = plane.read("default", "namespace", name)["status"].get("conditions") or []
        return any(HOLD in one["message"] for one in conditions if one["status"] == "True")

    plane.until(told, 60)
    assert f"has finalizers remaining: {HOLD} in 1 resource instances" in shop.undo(Exit.FAILED)
    free = json.dumps({"metadata": {"finalizers": None}})
    plane.kubectl("-n", name, "patch", "configmap", "held", "--type=merge", "--patch", free)
    # Its controller looks again when it likes, which may be longer than this run's clean-up.
    plane.until(lambda: name not in plane.kubectl("get", "namespaces", "--output=name"), 90)
    shop.undo(Exit.SUCCEEDED)


def test_what_was_made_immutable_stays_and_all_else_is_put_back(shop: Shop) -> None:
    before = shop.objects()
    shop.applied(config("app"), config("frozen", immutable=True), config("fresh"))
    frozen = shop.objects()["frozen"]
    for _ in range(2):  # a second undo finds nothing else to do, and is no success
        said = shop.undo(Exit.FAILED)
        assert (
            f"configmaps 'frozen' in namespace '{shop.space}' is immutable now, and stays as the apply left it" in said
        )
        assert "delete what is immutable, make it again as it was before the apply" in said
        assert shop.objects() == {**before, "frozen": frozen}

    shop.plane.kubectl("-n", shop.space, "delete", "configmap", "frozen")
    shop.make("frozen")
    shop.undo(Exit.SUCCEEDED)
    assert shop.objects() == before
