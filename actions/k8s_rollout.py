"""k8s.rollout_undo."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from runbook.actions._kube import kinds, ordered, revisions
from runbook.actions._kube.action import KubeArgs, Right, Rights, named, place, unnamed
from runbook.actions._kube.cluster import Cluster, ForbiddenError, connect
from runbook.actions._kube.kinds import Ref
from runbook.actions._kube.owners import Warned, of_fields
from runbook.actions._kube.paths import pointer_to, text
from runbook.actions._kube.reasons import effective, of_workload
from runbook.actions._kube.revisions import CHANGE_CAUSE, Revision
from runbook.actions._kube.rollout import held_up, refuse_paused, rolling
from runbook.actions._kube.workload import images, in_order
from runbook.actions._kube.write import write
from runbook.contract import Call, Change, Context, Observation, Outputs, PermanentError, Settled, param

PATIENCE = 2.0
"""Seconds for the controller to make the revision of a spec that was just written."""
_TEMPLATE = "spec.template"
_CAUSE = text(("metadata", "annotations", CHANGE_CAUSE))


@dataclass(frozen=True, kw_only=True)
class UndoArgs(KubeArgs):
    """Parameters of k8s.rollout_undo."""

    kind: str = param("Deployment, StatefulSet or DaemonSet.", default="Deployment")
    name: str = param("Name of the workload.")
    to_revision: int | None = param(
        "Revision to go back to. By default the newest before the current one, where a revision that was itself a way"
        " back counts as the one it led to: two in a row never return to what the first one left. An error where nobody"
        " can tell: of a StatefulSet's and a DaemonSet's revisions of one second that were numbered anew.",
        default=None,
        minimum=1,
    )
    to_template: str | None = param(
        "The revision's pod template hash (the name of a ControllerRevision), which stays when revisions are renumbered"
        " (an undo uses it).",
        default=None,
    )
    force: bool = param(
        "Of a StatefulSet: also delete the pods that are not ready and have another template. It waits for them"
        " otherwise, and never replaces them.",
        default=False,
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
        if args.force and kind is not None and kind.kind != "StatefulSet":
            yield f"force: only a StatefulSet waits for pods that are not ready, a {kind.kind} does not"

    def rights(self, args: UndoArgs, cluster: Cluster, ctx: Context) -> Iterable[Right]:
        ref = rolling(cluster, ctx, args.kind, args.namespace, args.name)
        yield from (("get", ref), ("patch", ref), ("list", Ref(revisions.kept_as(ref.kind), args.namespace)))
        if args.force:
            yield from ((verb, Ref(kinds.POD, args.namespace)) for verb in ("list", "delete"))

    def observe(self, args: UndoArgs, ctx: Context) -> Observation:
        cluster = connect(ctx, args.context)
        ref = rolling(cluster, ctx, args.kind, args.namespace, args.name)
        owner, listed = _look(cluster, ctx, ref)
        self._seen = owner, listed
        state = _state(args, ctx, ref, owner["metadata"], revisions.serving(listed, owner)) | _template(owner)
        if args.force:
            state |= ordered.state(cluster, ctx, owner, _target(args, listed, owner, ctx).hash)
        return named(cluster.name(ref), state)

    def expect(self, args: UndoArgs, before: Observation, ctx: Context) -> Observation:
        cluster = connect(ctx, args.context)
        ref = rolling(cluster, ctx, args.kind, args.namespace, args.name)
        owner, listed = self._seen or _look(cluster, ctx, ref)
        target = _target(args, listed, owner, ctx)
        clear = ordered.cleared(target.hash) if args.force else {}
        if target.version == unnamed(before)[_TEMPLATE]:
            return named(cluster.name(ref), unnamed(before) | clear)
        refuse_paused(ref, owner)
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
            return named(cluster.name(ref), unnamed(before) | clear)
        waits = [] if args.force else _waits(cluster, ctx, ref, owner)
        self.warn(ctx, [*of_fields(ref, owner), *held_up(ref, owner), *waits])
        return named(cluster.name(ref), state | clear)

    def apply(self, args: UndoArgs, before: Observation, ctx: Context) -> None:
        cluster = connect(ctx, args.context)
        ref = rolling(cluster, ctx, args.kind, args.namespace, args.name)
        had = unnamed(before)

        owner, listed = _look(cluster, ctx, ref)
        target = _target(args, listed, owner, ctx)
        if "template" not in ctx.notes:
            # The numbers move when the target serves again; these are the ones that were told.
            current = revisions.serving(listed, owner)
            ctx.note("revisions", {entry.hash: entry.origin for entry in (current, target) if entry})
            # From here on "previous" means this one, also for a later attempt that finds it done.
            ctx.note("template", target.hash)

        def look() -> list[dict[str, Any]] | None:
            # Nothing between this and the write: during a roll-out the controller writes the status all the time.
            live = cluster.get(ctx, ref)
            now = revisions.version((live.get("spec") or {}).get("template") or {})
            if now not in (target.version, had[_TEMPLATE]):
                raise PermanentError(f"the pod template of {ref} was changed by someone else meanwhile")
            return None if now == target.version else _patch(live, target)

        write(ctx, ref, look, lambda body: cluster.patch(ctx, ref, body, "json"))
        if args.force:
            ordered.clear(cluster, ctx, owner, target.hash)

    def inverse(self, args: UndoArgs, before: Observation, op: str) -> Call | None:
        state = unnamed(before)
        context, namespace, kind, object_name = place(next(iter(before)))
        current = revisions.serving(self._seen[1], self._seen[0]) if self._seen else None
        given: dict[str, Any] = {"kind": kind, "name": object_name, "namespace": namespace, "context": context}
        if args.force:
            given["force"] = True
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
        seen = ordered.told(_unnumbered(now), before)
        return super().settle(args, _unnumbered(before), _unnumbered(after), seen, ctx)

    def effective(self, args: UndoArgs, after: Observation, ctx: Context) -> bool:
        cluster = connect(ctx, args.context)
        return effective(cluster, ctx, rolling(cluster, ctx, args.kind, args.namespace, args.name))


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
    current = revisions.serving(listed, owner)
    doubt = revisions.doubt(revisions.doubtful(listed, current), current)
    if doubt:
        raise PermanentError(
            f"{what}: {doubt}",
            hint=f"give `to_revision` ({', '.join(f'{entry.number}: {_told(entry)}' for entry in listed)})",
        )
    found = revisions.previous(listed, current)
    if found is None:
        raise PermanentError(f"{what} has no earlier revision (it has {known})")
    return found


def _told(revision: Revision) -> str:
    return " ".join(images(revision.template)) + (f" ({revision.cause})" if revision.cause else "")


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


def _waits(cluster: Cluster, ctx: Context, ref: Ref, owner: Mapping[str, Any]) -> Iterator[str]:
    """What a StatefulSet will wait for: see `_kube/ordered.py`."""
    if owner.get("kind") != "StatefulSet" or not in_order(owner):
        return
    with contextlib.suppress(ForbiddenError):
        why = of_workload(cluster, ctx, owner)
        if why:
            yield f"{ref} replaces none while one is not ready; `force` deletes those of another template ({why})"


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
