"""The simulated Kubernetes API: from a request to an answer. All is kept in a World; faults are injected before it.

It models what the official Python client and the shipped playbooks need. Everything else that a real server has answers
501 with a sentence, and is remembered, so that a run's report can say what was not simulated.
"""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runbook.sandbox import kinds, pod_logs, portforward, scale, selectors, statuses, tables, watch, writes
from runbook.sandbox.controllers import Controllers
from runbook.sandbox.faults import Fault, Faults, Request
from runbook.sandbox.http_server import Incoming, Reply, as_json
from runbook.sandbox.kinds import Kind
from runbook.sandbox.statuses import StatusError
from runbook.sandbox.world import World

GIT_VERSION = "v1.36.3+simulated"
_METHODS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_CHANGING = frozenset({"create", "update", "patch", "delete"})


@dataclass(frozen=True, slots=True)
class Place:
    """What a request is about. `verb` as RBAC names it; `resource` with its subresource after a slash."""

    kind: Kind
    namespace: str
    name: str
    subresource: str
    verb: str
    dry_run: bool

    @property
    def resource(self) -> str:
        return f"{self.kind.plural}/{self.subresource}" if self.subresource else self.kind.plural

    @property
    def changes(self) -> bool:
        """Whether it would change something: no read, no dry run, no access review."""
        return self.verb in _CHANGING and not self.dry_run and self.kind != kinds.ACCESS_REVIEW


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as it was answered; tests assert on it."""

    at: float
    user: str
    verb: str
    resource: str
    namespace: str
    name: str
    dry_run: bool
    changes: bool
    status: int


class Api:
    """Answers requests from a world."""

    def __init__(
        self,
        world: World,
        controllers: Controllers,
        faults: Faults,
        *,
        users: Mapping[str, str],
        forbidden: Sequence[Mapping[str, str]] = (),
        pods: portforward.Pods | None = None,
    ) -> None:
        """`users`: token -> user name; `nobody` may do nothing, others everything that no rule of `forbidden` names."""
        self.world = world
        self.controllers = controllers
        self.faults = faults
        self.asked: list[Asked] = []
        self._users = users
        self._forbidden = forbidden
        self._pods = pods
        self._lock = threading.Lock()

    def fault(self, incoming: Incoming) -> Fault | None:
        place = self._place(incoming)
        if place is None:
            return self.faults.strike(Request("kubernetes", incoming.method.lower(), incoming.path))
        return self.faults.strike(
            Request("kubernetes", place.verb, incoming.path, place.resource, place.namespace, place.name, place.dry_run)
        )

    def failure(self, fault: Fault) -> Reply:
        error = statuses.injected(int(fault.answer or 500), fault.message, fault.retry_after)
        return as_json(error.code, error.body(), error.headers)

    def answer(self, incoming: Incoming) -> Reply:
        user = self._users.get(incoming.headers.get("authorization", "").removeprefix("Bearer "), "")
        try:
            reply = self._answer(incoming, user)
        except StatusError as error:
            if error.code == 501:
                self.world.report_unmodelled(f"{incoming.method} {incoming.path}: {error.message}")
            reply = as_json(error.code, error.body(), error.headers)
        place = self._place(incoming)
        if place is not None:
            record = Asked(
                time.time(), user, place.verb, place.resource, place.namespace, place.name,
                place.dry_run, place.changes, reply.status,
            )  # fmt: skip
            with self._lock:
                self.asked.append(record)
        return reply

    def _answer(self, incoming: Incoming, user: str) -> Reply:
        if not user:
            raise statuses.unauthorized()
        discovered = self._discovery(incoming.path.rstrip("/"))
        if discovered is not None:
            return discovered
        place = self._place(incoming)
        if place is None:
            return self._elsewhere(incoming)
        about = {"resource": place.resource, "namespace": place.namespace, "name": place.name}
        # a WebSocket to a pod is a GET; since Kubernetes 1.35 `create` is wanted, too
        verbs = (place.verb, "create") if place.subresource == "portforward" else (place.verb,)
        refused = next((verb for verb in verbs if not self.allowed(user, place.kind.group, verb=verb, **about)), None)
        if refused is not None:
            raise statuses.forbidden(
                place.kind,
                place.name,
                user=user,
                verb=refused,
                namespace=place.namespace,
                subresource=place.subresource,
            )
        accept = incoming.headers.get("accept", "*/*")
        if not any(kind in accept for kind in ("json", "*/*", "application/*")) and not place.subresource:
            raise statuses.not_acceptable()
        if place.subresource:
            return self._subresource(incoming, place)
        if place.verb not in place.kind.verbs:
            if place.kind in (kinds.AUTOSCALER, kinds.EVENT, kinds.ENDPOINTS, kinds.ENDPOINT_SLICE):
                raise statuses.not_modelled(f"{place.verb} of {place.kind.plural}")
            raise statuses.method_not_allowed()
        return self._resource(incoming, place, user)

    def _resource(self, incoming: Incoming, place: Place, user: str) -> Reply:
        if place.kind == kinds.ACCESS_REVIEW:
            return self._access_review(incoming, user)
        match place.verb:
            case "get":
                item = self.world.get(place.kind, place.namespace, place.name)
                meta = {"resourceVersion": item["metadata"]["resourceVersion"]}
                shown = tables.wanted(incoming.headers.get("accept", "")) and tables.of(place.kind, [item], meta)
                return as_json(200, shown or item)
            case "list":
                return self._list(incoming, place)
            case "watch":
                return self._watch(incoming, place)
            case "create":
                return writes.create(self.world, place.kind, place.namespace, incoming)
            case "update":
                return writes.update(self.world, place.kind, place.namespace, place.name, incoming)
            case "patch":
                return writes.patch(self.world, place.kind, place.namespace, place.name, incoming)
            case "delete" if place.name:
                return writes.delete(self.world, place.kind, place.namespace, place.name, incoming)
        raise statuses.not_modelled(f"deleting collections ({place.kind.plural})")

    def _subresource(self, incoming: Incoming, place: Place) -> Reply:
        kind, name = place.kind, place.subresource
        if name not in kind.subresources:
            if name in kinds.REAL_SUBRESOURCES.get(kind.plural, ()):
                raise statuses.not_modelled(f"the subresource {place.resource}")
            raise statuses.not_found(kind, place.name) if kind in kinds.CUSTOM else statuses.no_resource()
        item = self.world.get(kind, place.namespace, place.name)
        if name == "log":
            return pod_logs.read(item, self.controllers.version_of(item), incoming.query)
        if name == "portforward":
            return portforward.upgrade(incoming, item, self._pods)
        if name == "scale":
            return scale.answer(self.world, kind, item, place.verb, incoming)
        if place.verb == "get":
            return as_json(200, item)
        return writes.patch(self.world, kind, place.namespace, place.name, incoming, status_only=True)

    def _list(self, incoming: Incoming, place: Place) -> Reply:
        matches = _selection(incoming, place.kind)
        with self.world.changed:
            version = self.world.version
            items = [i for i in self.world.list(place.kind, place.namespace or None) if matches(i)]
        limit = _whole(incoming.query.get("limit", ""))
        start = 0
        if incoming.query.get("continue"):
            try:
                start = int(base64.urlsafe_b64decode(incoming.query["continue"]).decode())
            except ValueError:
                raise statuses.bad_request("continue key is not valid") from None
        page = items[start : start + limit] if limit else items[start:]
        meta: dict[str, Any] = {"resourceVersion": str(version)}
        rest = len(items) - start - len(page)
        if rest > 0:
            meta["continue"] = base64.urlsafe_b64encode(str(start + len(page)).encode()).decode()
            meta["remainingItemCount"] = rest
        table = tables.of(place.kind, page, meta) if tables.wanted(incoming.headers.get("accept", "")) else None
        if table is not None:
            return as_json(200, table)
        left_out = () if place.kind in kinds.CUSTOM else ("kind", "apiVersion")
        bare = [{key: value for key, value in item.items() if key not in left_out} for item in page]
        body = {"kind": f"{place.kind.kind}List", "apiVersion": place.kind.api_version, "metadata": meta}
        return as_json(200, body | {"items": bare})

    def _watch(self, incoming: Incoming, place: Place) -> Reply:
        matches = _selection(incoming, place.kind)
        asked = incoming.query.get("resourceVersion", "")
        seconds = incoming.query.get("timeoutSeconds")

        def run(write: Any) -> None:
            watch.stream(
                self.world,
                place.kind,
                place.namespace or None,
                matches,
                since=_whole(asked) or None,
                initial_events=incoming.flag("sendInitialEvents"),
                bookmarks=incoming.flag("allowWatchBookmarks"),
                seconds=float(_whole(seconds)) if seconds else None,
                gone=incoming.gone,
                write=write,
            )

        return Reply(200, stream=run)

    def _access_review(self, incoming: Incoming, user: str) -> Reply:
        document = writes.document(kinds.ACCESS_REVIEW, incoming)
        wanted = document.get("spec", {}).get("resourceAttributes")
        if wanted is None:
            raise statuses.not_modelled("reviews of access to anything but resources")
        resource = wanted.get("resource", "")
        if wanted.get("subresource"):
            resource += "/" + wanted["subresource"]
        about = {key: wanted.get(key, "") for key in ("verb", "namespace", "name")}
        allowed = self.allowed(user, wanted.get("group", ""), resource=resource, **about)
        body = {"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "metadata": {}}
        return as_json(201, body | {"spec": document["spec"], "status": {"allowed": allowed}})

    def allowed(self, user: str, group: str, **asked: str) -> bool:
        """Whether a user may do it. `asked`: verb, resource, namespace, name, as RBAC has them."""
        if group == "authorization.k8s.io" and asked["verb"] == "create":
            return True
        if user == "nobody":
            return False
        return not any(all(asked[key] == value for key, value in rule.items()) for rule in self._forbidden)

    def _place(self, incoming: Incoming) -> Place | None:
        parts = [part for part in incoming.path.split("/") if part]
        if parts[:1] == ["api"] and len(parts) > 2:
            group, version, rest = "", parts[1], parts[2:]
        elif parts[:1] == ["apis"] and len(parts) > 3:
            group, version, rest = parts[1], parts[2], parts[3:]
        else:
            return None
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2 and not (len(rest) == 3 and rest[2] in {"status", "finalize"}):
            namespace, rest = rest[1], rest[2:]
        kind = kinds.find(group, version, rest[0], self.world.custom)
        if kind is None or len(rest) > 3:
            return None
        name = rest[1] if len(rest) > 1 else ""
        subresource = rest[2] if len(rest) > 2 else ""
        dry_run = "All" in incoming.every.get("dryRun", [])
        return Place(kind, namespace, name, subresource, _verb(incoming, name, subresource), dry_run)

    def _discovery(self, path: str) -> Reply | None:
        custom = self.world.custom
        if path in {"/healthz", "/readyz", "/livez"}:
            return Reply(200, b"ok", "text/plain; charset=utf-8")
        if path == "/version":
            about = {"major": "1", "minor": "36", "gitVersion": GIT_VERSION, "platform": "simulated/runbook"}
            return as_json(200, about)
        if path == "/api":
            return as_json(200, {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
        if path == "/apis":
            return as_json(200, kinds.group_list(custom))
        for group, version in kinds.groups(custom):
            if path == (f"/apis/{group}/{version}" if group else f"/api/{version}"):
                return as_json(200, kinds.resource_list(group, version, custom))
            if group and path == f"/apis/{group}":
                return as_json(200, kinds.api_group(group, custom))
        return None

    def _elsewhere(self, incoming: Incoming) -> Reply:
        """Not modelled when a real server has it, not found when it has not."""
        parts = [part for part in incoming.path.split("/") if part]
        group = parts[1] if parts[:1] == ["apis"] and len(parts) > 1 else "" if parts[:1] == ["api"] else None
        served = {group for group, _ in kinds.groups(self.world.custom)}
        if group is not None and group in kinds.REAL_PLURALS and group in served:
            real = kinds.REAL_PLURALS[group]
            plural = next((part for part in parts if part in real), None)
            if plural is None:
                raise statuses.no_resource()
            raise statuses.not_modelled(f"{plural}.{group}" if group else plural)
        if group in kinds.REAL_GROUPS or incoming.path.startswith(("/openapi", "/metrics", "/logs")):
            raise statuses.not_modelled(incoming.path)
        return Reply(404, b"404 page not found\n", "text/plain; charset=utf-8")


def _verb(incoming: Incoming, name: str, subresource: str) -> str:
    if subresource == "portforward":
        return "create" if incoming.method == "POST" else "get"
    if incoming.method in {"GET", "HEAD"}:
        if incoming.flag("watch"):
            return "watch"
        return "get" if name else "list"
    if incoming.method == "POST" and name and not subresource:
        return "post"  # creating under a name: the server does not allow the method
    return _METHODS.get(incoming.method, incoming.method.lower())


def _whole(text: str) -> int:
    if not text:
        return 0
    try:
        return int(text)
    except ValueError:
        raise statuses.bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax') from None


def _selection(incoming: Incoming, kind: Kind) -> watch.Predicate:
    by_labels = selectors.parse(incoming.query.get("labelSelector", ""))
    by_fields = selectors.parse_fields(incoming.query.get("fieldSelector", ""), kind)
    return lambda item: by_labels(item["metadata"].get("labels") or {}) and by_fields(item)
