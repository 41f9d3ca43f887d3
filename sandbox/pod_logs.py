"""Simulated container logs: a few honest lines that say that they are simulated."""

from __future__ import annotations

from collections.abc import Mapping

from runbook.sandbox import statuses
from runbook.sandbox.behaviour import Version
from runbook.sandbox.http_server import Reply
from runbook.sandbox.world import Document


def read(pod: Document, version: Version, query: Mapping[str, str]) -> Reply:
    """GET of a pod's log: `container`, `previous`, `tailLines`, `limitBytes`, `timestamps`."""
    name = pod["metadata"]["name"]
    containers = {container["name"]: container.get("image", "") for container in pod["spec"]["containers"]}
    container = query.get("container") or next(iter(containers))
    if container not in containers:
        raise statuses.bad_request(f"container {container} is not valid for pod {name}")
    if query.get("follow", "").lower() in {"1", "true"}:
        raise statuses.not_modelled("following a log")
    if query.get("previous", "").lower() in {"1", "true"} and version.health != "crashing":
        raise statuses.bad_request(f'previous terminated container "{container}" in pod "{name}" not found')
    if "containerStatuses" not in pod.get("status", {}):
        text = f'container "{container}" in pod "{name}" is waiting to start: ContainerCreating'
        raise statuses.bad_request(text)
    if version.health == "image_missing":
        text = f'container "{container}" in pod "{name}" is waiting to start: trying and failing to pull image'
        raise statuses.bad_request(text)
    lines = [f"SIMULATED log of {name}: {containers[container]} started"]
    if version.health == "failing":
        lines.append(f"ERROR SIMULATED: this version answers {version.status}")
    if version.health == "crashing":
        lines.append("FATAL SIMULATED: this version crashes")
    if version.health == "never_ready":
        lines.append("WARN SIMULATED: this version never becomes ready")
    if query.get("timestamps", "").lower() in {"1", "true"}:
        lines = [f"{pod['status'].get('startTime', '')} {line}" for line in lines]
    if query.get("tailLines"):
        lines = lines[-int(query["tailLines"]) :] if int(query["tailLines"]) else []
    content = "".join(line + "\n" for line in lines).encode()
    if query.get("limitBytes"):
        content = content[: int(query["limitBytes"])]
    return Reply(200, content, "text/plain")
