"""A Kubernetes cluster as the actions see it: raw objects, errors that name verb and resource, kinds by discovery.

Facts: API conventions (https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md), the patch
types (https://kubernetes.io/docs/reference/using-api/api-concepts/), design/integrations.md.
"""

from __future__ import annotations

import base64
import json
import random
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from runbook.actions._kube import kinds
from runbook.actions._kube.bounds import pause
from runbook.actions._kube.config import CURRENT, access, context_name
from runbook.actions._kube.discovery import Discovery
from runbook.actions._kube.errors import (
    ConflictError,
    ExpiredError,
    ForbiddenError,
    MissingError,
    RefusedError,
    explain,
    said_by_api,
)
from runbook.actions._kube.kinds import Kind, Ref
from runbook.actions._kube.login import Login
from runbook.actions._kube.transport import Answer, Bounds, Transport, Within
from runbook.contract import Context, PermanentError, Sensitive, TemporaryError

__all__ = [
    "CONTENT_TYPES",
    "MANAGER",
    "PAGE",
    "Cluster",
    "ConflictError",
    "ExpiredError",
    "ForbiddenError",
    "MissingError",
    "RefusedError",
    "connect",
    "explain",
    "open_cluster",
    "presentable",
    "read_secret",
    "sensitive",
]

MANAGER = "runbook"
CONTENT_TYPES = {
    "strategic": "application/strategic-merge-patch+json",
    "merge": "application/merge-patch+json",
    "json": "application/json-patch+json",
}
METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
_NO_NAMES = ("", ".", "..")
_NAMING = ("get", "patch", "apply", "delete")  # verbs that mean one object
_CONFLICT_PAUSE = (0.01, 0.08)  # seconds
PAGE = 250
"""Objects of a list that are asked for, and held, at once."""


