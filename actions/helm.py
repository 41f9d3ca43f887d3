"""Family helm: look at a release's history, and go back in it. Upgrades are in helm_upgrade.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runbook.actions._helm import client, owners, pending, rights
from runbook.actions._helm import history as histories
from runbook.actions._helm import manifest as manifests
from runbook.actions._helm import work as working
from runbook.actions._helm.client import HelmArgs
from runbook.actions._helm.history import Release
from runbook.actions._helm.pending import RepairArgs
from runbook.actions._kube.owners import Warned
from runbook.actions.helm_uninstall import Uninstall
from runbook.actions.helm_upgrade import Upgrade
from runbook.contract import (
    Call,
    Change,
    Context,
    Observation,
    Outputs,
    PermanentError,
    Read,
    Settled,
    param,
)


@dataclass(frozen=True, kw_only=True)
class HistoryArgs(HelmArgs):
    """Parameters of helm.history."""

    optional: bool = param("A release that is not there is no error, only `found: false`.", default=False)


class History(Read[HistoryArgs]):
    """The revisions of a release, the current one, and the one that a roll-back would go to."""

    name = "helm.history"
    world = "k8s"
    returns = {
        "found": "whether there is such a release",
        "current": "{revision, version, images, status, at, chart, description} of the newest revision, or null",
        "target": "the same of the newest once-deployed revision before it, or null; a `Rollback to N` counts as N",
        "revisions": "all of them, oldest first; images is [] but in current and target",
    }

    def needs(self, args: HistoryArgs) -> Mapping[str, Any]:
        return {"tools": ["helm"]}

    def preflight(self, args: HistoryArgs, ctx: Context) -> list[str]:
        return client.missing(ctx, args, ["list"])

    def read(self, args: HistoryArgs, ctx: Context) -> Outputs:
        listed = histories.history(ctx, args) if args.optional else histories.existing(ctx, args)
        current = listed[-1] if listed else None
        target = histories.target(listed)
        return {
            "found": bool(listed),
            "current": _shown(current, _images(ctx, args, current)) if current else None,
            "target": _shown(target, _images(ctx, args, target)) if target else None,
            "revisions": [_shown(entry, []) for entry in listed],
        }


def _images(ctx: Context, args: HelmArgs, release: Release | None) -> list[str]:
    return manifests.images(manifests.manifest(ctx, args, release.revision)) if release else []


def _shown(release: Release, images: list[str]) -> dict[str, Any]:
    return {
        "revision": release.revision,
        "version": release.version,
        "images": images,
        "status": release.status,
        "at": release.at,
        "chart": release.chart,
        "description": release.description,
    }


@dataclass(frozen=True, kw_only=True)
class StatusArgs(HelmArgs):
    """Parameters of helm.status."""


class Status(Read[StatusArgs]):
    """The state of a release."""

    name = "helm.status"
    world = "k8s"
    returns = {"status": "deployed, failed, pending-upgrade ... of the newest revision", "revision": "its number"}

    def needs(self, args: StatusArgs) -> Mapping[str, Any]:
        return {"tools": ["helm"]}

    def preflight(self, args: StatusArgs, ctx: Context) -> list[str]:
        return client.missing(ctx, args, ["list"])

    def read(self, args: StatusArgs, ctx: Context) -> Outputs:
        newest = histories.existing(ctx, args)[-1]
        return {"status": newest.status, "revision": newest.revision}


@dataclass(frozen=True, kw_only=True)
class RollbackArgs(RepairArgs):
    """Parameters of helm.rollback."""

    revision: int | None = param(
        "Revision to go back to. By default the newest once-deployed one before the current, where a `Rollback to N`"
        " counts as N: two in a row never return to the bad version.",
        default=None,
        minimum=1,
    )
    force_conflicts: bool = param(
        "Take over fields that were set by others (Helm 4: after a `kubectl scale`, say).", default=False
    )
    instead_of: str | None = param(working.INSTEAD, default=None)


class Rollback(Warned, Change[RollbackArgs]):
    """Bring a release back to an earlier revision, and wait until it is ready.

    The plan shows what the two manifests differ in, and the hooks. A helm that was killed (deadline, crash) leaves
    the release pending: what a run left so is repaired by rolling back again; of another helm nobody can tell whether
    it was killed (`repair_after`). The inverse goes back to the revision that it left.
    """

    name = "helm.rollback"
    world = "k8s"
    returns = {
        "from_revision": "revision whose content was deployed before",
        "revision": "revision whose content is deployed now; Helm gives it a new number",
    }

    def __init__(self) -> None:
        self._change = ""  # what is made, as `expect` found it

    def needs(self, args: RollbackArgs) -> Mapping[str, Any]:
        return {"tools": ["helm"]}

    def preflight(self, args: RollbackArgs, ctx: Context) -> list[str]:
        said = client.missing(ctx, args, ["list", "get", "create", "update"])
        listed = [] if said else histories.history(ctx, args)
        client.gets_on(ctx)
        if not listed or not isinstance(args.revision, int | None):  # what is read before tells it
            return said
        if listed[-1].between:
            said = pending.stands_in_the_way(ctx, args, listed[-1], args.instead_of)
            if said:
                return said
        try:
            target = _target(args, listed, ctx)
        except PermanentError:
            return said  # the step says it, where a fallback catches it
        old, new = (manifests.manifest(ctx, args, entry.revision) for entry in (listed[-1], target))
        way = rights.Way(
            old="" if listed[-1].status == "uninstalled" else old,
            new=new,
            hooks=manifests.hooks(manifests.manifest(ctx, args, target.revision, "hooks"), "rollback"),
            server_side=rights.server_side(ctx, args, target.revision, force_conflicts=args.force_conflicts),
        )
        return rights.missing(ctx, args, way)

    def observe(self, args: RollbackArgs, ctx: Context) -> Observation:
        return working.observed(ctx, args, histories.existing(ctx, args), args.instead_of)

    def expect(self, args: RollbackArgs, before: Observation, ctx: Context) -> Observation:
        ((_, state),) = before.items()
        listed = histories.existing(ctx, args)
        target = _target(args, listed, ctx)
        self._change = working.rollback_to(target.origin)
        if "serves" in state:
            ctx.log(f"{args.release} is {state['status']}: a helm that was killed, or one that is still at it")
        after = {client.object_name(ctx, args): _after(target)}
        if before != after:
            self.warn(ctx, owners.warnings(ctx, args, histories.living(listed), target.revision))
        return after

    def apply(self, args: RollbackArgs, before: Observation, ctx: Context) -> None:
        ((_, had),) = before.items()
        listed = histories.existing(ctx, args)
        newest, target = listed[-1], _target(args, listed, ctx)
        if newest.status == "deployed" and newest.origin == target.origin:
            return
        if newest.between:
            pending.claim(ctx, args, newest, args.instead_of)
        elif histories.state(listed) != had:
            raise PermanentError(
                f"{args.release} was changed by someone else meanwhile: it is at revision {newest.revision}"
                f" ({newest.status}, {newest.description})"
            )
        # From here on "the one before" means this one, also for a later attempt that finds it done.
        ctx.note("revision", target.origin)
        flags = [*working.timeout(ctx), *histories.NO_LIMIT, *client.takeover(ctx, args.force_conflicts)]
        done = working.run(
            ctx,
            args,
            newest.revision + 1,
            working.rollback_to(target.origin),
            ["rollback", args.release, str(target.revision), *flags],
        )
        if done.rc != 0:
            raise client.said(done, f"helm rollback {args.release} {target.revision}")
        ctx.log(done.stdout.strip())

    def inverse(self, args: RollbackArgs, before: Observation, op: str) -> Call | None:
        ((name, state),) = before.items()
        return histories.back(name, state, self._change, force_conflicts=args.force_conflicts)

    def outputs(self, args: RollbackArgs, before: Observation, after: Observation) -> Outputs:
        ((_, was),) = before.items()
        ((_, now),) = after.items()
        return {"from_revision": histories.served(was), "revision": now["revision"]}

    def settle(
        self, args: RollbackArgs, before: Observation, after: Observation, now: Observation, ctx: Context
    ) -> Settled:
        verdict = super().settle(args, before, after, now, ctx)
        if verdict == "done":
            working.settled(ctx, args)
        if verdict != "unknown":
            return verdict
        newest = histories.existing(ctx, args)[-1]
        return "partial" if newest.spoiled_rollback and working.noted(ctx, args, newest) else "unknown"

    def preview(self, args: RollbackArgs, before: Observation, after: Observation, ctx: Context) -> str | None:
        listed = histories.existing(ctx, args)
        newest, target = listed[-1], _target(args, listed, ctx)
        old, new = (manifests.manifest(ctx, args, entry.revision) for entry in (newest, target))
        changes = manifests.difference(old, new, (f"revision {newest.revision}", f"revision {target.revision}"))
        hooks = manifests.manifest(ctx, args, target.revision, "hooks")
        line = manifests.hooks_line(hooks, "rollback")
        return "\n".join([*self._warnings, changes or "the two manifests are equal", line])


def _after(target: Release) -> dict[str, Any]:
    return {"revision": target.origin, "status": "deployed", "chart": target.chart, "version": target.version}


def _target(args: RollbackArgs, listed: list[Release], ctx: Context) -> Release:
    known = ", ".join(str(entry.revision) for entry in listed)
    wanted = args.revision if args.revision is not None else ctx.notes.get("revision")
    if wanted is not None:
        found = histories.numbered(listed, int(wanted))
        if found is None:
            raise PermanentError(f"release {args.release} has no revision {wanted} (Helm keeps {known})")
        return found
    found = histories.target(listed)
    if found is None and listed[-1].status in ("uninstalled", "uninstalling"):
        raise PermanentError(
            f"release {args.release} is {listed[-1].status}",
            hint=f"name the `revision` to bring back (Helm keeps {known})",
        )
    if found is None:
        raise PermanentError(f"release {args.release} has no earlier revision that was ever deployed")
    return found


ACTIONS = (History, Status, Rollback, Upgrade, Uninstall)
