"""k8s.apply on a real control plane: plan = run, already so, undo = whole objects as they were, with their owners."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from runbook.actions._manifest.documents import CREATED_BY
from runbook.contract import PermanentError, Sensitive
from tests.kube import change
from tests.manifests import NEXT, SET, Keeper, objects, same
from tests.testbed.plane import Plane

pytestmark = pytest.mark.control_plane


@pytest.fixture
def caller(control_plane: Plane, tmp_path: Path) -> Keeper:
    return Keeper(control_plane, tmp_path)


@pytest.fixture
def space(control_plane: Plane) -> str:
    return control_plane.namespace()


# -- there and back


def test_a_set_is_created_as_planned_and_an_undo_leaves_nothing(
    control_plane: Plane, caller: Keeper, space: str
) -> None:
    given = {"namespace": space, "manifest": SET}
    planned = caller.plan("k8s.apply", given)
    assert objects(control_plane, space) == {}
    assert caller.settle("k8s.apply", given, planned) == "not_done"

    made = caller.change("k8s.apply", given, op="run-7:deploy")
    assert made.before == planned.before
    assert made.outputs["created"] == ["Secret/login", "ConfigMap/app", "Service/web", "Deployment/web"]
    assert made.outputs["applied"] == made.outputs["created"]
    found = objects(control_plane, space)
    assert sorted(found) == ["ConfigMap/app", "Deployment/web", "Secret/login", "Service/web"]
    assert found["Deployment/web"]["metadata"]["annotations"][CREATED_BY] == "run-7:deploy"
    assert caller.settle("k8s.apply", given, made, op="run-7:deploy") == "done"

    again = caller.change("k8s.apply", given, op="run-8:deploy")
    assert again.before == again.after
    assert again.outputs == {"applied": [], "created": [], "pruned": []}

    caller.undo(made)
    assert objects(control_plane, space) == {}


def test_a_set_is_changed_as_planned_and_the_undo_gives_whole_objects_back(
    control_plane: Plane, caller: Keeper, space: str
) -> None:
    caller.change("k8s.apply", {"namespace": space, "manifest": SET})
    control_plane.rolled_out(space, "web")
    whole = objects(control_plane, space, owners=True)

    given = {"namespace": space, "manifest": NEXT}
    planned = caller.plan("k8s.apply", given)
    same(whole, objects(control_plane, space, owners=True))
    assert caller.settle("k8s.apply", given, planned) == "not_done"
    made = caller.change("k8s.apply", given)
    assert (made.before, made.after) == (planned.before, planned.after)
    assert made.outputs["created"] == []
    assert sorted(made.outputs["applied"]) == ["ConfigMap/app", "Deployment/web", "Secret/login", "Service/web"]
    assert caller.settle("k8s.apply", given, planned) == "done"

    now = objects(control_plane, space)
    assert now["ConfigMap/app"]["data"] == {"level": "info", "new": "no"}, "what is no longer named is removed"
    assert now["Service/web"]["spec"]["selector"] == {"app": "web"}
    containers = now["Deployment/web"]["spec"]["template"]["spec"]["containers"]
    assert [entry["name"] for entry in containers] == ["web", "side", "third"]
    assert "envFrom" not in containers[0]
    again = caller.change("k8s.apply", given)
    assert again.before == again.after

    caller.undo(made)
    same(whole, objects(control_plane, space, owners=True))
    control_plane.rolled_out(space, "web")
    assert control_plane.read(space, "deployment", "web")["status"]["readyReplicas"] == 2


def test_an_undo_can_itself_be_undone(control_plane: Plane, caller: Keeper, space: str) -> None:
    prune = {"namespace": space, "prune": "set=shop"}
    caller.change("k8s.apply", {**prune, "manifest": SET})
    without = "---".join(NEXT.split("---")[:3])  # the Service is pruned
    more = without + '---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: b, labels: {set: shop}}, data: {a: "1"}}'
    made = caller.change("k8s.apply", {**prune, "manifest": more})
    assert made.outputs["pruned"] == ["Service/web"]
    whole = objects(control_plane, space, owners=True)
    back = caller.undo(made)
    assert "Service/web" in objects(control_plane, space)
    caller.undo(back)
    same(whole, objects(control_plane, space, owners=True))


def test_what_others_own_goes_back_to_them(control_plane: Plane, caller: Keeper, space: str) -> None:
    other = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: app}\ndata: {level: debug, theirs: kept}\n"
    control_plane.kubectl("-n", space, "apply", "--server-side", "--field-manager=pipeline", "-f", "-", stdin=other)
    control_plane.kubectl("-n", space, "label", "configmap", "app", "by=hand")
    whole = objects(control_plane, space, owners=True)
    manifest = SET.split("---")[1]
    given = {"namespace": space, "manifest": manifest}
    with pytest.raises(PermanentError, match=r'^manifest, line 2: others own fields.*"pipeline".*\.data\.level') as no:
        caller.plan("k8s.apply", given)
    assert "force" in str(no.value.hint)
    same(whole, objects(control_plane, space, owners=True))

    made = caller.change("k8s.apply", {**given, "force": True})
    assert ("pipeline", "Apply") in objects(control_plane, space, owners=True)["ConfigMap/app"][1]
    assert objects(control_plane, space)["ConfigMap/app"]["data"] == {"level": "info", "old": "yes", "theirs": "kept"}
    caller.undo(made)
    same(whole, objects(control_plane, space, owners=True))
    # The pipeline still owns its field: its next apply needs no force, and removes what it no longer names.
    gone = other.replace("level: debug, ", "")
    control_plane.kubectl("-n", space, "apply", "--server-side", "--field-manager=pipeline", "-f", "-", stdin=gone)
    assert objects(control_plane, space)["ConfigMap/app"]["data"] == {"theirs": "kept"}


def test_our_own_patch_and_scale_are_no_strangers(control_plane: Plane, caller: Keeper, space: str) -> None:
    caller.change("k8s.apply", {"namespace": space, "manifest": SET})
    caller.change("k8s.scale", {"namespace": space, "name": "web", "replicas": 4})
    image = {"spec": {"template": {"spec": {"containers": [{"name": "web", "image": "registry.invalid/web:hotfix"}]}}}}
    caller.change("k8s.patch", {"namespace": space, "kind": "deployment", "name": "web", "patch": image})
    control_plane.rolled_out(space, "web")
    whole = objects(control_plane, space, owners=True)
    made = caller.change("k8s.apply", {"namespace": space, "manifest": NEXT})
    spec = objects(control_plane, space)["Deployment/web"]["spec"]
    assert (spec["replicas"], spec["template"]["spec"]["containers"][0]["image"]) == (3, "registry.invalid/web:2")
    caller.undo(made)
    same(whole, objects(control_plane, space, owners=True))


def test_what_the_server_draws_anew_is_nobodys_change(control_plane: Plane, caller: Keeper, space: str) -> None:
    service = SET.split("---")[3]
    caller.change("k8s.apply", {"namespace": space, "manifest": service})
    whole = objects(control_plane, space, owners=True)
    made = caller.change(
        "k8s.apply", {"namespace": space, "manifest": service.replace("spec:", "spec:\n  type: NodePort")}
    )
    assert objects(control_plane, space)["Service/web"]["spec"]["ports"][0]["nodePort"] > 0
    caller.undo(made)
    same(whole, objects(control_plane, space, owners=True))


def test_owning_the_same_values_too_is_a_change_and_goes_back(control_plane: Plane, caller: Keeper, space: str) -> None:
    manifest = SET.split("---")[1]
    control_plane.kubectl("-n", space, "apply", "-f", "-", stdin=manifest)
    whole = objects(control_plane, space, owners=True)
    made = caller.change("k8s.apply", {"namespace": space, "manifest": manifest})
    changed = [name.partition("#")[2] for name in made.after if made.after[name] != made.before[name]]
    assert changed == ["metadata.managedFields[manager=runbook]"]
    assert objects(control_plane, space)["ConfigMap/app"] == whole["ConfigMap/app"][0]
    caller.undo(made)
    same(whole, objects(control_plane, space, owners=True))


def test_an_undo_leaves_what_others_changed_meanwhile(control_plane: Plane, caller: Keeper, space: str) -> None:
    caller.change("k8s.apply", {"namespace": space, "manifest": SET})
    whole = objects(control_plane, space)
    made = caller.change("k8s.apply", {"namespace": space, "manifest": NEXT})
    control_plane.kubectl("-n", space, "annotate", "deployment", "web", "note=mine")
    control_plane.kubectl("-n", space, "set", "env", "deployment/web", "-c", "third", "A=b")
    control_plane.kubectl("-n", space, "patch", "configmap", "app", "-p", '{"data": {"hand": "made"}}')
    with pytest.raises(PermanentError, match=r"containers\[name=third\].* was changed by someone else"):
        caller.undo(made)
    control_plane.kubectl("-n", space, "set", "env", "deployment/web", "-c", "third", "A-")
    caller.undo(made)
    now = objects(control_plane, space)
    assert now["Deployment/web"]["metadata"]["annotations"].pop("note") == "mine"
    assert now["ConfigMap/app"]["data"].pop("hand") == "made"
    same(whole, now)


def test_what_was_pruned_is_created_again_with_its_owners(control_plane: Plane, caller: Keeper, space: str) -> None:
    given = {"namespace": space, "prune": "set=shop"}
    caller.change("k8s.apply", {**given, "manifest": SET})
    stranger = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: stranger, labels: {set: shop}}\n"
    control_plane.kubectl("-n", space, "apply", "-f", "-", stdin=stranger)
    control_plane.rolled_out(space, "web")
    whole = objects(control_plane, space, owners=True)

    planned = caller.plan("k8s.apply", {**given, "manifest": SET.split("---")[1]})
    assert sorted(planned.outputs["pruned"]) == ["Deployment/web", "Secret/login", "Service/web"]
    assert any("ConfigMap/stranger has the label, and was not applied by runbook" in line for line in planned.log)
    made = caller.change("k8s.apply", {**given, "manifest": SET.split("---")[1]})
    assert made.outputs["applied"] == []
    assert sorted(objects(control_plane, space)) == ["ConfigMap/app", "ConfigMap/stranger"]
    assert caller.settle("k8s.apply", {**given, "manifest": SET.split("---")[1]}, planned) == "done"
    again = caller.change("k8s.apply", {**given, "manifest": SET.split("---")[1]})
    assert again.before == again.after

    caller.undo(made)
    same(whole, objects(control_plane, space, owners=True))
    control_plane.rolled_out(space, "web")


# -- namespaces and definitions


DEFINITION = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: NAME}
spec:
  group: GROUP
  scope: Namespaced
  names: {plural: tables, singular: table, kind: Table}
  versions:
    - name: v1
      served: true
      storage: true
      schema:
        openAPIV3Schema:
          type: object
          properties: {spec: {type: object, properties: {legs: {type: integer}}}}
"""