class Cluster:
    """One API server as one user sees it; cached per run."""

    def __init__(self, transport: Transport, context: str) -> None:
        self.transport = transport
        self.context = context
        self._lock = threading.Lock()
        self._discovery = Discovery(self._document, context)
        self._rights: dict[tuple[str, Ref], bool] = {}

    def close(self) -> None:
        """Close the idle connections."""
        self.transport.close()

    def name(self, ref: Ref) -> str:
        """The global name of an object in observations: `k8s:<context>/<namespace>/Service/web`."""
        return f"k8s:{self.context}/{ref.namespace if ref.kind.namespaced else ''}/{ref.kind.title}/{ref.name}"

    # -- objects

    def get(self, bounds: Bounds, ref: Ref) -> dict[str, Any]:
        """The object. MissingError, ForbiddenError, or what else the server says."""
        try:
            return self._ask(bounds, "get", "GET", ref).json()
        except MissingError as error:
            if not ref.kind.namespaced or self._has_namespace(bounds, ref.namespace):
                raise
            raise MissingError(
                f"namespace: there is no namespace {ref.namespace!r} (context {self.context!r})"
            ) from error

    def find(self, bounds: Bounds, ref: Ref) -> dict[str, Any] | None:
        """The object, or None where there is none of that name."""
        try:
            return self._ask(bounds, "get", "GET", ref).json()
        except MissingError:
            return None

    def select(
        self, bounds: Bounds, ref: Ref, selector: str = "", fields: str = "", *, everywhere: bool = False
    ) -> list[dict[str, Any]]:
        """All objects that a label selector and a field selector match (`ref` without a name).

        `everywhere`: of all namespaces, where `ref` names none.
        """
        return list(self.each(bounds, ref, selector, fields, everywhere=everywhere))

    def each(
        self, bounds: Bounds, ref: Ref, selector: str = "", fields: str = "", *, everywhere: bool = False
    ) -> Iterator[dict[str, Any]]:
        """The same, one at a time: no more than a page of them is held, for callers that need a little of each."""
        _addressed(ref, named=False, everywhere=everywhere)
        kind = ref.kind
        # Items of a list carry neither kind nor apiVersion.
        head = {"kind": kind.kind, "apiVersion": f"{kind.group}/{kind.version}".lstrip("/")}
        query = {"limit": str(PAGE), "labelSelector": selector, "fieldSelector": fields, "continue": ""}
        while True:
            try:
                page = self._ask(bounds, "list", "GET", ref, query=query).json()
            except ExpiredError as error:
                # A list of many pages was slower than the server forgets: it offers to go on with what is there now.
                if not query["continue"] or not error.following:
                    raise
                query["continue"] = error.following
                continue
            except RefusedError as error:
                if not selector:
                    raise
                raise RefusedError(f"selector: {selector!r}: {error.message}") from error
            items = page.get("items") or []
            query["continue"] = (page.get("metadata") or {}).get("continue") or ""
            del page
            for number, item in enumerate(items):
                items[number] = None  # whoever does not keep it lets it go
                yield head | item
            if not query["continue"]:
                return

    def version(self, bounds: Bounds, ref: Ref, selector: str = "", fields: str = "") -> str:
        """The resourceVersion of a collection now: from there on a watch tells every change."""
        query = {"limit": "1", "labelSelector": selector, "fieldSelector": fields}
        page = self._ask(bounds, "list", "GET", ref, query=query, accept=METADATA_LIST).json()
        return str((page.get("metadata") or {}).get("resourceVersion") or "")

    def patch(self, bounds: Bounds, ref: Ref, body: Any, patch_type: str, *, dry_run: bool = False) -> dict[str, Any]:
        """Send a patch (`strategic`, `merge`, `json`); the object as it is then, or would be."""
        query = {"fieldManager": MANAGER, "fieldValidation": "Strict", "dryRun": "All" if dry_run else ""}
        try:
            return self._ask(
                bounds, "patch", "PATCH", ref, query=query, body=body, content_type=CONTENT_TYPES[patch_type]
            ).json()
        except ConflictError:
            # Told a moment later, and not the same one to all: writers that read again at once meet again.
            pause(bounds, random.uniform(*_CONFLICT_PAUSE))  # noqa: S311  # no secret
            raise

    def apply(
        self, bounds: Bounds, ref: Ref, body: Any, *, force: bool = False, dry_run: bool = False
    ) -> dict[str, Any]:
        """Server-side apply as field manager `runbook`; the object as it is then, or would be. `force`: take fields
        over that belong to others; ConflictError names them otherwise."""
        query = {
            "fieldManager": MANAGER,
            "fieldValidation": "Strict",
            "force": "true" if force else "",
            "dryRun": "All" if dry_run else "",
        }
        return self._ask(
            bounds, "apply", "PATCH", ref, query=query, body=body, content_type="application/apply-patch+yaml"
        ).json()

    def create(self, bounds: Bounds, ref: Ref, body: Any, *, dry_run: bool = False) -> dict[str, Any]:
        """Create an object in a collection (`ref` without a name); the object as it is then, or would be."""
        query = {"fieldManager": MANAGER, "fieldValidation": "Strict", "dryRun": "All" if dry_run else ""}
        return self._ask(bounds, "create", "POST", ref, query=query, body=body).json()

    def delete(self, bounds: Bounds, ref: Ref, uid: str, propagation: str = "") -> bool:
        """Delete exactly the object with this uid; False where it is gone already or another bears its name.

        `propagation`: Background, Foreground or Orphan; empty: the server's default for the kind."""
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}}
        if propagation:
            body["propagationPolicy"] = propagation
        try:
            self._ask(bounds, "delete", "DELETE", ref, body=body)
        except (MissingError, ConflictError):
            return False
        return True

    def text(self, bounds: Bounds, ref: Ref, query: Mapping[str, str], limit: int) -> bytes:
        """A subresource that is no JSON (a pod's log), at most `limit` bytes."""
        return self._ask(bounds, "get", "GET", ref, query=query, limit=limit).body

    # -- rights

    def may(self, bounds: Bounds, verb: str, ref: Ref) -> bool:
        """Does the server let this user do that (SelfSubjectAccessReview)? Asked once per run."""
        kind = ref.kind
        about = (verb, ref)
        with self._lock:
            if about in self._rights:
                return self._rights[about]
        wanted = {"verb": verb, "group": kind.group, "version": kind.version, "resource": kind.plural}
        optional = {
            "namespace": ref.namespace if kind.namespaced else "",
            "name": ref.name,
            "subresource": ref.subresource,
        }
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": wanted | {key: value for key, value in optional.items() if value}},
        }
        answer = self._ask(bounds, "create", "POST", Ref(kinds.ACCESS_REVIEW), body=body).json()
        allowed = bool((answer.get("status") or {}).get("allowed"))
        with self._lock:
            self._rights[about] = allowed
        return allowed

    # -- kinds

    def kind(self, bounds: Bounds, word: str) -> Kind:
        """The kind that a playbook means: any the API serves, by kind, plural, singular, short or full name."""
        return self._discovery.kind(bounds, word)

    def _document(self, bounds: Bounds, path: str, accept: str) -> dict[str, Any]:
        answer = self.transport.request(bounds, "GET", path, headers={"Accept": accept})
        if answer.status != 200:
            raise explain(answer, f"read {path}", self.context)
        return self._whole(answer).json()

    def _has_namespace(self, bounds: Bounds, name: str) -> bool:
        """Also where we may not look: only what is known to be wrong is said."""
        try:
            self._ask(bounds, "get", "GET", Ref(kinds.NAMESPACE, name=name))
        except MissingError:
            return False
        except (PermanentError, TemporaryError):
            return True
        return True

    # -- one request

    def _ask(
        self,
        bounds: Bounds,
        verb: str,
        method: str,
        ref: Ref,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        limit: int | None = None,
        accept: str = "application/json",
    ) -> Answer:
        path = _addressed(ref, named=verb in _NAMING, everywhere=verb == "list").path()
        asked = {key: value for key, value in (query or {}).items() if value}
        headers = {"Accept": accept if limit is None else "*/*", "User-Agent": MANAGER}
        content = None if body is None else json.dumps(body).encode()
        if content is not None:
            headers["Content-Type"] = content_type
        answer = self.transport.request(
            bounds,
            method,
            f"{path}?{urlencode(asked)}" if asked else path,
            headers=headers,
            body=content,
            limit=limit,
            reads="dryRun" in asked or ref.kind == kinds.ACCESS_REVIEW,
        )
        if answer.status == 404 and not said_by_api(answer, custom=kinds.custom(ref.kind)):
            # Never "it is not there": a gateway that does not know the way would make every object absent.
            raise TemporaryError(
                f"cannot {verb} {ref}: {self.transport.host} answers 404, but not as the Kubernetes API does;"
                " is that its address, with its path?"
            )
        if not 200 <= answer.status < 300:
            raise explain(answer, f"{verb} {ref}", self.context)
        return answer if limit is not None else self._whole(answer)

    def _whole(self, answer: Answer) -> Answer:
        """A success that is no JSON object is none: a proxy's page, or half an answer whose length nobody said."""
        if not answer.json():
            raise TemporaryError(
                f"the answer of the Kubernetes API at {self.transport.host} is no whole JSON object"
                f" ({len(answer.body)} bytes)"
            )
        return answer


