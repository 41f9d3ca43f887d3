"""Every change of family k8s once, as a step of a playbook, with the objects that it needs. On a real control plane."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from runbook.actions._kube.revisions import RESTARTED_BY
from tests.kube import meaning
from tests.testbed.plane import Plane

WATCHED = ("deployments", "statefulsets", "daemonsets", "services", "configmaps")
"""The kinds whose objects are looked at: what an action touches, and what it must not."""

CONTAINER = {"name": "app", "image": "registry.invalid/app:1", "args": ["serve"]}


@dataclass(frozen=True)
class Third:
    """How somebody else brings an object into a state that is neither the one before the change nor the one after it.

    `words`: of kubectl. `told`: what the question says of it. `again`: what is wrong when the change is repeated from
    there; else it gives what it always gives, or `gives`, object -> JSON that must be in it.
    """

    words: tuple[str, ...]
    told: str
    again: str = ""
    gives: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """A change. `back`: its undo gives back the objects; `again`: a second run of it finds that it is already so.

    `requests`: how many changing requests it takes. `third`: None where an object is there or is not, and no more.
    """

    action: str
    given: Mapping[str, Any]
    back: bool = True
    again: bool = True
    requests: int = 1
    more: Mapping[str, Any] = field(default_factory=dict)  # keys of the step
    first: tuple[Mapping[str, Any], ...] = ()  # steps before it
    third: Third | None = None

    def playbook(self, space: str) -> str:
        """A playbook of this one step, and of those before it."""
        step = {"id": "it", "action": self.action, "with": {"namespace": space, **self.given}, **self.more}
        first = [{**one, "with": {"namespace": space, **one["with"]}} for one in self.first]
        return json.dumps({"runbook": 1, "name": "one", "steps": [*first, step]})


def _image(kind: str, name: str, tag: str) -> dict[str, Any]:
    spec = {"template": {"spec": {"containers": [{"name": "app", "image": f"registry.invalid/app:{tag}"}]}}}
    return {"kind": kind, "name": name, "patch": {"spec": spec}}


def _patched(what: str, patch: Any) -> tuple[str, ...]:
    """Words of kubectl for a patch by hand."""
    kind = "json" if isinstance(patch, list) else "merge"
    return ("patch", *what.split("/"), f"--type={kind}", f"--patch={json.dumps(patch)}")


def _set_image(what: str) -> tuple[str, ...]:
    return ("set", "image", what, "app=registry.invalid/app:9")


def _tags(*tags: str) -> list[str]:
    return [f"registry.invalid/app:{tag}" for tag in tags]


def _told(place: str, now: str, before: str, after: str) -> str:
    return f"/{place} is {now}, neither {before} as before nor {after} as it was to become"


def _third_version(kind: str, name: str) -> Third:
    told = _told(f"{kind}/{name}#spec.template.spec.containers.name=app.image", *_tags("9", "2", "1"))
    return Third(_set_image(f"{kind.lower()}/{name}"), told)


_RESTARTED = {
    "kubectl.kubernetes.io/restartedAt": "2020-01-01T00:00:00Z",
    RESTARTED_BY: "another-run:it",
}

CASES: Mapping[str, Case] = {
    "patch, strategic": Case(
        "k8s.patch",
        _image("Deployment", "web", "3"),
        third=Third(
            _set_image("deployment/web"),
            _told("Deployment/web#spec.template.spec.containers[name=app].image", *_tags("9", "2", "3")),
        ),
    ),
    "patch, merge": Case(
        "k8s.patch",
        {"kind": "Service", "name": "web", "type": "merge", "patch": {"spec": {"selector": {"app": "other"}}}},
        third=Third(
            _patched("service/web", {"spec": {"selector": {"app": "third"}}}),
            _told("Service/web#spec.selector.app", "third", "web", "other"),
        ),
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
        third=Third(
            _patched("configmap/settings", {"data": {"level": "trace"}}),
            _told("ConfigMap/settings#data.level", "trace", "info", "debug"),
            again="does not fit",
        ),
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
        third=Third(
            _patched(
                "deployment/web",
                [{"op": "replace", "path": "/spec/template/spec/containers/0/args", "value": ["serve", "--quiet"]}],
            ),
            _told(
                "Deployment/web#spec.template.spec.containers.0.args",
                '["serve", "--quiet"]',
                '["serve"]',
                '["serve", "--verbose"]',
            ),
            gives={"Deployment/web": '["serve", "--quiet", "--verbose"]'},
        ),
    ),
    "scale": Case(
        "k8s.scale",
        {"name": "web", "replicas": 4},
        third=Third(("scale", "deployment/web", "--replicas=3"), _told("Deployment/web#spec.replicas", "3", "2", "4")),
    ),
    "rollout_undo": Case(
        "k8s.rollout_undo",
        {"name": "web"},
        again=False,  # a second one finds nothing earlier
        third=_third_version("Deployment", "web"),
    ),
    "rollout_undo of a StatefulSet": Case(
        "k8s.rollout_undo",
        {"kind": "StatefulSet", "name": "db"},
        again=False,
        third=_third_version("StatefulSet", "db"),
    ),
    "rollout_undo of a DaemonSet": Case(
        "k8s.rollout_undo",
        {"kind": "DaemonSet", "name": "agent"},
        again=False,
        third=_third_version("DaemonSet", "agent"),
    ),
    "rollout_restart": Case(
        "k8s.rollout_restart",
        {"name": "web"},
        back=False,
        again=False,
        third=Third(
            _patched("deployment/web", {"spec": {"template": {"metadata": {"annotations": _RESTARTED}}}}),
            'annotations["runbook/restarted-by"] is another-run:it, neither nothing as before',
        ),
    ),
    "delete_pods": Case("k8s.delete_pods", {"deployment": "web"}, back=False, again=False, requests=2),
    "label": Case(
        "k8s.label",
        {"kind": "Service", "name": "web", "labels": {"tier": "front", "app": None}, "annotations": {"seen": "yes"}},
        third=Third(
            ("label", "service/web", "--overwrite", "tier=back"),
            _told("Service/web#metadata.labels.tier", "back", "nothing", "front"),
        ),
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
        third=Third(
            _patched("configmap/applied", {"data": {"level": "trace"}}),
            _told("ConfigMap/applied#data.level", "trace", "info", "debug"),
            again="others own",
        ),
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
        third=Third(
            _patched("configmap/kept", {"data": {"level": "trace"}}),
            _told("ConfigMap/kept#data.level", "trace", "info", "debug"),
            again="others own",
        ),
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
        time.sleep(1 - time.time() % 1)  # revisions of one second, numbered anew by a way back, cannot be told apart
    spec = {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": spec,
    }
    plane.kubectl("-n", space, "create", "-f", "-", stdin=_list([service]))
    _install_settings(plane, space)


def _install_settings(plane: Plane, space: str) -> None:
    """The ConfigMaps: one as people make it, others as an earlier apply left them."""
    settings = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"level": "info"}}
    plane.kubectl("-n", space, "create", "-f", "-", stdin=_list([settings]))
    applied = [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"level": "info", "old": "1"}}
        for metadata in (
            {"name": "applied"},
            {"name": "kept", "labels": {"set": "shop"}},
            {"name": "stale", "labels": {"set": "shop"}},
        )
    ]
    plane.kubectl("-n", space, "apply", "--server-side", "--field-manager=runbook", "-f", "-", stdin=_list(applied))


def put_right(plane: Plane, space: str, begin: Seen) -> None:
    """What somebody does by hand: the objects as they were."""
    found = look(plane, space).objects
    wrong = [name for name in {*found, *begin.objects} if found.get(name) != begin.objects.get(name)]
    if any(name.startswith("ConfigMap/") for name in wrong):
        names = {name.partition("/")[2] for name in found if name.startswith("ConfigMap/")}
        plane.kubectl("-n", space, "delete", "configmap", *names)
        _install_settings(plane, space)
    for item in (begin.objects[name] for name in wrong if not name.startswith("ConfigMap/")):
        group = "api/v1" if item["apiVersion"] == "v1" else f"apis/{item['apiVersion']}"
        where = f"/{group}/namespaces/{space}/{item['kind'].lower()}s/{item['metadata']['name']}"
        plane.kubectl("replace", "--raw", where, "-f", "-", stdin=json.dumps(item))
    rest(plane, space)


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
