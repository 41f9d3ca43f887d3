"""From a scenario's `world:` to objects and Helm releases."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from runbook.interpreter.errors import InvalidError
from runbook.sandbox import admission, kinds
from runbook.sandbox.controllers import Controllers
from runbook.sandbox.releases import Release, Releases, dump
from runbook.sandbox.statuses import StatusError
from runbook.sandbox.world import Document, World


def seed(world: World, controllers: Controllers, releases: Releases, content: Mapping[str, Any]) -> None:
    """Put everything into an empty world and bring it to rest. InvalidError where an object is refused."""
    namespaces: Mapping[str, Any] = content.get("namespaces") or {}
    for name in ("default", "kube-system", *namespaces):
        if world.find(kinds.NAMESPACE, "", name) is None:
            labels = (namespaces.get(name) or {}).get("labels") or {}
            _create(
                world, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": dict(labels)}}
            )
    for name, body in namespaces.items():
        _namespace(world, controllers, name, body or {})
    for document in content.get("objects") or []:
        _create(world, copy.deepcopy(document))
    world.custom = tuple(kind for kind in kinds.CUSTOM if world.list(kind))
    controllers.settle()
    for name, body in namespaces.items():
        for release, given in ((body or {}).get("releases") or {}).items():
            releases.add(name, _release(world, name, release, given))


def _namespace(world: World, controllers: Controllers, namespace: str, body: Mapping[str, Any]) -> None:
    for name, texts in (body.get("config_maps") or {}).items():
        _create(
            world, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _meta(name, namespace), "data": dict(texts)}
        )
    for name, texts in (body.get("secrets") or {}).items():
        _create(
            world, {"apiVersion": "v1", "kind": "Secret", "metadata": _meta(name, namespace), "stringData": dict(texts)}
        )
    for name, given in (body.get("services") or {}).items():
        _create(world, _service(name, namespace, given or {}))
    for name, given in (body.get("routes") or {}).items():
        _create(world, _route(name, namespace, given))
    deployments: Mapping[str, Any] = body.get("deployments") or {}
    history = max((len(given.get("previous") or []) for given in deployments.values()), default=0)
    for back in range(history, -1, -1):  # one roll-out after the other, as it was: oldest revisions first
        for name, given in deployments.items():
            images = [*(given.get("previous") or []), given["image"]]
            if back < len(images):
                _roll(world, _deployment(name, namespace, given, images[len(images) - 1 - back]))
        controllers.settle()


def _roll(world: World, document: Document) -> None:
    meta = document["metadata"]
    found = world.find(kinds.DEPLOYMENT, meta["namespace"], meta["name"])
    if found is None:
        _create(world, document)
        return
    after = copy.deepcopy(found)
    after["spec"]["template"]["spec"]["containers"][0]["image"] = document["spec"]["template"]["spec"]["containers"][0][
        "image"
    ]
    world.replace(kinds.DEPLOYMENT, after)


def _create(world: World, document: Document) -> None:
    kind = kinds.of_object(document, kinds.CUSTOM)
    named = f"{document.get('kind')} {document.get('metadata', {}).get('name')}"
    if kind is None:
        raise InvalidError(
            f"the scenario's {named}: this sandbox does not model {document.get('apiVersion')} {document.get('kind')}"
        )
    if kind.namespaced:
        document["metadata"].setdefault("namespace", "default")
    made = admission.defaulted(kind, document)
    try:
        admission.check(kind, made)
        world.create(kind, made)
    except StatusError as error:
        raise InvalidError(f"the scenario's {named}: {error.message}") from None


def _meta(name: str, namespace: str, labels: Mapping[str, str] | None = None) -> dict[str, Any]:
    meta: dict[str, Any] = {"name": name, "namespace": namespace}
    return meta | ({"labels": dict(labels)} if labels else {})


def _service(name: str, namespace: str, given: Mapping[str, Any]) -> Document:
    spec: dict[str, Any] = {"ports": [{"port": given.get("port", 80), "targetPort": given.get("target_port", 8000)}]}
    if given.get("selector"):
        spec["selector"] = dict(given["selector"])
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _meta(name, namespace, given.get("labels")),
        "spec": spec,
    }


def _route(name: str, namespace: str, given: Mapping[str, Any]) -> Document:
    backends = [{"name": service, "port": 80, "weight": weight} for service, weight in given["backends"].items()]
    spec = {"parentRefs": [{"name": given.get("gateway", "gateway")}], "rules": [{"backendRefs": backends}]}
    meta = _meta(name, namespace)
    return {"apiVersion": kinds.HTTP_ROUTE.api_version, "kind": "HTTPRoute", "metadata": meta, "spec": spec}


def _deployment(name: str, namespace: str, given: Mapping[str, Any], image: str) -> Document:
    labels = dict(given.get("labels") or {"app": name})
    container: dict[str, Any] = {"name": labels.get("app", name), "image": image}
    container["ports"] = [{"containerPort": given.get("port", 8000)}]
    if given.get("env"):
        container["env"] = [{"name": key, "value": value} for key, value in given["env"].items()]
    meta = _meta(name, namespace, labels)
    if given.get("annotations"):
        meta["annotations"] = dict(given["annotations"])
    template = {"metadata": {"labels": dict(labels)}, "spec": {"containers": [container]}}
    spec = {"replicas": given.get("replicas", 1), "selector": {"matchLabels": dict(labels)}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec}


def _release(world: World, namespace: str, name: str, given: Mapping[str, Any]) -> list[Release]:
    workloads = given.get("workloads")
    if workloads is None:
        workloads = [item["metadata"]["name"] for item in world.list(kinds.DEPLOYMENT, namespace)]
    owned = [world.get(kinds.DEPLOYMENT, namespace, workload) for workload in workloads]
    services = [world.get(kinds.SERVICE, namespace, service) for service in given.get("services") or []]
    made = []
    for number, revision in enumerate(given["revisions"], start=1):
        last = number == len(given["revisions"])
        objects = [_manifest_object(item) for item in services]
        for item in owned:
            image = _image(item, revision)
            objects.append(_manifest_object(item, image))
        made.append(
            Release(
                name=name,
                revision=number,
                status=revision.get("status", "deployed" if last else "superseded"),
                chart=given.get("chart", f"{name}-0.1.0"),
                app_version=revision.get("app_version", revision.get("tag", "")),
                description=revision.get("description", "Upgrade complete" if number > 1 else "Install complete"),
                manifest=revision.get("manifest") or dump(objects, given.get("chart", name).rpartition("-")[0] or name),
            )
        )
        _parsed(made[-1])
    return made


def _parsed(release: Release) -> None:
    try:
        release.objects()
    except ValueError as error:
        raise InvalidError(f"the scenario's release {release.name}, revision {release.revision}: {error}") from None


def _image(item: Document, revision: Mapping[str, Any]) -> str:
    running: str = item["spec"]["template"]["spec"]["containers"][0]["image"]
    given: str | None = (revision.get("images") or {}).get(item["metadata"]["name"])
    if given is not None:
        return given
    return f"{running.rpartition(':')[0]}:{revision['tag']}" if "tag" in revision else running


def _manifest_object(item: Document, image: str | None = None) -> Document:
    """As a chart would have written it: without what the server adds."""
    meta = {key: item["metadata"][key] for key in ("name", "labels") if key in item["metadata"]}
    if item["kind"] == "Service":
        ports = [{key: port[key] for key in ("port", "targetPort") if key in port} for port in item["spec"]["ports"]]
        spec: dict[str, Any] = {"ports": ports, "selector": copy.deepcopy(item["spec"].get("selector") or {})}
    else:
        container = item["spec"]["template"]["spec"]["containers"][0]
        kept = {key: copy.deepcopy(container[key]) for key in ("name", "image", "env") if key in container}
        kept["image"] = image or kept["image"]
        kept["ports"] = [{"containerPort": port["containerPort"]} for port in container["ports"]]
        labels = copy.deepcopy(item["spec"]["template"]["metadata"]["labels"])
        template = {"metadata": {"labels": labels}, "spec": {"containers": [kept]}}
        spec = {
            "replicas": item["spec"]["replicas"],
            "selector": copy.deepcopy(item["spec"]["selector"]),
            "template": template,
        }
    return {"apiVersion": item["apiVersion"], "kind": item["kind"], "metadata": meta, "spec": spec}
