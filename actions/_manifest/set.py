"""A set of manifests as k8s.diff and k8s.apply see it: read, laid beside the cluster, with what is to be pruned."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runbook.actions._kube.action import KubeArgs, Right, Rights
from runbook.actions._kube.cluster import Cluster, ForbiddenError, connect
from runbook.actions._kube.kinds import Ref
from runbook.actions._kube.owners import autoscalers, of_fields
from runbook.actions._manifest import documents as manifests
from runbook.actions._manifest import prune as pruning
from runbook.actions._manifest.inhabitants import making
from runbook.actions._manifest.look import Seen, look, resolve, state
from runbook.actions._manifest.prune import Stray
from runbook.actions._manifest.users import sentence, users
from runbook.contract import Context, Observation, PermanentError, param


@dataclass(frozen=True, kw_only=True)
class ManifestArgs(KubeArgs):
    """What k8s.diff and k8s.apply share."""

    path: Path | None = param(
        "File of manifests (YAML, also many documents, or JSON), or a folder of such files.", default=None, path=True
    )
    manifest: str | dict[str, Any] | list[dict[str, Any]] | None = param(
        "The manifests themselves, in place of `path`: YAML text, an object, or a list of objects.",
        default=None,
        secret=True,
    )
    prune: str | None = param(
        "Label selector of the whole set: what matches it in the namespace, was applied by runbook and is no longer in"
        " the set is deleted. Never empty; Namespaces, volume claims and definitions are left.",
        default=None,
    )


class ManifestSet:
    """A set of manifests beside the cluster."""

    def __init__(self, args: ManifestArgs, ctx: Context, *, force: bool) -> None:
        for problem in problems(args):
            raise PermanentError(problem)
        self.cluster = connect(ctx, args.context)
        self.op = ctx.op
        self._uses: list[dict[str, str]] | None = None
        self.items = [manifests.unsealed(item, ctx.kept) for item in manifests.read(args.path, args.manifest)]
        for item in self.items:
            manifests.well_kept(item)
        self.seen = look(self.cluster, ctx, self.items, args.namespace, ctx.op, force=force)
        self.strays: list[Stray] = []
        if args.prune is not None:
            self.strays = pruning.strays(self.cluster, ctx, self.seen, args.namespace, args.prune)

    def before(self) -> Observation:
        """Every place that is touched, as it is."""
        found: Observation = {}
        for one in self.seen:
            found |= one.before()
        return found | {
            stray.name: state(stray.name, stray.live, (), secret=False)[stray.name] for stray in self.strays
        }

    def after(self) -> Observation:
        """As it would be. PermanentError where the server refuses an object."""
        found: Observation = {}
        for one in self.seen:
            if one.error is not None:
                raise one.error
            found |= one.after(self.op)
        return found | dict.fromkeys((stray.name for stray in self.strays), None)

    def changed(self) -> list[Seen]:
        """The objects that are not as they are wanted."""
        return [one for one in self.seen if not one.is_no_op()]

    def uses(self, ctx: Context) -> list[dict[str, str]]:
        """The workloads that use what changes."""
        if self._uses is None:
            refs = [one.ref for one in self.changed() if one.live is not None and _content_changes(one)]
            self._uses = users(self.cluster, ctx, [*refs, *(stray.ref for stray in self.strays)])
        return self._uses

    def warnings(self, args: ManifestArgs, ctx: Context) -> Iterator[str]:
        """Who else writes these objects, and who goes on with what they were."""
        for one in self.changed():
            yield from of_fields(one.ref, one.live or {})
            if one.live is not None and one.item.body.get("immutable") is True and not one.live.get("immutable"):
                yield f"{one.ref} becomes immutable: no undo makes it mutable again"
            if "replicas" in (one.item.body.get("spec") or {}):
                for scaler in autoscalers(self.cluster, ctx, one.ref):
                    yield f"{scaler} owns the replica count of {one.ref}: leave spec.replicas out of the manifest"
        for stray in self.strays:
            yield from of_fields(stray.ref, stray.live)
        for use in self.uses(ctx):
            yield sentence(use)
        if args.prune is not None:
            for title in pruning.unlabelled(self.seen, args.prune):
                yield f"prune: {title} does not match {args.prune!r}: a later apply will not prune it"


def problems(args: ManifestArgs) -> Iterator[str]:
    """Sentences about parameters that do not fit together."""
    if (args.path is None) == (args.manifest is None):
        yield "path, manifest: give one of them"
    if args.prune is not None and not args.prune.strip():
        yield "prune: empty, it would mean every object"


class Lacking(Rights):
    """Preflight of a set of manifests, which may bring its own namespace."""

    def within(self, args: ManifestArgs) -> str:
        """Its namespace; `default`, which is always there, where the set brings its own."""
        items = manifests.read(args.path, args.manifest)
        brings = any(item.kind == "Namespace" and item.name == args.namespace for item in items)
        return "default" if brings else args.namespace


def _content_changes(one: Seen) -> bool:
    return any(
        state != one.after("").get(name) for name, state in one.state(one.live).items() if "#metadata" not in name
    )


def rights_of(args: ManifestArgs, cluster: Cluster, ctx: Context) -> tuple[list[Right], list[Right]]:
    """The verbs that an apply of the set will use, and those that its undo will.

    What the undo lists before it deletes a namespace or a definition is looked at when it begins: here it would be many
    questions, all within the time that a run's preflight has.
    """
    needed: list[Right] = []
    back: list[Right] = []
    items = manifests.read(args.path, args.manifest)
    where = resolve(cluster, ctx, items)
    for item in items:
        kind, is_served = where[item.api_version, item.kind]
        namespace = (item.namespace or args.namespace) if kind.namespaced else ""
        ref = Ref(kind, namespace, item.name)
        needed += [("get", ref), ("patch", ref)]
        try:
            absent = not is_served or cluster.find(ctx, ref) is None
        except ForbiddenError:
            absent = False
        if absent:
            needed.append(("create", Ref(kind, namespace)))
            back.append(("delete", ref))
    if args.prune is not None:
        own = dict.fromkeys(kind for kind, is_served in where.values() if is_served and pruning.is_pruned(kind))
        needed += [(verb, Ref(kind, args.namespace)) for kind in own for verb in ("list", "delete")]
        back += [right for kind in own for right in making(Ref(kind, args.namespace))]
    return needed, back
