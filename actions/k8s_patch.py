"""k8s.patch: any object, any of the three patch types, compare and set, and back again."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from runbook.actions._kube import kinds, paths
from runbook.actions._kube import patch as algebra
from runbook.actions._kube.action import KubeArgs, Right, Rights, named, place, unnamed
from runbook.actions._kube.cluster import Cluster, ConflictError, ForbiddenError, RefusedError, connect, sensitive
from runbook.actions._kube.endpoints import endpoints
from runbook.actions._kube.kinds import Ref
from runbook.actions._kube.owners import Warned, of_patch
from runbook.actions._kube.paths import Path, Touch, UnpatchableError
from runbook.actions._kube.reasons import effective, looked
from runbook.contract import Call, Change, Context, Observation, Outputs, PermanentError, TemporaryError, param

ATTEMPTS = 5
"""How often a conflict (409) is read again before it is reported."""

FREEZABLE = ("ConfigMap", "Secret")
"""Kinds whose objects can be made immutable, and never mutable again."""

PatchType = Literal["strategic", "merge", "json"]


@dataclass(frozen=True, kw_only=True)
class PatchArgs(KubeArgs):
    """Parameters of k8s.patch."""

    kind: str = param("Kind of the object: any that the API serves, as kubectl spells it (`service`, `Deployment`).")
    name: str = param("Name of the object.")
    patch: dict[str, Any] | list[dict[str, Any]] = param(
        "The patch: a map (strategic, merge) or a list of operations (json). A null removes what stands there."
    )
    type: PatchType = param(
        "`strategic`: lists of containers, ports and the like merge by their key. `merge`: JSON merge patch, lists are"
        " replaced; the only one besides json for custom resources. `json`: JSON patch (RFC 6902).",
        default="strategic",
    )
    expect: dict[str, Any] | None = param(
        "Compare and set: the object must hold at least this (null: nothing there), else it is an error that shows what"
        " is there. Not asked where the object already is as the patch wants it.",
        default=None,
    )


@dataclass(frozen=True, slots=True)
class _Target:
    """The patch as it is sent, and where."""

    patch: Any
    patch_type: str
    touched: list[Touch]
    secret: bool

    def state(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """Only the places touched, so that other people's changes do not disturb."""
        seen = paths.observed(found, self.touched)
        if not self.secret:
            return seen
        return {name: value if _harmless(name) else sensitive(value) for name, value in seen.items()}

    def wanted(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """The state that the patch gives by the rules known here."""
        return self.state(algebra.applied(found, self.patch, self.patch_type))

    def is_there(self, found: Mapping[str, Any], ctx: Context) -> bool:
        """Is the object already as the patch wants it, or as this operation left it?"""
        if algebra.is_there(found, self.patch, self.patch_type):
            return True
        # A JSON patch that appends to a list would append again: an earlier attempt noted what it was about to write.
        noted = ctx.notes.get("after")
        return noted is not None and self.state(found) == noted

    def conditional(self, found: Mapping[str, Any]) -> Any:
        """The patch, refused with 409 when the object has changed since `found` was read."""
        version = (found.get("metadata") or {}).get("resourceVersion")
        if not version:
            return self.patch
        if self.patch_type == "json":  # not a `test`: that one's refusal is a 422 like any other
            return [{"op": "replace", "path": "/metadata/resourceVersion", "value": version}, *self.patch]
        metadata = {**(self.patch.get("metadata") or {}), "resourceVersion": version}
        return {**self.patch, "metadata": metadata}


class Patch(Warned, Rights, Change[PatchArgs]):
    """Change fields of an object.

    The server's dry run says what would come of it; sent on condition that nobody changed these fields meanwhile. The
    inverse puts exactly these fields back, if they still hold what was written. Data of Secrets is never shown.
    """

    name = "k8s.patch"
    returns = {
        "before": "the fields touched, as they were: path -> value, null = not there",
        "after": "the same fields now",
    }

    def __init__(self) -> None:
        self._live: dict[str, Any] | None = None
        self._after: dict[str, Any] | None = None
        self._answer: Any = None

    def check(self, args: PatchArgs) -> Iterator[str]:
        if (args.type == "json") != isinstance(args.patch, list):
            yield "patch: a list of operations goes with `type: json`, a map with the other types"
        elif isinstance(args.patch, list):
            for number, operation in enumerate(args.patch):
                yield from _problems(number, operation)

    def rights(self, args: PatchArgs, cluster: Cluster, ctx: Context) -> Iterable[Right]:
        ref = _ref(args, cluster, ctx)
        return [("get", ref), ("patch", ref)]

    def observe(self, args: PatchArgs, ctx: Context) -> Observation:
        cluster = connect(ctx, args.context)
        ref = _ref(args, cluster, ctx)
        target = _target(args, secret=ref.kind == kinds.SECRET, custom=kinds.custom(ref.kind))
        self._live = cluster.get(ctx, ref)
        return named(cluster.name(ref), target.state(self._live))

    def expect(self, args: PatchArgs, before: Observation, ctx: Context) -> Observation:
        cluster = connect(ctx, args.context)
        ref = _ref(args, cluster, ctx)
        target = _target(args, secret=ref.kind == kinds.SECRET, custom=kinds.custom(ref.kind))
        name = cluster.name(ref)
        live = self._live if self._live is not None else cluster.get(ctx, ref)
        if target.is_there(live, ctx):
            self._after = unnamed(before)
            return before
        _compare(args, live, ref)
        misfit = paths.misfit(live, target.touched) if target.patch_type != "json" else None
        if misfit is not None:
            raise PermanentError(
                f"patch: {paths.text(misfit)} of {ref} is no map, and the patch writes into it",
                hint="replace it as a whole with `type: json`",
            )
        try:
            self._answer = cluster.patch(ctx, ref, target.patch, target.patch_type, dry_run=True)
            self._after = target.state(self._answer)
        except RefusedError as error:
            raise PermanentError(f"patch: {_why(error, live, target, ref)}") from error
        except ForbiddenError as error:
            self.computed = "computed here, not by the server's dry run: " + error.message
            ctx.log(self.computed)
            try:
                self._answer = algebra.applied(live, target.patch, target.patch_type)
                self._after = target.state(self._answer)
            except UnpatchableError as problem:
                raise PermanentError(f"patch: it does not fit {ref}: {problem}") from problem
        if self._after == unnamed(before) and any(touch.path[0] == "status" for touch in target.touched):
            raise PermanentError(f"patch: the status of {ref} is its controller's, the API server leaves it as it is")
        if self._after != unnamed(before):
            self.warn(ctx, of_patch(cluster, ctx, ref, live, self._after))
        return named(name, self._after)

    def apply(self, args: PatchArgs, before: Observation, ctx: Context) -> None:
        cluster = connect(ctx, args.context)
        ref = _ref(args, cluster, ctx)
        target = _target(args, secret=ref.kind == kinds.SECRET, custom=kinds.custom(ref.kind))
        state = unnamed(before)
        for _ in range(ATTEMPTS):
            live = cluster.get(ctx, ref)
            if target.is_there(live, ctx):
                return
            now = target.state(live)
            if now != state:
                raise PermanentError(
                    f"{ref} was changed by someone else meanwhile: {_changes(state, now, target.secret)}"
                )
            _compare(args, live, ref)
            if target.patch_type == "json" and self._after is not None:
                ctx.note("after", self._after)
            try:
                cluster.patch(ctx, ref, target.conditional(live), target.patch_type)
            except ConflictError:
                ctx.checkpoint()  # somebody changed another field: read again
            except TemporaryError:
                # No answer does not mean that nothing was done; whoever only knows that tries it, or takes it back.
                if not _arrived(cluster, ctx, ref, target):
                    raise
                return
            else:
                return
        raise TemporaryError(f"{ref} was changed by others {ATTEMPTS} times while it was to be patched")

    def inverse(self, args: PatchArgs, before: Observation, op: str) -> Call | None:
        state = unnamed(before)
        context, namespace, kind, object_name = place(next(iter(before)))
        target = _target(args, secret=kind == kinds.SECRET.kind, custom="." in kind)
        after = self._after
        if after is None:  # `expect` did not run in this process
            after = target.wanted(algebra.tree_of(target.touched, state))
        if kind in FREEZABLE and state.get("immutable") is not True and after.get("immutable") is True:
            return None  # the API server never takes it back
        made: list[Path] = []
        if self._answer is not None and target.patch_type != "json" and not target.secret:
            made = algebra.born(target.touched, self._live, self._answer)
        back = algebra.inverse(target.touched, state, after, target.patch_type, made)
        given: dict[str, Any] = {
            "kind": kind,
            "name": object_name,
            "namespace": namespace or args.namespace,
            "context": context,
            "patch": back,
            "type": target.patch_type,
        }
        if target.patch_type != "json":
            holds = {**after, **{paths.text(where): paths.read(self._answer, where) for where in made}}
            changed = [
                touch
                for touch in target.touched
                if state[paths.text(touch.path)] != after[paths.text(touch.path)]
                and not any(touch.path[: len(where)] == where for where in made)
            ]
            given["expect"] = algebra.tree_of([*changed, *(Touch(where) for where in made)], holds)
        return Call(self.name, given)

    def outputs(self, args: PatchArgs, before: Observation, after: Observation) -> Outputs:
        return {"before": unnamed(before), "after": unnamed(after)}

    def effective(self, args: PatchArgs, after: Observation, ctx: Context) -> bool:
        cluster = connect(ctx, args.context)
        ref = _ref(args, cluster, ctx)
        state = unnamed(after)
        if ref.kind == kinds.SERVICE and any(name.startswith("spec.selector") for name in state):
            what = f"whether traffic goes where {ref} says"
            return looked(ctx, what, lambda: endpoints(cluster, ctx, cluster.get(ctx, ref)).settled)
        if any(name.startswith("spec") for name in state):
            return effective(cluster, ctx, ref)
        return True


def _ref(args: PatchArgs, cluster: Cluster, ctx: Context) -> Ref:
    return Ref(cluster.kind(ctx, args.kind), args.namespace, args.name)


def _target(args: PatchArgs, *, secret: bool, custom: bool) -> _Target:
    patch: Any = args.patch
    patch_type: str = args.type
    if secret and isinstance(patch, Mapping) and "stringData" in patch:
        # The server never returns stringData: what it writes is observed, and taken back, in data.
        encoded = {
            key: None if value is None else base64.b64encode(str(value).encode()).decode()
            for key, value in (patch["stringData"] or {}).items()
        }
        rest = {key: value for key, value in patch.items() if key != "stringData"}
        patch = {**rest, "data": {**(patch.get("data") or {}), **encoded}}
    if custom and patch_type == "strategic":
        if _needs_strategic(patch):
            raise PermanentError(
                "custom resources take no strategic patches, and this one holds a list",
                hint="write `type: merge` (lists are replaced) or `type: json`",
            )
        patch_type = "merge"  # without lists and directives the two mean the same
    try:
        return _Target(patch, patch_type, paths.touches(patch, patch_type), secret)
    except (UnpatchableError, KeyError) as error:
        raise PermanentError(f"patch: {error}") from error


def _why(error: RefusedError, live: Mapping[str, Any], target: _Target, ref: Ref) -> str:
    """Of a JSON patch that does not fit, the server says only that; which operation it is, is known here."""
    if target.patch_type == "json":
        try:
            algebra.applied(live, target.patch, "json")
        except UnpatchableError as problem:
            return f"it does not fit {ref}: {problem}"
    return error.message


def _arrived(cluster: Cluster, ctx: Context, ref: Ref, target: _Target) -> bool:
    """Whether a patch whose answer did not come was made; False where that is not to be seen now, either."""
    try:
        return target.is_there(cluster.get(ctx, ref), ctx)
    except (TemporaryError, PermanentError):
        return False


def _harmless(name: str) -> bool:
    """A place of a Secret that may be shown. Not all of its annotations: kubectl keeps a copy of the data in one."""
    return (
        name.startswith(("metadata.labels", "metadata.annotations[", "type", "immutable"))
        and "last-applied" not in name
    )


def _needs_strategic(patch: Any) -> bool:
    if isinstance(patch, list):
        return True
    if isinstance(patch, Mapping):
        return any(str(key).startswith("$") or _needs_strategic(value) for key, value in patch.items())
    return False


def _compare(args: PatchArgs, live: Mapping[str, Any], ref: Ref) -> None:
    if args.expect is None:
        return
    found = algebra.difference(args.expect, live)
    if found is None:
        return
    path, wanted, actual = found
    where = paths.text(path) or "it"
    if ref.kind == kinds.SECRET:
        raise PermanentError(f"{ref} is not as expected: {where} differs (the data of Secrets is not shown)")
    raise PermanentError(
        f"{ref} is not as expected: {where} should be {_short(wanted)} and is {_short(actual)}",
        hint="someone else has changed it; look before you decide",
    )


def _changes(before: Mapping[str, Any], now: Mapping[str, Any], secret: bool) -> str:
    changed = [name for name in before if before[name] != now.get(name)]
    if secret:
        return ", ".join(changed)
    return ", ".join(f"{name} was {_short(before[name])} and is {_short(now.get(name))}" for name in changed)


def _short(value: Any) -> str:
    shown = json.dumps(value, ensure_ascii=False, default=str)
    return "absent" if value is None else shown if len(shown) <= 200 else shown[:200] + "…"


def _problems(number: int, operation: Mapping[str, Any]) -> Iterator[str]:
    op = operation.get("op")
    if op not in ("add", "remove", "replace", "move", "copy", "test"):
        yield f"patch[{number}]: no such operation: {op!r}"
    elif not str(operation.get("path", "")).startswith("/"):
        yield f"patch[{number}]: `path` is a JSON pointer, /spec/replicas"
    elif op in ("add", "replace", "test") and "value" not in operation:
        yield f"patch[{number}]: {op} needs a `value`"
    elif op in ("move", "copy") and not str(operation.get("from", "")).startswith("/"):
        yield f"patch[{number}]: {op} needs `from`, a JSON pointer"
