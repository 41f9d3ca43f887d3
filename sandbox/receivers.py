"""Receivers that stand in for Slack, PagerDuty, Statuspage and Prometheus; what they get is kept to be asserted on.

Shapes follow the services' own references: Slack incoming webhooks and chat.postMessage, PagerDuty Events API v2,
Statuspage REST, Prometheus HTTP API.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

from runbook.sandbox.faults import Fault, Faults, Request
from runbook.sandbox.helm_command import Helm, Outcome
from runbook.sandbox.http_server import Incoming, Reply, as_json
from runbook.sandbox.metrics import Metrics
from runbook.sandbox.world import World

SERVICES = ("slack", "pagerduty", "statuspage", "prometheus")
_INCIDENT = (
    "investigating",
    "identified",
    "monitoring",
    "resolved",
    "scheduled",
    "in_progress",
    "verifying",
    "completed",
)
_COMPONENT = ("operational", "degraded_performance", "partial_outage", "major_outage", "under_maintenance")


@dataclass(frozen=True, slots=True)
class Received:
    """One request that a receiver got, and how it was answered. `body` is parsed where it is JSON or a form."""

    service: str
    method: str
    path: str
    body: Any
    authorization: str
    at: float
    status: int


class Receivers:
    """One application for all services, told apart by the first part of the path; and the way in for `helm`."""

    def __init__(self, world: World, metrics: Metrics, helm: Helm, faults: Faults, token: str) -> None:
        self._world = world
        self._metrics = metrics
        self._helm = helm
        self._faults = faults
        self._token = token
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._incidents: dict[tuple[str, str], dict[str, Any]] = {}
        self._components: dict[tuple[str, str], str] = {}
        self.received: list[Received] = []

    def fault(self, incoming: Incoming) -> Fault | None:
        service, path = _split(incoming.path)
        if service == "helm":
            argv, environ = self._invocation(incoming)
            fault: Fault | None = self._helm.fault(argv, environ)
            return fault
        return self._faults.strike(Request(service, incoming.method, path))

    def failure(self, fault: Fault) -> Reply:
        """What an `answer` fault answers, in the service's own shape."""
        text = fault.message or f"SIMULATED fault: the scenario answers {fault.answer}"
        if fault.on == "helm":
            outcome = Outcome(1, "", f"Error: {fault.answer}\n")
            return as_json(200, {"rc": outcome.rc, "stdout": outcome.stdout, "stderr": outcome.stderr})
        headers = {} if fault.retry_after is None else {"Retry-After": f"{fault.retry_after:g}"}
        status = int(fault.answer or 500)
        if fault.on == "prometheus":
            return as_json(status, {"status": "error", "errorType": "unavailable", "error": text}, headers)
        if fault.on == "slack" and status == 200:
            return as_json(200, {"ok": False, "error": text}, headers)
        return Reply(status, text.encode(), "text/plain", headers)

    def answer(self, incoming: Incoming) -> Reply:
        service, path = _split(incoming.path)
        if service == "helm":
            return self._run_helm(incoming)
        body = _body(incoming)
        services: Mapping[str, Callable[[Incoming, str, Any], Reply]] = {
            "slack": self._slack,
            "pagerduty": self._pagerduty,
            "statuspage": self._statuspage,
            "prometheus": self._prometheus,
        }
        if service not in services:
            return as_json(404, {"error": f"SIMULATED sandbox has no service {service!r}"})
        reply = services[service](incoming, path, body)
        kept = Received(
            service, incoming.method, path, body, incoming.headers.get("authorization", ""), time.time(), reply.status
        )
        with self._lock:
            self.received.append(kept)
        return reply

    def _prometheus(self, incoming: Incoming, path: str, body: Any) -> Reply:
        form = body if isinstance(body, dict) else {}
        return self._metrics.answer(path, {**incoming.query, **form})

    def _slack(self, incoming: Incoming, path: str, body: Any) -> Reply:
        if not path.startswith("/api/"):
            if not isinstance(body, dict) or not (body.get("text") or body.get("blocks") or body.get("attachments")):
                return Reply(400, b"no_text" if isinstance(body, dict) else b"invalid_payload", "text/plain")
            return Reply(200, b"ok", "text/plain")
        if path != "/api/chat.postMessage":
            return self._unmodelled(f"Slack's {path}")
        if not incoming.headers.get("authorization", "").startswith("Bearer ") and "token" not in (body or {}):
            return as_json(200, {"ok": False, "error": "not_authed"})
        if not isinstance(body, dict) or not body.get("channel"):
            return as_json(200, {"ok": False, "error": "channel_not_found"})
        if not (body.get("text") or body.get("blocks") or body.get("attachments")):
            return as_json(200, {"ok": False, "error": "no_text"})
        ts = f"{int(time.time())}.{next(self._numbers):06d}"
        return as_json(
            200, {"ok": True, "channel": body["channel"], "ts": ts, "message": {"text": body.get("text", "")}}
        )

    def _pagerduty(self, incoming: Incoming, path: str, body: Any) -> Reply:
        if path != "/v2/enqueue":
            return self._unmodelled(f"PagerDuty's {path}")
        errors = _event_errors(body)
        if errors:
            return as_json(400, {"status": "invalid event", "message": "Event object is invalid", "errors": errors})
        key = body.get("dedup_key") or f"simulated-{next(self._numbers)}"
        return as_json(202, {"status": "success", "message": "Event processed", "dedup_key": key})

    def _statuspage(self, incoming: Incoming, path: str, body: Any) -> Reply:
        if not incoming.headers.get("authorization", "").startswith("OAuth "):
            return as_json(401, {"error": "Could not authenticate"})
        parts = [part.removesuffix(".json") for part in path.split("/") if part]
        match parts:
            case ["v1", "pages", page, "incidents", *rest]:
                return self._incident(incoming.method, page, rest, (body or {}).get("incident") or {})
            case ["v1", "pages", page, "components", component]:
                return self._component(incoming.method, page, component, (body or {}).get("component") or {})
        return self._unmodelled(f"Statuspage's {path}")

    def _incident(self, method: str, page: str, rest: list[str], given: Mapping[str, Any]) -> Reply:
        if given.get("status") not in (None, *_INCIDENT):
            return as_json(422, {"error": [f"Status {given.get('status')} is not included in the list"]})
        with self._lock:
            ours = [incident for (where, _), incident in self._incidents.items() if where == page]
            if method == "GET" and rest in ([], ["unresolved"]):
                return as_json(200, [i for i in reversed(ours) if not rest or i["status"] != "resolved"])
            if method == "POST" and not rest:
                if not given.get("name"):
                    return as_json(422, {"error": ["Name can't be blank"]})
                made: dict[str, Any] = {
                    "id": f"simulated{next(self._numbers)}",
                    "page_id": page,
                    "status": "investigating",
                    "metadata": {},
                }
                made |= {**given, "incident_updates": [{"status": given.get("status"), "body": given.get("body", "")}]}
                self._incidents[page, made["id"]] = made
                return as_json(201, made)
            found = self._incidents.get((page, rest[0])) if len(rest) == 1 else None
            if found is None:
                return as_json(404, {"error": "Not found"})
            if method in {"PATCH", "PUT"}:
                found.update(given)
                found["incident_updates"].insert(0, {"status": found["status"], "body": given.get("body", "")})
            return as_json(200, found)

    def _component(self, method: str, page: str, component: str, given: Mapping[str, Any]) -> Reply:
        if given.get("status") not in (None, *_COMPONENT):
            return as_json(422, {"error": [f"Status {given.get('status')} is not included in the list"]})
        with self._lock:
            if method in {"PATCH", "PUT"} and given.get("status"):
                self._components[page, component] = str(given["status"])
            status = self._components.get((page, component), "operational")
        return as_json(200, {"id": component, "page_id": page, "status": status})

    def _unmodelled(self, what: str) -> Reply:
        self._world.report_unmodelled(what)
        return as_json(501, {"error": f"SIMULATED sandbox does not model {what}"})

    def _invocation(self, incoming: Incoming) -> tuple[list[str], dict[str, str]]:
        try:
            asked = json.loads(incoming.body)
        except ValueError:
            return [], {}
        return list(asked["argv"]), dict(asked["environ"])

    def _run_helm(self, incoming: Incoming) -> Reply:
        if incoming.headers.get("authorization") != f"Bearer {self._token}":
            return as_json(
                401, {"rc": 1, "stdout": "", "stderr": "Error: Kubernetes cluster unreachable: Unauthorized\n"}
            )
        argv, environ = self._invocation(incoming)
        outcome = self._helm.run(argv, environ, incoming.gone)
        return as_json(200, {"rc": outcome.rc, "stdout": outcome.stdout, "stderr": outcome.stderr})


