"""A set of manifests beside the cluster: what each object is now, and what the server says would come of it."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from runbook.actions._kube import fields, kinds
from runbook.actions._kube import patch as algebra
from runbook.actions._kube.cluster import MANAGER, Cluster, ConflictError, ForbiddenError, MissingError, explain
from runbook.actions._kube.kinds import Kind, Ref
from runbook.actions._kube.paths import Path, Touch, UnpatchableError, read
from runbook.actions._manifest import places
from runbook.actions._manifest.documents import CREATED_BY, Item
from runbook.contract import Context, Observation, PermanentError, TemporaryError

LOOKS = 5
"""How often an object and its dry run are looked at, until nobody changed it in between."""

THERE = "there"
"""The state of an object that no run created; of one that a run did, it says which operation."""


@dataclass(slots=True)
class Seen:
    """One object of the set. `body`: as it is sent. `would`: as it would be; None where `error` says why not.

    `force`: what stands in the way is only our own, from a patch or a scale by `runbook`.
    """

    item: Item
    ref: Ref
    name: str
    live: dict[str, Any] | None = None
    body: dict[str, Any] = field(default_factory=dict)
    touched: list[Touch] = field(default_factory=list)
    would: dict[str, Any] | None = None
    computed: str | None = None
    error: PermanentError | None = None
    served: bool = True
    force: bool = False

    @property
    def title(self) -> str:
        """`Deployment/web`."""
        return f"{self.ref.kind.title}/{self.ref.name}"

    def state(self, found: Mapping[str, Any] | None) -> Observation:
        """The places that the apply touches, and whether the object is there."""
        return state(self.name, found, self.touched, secret=self.ref.kind == kinds.SECRET)

    def before(self) -> Observation:
        """As it is."""
        return self.state(self.live) | self._owned(self.live)

    def after(self, op: str) -> Observation:
        """As it would be. `op`: the operation that creates it, if it is not there."""
        if self.would is None:
            return self.before()
        wanted = self.state(self.would)
        if self.live is None:
            wanted[self.name] = created_by(op)
        return wanted | self._owned(self.would)

    def is_no_op(self) -> bool:
        """Would the server change nothing?"""
        return self.live is not None and self.would is not None and self.before() == self.after("")

    def _owned(self, found: Mapping[str, Any] | None) -> Observation:
        # An object that is not there yet is owned as its manifest says; what was computed here does not say it.
        return {} if self.live is None or self.computed else owned(self.name, found)


def state(name: str, found: Mapping[str, Any] | None, touched: Iterable[Touch], *, secret: bool) -> Observation:
    """An object's places under their global names; under its own name whether it is there, and who created it."""
    marks = ((found or {}).get("metadata") or {}).get("annotations") or {}
    there = None if found is None else created_by(marks[CREATED_BY]) if CREATED_BY in marks else THERE
    seen = places.states(found, touched, secret=secret)
    return {name: there} | {f"{name}#{path}": value for path, value in seen.items()}


def owned(name: str, found: Mapping[str, Any] | None) -> Observation:
    """The place that says what `runbook` owns of an object."""
    return {f"{name}#{places.OWNED}": fields.told(fields.owned(found, MANAGER))}


def created_by(op: str) -> str:
    """The state of an object that an operation created."""
    return f"created by {op}"


def resolve(cluster: Cluster, ctx: Context, items: Iterable[Item]) -> dict[tuple[str, str], tuple[Kind, bool]]:
    """(apiVersion, kind) -> where the API keeps it, and whether it is served already (or defined by the set itself)."""
    found: dict[tuple[str, str], tuple[Kind, bool]] = {}
    served: dict[str, dict[str, Kind]] = {}
    defined = {key: kind for item in items for key, kind in _defined(item)}
    for item in items:
        key = item.api_version, item.kind
        if key in found:
            continue
        group, _, version = item.api_version.rpartition("/")
        known = next((k for k in kinds.KNOWN if (k.group, k.version, k.kind) == (group, version, item.kind)), None)
        if known is not None:
            found[key] = known, True
            continue
        if item.api_version not in served:
            served[item.api_version] = _served(cluster, ctx, group, version)
        if item.kind in served[item.api_version]:
            found[key] = served[item.api_version][item.kind], True
        elif key in defined:
            found[key] = defined[key], False
        else:
            raise PermanentError(
                f"{item.origin}: the API of context {cluster.context} serves no kind {item.kind} in {item.api_version}"
            )
    return found


