"""Roll-back and restart of Deployments, StatefulSets and DaemonSets on a real control plane."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import runbook
from runbook.actions._kube.cluster import connect
from runbook.actions._kube.kinds import Ref
from runbook.actions._kube.reasons import LAST_LOOK
from runbook.contract import PermanentError, TemporaryError
from runbook.runner.session import Ended, Options, World
from runbook.runner.store import Store
from runbook.runner.surroundings import Real
from tests.kube import Caller, Made, change, meaning, opened
from tests.testbed.plane import Plane

pytestmark = pytest.mark.control_plane

KINDS = {"deployment": "Deployment", "statefulset": "StatefulSet", "daemonset": "DaemonSet"}
KEPT = ["statefulset", "daemonset"]  # those whose revisions are ControllerRevisions


@pytest.fixture
def caller(control_plane: Plane, tmp_path: Path) -> Caller:
    return Caller(control_plane, tmp_path)


@pytest.fixture
def space(control_plane: Plane) -> str:
    return control_plane.namespace()


def workload(kind: str, image: str = "r/web:1", **spec: Any) -> dict[str, Any]:
    template = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "web", "image": image}]}}
    body: dict[str, Any] = {"selector": {"matchLabels": {"app": "web"}}, "template": template, **spec}
    if kind != "daemonset":
        body.setdefault("replicas", 2)
    if kind == "statefulset":
        body["serviceName"] = "web"
    return {"apiVersion": "apps/v1", "kind": KINDS[kind], "metadata": {"name": "web"}, "spec": body}


def rolled_out(plane: Plane, space: str, kind: str) -> None:
    plane.kubectl("-n", space, "rollout", "status", f"{kind}/web", "--timeout=60s")


def roll(plane: Plane, space: str, kind: str, image: str) -> None:
    """A new version, and its roll-out; in a second of its own, as ages of revisions are counted in seconds."""
    began = int(time.time())
    plane.until(lambda: int(time.time()) > began)
    plane.kubectl("-n", space, "set", "image", f"{kind}/web", f"web={image}")
    rolled_out(plane, space, kind)


def rolled(plane: Plane, space: str, kind: str, versions: int = 3, **spec: Any) -> dict[str, Any]:
    """A workload at its third revision; how to call it."""
    plane.kubectl("-n", space, "create", "-f", "-", stdin=json.dumps(workload(kind, **spec)))
    rolled_out(plane, space, kind)
    for number in range(2, versions + 1):
        roll(plane, space, kind, f"r/web:{number}")
    return {"namespace": space, "kind": kind, "name": "web"}


def unschedulable(plane: Plane, space: str) -> bool:
    """Does a pod wait for a node that is not there?"""
    return any(
        entry.get("reason") == "Unschedulable"
        for pod in plane.read(space, "pods")["items"]
        for entry in pod["status"].get("conditions") or ()
    )


def image(found: Mapping[str, Any]) -> str:
    return str(found["spec"]["template"]["spec"]["containers"][0]["image"])


@pytest.mark.parametrize("kind", KEPT)
def test_back_and_forth(kind: str, control_plane: Plane, caller: Caller, space: str) -> None:
    given = rolled(control_plane, space, kind)
    whole = control_plane.read(space, kind, "web")
    history = caller.read("k8s.history", given)
    assert [(entry["revision"], entry["images"]) for entry in history["revisions"]] == [
        (number, [f"r/web:{number}"]) for number in (1, 2, 3)
    ]
    assert (history["current"]["revision"], history["target"]["revision"]) == (3, 2)
    status = caller.read("k8s.status", {"namespace": space, "kind": kind, "names": ["web"]})
    assert (status["workloads"][0]["revision"], status["all_ready"]) == (3, True)

    planned = caller.plan("k8s.rollout_undo", given)
    assert meaning(control_plane.read(space, kind, "web")) == meaning(whole), "a plan changes nothing"
    assert planned.computed is None, "the server was asked"
    assert caller.settle("k8s.rollout_undo", given, planned) == "not_done"
    made = caller.change("k8s.rollout_undo", given)
    assert (made.before, made.after) == (planned.before, planned.after)
    assert made.outputs == {"from_revision": 3, "to_revision": 2, "images": ["r/web:2"]}
    rolled_out(control_plane, space, kind)
    # The controller has renumbered revision 2 by now, and keeps no note of it.
    control_plane.until(lambda: caller.read("k8s.history", given)["current"]["revision"] == 4)
    assert [entry["revision"] for entry in caller.read("k8s.history", given)["revisions"]] == [1, 3, 4]
    assert caller.settle("k8s.rollout_undo", given, planned) == "done"
    caller.undo(made)
    assert meaning(control_plane.read(space, kind, "web")) == meaning(whole)
    assert caller.settle("k8s.rollout_undo", given, planned) == "not_done"
    assert caller.read("k8s.history", given)["target"]["images"] == ["r/web:2"]


@pytest.mark.parametrize("kind", KEPT)
def test_two_roll_backs_never_return_to_what_was_left(
    kind: str, control_plane: Plane, caller: Caller, space: str
) -> None:
    given = rolled(control_plane, space, kind)
    assert caller.change("k8s.rollout_undo", given).outputs["images"] == ["r/web:2"]
    rolled_out(control_plane, space, kind)
    assert caller.change("k8s.rollout_undo", given).outputs["images"] == ["r/web:1"]
    rolled_out(control_plane, space, kind)
    with pytest.raises(PermanentError, match=r"has no earlier revision"):
        caller.plan("k8s.rollout_undo", given)
    roll(control_plane, space, kind, "r/web:bad")
    # What served before the bad one is 1, rolled back to; not 3, which is the newest by age.
    assert caller.plan("k8s.rollout_undo", given).outputs["images"] == ["r/web:1"]


def of_one_second(plane: Plane, space: str, kind: str, caller: Caller) -> dict[str, Any]:
    """A workload with a good and a bad revision, both made in the same second; how to call it."""
    kept = "replicasets" if kind == "deployment" else "controllerrevisions"
    for number in range(40):
        name = f"web-{number}"
        given = {"namespace": space, "kind": kind, "name": name}
        body = workload(kind, "r/web:good")
        body["metadata"]["name"] = name
        body["spec"]["selector"]["matchLabels"] = body["spec"]["template"]["metadata"]["labels"] = {"app": name}
        second = int(time.time())
        plane.until(lambda second=second: int(time.time()) > second)  # type: ignore[misc]  # bound early
        with caller.context() as ctx:
            cluster = connect(ctx, "current")
            ref = Ref(cluster.kind(ctx, kind), space, name)
            history = Ref(cluster.kind(ctx, kept), space)
            cluster.create(ctx, Ref(ref.kind, space), body)
            plane.until(lambda: len(cluster.select(ctx, history, f"app={name}")) == 1)
            bad = {"spec": {"template": {"spec": {"containers": [{"name": "web", "image": "r/web:bad"}]}}}}
            cluster.patch(ctx, ref, bad, "strategic")
            plane.until(lambda: len(cluster.select(ctx, history, f"app={name}")) == 2)
            born = {entry["metadata"]["creationTimestamp"] for entry in cluster.select(ctx, history, f"app={name}")}
        if len(born) == 1:
            return given
    raise AssertionError("no two revisions within one second in forty attempts: too slow a machine")


@pytest.mark.parametrize("kind", KINDS)
def test_of_two_revisions_of_one_second_the_bad_one_never_comes_back(
    kind: str, control_plane: Plane, caller: Caller, space: str
) -> None:
    given = of_one_second(control_plane, space, kind, caller)
    assert caller.change("k8s.rollout_undo", given).outputs["images"] == ["r/web:good"]
    control_plane.until(lambda: caller.read("k8s.history", given)["current"]["revision"] == 3)
    told = r"has no earlier revision"
    if kind in KEPT:
        told = r"which revision came before 3, nobody can tell: 2 was made in the same second"
        with caller.context() as ctx:
            action, args = opened("k8s.history", given)
            assert action.read(args, ctx)["target"] is None  # type: ignore[attr-defined]
            assert any("no target: which revision came before 3" in line for line in ctx.lines)
    with pytest.raises(PermanentError, match=told) as refused:
        caller.change("k8s.rollout_undo", given)
    assert image(control_plane.read(space, kind, given["name"])) == "r/web:good"
    if kind in KEPT:
        assert refused.value.hint == "give `to_revision` (2: r/web:bad, 3: r/web:good)"
        chosen = caller.change("k8s.rollout_undo", {**given, "to_revision": 3})
        assert chosen.before == chosen.after, "already so"


@pytest.mark.parametrize("kind", KEPT)
def test_a_second_attempt_goes_where_the_first_one_went(
    kind: str, control_plane: Plane, caller: Caller, space: str
) -> None:
    given = {**rolled(control_plane, space, kind), "to_revision": 2}
    with caller.context() as ctx:
        action, args = change("k8s.rollout_undo", given)
        before = action.observe(args, ctx)
        after = action.expect(args, before, ctx)
        action.apply(args, before, ctx)  # and its answer is lost
        notes = dict(ctx.notes)
    rolled_out(control_plane, space, kind)
    # There is no revision 2 any more: it is 4 now.
    second = caller.change("k8s.rollout_undo", given, notes=notes, attempt=2)
    assert second.before == second.after == after


@pytest.mark.parametrize("kind", KEPT)
def test_a_restart_is_no_version(kind: str, control_plane: Plane, caller: Caller, space: str) -> None:
    given = rolled(control_plane, space, kind)
    began = int(time.time())
    control_plane.until(lambda: int(time.time()) > began)
    caller.change("k8s.rollout_restart", given, op="run-1:restart")
    rolled_out(control_plane, space, kind)
    whole = control_plane.read(space, kind, "web")
    made = caller.change("k8s.rollout_undo", given)
    assert made.outputs["images"] == ["r/web:2"]
    rolled_out(control_plane, space, kind)
    caller.undo(made)
    # Back to the very template, with the mark of its restart.
    assert meaning(control_plane.read(space, kind, "web")) == meaning(whole)


@pytest.mark.parametrize("kind", KINDS)
def test_restarted_once_and_settled(kind: str, control_plane: Plane, caller: Caller, space: str) -> None:
    control_plane.kubectl("-n", space, "create", "-f", "-", stdin=json.dumps(workload(kind)))
    rolled_out(control_plane, space, kind)
    pods = {pod["metadata"]["uid"] for pod in control_plane.read(space, "pods")["items"]}
    given = {"namespace": space, "kind": kind, "name": "web"}
    made = caller.change("k8s.rollout_restart", given, op="run-1:again")
    with caller.context(op="run-1:again") as ctx:
        action, args = change("k8s.rollout_restart", given)
        control_plane.until(lambda: action.effective(args, made.after, ctx))
    now = {
        pod["metadata"]["uid"]
        for pod in control_plane.read(space, "pods")["items"]
        if not pod["metadata"].get("deletionTimestamp")
    }
    assert pods.isdisjoint(now)
    assert caller.settle("k8s.rollout_restart", given, made, op="run-1:again") == "done"
    second = caller.change("k8s.rollout_restart", given, op="run-1:again")
    assert second.before == second.after


def test_a_restart_that_was_killed_before_it_noted_its_moment(control_plane: Plane, caller: Caller, space: str) -> None:
    control_plane.kubectl("-n", space, "create", "-f", "-", stdin=json.dumps(workload("statefulset")))
    given = {"namespace": space, "kind": "statefulset", "name": "web"}
    planned = caller.plan("k8s.rollout_restart", given, op="run-1:killed")
    began = int(time.time())
    control_plane.until(lambda: int(time.time()) > began)
    second = caller.change("k8s.rollout_restart", given, op="run-1:killed")
    assert second.after != planned.after
    assert caller.settle("k8s.rollout_restart", given, planned, op="run-1:killed") == "done"
    assert caller.settle("k8s.rollout_restart", given, planned, op="run-1:other") == "unknown"


# -- what holds a roll-out up


@pytest.mark.parametrize("kind", KINDS)
def test_a_way_back_that_never_becomes_ready_ends_with_the_reason_of_its_pods(
    kind: str, control_plane: Plane, caller: Caller, space: str
) -> None:
    given = rolled(control_plane, space, kind, versions=2)
    made = caller.change("k8s.rollout_undo", given)
    rolled_out(control_plane, space, kind)
    nowhere: dict[str, Any] = {"spec": {"template": {"spec": {"nodeSelector": {"disk": "none"}}}}}
    if kind == "daemonset":  # its nodes are chosen by the selector: none is not a pod that waits
        nowhere = {"spec": {"template": {"spec": {"containers": [
            {"name": "web", "image": "r/web:2", "resources": {"requests": {"cpu": "1M"}}}]}}}}  # fmt: skip
    assert made.inverse is not None
    control_plane.kubectl("-n", space, "patch", kind, "web", "--type=strategic", "-p", json.dumps(nowhere))
    control_plane.until(lambda: unschedulable(control_plane, space))
    with caller.context() as ctx:
        action, args = change(made.inverse.action, made.inverse.args)
        assert not action.effective(args, made.after, ctx), "there is time left"
    with caller.context(seconds=LAST_LOOK) as ctx, pytest.raises(TemporaryError) as late:
        action.effective(args, made.after, ctx)
    assert "has not rolled out in time" in late.value.message
    assert "pod web-" in late.value.message
    assert "Unschedulable: 0/1 nodes are available" in late.value.message
    assert ("delete that one" in late.value.message) == (kind == "statefulset")


def run(plane: Plane, folder: Path, *steps: dict[str, Any]) -> Ended:
    path = folder / "one.yaml"
    path.write_text(json.dumps({"runbook": 1, "name": "one", "steps": steps}))
    world = World(store=Store(folder / "home"), surroundings=Real(plane.environ()))
    ended: Ended = runbook.run(path, world=world, options=Options(yes=True))
    return ended


@pytest.mark.parametrize("limit", [None, 1], ids=["its deadline", "its progress deadline"])
def test_a_wait_for_what_never_becomes_ready_ends_with_the_reason_of_its_pods(
    limit: int | None, control_plane: Plane, space: str, tmp_path: Path
) -> None:
    broken = workload("deployment", progressDeadlineSeconds=limit or 600)
    broken["spec"]["template"]["spec"]["nodeSelector"] = {"disk": "none"}
    control_plane.kubectl("-n", space, "create", "-f", "-", stdin=json.dumps(broken))
    control_plane.until(lambda: unschedulable(control_plane, space))
    wait = {"namespace": space, "kind": "deployment", "name": "web", "for": "rollout"}
    step = {"id": "it", "action": "k8s.wait", "with": wait, "timeout": "3s" if limit is None else "60s"}
    ended = run(control_plane, tmp_path, step)
    assert ended.status == "failed"
    assert ended.outcome is not None
    assert ended.outcome.error is not None
    said = ended.outcome.error.message
    assert ("0 of 2 available" if limit is None else "ProgressDeadlineExceeded") in said
    assert "pods web-" in said
    assert "Unschedulable: 0/1 nodes are available" in said


def test_a_paused_deployment_is_neither_rolled_back_nor_restarted(
    control_plane: Plane, caller: Caller, space: str
) -> None:
    given = rolled(control_plane, space, "deployment", versions=2)
    control_plane.kubectl("-n", space, "rollout", "pause", "deployment/web")
    whole = control_plane.read(space, "deployment", "web")
    for name in ("k8s.rollout_undo", "k8s.rollout_restart"):
        with pytest.raises(PermanentError, match=r"deployments 'web' in namespace .* is paused"):
            caller.plan(name, given)
    assert meaning(control_plane.read(space, "deployment", "web")) == meaning(whole)


def test_what_the_template_alone_does_not_replace_is_said(control_plane: Plane, caller: Caller, space: str) -> None:
    later: dict[str, Any] = {"updateStrategy": {"type": "OnDelete"}}
    control_plane.kubectl("-n", space, "create", "-f", "-", stdin=json.dumps(workload("statefulset", **later)))
    given = {"namespace": space, "kind": "statefulset", "name": "web"}
    control_plane.until(lambda: len(caller.read("k8s.history", given)["revisions"]) == 1)
    control_plane.kubectl("-n", space, "set", "image", "statefulset/web", "web=r/web:2")
    control_plane.until(lambda: len(caller.read("k8s.history", given)["revisions"]) == 2)
    planned = caller.plan("k8s.rollout_undo", given)
    assert any("replaces no pod by itself (updateStrategy OnDelete)" in line for line in planned.log)
    some = {"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 1}}}
    control_plane.kubectl("-n", space, "patch", "statefulset", "web", "-p", json.dumps({"spec": some}))
    planned = caller.plan("k8s.rollout_undo", given)
    assert any("keeps its first 1 pods as they are (updateStrategy partition)" in line for line in planned.log)


def test_a_stateful_set_that_waits_for_a_broken_pod_says_so(control_plane: Plane, caller: Caller, space: str) -> None:
    given = rolled(control_plane, space, "statefulset", versions=1)
    nowhere = {"spec": {"template": {"spec": {"nodeSelector": {"disk": "none"}}}}}
    control_plane.kubectl("-n", space, "patch", "statefulset", "web", "-p", json.dumps(nowhere))
    control_plane.until(lambda: unschedulable(control_plane, space))
    with caller.context() as ctx:
        action, args = change("k8s.rollout_undo", given)
        before = action.observe(args, ctx)
        after = action.expect(args, before, ctx)
        shown = action.preview(args, before, after, ctx) or ""
        assert "replaces none while one is not ready; `force` deletes those of another template" in shown
        assert "Unschedulable" in shown
        assert shown in "\n".join(ctx.lines)


def stuck(plane: Plane, caller: Caller, space: str) -> dict[str, Any]:
    """A StatefulSet whose second version has no node; how to call it."""
    given = rolled(plane, space, "statefulset", versions=1)
    began = int(time.time())
    plane.until(lambda: int(time.time()) > began)
    nowhere = {"spec": {"template": {"spec": {"nodeSelector": {"disk": "none"}}}}}
    plane.kubectl("-n", space, "patch", "statefulset", "web", "-p", json.dumps(nowhere))
    plane.until(lambda: unschedulable(plane, space))
    return given


def test_a_forced_roll_back_deletes_what_a_stateful_set_waits_for(
    control_plane: Plane, caller: Caller, space: str
) -> None:
    given = stuck(control_plane, caller, space)
    broken = control_plane.read(space, "pod", "web-1")["metadata"]
    good = control_plane.read(space, "pod", "web-0")["metadata"]
    # Without force the template is put back, and nothing comes of it.
    plain = caller.change("k8s.rollout_undo", given)
    assert caller.settle("k8s.rollout_undo", given, plain) == "done"
    forced = {**given, "force": True, "to_revision": caller.read("k8s.history", given)["current"]["revision"]}
    planned = caller.plan("k8s.rollout_undo", forced)
    (place,) = (name for name in planned.before if planned.before[name] != planned.after[name])
    assert (planned.before[place], planned.after[place]) == ([f"web-1@{broken['uid']}"], [])
    assert caller.settle("k8s.rollout_undo", forced, planned) == "not_done"
    made = caller.change("k8s.rollout_undo", forced)
    assert (made.before, made.after) == (planned.before, planned.after)
    rolled_out(control_plane, space, "statefulset")
    assert caller.settle("k8s.rollout_undo", forced, planned) == "done"
    assert control_plane.read(space, "pod", "web-0")["metadata"]["uid"] == good["uid"]
    again = caller.change("k8s.rollout_undo", forced)
    assert again.before == again.after, "already so"


def test_a_forced_roll_back_that_was_cut_in_the_middle_goes_on(
    control_plane: Plane, caller: Caller, space: str
) -> None:
    given = {**stuck(control_plane, caller, space), "force": True}
    whole = control_plane.read(space, "statefulset", "web")
    with caller.context() as ctx:
        action, args = change("k8s.rollout_undo", given)
        before = action.observe(args, ctx)
        after = action.expect(args, before, ctx)
        inverse = action.inverse(args, before, ctx.op)
        assert ctx.lines == [], "nothing to warn of: what would be in its way goes"
    plain = {key: value for key, value in given.items() if key != "force"}
    with caller.context() as ctx:
        action, args = change("k8s.rollout_undo", plain)
        action.apply(args, action.observe(args, ctx), ctx)  # as far as it came: the template, not the pods
        notes = dict(ctx.notes)
    with caller.context(notes=notes) as ctx:
        action, args = change("k8s.rollout_undo", given)
        now = action.observe(args, ctx)
        assert action.settle(args, before, after, now, ctx) == "partial"
        action.apply(args, now, ctx)
        assert action.settle(args, before, after, action.observe(args, ctx), ctx) == "done"
    rolled_out(control_plane, space, "statefulset")
    assert inverse is not None
    assert inverse.args["force"] is True
    caller.change(inverse.action, inverse.args)
    assert meaning(control_plane.read(space, "statefulset", "web")) == meaning(whole)


# -- who puts it back, and who may not


def test_owners_are_warned_of(control_plane: Plane, caller: Caller, space: str) -> None:
    given = rolled(control_plane, space, "deployment", versions=2)
    control_plane.kubectl(
        "-n", space, "annotate", "deployment", "web", "argocd.argoproj.io/tracking-id=shop:apps/Deployment:x/web"
    )
    control_plane.kubectl(
        "-n", space, "label", "deployment", "web",
        "kustomize.toolkit.fluxcd.io/name=apps", "kustomize.toolkit.fluxcd.io/namespace=flux-system",
    )  # fmt: skip
    planned = caller.plan("k8s.rollout_undo", given)
    assert [line.partition(" owns")[0] for line in planned.log] == [
        "warning: Argo CD (application shop)",
        "warning: Flux (Kustomization flux-system/apps)",
    ]
    assert caller.plan("k8s.rollout_restart", given).log == [], "an annotation of ours is left alone by both"
    control_plane.kubectl(
        "-n", space, "annotate", "deployment", "web", "kustomize.toolkit.fluxcd.io/reconcile=disabled"
    )
    assert len(caller.plan("k8s.rollout_undo", given).log) == 1


@pytest.mark.parametrize("kind", KEPT)
def test_a_dry_run_that_is_forbidden_is_computed(
    kind: str, control_plane: Plane, caller: Caller, space: str, tmp_path: Path
) -> None:
    given = rolled(control_plane, space, kind, versions=2)
    control_plane.allow(space, f"get={kind}s.apps", "list=controllerrevisions.apps")
    nobody = Caller(control_plane, tmp_path, user="nobody")
    with nobody.context() as ctx:
        action, args = opened("k8s.rollout_undo", given)
        assert [line.partition(" (")[0] for line in action.preflight(args, ctx)] == [
            f"no right to patch {kind}s 'web' in namespace '{space}'"
        ]
    theirs, mine = nobody.plan("k8s.rollout_undo", given), caller.plan("k8s.rollout_undo", given)
    assert theirs.computed is not None
    assert "no right to patch" in theirs.computed
    assert (theirs.before, theirs.after) == (mine.before, mine.after)


@pytest.mark.parametrize("name", ["k8s.rollout_undo", "k8s.rollout_restart", "k8s.history"])
def test_bad_input_is_one_sentence(name: str, caller: Caller, control_plane: Plane, space: str) -> None:
    control_plane.kubectl("-n", space, "create", "configmap", "web")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"kind": "configmap", "name": "web"}, r"^kind: a ConfigMap has no revisions; Deployments, StatefulSets and"),
        ({"kind": "replicaset", "name": "web"}, r"^kind: a ReplicaSet has no revisions"),
        ({"kind": "gizmo", "name": "web"}, r"serves no kind 'gizmo'"),
        ({"kind": "statefulset", "name": "web"}, r'statefulsets.apps "web" not found'),
    ]
    if name == "k8s.rollout_undo":
        cases += [({"name": "web", "to_revision": 0}, r"to_revision")]
        cases += [({"name": "web", "force": True}, r"^force: only a StatefulSet waits")]
    for given, sentence in cases:
        with pytest.raises(PermanentError, match=sentence) as refused:
            (caller.read if name == "k8s.history" else caller.plan)(name, {"namespace": space, **given})
        assert "\n" not in refused.value.message


@pytest.mark.parametrize("kind", KEPT)
def test_a_revision_that_is_not_kept_is_named(kind: str, control_plane: Plane, caller: Caller, space: str) -> None:
    given = rolled(control_plane, space, kind, versions=2)
    with pytest.raises(PermanentError, match=r"web has no revision 9 \(it has 1, 2\)"):
        caller.plan("k8s.rollout_undo", {**given, "to_revision": 9})
    again = caller.change("k8s.rollout_undo", {**given, "to_revision": 2})
    assert again.before == again.after, "already so"
    made = caller.change("k8s.rollout_undo", given)
    rolled_out(control_plane, space, kind)
    assert made.inverse is not None
    name = made.inverse.args["to_template"]
    control_plane.kubectl("-n", space, "delete", "controllerrevision", name)
    with pytest.raises(PermanentError, match=f"keeps no revision with template hash {name}"):
        caller.undo(made)
    assert image(control_plane.read(space, kind, "web")) == "r/web:1"


@pytest.mark.parametrize("kind", KINDS)
def test_a_roll_back_in_the_middle_of_a_busy_roll_out(
    kind: str, control_plane: Plane, caller: Caller, space: str
) -> None:
    given = rolled(control_plane, space, kind, versions=2)
    over = threading.Event()
    count = [0]
    failures: list[BaseException] = []

    def write() -> None:
        """As a controller writes: the status of the object, again and again."""
        try:
            with caller.context() as ctx:
                cluster = connect(ctx, "current")
                ref = Ref(cluster.kind(ctx, kind), space, "web", "status")
                while not over.is_set():
                    body = {"status": {"conditions": [{"type": "Busy", "status": "True", "message": str(count[0])}]}}
                    cluster.patch(ctx, ref, body, "strategic")
                    count[0] += 1
                    ctx.sleep(0.02)
        except BaseException as error:
            failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        control_plane.until(lambda: count[0] > 3)
        made = until_made(caller, "k8s.rollout_undo", given)
        restarted = until_made(caller, "k8s.rollout_restart", given)
    finally:
        over.set()
        writer.join()
    assert not failures
    assert made.outputs["images"] == ["r/web:1"]
    found = control_plane.read(space, kind, "web")["spec"]["template"]
    assert found["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"] == restarted.outputs["at"]
    assert found["spec"]["containers"][0]["image"] == "r/web:1"


def until_made(caller: Caller, name: str, given: dict[str, Any]) -> Made:
    """As a step with `retry` does it: against a writer that never rests, five attempts need not be enough."""
    for _ in range(5):
        try:
            return caller.change(name, given)
        except TemporaryError as error:
            assert "was changed by others 5 times" in error.message  # noqa: PT017  # any other one is a failure
    raise AssertionError("five times five attempts were not enough")
