"""What a plan says of every change of family k8s, held against what the run then did, on a real control plane.

As commands: the plan says exactly the leaves that changed, of all objects there; a second run finds that it is already
so and sends nothing; `undo` gives back whole objects.
"""

from __future__ import annotations

import collections
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from runbook.actions._manifest.places import OWNED
from runbook.interpreter.errors import Exit
from runbook.runner.store import Store
from tests import emergency, kube_cases
from tests.command import Commands
from tests.kube_cases import CASES, Case
from tests.testbed.plane import Plane

pytestmark = [pytest.mark.control_plane, pytest.mark.slow]

NOTHING = "(nothing)"
Leaf = tuple[str, str, str]  # object, before, after


def leaves(name: str, old: Any, new: Any) -> Iterator[Leaf]:
    """What differs in one object; how a path is written is the plan's own business."""
    if old == new:
        return
    if isinstance(old, Mapping) or isinstance(new, Mapping):
        was, now = (side if isinstance(side, Mapping) else {} for side in (old, new))
        for key in {*was, *now}:
            yield from leaves(name, was.get(key, NOTHING), now.get(key, NOTHING))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for pair in zip(old, new, strict=True):
            yield from leaves(name, *pair)
    else:
        sides = (NOTHING if side is None else side for side in (old, new))  # an API server keeps no nulls
        yield name, *map(json.dumps, sides)  # type: ignore[misc]  # two of them


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> collections.Counter[Leaf]:
    """The leaves that differ between two views of the namespace. A new object is more than its name, and than who made
    it; of one that goes a plan says no more than that it was there."""
    found: collections.Counter[Leaf] = collections.Counter()
    for name in {*before, *after}:
        if name not in after:
            found.update(leaves(name, "there", NOTHING))
            continue
        now = after[name]
        if name not in before:
            marks = {key: value for key, value in now["metadata"]["annotations"].items() if key != "runbook/created-by"}
            now = {key: value for key, value in now.items() if key not in ("apiVersion", "kind", "metadata")}
            now |= {"metadata": {"annotations": marks}}
        found.update(leaves(name, before.get(name, NOTHING), now))
    return found


def promised(row: Mapping[str, Any]) -> collections.Counter[Leaf]:
    """The leaves of a plan's row, without what it says beside them: the number of a revision, that an object is made,
    which fields have `runbook` for an owner."""
    found: collections.Counter[Leaf] = collections.Counter()
    for item in row["diff"]:
        whole, _, place = item["object"].partition("#")
        if place in ("revision", OWNED) or (not place and item.get("before") is None):
            continue
        kind, name = whole.rsplit("/", 2)[1:]
        found.update(leaves(f"{kind}/{name}", item.get("before", NOTHING), item.get("after", NOTHING)))
    return found


class Scene:
    """A namespace with the objects, and commands that run one playbook there."""

    def __init__(self, plane: Plane, folder: Path, case: Case) -> None:
        self.plane, self.space = plane, plane.namespace()
        kube_cases.install(plane, self.space)
        self.cli = Commands(folder, dict(plane.environ()))
        self.cli.write("one.yaml", case.playbook(self.space))

    def __call__(self, *words: str) -> str:
        said = self.cli(*words)
        assert said.code == Exit.SUCCEEDED, said.out + said.err
        return said.out

    def objects(self) -> dict[str, Any]:
        return kube_cases.look(self.plane, self.space).objects

    def counts(self) -> dict[str, int]:
        return kube_cases.look(self.plane, self.space).counts

    def settings(self) -> dict[str, str]:
        """The version of each object that no controller writes to."""
        found = self.plane.read(self.space, "services,configmaps")["items"]
        return {item["metadata"]["name"]: item["metadata"]["resourceVersion"] for item in found}


@pytest.fixture
def scene(control_plane: Plane, tmp_path: Path, name: str) -> Scene:
    return Scene(control_plane, tmp_path, CASES[name])


def planned(scene: Scene) -> dict[str, Any]:
    rows: list[dict[str, Any]] = json.loads(scene("plan", "one.yaml", "--output", "json"))["rows"]
    return next(row for row in rows if row["key"] == "it")


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.back])
def test_the_plan_is_what_the_run_changes_and_the_undo_takes_it_back(scene: Scene, name: str) -> None:
    case, before, count = CASES[name], scene.objects(), scene.counts()
    versions = scene.settings()
    row = planned(scene)
    assert row["verdict"] == "change"
    assert row.get("computed") is None, "the server itself was asked"
    assert scene.objects() == before
    assert (scene.counts(), scene.settings()) == (count, versions), "a plan touches nothing"
    scene("run", "one.yaml", "--yes")
    after, versions = scene.objects(), scene.settings()
    assert promised(row) == changed(before, after)
    if case.again:
        assert planned(scene)["verdict"] == "same"
        count = scene.counts()
        scene("run", "one.yaml", "--yes")
        assert "call.intent" not in {event.kind for event in emergency.events_of(Store(scene.cli.home).find("last"))}
        assert (scene.counts(), scene.settings()) == (count, versions)
    first = min(one.id for one in Store(scene.cli.home).runs())
    scene("undo", first, "--yes")
    assert scene.objects() == before, "semantic equality of the whole objects"


@pytest.mark.parametrize("name", ["rollout_restart", "delete_pods"])
def test_what_only_restarts_is_planned_and_changes_nothing_else(scene: Scene, name: str) -> None:
    before = scene.objects()
    row = planned(scene)
    assert (row["verdict"], row["undo"]) == ("change", "again")
    scene("run", "one.yaml", "--yes")
    kube_cases.rest(scene.plane, scene.space)
    touched = {leaf[0] for leaf in changed(before, scene.objects())}
    assert touched == ({"Deployment/web"} if name == "rollout_restart" else set())
    assert {item["object"].partition("#")[0].partition("@")[0].rsplit("/", 2)[1] for item in row["diff"]} == {
        "Deployment" if name == "rollout_restart" else "Pod"
    }


@pytest.mark.parametrize("name", ["delete"])
def test_what_nothing_takes_back_says_so_and_takes_exactly_that(scene: Scene, name: str) -> None:
    before = scene.objects()
    row = planned(scene)
    assert (row["verdict"], row["undo"]) == ("change", "no")
    scene("run", "one.yaml", "--yes")
    assert set(before) - set(scene.objects()) == {"ConfigMap/settings"}
    assert planned(scene)["verdict"] == "same"
