"""Leases of one namespace (coordination.k8s.io/v1), for the runner's locks: read, make, and replace if unchanged.

Every write is conditional: a create fails where there is one already, a replace where the resourceVersion moved. That
the server refuses it so is an answer (None), no error; API conventions, "Concurrency control and consistency".
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from runbook.actions._kube.cluster import MANAGER, Cluster, ConflictError, MissingError, explain, open_cluster
from runbook.actions._kube.config import context_name
from runbook.actions._kube.kinds import Kind, Ref
from runbook.actions._kube.transport import Within

LEASE = Kind("coordination.k8s.io", "v1", "leases", "Lease")
OURS = "app.kubernetes.io/managed-by=runbook"


class Leases:
    """The Leases of a namespace. TemporaryError and PermanentError name verb, object and reason."""

    def __init__(self, cluster: Cluster, namespace: str, seconds: float) -> None:
        """`seconds`: the longest that one request may take, all of it."""
        self._cluster = cluster
        self._namespace = namespace
        self._seconds = seconds

    def close(self) -> None:
        """Close the connections."""
        self._cluster.close()

    def get(self, name: str) -> dict[str, Any] | None:
        """The Lease, None where there is none."""
        return self._cluster.find(_Bounded(self._seconds), Ref(LEASE, self._namespace, name))

    def forbidden(self) -> list[str]:
        """Of the verbs that locks need, those that this user has no right to (SelfSubjectAccessReview)."""
        bounds, ref = _Bounded(self._seconds), Ref(LEASE, self._namespace)
        return [verb for verb in ("get", "create", "update") if not self._cluster.may(bounds, verb, ref)]

    def all(self) -> list[dict[str, Any]]:
        """All that runbook made here."""
        return self._cluster.select(_Bounded(self._seconds), Ref(LEASE, self._namespace), OURS)

    def create(self, lease: Mapping[str, Any]) -> dict[str, Any] | None:
        """Make it; None where there is one of this name."""
        try:
            return self._send("create", "POST", Ref(LEASE, self._namespace), lease)
        except ConflictError:
            return None

    def replace(self, lease: Mapping[str, Any]) -> dict[str, Any] | None:
        """Put it in the place of the one with its resourceVersion; None where that one is no more."""
        try:
            return self._send("update", "PUT", Ref(LEASE, self._namespace, lease["metadata"]["name"]), lease)
        except (ConflictError, MissingError):
            return None

    def _send(self, verb: str, method: str, ref: Ref, lease: Mapping[str, Any]) -> dict[str, Any]:
        body = json.dumps({**lease, "apiVersion": "coordination.k8s.io/v1", "kind": LEASE.kind}).encode()
        headers = {"Accept": "application/json", "Content-Type": "application/json", "User-Agent": MANAGER}
        path = f"{ref.path()}?{urlencode({'fieldManager': MANAGER})}"
        transport = self._cluster.transport
        answer = transport.request(_Bounded(self._seconds), method, path, headers=headers, body=body)
        if not 200 <= answer.status < 300:
            raise explain(answer, f"{verb} {ref}", self._cluster.context)
        return answer.json()


class _Bounded(Within):
    """Bounds that hold: a client's own time-out is none against a server that drips."""

    def on_stop(self, cut: Callable[[], None]) -> Callable[[], None]:
        """Cut it when its seconds are over."""
        timer = threading.Timer(self.remaining(), cut)
        timer.daemon = True
        timer.start()
        return timer.cancel


def connect(environ: Mapping[str, str], context: str, namespace: str, folder: Path, seconds: float) -> Leases:
    """The Leases of a namespace. `folder`: a private one. PermanentError: there is no such context."""
    name = context_name(environ, context)
    return Leases(open_cluster(environ, name, folder), namespace, seconds)