def test_a_namespace_a_definition_and_its_objects_in_one_set(control_plane: Plane, caller: Keeper, space: str) -> None:
    group, own = f"{space}.example.com", f"{space}-own"
    table = {
        "apiVersion": f"{group}/v1",
        "kind": "Table",
        "metadata": {"name": "oak", "namespace": own},
        "spec": {"legs": 4},
    }
    definition = yaml.safe_load(DEFINITION.replace("GROUP", group).replace("NAME", f"tables.{group}"))
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "app"}, "data": {"a": "1"}}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": own}}
    given = {"namespace": own, "manifest": [table, config, definition, namespace]}
    planned = caller.plan("k8s.apply", given)
    assert "created by this step" in str(planned.computed)
    with caller.context() as ctx:
        action, args = change("k8s.apply", given)
        assert action.preflight(args, ctx) == []

    made = caller.change("k8s.apply", given)
    assert made.outputs["created"] == [
        f"Namespace/{own}",
        f"CustomResourceDefinition/tables.{group}",
        "ConfigMap/app",
        f"Table.{group}/oak",
    ]
    assert control_plane.read(own, f"tables.{group}", "oak")["spec"] == {"legs": 4}
    again = caller.change("k8s.apply", given)
    assert again.before == again.after
    assert again.computed is None

    wider = json.loads(json.dumps(definition).replace('"legs": {', '"wood": {"type": "string"}, "legs": {'))
    more = {**given, "manifest": [{**table, "spec": {"legs": 3, "wood": "oak"}}, config, wider, namespace]}
    changed = caller.change("k8s.apply", more)
    assert control_plane.read(own, f"tables.{group}", "oak")["spec"] == {"legs": 3, "wood": "oak"}
    caller.undo(changed)
    assert control_plane.read(own, f"tables.{group}", "oak")["spec"] == {"legs": 4}
    caller.undo(made)
    left = control_plane.kubectl("get", "namespaces,customresourcedefinitions", "--output=name")
    assert own not in left
    assert group not in left


