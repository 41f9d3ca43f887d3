"""Every change of family k8s once, as a step of a playbook, with the objects that it needs. On a real control plane."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.kube import meaning
from tests.testbed.plane import Plane

WATCHED = ("deployments", "statefulsets", "daemonsets", "services", "configmaps")
"""The kinds whose objects are looked at: what an action touches, and what it must not."""

CONTAINER = {"name": "app", "image": "registry.invalid/app:1", "args": ["serve"]}


@dataclass(frozen=True)
class Case:
    """A change. `back`: its undo gives back the objects; `again`: a second run of it finds that it is already so.

    `requests`: how many changing requests it takes.
    """

    action: str
    given: Mapping[str, Any]
    back: bool = True
    again: bool = True
    requests: int = 1
    more: Mapping[str, Any] = field(default_factory=dict)  # keys of the step

    def playbook(self, space: str) -> str:
        """A playbook of this one step."""
        step = {"id": "it", "action": self.action, "with": {"namespace": space, **self.given}, **self.more}
        return json.dumps({"runbook": 1, "name": "one", "steps": [step]})


def _image(kind: str, name: str, tag: str) -> dict[str, Any]:
    spec = {"template": {"spec": {"containers": [{"name": "app", "image": f"registry.invalid/app:{tag}"}]}}}
    return {"kind": kind, "name": name, "patch": {"spec": spec}}


CASES: Mapping[str, Case] = {
    "patch, strategic": Case("k8s.patch", _image("Deployment", "web", "3")),
    "patch, merge": Case(
        "k8s.patch",
        {"kind": "Service", "name": "web", "type": "merge", "patch": {"spec": {"selector": {"app": "other"}}}},
    ),
    "patch, json": Case(
        "k8s.patch",
        {
            "kind": "ConfigMap",
            "name": "settings",
            "type": "json",
            "patch": [
                {"op": "test", "path": "/data/level", "value": "info"},
                {"op": "replace", "path": "/data/level", "value": "debug"},
                {"op": "add", "path": "/data/more", "value": "yes"},
            ],
        },
        again=False,  # its own `test` says no, as it should
    ),
    "patch, json that appends": Case(
        "k8s.patch",
        {
            "kind": "Deployment",
            "name": "web",
            "type": "json",
            "patch": [{"op": "add", "path": "/spec/template/spec/containers/0/args/-", "value": "--verbose"}],
        },
        again=False,  # once more would be twice: what a kill must not lead to
    ),
    "scale": Case("k8s.scale", {"name": "web", "replicas": 4}),
    "rollout_undo": Case("k8s.rollout_undo", {"name": "web"}, again=False),  # a second one finds nothing earlier
    "rollout_undo of a StatefulSet": Case("k8s.rollout_undo", {"kind": "StatefulSet", "name": "db"}, again=False),
    "rollout_undo of a DaemonSet": Case("k8s.rollout_undo", {"kind": "DaemonSet", "name": "agent"}, again=False),
    "rollout_restart": Case("k8s.rollout_restart", {"name": "web"}, back=False, again=False),
    "delete_pods": Case("k8s.delete_pods", {"deployment": "web"}, back=False, again=False, requests=2),
    "label": Case(
        "k8s.label",
        {"kind": "Service", "name": "web", "labels": {"tier": "front", "app": None}, "annotations": {"seen": "yes"}},
    ),
    "apply, changed and new": Case(
        "k8s.apply",
        {
            "manifest": [
                {
                    "apiVersion": "v1",
                    "kind": "ConfigMap",
                    "metadata": {"name": "applied"},
                    "data": {"level": "debug", "new": "1"},
                },
                {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "fresh"}, "data": {"a": "b"}},
            ]
        },
        requests=2,
    ),
    "apply, pruned": Case(
        "k8s.apply",
        {
            "manifest": [
                {
                    "apiVersion": "v1",
                    "kind": "ConfigMap",
                    "metadata": {"name": "kept", "labels": {"set": "shop"}},
                    "data": {"level": "debug"},
                }
            ],
            "prune": "set=shop",
        },
        requests=2,
    ),
    "delete": Case("k8s.delete", {"kind": "ConfigMap", "name": "settings"}, back=False),
}


def install(plane: Plane, space: str) -> None:
    """The objects: two revisions of everything that has revisions."""
    for tag in ("1", "2"):
        objects = [
            _workload("Deployment", "web", tag, {"replicas": 2}),
            _workload("StatefulSet", "db", tag, {"replicas": 2, "serviceName": "db"}),
            _workload("DaemonSet", "agent", tag, {}),
        ]
        plane.kubectl("-n", space, "apply", "-f", "-", stdin=_list(objects))
        rest(plane, space)
    service = {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}
    objects = [
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "labels": {"app": "web"}}, "spec": service},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"level": "info"}},
    ]
    plane.kubectl("-n", space, "create", "-f", "-", stdin=_list(objects))
    applied = [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"level": "info", "old": "1"}}
        for metadata in (
            {"name": "applied"},
            {"name": "kept", "labels": {"set": "shop"}},
            {"name": "stale", "labels": {"set": "shop"}},
        )
    ]
    plane.kubectl("-n", space, "apply", "--server-side", "--field-manager=runbook", "-f", "-", stdin=_list(applied))


def rest(plane: Plane, space: str) -> None:
    """Wait until nothing rolls any more."""
    plane.until(lambda: all(map(_settled, plane.read(space, "deployments,statefulsets,daemonsets")["items"])), 60)


def _settled(item: Mapping[str, Any]) -> bool:
    """Whether the controllers have seen an object's newest specification and every pod of it is ready."""
    status = item["status"]
    wanted = status.get("desiredNumberScheduled") if item["kind"] == "DaemonSet" else item["spec"]["replicas"]
    total = status.get("currentNumberScheduled" if item["kind"] == "DaemonSet" else "replicas", 0)
    updated = status.get("updatedNumberScheduled" if item["kind"] == "DaemonSet" else "updatedReplicas", 0)
    ready = status.get("numberReady" if item["kind"] == "DaemonSet" else "readyReplicas", 0)
    seen = status.get("observedGeneration") == item["metadata"]["generation"]
    return bool(seen and total == updated == ready == wanted)


