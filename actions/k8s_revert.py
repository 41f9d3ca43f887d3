"""k8s.revert: the undo of k8s.apply."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from runbook.actions._kube.action import KubeArgs, Right, Rights
from runbook.actions._kube.cluster import Cluster, ForbiddenError, connect
from runbook.actions._kube.kinds import Ref
from runbook.actions._kube.reasons import effective
from runbook.actions._manifest import back
from runbook.actions._manifest.back import Step
from runbook.actions._manifest.inhabitants import inhabitants, making, removing
from runbook.actions._manifest.put import gone
from runbook.contract import Call, Change, Context, Observation, Outputs, PermanentError, Settled, param


@dataclass(frozen=True, kw_only=True)
class RevertArgs(KubeArgs):
    """Parameters of k8s.revert."""

    kept: str = param("Where the objects are kept as they were, and as they were left.")


class Revert(Rights, Change[RevertArgs]):
    """What the undo of k8s.apply plays: the fields, their owners and the objects that were. Not for playbooks."""

    name = "k8s.revert"
    returns = {"reverted": "names of the objects that were put back, created again or deleted"}

    def __init__(self) -> None:
        self._ctx: Context | None = None
        self._steps: list[Step] = []
        self._live: dict[str, Any] = {}

    def rights(self, args: RevertArgs, cluster: Cluster, ctx: Context) -> Iterable[Right]:
        for step in _kept(args, ctx):
            yield "get", step.ref
            try:
                there = cluster.find(ctx, step.ref) is not None
            except ForbiddenError:
                continue  # what else it needs hangs on what is there
            if step.there is not None:
                yield from [("patch", step.ref)] if there else making(step.ref)
            elif there:
                yield from removing(step.ref, step.here or {})

    def within(self, args: RevertArgs) -> None:
        """Its objects may be of several, and what is to be deleted may have gone with its own."""

    def observe(self, args: RevertArgs, ctx: Context) -> Observation:
        cluster = connect(ctx, args.context)
        self._ctx = ctx
        self._steps = _kept(args, ctx)
        found: Observation = {}
        for step in self._steps:
            self._live[step.name] = cluster.find(ctx, step.ref)
            found |= step.observe(self._live[step.name])
        return found

    def expect(self, args: RevertArgs, before: Observation, ctx: Context) -> Observation:
        cluster = connect(ctx, args.context)
        after = dict(before)
        stays = []
        for step in self._steps:
            live = self._live[step.name]
            if live is not None and step.there is None and (others := _inhabitants(cluster, ctx, step, self._steps)):
                ctx.log(f"warning: {step.ref} stays: it holds {others}, which this run did not create")
                continue
            if back.frozen(step, live):
                stays.append(step)
                continue
            after |= step.wanted()
            if live is not None and step.there is not None:
                try:
                    back.rehearse(cluster, ctx, step, live)
                except ForbiddenError as error:
                    self.computed = f"computed here, not by the server's dry run: {error.message}"
        if stays and after == before:
            raise _immutable(stays)
        return after

    def apply(self, args: RevertArgs, before: Observation, ctx: Context) -> None:
        cluster = connect(ctx, args.context)
        steps = self._steps or _kept(args, ctx)
        going: list[tuple[Ref, str]] = []
        stays = []
        for number, step in enumerate(steps):
            ctx.checkpoint()
            ctx.progress(number, len(steps))
            if step.there is None and _inhabitants(cluster, ctx, step, steps):
                continue
            if back.frozen(step, cluster.find(ctx, step.ref) if _can_freeze(step) else None):
                stays.append(step)
                continue
            uid = back.go(cluster, ctx, step)
            if uid is not None:
                going.append((step.ref, uid))
        gone(cluster, ctx, *going)  # at the end: one that something holds must not hold up what can be put back
        if stays:
            raise _immutable(stays)

    def inverse(self, args: RevertArgs, before: Observation, op: str) -> Call | None:
        assert self._ctx is not None
        cluster = connect(self._ctx, args.context)
        return reverting([step.reversed() for step in reversed(self._steps)], args, cluster, self._ctx)

    def outputs(self, args: RevertArgs, before: Observation, after: Observation) -> Outputs:
        changed = {name.partition("#")[0]: None for name in after if after[name] != before.get(name)}
        return {"reverted": [title(name) for name in changed]}

    def settle(
        self, args: RevertArgs, before: Observation, after: Observation, now: Observation, ctx: Context
    ) -> Settled:
        # Between the two patches of an object its values are as they were, and its owners are not.
        was, wanted, found = (
            {name: state for name, state in one.items() if not back.is_owners(name)} for one in (before, after, now)
        )
        verdict = super().settle(args, was, wanted, found, ctx)
        owned = all(now.get(name) == state for name, state in after.items() if back.is_owners(name))
        stays = any(back.frozen(step, self._live.get(step.name)) for step in self._steps)
        return "partial" if verdict == "done" and (stays or not owned) else verdict

    def effective(self, args: RevertArgs, after: Observation, ctx: Context) -> bool:
        cluster = connect(ctx, args.context)
        return all(
            effective(cluster, ctx, step.ref) for step in self._steps or _kept(args, ctx) if step.there is not None
        )


def reverting(steps: list[Step], args: KubeArgs, cluster: Cluster, ctx: Context) -> Call:
    """The call that plays these steps; they are kept, sealed, beside the run."""
    kept = ctx.keep(json.dumps([step.to_data() for step in steps]).encode())
    return Call("k8s.revert", {"namespace": args.namespace, "context": cluster.context, "kept": kept})


def _kept(args: RevertArgs, ctx: Context) -> list[Step]:
    return [Step.from_data(entry) for entry in json.loads(ctx.kept(args.kept))]


def _inhabitants(cluster: Cluster, ctx: Context, step: Step, steps: list[Step]) -> str:
    """Whose objects would go with a namespace or a definition that is to be deleted: some of them, for a sentence."""
    ours = {(one.ref.kind.kind, one.ref.name) for one in steps if one.ref is not step.ref}
    return inhabitants(cluster, ctx, step.ref, step.here or {}, ours)


def _can_freeze(step: Step) -> bool:
    return step.there is not None and step.ref.kind.kind in ("ConfigMap", "Secret")


def _immutable(stays: list[Step]) -> PermanentError:
    """What cannot be put back, said when all else is."""
    several = len(stays) > 1
    names = ", ".join(str(step.ref) for step in stays)
    return PermanentError(
        f"{names} {'are' if several else 'is'} immutable now, and {'stay' if several else 'stays'} as the apply left"
        f" {'them' if several else 'it'}: all else of it is put back",
        hint="delete what is immutable, make it again as it was before the apply (`runbook report` says what that apply"
        " changed), then undo again",
    )


def title(name: str) -> str:
    """`Deployment/web` out of an object's name in an observation."""
    return "/".join(name.rsplit("/", 2)[1:])
