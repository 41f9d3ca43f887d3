"""helm.rollback, helm.upgrade and helm.uninstall in whole runs, with real Helm 3 and 4 on a real control plane."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from runbook.interpreter.errors import Exit
from runbook.runner.store import Store
from tests import emergency
from tests.command import Commands
from tests.helm_release import App
from tests.test_emergency_kill import Nursery
from tests.test_k8s_promises import leaves
from tests.testbed.plane import Plane

pytestmark = [pytest.mark.control_plane, pytest.mark.slow]

PASSWORD = "correct-horse-battery"
UPGRADE = {
    "chart": "app",
    "values": {"tag": "3", "password": "{{ secrets.password }}", "level": "debug", "extra": True},
}
CASES: Mapping[str, tuple[str, Mapping[str, Any], int]] = {
    "rollback": ("helm.rollback", {"revision": 1}, 2),
    "upgrade": ("helm.upgrade", UPGRADE, 2),
    "install": ("helm.upgrade", UPGRADE, 0),
    "uninstall": ("helm.uninstall", {}, 2),
}
"""Action, its parameters, and how many revisions there are before it."""


class Scene:
    """A release, and commands that run a playbook of one step there."""

    def __init__(self, plane: Plane, version: int, folder: Path, name: str) -> None:
        action, given, revisions = CASES[name]
        self.app = App(plane, version, folder, revisions)
        self.cli = Commands(folder, {**plane.environ(version), "PASSWORD": PASSWORD})
        step = {"id": "it", "action": action, "with": {**self.app.given, **given}}
        secrets = {"password": {"env": "PASSWORD"}}
        self.cli.write("one.yaml", json.dumps({"runbook": 1, "name": "one", "secrets": secrets, "steps": [step]}))

    def __call__(self, *words: str) -> str:
        said = self.cli(*words)
        assert said.code == Exit.SUCCEEDED, said.out + said.err
        assert PASSWORD not in said.out + said.err
        return said.out

    def row(self) -> dict[str, Any]:
        rows: list[dict[str, Any]] = json.loads(self("plan", "one.yaml", "--output", "json"))["rows"]
        return next(row for row in rows if row["key"] == "it")


@pytest.fixture
def scene(control_plane: Plane, helm_version: int, tmp_path: Path, name: str) -> Scene:
    return Scene(control_plane, helm_version, tmp_path, name)


def told(row: Mapping[str, Any]) -> set[str]:
    """The objects whose content a plan's row says will change."""
    leaves = [item for item in row["diff"] if item["object"].endswith("#content")]
    if [item["path"] for item in leaves] == [[]]:  # there was no content before
        return set(leaves[0]["after"]["objects"])
    return {item["path"][1] for item in leaves if item["path"][:1] == ["objects"]}


def lines(row: Mapping[str, Any], sign: str) -> list[str]:
    """The values of the lines that a plan's two manifests differ in: of what goes (-) or what comes (+)."""
    found = [line for line in row["detail"].splitlines() if line.startswith(sign) and not line.startswith(sign * 3)]
    return sorted("hidden" if "(not shown" in line else line.partition(": ")[2] for line in found)


@pytest.mark.parametrize(
    ("helm_version", "name"),
    [(version, name) for version in (3, 4) for name in CASES],
    indirect=["helm_version"],
)
def test_the_plan_is_what_the_run_changes_and_the_undo_takes_it_back(scene: Scene, name: str) -> None:
    before = scene.app.objects()
    row = scene.row()
    assert (row["verdict"], row["undo"]) == ("change", "yes")
    assert scene.app.objects() == before, "a plan touches nothing"
    scene("run", "one.yaml", "--yes")
    after = scene.app.objects()
    changed = {title for title in {*before, *after} if before.get(title) != after.get(title)}
    assert changed
    if name in ("upgrade", "install"):
        assert told(row) == changed
    elif name == "uninstall":
        (going,) = re.findall(r"objects that go: (.*)", row["detail"])
        assert set(going.split(", ")) == changed
    release = f"helm:testbed/{scene.app.space}/app"
    state = {item["path"][-1]: item.get("after") for item in row["diff"] if item["object"] == release if item["path"]}
    if name == "rollback":
        assert state["revision"] == 1
        moved = [leaf for title in changed for leaf in leaves(title, before[title], after[title])]
        for sign, side in (("-", 1), ("+", 2)):
            values = sorted("hidden" if leaf[0].startswith("Secret/") else json.loads(leaf[side]) for leaf in moved)
            assert lines(row, sign) == values, "the manifests that a plan shows differ in what the run changes"
        assert scene.app.history()[-1]["description"] == "Rollback to 1"
    elif name == "upgrade":
        assert scene.app.newest() == (state["revision"], "deployed")
    again = scene.row()
    assert again["verdict"] == "same"
    scene("run", "one.yaml", "--yes")
    assert "call.intent" not in {event.kind for event in emergency.events_of(Store(scene.cli.home).find("last"))}
    assert scene.app.objects() == after
    first = min(one.id for one in Store(scene.cli.home).runs())
    scene("undo", first, "--yes")
    assert scene.app.objects() == before, "semantic equality of the whole objects"
    secret = PASSWORD.encode()
    assert not [path for path in scene.cli.home.rglob("*") if path.is_file() and secret in path.read_bytes()]


