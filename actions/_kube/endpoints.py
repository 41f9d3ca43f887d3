"""What a Service sends traffic to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runbook.actions._kube import kinds
from runbook.actions._kube.cluster import Cluster
from runbook.actions._kube.kinds import Ref
from runbook.actions._kube.transport import Bounds
from runbook.actions._kube.workload import is_ready, pod_selector, pods

SERVICE_NAME = "kubernetes.io/service-name"


@dataclass(frozen=True, slots=True)
class Endpoints:
    """`serving`: the pods that get traffic. `ready`: the ready pods that the Service's selector means now."""

    serving: frozenset[str]
    ready: frozenset[str]

    @property
    def settled(self) -> bool:
        """Has the selector taken effect: traffic to these pods and to no other?"""
        return self.serving == self.ready

    @property
    def ok(self) -> bool:
        """Settled, and somebody is there."""
        return self.settled and bool(self.serving)

    def __str__(self) -> str:
        strangers = sorted(self.serving - self.ready)
        note = f", and still goes to {', '.join(strangers)}" if strangers else ""
        return f"traffic goes to {len(self.serving & self.ready)} of {len(self.ready)} ready pods{note}"


def endpoints(cluster: Cluster, bounds: Bounds, service: Mapping[str, Any]) -> Endpoints:
    """The state of a Service's EndpointSlices against its selector."""
    metadata = service["metadata"]
    namespace = str(metadata.get("namespace") or "")
    slices = cluster.select(bounds, Ref(kinds.ENDPOINT_SLICE, namespace), f"{SERVICE_NAME}={metadata['name']}")
    serving = {
        str((entry.get("targetRef") or {}).get("name"))
        for found in slices
        for entry in found.get("endpoints") or ()
        # "nil should be interpreted as true" (EndpointConditions.ready)
        if (entry.get("conditions") or {}).get("ready") is not False
    }
    meant = pods(cluster, bounds, namespace, pod_selector(service))
    return Endpoints(frozenset(serving), frozenset(str(pod["metadata"]["name"]) for pod in meant if is_ready(pod)))
