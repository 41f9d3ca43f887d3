"""The scale subresource (autoscaling/v1 Scale) of Deployments."""

from __future__ import annotations

import copy
import json

from runbook.sandbox import selectors, statuses, writes
from runbook.sandbox.http_server import Incoming, Reply, as_json
from runbook.sandbox.kinds import Kind
from runbook.sandbox.statuses import Cause
from runbook.sandbox.world import Document, World


def answer(world: World, kind: Kind, item: Document, verb: str, incoming: Incoming) -> Reply:
    """GET, PUT and PATCH of a workload's Scale."""
    if verb == "get":
        return as_json(200, _scale(item))
    if verb not in {"update", "patch"}:
        raise statuses.method_not_allowed()
    dry_run = writes.options(incoming, "PatchOptions" if verb == "patch" else "UpdateOptions")
    meta = item["metadata"]
    with world.changed:
        item = world.get(kind, meta["namespace"], meta["name"])
        change = writes.decoded(incoming) if verb == "patch" else None
        wanted = (
            writes.apply(_scale(item), change, writes.content_type(incoming)) if verb == "patch" else _body(incoming)
        )
        replicas = (wanted.get("spec") or {}).get("replicas", 0)
        if isinstance(replicas, bool) or not isinstance(replicas, int):
            found = type(replicas).__name__
            text = f"json: cannot unmarshal {found} into Go struct field ScaleSpec.spec.replicas of type int32"
            raise statuses.invalid("", "", "", [Cause("patch", text)])
        if replicas < 0:
            text = f"Invalid value: {replicas}: must be greater than or equal to 0"
            raise statuses.invalid("Scale", "autoscaling", meta["name"], [Cause("spec.replicas", text)])
        after = copy.deepcopy(item)
        after["spec"]["replicas"] = replicas
        after["metadata"]["resourceVersion"] = (wanted.get("metadata") or {}).get("resourceVersion")
        return as_json(200, _scale(world.replace(kind, after, dry_run=dry_run)))


def _body(incoming: Incoming) -> Document:
    try:
        body = json.loads(incoming.body)
    except ValueError as error:
        raise statuses.bad_request(f"the object provided is unrecognized (must be of type Scale): {error}") from None
    if not isinstance(body, dict):
        raise statuses.bad_request("the object provided is unrecognized (must be of type Scale)")
    return body


def _scale(item: Document) -> Document:
    meta = item["metadata"]
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {key: meta[key] for key in kept if key in meta},
        "spec": {"replicas": item["spec"]["replicas"]},
        "status": {
            "replicas": item.get("status", {}).get("replicas", 0),
            "selector": selectors.as_text(item["spec"]["selector"]),
        },
    }
