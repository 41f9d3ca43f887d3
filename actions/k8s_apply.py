"""k8s.diff, k8s.apply: a set of manifests, server-side, as field manager `runbook`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from runbook.actions._kube.action import Right
from runbook.actions._kube.cluster import Cluster
from runbook.actions._kube.owners import Warned
from runbook.actions._manifest import documents as manifests
from runbook.actions._manifest.back import Step, steps
from runbook.actions._manifest.look import Seen
from runbook.actions._manifest.prune import Stray
from runbook.actions._manifest.put import gone, put, served
from runbook.actions._manifest.set import Lacking, ManifestArgs, ManifestSet, problems, rights_of
from runbook.actions.k8s_revert import reverting, title
from runbook.contract import (
    Call,
    Change,
    Context,
    Observation,
    Outputs,
    PermanentError,
    Read,
    Sensitive,
    Settled,
    param,
)

SHOWN = 512 << 10
"""Bytes of places that k8s.diff returns."""


@dataclass(frozen=True, kw_only=True)
class ApplyArgs(ManifestArgs):
    """Parameters of k8s.apply."""

    force: bool = param(
        "Take over fields that belong to other field managers; without it that is an error.", default=False
    )


class Diff(Lacking, Read[ManifestArgs]):
    """What an apply of these manifests would change, by the server's dry run. Changes nothing.

    Data of Secrets is never shown, only that it changes.
    """

    name = "k8s.diff"
    returns = {
        "changed": "[{object, namespace, change: created|changed, places: path -> {before, after}, truncated}];"
        " truncated: its places would be too much",
        "pruned": "names of the objects that `prune` would delete",
        "used_by": "[{object, by, as: env|volume|image pull}]: workloads that use a ConfigMap or Secret that changes",
        "summary": "one sentence",
    }

    def check(self, args: ManifestArgs) -> Iterator[str]:
        yield from problems(args)

    def rights(self, args: ManifestArgs, cluster: Cluster, ctx: Context) -> Iterable[Right]:
        # Who may only read sees what is computed here.
        needed, _ = rights_of(args, cluster, ctx)
        return [right for right in needed if right[0] in ("get", "list")]

    def read(self, args: ManifestArgs, ctx: Context) -> Outputs:
        found = ManifestSet(args, ctx, force=False)
        after = found.after()
        for line in found.warnings(args, ctx):
            ctx.log(f"warning: {line}")
        changed = list(_bounded(_changed(one, after) for one in found.changed()))
        pruned = [stray.title for stray in found.strays]
        created = sum(entry["change"] == "created" for entry in changed)
        return {
            "changed": changed,
            "pruned": pruned,
            "used_by": found.uses(ctx),
            "summary": f"{created} to create, {len(changed) - created} to change, {len(pruned)} to prune,"
            f" {len(found.seen) - len(changed)} as they are",
        }


def _bounded(entries: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Outputs have a limit, and a single definition may have thousands of places."""
    left = SHOWN
    for entry in entries:
        size = len(json.dumps(entry["places"]))
        if size > left:
            yield {**entry, "places": {}, "truncated": True}
        else:
            left -= size
            yield {**entry, "truncated": False}


def _changed(one: Seen, after: Observation) -> dict[str, Any]:
    before = one.before()
    names = [name for name in after if name.startswith(f"{one.name}#") and after[name] != before.get(name)]
    return {
        "object": one.title,
        "namespace": one.ref.namespace,
        "change": "created" if one.live is None else "changed",
        "places": {name.partition("#")[2]: {"before": before.get(name), "after": after[name]} for name in names},
    }


