"""Who else writes an object: told from its marks, and said in the plan of whatever changes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runbook.actions._kube.owners import owners
from runbook.actions._kube.reasons import of_pod, said
from tests.command import Commands
from tests.kube import Caller
from tests.testbed.plane import Plane


def controlled(kind: str, name: str, *, controller: bool = True) -> dict[str, Any]:
    return {"ownerReferences": [{"kind": kind, "name": name, "controller": controller}]}


@pytest.mark.parametrize(
    ("metadata", "found"),
    [
        ({}, []),
        ({"labels": None, "annotations": None, "ownerReferences": None}, []),
        # Argo CD, Resource tracking
        ({"annotations": {"argocd.argoproj.io/tracking-id": "shop:apps/Deployment:prod/web"}},
         ["Argo CD (application shop)"]),
        ({"annotations": {"argocd.argoproj.io/tracking-id": ""}}, []),
        ({"labels": {"argocd.argoproj.io/instance": "shop"}}, ["Argo CD (application shop)"]),
        ({"labels": {"app.kubernetes.io/instance": "shop"}}, []),  # Helm writes this one as well
        # Flux
        ({"labels": {"kustomize.toolkit.fluxcd.io/name": "apps", "kustomize.toolkit.fluxcd.io/namespace": "flux"}},
         ["Flux (Kustomization flux/apps)"]),
        ({"labels": {"helm.toolkit.fluxcd.io/name": "web"}}, ["Flux (HelmRelease web)"]),
        ({"labels": {"kustomize.toolkit.fluxcd.io/name": "apps"},
          "annotations": {"kustomize.toolkit.fluxcd.io/reconcile": "disabled"}}, []),
        # the object that controls it
        (controlled("Deployment", "web"), ["Deployment web"]),
        (controlled("PostgresCluster", "db"), ["PostgresCluster db"]),
        (controlled("PostgresCluster", "db", controller=False), []),
        (controlled("ReplicaSet", "web-1"), []),  # it makes pods, and lets them be
    ],
)  # fmt: skip
def test_marks(metadata: dict[str, Any], found: list[str]) -> None:
    assert owners({"metadata": metadata}) == found


def pod(name: str, **status: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "status": status}


def container(**state: Any) -> dict[str, Any]:
    return {"containerStatuses": [{"name": "web", **state}]}


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ({}, "not ready yet"),
        (container(state={"waiting": {"reason": "ContainerCreating"}}), "not ready yet"),
        (container(state={"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}),
         "ImagePullBackOff in container web: no such image"),
        (container(state={"waiting": {"reason": "CrashLoopBackOff"}}, restartCount=4,
                   lastState={"terminated": {"reason": "OOMKilled", "exitCode": 137}}),
         "CrashLoopBackOff in container web, OOMKilled (exit status 137), 4 restarts"),
        (container(state={"terminated": {"reason": "Error", "exitCode": 2}}),
         "container web ended: Error (exit status 2)"),
        ({"initContainerStatuses": [{"name": "init", "state": {"waiting": {"reason": "ErrImagePull"}}}]},
         "ErrImagePull in container init"),
        ({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no node"}]},
         "Unschedulable: no node"),
        ({"conditions": [{"type": "Ready", "status": "False", "message": "containers with unready status: [web]"}]},
         "containers with unready status: [web]"),
        ({"reason": "Evicted", "message": "disk pressure"}, "Evicted: disk pressure"),
        ({"reason": "Evicted", "message": "x" * 1000}, "Evicted: " + "x" * 290 + "…"),
    ],
)  # fmt: skip
def test_why_a_pod_is_not_ready(status: dict[str, Any], reason: str) -> None:
    assert of_pod(pod("web-0", **status)) == reason


def test_pods_with_the_same_reason_are_one() -> None:
    pulling = container(state={"waiting": {"reason": "ErrImagePull"}})
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    pods = [pod(f"web-{number}", **pulling) for number in range(5)] + [pod("web-5"), pod("web-6", **ready)]
    quota = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}
    assert said({"status": {"conditions": [quota]}}, pods) == (
        "pods cannot be made: exceeded quota; "
        "pods web-0, web-1, web-2 and 2 more: ErrImagePull in container web; pod web-5: not ready yet"
    )
    assert said({}, [pods[-1]]) == ""


@pytest.mark.control_plane
def test_patches_and_labels_warn_too(control_plane: Plane, tmp_path: Path) -> None:
    caller, space = Caller(control_plane, tmp_path), control_plane.namespace()
    control_plane.deployment(space, "web", "r/web:1", wait=False)
    control_plane.kubectl("-n", space, "autoscale", "deployment", "web", "--min=1", "--max=9")
    control_plane.kubectl("-n", space, "label", "deployment", "web", "argocd.argoproj.io/instance=shop")
    base = {"namespace": space, "kind": "deployment", "name": "web"}
    argo = f"warning: Argo CD (application shop) owns deployments 'web' in namespace '{space}', and may put it back"
    assert caller.plan("k8s.label", {**base, "labels": {"tier": "front"}}).log == [argo]
    assert caller.plan("k8s.patch", {**base, "patch": {"spec": {"minReadySeconds": 1}}}).log == [argo]
    assert caller.plan("k8s.patch", {**base, "patch": {"spec": {"minReadySeconds": 0}}}).log == [], "already so"
    both = caller.plan("k8s.patch", {**base, "patch": {"spec": {"replicas": 5}}}).log
    assert len(both) == 2
    assert "HorizontalPodAutoscaler web (1 to 9 replicas) owns the replica count" in both[0]


@pytest.mark.control_plane
def test_a_plan_shows_who_will_put_it_back(control_plane: Plane, tmp_path: Path) -> None:
    space = control_plane.namespace()
    control_plane.deployment(space, "web", "r/web:1", wait=False)
    control_plane.kubectl("-n", space, "autoscale", "deployment", "web", "--min=1", "--max=9")
    cli = Commands(tmp_path, control_plane.environ())
    step = {"id": "up", "action": "k8s.scale", "with": {"namespace": space, "name": "web", "replicas": 5}}
    cli.write("one.yaml", json.dumps({"runbook": 1, "name": "one", "steps": [step]}))
    planned = cli("plan", "one.yaml")
    assert planned.code == 0, planned.out + planned.err
    assert "warning: HorizontalPodAutoscaler web (1 to 9 replicas) owns the replica count" in planned.out
    cli("run", "one.yaml", "--yes")
    assert "owns the replica count" in cli("logs", "last", "up").out
