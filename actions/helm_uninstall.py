"""helm.uninstall: take a release away."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runbook.actions._helm import client, owners, pending, rights
from runbook.actions._helm import history as histories
from runbook.actions._helm import manifest as manifests
from runbook.actions._helm import work as working
from runbook.actions._helm.pending import RepairArgs
from runbook.actions._kube.owners import Warned
from runbook.contract import Call, Change, Context, Observation, Outputs, PermanentError, Settled, param


@dataclass(frozen=True, kw_only=True)
class UninstallArgs(RepairArgs):
    """Parameters of helm.uninstall."""

    keep_history: bool = param(
        "Keep Helm's records, so that the release can be brought back; without them nothing takes it back.",
        default=True,
    )
    instead_of: str | None = param(working.INSTEAD, default=None)


class Uninstall(Warned, Change[UninstallArgs]):
    """Take a release and its objects away, and wait until they are gone.

    With its history kept, the inverse rolls back to the revision that was deployed: the objects are made anew, what
    their volumes and addresses were does not come back. A release that is not there is already so.
    """

    name = "helm.uninstall"
    world = "k8s"
    returns = {"existed": "whether there was anything to uninstall", "revision": "revision that was deployed, or 0"}

    def needs(self, args: UninstallArgs) -> Mapping[str, Any]:
        return {"tools": ["helm"]}

    def preflight(self, args: UninstallArgs, ctx: Context) -> list[str]:
        said = client.missing(ctx, args, ["list", "get", "update", *([] if args.keep_history else ["delete"])])
        listed = [] if said else histories.history(ctx, args)
        client.gets_on(ctx)
        if not listed or listed[-1].status == "uninstalled":
            return said
        if listed[-1].between:
            said = pending.stands_in_the_way(ctx, args, listed[-1], args.instead_of)
            if said:
                return said
        number = listed[-1].revision
        old, text = (manifests.manifest(ctx, args, number, part) for part in ("manifest", "hooks"))
        hooks = manifests.hooks(text, "delete")
        server_side = bool(hooks) and rights.server_side(ctx, args, number)
        return rights.missing(ctx, args, rights.Way(old=old, new="", hooks=hooks, server_side=server_side))

    def observe(self, args: UninstallArgs, ctx: Context) -> Observation:
        return working.observed(ctx, args, histories.history(ctx, args), args.instead_of)

    def expect(self, args: UninstallArgs, before: Observation, ctx: Context) -> Observation:
        ((_, state),) = before.items()
        if state is not None and "serves" in state:
            ctx.log(f"{args.release} is {state['status']}: a helm that was killed, or one that is still at it")
        kept = args.keep_history and state is not None
        if state is not None:
            self.warn(ctx, owners.warnings(ctx, args, histories.living(histories.history(ctx, args)), ""))
        return {client.object_name(ctx, args): {"status": "uninstalled"} if kept else None}

    def apply(self, args: UninstallArgs, before: Observation, ctx: Context) -> None:
        ((_, had),) = before.items()
        listed = histories.history(ctx, args)
        if not listed or (args.keep_history and listed[-1].status == "uninstalled"):
            return
        newest = listed[-1]
        if newest.between:
            pending.claim(ctx, args, newest, args.instead_of)
        elif histories.state(listed) != had:
            raise PermanentError(
                f"{args.release} was changed by someone else meanwhile: it is at revision {newest.revision}"
                f" ({newest.status}, {newest.description})"
            )
        flags = working.timeout(ctx)
        if args.keep_history:
            flags.append("--keep-history")
            if newest.origin != newest.revision:  # its `Rollback to N` is written over
                flags += ["--description", f"Uninstallation complete {histories.repeats(newest.origin)}"]
        done = working.run(ctx, args, newest.revision, working.UNINSTALL, ["uninstall", args.release, *flags])
        if done.rc != 0 and "release: not found" not in done.stderr:
            raise client.said(done, f"helm uninstall {args.release}")
        _told(ctx, args, done.stdout)

    def inverse(self, args: UninstallArgs, before: Observation, op: str) -> Call | None:
        ((name, state),) = before.items()
        return histories.back(name, state, working.UNINSTALL) if args.keep_history else None

    def outputs(self, args: UninstallArgs, before: Observation, after: Observation) -> Outputs:
        ((_, was),) = before.items()
        return {"existed": was is not None, "revision": histories.served(was)}

    def settle(
        self, args: UninstallArgs, before: Observation, after: Observation, now: Observation, ctx: Context
    ) -> Settled:
        verdict = super().settle(args, before, after, now, ctx)
        if verdict == "done":
            working.settled(ctx, args)
        if verdict != "unknown":
            return verdict
        listed = histories.history(ctx, args)
        return "partial" if listed and working.noted(ctx, args, listed[-1]) else "unknown"

    def preview(self, args: UninstallArgs, before: Observation, after: Observation, ctx: Context) -> str | None:
        ((_, state),) = before.items()
        if state is None or state["status"] == "uninstalled":
            return None
        newest = histories.existing(ctx, args)[-1]
        text = manifests.manifest(ctx, args, newest.revision)
        stay = manifests.kept(text)
        gone = [name for name in manifests.names(text) if name not in stay]
        lines = [*self._warnings, f"objects that go: {', '.join(gone) or 'none'}"]
        if stay:
            lines.append(f"objects that stay (resource policy): {', '.join(stay)}")
        hooks = manifests.manifest(ctx, args, newest.revision, "hooks")
        return "\n".join([*lines, manifests.hooks_line(hooks, "delete")])


def _told(ctx: Context, args: UninstallArgs, text: str) -> None:
    """What Helm 4 says that it left, with exit status 0. PermanentError where it could not look and went on."""
    for reason, objects in re.findall(r"resource\(s\) were not deleted because (.*):\n((?:\[.*(?:\n|$))+)", text):
        left = "; ".join(line.strip() for line in objects.splitlines())
        if "could not be verified" in reason:
            raise PermanentError(f"helm uninstalled {args.release} and left objects of it, as {reason}: {left}")
        ctx.log(f"left, as {reason}: {left}")
