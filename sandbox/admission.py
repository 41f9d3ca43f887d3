"""What the API server does to an object before it is stored: defaults, checks, unknown fields.

Defaults and messages follow Kubernetes 1.36 (pkg/apis/*/v1/defaults.go, validation.go); field names come from the
models of the official Python client, so that a typo is found here as there.
"""

from __future__ import annotations

import base64
import copy
import functools
import json
import re
from collections.abc import Iterator
from typing import Any

from runbook.sandbox import kinds, routes, selectors, statuses
from runbook.sandbox.kinds import Kind
from runbook.sandbox.statuses import Cause
from runbook.sandbox.world import Document

_SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_BAD_NAME = (
    'Invalid value: "%s": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '
    "'-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for "
    "validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
_GO_TYPES = {str: "string", bool: "bool", int: "number", float: "number", list: "array", dict: "object"}


def defaulted(kind: Kind, document: Document) -> Document:
    """The object with the fields that the server fills in."""
    made = copy.deepcopy(document)
    if kind.kind in {"Deployment", "ReplicaSet"}:
        _default_workload(kind, made)
    elif kind == kinds.POD:
        _default_pod_spec(made.setdefault("spec", {}))
    elif kind == kinds.SERVICE:
        _default_service(made)
    elif kind == kinds.HTTP_ROUTE:
        routes.default(made)
    elif kind == kinds.SECRET:
        made.setdefault("type", "Opaque")
        for key, text in (made.pop("stringData", None) or {}).items():
            made.setdefault("data", {})[key] = base64.b64encode(text.encode()).decode()
    elif kind == kinds.NAMESPACE:
        made["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = made["metadata"].get("name", "")
        made |= {"spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}
    return made


def _default_workload(kind: Kind, made: Document) -> None:
    spec = made.setdefault("spec", {})
    if spec.get("replicas") is None:
        spec["replicas"] = 1
    template = spec.setdefault("template", {})
    template.setdefault("metadata", {})
    _default_pod_spec(template.setdefault("spec", {}))
    if kind != kinds.DEPLOYMENT:
        made.setdefault("status", {"replicas": 0})
        return
    if spec.get("strategy") is None:
        spec["strategy"] = {}
    strategy = spec["strategy"]
    strategy.setdefault("type", "RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        rolling = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxUnavailable", "25%")
        rolling.setdefault("maxSurge", "25%")
    spec.setdefault("revisionHistoryLimit", 10)
    spec.setdefault("progressDeadlineSeconds", 600)
    made.setdefault("status", {})


def _default_pod_spec(spec: Document) -> None:
    for container in [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]:
        image = container.get("image", "").rpartition("/")[2]
        latest = "@" not in image and image.partition(":")[2] in {"", "latest"}
        container.setdefault("resources", {})
        container.setdefault("terminationMessagePath", "/dev/termination-log")
        container.setdefault("terminationMessagePolicy", "File")
        container.setdefault("imagePullPolicy", "Always" if latest else "IfNotPresent")
        for port in container.get("ports") or []:
            port.setdefault("protocol", "TCP")
        for name in ("livenessProbe", "readinessProbe", "startupProbe"):
            if container.get(name):
                _default_probe(container[name])
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("terminationGracePeriodSeconds", 30)
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("securityContext", {})
    spec.setdefault("schedulerName", "default-scheduler")


def _default_probe(probe: Document) -> None:
    if "httpGet" in probe:
        probe["httpGet"].setdefault("path", "/")
        probe["httpGet"].setdefault("scheme", "HTTP")
    for key, value in (("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)):
        probe.setdefault(key, value)


def _default_service(made: Document) -> None:
    spec = made.setdefault("spec", {})
    for port in spec.get("ports") or []:
        port.setdefault("protocol", "TCP")
        if "port" in port:
            port.setdefault("targetPort", port["port"])
    spec.setdefault("type", "ClusterIP")
    spec.setdefault("sessionAffinity", "None")
    if spec["type"] != "ExternalName":
        spec.setdefault("internalTrafficPolicy", "Cluster")
        spec.setdefault("ipFamilies", ["IPv4"])
        spec.setdefault("ipFamilyPolicy", "SingleStack")
        address = f"10.96.0.{sum(made['metadata'].get('name', '').encode()) % 250 + 2}"
        spec.setdefault("clusterIP", address)
        spec.setdefault("clusterIPs", [spec["clusterIP"]])
    made.setdefault("status", {"loadBalancer": {}})


_IGNORED = ("affinity", "initContainers", "nodeSelector", "topologySpreadConstraints", "tolerations")


def ignored(kind: Kind, document: Document) -> list[str]:
    """Fields that this object sets and that do nothing here, though a real cluster acts on them."""
    spec = document.get("spec") or {}
    pod = spec.get("template", {}).get("spec") or {} if kind.kind in {"Deployment", "ReplicaSet"} else spec
    found = [f"{kind.plural}: {field}" for field in _IGNORED if kind != kinds.SERVICE and pod.get(field)]
    for container in (pod.get("containers") or []) if kind != kinds.SERVICE else []:
        probes = [name for name in ("livenessProbe", "readinessProbe", "startupProbe") if container.get(name)]
        found += [f"{kind.plural}: {name} (the scenario's `versions` decide)" for name in probes]
    return found


def check(kind: Kind, document: Document, before: Document | None = None) -> None:
    """Refuse what the server's validation refuses (the rules that a rollback can meet). StatusError 422."""
    causes = list(_causes(kind, document, before))
    if causes:
        raise statuses.invalid(kind.kind, kind.group, document["metadata"].get("name", ""), causes)


def _causes(kind: Kind, document: Document, before: Document | None) -> Iterator[Cause]:
    name = document["metadata"].get("name", "")
    if not name and not document["metadata"].get("generateName"):
        yield Cause("metadata.name", "Required value: name or generateName is required", "FieldValueRequired")
    elif name and not re.fullmatch(_SUBDOMAIN, name):
        yield Cause("metadata.name", _BAD_NAME % name)
    if kind.kind in {"Deployment", "ReplicaSet"}:
        yield from _workload_causes(document, before)
    elif kind == kinds.POD:
        yield from _container_causes(document["spec"], "spec")
    elif kind == kinds.SERVICE:
        yield from _service_causes(document)
    elif kind == kinds.HTTP_ROUTE:
        yield from routes.causes(document)


def _workload_causes(document: Document, before: Document | None) -> Iterator[Cause]:
    spec = document["spec"]
    if isinstance(spec["replicas"], int) and spec["replicas"] < 0:
        text = f"Invalid value: {spec['replicas']}: must be greater than or equal to 0"
        yield Cause("spec.replicas", text)
    selector = spec.get("selector")
    labels = (spec["template"].get("metadata") or {}).get("labels")
    if not selector:
        yield Cause("spec.selector", "Required value", "FieldValueRequired")
    if not selector or not selectors.by_label_selector(selector)(labels or {}):
        shown = _compact(labels) if labels else "null"
        yield Cause(
            "spec.template.metadata.labels", f"Invalid value: {shown}: `selector` does not match template `labels`"
        )
    yield from _container_causes(spec["template"]["spec"], "spec.template.spec")
    if before is not None and selector != before["spec"].get("selector"):
        yield Cause("spec.selector", f"Invalid value: {_compact(selector)}: field is immutable")


def _container_causes(spec: Document, path: str) -> Iterator[Cause]:
    containers = spec.get("containers") or []
    if not containers:
        yield Cause(f"{path}.containers", "Required value", "FieldValueRequired")
    for index, container in enumerate(containers):
        at = f"{path}.containers[{index}]"
        if not container.get("name"):
            yield Cause(f"{at}.name", "Required value", "FieldValueRequired")
        if not container.get("image"):
            yield Cause(f"{at}.image", "Required value", "FieldValueRequired")
        for position, port in enumerate(container.get("ports") or []):
            if not 0 < port.get("containerPort", 0) < 65536:
                text = f"Invalid value: {port.get('containerPort', 0)}: must be between 1 and 65535, inclusive"
                yield Cause(f"{at}.ports[{position}].containerPort", text)


def _service_causes(document: Document) -> Iterator[Cause]:
    spec = document["spec"]
    if not spec.get("ports") and spec["type"] != "ExternalName" and spec.get("clusterIP") != "None":
        yield Cause("spec.ports", "Required value", "FieldValueRequired")
    for index, port in enumerate(spec.get("ports") or []):
        if not 0 < port.get("port", 0) < 65536:
            text = f"Invalid value: {port.get('port', 0)}: must be between 1 and 65535, inclusive"
            yield Cause(f"spec.ports[{index}].port", text)
        if len(spec["ports"]) > 1 and not port.get("name"):
            yield Cause(f"spec.ports[{index}].name", "Required value", "FieldValueRequired")


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


# Fields: what the official client's models know.


@functools.cache
def _models() -> Any:
    from kubernetes.client import models  # 0.1 s, only when something is written

    return models


@functools.cache
def _fields(model: str) -> dict[str, str]:
    """JSON name -> type of a model's fields, as the client spells types: `List[V1Container]`, `Dict[str, str]`."""
    found = getattr(_models(), model)
    return {found.attribute_map[name]: kind for name, kind in found.openapi_types.items()}


Path = tuple[str | int, ...]


def unknown_fields(kind: Kind, document: Document) -> list[Path]:
    """The fields that the kind does not have."""
    if kind == kinds.HTTP_ROUTE:
        return routes.unknown(document)
    return list(_unknown(_model_of(kind), document, ()))


def path_text(path: Path) -> str:
    """`spec.containers[0].foo`, as the server writes it."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def without(document: Document, paths: list[Path]) -> Document:
    """The object without these fields."""
    pruned = copy.deepcopy(document)
    for path in paths:
        at: Any = pruned
        for part in path[:-1]:
            at = at[part]
        at.pop(path[-1], None)
    return pruned


def wrong_type(kind: Kind, document: Document) -> str | None:
    """The server's words for the first value of a wrong type, or None: of a custom kind `check` says it."""
    if kind in kinds.CUSTOM:
        return None
    return next(_mistyped(_model_of(kind), document, kind.kind, ""), None)


def _model_of(kind: Kind) -> str:
    return {"EndpointSlice": "V1EndpointSlice"}.get(kind.kind, f"{kind.version.upper()}{kind.kind}")


def _unknown(model: str, value: Any, path: Path) -> Iterator[Path]:
    inner = _inner(model)
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _unknown(inner or "object", item, (*path, index))
    elif isinstance(value, dict) and inner is not None:
        for key, item in value.items():
            yield from _unknown(inner, item, (*path, key))
    elif isinstance(value, dict) and hasattr(_models(), model):
        fields = _fields(model)
        for key, item in value.items():
            if key not in fields:
                yield (*path, key)
            else:
                yield from _unknown(fields[key], item, (*path, key))


def _mistyped(model: str, value: Any, struct: str, path: str) -> Iterator[str]:
    inner = _inner(model)
    if value is None:
        return
    wanted, go = _python_type(model)
    if wanted is not None and (not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool)):
        found = _GO_TYPES.get(type(value), "object")
        yield f"json: cannot unmarshal {found} into Go struct field {struct}.{path} of type {go}"
    elif isinstance(value, list):
        for item in value:
            yield from _mistyped(inner or "object", item, struct, path)
    elif isinstance(value, dict) and inner is not None:
        for item in value.values():
            yield from _mistyped(inner, item, struct, path)
    elif isinstance(value, dict) and hasattr(_models(), model):
        fields = _fields(model)
        for key, item in value.items():
            if key in fields and key not in {"limits", "requests"}:  # quantities may be numbers
                yield from _mistyped(fields[key], item, struct, f"{path}.{key}" if path else key)


def _inner(model: str) -> str | None:
    """The type of the items of a list or map type."""
    match = re.fullmatch(r"(?:list|List)\[(.+)\]|(?:dict|Dict)[(\[]str, ?(.+)[)\]]", model)
    return (match.group(1) or match.group(2)) if match else None


def _python_type(model: str) -> tuple[Any, str]:
    if model.lower().startswith("list["):
        return list, "[]" + (_inner(model) or "").replace("str", "string")
    if model.lower().startswith("dict"):
        return dict, "map[string]" + (_inner(model) or "").replace("str", "string")
    simple = {"str": (str, "string"), "int": (int, "int32"), "bool": (bool, "bool"), "float": ((int, float), "float64")}
    if model in simple:
        return simple[model]
    return (dict, "object") if model.startswith("V1") else (None, "")
