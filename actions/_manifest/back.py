"""The way back of an apply: exactly what it changed, as it was, with those who owned it.

Another apply would not do: it gives fields up that others do not hold, and cannot give an owner back. So the values are
put back by a JSON patch, place by place where others changed the object meanwhile, and then the owners: the API server
takes managedFields from a request, and adds what that request changed itself (hence the second patch).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from runbook.actions._kube import fields, kinds, paths
from runbook.actions._kube.cluster import Cluster, ConflictError, sensitive
from runbook.actions._kube.kinds import Kind, Ref
from runbook.actions._kube.paths import Path
from runbook.actions._manifest import places
from runbook.actions._manifest.documents import SERVERS
from runbook.actions._manifest.look import Seen, state
from runbook.actions._manifest.prune import Stray
from runbook.actions._manifest.put import NOBODY
from runbook.contract import Context, Observation, PermanentError, TemporaryError

OURS, THEIRS = "as before", "to be put back"
"""Of the owners only this is observed: between the two patches they are neither the ones nor the others."""

PATIENCE = 20
"""How often a conflict (409) is read again, after longer and longer pauses: an undo does not give in so soon."""

STRICT = 5
"""So often the whole object must be as it was read; then, where many write, only the places that are put back."""

FROZEN = frozenset({"immutable", "data", "binaryData"})
"""What nobody can change of a ConfigMap or Secret that is immutable, but by deleting it."""

ALLOCATED = frozenset({"nodePort", "healthCheckNodePort", "clusterIP", "clusterIPs"})
"""Fields of a Service whose value the server draws: in its dry run another one than in the run."""

_OWNERS = "#metadata.managedFields"
_ABSENT: Any = object()


@dataclass(frozen=True, slots=True)
class Step:
    """One object on its way from `here` to `there`: whole objects, None where there is none.

    `was` and `becomes`: the states of its places at both ends. An end without a uid is a manifest.
    """

    ref: Ref
    name: str
    here: Mapping[str, Any] | None
    there: Mapping[str, Any] | None
    was: Mapping[str, Any]
    becomes: Mapping[str, Any]

    def reversed(self) -> Step:
        """The other direction."""
        return Step(self.ref, self.name, self.there, self.here, self.becomes, self.was)

    def observe(self, live: Mapping[str, Any] | None) -> Observation:
        """Its places now."""
        secret = self.ref.kind == kinds.SECRET
        seen = state(self.name, live, (), secret=secret)
        for name in {**self.was, **self.becomes}:
            _, _, place = name.partition("#")
            if place:
                bare = {} in (self.was.get(name), self.becomes.get(name))
                seen[name] = _shown(live, place, bare=bare, secret=secret)
        if self._has_owners():
            there = live is not None and fields.same_owners(live, self.owners(live))
            seen |= self._owners(OURS if there else THEIRS)
        return seen

    def wanted(self) -> Observation:
        """Its places at the end."""
        return {**self.becomes, **(self._owners(OURS) if self._has_owners() else {})}

    def _has_owners(self) -> bool:
        """Is the end an object that was there, not a manifest?"""
        return self.there is not None and _was_there(self.there)

    def owners(self, live: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The managedFields at the end."""
        return fields.restored(live, self.there, self.here)

    def _owners(self, says: str) -> Observation:
        return {f"{self.name}{_OWNERS}": says}

    def to_data(self) -> dict[str, Any]:
        """As JSON, for what is kept."""
        return {
            "kind": asdict(self.ref.kind),
            "namespace": self.ref.namespace,
            "object": self.ref.name,
            "name": self.name,
            "here": self.here,
            "there": self.there,
            "was": self.was,
            "becomes": self.becomes,
        }

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> Step:
        """The reverse of `to_data`."""
        kind = Kind(**{**data["kind"], "short": tuple(data["kind"]["short"])})
        ref = Ref(kind, data["namespace"], data["object"])
        was, becomes = (_hidden(data[side], secret=kind == kinds.SECRET) for side in ("was", "becomes"))
        return Step(ref, data["name"], data["here"], data["there"], was, becomes)


def is_owners(name: str) -> bool:
    """Is it the place that says whether the owners are put back?"""
    return name.endswith(_OWNERS)


def steps(seen: Iterable[Seen], strays: Iterable[Stray], before: Observation, op: str) -> list[Step]:
    """What takes an apply back: what it would change, in the order in which it is to be undone."""
    back: list[Step] = []
    for one in seen:
        if one.would is None or one.is_no_op():
            continue
        after = {name: value for name, value in one.after(op).items() if not name.endswith(places.OWNED)}
        was = {name: before.get(name) for name in after}
        here = one.body if one.live is None else one.would
        back.append(Step(one.ref, one.name, here, one.live, after, was))
    again = [
        Step(stray.ref, stray.name, None, stray.live, {stray.name: None}, {stray.name: before[stray.name]})
        for stray in strays
    ]
    return [*again, *reversed(back)]