class Apply(Warned, Lacking, Change[ApplyArgs]):
    """Make objects as manifests say, by server-side apply, Namespaces and definitions first.

    What is not there is created; the fields that the manifests name are changed; those that an earlier apply set, and
    the manifests no longer name, are removed. A field that somebody else owns is an error that names both, unless
    `force`. The undo puts back exactly what was changed, with its owners, creates again what was pruned, and deletes
    what was created.
    """

    name = "k8s.apply"
    brings = True
    returns = {
        "applied": "names of the objects that were created or changed: `Deployment/web`",
        "created": "those of them that were not there",
        "pruned": "names of the objects that were deleted",
    }

    def __init__(self) -> None:
        self._set: ManifestSet | None = None
        self._ctx: Context | None = None
        self._back: list[Right] = []

    def check(self, args: ApplyArgs) -> Iterator[str]:
        yield from problems(args)

    def rights(self, args: ApplyArgs, cluster: Cluster, ctx: Context) -> Iterable[Right]:
        needed, self._back = rights_of(args, cluster, ctx)
        return needed

    def undo_rights(self, args: ApplyArgs, cluster: Cluster, ctx: Context) -> Iterable[Right]:
        return self._back

    def observe(self, args: ApplyArgs, ctx: Context) -> Observation:
        self._set = ManifestSet(args, ctx, force=args.force)
        self._ctx = ctx
        meant = ctx.notes.get("strays")  # what came since an earlier attempt, or a crash in mid-way, is left
        if meant is not None:
            self._set.strays = [stray for stray in self._set.strays if _exactly(stray) in meant]
        return self._set.before()

    def expect(self, args: ApplyArgs, before: Observation, ctx: Context) -> Observation:
        found = self._looked(args, ctx)
        after = found.after()
        for stray in found.strays:
            if not found.cluster.may(ctx, "delete", stray.ref):
                raise PermanentError(f"prune: no right to delete {stray.ref} (context {found.cluster.context!r})")
        self.computed = next((one.computed for one in found.changed() if one.computed), None)
        if after != before:
            self.warn(ctx, found.warnings(args, ctx))
        return after

    def apply(self, args: ApplyArgs, before: Observation, ctx: Context) -> None:
        found = self._looked(args, ctx)
        if args.prune is not None and "strays" not in ctx.notes:
            ctx.note("strays", [_exactly(stray) for stray in found.strays if stray.name in before])
        total = len(found.seen) + len(found.strays)
        for number, one in enumerate(found.seen):
            ctx.checkpoint()
            ctx.progress(number, total)
            put(found.cluster, ctx, one, before, found.op, force=args.force)
            if one.ref.kind.kind == "CustomResourceDefinition":
                served(found.cluster, ctx, one.ref)
        strays = [(s.ref, str(s.live["metadata"]["uid"])) for s in reversed(found.strays) if s.name in before]
        for ref, uid in strays:
            found.cluster.delete(ctx, ref, uid, "Background")
        gone(found.cluster, ctx, *strays)

    def inverse(self, args: ApplyArgs, before: Observation, op: str) -> Call | None:
        assert self._set is not None
        assert self._ctx is not None
        return reverting(steps(self._set.seen, self._set.strays, before, op), args, self._set.cluster, self._ctx)

    def outputs(self, args: ApplyArgs, before: Observation, after: Observation) -> Outputs:
        objects = {name.partition("#")[0]: None for name in after if after[name] != before.get(name)}
        created = [name for name in objects if before.get(name) is None]
        pruned = [name for name in objects if name in after and after[name] is None]
        return {
            "applied": [title(name) for name in objects if name not in pruned],
            "created": [title(name) for name in created],
            "pruned": [title(name) for name in pruned],
        }

    def settle(
        self, args: ApplyArgs, before: Observation, after: Observation, now: Observation, ctx: Context
    ) -> Settled:
        found = self._looked(args, ctx)
        so = {name for one in found.seen if one.is_no_op() for name in one.before()}
        live = {one.name: one for one in found.seen}
        states = {name: now[name] if name in now else _reread(live, name) for name in {*before, *after}}
        wanted = {name for name, state in after.items() if before.get(name) != state}
        # What the server would leave alone is as it is wanted, also where it spells a value in its own way.
        done = {name for name in states if name in so or states[name] == after.get(name)}
        untouched = {name for name, state in states.items() if state == before.get(name)}
        if wanted <= done:
            return "done"
        if untouched == states.keys():
            return "not_done"
        return "partial" if states.keys() == done | untouched else "unknown"

    def version(self, args: ApplyArgs, before: Observation) -> Any:
        assert self._set is not None
        # Sensitive: a digest of a Secret's data would tell whether a guess at it is right.
        return {"before": before, "manifests": Sensitive(manifests.digest(self._set.items))}

    def _looked(self, args: ApplyArgs, ctx: Context) -> ManifestSet:
        if self._set is None:
            self.observe(args, ctx)
        assert self._set is not None
        return self._set


def _exactly(stray: Stray) -> str:
    return f"{stray.name}@{stray.live['metadata']['uid']}"


def _reread(live: Mapping[str, Seen], name: str) -> Any:
    """A place that was touched, and is not any more, now that the object is as the manifest has it."""
    whole, _, place = name.partition("#")
    one = live.get(whole)
    if one is None or not place:
        return None
    return Step(one.ref, whole, None, None, {name: None}, {}).observe(one.live).get(name)
