"""The simulated controllers' loop: pods' lives, EndpointSlices, garbage. Deployments are in rollouts.py.

Time may go faster than the wall clock: `speed` divides every duration (a pod's start, a roll-out's progress deadline).
"""

from __future__ import annotations

import copy
import math
import threading
import time
from dataclasses import replace
from typing import Any

from runbook.sandbox import kinds, replicas, rollouts, selectors
from runbook.sandbox.behaviour import Behaviours, Version
from runbook.sandbox.world import Document, World, now, scrambled

START = 0.4
"""Simulated seconds from a pod's creation to Ready, unless the scenario says otherwise."""
STOP = 0.2
"""Simulated seconds from a pod's deletion to its end."""
NODE = "simulated-node"


class Controllers:
    """Drives a world towards what its objects ask for, in a thread of its own."""

    def __init__(self, world: World, behaviours: Behaviours, speed: float = 1.0, ready_after: float = START) -> None:
        self.world = world
        self.behaviours = behaviours
        self.speed = speed
        self.ready_after = ready_after
        self.original: set[str] = set()
        self._instant = False
        self._seen: dict[str, float] = {}  # pod uid (and "!" + uid once it terminates) -> when first seen, monotonic
        self._progress = rollouts.Progress()
        self._ready: dict[str, float] = {}  # pod uid -> since when it is ready, monotonic
        self._addresses = 0
        self._failed: str | None = None
        self._thread = threading.Thread(target=self._run, name="SIMULATED controllers", daemon=True)

    def settle(self) -> None:
        """Bring the world to rest at once, without waiting: how it is when a scenario begins."""
        self._instant = True
        with self.world.changed:
            self._reconcile()
            self.original = {pod["metadata"]["uid"] for pod in self.world.list(kinds.POD)}
            self._ready = dict.fromkeys(self.original, -math.inf)
        self._instant = False

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.world.stop()
        if self._thread.is_alive():
            self._thread.join(5)

    def version_of(self, pod: Document) -> Version:
        """How a pod behaves."""
        version = self.behaviours.of_pod(pod, original=pod["metadata"]["uid"] in self.original or self._instant)
        if version.breaks == "serving" and self._serves(pod):
            return replace(version, health="failing")
        return version

    def _serves(self, pod: Document) -> bool:
        labels = pod["metadata"].get("labels") or {}
        services = self.world.list(kinds.SERVICE, pod["metadata"]["namespace"])
        return any(selectors.by_map(service["spec"].get("selector"))(labels) for service in services)

    def _run(self) -> None:
        with self.world.changed:
            while not self.world.stopped:
                due = self._reconcile()
                before = self.world.version
                pause = None if due is None else max(0.005, due - time.monotonic())
                self.world.changed.wait_for(lambda v=before: self.world.stopped or self.world.version != v, pause)  # type: ignore[misc]

    def _reconcile(self) -> float | None:
        """Work until nothing changes; returns when something will be due (monotonic), or None."""
        for _ in range(200):
            before = self.world.version
            self._collect_garbage()
            due = [
                rollouts.deployments(self.world, self._progress, self.speed),
                self._pods(),
                replicas.replica_sets(self.world, self._ready, math.inf if self._instant else self.speed),
            ]
            self._endpoints()
            if self.world.version == before:
                return min((at for at in due if at is not None), default=None)
        return time.monotonic() + 0.05

    def _collect_garbage(self) -> None:
        """Objects whose owner is gone go too (background); a foreground deletion ends when no dependent is left."""
        for kind, owners in ((kinds.REPLICA_SET, kinds.DEPLOYMENT), (kinds.POD, kinds.REPLICA_SET)):
            alive = {item["metadata"]["uid"]: item for item in self.world.list(owners)}
            for item in self.world.list(kind):
                meta = item["metadata"]
                references = [o for o in meta.get("ownerReferences") or [] if o["kind"] == owners.kind]
                parents = [alive.get(reference["uid"]) for reference in references]
                doomed = bool(parents) and all(p is None or p["metadata"].get("deletionTimestamp") for p in parents)
                if doomed and not meta.get("deletionTimestamp"):
                    last_parent = any(p is not None for p in parents)
                    how = "Foreground" if last_parent and kind != kinds.POD else "Background"
                    self.world.delete(kind, meta["namespace"], meta["name"], propagation=how)
        for owners, kind in ((kinds.REPLICA_SET, kinds.POD), (kinds.DEPLOYMENT, kinds.REPLICA_SET)):
            for owner in self.world.list(owners):
                meta = owner["metadata"]
                if "foregroundDeletion" not in (meta.get("finalizers") or []):
                    continue
                if not any(self.world.owned(kind, meta["namespace"], meta["uid"])):
                    self.world.finish(owners, owner)

    def _pods(self) -> float | None:
        clock = time.monotonic()
        waits: list[float] = []
        for pod in self.world.list(kinds.POD):
            meta = pod["metadata"]
            uid = meta["uid"]
            if meta.get("deletionTimestamp"):
                gone = self._seen.setdefault("!" + uid, clock) + self._wait(STOP)
                if clock >= gone:
                    self.world.finish(kinds.POD, pod)
                else:
                    waits.append(gone)
                continue
            if "nodeName" not in pod["spec"]:
                self._schedule(pod)
                continue
            version = self.version_of(pod)
            delay = self.ready_after if version.ready_after is None else version.ready_after
            ready = self._seen.setdefault(uid, clock) + self._wait(delay)
            if clock < ready:
                waits.append(ready)
            elif pod["status"].get("phase") == "Pending" and "containerStatuses" not in pod["status"]:
                self._run_pod(pod, version)
        return min(waits, default=None)

    def _wait(self, seconds: float) -> float:
        return 0.0 if self._instant else seconds / self.speed

    def _schedule(self, pod: Document) -> None:
        def place(document: Document) -> None:
            document["spec"]["nodeName"] = NODE

        placed = self.world.amend(kinds.POD, pod["metadata"]["namespace"], pod["metadata"]["name"], place)
        conditions = [_condition("PodScheduled", "True")]
        self.world.update_status(kinds.POD, placed, phase="Pending", conditions=conditions, qosClass="BestEffort")

    def _run_pod(self, pod: Document, version: Version) -> None:
        self._addresses += 1
        address = f"10.244.{self._addresses // 250}.{self._addresses % 250 + 1}"
        ready = version.health in {"ok", "failing"}
        reasons = {
            "crashing": ("CrashLoopBackOff", "back-off 5m0s restarting failed container"),
            "image_missing": ("ImagePullBackOff", "Back-off pulling image"),
        }
        state: dict[str, Any] = {"running": {"startedAt": now()}}
        if version.health in reasons:
            reason, message = reasons[version.health]
            state = {"waiting": {"reason": reason, "message": message}}
        unready = {} if ready else {"reason": "ContainersNotReady", "message": "containers with unready status"}
        containers = [
            {
                "name": container["name"],
                "state": state,
                "lastState": {},
                "ready": ready,
                "started": "running" in state,
                "restartCount": 5 if version.health == "crashing" else 0,
                "image": container.get("image", ""),
                "imageID": "",
            }
            for container in pod["spec"]["containers"]
        ]
        self.world.update_status(
            kinds.POD,
            pod,
            phase="Pending" if version.health == "image_missing" else "Running",
            conditions=[
                _condition("Initialized", "True"),
                _condition("Ready", str(ready)) | unready,
                _condition("ContainersReady", str(ready)) | unready,
                _condition("PodScheduled", "True"),
            ],
            hostIP="127.0.0.1",
            podIP=address,
            podIPs=[{"ip": address}],
            startTime=now(),
            containerStatuses=containers,
            qosClass="BestEffort",
        )

    def _endpoints(self) -> None:
        services = {s["metadata"]["uid"]: s for s in self.world.list(kinds.SERVICE)}
        for service in services.values():
            if service["spec"].get("selector"):
                self._slice(service)
        for kind in (kinds.ENDPOINT_SLICE, kinds.ENDPOINTS):
            for item in self.world.list(kind):
                meta = item["metadata"]
                owners = {owner["uid"] for owner in meta.get("ownerReferences") or []}
                if owners and not owners & services.keys():
                    self.world.delete(kind, meta["namespace"], meta["name"])

    def _slice(self, service: Document) -> None:
        meta = service["metadata"]
        matches = selectors.by_map(service["spec"]["selector"])
        pods = [
            pod
            for pod in self.world.list(kinds.POD, meta["namespace"])
            if matches(pod["metadata"].get("labels") or {}) and pod.get("status", {}).get("podIP")
        ]
        content = {
            "addressType": "IPv4",
            "endpoints": [_endpoint(pod) for pod in pods],
            "ports": _ports(service, pods),
        }
        name = f"{meta['name']}-{scrambled(meta['uid'], 5)}"
        found = self.world.find(kinds.ENDPOINT_SLICE, meta["namespace"], name)
        if found is not None:
            if any(found.get(key) != value for key, value in content.items()):
                after = copy.deepcopy(found) | content
                self.world.replace(kinds.ENDPOINT_SLICE, after)
            return
        owner = {"apiVersion": "v1", "kind": "Service", "name": meta["name"], "uid": meta["uid"]}
        labels = {
            "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            "kubernetes.io/service-name": meta["name"],
        }
        slice_meta = {
            "name": name,
            "generateName": f"{meta['name']}-",
            "namespace": meta["namespace"],
            "labels": labels,
            "ownerReferences": [owner | {"controller": True, "blockOwnerDeletion": True}],
        }
        self.world.create(kinds.ENDPOINT_SLICE, {"metadata": slice_meta} | content)


