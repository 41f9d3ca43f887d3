"""helm.upgrade: install a release, or bring it to another chart, version or other values."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runbook.actions._helm import client, owners, pending, render, rights
from runbook.actions._helm import history as histories
from runbook.actions._helm import manifest as manifests
from runbook.actions._helm import work as working
from runbook.actions._helm.history import Release
from runbook.actions._helm.pending import RepairArgs
from runbook.actions._helm.render import ChartArgs
from runbook.actions._kube.owners import Warned
from runbook.contract import (
    Absent,
    Call,
    Change,
    Context,
    Observation,
    Outputs,
    PermanentError,
    Settled,
    TemporaryError,
    param,
)

PROMISED = "promised"
"""The note with the number that the new revision counts as, the same over all attempts."""


@dataclass(frozen=True, kw_only=True)
class UpgradeArgs(RepairArgs, ChartArgs):
    """Parameters of helm.upgrade."""

    force_conflicts: bool = param(
        "Take over fields that were set by others (Helm 4: after a `kubectl scale`, say).", default=False
    )


class Upgrade(Warned, Change[UpgradeArgs]):
    """Install a release, or upgrade it, and wait until it is ready.

    The plan renders the chart (the server's dry run) and shows what the manifests differ in, and the hooks. Where
    values, objects and hooks stay the same, it is already so. A helm that was killed (deadline, crash) leaves the
    release pending: what a run left so is repaired by a roll-back to what served before, then the upgrade is made
    again; of another helm nobody can tell whether it was killed (`repair_after`). The inverse rolls back to the
    revision before, or uninstalls what was not installed.
    """

    name = "helm.upgrade"
    brings = True
    world = "k8s"
    returns = {
        "from_revision": "revision whose content was deployed before; 0 where none was",
        "revision": "the new revision",
        "installed": "whether there was none before",
    }

    def __init__(self) -> None:
        self._dry: dict[str, Any] | None = None
        self._crds = ""  # what the chart defines that is not there yet
        self._change = ""  # what is made, as far as `expect` found it

    def check(self, args: UpgradeArgs) -> Iterator[str]:
        if args.chart.startswith("-"):
            yield f"chart: {args.chart!r} is no chart"
        if args.version is not None and not args.version.strip():
            yield "version: it is empty"

    def needs(self, args: UpgradeArgs) -> Mapping[str, Any]:
        return {"tools": ["helm"]}

    def preflight(self, args: UpgradeArgs, ctx: Context) -> list[str]:
        said = client.missing(ctx, args, ["list", "get", "create", "update"], client.LEAST)
        if isinstance(args.chart, str) and isinstance(args.folder, Path):  # an Unknown is neither
            try:
                render.reference(args)
            except PermanentError as error:
                said.append(Absent(error.message))  # an earlier step may bring it
        return said or self._lacks(args, ctx)

    def _lacks(self, args: UpgradeArgs, ctx: Context) -> list[str]:
        """The rights that are missing on what is rendered now. Secrets are sealed: a word stands for each."""
        listed = histories.history(ctx, args)
        client.gets_on(ctx)
        newest = listed[-1] if listed else None
        if newest is not None and newest.between:
            return pending.stands_in_the_way(ctx, args, newest)
        there = newest if newest is not None and newest.status != "uninstalled" else None
        refused: list[str] = []
        try:
            dry = self._rendered(args, ctx)
        except PermanentError as error:
            if "forbidden" not in error.message:
                return unrendered(args, error)
            refused = [error.message]  # the first right only; what the others are does not need the server
            try:
                dry = render.alone(ctx, args, upgrades=there is not None)
            except PermanentError:
                return refused
        client.gets_on(ctx)
        hooks = "\n---\n".join(str(hook.get("manifest") or "") for hook in dry.get("hooks") or ())
        method = None if args.force_conflicts else dry.get("apply_method")
        number = there.revision if there else None
        way = rights.Way(
            old=manifests.manifest(ctx, args, there.revision) if there else "",
            new=str(dry.get("manifest") or ""),
            hooks=manifests.hooks(hooks, "upgrade" if there else "install"),
            server_side=method == "ssa"
            if method
            else rights.server_side(ctx, args, number, force_conflicts=args.force_conflicts),
            prunes=histories.prunes(ctx, listed),
            defines=self._crds,
        )
        return rights.missing(ctx, args, way) or refused

    def observe(self, args: UpgradeArgs, ctx: Context) -> Observation:
        name = client.object_name(ctx, args)
        listed = histories.history(ctx, args)
        seen: Observation = {name: histories.state(listed)}
        if listed and listed[-1].status == "deployed":
            seen[f"{name}#content"] = manifests.content(_status(ctx, args, listed[-1]))
        return seen

    def expect(self, args: UpgradeArgs, before: Observation, ctx: Context) -> Observation:
        name = client.object_name(ctx, args)
        listed = histories.history(ctx, args)
        newest = listed[-1] if listed else None
        if newest is not None and newest.between:
            ctx.log(f"{args.release} is {newest.status}: a helm that was killed, or one that is still at it")
            self.computed = f"{args.release} is {newest.status}: what is rendered is known when that is repaired"
            chart, version = render.chart(ctx, args)
            return {name: _after(_promised(ctx, args, listed), chart, version)}
        dry = self._rendered(args, ctx)
        chart, version = render.named(dry)
        content = manifests.content(dry)
        self._change = working.upgrade_to(chart, dry.get("config"))
        if newest is not None and newest.status == "deployed" and newest.chart == chart:
            was = before.get(f"{name}#content")
            mine = was is not None and was["values"] == content["values"] and working.noted(ctx, args, newest)
            if was == content or mine:
                return before
        self.warn(ctx, owners.warnings(ctx, args, histories.living(listed), str(dry.get("manifest") or "")))
        after = _after(_promised(ctx, args, listed), chart, version)
        return {name: after} if self._crds else {name: after, f"{name}#content": content}

    def apply(self, args: UpgradeArgs, before: Observation, ctx: Context) -> None:
        had = before[client.object_name(ctx, args)]
        listed = histories.history(ctx, args)
        promised = _promised(ctx, args, listed)
        if listed and listed[-1].between:
            listed = _repaired(args, ctx, listed, promised)
        elif histories.state(listed) != had:
            now = f"revision {listed[-1].revision} ({listed[-1].status})" if listed else "gone"
            raise PermanentError(f"{args.release} was changed by someone else meanwhile: it is {now}")
        chart, _ = render.named(self._rendered(args, ctx))
        makes = listed[-1].revision + 1 if listed else 1
        flags = [*working.timeout(ctx), *histories.keeping(ctx, listed), *client.takeover(ctx, args.force_conflicts)]
        if makes != promised:
            flags += ["--description", f"Upgrade complete {histories.repeats(promised)}"]
        content = working.upgrade_to(chart, self._rendered(args, ctx).get("config"))
        ctx.note(PROMISED, {"revision": promised, "content": content})
        done = working.run(
            ctx,
            args,
            makes,
            content,
            ["upgrade", *render.what(args), *flags],
            json.dumps(args.values).encode(),
        )
        if done.rc != 0:
            raise client.said(done, f"helm upgrade {args.release}")
        ctx.log(done.stdout.partition("\n")[0])

    def inverse(self, args: UpgradeArgs, before: Observation, op: str) -> Call | None:
        name = next(name for name in before if "#" not in name)
        return histories.back(name, before[name], self._change, force_conflicts=args.force_conflicts)

    def outputs(self, args: UpgradeArgs, before: Observation, after: Observation) -> Outputs:
        was, now = (next(seen[name] for name in seen if "#" not in name) for seen in (before, after))
        served = histories.served(was)
        return {"from_revision": served, "revision": now["revision"], "installed": not served}

    def settle(
        self, args: UpgradeArgs, before: Observation, after: Observation, now: Observation, ctx: Context
    ) -> Settled:
        name = client.object_name(ctx, args)
        listed = histories.history(ctx, args)
        mine = bool(listed) and working.noted(ctx, args, listed[-1])
        if now[name] == after[name] and (mine or now.get(f"{name}#content") == after.get(f"{name}#content")):
            working.settled(ctx, args)
            return "done"
        if now[name] == before[name]:
            return "not_done"
        return "partial" if mine else "unknown"

    def preview(self, args: UpgradeArgs, before: Observation, after: Observation, ctx: Context) -> str | None:
        listed = histories.history(ctx, args)
        newest = listed[-1] if listed else None
        if newest is not None and newest.between:
            return None
        dry = self._rendered(args, ctx)
        gone = newest is None or newest.status == "uninstalled"
        old = "" if newest is None or gone else manifests.manifest(ctx, args, newest.revision)
        titles = ("nothing" if newest is None or gone else f"revision {newest.revision}", "as rendered")
        changes = manifests.difference(old, str(dry.get("manifest") or ""), titles)
        hooks = "\n---\n".join(str(hook.get("manifest") or "") for hook in dry.get("hooks") or ())
        line = manifests.hooks_line(hooks, "install" if gone else "upgrade")
        return "\n".join([*self._warnings, changes or "the two manifests are equal", line])

    def _rendered(self, args: UpgradeArgs, ctx: Context) -> dict[str, Any]:
        """The release as it would be: the server's dry run, once for a call."""
        if self._dry is None:
            try:
                self._dry = render.by_server(ctx, args)
            except PermanentError as error:
                if "no matches for kind" not in error.message or histories.history(ctx, args):
                    raise
                self._crds = render.definitions(ctx, args)
                if not self._crds:
                    raise
                # Helm makes them, but not for a dry run, which then does not know their kinds.
                self.computed = f"chart {args.chart} defines kinds that are not there yet: rendered without the server"
                self._dry = render.alone(ctx, args, upgrades=False)
        return self._dry


def unrendered(args: UpgradeArgs, error: PermanentError) -> list[str]:
    """What preflight says of a chart that cannot be rendered. TemporaryError where secrets may be why."""
    if _veiled(args.values):
        raise TemporaryError(
            f"the rights on what chart {args.chart} renders; that cannot be known before its secrets are"
            f" ({error.message})"
        )
    return [Absent(error.message)]  # an earlier step may bring what it lacks: a kind, a value


def _veiled(value: Any) -> bool:
    """Is a secret in it? Before a run it stands there as it is printed."""
    if isinstance(value, Mapping):
        return any(map(_veiled, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_veiled, value))
    return isinstance(value, str) and "‹secret:" in value


def _status(ctx: Context, args: UpgradeArgs, release: Release) -> dict[str, Any]:
    done = client.helm(ctx, args, "status", args.release, "--revision", str(release.revision), "--output", "json")
    if done.rc != 0:
        raise client.said(done, f"helm status {args.release}")
    return render.release(done.stdout, args)


def _promised(ctx: Context, args: UpgradeArgs, listed: list[Release]) -> int:
    """The number that the new revision counts as: over all attempts the one that the first of them was to make."""
    noted = ctx.notes.get(PROMISED)
    if isinstance(noted, Mapping):
        number = int(noted["revision"])
        taken = next((entry for entry in listed if entry.revision == number), None)
        if taken is None or working.content_of(ctx, args, taken) == noted["content"]:
            return number
    newest = listed[-1] if listed else None
    if newest is None:
        return 1
    return newest.revision + (2 if newest.between and newest.status != "uninstalling" else 1)  # a repair takes one


def _after(revision: int, chart: str, version: str) -> dict[str, Any]:
    return {"revision": revision, "status": "deployed", "chart": chart, "version": version}


def _repaired(args: UpgradeArgs, ctx: Context, listed: list[Release], promised: int) -> list[Release]:
    """The history after a release that is in between was brought to a state that Helm upgrades from.

    Without hooks: they belong to the upgrade, which runs next.
    """
    newest = listed[-1]
    pending.claim(ctx, args, newest)
    if not isinstance(ctx.notes.get(PROMISED), Mapping):
        ctx.note(PROMISED, {"revision": promised, "content": ""})
    if newest.status == "uninstalling" or (newest.status == "pending-install" and working.noted(ctx, args, newest)):
        # Nothing was there when this call began, or somebody wanted it gone: what is half there goes.
        keep = ["--keep-history"] if len(listed) > 1 or newest.status == "uninstalling" else []
        command = ["uninstall", args.release, "--no-hooks", *keep, *working.timeout(ctx)]
        done = working.run(ctx, args, newest.revision, working.UNINSTALL, command)
    else:
        served = histories.serving(listed) or newest
        seconds = working.timeout(ctx)[1:]
        command = [
            "rollback",
            args.release,
            str(served.revision),
            "--no-hooks",
            *seconds,
            *histories.NO_LIMIT,
        ]
        command += client.takeover(ctx, args.force_conflicts)
        done = working.run(ctx, args, newest.revision + 1, working.rollback_to(served.origin), command)
    if done.rc != 0:
        raise client.said(done, f"helm {command[0]} {args.release} (repair)")
    return histories.history(ctx, args)
