"""What is wrong in a playbook is one sentence that names the step and the parameter, and nothing is changed.

Whole runs against a real API server: each step by itself is wrong, the block around them goes on to the next one.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.command import Commands
from tests.testbed.plane import Plane

pytestmark = pytest.mark.control_plane

MAP = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "new"}}
POD = {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "web", "image": "r/web:1"}]}}
MOVED = {
    "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
    "spec": {"selector": {"matchLabels": {"app": "x"}}, "template": POD},
}  # fmt: skip
WEB = {"kind": "deployment", "name": "web"}


def patched(**fields: Any) -> dict[str, Any]:
    return {**WEB, "patch": fields}


def operation(op: str, path: str, value: Any) -> dict[str, Any]:
    return {**WEB, "type": "json", "patch": [{"op": op, "path": path, "value": value}]}


KIND = r"kind: the API of context testbed serves no kind '{}'; did you mean {}\?"
NOT_FOUND = r"cannot get deployments 'wbe' in namespace '\S+': deployments.apps \"wbe\" not found"
CONTEXT = r"context: the kubeconfig has no usable context 'prd'; it has testbed"
EMPTY = r"selector: empty, it would mean every \w+"
UNREADABLE = r"selector: 'app in web': .*unable to parse requirement"
NO_HISTORY = r"kind: a Service has no revisions; Deployments, StatefulSets and DaemonSets have"

NOWHERE: dict[str, dict[str, Any]] = {
    "k8s.status": {"selector": "app=web"},
    "k8s.history": {"name": "web"},
    "k8s.diff": {"manifest": MAP},
    "k8s.export": {"kinds": ["pod"], "selector": "app=web", "name": "x"},
    "k8s.logs": {"selector": "app=web"},
    "k8s.wait": {**WEB, "for": "rollout"},
    "k8s.http": {"deployment": "web", "port": 8000},
    "k8s.rollout_undo": {"name": "web"},
    "k8s.rollout_restart": {"name": "web"},
    "k8s.delete_pods": {"selector": "app=web"},
    "k8s.exec": {"deployment": "web", "command": ["true"]},
    "k8s.label": {**WEB, "labels": {"a": "b"}},
}
"""A call of each other action; all of them in a context that there is not."""

WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    # the wrong kind
    "get_kind": ("k8s.get", {"kind": "deploymnet", "name": "web"}, KIND.format("deploymnet", "deployment")),
    "patch_kind": ("k8s.patch", {"kind": "servise", "name": "web", "patch": {}}, KIND.format("servise", "service")),
    "label_kind": (
        "k8s.label",
        {"kind": "nmaespace", "name": "web", "labels": {"a": "b"}},
        KIND.format("nmaespace", "namespace"),
    ),
    "delete_kind": (
        "k8s.delete",
        {"kind": "jbo", "name": "web"},
        "kind: the API of context testbed serves no kind 'jbo'",
    ),
    "wait_kind": (
        "k8s.wait",
        {"kind": "configmap", "name": "web", "for": "rollout"},
        "for: rollout is of Deployment, ",
    ),
    "wait_pods": (
        "k8s.wait",
        {"kind": "service", "name": "web", "for": "replicas=2"},
        "for: replicas is of Deployment, ",
    ),
    "wait_traffic": ("k8s.wait", {**WEB, "for": "endpoints"}, "for: endpoints belong to a Service"),
    "history_kind": ("k8s.history", {"kind": "service", "name": "web"}, NO_HISTORY),
    "undo_kind": ("k8s.rollout_undo", {"kind": "service", "name": "web"}, NO_HISTORY),
    "restart_kind": ("k8s.rollout_restart", {"kind": "service", "name": "web"}, NO_HISTORY),
    "status_kind": (
        "k8s.status",
        {"kind": "configmap", "names": ["web"]},
        "kind: a ConfigMap has no replicas to count",
    ),
    "scale_kind": (
        "k8s.scale",
        {"kind": "configmap", "name": "web", "replicas": 1},
        "kind: a ConfigMap has no replica count",
    ),
    "export_kind": (
        "k8s.export",
        {"kinds": ["jbo"], "selector": "a=b", "name": "x"},
        "^kinds: the API .* serves no kind 'jbo'",
    ),
    "apply_kind": (
        "k8s.apply",
        {"manifest": {**MAP, "kind": "Cm"}},
        "manifest: the API of context testbed serves no kind Cm",
    ),
    "diff_kind": (
        "k8s.diff",
        {"manifest": {**MAP, "kind": "Cm"}},
        "manifest: the API of context testbed serves no kind Cm",
    ),
    # the wrong name, context
    "get_name": ("k8s.get", {**WEB, "name": "wbe"}, NOT_FOUND),
    "patch_name": ("k8s.patch", {**patched(spec={"replicas": 1}), "name": "wbe"}, NOT_FOUND),
    "wait_name": ("k8s.wait", {**WEB, "name": "wbe", "for": "rollout"}, NOT_FOUND),
    "scale_name": ("k8s.scale", {"name": "wbe", "replicas": 1}, NOT_FOUND),
    "http_name": ("k8s.http", {"deployment": "wbe", "port": 8000}, NOT_FOUND),
    "undo_name": ("k8s.rollout_undo", {"name": "wbe"}, NOT_FOUND),
    "delete_name": ("k8s.delete", {**WEB, "name": "wbe", "optional": False}, NOT_FOUND),
    "exec_name": ("k8s.exec", {"pod": "wbe", "command": ["true"]}, 'pods "wbe" not found'),
    "exec_container": (
        "k8s.exec",
        {"deployment": "web", "container": "no", "command": ["true"]},
        "container no is not valid",
    ),
    "get_context": ("k8s.get", {**WEB, "context": "prd"}, CONTEXT),
    "patch_context": ("k8s.patch", {**patched(spec={"replicas": 1}), "context": "prd"}, CONTEXT),
    "scale_context": ("k8s.scale", {"name": "web", "replicas": 1, "context": "prd"}, CONTEXT),
    "delete_context": ("k8s.delete", {**WEB, "context": "prd"}, CONTEXT),
    "apply_context": ("k8s.apply", {"manifest": MAP, "context": "prd"}, CONTEXT),
    **{f"{action[4:]}_nowhere": (action, {**given, "context": "prd"}, CONTEXT) for action, given in NOWHERE.items()},
    # the wrong path of a patch
    "patch_field": ("k8s.patch", patched(spec={"replica": 3}), r'patch: .*unknown field "spec\.replica"'),
    "patch_type": (
        "k8s.patch",
        patched(spec={"replicas": "three"}),
        "patch: cannot patch deployments 'web' .*unrecognized type: int32",
    ),
    "patch_map": (
        "k8s.patch",
        patched(spec={"replicas": {"a": 1}}),
        "patch: spec.replicas of deployments 'web' .*is no map",
    ),
    "patch_status": (
        "k8s.patch",
        patched(status={"replicas": 5}),
        "patch: the status of deployments 'web' .*is its controller's",
    ),
    "patch_label": ("k8s.patch", patched(metadata={"labels": {"a b": "c"}}), "patch: .*metadata.labels: Invalid value"),
    "patch_rename": ("k8s.patch", patched(metadata={"name": "other"}), "patch: .*does not match the name on the URL"),
    "patch_deep": (
        "k8s.patch",
        operation("replace", "/spec/nothing/x", 1),
        "patch: .*there is nothing at /spec/nothing",
    ),
    "patch_pointer": ("k8s.patch", operation("replace", "spec/replicas", 1), r"patch\[0\]: `path` is a JSON pointer"),
    "patch_form": (
        "k8s.patch",
        {**patched(spec={}), "type": "json"},
        "patch: a list of operations goes with `type: json`",
    ),
    "apply_field": (
        "k8s.apply",
        {"manifest": {**MAP, "dat": {}}},
        "manifest: ConfigMap/new does not fit its schema: .dat",
    ),
    # an immutable field
    "patch_immutable": (
        "k8s.patch",
        patched(spec={"selector": {"matchLabels": {"app": "x"}}}),
        "patch: .*field is immutable",
    ),
    "apply_immutable": ("k8s.apply", {"manifest": MOVED, "force": True}, "manifest: .*field is immutable"),
    # an empty selector, or none
    "status_empty": ("k8s.status", {"selector": " "}, EMPTY),
    "logs_empty": ("k8s.logs", {"selector": ""}, EMPTY),
    "export_empty": ("k8s.export", {"kinds": ["pod"], "selector": " ", "name": "x"}, EMPTY),
    "pods_empty": ("k8s.delete_pods", {"selector": " "}, EMPTY),
    "get_selector": ("k8s.get", {"kind": "pod", "selector": "app in web"}, UNREADABLE),
    "pods_selector": ("k8s.delete_pods", {"selector": "app in web"}, UNREADABLE),
    "pods_both": (
        "k8s.delete_pods",
        {"selector": "a=b", "deployment": "web"},
        "deployment, selector: give one of them",
    ),
    # other values
    "undo_revision": (
        "k8s.rollout_undo",
        {"name": "web", "to_revision": 9},
        r"Deployment web has no revision 9 \(it has 1\)",
    ),
    "http_port": ("k8s.http", {"service": "web", "port": 81}, r"Service web has no port 81 \(it has 80\)"),
    "label_value": ("k8s.label", {**WEB, "labels": {"a": "no spaces"}}, "labels: the value of 'a' must be"),
    "label_key": ("k8s.label", {**WEB, "labels": {"a/b/c": "x"}}, "labels: 'a/b/c' is no name"),
    "diff_path": ("k8s.diff", {"path": "nothing.yaml"}, "path: there is no file .*nothing.yaml"),
}


@pytest.fixture
def space(control_plane: Plane) -> str:
    name = control_plane.namespace()
    control_plane.deployment(name, "web", "r/web:1", replicas=1)
    control_plane.kubectl("-n", name, "expose", "deployment", "web", "--port=80")
    control_plane.kubectl("-n", name, "create", "configmap", "web")
    return name


@pytest.fixture
def cli(control_plane: Plane, tmp_path: Path) -> Commands:
    return Commands(tmp_path, control_plane.environ())


def book(space: str, steps: list[dict[str, Any]]) -> str:
    block = {"id": "all", "keep_going": True, "steps": steps}
    return yaml.safe_dump(
        {"runbook": 1, "name": "bad", "defaults": {"with": {"k8s": {"namespace": space}}}, "steps": [block]}
    )


def everything(plane: Plane, space: str) -> dict[str, str]:
    """Every object of the namespace that somebody could have changed: name -> uid and resourceVersion."""
    kinds = "deployments,replicasets,pods,services,configmaps,secrets,jobs"
    return {
        f"{item['kind']}/{item['metadata']['name']}": f"{item['metadata']['uid']}@{item['metadata']['resourceVersion']}"
        for item in plane.read(space, kinds)["items"]
    }


def test_every_wrong_step_says_what_is_wrong_and_nothing_is_changed(
    control_plane: Plane, space: str, cli: Commands
) -> None:
    cli.write(
        "bad.yaml", book(space, [{"id": name, "action": act, "with": given} for name, (act, given, _) in WRONG.items()])
    )
    before = everything(control_plane, space)
    said = cli("run", "bad.yaml", "--yes", "--no-preflight")
    assert said.code == 1, said.out + said.err
    assert everything(control_plane, space) == before
    report = json.loads(cli("show", "last", "--output", "json").out)
    steps = {step["id"]: step for step in report["steps"]}
    wrong = {}
    for name, (_, _, text) in WRONG.items():
        message = (steps[name]["error"] or {}).get("message", "")
        if steps[name]["status"] != "failed" or not re.search(text, message) or "\n" in message or len(message) > 600:
            wrong[name] = message or steps[name]["status"]
        assert f"all/{name}" in said.out, "the screen names the step"
    assert not wrong


@pytest.mark.parametrize("name", ["patch_kind", "scale_context", "undo_kind", "apply_kind"])
def test_what_preflight_sees_is_refused_before_the_first_change(
    name: str, control_plane: Plane, space: str, cli: Commands
) -> None:
    action, given, text = WRONG[name]
    steps = [
        {"id": "first", "action": "k8s.patch", "with": patched(metadata={"labels": {"first": "was"}})},
        {"id": name, "action": action, "with": given},
    ]
    cli.write("bad.yaml", yaml.safe_dump(
        {"runbook": 1, "name": "bad", "defaults": {"with": {"k8s": {"namespace": space}}}, "steps": steps}
    ))  # fmt: skip
    before = everything(control_plane, space)
    said = cli("run", "bad.yaml", "--yes")
    assert said.code == 3, said.out + said.err
    assert re.search(text, " ".join(said.out.split())), said.out
    assert name in said.out
    assert everything(control_plane, space) == before


@pytest.mark.parametrize("action", ["k8s.patch", "k8s.delete_pods", "k8s.status", "k8s.apply", "k8s.get"])
def test_an_unknown_namespace_is_refused_before_the_first_change(
    action: str, control_plane: Plane, space: str, cli: Commands
) -> None:
    given: dict[str, dict[str, Any]] = {
        "k8s.patch": patched(spec={"replicas": 1}),
        "k8s.delete_pods": {"selector": "app=web"},
        "k8s.status": {"selector": "app=web"},
        "k8s.apply": {"manifest": MAP},
        "k8s.get": {"kind": "pod"},
    }
    steps = [{"id": "wrong", "action": action, "with": {**given[action], "namespace": "shp"}}]
    cli.write("bad.yaml", yaml.safe_dump({"runbook": 1, "name": "bad", "steps": steps}))
    said = cli("run", "bad.yaml", "--yes")
    assert said.code == 3, said.out + said.err
    assert "there is no namespace 'shp' (context 'testbed')" in " ".join(said.out.split())
    assert "wrong" in said.out


def test_nothing_is_made_in_a_namespace_that_is_being_terminated(
    control_plane: Plane, space: str, cli: Commands
) -> None:
    hold = json.dumps({"metadata": {"finalizers": ["runbook.example/hold"]}})
    control_plane.kubectl("-n", space, "patch", "configmap", "web", "--type=merge", "-p", hold)
    control_plane.kubectl("delete", "namespace", space, "--wait=false")
    try:
        control_plane.until(
            lambda: (
                json.loads(control_plane.kubectl("get", "namespace", space, "-o", "json"))["status"]["phase"]
                == "Terminating"
            )
        )
        cli.write("bad.yaml", book(space, [{"id": "make", "action": "k8s.apply", "with": {"manifest": MAP}}]))
        said = cli("run", "bad.yaml", "--yes")
        assert said.code in (1, 3), said.out + said.err
        text = r"ConfigMap/new|configmaps 'new'"
        assert re.search(rf"({text}).*the namespace is being terminated", " ".join(said.out.split())), said.out
    finally:
        free = '{"metadata":{"finalizers":null}}'
        control_plane.kubectl("-n", space, "patch", "configmap", "web", "--type=merge", "-p", free)