def _served(cluster: Cluster, ctx: Context, group: str, version: str) -> dict[str, Kind]:
    path = f"/apis/{group}/{version}" if group else f"/api/{version}"
    answer = cluster.transport.request(ctx, "GET", path, headers={"Accept": "application/json"})
    if answer.status == 404:
        return {}
    if answer.status != 200:
        raise explain(answer, f"read {path}", cluster.context)
    return {kind.kind: kind for kind in kinds.from_resource_list(answer.json())}


def _defined(item: Item) -> Iterable[tuple[tuple[str, str], Kind]]:
    """The kinds that a CustomResourceDefinition of the set brings."""
    if item.kind == "CustomResourceDefinition":
        for kind in defined_kinds(item.body):
            yield (f"{kind.group}/{kind.version}", kind.kind), kind


def defined_kinds(definition: Mapping[str, Any]) -> Iterable[Kind]:
    """What a CustomResourceDefinition defines, one for each version."""
    spec = definition.get("spec") or {}
    names, group = spec.get("names") or {}, str(spec.get("group"))
    for version in spec.get("versions") or ():
        plural, kind = str(names.get("plural")), str(names.get("kind"))
        yield Kind(group, str(version["name"]), plural, kind, spec.get("scope") != "Cluster")


def look(cluster: Cluster, ctx: Context, items: list[Item], namespace: str, op: str, *, force: bool) -> list[Seen]:
    """Every object of the set as it is and as it would be, by the server's dry run where that can be had."""
    where = resolve(cluster, ctx, items)
    defines = {kind for item in items for _, kind in _defined(item)}
    seen: list[Seen] = []
    coming: set[str] = set()
    for number, item in enumerate(items):
        ctx.progress(number, len(items))
        kind, served = where[item.api_version, item.kind]
        ref = Ref(kind, (item.namespace or namespace) if kind.namespaced else "", item.name)
        reason = None
        if not served:
            reason = "its kind is defined by this step"
        elif ref.namespace in coming:
            reason = f"namespace {ref.namespace} is created by this step"
        one = _see(cluster, ctx, Seen(item, ref, cluster.name(ref), served=served), op, reason, force=force)
        if one.error is not None and any((d.group, d.kind) == (kind.group, kind.kind) for d in defines):
            one.error = None
            _foresee(cluster, ctx, one, "its kind is changed by this step", force=force)
        if kind == kinds.NAMESPACE and one.live is None:
            coming.add(item.name)
        seen.append(one)
    return seen


def _see(cluster: Cluster, ctx: Context, one: Seen, op: str, reason: str | None, *, force: bool) -> Seen:
    """The object and the dry run of the same moment, as far as others let it be."""
    custom = kinds.custom(one.ref.kind)
    for _ in range(LOOKS):
        one.live = cluster.find(ctx, one.ref) if one.served else None
        one.body = _body(one.item, one.ref, one.live, op)
        one.touched = places.touched(one.item.body, one.live, custom=custom)
        _foresee(cluster, ctx, one, reason, force=force)
        if one.computed or one.would is None or _version(one.live) == _version(one.would):
            break
    else:
        if one.live is not None and one.would is not None:
            one.would = places.aligned(one.live, one.would, one.touched)
    if one.live is not None and one.would is not None:
        # What runbook gives up and others still own stays as it is.
        named = {touch.path for touch in places.touched(one.item.body, None, custom=custom)}
        left, would = one.live, one.would
        one.touched = [t for t in one.touched if t.path in named or read(left, t.path) != read(would, t.path)]
        one.touched += places.drifted(left, would, one.touched)
    return one