def _addressed(ref: Ref, *, named: bool, everywhere: bool) -> Ref:
    """The same, if it means one place: an empty name would mean a whole collection, an empty namespace all of them."""
    if ref.kind.namespaced and ref.namespace in _NO_NAMES and not (everywhere and not ref.namespace):
        raise PermanentError(f"namespace: {ref.namespace!r} is no name of one (for {ref.kind.plural})")
    if (named or ref.name) and ref.name in _NO_NAMES:
        raise PermanentError(f"name: {ref.name!r} is no name of an object (of {ref.kind.plural})")
    return ref


def connect(ctx: Context, context: str) -> Cluster:
    """The cluster of a context (`current`: what the kubeconfig's own was when the run began), cached per run."""
    environ = ctx.environ
    where = environ.get("KUBECONFIG") or environ.get("HOME") or ""
    # Somebody who switches the context in another window must not switch this run, nor what resumes or undoes it.
    name = ctx.pinned("k8s-context", lambda: context_name(environ, context)) if context == CURRENT else context
    return ctx.client(f"k8s:{where}:{name}", lambda: open_cluster(environ, name, ctx.folder), Cluster.close)


def open_cluster(environ: Mapping[str, str], name: str, folder: Path | None) -> Cluster:
    """A new connection to a context's cluster. `folder`: a private one; None: the system's temporary folder."""
    return Cluster(Transport(Login(lambda: access(environ, name), environ), folder), name)


def server_version(environ: Mapping[str, str]) -> tuple[str, str]:
    """The current context and its server's version. TemporaryError, PermanentError where it does not say."""
    resolved = context_name(environ, CURRENT)
    cluster = open_cluster(environ, resolved, None)
    try:
        answer = cluster.transport.request(Within(5.0), "GET", "/version", headers={"Accept": "application/json"})
    finally:
        cluster.close()
    if answer.status != 200:
        raise explain(answer, "read /version", resolved)
    return resolved, str(answer.json().get("gitVersion") or "of an unknown version")


def read_secret(environ: Mapping[str, str], context: str, namespace: str, name: str, key: str) -> str | None:
    """One key of a Secret, decoded; None where the Secret or the key is absent. TemporaryError, PermanentError else."""
    bounds = Within(10.0)
    resolved = context_name(environ, context)
    cluster = open_cluster(environ, resolved, None)
    try:
        found = cluster.find(bounds, Ref(kinds.SECRET, namespace, name))
    finally:
        cluster.close()
    encoded = ((found or {}).get("data") or {}).get(key)
    if encoded is None:
        return None
    try:
        return base64.b64decode(encoded).decode("utf-8")
    except ValueError as error:
        raise PermanentError(f"key {key!r} of Secret {namespace}/{name} is no UTF-8 text") from error


_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


def presentable(kind: Kind, found: Mapping[str, Any]) -> dict[str, Any]:
    """An object for outputs: without managedFields; what a Secret holds is Sensitive."""
    metadata = {key: value for key, value in (found.get("metadata") or {}).items() if key != "managedFields"}
    shown = {**found, "metadata": metadata}
    if kind != kinds.SECRET:
        return shown
    annotations = metadata.get("annotations") or {}
    if _LAST_APPLIED in annotations:  # it repeats the data
        metadata["annotations"] = {**annotations, _LAST_APPLIED: Sensitive(annotations[_LAST_APPLIED])}
    return {key: sensitive(value) if key in ("data", "stringData") else value for key, value in shown.items()}


def sensitive(value: Any) -> Any:
    """The same tree with every text in it Sensitive."""
    if isinstance(value, str):
        return Sensitive(value)
    if isinstance(value, Mapping):
        return {key: sensitive(item) for key, item in value.items()}
    if isinstance(value, list):
        return [sensitive(item) for item in value]
    return value
