"""k8s.scale on a real control plane: any kind with a scale subresource, and who else sets the count."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runbook.contract import PermanentError
from tests.kube import Caller, change, meaning, opened
from tests.test_k8s_change import workload
from tests.testbed.plane import Plane

pytestmark = pytest.mark.control_plane


@pytest.fixture
def caller(control_plane: Plane, tmp_path: Path) -> Caller:
    return Caller(control_plane, tmp_path)


@pytest.fixture
def space(control_plane: Plane) -> str:
    return control_plane.namespace()


def definition(group: str, *, scalable: bool) -> dict[str, Any]:
    """A kind whose count stands at `.spec.size`, at most 9."""
    size = {"type": "integer", "maximum": 9}
    schema = {
        "type": "object",
        "properties": {
            "spec": {"type": "object", "properties": {"size": size, "name": {"type": "string"}}},
            "status": {"type": "object", "properties": {"size": {"type": "integer"}}},
        },
    }
    version: dict[str, Any] = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    if scalable:
        paths = {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size"}
        version["subresources"] = {"scale": paths, "status": {}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"widgets.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"},
            "versions": [version],
        },
    }


def widget(plane: Plane, space: str, *, scalable: bool = True) -> str:
    """Make the kind and one object of it; its name in full."""
    group = f"{space}.example"
    plane.kubectl("apply", "-f", "-", stdin=json.dumps(definition(group, scalable=scalable)))
    document = {
        "apiVersion": f"{group}/v1", "kind": "Widget", "metadata": {"name": "web"}, "spec": {"size": 2, "name": "x"},
    }  # fmt: skip

    def created() -> bool:
        try:
            plane.kubectl("-n", space, "apply", "-f", "-", stdin=json.dumps(document))
        except AssertionError:
            return False
        return True

    plane.until(created)
    return f"widgets.{group}"


def replicaset(plane: Plane, space: str) -> str:
    template = {"metadata": {"labels": {"app": "rs"}}, "spec": {"containers": [{"name": "web", "image": "r/web:1"}]}}
    spec = {"replicas": 2, "selector": {"matchLabels": {"app": "rs"}}, "template": template}
    document = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "web"}, "spec": spec}
    plane.kubectl("-n", space, "create", "-f", "-", stdin=json.dumps(document))
    return "replicasets.apps"


def of_kind(kind: str) -> Callable[[Plane, str], str]:
    def make(plane: Plane, space: str) -> str:
        plane.kubectl("-n", space, "create", "-f", "-", stdin=json.dumps(workload(kind)))
        return f"{kind}s.apps"

    return make


SCALABLE: dict[str, Callable[[Plane, str], str]] = {
    "deployment": of_kind("deployment"),
    "statefulset": of_kind("statefulset"),
    "replicaset": replicaset,
    "custom": widget,
}


@pytest.mark.parametrize("which", SCALABLE)
def test_plan_run_again_and_back(which: str, control_plane: Plane, caller: Caller, space: str) -> None:
    kind = SCALABLE[which](control_plane, space)
    whole = control_plane.read(space, kind, "web")
    given = {"namespace": space, "kind": kind, "name": "web", "replicas": 4}
    planned = caller.plan("k8s.scale", given)
    assert planned.computed is None, "the server was asked"
    assert control_plane.read(space, kind, "web")["metadata"]["generation"] == whole["metadata"]["generation"]
    assert caller.settle("k8s.scale", given, planned) == "not_done"
    made = caller.change("k8s.scale", given)
    assert (made.before, made.after) == (planned.before, planned.after)
    assert made.outputs == {"previous": 2, "replicas": 4}
    spec = control_plane.read(space, kind, "web")["spec"]
    assert spec == {**whole["spec"], "size" if which == "custom" else "replicas": 4}, "nothing else was changed"
    assert caller.settle("k8s.scale", given, planned) == "done"
    again = caller.change("k8s.scale", given)
    assert again.before == again.after, "already so"
    caller.undo(made)
    assert meaning(control_plane.read(space, kind, "web")) == meaning(whole)
    assert caller.settle("k8s.scale", given, planned) == "not_done"


def test_an_undo_waits_for_the_pods_of_a_replica_set(control_plane: Plane, caller: Caller, space: str) -> None:
    kind = replicaset(control_plane, space)
    made = caller.change("k8s.scale", {"namespace": space, "kind": kind, "name": "web", "replicas": 5})
    caller.undo(made)
    live = [pod for pod in control_plane.read(space, "pods")["items"] if not pod["metadata"].get("deletionTimestamp")]
    assert len(live) == 2


def test_to_nothing_and_back(control_plane: Plane, caller: Caller, space: str) -> None:
    control_plane.deployment(space, "web", "r/web:1")
    given = {"namespace": space, "name": "web", "replicas": 0}
    made = caller.change("k8s.scale", given)
    control_plane.until(lambda: not control_plane.read(space, "pods")["items"])
    caller.undo(made)
    assert control_plane.read(space, "deployment", "web")["status"]["readyReplicas"] == 2


def test_what_the_server_refuses_is_refused_in_the_plan(control_plane: Plane, caller: Caller, space: str) -> None:
    kind = widget(control_plane, space)
    given = {"namespace": space, "kind": kind, "name": "web", "replicas": 10}
    with pytest.raises(PermanentError, match=r"spec.size: Invalid value: 10.*less than or equal to 9") as refused:
        caller.plan("k8s.scale", given)
    assert "\n" not in refused.value.message
    assert control_plane.read(space, kind, "web")["spec"]["size"] == 2


def test_a_dry_run_that_is_forbidden_is_computed(
    control_plane: Plane, caller: Caller, space: str, tmp_path: Path
) -> None:
    control_plane.deployment(space, "web", "r/web:1", wait=False)
    control_plane.allow(space, "get=deployments.apps/scale")
    nobody = Caller(control_plane, tmp_path, user="nobody")
    given = {"namespace": space, "name": "web", "replicas": 5}
    with nobody.context() as ctx:
        action, args = opened("k8s.scale", given)
        assert [line.partition(" (")[0] for line in action.preflight(args, ctx)] == [
            f"no right to patch deployments/scale 'web' in namespace '{space}'"
        ]
    theirs, mine = nobody.plan("k8s.scale", given), caller.plan("k8s.scale", given)
    assert theirs.computed is not None
    assert "no right to patch deployments/scale" in theirs.computed
    assert (theirs.before, theirs.after) == (mine.before, mine.after)
    control_plane.allow(space, "patch=deployments.apps/scale")
    # Enough to do it: whoever may not list autoscalers or read the Deployment gets no warning of them.
    assert nobody.change("k8s.scale", given).outputs["replicas"] == 5


def test_whoever_sets_the_count_again_is_named_in_the_plan(control_plane: Plane, caller: Caller, space: str) -> None:
    control_plane.deployment(space, "web", "r/web:1", wait=False)
    control_plane.deployment(space, "other", "r/web:1", wait=False)
    control_plane.kubectl("-n", space, "autoscale", "deployment", "web", "--min=1", "--max=9")
    control_plane.kubectl("-n", space, "annotate", "deployment", "web", "argocd.argoproj.io/tracking-id=shop:a:b/c")
    control_plane.kubectl("-n", space, "label", "deployment", "web", "helm.toolkit.fluxcd.io/name=web")

    def shown(name: str, replicas: int) -> list[str]:
        with caller.context() as ctx:
            action, args = change("k8s.scale", {"namespace": space, "name": name, "replicas": replicas})
            before = action.observe(args, ctx)
            after = action.expect(args, before, ctx)
            text = action.preview(args, before, after, ctx) or ""
            assert text.splitlines() == ctx.lines, "in the step's log as well"
            return ctx.lines

    ref = f"deployments 'web' in namespace '{space}'"
    owned = f"owns the replica count of {ref}, and may set it again"
    tools = [f"warning: Argo CD (application shop) {owned}", f"warning: Flux (HelmRelease web) {owned}"]
    scaler = "warning: HorizontalPodAutoscaler web (1 to 9 replicas)"
    assert shown("web", 7) == [f"{scaler} {owned}", *tools]
    assert shown("web", 0)[0] == f"{scaler} stands still while {ref} has 0 replicas, and scales again when it has any"
    assert shown("web", 2) == [], "already so: nothing to warn of"
    assert shown("other", 7) == []


def test_a_replica_set_of_a_deployment_is_its_deployments(control_plane: Plane, caller: Caller, space: str) -> None:
    control_plane.deployment(space, "web", "r/web:1", wait=False)
    control_plane.until(lambda: bool(control_plane.read(space, "replicasets")["items"]))
    name = control_plane.read(space, "replicasets")["items"][0]["metadata"]["name"]
    planned = caller.plan("k8s.scale", {"namespace": space, "kind": "rs", "name": name, "replicas": 9})
    assert any("Deployment web owns the replica count" in line for line in planned.log)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"replicas": -1}, "replicas.*-1"),
        ({"replicas": 2**31}, "replicas"),
        ({"replicas": "many"}, "replicas"),
        ({"only": "sideways"}, "only"),
        ({"kind": "daemonset"}, r"^kind: a DaemonSet has no replica count to set"),
        ({"kind": "configmap"}, r"^kind: a ConfigMap has no replica count to set"),
        ({"kind": "pod", "name": "gone"}, 'pods "gone" not found'),
        ({"name": "gone"}, 'deployments.apps "gone" not found'),
        ({"kind": "gizmo"}, "serves no kind 'gizmo'"),
        ({"context": "other"}, "other"),
    ],
)
def test_bad_input_changes_nothing(
    given: dict[str, Any], sentence: str, control_plane: Plane, caller: Caller, space: str
) -> None:
    control_plane.kubectl("-n", space, "create", "-f", "-", stdin=json.dumps(workload("daemonset")))
    control_plane.kubectl("-n", space, "create", "configmap", "web")
    control_plane.deployment(space, "web", "r/web:1", wait=False)
    with pytest.raises(PermanentError, match=sentence) as refused:
        caller.change("k8s.scale", {"namespace": space, "name": "web", "replicas": 1, **given})
    assert "\n" not in refused.value.message
    assert control_plane.read(space, "deployment", "web")["spec"]["replicas"] == 2


def test_a_custom_kind_without_the_subresource_is_told_apart(control_plane: Plane, caller: Caller, space: str) -> None:
    kind = widget(control_plane, space, scalable=False)
    with pytest.raises(PermanentError, match=r"^kind: a Widget has no replica count to set"):
        caller.plan("k8s.scale", {"namespace": space, "kind": kind, "name": "web", "replicas": 1})