@pytest.mark.parametrize(
    ("helm_version", "name"),
    [(version, name) for version in (3, 4) for name in ("upgrade", "install", "rollback")],
    indirect=["helm_version"],
)
def test_what_never_gets_ready_is_taken_back(scene: Scene, name: str) -> None:
    """Helm gives up, or is killed there: what the run left is neither before nor after, and still its own to undo."""
    app, given = scene.app, {**scene.app.upgrade({"tag": "9", "sick": True}), "chart": "app"}
    if name == "rollback":
        app.deploy(3, "--set", "sick=true")
        app.deploy(4, "--set", "sick=false")
        app.plane.rolled_out(app.space, "app")
        given = {**app.given, "revision": 3}
    before = app.objects()
    action = "helm.rollback" if name == "rollback" else "helm.upgrade"
    step = {"id": "it", "action": action, "timeout": "7s", "with": given}
    scene.cli.write("sick.yaml", json.dumps({"runbook": 1, "name": "sick", "steps": [step]}))
    assert scene.cli("run", "sick.yaml", "--yes").code not in (Exit.SUCCEEDED, Exit.REFUSED)
    assert app.objects() != before
    if app.version == 4:
        app.spoil(f"pending-{name}", "Rollback to 3" if name == "rollback" else "Preparing upgrade")
    else:
        assert app.newest()[1] == "failed"
    scene("undo", "last", "--yes")
    assert app.objects() == before


# -- kill -9 of the run


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    made = Nursery(1)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("helm_version", "name"),
    [(version, name) for version in (3, 4) for name in CASES],
    indirect=["helm_version"],
)
def test_a_run_that_was_killed_is_settled_right(scene: Scene, nursery: Nursery, name: str) -> None:
    """After the intent and before helm, in the middle of helm's work, and when helm is done and nobody knows it yet."""
    before = scene.app.objects()
    playbook = scene.cli.folder / "one.yaml"
    environ = {**scene.app.caller.environ, "PASSWORD": PASSWORD}

    def home(number: int) -> Path:
        folder = emergency.wipe(scene.cli.folder / f"run-{number}")
        (folder / "coordinates.json").write_text(json.dumps({"environ": environ}))
        return folder

    calm = home(0)
    ended = nursery.order(calm, playbook, "start")
    assert ended["exit"] == 0, ended
    after = scene.app.objects()
    assert nursery.order(calm, playbook, "undo")["exit"] == 0
    assert scene.app.objects() == before
    intent, result = (
        next(at for mark, at in ended["marks"].items() if mark.startswith(f"call.{kind} it"))
        for kind in ("intent", "result")
    )
    for number, (at, when) in enumerate([(intent, "after"), (intent + 2, "amid"), (result, "before")], 1):
        folder = home(number)
        first = nursery.order(folder, playbook, "start", at, when)
        assert "signal" in first or when == "amid", first  # helm may be quicker than the kill in its middle
        if "signal" in first:
            first = nursery.order(folder, playbook, "resume")
        assert first["exit"] == 0, (first, scene.app.history())
        assert scene.app.objects() == after
        assert nursery.order(folder, playbook, "undo")["exit"] == 0
        assert scene.app.objects() == before


@pytest.mark.parametrize(("helm_version", "name"), [(4, "upgrade")], indirect=["helm_version"])
def test_a_value_that_was_rotated_shows_in_neither_manifest(scene: Scene) -> None:
    """Not in a Secret, where nothing is shown anyway: in the environment of a pod."""
    (scene.app.chart / "templates/more.yaml").write_text(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: more}\n"
        'data:\n  before: "{{ .Values.tag }}"\n  dsn: "db://u:{{ .Values.password }}@h"\n'
    )
    old = "walnut-old-horse"
    scene.cli.environ["PASSWORD"] = old
    scene("run", "one.yaml", "--yes")
    scene.cli.environ["PASSWORD"] = PASSWORD
    row = scene.row()
    assert "- (not shown)" in row["detail"].splitlines()
    assert "+ (not shown)" in row["detail"].splitlines()
    ran = scene("run", "one.yaml", "--yes")
    back = scene.cli("undo", "--dry-run")
    assert old not in json.dumps(row) + ran + back.out + back.err
    left = [path.read_bytes() for path in scene.cli.home.rglob("*") if path.is_file()]
    assert not [one for one in left if old.encode() in one or PASSWORD.encode() in one]
