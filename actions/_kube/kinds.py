"""What a playbook may call a kind, and where the API server keeps it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from runbook.contract import PermanentError

AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"


@dataclass(frozen=True, slots=True)
class Kind:
    """A resource of the API: `Deployment` is `/apis/apps/v1/.../deployments`."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    short: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The kind as object names carry it; with its group where that is not Kubernetes' own."""
        return self.kind if not custom(self) else f"{self.kind}.{self.group}"

    def answers_to(self, word: str) -> bool:
        """Is `word` (lower case) this kind's name, plural, singular, short or full name?

        Full: `deployments.apps`, `deployments.v1.apps` (kubectl), `Deployment.apps/v1`, `apps/v1/Deployment`, `v1/Pod`.
        """
        names = {self.kind.lower(), self.plural.lower(), *self.short}
        if word in names:
            return True
        if not self.group:
            full = {f"{name}.{self.version}" for name in names} | {f"{self.version}/{name}" for name in names}
        else:
            full = {
                form
                for name in names
                for form in (
                    f"{name}.{self.group}",
                    f"{name}.{self.version}.{self.group}",
                    f"{name}.{self.group}/{self.version}",
                    f"{self.group}/{self.version}/{name}",
                )
            }
        return word in full


@dataclass(frozen=True, slots=True)
class Ref:
    """An object, its subresource, or (without a name) a collection."""

    kind: Kind
    namespace: str = ""
    name: str = ""
    subresource: str = ""

    def path(self) -> str:
        """The URL's path. PermanentError for what is no name: a `/`, escaped or not, would lead to another object."""
        kind = self.kind
        for parameter, word in (("namespace", self.namespace), ("name", self.name)):
            if ("/" in word or "%" in word) and (parameter == "name" or kind.namespaced):
                raise PermanentError(f"{parameter}: {word!r} is none: it holds a '/' or a '%'")
            if word != word.strip() or not word.isprintable():  # output of a command, with its line end
                raise PermanentError(
                    f"{parameter}: {word!r} has white space around it, or characters that do not print",
                    hint="`{{ ... | trim }}` takes the line end off what a command said",
                )
        start = f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"
        middle = f"/namespaces/{quote(self.namespace, safe='')}" if kind.namespaced and self.namespace else ""
        end = "".join(f"/{quote(part, safe='')}" for part in (self.name, self.subresource) if part)
        return f"{start}{middle}/{kind.plural}{end}"

    def __str__(self) -> str:
        sub = f"/{self.subresource}" if self.subresource else ""
        name = f" {self.name!r}" if self.name else ""
        where = f" in namespace {self.namespace!r}" if self.namespace and self.kind.namespaced else ""
        return f"{self.kind.plural}{sub}{name}{where}"


_OWN = frozenset(
    ["", "apps", "autoscaling", "batch", "policy"]
    + [
        f"{name}.k8s.io"
        for name in (
            "admissionregistration",
            "apiextensions",
            "apiregistration",
            "authentication",
            "authorization",
            "certificates",
            "coordination",
            "discovery",
            "events",
            "flowcontrol.apiserver",
            "networking",
            "node",
            "rbac.authorization",
            "resource",
            "scheduling",
            "storage",
        )
    ]
)


def custom(kind: Kind) -> bool:
    """Is it defined by a CustomResourceDefinition or an aggregated server? Such kinds take no strategic patches."""
    return kind.group not in _OWN


POD = Kind("", "v1", "pods", "Pod", short=("po",))
SERVICE = Kind("", "v1", "services", "Service", short=("svc",))
SECRET = Kind("", "v1", "secrets", "Secret")
NAMESPACE = Kind("", "v1", "namespaces", "Namespace", namespaced=False, short=("ns",))
DEPLOYMENT = Kind("apps", "v1", "deployments", "Deployment", short=("deploy",))
REPLICASET = Kind("apps", "v1", "replicasets", "ReplicaSet", short=("rs",))
CONTROLLER_REVISION = Kind("apps", "v1", "controllerrevisions", "ControllerRevision")
ENDPOINT_SLICE = Kind("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")
AUTOSCALER = Kind("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler", short=("hpa",))
ACCESS_REVIEW = Kind(
    "authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", namespaced=False
)

KNOWN = (
    POD,
    SERVICE,
    SECRET,
    Kind("", "v1", "configmaps", "ConfigMap", short=("cm",)),
    Kind("", "v1", "events", "Event", short=("ev",)),
    NAMESPACE,
    Kind("", "v1", "nodes", "Node", namespaced=False, short=("no",)),
    DEPLOYMENT,
    REPLICASET,
    Kind("apps", "v1", "statefulsets", "StatefulSet", short=("sts",)),
    Kind("apps", "v1", "daemonsets", "DaemonSet", short=("ds",)),
    Kind("batch", "v1", "jobs", "Job"),
    ENDPOINT_SLICE,
    AUTOSCALER,
)
"""The stable kinds that runbooks name most: known here, so that an emergency asks for no discovery documents first."""


def known(word: str) -> Kind | None:
    """The well-known kind of that name in any spelling that kubectl takes."""
    return next((kind for kind in KNOWN if kind.answers_to(word.lower())), None)


def from_aggregated(document: Mapping[str, Any]) -> Iterable[Kind]:
    """The kinds of an APIGroupDiscoveryList (the server's preferred version of each first)."""
    for group in document.get("items", ()):
        for version in group.get("versions", ()):
            for entry in version.get("resources", ()):
                yield Kind(
                    group=group.get("metadata", {}).get("name", "") or "",
                    version=version["version"],
                    plural=entry["resource"],
                    kind=entry.get("responseKind", {}).get("kind", ""),
                    namespaced=entry.get("scope") == "Namespaced",
                    short=tuple(entry.get("shortNames") or ()),
                )


def from_resource_list(document: Mapping[str, Any]) -> Iterable[Kind]:
    """The kinds of an APIResourceList (`/api/v1`, `/apis/GROUP/VERSION`)."""
    group, _, version = str(document.get("groupVersion", "v1")).rpartition("/")
    for entry in document.get("resources", ()):
        if "/" not in entry["name"]:
            yield Kind(
                group, version, entry["name"], entry["kind"], entry["namespaced"], tuple(entry.get("shortNames") or ())
            )
