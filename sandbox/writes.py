"""Creating, updating, patching and deleting: bodies, options, admission, preconditions."""

from __future__ import annotations

import copy
import json
from typing import Any

from runbook.sandbox import admission, kinds, patches, statuses
from runbook.sandbox.http_server import Incoming, Reply, as_json
from runbook.sandbox.kinds import Kind
from runbook.sandbox.statuses import Cause
from runbook.sandbox.world import Document, World

STRATEGIC = "application/strategic-merge-patch+json"
MERGE = "application/merge-patch+json"
JSON = "application/json-patch+json"
APPLY = ("application/apply-patch+yaml", "application/apply-patch+cbor")


def create(world: World, kind: Kind, namespace: str, incoming: Incoming) -> Reply:
    """POST on a collection."""
    made = document(kind, incoming)
    dry_run = options(incoming, "CreateOptions")
    _place(kind, made, namespace, "")
    made, warnings = _fields(kind, made, incoming)
    with world.changed:
        made = admission.defaulted(kind, made)
        if kind.namespaced and world.find(kinds.NAMESPACE, "", namespace) is None:
            raise statuses.not_found(kinds.NAMESPACE, namespace)
        admission.check(kind, made)
        warnings = _told(world, kind, made, None, warnings)
        return as_json(201, world.create(kind, made, dry_run=dry_run), warnings)


def update(world: World, kind: Kind, namespace: str, name: str, incoming: Incoming) -> Reply:
    """PUT on an object."""
    made = document(kind, incoming)
    dry_run = options(incoming, "UpdateOptions")
    _place(kind, made, namespace, name)
    made, warnings = _fields(kind, made, incoming)
    with world.changed:
        before = world.get(kind, namespace, name)
        if kind in kinds.CUSTOM and not made["metadata"].get("resourceVersion"):
            cause = Cause("metadata.resourceVersion", "Invalid value: 0: must be specified for an update")
            raise statuses.invalid(kind.plural, kind.group, name, [cause])
        made = _merged_service(kind, before, made)
        made = admission.defaulted(kind, made)
        admission.check(kind, made, before)
        warnings = _told(world, kind, made, before, warnings)
        return as_json(200, world.replace(kind, made, dry_run=dry_run), warnings)


def patch(
    world: World, kind: Kind, namespace: str, name: str, incoming: Incoming, *, status_only: bool = False
) -> Reply:
    """PATCH on an object, in all three ways."""
    how = content_type(incoming)
    if kind in kinds.CUSTOM and how == STRATEGIC:
        raise statuses.no_strategic_patch()
    change = decoded(incoming)
    dry_run = options(incoming, "PatchOptions")
    with world.changed:
        before = world.get(kind, namespace, name)
        after = apply(before, change, how)
        if not isinstance(after, dict):
            raise statuses.unprocessable_patch()
        if not isinstance(after.get("metadata"), dict):
            text = f"the name of the object ({name} based on URL) was undeterminable: name must be provided"
            raise statuses.bad_request(text)
        if (after.get("kind"), after.get("apiVersion")) != (kind.kind, kind.api_version):
            text = f"Invalid value: {json.dumps(json.dumps(change))}: no kind is registered for it"
            raise statuses.invalid("", "", "", [Cause("patch", text)])
        if after["metadata"].get("uid") != before["metadata"]["uid"]:
            text = f'Invalid value: "{after["metadata"].get("uid")}": field is immutable'
            raise statuses.invalid(kind.kind, kind.group, name, [Cause("metadata.uid", text)])
        _place(kind, after, namespace, name)
        after, warnings = _fields(kind, after, incoming, of_patch=change)
        after = admission.defaulted(kind, after)
        admission.check(kind, after, before)
        warnings = _told(world, kind, after, before, warnings)
        stored = world.replace(kind, after, status_only=status_only, dry_run=dry_run)
        return as_json(200, stored, warnings)


def apply(before: Document, change: Any, how: str) -> Any:
    """The object after a decoded patch. StatusError 400, 415, 422."""
    if how == JSON:
        return patches.json_patch(before, change)
    if not isinstance(change, dict):
        kind = type(change).__name__
        raise statuses.bad_request(
            f"error decoding patch: json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}"
        )
    merge = patches.strategic if how == STRATEGIC else patches.merge
    return merge(copy.deepcopy(before), change)


def delete(world: World, kind: Kind, namespace: str, name: str, incoming: Incoming) -> Reply:
    """DELETE of an object, with preconditions and propagation."""
    asked = json.loads(incoming.body) if incoming.body else {}
    dry_run = options(incoming, "DeleteOptions") or "All" in (asked.get("dryRun") or [])
    propagation = asked.get("propagationPolicy") or incoming.query.get("propagationPolicy") or "Background"
    if propagation not in {"Background", "Foreground", "Orphan"}:
        text = f'Unsupported value: "{propagation}": supported values: "Foreground", "Background", "Orphan", "nil"'
        cause = Cause("propagationPolicy", text, "FieldValueNotSupported")
        raise statuses.invalid("DeleteOptions", "meta.k8s.io", "", [cause])
    with world.changed:
        before = world.get(kind, namespace, name)
        for key, field in (("uid", "UID"), ("resourceVersion", "ResourceVersion")):
            wanted, found = (asked.get("preconditions") or {}).get(key), before["metadata"][key]
            if wanted and wanted != found:
                why = f"Precondition failed: {field} in precondition: {wanted}, {field} in object meta: {found}"
                raise statuses.conflict(kind, name, why)
        last = before if dry_run else world.delete(kind, namespace, name, propagation=propagation)
        if kind == kinds.POD and asked.get("gracePeriodSeconds") == 0 and not dry_run:
            world.finish(kind, last)
    if kind == kinds.POD or last["metadata"].get("deletionTimestamp"):
        return as_json(200, last)
    details = {"name": name} | ({"group": kind.group} if kind.group else {})
    details |= {"kind": kind.plural, "uid": before["metadata"]["uid"]}
    body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
    return as_json(200, body)


