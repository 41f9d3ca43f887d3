"""The changes of family k8s on a real control plane: plan = run, already so, undo = before, settled after a cut."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from runbook.actions._kube import cluster
from runbook.actions._kube.revisions import RESTARTED_BY
from runbook.contract import PermanentError, Sensitive, TemporaryError
from tests.kube import Caller, change, meaning, opened
from tests.testbed.plane import Plane

pytestmark = pytest.mark.control_plane


@pytest.fixture
def caller(control_plane: Plane, tmp_path: Path) -> Caller:
    return Caller(control_plane, tmp_path)


@pytest.fixture
def space(control_plane: Plane) -> str:
    return control_plane.namespace()


def service(plane: Plane, space: str, name: str = "web", **selector: str) -> None:
    document = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": selector, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    }
    plane.kubectl("-n", space, "apply", "-f", "-", stdin=json.dumps(document))


# -- k8s.patch

PATCHES: dict[str, tuple[str, dict[str, Any]]] = {
    "image": (
        "deployment",
        {"patch": {"spec": {"template": {"spec": {"containers": [{"name": "web", "image": "r/web:2"}]}}}}},
    ),
    "new container": (
        "Deployment",
        {"patch": {"spec": {"template": {"spec": {"containers": [{"name": "side", "image": "r/side:1"}]}}}}},
    ),
    "environment": (
        "deploy",
        {
            "patch": {
                "spec": {
                    "template": {
                        "spec": {"containers": [{"name": "web", "env": [{"name": "LEVEL", "value": "debug"}]}]}
                    }
                }
            }
        },
    ),
    "annotation with a path for a name": (
        "deployments",
        {"patch": {"metadata": {"annotations": {"runbook.example/retired-by": "run 1, at 10:00"}}}},
    ),
    "removed and added": (
        "deployment",
        {"patch": {"metadata": {"labels": {"app": None, "tier": "front"}}, "spec": {"minReadySeconds": 1}}},
    ),
    "whole map replaced": ("deployment", {"patch": {"metadata": {"labels": {"$patch": "replace", "only": "this"}}}}),
    "finalizers": ("deployment", {"patch": {"metadata": {"finalizers": ["runbook.example/hold"]}}}),
    "strategy that defaults remove a field of": (
        "deployment",
        {"patch": {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}},
    ),
    "merge": (
        "deployment",
        {
            "type": "merge",
            "patch": {"spec": {"revisionHistoryLimit": 3, "paused": None}, "metadata": {"labels": {"x": "1"}}},
        },
    ),
    "json": (
        "deployment",
        {
            "type": "json",
            "patch": [
                {"op": "test", "path": "/spec/replicas", "value": 2},
                {"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "r/web:3"},
                {"op": "add", "path": "/metadata/labels/a~1b", "value": "c"},
            ],
        },
    ),
    "json into a list": (
        "deployment",
        {
            "type": "json",
            "patch": [
                {
                    "op": "add",
                    "path": "/spec/template/spec/containers/-",
                    "value": {"name": "side", "image": "r/side:1"},
                },
                {
                    "op": "add",
                    "path": "/spec/template/spec/containers/0",
                    "value": {"name": "first", "image": "r/first:1"},
                },
            ],
        },
    ),
}


@pytest.mark.parametrize("case", PATCHES)
def test_a_patch_does_what_its_plan_says_and_its_undo_gives_the_object_back(
    case: str, control_plane: Plane, caller: Caller, space: str
) -> None:
    control_plane.deployment(space, "web", "r/web:1")
    kind, rest = PATCHES[case]
    given = {"namespace": space, "kind": kind, "name": "web", **rest}
    whole = control_plane.read(space, "deployment", "web")

    planned = caller.plan("k8s.patch", given)
    assert control_plane.read(space, "deployment", "web")["metadata"]["generation"] == whole["metadata"]["generation"]
    made = caller.change("k8s.patch", given)
    assert (made.before, made.after) == (planned.before, planned.after)
    assert made.before != made.after
    assert meaning(control_plane.read(space, "deployment", "web")) != meaning(whole)
    assert made.computed is None

    if case != "json into a list":  # "append" means once more
        again = caller.change("k8s.patch", given)
        assert again.before == again.after

    taken = caller.undo(made)
    assert meaning(control_plane.read(space, "deployment", "web")) == meaning(whole)
    once_more = caller.undo(made)
    assert once_more.before == once_more.after == taken.after
    assert meaning(control_plane.read(space, "deployment", "web")) == meaning(whole)


def test_a_service_is_switched_only_from_where_it_should_be(control_plane: Plane, caller: Caller, space: str) -> None:
    service(control_plane, space, app="web", slot="blue")
    given = {
        "namespace": space,
        "kind": "service",
        "name": "web",
        "patch": {"spec": {"selector": {"slot": "green"}}},
        "expect": {"spec": {"selector": {"slot": "blue"}}},
    }
    made = caller.change("k8s.patch", given)
    assert made.after == {f"k8s:testbed/{space}/Service/web#spec.selector.slot": "green"}
    assert made.outputs == {"before": {"spec.selector.slot": "blue"}, "after": {"spec.selector.slot": "green"}}
    caller.change("k8s.patch", given)  # already so: what it expected before does not matter any more

    control_plane.kubectl("-n", space, "patch", "service", "web", "-p", '{"spec":{"selector":{"slot":"red"}}}')
    with pytest.raises(PermanentError, match=r'spec\.selector\.slot should be "blue" and is "red"'):
        caller.plan("k8s.patch", given)
    with pytest.raises(PermanentError, match=r'should be "green" and is "red"'):
        caller.undo(made)


def test_others_may_change_other_fields_meanwhile(control_plane: Plane, caller: Caller, space: str) -> None:
    control_plane.deployment(space, "web", "r/web:1")
    given = {
        "namespace": space,
        "kind": "deployment",
        "name": "web",
        "patch": {"metadata": {"labels": {"tier": "front"}}},
    }
    made = caller.change("k8s.patch", given)
    control_plane.kubectl("-n", space, "label", "deployment", "web", "other=here", "--overwrite")
    control_plane.kubectl("-n", space, "scale", "deployment", "web", "--replicas=3")
    caller.undo(made)
    labels = control_plane.read(space, "deployment", "web")["metadata"]["labels"]
    assert labels == {"app": "web", "other": "here"}


def test_a_patch_is_not_sent_when_the_field_moved_after_the_plan(
    control_plane: Plane, caller: Caller, space: str
) -> None:
    service(control_plane, space, app="web", slot="blue")
    given = {"namespace": space, "kind": "service", "name": "web", "patch": {"spec": {"selector": {"slot": "green"}}}}
    with caller.context() as ctx:
        action, args = change("k8s.patch", given)
        before = action.observe(args, ctx)
        control_plane.kubectl("-n", space, "patch", "service", "web", "-p", '{"spec":{"selector":{"slot":"red"}}}')
        with pytest.raises(PermanentError, match=r'changed by someone else meanwhile.*was "blue" and is "red"'):
            action.apply(args, before, ctx)
    assert control_plane.read(space, "service", "web")["spec"]["selector"]["slot"] == "red"


def test_a_conflict_on_other_fields_is_read_again_and_tried_five_times(
    control_plane: Plane, caller: Caller, space: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    service(control_plane, space, app="web", slot="blue")
    given = {"namespace": space, "kind": "service", "name": "web", "patch": {"spec": {"selector": {"slot": "green"}}}}
    real = cluster.Cluster.patch
    sent = 0

    def disturbed(self: Any, bounds: Any, ref: Any, body: Any, patch_type: str, *, dry_run: bool = False) -> Any:
        nonlocal sent
        if not dry_run:
            sent += 1
            if sent < limit:
                control_plane.kubectl("-n", space, "label", "service", "web", f"n={sent}", "--overwrite")
        return real(self, bounds, ref, body, patch_type, dry_run=dry_run)

    monkeypatch.setattr(cluster.Cluster, "patch", disturbed)
    limit = 3
    caller.change("k8s.patch", given)
    assert sent == 3
    sent, limit = 0, 100
    with pytest.raises(TemporaryError, match="changed by others 5 times"):
        caller.change("k8s.patch", {**given, "patch": {"spec": {"selector": {"slot": "blue"}}}})
    assert sent == 5


def test_a_cut_between_request_and_answer_is_settled_both_ways(
    control_plane: Plane, caller: Caller, space: str
) -> None:
    service(control_plane, space, app="web", slot="blue")
    given = {"namespace": space, "kind": "service", "name": "web", "patch": {"spec": {"selector": {"slot": "green"}}}}
    planned = caller.plan("k8s.patch", given)
    assert caller.settle("k8s.patch", given, planned) == "not_done"
    caller.change("k8s.patch", given)
    assert caller.settle("k8s.patch", given, planned) == "done"
    control_plane.kubectl("-n", space, "patch", "service", "web", "-p", '{"spec":{"selector":{"slot":"red"}}}')
    assert caller.settle("k8s.patch", given, planned) == "unknown"


def test_an_append_whose_answer_was_lost_is_not_repeated(control_plane: Plane, caller: Caller, space: str) -> None:
    control_plane.deployment(space, "web", "r/web:1", wait=False)
    given = {"namespace": space, "kind": "deployment", "name": "web", **PATCHES["json into a list"][1]}
    with caller.context(op="run-1:add") as ctx:
        action, args = change("k8s.patch", given)
        before = action.observe(args, ctx)
        action.expect(args, before, ctx)
        action.apply(args, before, ctx)
        notes = dict(ctx.notes)
    second = caller.change("k8s.patch", given, op="run-1:add", notes=notes, attempt=2)
    assert second.before == second.after
    containers = control_plane.read(space, "deployment", "web")["spec"]["template"]["spec"]["containers"]
    assert [entry["name"] for entry in containers] == ["first", "web", "side"]


def test_a_user_who_may_only_read_gets_the_same_plan_marked_computed(
    control_plane: Plane, caller: Caller, space: str, tmp_path: Path
) -> None:
    control_plane.deployment(space, "web", "r/web:1", wait=False)
    control_plane.allow(space, "get,list=deployments.apps")
    reader = Caller(control_plane, tmp_path, user="nobody")
    for case, (kind, rest) in PATCHES.items():
        given = {"namespace": space, "kind": kind, "name": "web", **rest}
        mine, theirs = caller.plan("k8s.patch", given), reader.plan("k8s.patch", given)
        assert theirs.computed is not None, case
        assert "no right to patch deployments 'web'" in theirs.computed
        if case not in ("new container", "json into a list"):  # the server's defaults of a new container
            assert (theirs.before, theirs.after) == (mine.before, mine.after), case
    with reader.context() as ctx:
        action, args = change("k8s.patch", given)
        assert action.preflight(args, ctx) == [
            f"no right to patch deployments 'web' in namespace '{space}' (context 'testbed')"
        ]


def test_data_of_a_secret_is_sensitive_and_comes_back(control_plane: Plane, caller: Caller, space: str) -> None:
    control_plane.kubectl("-n", space, "create", "secret", "generic", "db", "--from-literal=password=before-pass")
    whole = control_plane.read(space, "secret", "db")
    given = {
        "namespace": space,
        "kind": "secret",
        "name": "db",
        "patch": {"stringData": {"password": "after-pass", "new": "x"}},
    }
    made = caller.change("k8s.patch", given)
    assert all(isinstance(value, Sensitive) for value in made.after.values())
    assert isinstance(made.before[f"k8s:testbed/{space}/Secret/db#data.password"], Sensitive)
    assert "YmVmb3JlLXBhc3M" not in repr(made.before)
    with pytest.raises(PermanentError) as refused:
        caller.change(
            "k8s.patch", {**given, "expect": {"data": {"password": "QUFB"}}, "patch": {"data": {"password": "QUJB"}}}
        )
    assert "not shown" in str(refused.value)
    caller.undo(made)
    assert meaning(control_plane.read(space, "secret", "db")) == meaning(whole)


def test_a_custom_resource_takes_merge_patches(control_plane: Plane, caller: Caller, space: str) -> None:
    group = f"{space}.example"
    control_plane.kubectl("apply", "-f", "-", stdin=json.dumps(custom_definition(group)))
    document = {
        "apiVersion": f"{group}/v1", "kind": "Route", "metadata": {"name": "api"},
        "spec": {"weights": [90, 10], "to": {"blue": 90}},
    }  # fmt: skip
    control_plane.until(lambda: _created(control_plane, space, document))
    whole = control_plane.read(space, f"routes.{group}", "api")
    given = {
        "namespace": space,
        "kind": f"route.{group}",
        "name": "api",
        "patch": {"spec": {"to": {"blue": 0, "green": 90}}},
    }
    made = caller.change("k8s.patch", given)
    assert control_plane.read(space, f"routes.{group}", "api")["spec"]["to"] == {"blue": 0, "green": 90}
    caller.undo(made)
    assert meaning(control_plane.read(space, f"routes.{group}", "api")) == meaning(whole)
    with pytest.raises(PermanentError) as refused:
        caller.plan("k8s.patch", {**given, "patch": {"spec": {"weights": [0, 100]}}})
    assert refused.value.hint is not None
    assert "type: merge" in refused.value.hint
    weights = caller.change("k8s.patch", {**given, "patch": {"spec": {"weights": [0, 100]}}, "type": "merge"})
    caller.undo(weights)
    assert meaning(control_plane.read(space, f"routes.{group}", "api")) == meaning(whole)


def custom_definition(group: str) -> dict[str, Any]:
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"routes.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": "routes", "singular": "route", "kind": "Route", "shortNames": ["rt"]},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
    }


def _created(plane: Plane, space: str, document: dict[str, Any]) -> bool:
    try:
        plane.kubectl("-n", space, "apply", "-f", "-", stdin=json.dumps(document))
    except AssertionError:
        return False
    return True


def test_what_cannot_be_patched_says_why(control_plane: Plane, caller: Caller, space: str) -> None:
    service(control_plane, space, app="web")
    base = {"namespace": space, "kind": "service", "name": "web"}
    with pytest.raises(PermanentError, match=r'unknown field "spec\.selectr"'):
        caller.plan("k8s.patch", {**base, "patch": {"spec": {"selectr": {"a": "b"}}}})
    with pytest.raises(PermanentError, match=r"'nope'.*not found"):
        caller.plan("k8s.patch", {**base, "name": "nope", "patch": {"metadata": {"labels": {"a": "b"}}}})
    with pytest.raises(PermanentError, match="did you mean service"):
        caller.plan("k8s.patch", {**base, "kind": "servise", "patch": {"metadata": {"labels": {"a": "b"}}}})
    with pytest.raises(PermanentError, match="a list of operations goes with"):
        caller.plan("k8s.patch", {**base, "type": "json", "patch": {"spec": {}}})


# -- k8s.scale


def test_scale_and_back(control_plane: Plane, caller: Caller, space: str) -> None:
    control_plane.deployment(space, "web", "r/web:1")
    whole = control_plane.read(space, "deployment", "web")
    given = {"namespace": space, "name": "web", "replicas": 5}
    planned = caller.plan("k8s.scale", given)
    assert caller.settle("k8s.scale", given, planned) == "not_done"
    made = caller.change("k8s.scale", given)
    assert (made.before, made.after) == (planned.before, planned.after)
    assert made.outputs == {"previous": 2, "replicas": 5}
    assert caller.settle("k8s.scale", given, planned) == "done"
    again = caller.change("k8s.scale", given)
    assert again.before == again.after
    assert again.outputs == {"previous": 5, "replicas": 5}
    caller.undo(made)
    assert meaning(control_plane.read(space, "deployment", "web")) == meaning(whole)
    assert caller.read("k8s.wait", {"namespace": space, "kind": "deployment", "name": "web", "for": "replicas=2"})["ok"]


@pytest.mark.parametrize(("only", "replicas", "wanted"), [("up", 1, 2), ("up", 3, 3), ("down", 3, 2), ("down", 0, 0)])
def test_scale_in_one_direction_only(
    only: str, replicas: int, wanted: int, control_plane: Plane, caller: Caller, space: str
) -> None:
    control_plane.deployment(space, "web", "r/web:1", wait=False)
    made = caller.change("k8s.scale", {"namespace": space, "name": "web", "replicas": replicas, "only": only})
    assert made.outputs["replicas"] == wanted
    assert control_plane.read(space, "deployment", "web")["spec"]["replicas"] == wanted


def test_scale_warns_of_who_will_scale_it_again(control_plane: Plane, caller: Caller, space: str) -> None:
    control_plane.deployment(space, "web", "r/web:1", wait=False)
    control_plane.kubectl("-n", space, "autoscale", "deployment", "web", "--min=1", "--max=9")
    control_plane.kubectl("-n", space, "label", "deployment", "web", "argocd.argoproj.io/instance=shop")
    planned = caller.plan("k8s.scale", {"namespace": space, "name": "web", "replicas": 7})
    assert any("HorizontalPodAutoscaler web" in line for line in planned.log)
    assert any("Argo CD" in line for line in planned.log)


def test_scale_is_refused_where_someone_scaled_meanwhile(control_plane: Plane, caller: Caller, space: str) -> None:
    control_plane.deployment(space, "web", "r/web:1", wait=False)
    with caller.context() as ctx:
        action, args = change("k8s.scale", {"namespace": space, "name": "web", "replicas": 5})
        before = action.observe(args, ctx)
        control_plane.kubectl("-n", space, "scale", "deployment", "web", "--replicas=9")
        with pytest.raises(PermanentError, match="it had 2 and has 9 replicas"):
            action.apply(args, before, ctx)


# -- k8s.rollout_undo


@pytest.fixture
def rolled(control_plane: Plane, space: str) -> str:
    """A namespace with Deployment web at revision 3, each with an image and a cause of its own."""
    control_plane.deployment(space, "web", "r/web:1")
    for number in (1, 2, 3):
        if number > 1:
            control_plane.kubectl("-n", space, "set", "image", "deployment/web", f"web=r/web:{number}")
        control_plane.kubectl(
            "-n", space, "annotate", "deployment", "web", "--overwrite", f"kubernetes.io/change-cause=v{number}"
        )
        control_plane.rolled_out(space, "web")
    return space


def test_history_says_what_serves_and_where_a_roll_back_goes(caller: Caller, rolled: str) -> None:
    found = caller.read("k8s.history", {"namespace": rolled, "name": "web"})
    assert [entry["revision"] for entry in found["revisions"]] == [1, 2, 3]
    assert found["current"]["images"] == ["r/web:3"]
    assert found["current"]["cause"] == "v3"
    assert found["target"]["revision"] == 2


def test_rollout_undo_and_back(control_plane: Plane, caller: Caller, rolled: str) -> None:
    whole = control_plane.read(rolled, "deployment", "web")
    given = {"namespace": rolled, "name": "web"}
    planned = caller.plan("k8s.rollout_undo", given)
    assert caller.settle("k8s.rollout_undo", given, planned) == "not_done"
    made = caller.change("k8s.rollout_undo", given)
    assert (made.before, made.after) == (planned.before, planned.after)
    assert made.outputs == {"from_revision": 3, "to_revision": 2, "images": ["r/web:2"]}
    control_plane.rolled_out(rolled, "web")
    # The controller has renumbered revision 2 by now: what was observed does not move by it.
    assert caller.settle("k8s.rollout_undo", given, planned) == "done"
    assert (
        control_plane.read(rolled, "deployment", "web")["metadata"]["annotations"]["kubernetes.io/change-cause"] == "v2"
    )
    caller.undo(made)
    assert meaning(control_plane.read(rolled, "deployment", "web")) == meaning(whole)


def test_two_roll_backs_in_a_row_never_return_to_the_bad_revision(
    control_plane: Plane, caller: Caller, rolled: str
) -> None:
    given = {"namespace": rolled, "name": "web"}
    assert caller.change("k8s.rollout_undo", given).outputs["images"] == ["r/web:2"]
    control_plane.rolled_out(rolled, "web")
    assert caller.change("k8s.rollout_undo", given).outputs["images"] == ["r/web:1"]
    control_plane.rolled_out(rolled, "web")
    with pytest.raises(PermanentError, match="no earlier revision"):
        caller.plan("k8s.rollout_undo", given)


def test_a_second_attempt_goes_where_the_first_one_went(control_plane: Plane, caller: Caller, rolled: str) -> None:
    given = {"namespace": rolled, "name": "web"}
    with caller.context() as ctx:
        action, args = change("k8s.rollout_undo", given)
        action.apply(args, action.observe(args, ctx), ctx)  # and its answer is lost
        notes = dict(ctx.notes)
    control_plane.rolled_out(rolled, "web")
    second = caller.change("k8s.rollout_undo", given, notes=notes, attempt=2)
    assert second.before == second.after
    assert second.outputs["images"] == ["r/web:2"]


def test_rollout_undo_to_a_revision(control_plane: Plane, caller: Caller, rolled: str) -> None:
    given = {"namespace": rolled, "name": "web", "to_revision": 1}
    assert caller.change("k8s.rollout_undo", given).outputs["images"] == ["r/web:1"]
    control_plane.rolled_out(rolled, "web")
    again = caller.change("k8s.rollout_undo", given)  # its number is 4 now; 1 still means it
    assert again.before == again.after
    with pytest.raises(PermanentError, match=r"no revision 9 \(it has 2, 3, 4\)"):
        caller.plan("k8s.rollout_undo", {**given, "to_revision": 9})
    control_plane.kubectl("-n", rolled, "rollout", "pause", "deployment/web")
    with pytest.raises(PermanentError, match="is paused"):
        caller.plan("k8s.rollout_undo", {**given, "to_revision": 2})


def test_a_restart_is_no_version(control_plane: Plane, caller: Caller, rolled: str) -> None:
    given = {"namespace": rolled, "name": "web"}
    made = caller.change("k8s.rollout_undo", given)  # 3 -> 2
    control_plane.rolled_out(rolled, "web")
    caller.change("k8s.rollout_restart", given)
    control_plane.rolled_out(rolled, "web")
    # The restart made revision 5 of version 2: neither does it stand in the way of the undo, nor is it gone back to.
    assert caller.plan("k8s.rollout_undo", given).outputs["images"] == ["r/web:1"]
    assert caller.settle("k8s.rollout_undo", given, made) == "done"
    caller.undo(made)
    assert (
        control_plane.read(rolled, "deployment", "web")["spec"]["template"]["spec"]["containers"][0]["image"]
        == "r/web:3"
    )


# -- restarts


@pytest.mark.parametrize("kind", ["deployment", "statefulset", "daemonset"])
def test_a_restart_happens_once_per_operation(kind: str, control_plane: Plane, caller: Caller, space: str) -> None:
    control_plane.kubectl("-n", space, "apply", "-f", "-", stdin=json.dumps(workload(kind)))
    given = {"namespace": space, "kind": kind, "name": "web"}
    planned = caller.plan("k8s.rollout_restart", given, op="run-1:restart")
    assert caller.settle("k8s.rollout_restart", given, planned, op="run-1:restart") == "not_done"
    made = caller.change("k8s.rollout_restart", given, op="run-1:restart")
    found = control_plane.read(space, kind, "web")
    assert found["spec"]["template"]["metadata"]["annotations"][RESTARTED_BY] == "run-1:restart"
    assert made.outputs["at"].endswith("Z")
    assert caller.settle("k8s.rollout_restart", given, made, op="run-1:restart") == "done"
    generation = found["metadata"]["generation"]
    caller.change("k8s.rollout_restart", given, op="run-1:restart")
    assert control_plane.read(space, kind, "web")["metadata"]["generation"] == generation
    caller.change("k8s.rollout_restart", given, op="run-1:restart!undo[3]")
    assert control_plane.read(space, kind, "web")["metadata"]["generation"] == generation + 1
    wait = {"namespace": space, "kind": kind, "name": "web", "for": "rollout"}
    control_plane.until(lambda: caller.read("k8s.wait", wait)["ok"])


def workload(kind: str) -> dict[str, Any]:
    names = {"deployment": "Deployment", "statefulset": "StatefulSet", "daemonset": "DaemonSet"}
    template = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "web", "image": "r/web:1"}]}}
    spec: dict[str, Any] = {"selector": {"matchLabels": {"app": "web"}}, "template": template}
    if kind != "daemonset":
        spec["replicas"] = 2
    if kind == "statefulset":
        spec["serviceName"] = "web"
    return {"apiVersion": "apps/v1", "kind": names[kind], "metadata": {"name": "web"}, "spec": spec}


def test_deleted_pods_are_the_ones_that_were_seen(control_plane: Plane, caller: Caller, space: str) -> None:
    control_plane.deployment(space, "web", "r/web:1", replicas=3)
    given = {"namespace": space, "deployment": "web"}
    planned = caller.plan("k8s.delete_pods", given)
    assert len(planned.before) == 3
    assert caller.settle("k8s.delete_pods", given, planned) == "not_done"
    victim = planned.outputs["deleted"][0]
    control_plane.kubectl("-n", space, "delete", "pod", victim, "--grace-period=0", "--force")
    assert caller.settle("k8s.delete_pods", given, planned) == "partial"
    control_plane.until(lambda: len(caller.plan("k8s.delete_pods", given).before) == 3)

    with caller.context() as ctx:
        action, args = change("k8s.delete_pods", given)
        action.apply(args, planned.before, ctx)
    assert caller.settle("k8s.delete_pods", given, planned) == "done"
    control_plane.until(lambda: len(caller.plan("k8s.delete_pods", given).before) == 3)
    names = {entry["metadata"]["name"] for entry in control_plane.read(space, "pods")["items"]}
    assert not names & set(planned.outputs["deleted"])
    # The pod that took the first one's place before the second look was not on the list, and was left alone.
    assert len(names) == 3


def test_an_empty_selector_is_refused(caller: Caller, space: str) -> None:
    for name, given in (
        ("k8s.delete_pods", {"selector": " "}),
        ("k8s.logs", {"selector": ""}),
    ):
        with pytest.raises(PermanentError, match="selector: empty"):
            caller.read(name, {"namespace": space, **given}) if name == "k8s.logs" else caller.plan(
                name, {"namespace": space, **given}
            )


# -- rights


def test_nobody_is_told_which_verb_on_which_resource(control_plane: Plane, space: str, tmp_path: Path) -> None:
    control_plane.deployment(space, "web", "r/web:1", wait=False)
    nobody = Caller(control_plane, tmp_path, user="nobody")
    calls: dict[str, tuple[dict[str, Any], str, str]] = {
        "k8s.patch": (
            {"kind": "service", "name": "web", "patch": {"spec": {}}},
            "get services 'web'",
            "patch services 'web'",
        ),
        "k8s.scale": ({"name": "web", "replicas": 1}, "get deployments/scale 'web'", "patch deployments/scale 'web'"),
        "k8s.rollout_undo": ({"name": "web"}, "get deployments 'web'", "list replicasets"),
        "k8s.rollout_restart": ({"name": "web"}, "get deployments 'web'", "patch deployments 'web'"),
        "k8s.delete_pods": ({"selector": "app=web"}, "list pods", "delete pods"),
    }
    for name, (given, first, second) in calls.items():
        with pytest.raises(PermanentError) as refused:
            nobody.plan(name, {"namespace": space, **given})
        assert f"no right to {first} in namespace '{space}'" in refused.value.message, name
        with nobody.context() as ctx:
            action, args = opened(name, {"namespace": space, **given})
            sentences = action.preflight(args, ctx)
        assert f"no right to {first} in namespace '{space}' (context 'testbed')" in sentences, name
        assert f"no right to {second} in namespace '{space}' (context 'testbed')" in sentences, name


def test_a_server_that_is_not_there_is_a_temporary_failure(control_plane: Plane, tmp_path: Path) -> None:
    caller = Caller(control_plane, tmp_path)
    gone = tmp_path / "kubeconfig"
    gone.write_text(control_plane.kubeconfig.read_text().replace(f":{control_plane.port}", ":9"))
    caller.environ["KUBECONFIG"] = str(gone)
    with pytest.raises(TemporaryError, match=r"cannot reach the Kubernetes API at https://127\.0\.0\.1:9: "):
        caller.read("k8s.get", {"namespace": "default", "kind": "pod"})
    caller.environ["KUBECONFIG"] = str(tmp_path / "nothing")
    with pytest.raises(PermanentError, match="no kubeconfig"):
        caller.read("k8s.get", {"namespace": "default", "kind": "pod"})
    caller.environ["KUBECONFIG"] = str(control_plane.kubeconfig)
    with pytest.raises(PermanentError, match="no usable context 'other'"):
        caller.read("k8s.get", {"namespace": "default", "kind": "pod", "context": "other"})


def test_no_kubectl_is_run(control_plane: Plane, space: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    control_plane.deployment(space, "web", "r/web:1", wait=False)
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **kwargs: pytest.fail("a process was started"))
    caller = Caller(control_plane, tmp_path)
    assert caller.change("k8s.scale", {"namespace": space, "name": "web", "replicas": 1}).outputs["replicas"] == 1
