"""The rights that the helm actions look for before a run: enough for the real Helm 3 and 4, and named one by one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import runbook
from runbook.contract import PermanentError
from runbook.interpreter.errors import Exit
from runbook.runner import preflight
from runbook.runner.journal import Event
from runbook.runner.session import Ended, Options
from runbook.runner.world import here
from tests.helm_release import App
from tests.kube import Caller, opened
from tests.testbed.plane import Plane

pytestmark = pytest.mark.control_plane

GROUPS = {"deployments": "deployments.apps", "replicasets": "replicasets.apps"}
HOOK = """
apiVersion: v1
kind: ServiceAccount
metadata:
  name: hook
  annotations: {helm.sh/hook: "pre-install,pre-upgrade,pre-rollback,pre-delete"}
"""
LISTED = """
apiVersion: v1
kind: List
items:
  - {apiVersion: v1, kind: Secret, metadata: {name: listed}, stringData: {colour: {{ .Values.tag | quote }}}}
  - {apiVersion: v1, kind: Service, metadata: {name: listed}, spec: {ports: [{port: 80}]}}
"""


_RIGHT = re.compile(r"no right to (\w+) (\w+)(?: '(.*?)')? in namespace")


class Stage:
    """A release, and a user who may do nothing yet."""

    def __init__(self, plane: Plane, version: int, folder: Path) -> None:
        self.app = App(plane, version, folder)
        (self.app.chart / "templates/list.yaml").write_text(LISTED)
        (self.app.chart / "templates/serviceaccount.yaml").write_text(HOOK)
        self.nobody = Caller(plane, folder, helm=version, user="nobody")
        self.allow("get,list,create,update=secrets")  # Helm's own records

    def allow(self, *rules: str) -> None:
        self.app.plane.allow(self.app.space, *rules)

    def lacks(self, name: str, given: Mapping[str, Any]) -> list[str]:
        """`create deployments.apps`, `patch services listed` for each right that preflight misses."""
        with self.nobody.context() as ctx:
            action, args = opened(name, given)
            said = action.preflight(args, ctx)
        told = [match.groups(default="") for match in map(_RIGHT.match, said) if match]
        assert len(told) == len(said)
        return [f"{verb} {GROUPS.get(resource, resource)} {named}".strip() for verb, resource, named in told]

    def grant(self, name: str, given: Mapping[str, Any]) -> list[str]:
        """Give the user what preflight misses, and nothing else."""
        lacks = self.lacks(name, given)
        self.give(lacks)
        self.app.plane.until(lambda: self.lacks(name, given) == [])
        return lacks

    def give(self, lacks: list[str]) -> None:
        rights: dict[str, set[str]] = {}
        for said in lacks:
            verb, resource, *_ = said.split()
            rights.setdefault(resource, set()).add(verb)
        self.allow(*(f"{','.join(sorted(verbs))}={resource}" for resource, verbs in sorted(rights.items())))


@pytest.fixture
def stage(control_plane: Plane, helm_version: int, tmp_path: Path) -> Stage:
    return Stage(control_plane, helm_version, tmp_path)


def test_what_is_asked_for_is_enough(stage: Stage) -> None:
    """The user is given what preflight says, and no more; then helm does its work. Lists' objects count, and hooks."""
    app = stage.app
    stage.nobody.environ["HELM_MAX_HISTORY"] = "2"
    asked = {}
    for step, name, given in (
        ("install", "helm.upgrade", app.upgrade({"tag": "1"})),
        ("upgrade", "helm.upgrade", app.upgrade({"tag": "2", "extra": True})),
        ("cut", "helm.upgrade", app.upgrade({"extra": False})),
        ("rollback", "helm.rollback", {**app.given, "revision": 2}),
        ("uninstall", "helm.uninstall", app.given),
    ):
        asked[step] = stage.grant(name, given)
        stage.nobody.change(name, given)
    assert app.objects() == {}
    assert {"create deployments.apps", "list replicasets.apps", "create services", "create serviceaccounts"} <= {
        *asked["install"]
    }
    assert {"delete configmaps app-extra", "delete secrets"} <= {*asked["cut"]}, "the oldest record goes, too"
    assert asked["rollback"] == [], "all that it needs was needed before"
    assert {"delete deployments.apps app", "delete services listed"} <= {*asked["uninstall"]}
    if app.version == 3:  # it patches what changes
        assert asked["upgrade"] == ["patch deployments.apps app", "patch secrets listed"]
    else:  # it patches everything, on the server, and watches everything
        assert {"patch services listed", "watch configmaps"} <= {*asked["install"]}
        assert "patch configmaps app-extra" not in asked["upgrade"], "it may patch all of them"


