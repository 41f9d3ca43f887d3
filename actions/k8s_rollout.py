"""k8s.rollout_undo and k8s.rollout_restart."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from runbook.actions import _kube_kinds as kinds
from runbook.actions import _kube_revisions as revisions
from runbook.actions._kube import Cluster, ForbiddenError, connect
from runbook.actions._kube_action import KubeArgs, Right, Rights, named, place, unnamed
from runbook.actions._kube_kinds import Ref
from runbook.actions._kube_owners import Warned, of_controllers, of_fields
from runbook.actions._kube_paths import pointer_to, text
from runbook.actions._kube_reasons import effective, of_workload
from runbook.actions._kube_revisions import CHANGE_CAUSE, RESTARTED_AT, RESTARTED_BY, Revision
from runbook.actions._kube_workload import images, on_delete, partition
from runbook.actions._kube_write import write
from runbook.contract import Call, Change, Context, Observation, Outputs, PermanentError, Settled, param

PATIENCE = 2.0
"""Seconds for the controller to make the revision of a spec that was just written."""
_TEMPLATE = "spec.template"
_CAUSE = text(("metadata", "annotations", CHANGE_CAUSE))
_AT, _BY = (text(("spec", "template", "metadata", "annotations", name)) for name in (RESTARTED_AT, RESTARTED_BY))


@dataclass(frozen=True, kw_only=True)
class UndoArgs(KubeArgs):
    """Parameters of k8s.rollout_undo."""

    kind: str = param("Deployment, StatefulSet or DaemonSet.", default="Deployment")
    name: str = param("Name of the workload.")
    to_revision: int | None = param(
        "Revision to go back to. By default the newest before the current one, where a revision that was itself a way"
        " back counts as the one it led to: two in a row never return to what the first one left.",
        default=None,
        minimum=1,
    )
    to_template: str | None = param(
        "The revision's pod template hash (the name of a ControllerRevision), which stays when revisions are renumbered"
        " (an undo uses it).",
        default=None,
    )


class RolloutUndo(Warned, Rights, Change[UndoArgs]):
    """Put an earlier revision's pod template back.

    Waiting for the roll-out is the next step's (`k8s.wait` with `for: rollout`). The inverse goes back to the revision
    that it left, found by its template's hash. A StatefulSet's and a DaemonSet's revision forgets its number when it
    serves again.
    """

    name = "k8s.rollout_undo"
    returns = {
        "from_revision": "revision that served (0: unknown), as first numbered",
        "to_revision": "revision whose template serves now, as first numbered",
        "images": "its images",
    }

    def __init__(self) -> None:
        self._seen: tuple[dict[str, Any], list[Revision]] | None = None

    def check(self, args: UndoArgs) -> Iterator[str]:
        kind = kinds.known(args.kind)
        if kind is not None:
            try:
                revisions.kept_as(kind)
            except PermanentError as error:
                yield error.message

    def rights(self, args: UndoArgs, cluster: Cluster, ctx: Context) -> Iterable[Right]:
        ref = _workload(args, cluster, ctx)
        return [("get", ref), ("patch", ref), ("list", Ref(revisions.kept_as(ref.kind), args.namespace))]

    def observe(self, args: UndoArgs, ctx: Context) -> Observation:
        cluster = connect(ctx, args.context)
        ref = _workload(args, cluster, ctx)
        owner, listed = _look(cluster, ctx, ref)
        self._seen = owner, listed
        current = revisions.serving(listed, owner)
        return named(cluster.name(ref), _state(args, ctx, ref, owner["metadata"], current) | _template(owner))

    def expect(self, args: UndoArgs, before: Observation, ctx: Context) -> Observation:
        cluster = connect(ctx, args.context)
        ref = _workload(args, cluster, ctx)
        owner, listed = self._seen or _look(cluster, ctx, ref)
        target = _target(args, listed, owner, ctx)
        if target.version == unnamed(before)[_TEMPLATE]:
            return before
        _refuse_paused(ref, owner)
        state = _state(args, ctx, ref, {"annotations": {CHANGE_CAUSE: target.cause}}, target)
        try:
            # Without the condition on the version, which comes first: controllers write status all the time.
            answer = cluster.patch(ctx, ref, _patch(owner, target)[1:], "json", dry_run=True)
            state |= _template(answer)
        except ForbiddenError as error:
            self.computed = "computed here, not by the server's dry run: " + error.message
            ctx.log(self.computed)
            state[_TEMPLATE] = dict(target.version)
        if state[_TEMPLATE] == unnamed(before)[_TEMPLATE]:
            return before
        self.warn(ctx, [*of_fields(ref, owner), *_held_up(cluster, ctx, ref, owner)])
        return named(cluster.name(ref), state)

    def apply(self, args: UndoArgs, before: Observation, ctx: Context) -> None:
        cluster = connect(ctx, args.context)
        ref = _workload(args, cluster, ctx)
        had = unnamed(before)

        def look() -> list[dict[str, Any]] | None:
            owner, listed = _look(cluster, ctx, ref)
            target = _target(args, listed, owner, ctx)
            if "template" not in ctx.notes:
                # The numbers move when the target serves again; these are the ones that were told.
                current = revisions.serving(listed, owner)
                ctx.note("revisions", {entry.hash: entry.origin for entry in (current, target) if entry})
                # From here on "previous" means this one, also for a later attempt that finds it done.
                ctx.note("template", target.hash)
            now = revisions.version((owner.get("spec") or {}).get("template") or {})
            if now not in (target.version, had[_TEMPLATE]):
                raise PermanentError(f"the pod template of {ref} was changed by someone else meanwhile")
            return None if now == target.version else _patch(owner, target)

        write(ctx, ref, look, lambda body: cluster.patch(ctx, ref, body, "json"))

    def inverse(self, args: UndoArgs, before: Observation, op: str) -> Call | None:
        state = unnamed(before)
        context, namespace, kind, object_name = place(next(iter(before)))
        current = revisions.serving(self._seen[1], self._seen[0]) if self._seen else None
        given = {"kind": kind, "name": object_name, "namespace": namespace, "context": context}
        back = {"to_revision": state.get("revision") or None, "to_template": current.hash if current else None}
        if not any(back.values()):
            return None  # its revision was not there yet: nothing that the cluster keeps can be named
        return Call(self.name, {**given, **{key: value for key, value in back.items() if value is not None}})

    def outputs(self, args: UndoArgs, before: Observation, after: Observation) -> Outputs:
        was, now = unnamed(before), unnamed(after)
        return {
            "from_revision": was.get("revision", 0),
            "to_revision": now.get("revision", 0),
            "images": images(now[_TEMPLATE]),
        }

    def settle(
        self, args: UndoArgs, before: Observation, after: Observation, now: Observation, ctx: Context
    ) -> Settled:
        # What serves is told by the template; a number says no more, and moves by itself.
        return super().settle(args, _unnumbered(before), _unnumbered(after), _unnumbered(now), ctx)

    def effective(self, args: UndoArgs, after: Observation, ctx: Context) -> bool:
        cluster = connect(ctx, args.context)
        return effective(cluster, ctx, _workload(args, cluster, ctx))


def _workload(args: UndoArgs | RestartArgs, cluster: Cluster, ctx: Context) -> Ref:
    kind = cluster.kind(ctx, args.kind)
    revisions.kept_as(kind)  # says which kinds roll
    return Ref(kind, args.namespace, args.name)


def _refuse_paused(ref: Ref, owner: Mapping[str, Any]) -> None:
    if (owner.get("spec") or {}).get("paused"):
        raise PermanentError(f"{ref} is paused", hint="resume it first: a paused Deployment does not roll out")


def _look(cluster: Cluster, ctx: Context, ref: Ref) -> tuple[dict[str, Any], list[Revision]]:
    """The workload and its revisions, once the controller has made the revision of its newest spec."""
    until = ctx.remaining() - PATIENCE
    while True:
        owner = cluster.get(ctx, ref)
        listed = revisions.of(cluster, ctx, ref, owner)
        if revisions.serving(listed, owner) is not None or ctx.remaining() <= max(until, 0.5):
            return owner, listed
        ctx.sleep(0.1)


def _target(args: UndoArgs, listed: list[Revision], owner: Mapping[str, Any], ctx: Context) -> Revision:
    what = f"{owner.get('kind')} {args.name}"
    known = ", ".join(str(entry.number) for entry in listed) or "none"
    wanted = args.to_template or ctx.notes.get("template")
    if wanted is not None:
        found = next((entry for entry in listed if entry.hash == wanted), None)
        if found is None:
            raise PermanentError(f"{what} keeps no revision with template hash {wanted}")
        return found
    if args.to_revision is not None:
        found = revisions.numbered(listed, args.to_revision)
        if found is None:
            raise PermanentError(f"{what} has no revision {args.to_revision} (it has {known})")
        return found
    found = revisions.previous(listed, revisions.serving(listed, owner))
    if found is None:
        raise PermanentError(f"{what} has no earlier revision (it has {known})")
    return found


def _template(owner: Mapping[str, Any]) -> dict[str, Any]:
    """The version, not its restarts: one that this run makes afterwards must not stand in the way of an undo."""
    return {_TEMPLATE: revisions.version((owner.get("spec") or {}).get("template") or {})}


def _state(
    args: UndoArgs, ctx: Context, ref: Ref, metadata: Mapping[str, Any], current: Revision | None
) -> dict[str, Any]:
    """What serves, by number and cause. The number is the one under which it first served: when a revision serves again
    its number changes, a moment later; this one does not."""
    if ref.kind == kinds.DEPLOYMENT:
        cause = (metadata.get("annotations") or {}).get(CHANGE_CAUSE)
        return {"revision": current.origin if current else 0, _CAUSE: cause}
    if args.to_template is not None:  # an undo goes by the hash: what the first number was, nobody kept
        return {}
    told = ctx.notes.get("revisions") or {}
    return {"revision": told.get(current.hash, current.origin) if current else 0}


def _unnumbered(observation: Observation) -> Observation:
    return {name: state for name, state in observation.items() if not name.endswith("#revision")}


def _held_up(cluster: Cluster, ctx: Context, ref: Ref, owner: Mapping[str, Any]) -> Iterator[str]:
    """Why the template alone will not change all pods."""
    if on_delete(owner):
        yield f"{ref} replaces no pod by itself (updateStrategy OnDelete); delete them"
    kept = partition(owner)
    if kept:
        yield f"{ref} keeps its first {kept} pods as they are (updateStrategy partition)"
    if owner.get("kind") != "StatefulSet" or (owner.get("spec") or {}).get("podManagementPolicy") == "Parallel":
        return
    with contextlib.suppress(ForbiddenError):
        why = of_workload(cluster, ctx, owner)
        # Kubernetes: StatefulSets, Forced rollback.
        if why:
            yield f"{ref} goes on only when each pod is ready; one that never will be must be deleted by hand ({why})"


def _patch(owner: Mapping[str, Any], target: Revision) -> list[dict[str, Any]]:
    metadata = owner["metadata"]
    annotations = metadata.get("annotations") or {}
    patch: list[dict[str, Any]] = [
        {"op": "replace", "path": "/metadata/resourceVersion", "value": metadata["resourceVersion"]},
        {"op": "replace", "path": "/spec/template", "value": target.template},
    ]
    if owner.get("kind") != "Deployment":
        return patch
    cause = pointer_to(("metadata", "annotations", CHANGE_CAUSE))
    # The controller copies the cause to the ReplicaSet that serves: the bad version's must not stick to the good one.
    if target.cause is not None and target.cause != annotations.get(CHANGE_CAUSE):
        if not annotations:
            patch.append({"op": "add", "path": "/metadata/annotations", "value": {}})
        patch.append({"op": "add", "path": cause, "value": target.cause})
    elif target.cause is None and CHANGE_CAUSE in annotations:
        patch.append({"op": "remove", "path": cause})
    return patch


@dataclass(frozen=True, kw_only=True)
class RestartArgs(KubeArgs):
    """Parameters of k8s.rollout_restart."""

    kind: str = param("Deployment, StatefulSet or DaemonSet.", default="Deployment")
    name: str = param("Name of the workload.")


class RolloutRestart(Warned, Rights, Change[RestartArgs]):
    """Replace all pods of a Deployment, StatefulSet or DaemonSet, in its own order, by an annotation on its template.

    An undo that contains it restarts once more at its end, so that pods run with what the undo put back.
    """

    name = "k8s.rollout_restart"
    undo = "again"
    returns = {"at": "when, ISO 8601"}

    def __init__(self) -> None:
        self._at: str | None = None
        self._live: dict[str, Any] | None = None

    def rights(self, args: RestartArgs, cluster: Cluster, ctx: Context) -> Iterable[Right]:
        ref = _workload(args, cluster, ctx)
        return [("get", ref), ("patch", ref)]

    def observe(self, args: RestartArgs, ctx: Context) -> Observation:
        cluster = connect(ctx, args.context)
        ref = _workload(args, cluster, ctx)
        self._live = cluster.get(ctx, ref)
        return named(cluster.name(ref), _restarted(self._live))

    def expect(self, args: RestartArgs, before: Observation, ctx: Context) -> Observation:
        if unnamed(before)[_BY] == ctx.op:
            return before
        cluster = connect(ctx, args.context)
        ref = _workload(args, cluster, ctx)
        live = self._live or cluster.get(ctx, ref)
        _refuse_paused(ref, live)
        # Of GitOps tools nothing is said: an annotation that they did not write, they leave alone.
        self.warn(ctx, [*of_controllers(ref, live), *_held_up(cluster, ctx, ref, live)])
        name = next(iter(before)).partition("#")[0]
        return named(name, {_AT: self._time(ctx), _BY: ctx.op})

    def apply(self, args: RestartArgs, before: Observation, ctx: Context) -> None:
        cluster = connect(ctx, args.context)
        ref = _workload(args, cluster, ctx)
        annotations = {RESTARTED_AT: self._time(ctx), RESTARTED_BY: ctx.op}
        ctx.note("at", annotations[RESTARTED_AT])

        def look() -> dict[str, Any] | None:
            live = cluster.get(ctx, ref)
            if _restarted(live)[_BY] == ctx.op:
                return None
            _refuse_paused(ref, live)
            version = {"resourceVersion": live["metadata"]["resourceVersion"]}
            return {"metadata": version, "spec": {"template": {"metadata": {"annotations": annotations}}}}

        write(ctx, ref, look, lambda body: cluster.patch(ctx, ref, body, "strategic"))

    def outputs(self, args: RestartArgs, before: Observation, after: Observation) -> Outputs:
        return {"at": unnamed(after)[_AT]}

    def effective(self, args: RestartArgs, after: Observation, ctx: Context) -> bool:
        cluster = connect(ctx, args.context)
        return effective(cluster, ctx, _workload(args, cluster, ctx))

    def _time(self, ctx: Context) -> str:
        """One moment for the whole operation, also after a crash."""
        if self._at is None:
            now = datetime.datetime.now(datetime.UTC)
            self._at = str(ctx.notes.get("at") or now.strftime("%Y-%m-%dT%H:%M:%SZ"))
        return self._at


def _restarted(found: Mapping[str, Any]) -> dict[str, Any]:
    template = (found.get("spec") or {}).get("template") or {}
    annotations = (template.get("metadata") or {}).get("annotations") or {}
    return {_AT: annotations.get(RESTARTED_AT), _BY: annotations.get(RESTARTED_BY)}
