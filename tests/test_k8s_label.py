"""k8s.label on a real control plane: exactly the labels and annotations named, and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runbook.contract import PermanentError
from tests.kube import Caller, change, meaning, opened
from tests.testbed.plane import Plane

pytestmark = pytest.mark.control_plane

CHANGES: dict[str, dict[str, Any]] = {
    "new": {"labels": {"tier": "web", "example.com/owner": "shop"}},
    "over": {"labels": {"app": "other"}, "annotations": {"note": "b"}},
    "removed": {"labels": {"app": None}, "annotations": {"note": None}},
    "removed and not there": {"labels": {"app": None, "never": None}},
    "empty": {"labels": {"app": ""}, "annotations": {"note": "", "new": ""}},
    "first annotation": {"annotations": {"example.com/why": 'it\'s "so"\n{{ not a template }}\u2028'}},
    "all": {"labels": {"app": None, "a.b-c/D_e.f": "1.2_3-4"}, "annotations": {"note": "c", "x": "y"}},
}


@pytest.fixture
def caller(control_plane: Plane, tmp_path: Path) -> Caller:
    return Caller(control_plane, tmp_path)


@pytest.fixture(scope="module")
def space(control_plane: Plane) -> str:
    return control_plane.namespace()


def made(plane: Plane, space: str, name: str, **metadata: Any) -> dict[str, Any]:
    """A ConfigMap and what is to be said of it."""
    document = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, **metadata}, "data": {"k": "v"}}
    plane.kubectl("-n", space, "create", "-f", "-", stdin=json.dumps(document))
    return {"namespace": space, "kind": "configmap", "name": name}


@pytest.mark.parametrize("case", CHANGES)
def test_plan_run_again_and_back(case: str, control_plane: Plane, caller: Caller, space: str) -> None:
    name = case.replace(" ", "-")
    annotations = {} if case == "first annotation" else {"annotations": {"note": "a", "kept": "k"}}
    base = made(control_plane, space, name, labels={"app": "web", "kept": "k"}, **annotations)
    given = {**base, **CHANGES[case]}
    whole = control_plane.read(space, "configmap", name)
    planned = caller.plan("k8s.label", given)
    assert control_plane.read(space, "configmap", name) == whole, "a plan changes nothing"
    assert caller.settle("k8s.label", given, planned) == "not_done"
    done = caller.change("k8s.label", given)
    assert (done.before, done.after) == (planned.before, planned.after)
    found = control_plane.read(space, "configmap", name)["metadata"]
    for where in ("labels", "annotations"):
        wanted = {**(whole["metadata"].get(where) or {}), **CHANGES[case].get(where, {})}
        assert (found.get(where) or {}) == {key: value for key, value in wanted.items() if value is not None}
    assert caller.settle("k8s.label", given, planned) == "done"
    again = caller.change("k8s.label", given)
    assert again.before == again.after, "already so"
    caller.undo(done)
    assert meaning(control_plane.read(space, "configmap", name)) == meaning(whole)
    assert caller.settle("k8s.label", given, planned) == "not_done"


def test_the_inverse_leaves_what_somebody_else_wrote(control_plane: Plane, caller: Caller, space: str) -> None:
    base = made(control_plane, space, "theirs", labels={"app": "web"})
    done = caller.change("k8s.label", {**base, "labels": {"app": "ours", "new": "x"}})
    control_plane.kubectl("-n", space, "label", "configmap", "theirs", "--overwrite", "app=theirs", "other=y")
    assert caller.settle("k8s.label", {**base, "labels": {"app": "ours", "new": "x"}}, done) == "unknown"
    with pytest.raises(PermanentError, match=r'labels\.app should be "ours" and is "theirs"'):
        caller.undo(done)
    labels = control_plane.read(space, "configmap", "theirs")["metadata"]["labels"]
    assert labels == {"app": "theirs", "new": "x", "other": "y"}


def test_a_pod_is_taken_out_of_its_service_and_put_back(control_plane: Plane, caller: Caller, space: str) -> None:
    control_plane.deployment(space, "web", "r/web:1", replicas=1)
    first = control_plane.read(space, "pods", "-l", "app=web")["items"][0]["metadata"]
    given = {"namespace": space, "kind": "pod", "name": first["name"], "labels": {"app": "quarantine"}}
    done = caller.change("k8s.label", given)
    assert done.outputs == {"before": {"metadata.labels.app": "web"}, "after": {"metadata.labels.app": "quarantine"}}
    control_plane.until(lambda: len(control_plane.read(space, "pods", "-l", "app=web")["items"]) == 1)
    assert control_plane.read(space, "pods", "-l", "app=web")["items"][0]["metadata"]["name"] != first["name"]
    caller.undo(done)
    assert control_plane.read(space, "pod", first["name"])["metadata"]["labels"] == first["labels"]


def test_cluster_wide_objects_and_rights(control_plane: Plane, space: str, tmp_path: Path) -> None:
    admin = Caller(control_plane, tmp_path)
    given = {"namespace": space, "kind": "namespace", "name": space, "labels": {"paged": "yes"}}
    done = admin.change("k8s.label", given)
    assert list(done.before) == [f"k8s:testbed//Namespace/{space}#metadata.labels.paged"]
    admin.undo(done)
    nobody = Caller(control_plane, tmp_path, user="nobody")
    with nobody.context() as ctx:
        action, args = opened("k8s.label", given)
        lacking = action.preflight(args, ctx)
    assert [line.partition(" (")[0] for line in lacking] == [
        f"no right to get namespaces '{space}'",
        f"no right to patch namespaces '{space}'",
    ]


def test_where_a_dry_run_is_forbidden_it_is_computed(control_plane: Plane, space: str, tmp_path: Path) -> None:
    base = made(control_plane, space, "reader", labels={"app": "web"})
    control_plane.allow(space, "get=configmaps")
    nobody = Caller(control_plane, tmp_path, user="nobody")
    given = {**base, "labels": {"app": None, "new": "x"}}
    planned = nobody.plan("k8s.label", given)
    assert planned.computed is not None
    assert "no right to patch configmaps 'reader'" in planned.computed
    mine = Caller(control_plane, tmp_path).plan("k8s.label", given)
    assert (planned.before, planned.after) == (mine.before, mine.after)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "labels, annotations: give at least one"),
        ({"labels": {"a b": "x"}}, "labels: 'a b' is no name"),
        ({"annotations": {"UPPER.com/x": "x"}}, "annotations: 'UPPER.com/x' is no name"),
        ({"labels": {"/x": "x"}}, "labels: '/x' is no name"),
        ({"labels": {"app": "a b"}}, "labels: the value of 'app' must be"),
        ({"labels": {"app": "x" * 64}}, "labels: the value of 'app' must be"),
        ({"labels": {"app": [1]}}, "labels"),
        ({"annotations": {"a": "x" * (256 * 1024)}}, "annotations: more than 262144 bytes"),
        ({"kind": "gizmo", "labels": {"a": "b"}}, "serves no kind 'gizmo'"),
        ({"name": "gone", "labels": {"a": "b"}}, 'configmaps "gone" not found'),
    ],
)
def test_bad_input_changes_nothing(given: dict[str, Any], sentence: str, caller: Caller, space: str) -> None:
    with pytest.raises(PermanentError, match=sentence) as refused:
        caller.change("k8s.label", {"namespace": space, "kind": "configmap", "name": "any", **given})
    assert "\n" not in refused.value.message


def test_a_label_that_is_refused_by_the_server_is_refused_in_the_plan(
    control_plane: Plane, caller: Caller, space: str
) -> None:
    made(control_plane, space, "guarded")
    policy = f"no-owner-{space}"
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": ["configmaps"]}
    where = {"matchLabels": {"kubernetes.io/metadata.name": space}}
    for document in (
        {
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": policy},
            "spec": {
                "matchConstraints": {"resourceRules": [rule], "namespaceSelector": where},
                "validations": [
                    {"expression": "!has(object.metadata.labels) || !('owner' in object.metadata.labels)",
                     "message": "owners are set by the registry"}
                ],
            },
        },
        {
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": policy}, "spec": {"policyName": policy, "validationActions": ["Deny"]},
        },
    ):  # fmt: skip
        control_plane.kubectl("apply", "-f", "-", stdin=json.dumps(document))
    given = {"namespace": space, "kind": "configmap", "name": "guarded", "labels": {"owner": "me"}}

    def refused() -> bool:
        with caller.context() as ctx:
            action, args = change("k8s.label", given)
            try:
                action.expect(args, action.observe(args, ctx), ctx)
            except PermanentError as error:
                assert "owners are set by the registry" in error.message  # noqa: PT017  # it takes effect in its time
                return True
        return False

    control_plane.until(refused)
    assert "owner" not in (control_plane.read(space, "configmap", "guarded")["metadata"].get("labels") or {})