def go(cluster: Cluster, ctx: Context, step: Step) -> str | None:
    """Bring one object to its other end. PermanentError where somebody else changed what is to be put back.

    Of an object that is to go, it is deleted and not waited for: its uid, if it was there.
    """
    for attempt in range(PATIENCE):
        strict = attempt < STRICT
        live = cluster.find(ctx, step.ref)
        try:
            if step.there is None:
                return _remove(cluster, ctx, step, live)
            if live is None:
                _make(cluster, ctx, step, step.there)
            else:
                _restore(cluster, ctx, step, live, strict=strict)
        except ConflictError:
            ctx.sleep(min(0.5, 0.01 * 2**attempt))
        except PermanentError as error:
            if not _moved(error):
                raise
            ctx.sleep(min(0.5, 0.01 * 2**attempt))
        else:
            return None
    raise TemporaryError(f"{step.ref} was changed by others {PATIENCE} times while it was to be put back")


def _was_there(end: Mapping[str, Any]) -> bool:
    """Is it an object that was there, not a manifest?"""
    return "uid" in end["metadata"]


def _moved(error: PermanentError) -> bool:
    """A JSON patch whose `test` did not hold: the place has changed since it was read."""
    return "rejected our request" in error.message


def rehearse(cluster: Cluster, ctx: Context, step: Step, live: Mapping[str, Any]) -> None:
    """The server's dry run of putting an object back: its refusal comes before anything is changed."""
    assert step.there is not None
    operations = _patch(live, target(step, live))
    if not operations:
        return
    try:
        cluster.patch(ctx, step.ref, operations, "json", dry_run=True)
    except PermanentError as error:
        if not _moved(error):
            raise


def frozen(step: Step, live: Mapping[str, Any] | None) -> bool:
    """Is it immutable now, and would have to be changed? The API server never takes that back."""
    if live is None or step.there is None or live.get("immutable") is not True or kinds.custom(step.ref.kind):
        return False
    return any(str(one["path"]).split("/")[1] in FROZEN for one in _patch(live, target(step, live)))


def target(step: Step, live: Mapping[str, Any]) -> dict[str, Any]:
    """The object as it was, with what others have changed since."""
    assert step.there is not None
    merged = _merged(_content(step.there), _content(step.here or {}), _content(live), (), step.ref)
    return dict(merged)


def _remove(cluster: Cluster, ctx: Context, step: Step, live: Mapping[str, Any] | None) -> str | None:
    if live is None:
        return None
    now = state(step.name, live, (), secret=False)[step.name]
    if now != step.was.get(step.name):
        raise PermanentError(f"{step.ref} is not the one that this run created: it is left", hint="look at it")
    uid = str(live["metadata"]["uid"])
    if not live["metadata"].get("deletionTimestamp"):
        cluster.delete(ctx, step.ref, uid, "Background")
    return uid


def _make(cluster: Cluster, ctx: Context, step: Step, wanted: Mapping[str, Any]) -> None:
    metadata = {key: value for key, value in wanted["metadata"].items() if key not in SERVERS}
    body = {**_content(wanted), "metadata": metadata}
    body |= {key: wanted[key] for key in ("apiVersion", "kind")}
    if not _was_there(wanted):
        cluster.apply(ctx, step.ref, {**body, "metadata": {**metadata, "resourceVersion": NOBODY}})
        return
    made = cluster.create(ctx, Ref(step.ref.kind, step.ref.namespace), creatable(body))
    _give_back_owners(cluster, ctx, step, made, wanted["metadata"].get("managedFields") or [])


def creatable(body: Mapping[str, Any]) -> dict[str, Any]:
    """Without what the server itself gives a Job, and refuses to be given."""
    if body.get("kind") != "Job" or (body.get("spec") or {}).get("manualSelector"):
        return dict(body)
    result = copy.deepcopy(dict(body))
    result["spec"].pop("selector", None)
    for metadata in (result["metadata"], (result["spec"].get("template") or {}).get("metadata") or {}):
        for label in ("controller-uid", "job-name"):
            for name in (label, f"batch.kubernetes.io/{label}"):
                (metadata.get("labels") or {}).pop(name, None)
    return result


def _restore(cluster: Cluster, ctx: Context, step: Step, live: Mapping[str, Any], *, strict: bool) -> None:
    owners = step.owners(live)
    operations = _patch(live, target(step, live))
    now = live
    if operations:
        now = cluster.patch(ctx, step.ref, [*_as_read(live, strict=strict), *operations], "json")
    _give_back_owners(cluster, ctx, step, now, owners, strict=strict)


