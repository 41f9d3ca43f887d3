"""What the simulated Prometheus answers: a scenario's metrics, as functions of what serves."""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from runbook.sandbox import kinds
from runbook.sandbox.behaviour import tag
from runbook.sandbox.controllers import is_ready
from runbook.sandbox.http_server import Reply, as_json
from runbook.sandbox.world import Document, World


class Metrics:
    """Answers instant queries (`/api/v1/query`). One that no metric matches is an error, never an empty result."""

    def __init__(self, world: World, metrics: Sequence[Mapping[str, Any]]) -> None:
        self._world = world
        self._metrics = metrics
        self._asked = [0] * len(metrics)
        self._lock = threading.Lock()

    def answer(self, path: str, query: Mapping[str, str]) -> Reply:
        """The answer of Prometheus' HTTP API to one request."""
        if path in {"/-/healthy", "/-/ready"}:
            return Reply(200, b"Prometheus is SIMULATED.\n", "text/plain")
        if path != "/api/v1/query":
            return self._unmodelled(f"Prometheus does not model {path}")
        text = query.get("query", "")
        if not text:
            return _error(
                400,
                "bad_data",
                'invalid parameter "query": unknown position: parse error: no expression found in input',
            )
        for index, metric in enumerate(self._metrics):
            if re.search(metric["match"], text):
                with self._lock:
                    self._asked[index] += 1
                    nth = self._asked[index]
                return self._respond(metric, nth)
        return self._unmodelled(f"Prometheus has no metric in its scenario for the query {text!r}")

    def _unmodelled(self, what: str) -> Reply:
        self._world.report_unmodelled(what)
        return _error(422, "execution", f"SIMULATED {what}")

    def _respond(self, metric: Mapping[str, Any], nth: int) -> Reply:
        if "error" in metric:
            return _error(422, "execution", metric["error"])
        if "series" in metric:
            found = [({**(s.get("labels") or {})}, s["value"]) for s in metric["series"]]
        elif "values" in metric:
            found = [({}, metric["values"][min(nth, len(metric["values"])) - 1])]
        elif "value" in metric:
            found = [({}, metric["value"])]
        else:
            found = [({}, self._served(metric))]
        at = time.time()
        result = [{"metric": labels, "value": [at, _text(value)]} for labels, value in found if value is not None]
        return as_json(200, {"status": "success", "data": {"resultType": "vector", "result": result}})

    def _served(self, metric: Mapping[str, Any]) -> Any:
        """The mean over the ready endpoints of a Service, each by the version that it runs."""
        pods = self._endpoints(metric["served_by"])
        values = [self._of_pod(metric, pod) for pod in pods]
        if not values:
            return metric.get("unserved")
        if any(value is None for value in values):
            return None
        return math.fsum(float(value) for value in values) / len(values)

    def _endpoints(self, served_by: Mapping[str, str]) -> list[Document]:
        name = served_by["service"]
        for service in self._world.list(kinds.SERVICE, served_by.get("namespace")):
            if service["metadata"]["name"] != name:
                continue
            wanted = service["spec"].get("selector") or {}
            return [
                pod
                for pod in self._world.list(kinds.POD, service["metadata"]["namespace"])
                if wanted
                and is_ready(pod)
                and not pod["metadata"].get("deletionTimestamp")
                and wanted.items() <= (pod["metadata"].get("labels") or {}).items()
            ]
        return []

    def _of_pod(self, metric: Mapping[str, Any], pod: Document) -> Any:
        image = pod["spec"]["containers"][0].get("image", "")
        by_version = metric.get("by_version") or {}
        name = image.rpartition("/")[2]
        for key in (image, name, name.partition(":")[0], tag(image)):
            if key in by_version:
                return by_version[key]
        return metric.get("otherwise")


def _text(value: Any) -> str:
    """A sample as Prometheus writes it."""
    if isinstance(value, str):
        return value
    return f"{value:g}" if float(value) == float(f"{value:g}") else repr(float(value))


def _error(status: int, kind: str, text: str) -> Reply:
    return as_json(status, {"status": "error", "errorType": kind, "error": text})