def _condition(name: str, status: str) -> dict[str, Any]:
    return {"type": name, "status": status, "lastProbeTime": None, "lastTransitionTime": now()}


def _endpoint(pod: Document) -> dict[str, Any]:
    meta = pod["metadata"]
    terminating = bool(meta.get("deletionTimestamp"))
    ready = is_ready(pod)
    return {
        "addresses": [pod["status"]["podIP"]],
        "conditions": {"ready": ready and not terminating, "serving": ready, "terminating": terminating},
        "targetRef": {"kind": "Pod", "namespace": meta["namespace"], "name": meta["name"], "uid": meta["uid"]},
        "nodeName": pod["spec"]["nodeName"],
    }


def _ports(service: Document, pods: list[Document]) -> list[dict[str, Any]]:
    ports = []
    for port in service["spec"].get("ports") or []:
        target = port.get("targetPort", port["port"])
        number = target if isinstance(target, int) else _named_port(pods, target)
        if number is not None:
            ports.append({"name": port.get("name", ""), "protocol": port.get("protocol", "TCP"), "port": number})
    return ports if pods else []


def _named_port(pods: list[Document], name: str) -> int | None:
    for pod in pods:
        for container in pod["spec"]["containers"]:
            for port in container.get("ports") or []:
                if port.get("name") == name:
                    return int(port["containerPort"])
    return None


def is_ready(pod: Document) -> bool:
    """Whether a pod's Ready condition is true."""
    conditions = pod.get("status", {}).get("conditions") or []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
