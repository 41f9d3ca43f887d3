"""Family helm: look at a release's history, and go back in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runbook.actions import _helm
from runbook.actions._helm import HelmArgs, Release
from runbook.contract import (
    Call,
    Change,
    Context,
    Observation,
    Outputs,
    PermanentError,
    Read,
    Settled,
    TemporaryError,
    param,
)

PATIENCE = 300.0
"""Seconds after which a release that is pending is taken for one whose helm was killed: Helm's own default time-out."""
MARGIN = 2.0
"""Helm's time-out ends so many seconds before ours, so that it can still write down that it failed."""


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
        return _helm.missing(ctx, args, ["list"])

    def read(self, args: HistoryArgs, ctx: Context) -> Outputs:
        listed = _helm.history(ctx, args) if args.optional else _helm.existing(ctx, args)
        current = listed[-1] if listed else None
        target = _helm.target(listed)
        return {
            "found": bool(listed),
            "current": _shown(current, _images(ctx, args, current)) if current else None,
            "target": _shown(target, _images(ctx, args, target)) if target else None,
            "revisions": [_shown(entry, []) for entry in listed],
        }


def _images(ctx: Context, args: HelmArgs, release: Release | None) -> list[str]:
    return _helm.images(_helm.manifest(ctx, args, release.revision)) if release else []


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
        return _helm.missing(ctx, args, ["list"])

    def read(self, args: StatusArgs, ctx: Context) -> Outputs:
        newest = _helm.existing(ctx, args)[-1]
        return {"status": newest.status, "revision": newest.revision}


@dataclass(frozen=True, kw_only=True)
class RollbackArgs(HelmArgs):
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


class Rollback(Change[RollbackArgs]):
    """Bring a release back to an earlier revision, and wait until it is ready.

    The plan shows what the two manifests differ in, and the hooks. A helm that was killed (deadline, crash) leaves
    the release pending: that is repaired by rolling back again. The inverse goes back to the revision that it left.
    """

    name = "helm.rollback"
    world = "k8s"
    returns = {
        "from_revision": "revision whose content was deployed before",
        "revision": "revision whose content is deployed now; Helm gives it a new number",
    }

    def needs(self, args: RollbackArgs) -> Mapping[str, Any]:
        return {"tools": ["helm"]}

    def preflight(self, args: RollbackArgs, ctx: Context) -> list[str]:
        return _helm.missing(ctx, args, ["list", "get", "create", "update"])

    def observe(self, args: RollbackArgs, ctx: Context) -> Observation:
        return {_helm.object_name(ctx, args): _state(_helm.existing(ctx, args)[-1])}

    def expect(self, args: RollbackArgs, before: Observation, ctx: Context) -> Observation:
        ((name, state),) = before.items()
        after = {**_state(_target(args, _helm.existing(ctx, args), ctx)), "status": "deployed"}
        if state["status"].startswith("pending-"):
            ctx.log(f"{args.release} is {state['status']}: a helm that was killed, or one that is still at it")
        return {name: after}

    def apply(self, args: RollbackArgs, before: Observation, ctx: Context) -> None:
        ((_, had),) = before.items()
        listed = _helm.existing(ctx, args)
        newest, target = listed[-1], _target(args, listed, ctx)
        if newest.status == "deployed" and newest.origin == target.origin:
            return
        if newest.pending:
            _repair(newest, ctx)
        elif _state(newest) != had:
            raise PermanentError(
                f"{args.release} was changed by someone else meanwhile: it is at revision {newest.revision}"
                f" ({newest.status}, {newest.description})"
            )
        # From here on "the one before" means this one, also for a later attempt that finds it done.
        ctx.note("revision", target.revision)
        seconds = max(1, int(ctx.remaining() - MARGIN))
        flags = ["--wait", "--timeout", f"{seconds}s"]
        if args.force_conflicts:
            if _helm.version(ctx) >= 4:
                flags.append("--force-conflicts")
            else:
                ctx.log("this Helm knows no conflicts: force_conflicts changes nothing")
        done = _helm.helm(ctx, args, "rollback", args.release, str(target.revision), *flags)
        if done.rc != 0:
            raise _helm.said(done, f"helm rollback {args.release} {target.revision}")
        ctx.log(done.stdout.strip())

    def inverse(self, args: RollbackArgs, before: Observation, op: str) -> Call | None:
        ((name, state),) = before.items()
        if state["status"] not in ("deployed", "failed"):
            return None  # pending, uninstalled: there is no revision that was this state
        context, namespace, release = name.removeprefix("helm:").rsplit("/", 2)
        return Call(
            self.name,
            {
                "release": release,
                "namespace": namespace,
                "context": context,
                "revision": state["revision"],
                "force_conflicts": args.force_conflicts,
            },
        )

    def outputs(self, args: RollbackArgs, before: Observation, after: Observation) -> Outputs:
        ((_, was),) = before.items()
        ((_, now),) = after.items()
        return {"from_revision": was["revision"], "revision": now["revision"]}

    def settle(
        self, args: RollbackArgs, before: Observation, after: Observation, now: Observation, ctx: Context
    ) -> Settled:
        verdict = super().settle(args, before, after, now, ctx)
        if verdict != "unknown":
            return verdict
        newest = _helm.existing(ctx, args)[-1]
        ours = ctx.notes.get("revision") is not None and newest.spoiled_rollback
        return "partial" if ours else "unknown"

    def preview(self, args: RollbackArgs, before: Observation, after: Observation, ctx: Context) -> str | None:
        listed = _helm.existing(ctx, args)
        newest, target = listed[-1], _target(args, listed, ctx)
        old, new = (_helm.manifest(ctx, args, entry.revision) for entry in (newest, target))
        hooks = _helm.hook_names(_helm.manifest(ctx, args, target.revision, "hooks"))
        changes = _helm.difference(old, new, (f"revision {newest.revision}", f"revision {target.revision}"))
        ran = f"hooks that run: {', '.join(hooks)}" if hooks else "no hooks run"
        return f"{changes or 'the two manifests are equal'}\n{ran}"


def _state(release: Release) -> dict[str, Any]:
    """Nothing in it moves when Helm only gives the same content a new number."""
    return {
        "revision": release.origin,
        "status": release.status,
        "chart": release.chart,
        "version": release.version,
    }


def _target(args: RollbackArgs, listed: list[Release], ctx: Context) -> Release:
    wanted = args.revision if args.revision is not None else ctx.notes.get("revision")
    if wanted is not None:
        found = _helm.numbered(listed, int(wanted))
        if found is None:
            known = ", ".join(str(entry.revision) for entry in listed)
            raise PermanentError(f"release {args.release} has no revision {wanted} (Helm keeps {known})")
        return found
    found = _helm.target(listed)
    if found is None:
        raise PermanentError(f"release {args.release} has no earlier revision that was ever deployed")
    return found


def _repair(newest: Release, ctx: Context) -> None:
    """A pending release: go on where it was our own helm that was killed, or where nobody can be at it any more."""
    ours = ctx.notes.get("revision") is not None and newest.status == "pending-rollback"
    waited = _helm.age(newest)
    if not ours and waited is not None and waited < PATIENCE:
        raise TemporaryError(
            f"another operation in progress: revision {newest.revision} is {newest.status} for {waited:.0f}s",
            retry_after=min(10.0, PATIENCE - waited),
        )
    ctx.log(f"revision {newest.revision} is {newest.status}, its helm was killed: repaired by this roll-back")


ACTIONS = (History, Status, Rollback)