class Scene:
    """A playbook that labels a ConfigMap, then upgrades; run by a user who may do some things, or by cluster-admin."""

    def __init__(self, stage: Stage, folder: Path, user: str, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(preflight, "SECONDS", 60.0)  # a machine with much to do is slow; what is said is the promise
        patch.chdir(folder)
        self.stage = stage
        stage.app.plane.kubectl("-n", stage.app.space, "create", "configmap", "first")
        environ = stage.app.plane.environ(stage.app.version, user=user)
        self._world = here({**environ, "PASSWORD": "correct-horse-battery", "RUNBOOK_HOME": str(folder / "home")})
        self.warnings: list[str] = []

    def run(self, values: Mapping[str, Any], **more: Any) -> Ended:
        label = {"kind": "ConfigMap", "name": "first", "labels": {"first": "yes"}}
        steps = [
            {"id": "first", "action": "k8s.label", "with": {"namespace": self.stage.app.space, **label}},
            {"id": "it", "action": "helm.upgrade", "with": self.stage.app.upgrade(dict(values)), **more},
        ]
        secrets = {"password": {"env": "PASSWORD"}}
        path = Path("it.yaml")
        path.write_text(json.dumps({"runbook": 1, "name": "it", "secrets": secrets, "steps": steps}))
        ended: Ended = runbook.run(path, world=self._world, options=Options(yes=True), listeners=[self._hear])
        return ended

    def _hear(self, event: Event) -> None:
        if event.kind == "warning":
            self.warnings.append(f"{event.key}: {event.data['message']}")

    def begun(self) -> bool:
        found = self.stage.app.plane.read(self.stage.app.space, "configmap", "first")
        return bool(found["metadata"].get("labels"))


def message(ended: Ended) -> str:
    assert ended.outcome is not None
    assert ended.outcome.error is not None
    return str(ended.outcome.error.message)


def test_a_run_that_lacks_one_right_begins_nothing(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The values hold a secret, which is sealed at that time: what is rendered has the same objects."""
    app = stage.app
    app.deploy(1)
    stage.grant("helm.upgrade", app.upgrade({"tag": "2"}))
    stage.allow("get,patch=configmaps")
    scene = Scene(stage, tmp_path, "nobody", monkeypatch)
    values = {"tag": "2", "password": "{{ secrets.password }}", "extra": True}
    ended = scene.run(values)
    assert ended.exit == Exit.REFUSED
    lack = f"it: no right to create configmaps in namespace '{app.space}' (helm needs it; context 'testbed')"
    assert message(ended) == f"nothing was begun: {lack}"
    assert not scene.begun()
    assert app.newest() == (1, "deployed")
    ended = scene.run(values, on_failure="continue")
    assert ended.exit == Exit.SUCCEEDED, "the run could do without the step: a warning"
    assert any(said.startswith(lack) for said in scene.warnings)
    assert scene.begun()


@pytest.mark.parametrize("helm_version", [4], indirect=True, ids=["helm4"])
def test_a_slow_machine_looks_as_well(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the limit as it ships, and helms that take longer than it together: each that answers has its own time."""
    app = stage.app
    app.deploy(1)
    app.deploy(2)
    stage.grant("helm.rollback", app.given)
    environ = app.plane.environ(4, user="nobody")
    shim = tmp_path / "shim"
    shim.mkdir()
    pause = preflight.SECONDS / 2 + 0.05
    real = environ["PATH"].partition(":")[0]
    (shim / "helm").write_text(f'#!/bin/sh\nsleep {pause}\necho "$1" >> {shim}/ran\nexec {real}/helm "$@"\n')
    (shim / "helm").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    step = {"id": "it", "action": "helm.uninstall", "with": app.given}
    Path("it.yaml").write_text(json.dumps({"runbook": 1, "name": "it", "steps": [step]}))
    world = here({**environ, "PATH": f"{shim}:{environ['PATH']}", "RUNBOOK_HOME": str(tmp_path / "home")})
    ended: Ended = runbook.run("it.yaml", world=world, options=Options(yes=True))
    assert ended.exit == Exit.REFUSED
    assert "it: no right to delete deployments 'app' in namespace" in message(ended)
    assert (shim / "ran").read_text().split() == ["version", "history"], "the rest it reads of the API server itself"
    assert app.newest() == (2, "deployed")


@pytest.mark.parametrize("helm_version", [4], indirect=True, ids=["helm4"])
def test_a_chart_that_cannot_be_rendered(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = stage.app
    (app.chart / "templates/picky.yaml").write_text(
        '{{- if not (hasPrefix "correct" .Values.password) }}{{ fail "that is no password" }}{{ end }}\n'
    )
    scene = Scene(stage, tmp_path, "admin", monkeypatch)
    ended = scene.run({"tag": "1", "password": "wrong"})
    assert ended.exit == Exit.REFUSED
    assert "it: helm upgrade app: execution error at" in message(ended)
    assert "that is no password" in message(ended)
    assert not scene.begun()
    ended = scene.run({"tag": "1", "password": "{{ secrets.password }}"})
    assert ended.exit == Exit.SUCCEEDED
    (warning,) = scene.warnings
    assert f"not checked: it: the rights on what chart {app.chart} renders; that cannot be known before its" in warning
    assert app.newest() == (1, "deployed")


@pytest.mark.parametrize("helm_version", [4], indirect=True, ids=["helm4"])
def test_an_uninstall_that_leaves_objects_is_no_success(stage: Stage) -> None:
    """Helm 4 skips what it may not read, or what says it is another release's, and ends with exit status 0."""
    app = stage.app
    app.deploy(1)
    lacks = [said for said in stage.lacks("helm.uninstall", app.given) if said != "get deployments.apps app"]
    stage.give(lacks)
    app.plane.until(lambda: stage.lacks("helm.uninstall", app.given) == ["get deployments.apps app"])
    app.plane.kubectl(
        "-n", app.space, "annotate", "--overwrite", "configmap", "app-settings", "meta.helm.sh/release-name=other"
    )
    with pytest.raises(PermanentError, match="helm uninstalled app and left objects of it") as failed:
        stage.nobody.change("helm.uninstall", app.given)
    assert "[Deployment] app" in failed.value.message
    assert "cannot get resource" in failed.value.message
    assert set(app.objects()) == {"Deployment/app", "ConfigMap/app-settings"}


@pytest.mark.parametrize("helm_version", [4], indirect=True, ids=["helm4"])
def test_a_look_that_is_cut_ends_no_process_of_the_step(
    control_plane: Plane, helm_version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its helm hangs and ignores SIGTERM, so that it is ended while the step's own helm is at its work."""
    environ = control_plane.environ(helm_version)
    real = environ["PATH"].partition(":")[0]
    shim = tmp_path / "shim"
    shim.mkdir()
    (shim / "helm").write_text(
        f"#!/bin/sh\nif mkdir {shim}/looked 2>/dev/null; then trap '' TERM; sleep 20; fi\n"
        f'sleep 1\nexec {real}/helm "$@"\n'
    )
    (shim / "helm").chmod(0o755)
    monkeypatch.setattr(preflight, "SECONDS", 0.5)
    monkeypatch.chdir(tmp_path)
    given = {"namespace": "default", "release": "nobody-has-it", "optional": True}
    step = {"id": "it", "action": "helm.history", "with": given}
    Path("it.yaml").write_text(json.dumps({"runbook": 1, "name": "it", "steps": [step]}))
    world = here({**environ, "PATH": f"{shim}:{environ['PATH']}", "RUNBOOK_HOME": str(tmp_path / "home")})
    ended: Ended = runbook.run("it.yaml", world=world, options=Options(yes=True))
    assert (shim / "looked").exists()
    assert ended.exit == Exit.SUCCEEDED
