"""A real Kubernetes control plane for the benchmark (tests/testbed), with so many objects in it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.testbed import plane
from tests.testbed.plane import Plane, built

SPACE = "bench"
AT_ONCE = 12


@contextlib.contextmanager
def running() -> Iterator[Plane | None]:
    """One in a folder of its own; None where this machine has none (tests/testbed/control_plane/build)."""
    if plane.why_not() is not None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="runbook-bench-plane-") as folder, plane.running(Path(folder)) as made:
        made.kubectl("create", "namespace", SPACE)
        yield made


def services(made: Plane, count: int) -> None:
    """Services to patch: `web0` and so on."""
    spec = {"selector": {"app": "web"}, "ports": [{"port": 80}]}
    _create(made, [_object("v1", "Service", f"web{n}", spec) for n in range(count)])


def deployments(made: Plane, count: int) -> None:
    """Deployments of the size that they have in the field; paused, so that no controller is at work meanwhile."""
    environ = [{"name": f"SETTING_{n}", "value": "a value of some length, as configuration has it"} for n in range(20)]
    probe = {"httpGet": {"path": "/health", "port": 8080}, "periodSeconds": 5}
    container = {"name": "app", "image": "registry.invalid/app:1", "env": environ, "readinessProbe": probe}
    found = []
    for n in range(count):
        template = {"metadata": {"labels": {"app": f"app{n}"}}, "spec": {"containers": [container]}}
        spec = {"paused": True, "replicas": 1, "selector": {"matchLabels": {"app": f"app{n}"}}, "template": template}
        found.append(_object("apps/v1", "Deployment", f"app{n}", spec))
    _create(made, found)


def pods(made: Plane, count: int) -> None:
    """Pods that a Deployment `crowd` selects; nobody owns or schedules them: what matters is that they are watched."""
    labels = {"app": "crowd"}
    pod = {"schedulerName": "nobody", "containers": [{"name": "app", "image": "registry.invalid/app:1"}]}
    _create(made, [_object("v1", "Pod", f"pod{n}", pod, labels) for n in range(count)])
    template = {"metadata": {"labels": labels}, "spec": {"containers": pod["containers"]}}
    spec = {"paused": True, "replicas": 1, "selector": {"matchLabels": labels}, "template": template}
    _create(made, [_object("apps/v1", "Deployment", "crowd", spec)])


@contextlib.contextmanager
def restless(made: Plane) -> Iterator[None]:
    """Meanwhile pods of the crowd change, some 50 a second: a watch has something to say."""
    words = ["-n", SPACE, "label", "pods", "-l", "app=crowd", "seen=yes", "--overwrite"]
    busy = subprocess.Popen([str(built() / "kubectl"), *words], env=made.environ(), stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        busy.terminate()
        busy.wait(10)


def _object(
    version: str, kind: str, name: str, spec: object, labels: dict[str, str] | None = None
) -> dict[str, object]:
    metadata = {"name": name, "namespace": SPACE, "labels": labels or {"fleet": "bench"}}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}


def _create(made: Plane, items: list[dict[str, object]]) -> None:
    """A few at once: one kubectl creates 50 a second."""

    def some(first: int) -> None:
        wanted = {"apiVersion": "v1", "kind": "List", "items": items[first::AT_ONCE]}
        if wanted["items"]:
            made.kubectl("create", "-f", "-", stdin=json.dumps(wanted))

    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(some, range(AT_ONCE)))