def _version(found: Mapping[str, Any] | None) -> str | None:
    return ((found or {}).get("metadata") or {}).get("resourceVersion")


def _body(item: Item, ref: Ref, live: Mapping[str, Any] | None, op: str) -> dict[str, Any]:
    """As it is sent: with its namespace, and with the mark of who created it."""
    metadata = dict(item.body["metadata"])
    if ref.kind.namespaced:
        metadata["namespace"] = ref.namespace
    marks = ((live or {}).get("metadata") or {}).get("annotations") or {}
    mine = ("f:metadata", "f:annotations", f"f:{CREATED_BY}") in fields.owned(live, MANAGER)
    mark = op if live is None else marks.get(CREATED_BY) if mine else None
    if mark is not None:
        metadata["annotations"] = {**(metadata.get("annotations") or {}), CREATED_BY: mark}
    return {**item.body, "metadata": metadata}


def _foresee(cluster: Cluster, ctx: Context, one: Seen, reason: str | None, *, force: bool) -> None:
    if reason is None:
        try:
            one.would = _dry_run(cluster, ctx, one, force=force)
        except ForbiddenError as error:
            reason = error.message
        except (ConflictError, TemporaryError, PermanentError) as error:
            if "does not support dry run" not in error.message:  # an admission webhook
                one.error = refusal(error, one)
                return
            reason = error.message
        else:
            return
    one.computed = f"computed here, not by the server's dry run: {reason}"
    ctx.log(f"{one.title}: {one.computed}")
    one.would = _computed(one)


def _dry_run(cluster: Cluster, ctx: Context, one: Seen, *, force: bool) -> dict[str, Any]:
    try:
        return cluster.apply(ctx, one.ref, one.body, force=force, dry_run=True)
    except ConflictError as error:
        if set(re.findall(r'conflicts? with "([^"]+)"', error.message)) != {MANAGER}:
            raise
        one.force = True
        return cluster.apply(ctx, one.ref, one.body, force=True, dry_run=True)


def _computed(one: Seen) -> dict[str, Any]:
    """The manifest laid over what is there, by the rules known here; what it no longer names is gone."""
    start = copy.deepcopy(one.live or {})
    try:
        result = algebra.applied(start, one.body, "merge" if kinds.custom(one.ref.kind) else "strategic")
    except UnpatchableError:
        result = {**start, **one.body}
    named = {touch.path for touch in places.touched(one.item.body, None, custom=kinds.custom(one.ref.kind))}
    for touch in one.touched:
        if touch.path not in named:
            _drop(result, touch.path)
    return dict(result)


def _drop(tree: Any, path: Path) -> None:
    holder = read(tree, path[:-1])
    if isinstance(holder, dict):
        holder.pop(path[-1], None)


def refusal(error: TemporaryError | PermanentError, one: Seen) -> PermanentError:
    """What the server has against an object, as one sentence that says where it stands. TemporaryError: raised."""
    said, origin = error.message, one.item.origin
    if isinstance(error, ConflictError) and "Apply failed" in said:
        conflict = said.partition("Apply failed with ")[2]
        return PermanentError(
            f"{origin}: others own fields of {one.ref}: {conflict}",
            hint="`force: true` takes them over; or leave them out of the manifest",
        )
    if "typed patch object" in said:  # a manifest that does not fit its schema is a 500 to the API server
        wrong = said.partition("): ")[2].removeprefix("errors: ").rpartition(" (HTTP ")[0] or said
        # What was found there may be a secret.
        wrong = re.sub(r",? got &value\.\w+\{.*?\}(?= \.|$)", "", wrong)
        return PermanentError(f"{origin}: {one.title} does not fit its schema: {wrong}")
    if isinstance(error, TemporaryError):
        raise error
    if isinstance(error, MissingError) and f'namespaces "{one.ref.namespace}" not found' in said:
        name = "metadata.namespace" if one.item.namespace else "namespace"
        return PermanentError(f"{origin}: {name}: there is no namespace {one.ref.namespace!r} for {one.title}")
    return PermanentError(f"{origin}: {said}", hint=error.hint)