def options(incoming: Incoming, kind: str) -> bool:
    """Whether it is a dry run. StatusError 422 for a value that does not exist."""
    wanted = [value for value in incoming.every.get("dryRun", []) if value]
    if any(value != "All" for value in wanted):
        shown = json.dumps(wanted, separators=(",", ":"))
        text = f'Unsupported value: {shown}: supported values: "All"'
        raise statuses.invalid(kind, "meta.k8s.io", "", [Cause("dryRun", text, "FieldValueNotSupported")])
    return bool(wanted)


def document(kind: Kind, incoming: Incoming) -> Document:
    """The object in a request's body. StatusError 400, 415."""
    how = content_type(incoming)
    if how not in {"application/json", ""}:
        if how in {"application/yaml", "application/vnd.kubernetes.protobuf", "application/cbor"}:
            raise statuses.not_modelled(f"bodies in {how}")
        raise statuses.unsupported_media_type()
    try:
        made = json.loads(incoming.body)
    except ValueError as error:
        shown = incoming.body.decode("utf-8", "replace")
        why = f"couldn't get version/kind; json parse error: {error} ({shown})"
        text = f"the object provided is unrecognized (must be of type {kind.kind}): {why}"
        raise statuses.bad_request(text) from None
    if not isinstance(made, dict):
        raise statuses.bad_request(f"the object provided is unrecognized (must be of type {kind.kind})")
    version, name = made.get("apiVersion", kind.api_version), made.get("kind", kind.kind)
    if (version, name) != (kind.api_version, kind.kind):
        text = f'{name} in version "{version.rpartition("/")[2]}" cannot be handled as a {kind.kind}'
        raise statuses.bad_request(text)
    made.setdefault("metadata", {})
    return {"kind": kind.kind, "apiVersion": kind.api_version} | made


def decoded(incoming: Incoming) -> Any:
    """A patch's body. StatusError 400, 415."""
    how = content_type(incoming)
    if how in APPLY:
        raise statuses.not_modelled("server-side apply")
    if how not in {STRATEGIC, MERGE, JSON}:
        raise statuses.unsupported_media_type()
    try:
        return json.loads(incoming.body)
    except ValueError as error:
        raise statuses.bad_request(f"error decoding patch: {error}") from None


def content_type(incoming: Incoming) -> str:
    """The content type without its parameters."""
    return incoming.headers.get("content-type", "").partition(";")[0].strip()


def _place(kind: Kind, made: Document, namespace: str, name: str) -> None:
    """The object must be the one that the URL names."""
    meta = made["metadata"]
    if kind.namespaced:
        if meta.get("namespace", namespace) != namespace:
            text = "the namespace of the provided object does not match the namespace sent on the request"
            raise statuses.bad_request(text)
        meta["namespace"] = namespace
    if name and meta.setdefault("name", name) != name:
        text = f"the name of the object ({meta['name']}) does not match the name on the URL ({name})"
        raise statuses.bad_request(text)


def _fields(kind: Kind, made: Document, incoming: Incoming, of_patch: Any = None) -> tuple[Document, dict[str, str]]:
    """Unknown fields are refused (Strict), told (Warn, the default) or dropped (Ignore); types are checked."""
    mode = incoming.query.get("fieldValidation") or "Warn"
    unknown = admission.unknown_fields(kind, made)
    names = [f'unknown field "{admission.path_text(path)}"' for path in unknown]
    refused = (
        f"strict decoding error: {', '.join(names)}" if names and mode == "Strict" else admission.wrong_type(kind, made)
    )
    if refused is not None:
        if of_patch is not None:
            text = f"Invalid value: {json.dumps(json.dumps(of_patch))}: {refused}"
            raise statuses.invalid("", "", "", [Cause("patch", text)])
        text = f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: {refused}'
        raise statuses.bad_request(text)
    warnings = "\n".join("299 - " + json.dumps(name) for name in names) if mode == "Warn" else ""
    return admission.without(made, unknown), {"Warning": warnings} if warnings else {}


def _told(
    world: World, kind: Kind, made: Document, before: Document | None, warnings: dict[str, str]
) -> dict[str, str]:
    """Fields that do nothing here are told: in a warning to the client, and in the run's report."""
    known = admission.ignored(kind, before) if before is not None else []
    new = [name for name in admission.ignored(kind, made) if name not in known]
    for name in new:
        world.report_unmodelled(f"{name} is accepted and ignored")
    lines = [warnings.get("Warning", "")]
    lines += ["299 - " + json.dumps(f"SIMULATED API ignores {name}") for name in new]
    text = "\n".join(filter(None, lines))
    return {"Warning": text} if text else {}


def _merged_service(kind: Kind, before: Document, made: Document) -> Document:
    """What a Service was given at its creation stays when an update does not name it."""
    if kind == kinds.SERVICE:
        for key in ("clusterIP", "clusterIPs"):
            if key in before["spec"]:
                made.setdefault("spec", {}).setdefault(key, before["spec"][key])
    return made
