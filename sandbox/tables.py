"""Lists as kubectl shows them (`Accept: ...;as=Table`), for the kinds that people look at. Others fall back to names.

The columns are the real server's (pkg/printers/internalversion/printers.go).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from runbook.sandbox import kinds
from runbook.sandbox.kinds import Kind
from runbook.sandbox.world import Document

Row = Callable[[Document], Sequence[Any]]


def wanted(accept: str) -> bool:
    """Whether a client prefers a table."""
    return "as=table" in accept.partition(",")[0].lower()


def of(kind: Kind, items: Sequence[Document], meta: Mapping[str, Any]) -> dict[str, Any] | None:
    """A Table of objects; None for kinds that have none here."""
    if kind not in _TABLES:
        return None
    titles, row = _TABLES[kind]
    columns = [
        {"name": title, "type": "string", "format": "name" if title == "Name" else "", "description": "", "priority": 0}
        for title in (*titles, "Age")
    ]
    rows = [
        {
            "cells": [*row(item), _age(item)],
            "object": {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": item["metadata"]},
        }
        for item in items
    ]
    body = {"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": dict(meta)}
    return body | {"columnDefinitions": columns, "rows": rows}


def _age(item: Document) -> str:
    made = datetime.strptime(item["metadata"]["creationTimestamp"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    seconds = max(0, int(time.time() - made.timestamp()))
    if seconds < 120:
        return f"{seconds}s"
    return f"{seconds // 60}m" if seconds < 7200 else f"{seconds // 3600}h"


def _name(item: Document) -> str:
    return str(item["metadata"]["name"])


def _deployment(item: Document) -> Sequence[Any]:
    status = item.get("status", {})
    ready = f"{status.get('readyReplicas', 0)}/{item['spec']['replicas']}"
    return _name(item), ready, status.get("updatedReplicas", 0), status.get("availableReplicas", 0)


def _replica_set(item: Document) -> Sequence[Any]:
    status = item.get("status", {})
    return _name(item), item["spec"]["replicas"], status.get("replicas", 0), status.get("readyReplicas", 0)


def _pod(item: Document) -> Sequence[Any]:
    states = item.get("status", {}).get("containerStatuses") or []
    ready = f"{sum(one['ready'] for one in states)}/{len(item['spec']['containers'])}"
    waiting = [one["state"]["waiting"]["reason"] for one in states if "waiting" in one["state"]]
    phase = waiting[0] if waiting else item.get("status", {}).get("phase", "Unknown")
    if phase == "Pending" and "nodeName" in item["spec"] and not states:
        phase = "ContainerCreating"
    if item["metadata"].get("deletionTimestamp"):
        phase = "Terminating"
    return _name(item), ready, phase, sum(one["restartCount"] for one in states)


def _service(item: Document) -> Sequence[Any]:
    spec = item["spec"]
    ports = ",".join(f"{port['port']}/{port['protocol']}" for port in spec.get("ports") or []) or "<none>"
    return _name(item), spec["type"], spec.get("clusterIP", "<none>"), "<none>", ports


def _slice(item: Document) -> Sequence[Any]:
    addresses = [address for one in item.get("endpoints") or [] for address in one["addresses"]]
    shown = ",".join(addresses[:3]) + (f" + {len(addresses) - 3} more..." if len(addresses) > 3 else "")
    ports = ",".join(str(port["port"]) for port in item.get("ports") or [])
    return _name(item), item["addressType"], ports or "<unset>", shown or "<unset>"


def _filled(item: Document) -> Sequence[Any]:
    return _name(item), len(item.get("data") or {})


_TABLES: Mapping[Kind, tuple[Sequence[str], Row]] = {
    kinds.NAMESPACE: (("Name", "Status"), lambda item: (_name(item), item["status"]["phase"])),
    kinds.DEPLOYMENT: (("Name", "Ready", "Up-to-date", "Available"), _deployment),
    kinds.REPLICA_SET: (("Name", "Desired", "Current", "Ready"), _replica_set),
    kinds.POD: (("Name", "Ready", "Status", "Restarts"), _pod),
    kinds.SERVICE: (("Name", "Type", "Cluster-IP", "External-IP", "Port(s)"), _service),
    kinds.ENDPOINT_SLICE: (("Name", "AddressType", "Ports", "Endpoints"), _slice),
    kinds.CONFIG_MAP: (("Name", "Data"), _filled),
    kinds.SECRET: (("Name", "Type", "Data"), lambda item: (_name(item), item["type"], len(item.get("data") or {}))),
    kinds.LEASE: (("Name", "Holder"), lambda item: (_name(item), (item.get("spec") or {}).get("holderIdentity", ""))),
}