def _give_back_owners(
    cluster: Cluster,
    ctx: Context,
    step: Step,
    live: Mapping[str, Any],
    owners: list[dict[str, Any]],
    *,
    strict: bool = True,
) -> None:
    if not fields.same_owners(live, owners):
        operations = [*_as_read(live, strict=strict), *fields.operations(live, owners)]
        cluster.patch(ctx, step.ref, operations, "json")


def _as_read(live: Mapping[str, Any], *, strict: bool) -> list[dict[str, Any]]:
    """Refused with 409 when the object has changed since; otherwise only what is touched must not have."""
    version = live["metadata"]["resourceVersion"]
    return [{"op": "replace", "path": "/metadata/resourceVersion", "value": version}] if strict else []


def _content(found: Mapping[str, Any]) -> dict[str, Any]:
    """Without the status, and without what only the server writes."""
    metadata = {
        key: value
        for key, value in (found.get("metadata") or {}).items()
        if key not in (*SERVERS, "name", "namespace", "deletionTimestamp", "deletionGracePeriodSeconds")
    }
    rest = {key: value for key, value in found.items() if key not in ("status", "metadata", "apiVersion", "kind")}
    return {**rest, "metadata": metadata}


def _patch(live: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[dict[str, Any]]:
    """JSON patch operations that give the object the wanted content, each on condition that its place is as it was."""
    return list(_operations("", _content(live), wanted))


def _operations(pointer: str, has: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for key in sorted({*has, *wanted}):
        at = f"{pointer}{paths.pointer_to((key,))}"
        if key in has and key in wanted and isinstance(has[key], Mapping) and isinstance(wanted[key], Mapping):
            yield from _operations(at, has[key], wanted[key])
        elif key not in has:
            yield {"op": "add", "path": at, "value": wanted[key]}
        elif key not in wanted or has[key] != wanted[key]:
            yield {"op": "test", "path": at, "value": has[key]}
            yield {"op": "replace", "path": at, "value": wanted[key]} if key in wanted else {"op": "remove", "path": at}


def _merged(there: Any, here: Any, live: Any, path: Path, ref: Ref) -> Any:
    """Three ways: what went from `there` to `here` goes back; what others changed since in `live` stays."""
    if there in (here, live):
        return live
    if live == here or (there is _ABSENT and _ABSENT not in (here, live) and path[-1] in ALLOCATED):
        return there
    if isinstance(there, Mapping) and isinstance(live, Mapping) and isinstance(here, Mapping):
        keys = dict.fromkeys([*there, *live])
        result = {}
        for key in keys:
            value = _merged(
                there.get(key, _ABSENT), here.get(key, _ABSENT), live.get(key, _ABSENT), (*path, str(key)), ref
            )
            if value is not _ABSENT:
                result[key] = value
        return result
    if isinstance(there, list) and isinstance(live, list) and isinstance(here, list) and not kinds.custom(ref.kind):
        elements = _merged_elements(there, here, live, path, ref)
        if elements is not None:
            return elements
    raise PermanentError(
        f"{paths.text(path)} of {ref} was changed by someone else: it is neither as it was before nor as it was left",
        hint="look at it, put it right by hand, then undo again",
    )


def _merged_elements(there: list[Any], here: list[Any], live: list[Any], path: Path, ref: Ref) -> list[Any] | None:
    """Lists whose elements have names, element by element; None for others."""
    key = paths.merge_key(path, [*there, *here, *live])
    if key is None:
        return None
    by_name = [{str(item[key]): item for item in items} for items in (there, here, live)]
    if any(len(named) < len(items) for named, items in zip(by_name, (there, here, live), strict=True)):
        return None
    result = []
    for name in dict.fromkeys([*by_name[0], *by_name[2]]):
        was, left, now = (named.get(name, _ABSENT) for named in by_name)
        value = _merged(was, left, now, (*path, paths.Element(key, name)), ref)
        if value is not _ABSENT:
            result.append(value)
    return result


def _shown(live: Mapping[str, Any] | None, place: str, *, bare: bool, secret: bool) -> Any:
    """What stands at a place, in the form in which it was seen before. `bare`: of a map only that it is there."""
    value = copy.deepcopy(places.at(live, place))
    if isinstance(value, Mapping) and bare:
        value = {}
    return sensitive(value) if secret and not places.harmless(place) else value


def _hidden(states: Mapping[str, Any], *, secret: bool) -> dict[str, Any]:
    """States out of what was kept, where all text is plain."""
    return {
        name: sensitive(value) if secret and "#" in name and not places.harmless(name.partition("#")[2]) else value
        for name, value in states.items()
    }
