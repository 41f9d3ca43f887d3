"""Which workloads use a ConfigMap or a Secret: they go on with what they read at their start."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from runbook.actions._kube import kinds
from runbook.actions._kube.cluster import Cluster
from runbook.actions._kube.kinds import Kind, Ref
from runbook.contract import Context, PermanentError

WORKLOADS = (
    *(kind for kind in kinds.KNOWN if kind.kind in ("Deployment", "StatefulSet", "DaemonSet")),
    Kind("batch", "v1", "cronjobs", "CronJob"),
)

Use = tuple[str, str, str]
"""The kind of what is used (ConfigMap, Secret), its name, and how: env, volume or image pull."""


def users(cluster: Cluster, ctx: Context, changed: Iterable[Ref]) -> list[dict[str, str]]:
    """`[{object, by, as}]`: each workload of their namespaces that uses a changed ConfigMap or Secret.

    A user who may not list workloads gets none: the right is not needed for the change.
    """
    wanted: dict[str, set[tuple[str, str]]] = {}
    for ref in changed:
        if ref.kind.kind in ("ConfigMap", "Secret") and not ref.kind.group:
            wanted.setdefault(ref.namespace, set()).add((ref.kind.kind, ref.name))
    found = []
    for namespace, names in wanted.items():
        for kind in WORKLOADS:
            with contextlib.suppress(PermanentError):
                for workload in cluster.select(ctx, Ref(kind, namespace)):
                    by = f"{kind.kind}/{workload['metadata']['name']}"
                    uses = sorted({use for use in _uses(_template(workload)) if use[:2] in names})
                    found += [{"object": f"{use[0]}/{use[1]}", "by": by, "as": use[2]} for use in uses]
    return found


def sentence(use: Mapping[str, str]) -> str:
    """What it means for the workload."""
    if use["as"] == "env":
        return f"{use['by']} has {use['object']} in its environment: it goes on with the old one until it is restarted"
    if use["as"] == "volume":
        return f"{use['by']} mounts {use['object']}: its pods see the new one after a while, without a restart"
    return f"{use['by']} pulls its images with {use['object']}"


def _template(workload: Mapping[str, Any]) -> Mapping[str, Any]:
    spec = workload.get("spec") or {}
    if "jobTemplate" in spec:
        spec = (spec["jobTemplate"] or {}).get("spec") or {}
    return ((spec.get("template") or {}).get("spec")) or {}


def _uses(pod: Mapping[str, Any]) -> Iterator[Use]:
    for volume in pod.get("volumes") or ():
        for source in [volume, *((volume.get("projected") or {}).get("sources") or ())]:
            if "configMap" in source:
                yield "ConfigMap", str(source["configMap"].get("name")), "volume"
            secret = source.get("secret")
            if secret:
                yield "Secret", str(secret.get("secretName") or secret.get("name")), "volume"
    for group in ("initContainers", "containers"):
        for container in pod.get(group) or ():
            yield from _in_environment(container)
    for pull in pod.get("imagePullSecrets") or ():
        yield "Secret", str(pull.get("name")), "image pull"


def _in_environment(container: Mapping[str, Any]) -> Iterator[Use]:
    for entry in container.get("envFrom") or ():
        for field, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
            if field in entry:
                yield kind, str(entry[field].get("name")), "env"
    for entry in container.get("env") or ():
        source = entry.get("valueFrom") or {}
        for field, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
            if field in source:
                yield kind, str(source[field].get("name")), "env"
