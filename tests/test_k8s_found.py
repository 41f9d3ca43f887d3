"""What looking for trouble found, each as small as it gets, on the real control plane."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runbook.contract import PermanentError
from runbook.interpreter.errors import Exit
from tests.command import Commands
from tests.kube import Caller
from tests.testbed.plane import Plane


@pytest.fixture
def namespace(control_plane: Plane) -> str:
    return control_plane.namespace()


@pytest.fixture
def caller(control_plane: Plane, tmp_path: Path) -> Caller:
    return Caller(control_plane, tmp_path)


def _pod(plane: Plane, namespace: str) -> Any:
    return plane.read(namespace, "deployment", "web")["spec"]["template"]["spec"]


PROBE = {"name": "web", "livenessProbe": {"httpGet": {"path": "/up", "port": 80}}}
HOOK = {"name": "web", "lifecycle": {"preStop": {"exec": {"command": ["sleep", "1"]}}}}
AFFINITY: dict[str, Any] = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}


@pytest.mark.parametrize(
    "patch",
    [
        {"containers": [PROBE]},
        {"containers": [HOOK]},
        {"containers": [{"name": "web", "securityContext": {"runAsUser": 5}}]},
        {"volumes": [{"name": "room", "emptyDir": None, "configMap": {"name": "app"}}]},
        {"volumes": [{"name": "more", "configMap": {"name": "app"}}], "containers": [PROBE], "affinity": AFFINITY},
    ],
    ids=["probe", "hook", "a map of one field", "volume of another type", "many"],
)
def test_what_a_patch_brought_with_its_defaults_goes_as_a_whole(
    patch: Any, caller: Caller, control_plane: Plane, namespace: str
) -> None:
    # Only what the patch named was removed: what was left (`httpGet: {scheme: HTTP}`) the server refuses.
    control_plane.deployment(namespace, "web", "registry/web:1", wait=False)
    room = '{"spec": {"template": {"spec": {"volumes": [{"name": "room", "emptyDir": {}}]}}}}'
    control_plane.kubectl("-n", namespace, "patch", "deployment", "web", "-p", room)
    before = _pod(control_plane, namespace)
    given = {"namespace": namespace, "kind": "deployment", "name": "web"}
    made = caller.change("k8s.patch", {**given, "patch": {"spec": {"template": {"spec": patch}}}})
    assert _pod(control_plane, namespace) != before
    caller.undo(made)
    assert _pod(control_plane, namespace) == before


def test_a_probe_that_somebody_changed_meanwhile_is_left_to_him(
    caller: Caller, control_plane: Plane, namespace: str
) -> None:
    control_plane.deployment(namespace, "web", "registry/web:1", wait=False)
    given = {"namespace": namespace, "kind": "deployment", "name": "web"}
    made = caller.change("k8s.patch", {**given, "patch": {"spec": {"template": {"spec": {"containers": [PROBE]}}}}})
    slower = '[{"op": "replace", "path": "/spec/template/spec/containers/0/livenessProbe/periodSeconds", "value": 99}]'
    control_plane.kubectl("-n", namespace, "patch", "deployment", "web", "--type=json", "-p", slower)
    with pytest.raises(PermanentError, match=r"livenessProbe\.periodSeconds should be 10 and is 99"):
        caller.undo(made)
    assert _pod(control_plane, namespace)["containers"][0]["livenessProbe"]["periodSeconds"] == 99


def test_a_key_that_somebody_added_to_a_new_map_stays(caller: Caller, control_plane: Plane, namespace: str) -> None:
    control_plane.kubectl("-n", namespace, "create", "configmap", "app")
    given = {"namespace": namespace, "kind": "configmap", "name": "app"}
    made = caller.change("k8s.patch", {**given, "patch": {"data": {"ours": "1"}}})
    control_plane.kubectl("-n", namespace, "patch", "configmap", "app", "-p", '{"data": {"theirs": "2"}}')
    caller.undo(made)
    assert control_plane.read(namespace, "configmap", "app")["data"] == {"theirs": "2"}


@pytest.mark.parametrize("kind", ["configmap", "secret generic"])
def test_what_is_made_immutable_has_no_inverse(kind: str, caller: Caller, control_plane: Plane, namespace: str) -> None:
    control_plane.kubectl("-n", namespace, "create", *kind.split(), "app", "--from-literal=a=1")
    given = {"namespace": namespace, "kind": kind.split(maxsplit=1)[0], "name": "app"}
    assert caller.plan("k8s.patch", {**given, "patch": {"immutable": False}}).inverse is not None
    planned = caller.plan("k8s.patch", {**given, "patch": {"immutable": True}})
    assert planned.inverse is None  # a plan says CANNOT BE UNDONE, in place of an undo that the server refuses


def test_a_plan_says_that_an_apply_makes_an_object_immutable(
    caller: Caller, control_plane: Plane, namespace: str
) -> None:
    control_plane.kubectl("-n", namespace, "create", "configmap", "app")
    manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "app"}, "immutable": True}
    planned = caller.plan("k8s.apply", {"namespace": namespace, "manifest": manifest})
    assert any("becomes immutable: no undo makes it mutable again" in line for line in planned.log)
    assert "immutable" not in control_plane.read(namespace, "configmap", "app")


@pytest.mark.parametrize("name", ["web/scale", "web/status", "../deployments/web", "web%2Fscale"])
def test_a_name_never_leads_to_another_object(name: str, caller: Caller, control_plane: Plane, namespace: str) -> None:
    # `web/scale` was the Deployment's subresource: changed by a patch, found by no undo.
    control_plane.deployment(namespace, "web", "registry/web:1", wait=False)
    given = {"namespace": namespace, "kind": "deployment", "name": name}
    patch = {"spec": {"replicas": 3}}
    with pytest.raises(PermanentError, match=r"name: .* is none: it holds a '/' or a '%'"):
        caller.change("k8s.patch", {**given, "type": "merge", "patch": patch})
    with pytest.raises(PermanentError, match=r"name: .* is none"):
        caller.read("k8s.get", given)
    assert control_plane.read(namespace, "deployment", "web")["spec"]["replicas"] == 2


def test_what_an_undo_lacks_is_one_line_for_each_cause(control_plane: Plane, tmp_path: Path) -> None:
    runbook = Commands(tmp_path, control_plane.environ())
    first, second = control_plane.namespace(), control_plane.namespace()
    steps = []
    for name, space in (("a", first), ("b", first), ("c", second)):
        control_plane.deployment(space, name, "registry/web:1", wait=False)
        steps.append({"id": name, "action": "k8s.scale", "with": {"namespace": space, "name": name, "replicas": 3}})
    runbook.write("p.yaml", json.dumps({"runbook": 1, "name": "p", "steps": steps}))
    assert runbook("run", "p.yaml", "--yes").code == Exit.SUCCEEDED
    control_plane.kubectl("delete", "namespace", first, second)
    undone = runbook("undo", "last", "--yes")
    assert undone.code == Exit.REFUSED
    said = (undone.out + undone.err).splitlines()
    assert sorted(line.strip() for line in said if "no namespace" in line) == [
        f"a, b: there is no namespace '{first}' (context 'testbed')",
        f"c: there is no namespace '{second}' (context 'testbed')",
    ]


@pytest.mark.parametrize("name", ["web\n", " web", "we\x07b"])
def test_a_name_with_white_space_is_none(name: str, caller: Caller, control_plane: Plane, namespace: str) -> None:
    # What a command said, with its line end: `k8s.delete` found no such object, and said that it was so already.
    control_plane.kubectl("-n", namespace, "create", "configmap", "web")
    for action in ("k8s.delete", "k8s.label"):
        more = {"labels": {"a": "b"}} if action == "k8s.label" else {}
        with pytest.raises(PermanentError, match="has white space around it, or characters that do not print") as said:
            caller.change(action, {"namespace": namespace, "kind": "configmap", "name": name, **more})
        assert "trim" in str(said.value.hint)


@pytest.mark.parametrize(
    ("action", "given", "says"),
    [
        ("k8s.delete_pods", {"selector": "  "}, "selector: empty, it would mean every pod"),
        ("k8s.status", {}, "names, selector: give one of them"),
        ("k8s.delete", {"kind": "configmap", "name": ""}, "name: empty, it would mean every object of the kind"),
        ("k8s.rollout_undo", {"kind": "Deployment", "name": "web", "force": True}, "force: only a StatefulSet waits"),
    ],
)
def test_parameters_that_make_no_sense_together_refuse_the_run_before_its_first_change(
    control_plane: Plane, tmp_path: Path, namespace: str, action: str, given: dict[str, object], says: str
) -> None:
    control_plane.deployment(namespace, "web", "registry/web:1", wait=False)
    runbook = Commands(tmp_path, control_plane.environ())
    first = {"id": "first", "action": "k8s.scale", "with": {"namespace": namespace, "name": "web", "replicas": 3}}
    wrong = {"id": "wrong", "action": action, "with": {"namespace": namespace, **given}}
    runbook.write("p.yaml", json.dumps({"runbook": 1, "name": "p", "steps": [first, wrong]}))
    for words in (("plan", "p.yaml"), ("run", "p.yaml", "--yes")):
        said = runbook(*words)
        assert said.code == Exit.REFUSED, said.out + said.err
        assert f"wrong: {says}" in said.out
    assert control_plane.read(namespace, "deployment", "web")["spec"]["replicas"] == 2