def test_an_undo_leaves_a_namespace_in_which_others_live(control_plane: Plane, caller: Keeper, space: str) -> None:
    own = f"{space}-shared"
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": own}}
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "app"}, "data": {"a": "1"}}
    made = caller.change("k8s.apply", {"namespace": own, "manifest": [namespace, config]})
    control_plane.kubectl("-n", own, "create", "configmap", "theirs")
    undone = caller.undo(made)
    assert any("it holds ConfigMap/theirs, which this run did not create" in line for line in undone.log)
    assert list(objects(control_plane, own)) == ["ConfigMap/theirs"]


def test_what_kubectl_get_prints_is_a_manifest(control_plane: Plane, caller: Keeper, space: str) -> None:
    caller.change("k8s.apply", {"namespace": space, "manifest": SET})
    control_plane.rolled_out(space, "web")
    printed = control_plane.read(space, "deployment", "web")
    assert {"status", "metadata"} <= printed.keys()
    caller.change("k8s.apply", {"namespace": space, "manifest": printed})
    control_plane.kubectl("-n", space, "delete", "deployment", "web")
    caller.change(
        "k8s.apply", {"namespace": space, "manifest": {"apiVersion": "v1", "kind": "List", "items": [printed]}}
    )
    control_plane.rolled_out(space, "web")
    now = control_plane.read(space, "deployment", "web")
    assert now["spec"] == printed["spec"]
    assert now["metadata"]["uid"] != printed["metadata"]["uid"]


