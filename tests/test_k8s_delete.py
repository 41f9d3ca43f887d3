"""k8s.delete on a real control plane: exactly the object that was seen goes, and it is waited for."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from runbook.contract import PermanentError, TemporaryError
from tests.kube import Caller, change, opened
from tests.testbed.plane import Plane

pytestmark = pytest.mark.control_plane


@pytest.fixture
def caller(control_plane: Plane, tmp_path: Path) -> Caller:
    return Caller(control_plane, tmp_path)


@pytest.fixture
def space(control_plane: Plane) -> str:
    return control_plane.namespace()


def names(plane: Plane, space: str, kind: str) -> list[str]:
    return plane.kubectl("-n", space, "get", kind, "--output=name").split()


def test_an_object_goes_as_planned_and_stays_gone(control_plane: Plane, caller: Caller, space: str) -> None:
    control_plane.deployment(space, "web", "registry.invalid/web:1")
    given = {"namespace": space, "kind": "deployment", "name": "web"}
    planned = caller.plan("k8s.delete", given)
    assert names(control_plane, space, "deployments") == ["deployment.apps/web"]
    assert caller.settle("k8s.delete", given, planned) == "not_done"
    made = caller.change("k8s.delete", given)
    assert (made.before, made.after) == (planned.before, planned.after)
    assert made.outputs == {"existed": True}
    assert made.inverse is None
    assert names(control_plane, space, "deployments") == []
    control_plane.until(lambda: names(control_plane, space, "pods") == [])
    assert caller.settle("k8s.delete", given, planned) == "done"
    again = caller.change("k8s.delete", given)
    assert again.before == again.after
    assert again.outputs == {"existed": False}
    with pytest.raises(PermanentError, match=r"cannot get deployments 'web' in namespace"):
        caller.plan("k8s.delete", {**given, "optional": False})


def test_one_that_was_made_anew_is_another(control_plane: Plane, caller: Caller, space: str) -> None:
    create = ("-n", space, "create", "configmap", "app")
    control_plane.kubectl(*create)
    given = {"namespace": space, "kind": "configmap", "name": "app"}
    planned = caller.plan("k8s.delete", given)
    control_plane.kubectl("-n", space, "delete", "configmap", "app")
    control_plane.kubectl(*create)
    assert caller.settle("k8s.delete", given, planned) == "done"
    with caller.context() as ctx:
        action, args = change("k8s.delete", given)
        action.apply(args, planned.before, ctx)
    assert "configmap/app" in names(control_plane, space, "configmaps")


@pytest.mark.parametrize(("propagation", "left"), [("orphan", 2), ("foreground", 0)])
def test_what_becomes_of_its_own(propagation: str, left: int, control_plane: Plane, caller: Caller, space: str) -> None:
    control_plane.deployment(space, "web", "registry.invalid/web:1")
    given = {"namespace": space, "kind": "deployment", "name": "web", "propagation": propagation}
    caller.change("k8s.delete", given)
    assert names(control_plane, space, "deployments") == []
    control_plane.until(lambda: len(names(control_plane, space, "pods")) == left)


def test_it_waits_for_finalizers_and_says_which(control_plane: Plane, caller: Caller, space: str) -> None:
    control_plane.kubectl("-n", space, "create", "configmap", "app")
    hold = '{"metadata": {"finalizers": ["example.com/hold"]}}'
    control_plane.kubectl("-n", space, "patch", "configmap", "app", "--type=merge", "-p", hold)
    given = {"namespace": space, "kind": "configmap", "name": "app"}
    planned = caller.plan("k8s.delete", given, op="run-1:delete")
    assert any("gone only when its finalizers are: example.com/hold" in line for line in planned.log)
    with pytest.raises(TemporaryError, match=r"is still there: it waits for example\.com/hold"):
        caller.change("k8s.delete", given, seconds=2.0)
    assert caller.settle("k8s.delete", given, planned) == "partial"

    free = threading.Timer(
        1.0,
        control_plane.kubectl,
        ("-n", space, "patch", "configmap", "app", "--type=merge", "-p", '{"metadata": {"finalizers": null}}'),
    )
    free.start()
    try:
        with caller.context() as ctx:
            action, args = change("k8s.delete", given)
            now = action.observe(args, ctx)
            assert list(now.values()) == ["being deleted: it waits for example.com/hold"]
            action.apply(args, now, ctx)
    finally:
        free.join()
    assert caller.settle("k8s.delete", given, planned) == "done"


def test_a_plan_says_what_goes_with_it(control_plane: Plane, caller: Caller, space: str) -> None:
    control_plane.deployment(space, "web", "registry.invalid/web:1")
    control_plane.kubectl("-n", space, "create", "configmap", "app")
    control_plane.kubectl("-n", space, "set", "env", "deployment/web", "--from=configmap/app", "--prefix=X_")
    control_plane.kubectl("-n", space, "patch", "deployment", "web", "-p", FROM)
    told = caller.plan("k8s.delete", {"namespace": space, "kind": "configmap", "name": "app"}).log
    assert any("Deployment/web has ConfigMap/app in its environment" in line for line in told)
    replicaset = names(control_plane, space, "replicasets")[0].partition("/")[2]
    told = caller.plan("k8s.delete", {"namespace": space, "kind": "rs", "name": replicaset}).log
    assert any("Deployment web owns" in line for line in told)
    told = caller.plan("k8s.delete", {"namespace": space, "kind": "namespace", "name": space}).log
    assert any("all that is in namespace" in line for line in told)


FROM = json.dumps(
    {"spec": {"template": {"spec": {"containers": [{"name": "web", "envFrom": [{"configMapRef": {"name": "app"}}]}]}}}}
)


def test_bad_input_and_missing_rights(control_plane: Plane, caller: Caller, space: str, tmp_path: Path) -> None:
    base = {"namespace": space, "kind": "configmap", "name": "app"}
    with pytest.raises(PermanentError, match="name: empty, it would mean every object of the kind"):
        caller.plan("k8s.delete", {**base, "name": " "})
    with pytest.raises(PermanentError, match=r"no kind 'confgimap'; did you mean configmap"):
        caller.plan("k8s.delete", {**base, "kind": "confgimap"})
    with pytest.raises(PermanentError, match="propagation: expected one of background, foreground, orphan"):
        opened("k8s.delete", {**base, "propagation": "all"})
    control_plane.kubectl("-n", space, "create", "configmap", "app")
    control_plane.allow(space, "get=configmaps")
    nobody = Caller(control_plane, tmp_path, user="nobody")
    with nobody.context() as ctx:
        action, args = opened("k8s.delete", base)
        assert action.preflight(args, ctx) == [
            f"no right to delete configmaps 'app' in namespace '{space}' (context 'testbed')"
        ]
    with pytest.raises(PermanentError, match=r"no right to delete configmaps 'app'"):
        nobody.change("k8s.delete", base)
    assert "configmap/app" in names(control_plane, space, "configmaps")
