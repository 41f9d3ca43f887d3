"""Against a real control plane: ten patches beside kubectl, the status of a fleet, a crowd of pods watched."""

from __future__ import annotations

from collections.abc import Iterator

from tests.testbed.plane import Plane

from bench import cluster
from bench.case import Bench, Line, s, within


def kubernetes(bench: Bench) -> Iterator[Line]:
    """Against a real control plane: ten patches beside kubectl, the status of a fleet, a crowd of pods watched."""
    with cluster.running() as plane:
        if plane is None:
            yield Line("Kubernetes: no control plane (tests/testbed/control_plane/build)", "absent")
            return
        bench.environ |= plane.environ()
        yield from _patches(bench, plane)
        yield from _fleet(bench, plane)
        yield from _crowd(bench, plane)


def _patches(bench: Bench, plane: Plane) -> Iterator[Line]:
    cluster.services(plane, 10)
    patch = "{metadata: {annotations: {run: '{{ run.id }}'}}}"
    given = f"namespace: {cluster.SPACE}, kind: Service, patch: {patch}"
    steps = "".join(f"  - {{id: p{n}, action: k8s.patch, with: {{name: web{n}, {given}}}}}\n" for n in range(10))
    theirs = '{"metadata": {"annotations": {"run": "\'$(date +%s%N)\'"}}}'
    one = f"kubectl -n {cluster.SPACE} patch service web$n -p '{theirs}'"
    kubectl = ["bash", "-c", f"set -e; for n in $(seq 0 9); do {one}; done"]
    mine, other = bench.beside(bench.playbook("patches", steps), kubectl, runs=bench.few)
    ratio, spent = mine.wall / other.wall, mine.cpu / other.cpu
    what = f"ten k8s.patch, beside ten kubectl patch ({s(other.wall)})"
    yield Line(what, f"{ratio:.2f}x", f"{spent:.2f}x", "<= 1.0x", ratio <= 1.0, spent <= 1.0)


def _fleet(bench: Bench, plane: Plane) -> Iterator[Line]:
    count = 50 if bench.quick else 500
    cluster.deployments(plane, count)
    status = f"{{namespace: {cluster.SPACE}, selector: fleet=bench}}"
    look = bench.playbook("fleet", f"  - {{id: look, action: k8s.status, with: {status}}}\n")
    (mine,) = bench.beside(look, runs=bench.few)
    yield within(f"k8s.status of {count} Deployments, the whole run", mine, 1.0)
    yield Line("  its memory", f"{mine.mebibytes:.0f} MiB", "", "<= 60 MiB", mine.mebibytes <= 60)


def _crowd(bench: Bench, plane: Plane) -> Iterator[Line]:
    count = 500 if bench.quick else 5000
    cluster.pods(plane, count)
    wait = f"{{namespace: {cluster.SPACE}, kind: Deployment, name: crowd, for: replicas=1}}"
    watch = bench.playbook("crowd", f"  - {{id: watch, action: k8s.wait, with: {wait}, timeout: 8s}}\n")
    with cluster.restless(plane):
        (mine,) = bench.beside(watch, runs=1, warmup=0, expect=1)
    yield Line(f"watching {count} pods for 8 s, some change: memory", f"{mine.mebibytes:.0f} MiB", s(mine.cpu))
