"""A set of manifests and its next version, a caller that keeps, whole objects to compare: for tests of k8s.apply."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.context import LocalContext
from tests.kube import Caller, meaning
from tests.testbed.plane import Plane

KINDS = "configmaps,secrets,services,deployments,statefulsets,jobs,horizontalpodautoscalers,roles"
SET = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {set: shop}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
        - name: web
          image: registry.invalid/web:1
          envFrom: [{configMapRef: {name: app}}]
          ports: [{containerPort: 8080}]
          resources: {limits: {cpu: 1000m, memory: 0.5Gi}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: app, labels: {set: shop}}
data: {level: info, old: "yes"}
---
apiVersion: v1
kind: Secret
metadata: {name: login, labels: {set: shop}}
stringData: {password: correct-horse-1}
---
apiVersion: v1
kind: Service
metadata: {name: web, labels: {set: shop}}
spec:
  selector: {app: web, slot: blue}
  ports: [{name: http, port: 80, targetPort: 8080}]
"""
NEXT = (
    SET.replace("web:1", "web:2")
    .replace("replicas: 2", "replicas: 3\n  minReadySeconds: 1")
    .replace('old: "yes"', 'new: "no"')
    .replace("correct-horse-1", "battery-staple-2")
    .replace(", slot: blue", "")
    .replace("          envFrom: [{configMapRef: {name: app}}]\n", "          args: [--fast]\n")
    .replace(
        "          ports:",
        "        - {name: side, image: registry.invalid/side:1}\n        - name: third\n"
        "          image: registry.invalid/third:1\n          ports:",
    )
)


class Keeper(Caller):
    """A caller whose calls share what they keep, as those of a run do."""

    def __init__(self, plane: Plane, folder: Path, *, user: str = "admin") -> None:
        super().__init__(plane, folder, user=user)
        self.kept: dict[str, bytes] = {}

    def context(self, op: str | None = None, **options: Any) -> LocalContext:
        ctx = super().context(op, **options)
        ctx._kept = self.kept
        return ctx


def objects(plane: Plane, space: str, *, owners: bool = False) -> dict[str, Any]:
    """The meaning of every object; with `owners` also which manager owns what."""
    command = ["-n", space, "get", KINDS, "--output=json", "--show-managed-fields"]
    found = json.loads(plane.kubectl(*command))["items"]
    seen: dict[str, Any] = {}
    for item in found:
        if item["metadata"]["name"] == "kube-root-ca.crt":
            continue
        entries = item["metadata"].get("managedFields", [])
        fields = {
            (entry["manager"], entry["operation"]): entry["fieldsV1"]
            for entry in entries
            if not entry.get("subresource")
        }
        fields.pop(("kube-controller-manager", "Update"), None)
        name = f"{item['kind']}/{item['metadata']['name']}"
        seen[name] = (meaning(item), fields) if owners else meaning(item)
    return seen


def differences(one: Any, other: Any) -> Iterator[str]:
    for name in sorted({*one, *other}):
        if one.get(name) != other.get(name):
            yield f"{name}: {one.get(name)} became {other.get(name)}"


def same(one: Any, other: Any) -> None:
    found = "\n".join(differences(one, other))
    assert not found, found
