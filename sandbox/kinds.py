"""The kinds of objects that the simulated API models, and what it knows to exist elsewhere but does not model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

READ = ("get", "list", "watch")
ALL = ("create", "delete", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True, slots=True)
class Kind:
    """One resource of the API: where it stands and what may be done with it."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    short: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ALL
    subresources: tuple[str, ...] = ()

    @property
    def api_version(self) -> str:
        """`apps/v1`; `v1` for the core group."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """The name in the server's messages: `deployments.apps`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def qualified_kind(self) -> str:
        """The kind in the server's messages: `Deployment.apps`."""
        return f"{self.kind}.{self.group}" if self.group else self.kind


NAMESPACE = Kind("", "v1", "namespaces", "Namespace", namespaced=False, short=("ns",))
SERVICE = Kind("", "v1", "services", "Service", short=("svc",))
ENDPOINTS = Kind("", "v1", "endpoints", "Endpoints", short=("ep",), verbs=READ)
POD = Kind("", "v1", "pods", "Pod", short=("po",), subresources=("log", "portforward"))
CONFIG_MAP = Kind("", "v1", "configmaps", "ConfigMap", short=("cm",))
SECRET = Kind("", "v1", "secrets", "Secret")
EVENT = Kind("", "v1", "events", "Event", short=("ev",), verbs=READ)
DEPLOYMENT = Kind("apps", "v1", "deployments", "Deployment", short=("deploy",), subresources=("scale", "status"))
REPLICA_SET = Kind("apps", "v1", "replicasets", "ReplicaSet", short=("rs",))
ENDPOINT_SLICE = Kind("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", verbs=READ)
LEASE = Kind("coordination.k8s.io", "v1", "leases", "Lease")
AUTOSCALER = Kind(
    "autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler", short=("hpa",), verbs=READ
)
ACCESS_REVIEW = Kind(
    "authorization.k8s.io",
    "v1",
    "selfsubjectaccessreviews",
    "SelfSubjectAccessReview",
    namespaced=False,
    verbs=("create",),
)

KINDS = (
    NAMESPACE,
    SERVICE,
    ENDPOINTS,
    POD,
    CONFIG_MAP,
    SECRET,
    EVENT,
    DEPLOYMENT,
    REPLICA_SET,
    ENDPOINT_SLICE,
    LEASE,
    AUTOSCALER,
    ACCESS_REVIEW,
)

HTTP_ROUTE = Kind("gateway.networking.k8s.io", "v1", "httproutes", "HTTPRoute", subresources=("status",))

CUSTOM = (HTTP_ROUTE,)
"""Kinds of CustomResourceDefinitions: served only where a scenario has such an object (`World.custom`)."""

REAL_GROUPS = frozenset({
    "admissionregistration.k8s.io", "apiextensions.k8s.io", "apiregistration.k8s.io", "apps", "authentication.k8s.io",
    "authorization.k8s.io", "autoscaling", "batch", "certificates.k8s.io", "coordination.k8s.io", "discovery.k8s.io",
    "events.k8s.io", "flowcontrol.apiserver.k8s.io", "networking.k8s.io", "node.k8s.io", "policy",
    "rbac.authorization.k8s.io", "resource.k8s.io", "scheduling.k8s.io", "storage.k8s.io",
})  # fmt: skip
"""Groups that a real API server has: asked for here, they are not modelled (501), rather than unknown (404)."""

REAL_PLURALS: Mapping[str, frozenset[str]] = {
    "": frozenset({
        "bindings", "componentstatuses", "limitranges", "nodes", "persistentvolumeclaims", "persistentvolumes",
        "podtemplates", "replicationcontrollers", "resourcequotas", "serviceaccounts",
    }),
    "apps": frozenset({"controllerrevisions", "daemonsets", "statefulsets"}),
    "authorization.k8s.io": frozenset({"localsubjectaccessreviews", "selfsubjectrulesreviews", "subjectaccessreviews"}),
    "autoscaling": frozenset(),
    "coordination.k8s.io": frozenset(),
    "discovery.k8s.io": frozenset(),
    "gateway.networking.k8s.io": frozenset({
        "backendtlspolicies", "gatewayclasses", "gateways", "grpcroutes", "referencegrants", "tlsroutes",
    }),
}  # fmt: skip

REAL_SUBRESOURCES: Mapping[str, frozenset[str]] = {
    "pods": frozenset({
        "attach", "binding", "ephemeralcontainers", "eviction", "exec", "log", "portforward", "proxy", "resize",
        "status",
    }),
    "services": frozenset({"proxy", "status"}),
    "namespaces": frozenset({"finalize", "status"}),
    "deployments": frozenset({"scale", "status"}),
    "replicasets": frozenset({"scale", "status"}),
    "horizontalpodautoscalers": frozenset({"status"}),
}  # fmt: skip


def find(group: str, version: str, plural: str, custom: Sequence[Kind] = ()) -> Kind | None:
    """The modelled kind that is served at a place in the API. `custom`: the custom kinds that are."""
    wanted = (group, version, plural)
    return next((k for k in (*KINDS, *custom) if (k.group, k.version, k.plural) == wanted), None)


def of_object(document: Mapping[str, Any], custom: Sequence[Kind] = ()) -> Kind | None:
    """The modelled kind of an object by its apiVersion and kind."""
    named = (document.get("apiVersion"), document.get("kind"))
    return next((k for k in (*KINDS, *custom) if (k.api_version, k.kind) == named), None)


def groups(custom: Sequence[Kind] = ()) -> tuple[tuple[str, str], ...]:
    """Groups and versions that are served."""
    return tuple(dict.fromkeys((kind.group, kind.version) for kind in (*KINDS, *custom)))


def resource_list(group: str, version: str, custom: Sequence[Kind] = ()) -> dict[str, Any]:
    """An APIResourceList, as discovery answers it."""
    resources: list[dict[str, Any]] = []
    for kind in (*KINDS, *custom):
        if (kind.group, kind.version) != (group, version):
            continue
        entry = {
            "name": kind.plural,
            "singularName": kind.kind.lower(),
            "namespaced": kind.namespaced,
            "kind": kind.kind,
            "verbs": list(kind.verbs),
        }
        resources.append(entry | ({"shortNames": list(kind.short)} if kind.short else {}))
        for name in kind.subresources:
            scale = (
                {"group": "autoscaling", "version": "v1", "kind": "Scale"} if name == "scale" else {"kind": kind.kind}
            )
            verbs = {"log": ["get"], "portforward": ["create", "get"]}.get(name, ["get", "patch", "update"])
            resources.append(
                {"name": f"{kind.plural}/{name}", "singularName": "", "namespaced": True, **scale, "verbs": verbs}
            )
    api_version = f"{group}/{version}" if group else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version, "resources": resources}


def group_list(custom: Sequence[Kind] = ()) -> dict[str, Any]:
    """An APIGroupList of what is modelled."""
    found = [api_group(group, custom) for group, _ in groups(custom) if group]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": found}


def api_group(group: str, custom: Sequence[Kind] = ()) -> dict[str, Any]:
    """One APIGroup; every modelled group has one version."""
    version = next(v for g, v in groups(custom) if g == group)
    at = {"groupVersion": f"{group}/{version}", "version": version}
    return {"kind": "APIGroup", "apiVersion": "v1", "name": group, "versions": [at], "preferredVersion": at}