@dataclass(frozen=True)
class Seen:
    """A namespace at one moment. `objects`: the meaning of each; `counts`: how often each workload was changed;
    `pods`: the uids of the pods of `web`."""

    objects: dict[str, Any]
    counts: dict[str, int]
    pods: frozenset[str]

    def changed(self, before: Seen) -> dict[str, int]:
        """How often each workload's specification was changed since `before`; those that were."""
        return {name: now - before.counts[name] for name, now in self.counts.items() if now != before.counts[name]}


def look(plane: Plane, space: str) -> Seen:
    """Every object in the namespace that a case may touch, or must not."""
    found = plane.read(space, ",".join((*WATCHED, "pods")))["items"]
    objects = {
        f"{item['kind']}/{item['metadata']['name']}": meaning(item)
        for item in found
        if item["kind"] != "Pod" and item["metadata"]["name"] != "kube-root-ca.crt"
    }
    counts = {
        item["metadata"]["name"]: int(item["metadata"]["generation"])
        for item in found
        if item["kind"] in ("Deployment", "StatefulSet", "DaemonSet")
    }
    pods = {
        item["metadata"]["uid"]
        for item in found
        if item["kind"] == "Pod" and item["metadata"]["labels"].get("app") == "web"
    }
    return Seen(objects, counts, frozenset(pods))


def _workload(kind: str, name: str, tag: str, more: Mapping[str, Any]) -> dict[str, Any]:
    container = {**CONTAINER, "image": f"registry.invalid/app:{tag}"}
    template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container]}}
    spec = {"selector": {"matchLabels": {"app": name}}, "template": template, **more}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name, "labels": {"app": name}}, "spec": spec}


def _list(items: list[dict[str, Any]]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