def _split(path: str) -> tuple[str, str]:
    service, _, rest = path.lstrip("/").partition("/")
    return service, "/" + rest


def _body(incoming: Incoming) -> Any:
    text = incoming.body.decode("utf-8", "replace")
    if "x-www-form-urlencoded" in incoming.headers.get("content-type", ""):
        form = {name: values[-1] for name, values in parse_qs(text).items()}
        return json.loads(form["payload"]) if "payload" in form else form
    try:
        return json.loads(text) if text else None
    except ValueError:
        return text


def _event_errors(body: Any) -> list[str]:
    if not isinstance(body, dict):
        return ["Event must be a JSON object"]
    errors = []
    if not body.get("routing_key"):
        errors.append("'routing_key' is missing or blank")
    action = body.get("event_action")
    if action not in {"trigger", "acknowledge", "resolve"}:
        errors.append("'event_action' is missing or invalid")
    if action in {"acknowledge", "resolve"} and not body.get("dedup_key"):
        errors.append("'dedup_key' is missing or blank")
    if action == "trigger":
        payload = body.get("payload") or {}
        errors += [
            f"'payload.{key}' is missing or blank" for key in ("summary", "source", "severity") if not payload.get(key)
        ]
        if payload.get("severity") not in (None, "critical", "error", "warning", "info"):
            errors.append("'payload.severity' is invalid (must be one of: 'critical', 'warning', 'error' or 'info')")
    return errors