# -- what is told


def test_a_plan_warns_of_who_else_writes_and_of_who_uses_it(control_plane: Plane, caller: Keeper, space: str) -> None:
    argo = "metadata: {name: web, annotations: {argocd.argoproj.io/tracking-id: 'shop:apps/Deployment:x/web'}, "
    caller.change("k8s.apply", {"namespace": space, "manifest": SET.replace("metadata: {name: web, ", argo, 1)})
    control_plane.kubectl("-n", space, "autoscale", "deployment", "web", "--min=1", "--max=9")
    planned = caller.plan("k8s.apply", {"namespace": space, "manifest": NEXT, "prune": "set=shopp"})
    told = "\n".join(planned.log)
    assert "HorizontalPodAutoscaler web" in told
    assert "leave spec.replicas out of the manifest" in told
    assert "Argo CD" in told
    assert "Deployment/web has ConfigMap/app in its environment: it goes on with the old one until" in told
    assert "ConfigMap/app does not match 'set=shopp'" in told


def test_a_diff_says_the_same_and_shows_no_secret(control_plane: Plane, caller: Keeper, space: str) -> None:
    caller.change("k8s.apply", {"namespace": space, "manifest": SET, "prune": "set=shop"})
    whole = objects(control_plane, space, owners=True)
    given = {"namespace": space, "manifest": "---".join(NEXT.split("---")[:3]), "prune": "set=shop"}
    found = caller.read("k8s.diff", given)
    planned = caller.plan("k8s.apply", given)
    assert found["pruned"] == planned.outputs["pruned"] == ["Service/web"]
    assert [entry["object"] for entry in found["changed"]] == planned.outputs["applied"]
    assert found["used_by"] == [{"object": "ConfigMap/app", "by": "Deployment/web", "as": "env"}]
    assert found["summary"] == "0 to create, 3 to change, 1 to prune, 0 as they are"
    places = {entry["object"]: entry["places"] for entry in found["changed"]}
    assert places["ConfigMap/app"]["data.old"] == {"before": "yes", "after": None}
    secret = places["Secret/login"]["data.password"]
    assert isinstance(secret["before"], Sensitive)
    assert isinstance(secret["after"], Sensitive)
    assert secret["before"] != secret["after"]
    same(whole, objects(control_plane, space, owners=True))


def test_a_diff_that_is_too_much_is_cut_by_objects(caller: Keeper, space: str) -> None:
    long = {str(number): "x" * 1000 for number in range(300)}
    maps = [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}
        for name, data in (("a", long), ("b", long), ("c", {"x": "1"}))
    ]
    found = caller.read("k8s.diff", {"namespace": space, "manifest": maps})
    assert [(entry["object"], entry["truncated"]) for entry in found["changed"]] == [
        ("ConfigMap/a", False),
        ("ConfigMap/b", True),
        ("ConfigMap/c", False),
    ]
    assert len(json.dumps(found)) < 1 << 20


def test_what_a_set_says_about_secrets_is_sensitive(caller: Keeper, space: str) -> None:
    caller.change("k8s.apply", {"namespace": space, "manifest": SET})
    planned = caller.plan("k8s.apply", {"namespace": space, "manifest": NEXT})
    for observation in (planned.before, planned.after):
        places = {name: state for name, state in observation.items() if "/Secret/" in name}
        assert isinstance(places[f"k8s:testbed/{space}/Secret/login#data.password"], Sensitive)
        assert not [
            name for name, state in places.items() if "#data" in name and state and not isinstance(state, Sensitive)
        ]
    assert "kept" in planned.inverse.args  # type: ignore[union-attr]
    assert "battery" not in json.dumps(dict(planned.inverse.args))  # type: ignore[union-attr]
