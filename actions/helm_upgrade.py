"""helm.upgrade: install a release, or bring it to another chart, version or other values."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runbook.actions._helm import client
from runbook.actions._helm import history as histories
from runbook.actions._helm import manifest as manifests
from runbook.actions._helm import work as working
from runbook.actions._helm.client import HelmArgs
from runbook.actions._helm.history import Release
from runbook.contract import Absent, Call, Change, Context, Observation, Outputs, PermanentError, Settled, param

PROMISED = "promised"
"""The note with the number that the new revision counts as, the same over all attempts."""


@dataclass(frozen=True, kw_only=True)
class UpgradeArgs(HelmArgs):
    """Parameters of helm.upgrade."""

    chart: str = param("Chart: a folder or archive (relative to `folder`), `repository/name`, `oci://...` or a URL.")
    folder: Path = param("Folder that relative paths of charts start at.", default=Path(), path=True)
    version: str | None = param("Version of the chart, or a range; the latest by default.", default=None)
    repository: str | None = param("URL of the chart repository that `chart` is a name in.", default=None)
    values: dict[str, Any] = param(
        "Values over those of the chart. Helm reads them from its standard input: they are on no command line.",
        default_factory=dict,
        secret=True,
    )
    reuse_values: bool = param(
        "Keep the values that were given before, where `values` has none (Helm's --reset-then-reuse-values: what the"
        " chart itself brings is the new chart's).",
        default=True,
    )
    force_conflicts: bool = param(
        "Take over fields that were set by others (Helm 4: after a `kubectl scale`, say).", default=False
    )


class Upgrade(Change[UpgradeArgs]):
    """Install a release, or upgrade it, and wait until it is ready.

    The plan renders the chart (the server's dry run) and shows what the manifests differ in, and the hooks. Where
    values, objects and hooks stay the same, it is already so. A helm that was killed (deadline, crash) leaves the
    release pending: that is repaired by a roll-back to what served before, then the upgrade is made again. The inverse
    rolls back to the revision before, or uninstalls what was not installed.
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
        self._change = ""  # what is made, as far as `expect` found it

    def check(self, args: UpgradeArgs) -> Iterator[str]:
        if args.chart.startswith("-"):
            yield f"chart: {args.chart!r} is no chart"
        if args.version is not None and not args.version.strip():
            yield "version: it is empty"

    def needs(self, args: UpgradeArgs) -> Mapping[str, Any]:
        return {"tools": ["helm"]}

    def preflight(self, args: UpgradeArgs, ctx: Context) -> list[str]:
        sentences = client.missing(ctx, args, ["list", "get", "create", "update"], client.LEAST)
        try:
            _reference(args)
        except PermanentError as error:
            sentences.append(Absent(error.message))  # an earlier step may bring it
        return sentences

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
            chart, version = _chart(ctx, args)
            return {name: _after(_promised(ctx, args, listed), chart, version)}
        dry = self._rendered(args, ctx)
        chart, version = _named(dry)
        content = manifests.content(dry)
        self._change = working.upgrade_to(chart, dry.get("config"))
        if newest is not None and newest.status == "deployed" and newest.chart == chart:
            was = before.get(f"{name}#content")
            mine = was is not None and was["values"] == content["values"] and working.noted(ctx, args, newest)
            if was == content or mine:
                return before
        return {name: _after(_promised(ctx, args, listed), chart, version), f"{name}#content": content}

    def apply(self, args: UpgradeArgs, before: Observation, ctx: Context) -> None:
        had = before[client.object_name(ctx, args)]
        listed = histories.history(ctx, args)
        promised = _promised(ctx, args, listed)
        if listed and listed[-1].between:
            listed = _repaired(args, ctx, listed, promised)
        elif histories.state(listed) != had:
            now = f"revision {listed[-1].revision} ({listed[-1].status})" if listed else "gone"
            raise PermanentError(f"{args.release} was changed by someone else meanwhile: it is {now}")
        chart, _ = _named(self._rendered(args, ctx))
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
            ["upgrade", *_what(args), *flags],
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
        return f"{changes or 'the two manifests are equal'}\n{line}"

    def _rendered(self, args: UpgradeArgs, ctx: Context) -> dict[str, Any]:
        """The release as it would be: the server's dry run, once for a call."""
        if self._dry is None:
            done = client.helm(
                ctx,
                args,
                *["upgrade", *_what(args), "--dry-run=server", "--output", "json"],
                stdin=json.dumps(args.values).encode(),
            )
            if done.rc != 0:
                raise client.said(done, f"helm upgrade {args.release}")
            self._dry = _release(done.stdout, args)
        return self._dry


def _what(args: UpgradeArgs) -> list[str]:
    """The arguments that say what is rendered; the values come by standard input."""
    options = [f"--version={args.version}"] if args.version is not None else []
    options += [f"--repo={args.repository}"] if args.repository is not None else []
    options.append("--reset-then-reuse-values" if args.reuse_values else "--reset-values")
    return [args.release, _reference(args), "--install", "--values", "-", *options]


def _reference(args: UpgradeArgs) -> str:
    """The chart for Helm's command line: a path where there is one, else as it is written."""
    path = args.folder / args.chart
    if args.repository is None and path.exists():
        return str(path if path.is_absolute() else Path.cwd() / path)
    if args.chart.startswith((".", "/")) or (args.chart.endswith(".tgz") and "://" not in args.chart):
        raise PermanentError(f"there is no chart {args.chart} (in {args.folder})")
    return args.chart


def _chart(ctx: Context, args: UpgradeArgs) -> tuple[str, str]:
    """Name with version, and the version of what is in it, without rendering."""
    import yaml

    options = [f"--version={args.version}"] if args.version is not None else []
    options += [f"--repo={args.repository}"] if args.repository is not None else []
    done = client.helm(ctx, args, "show", "chart", _reference(args), *options)
    if done.rc != 0:
        raise client.said(done, f"helm show chart {args.chart}")
    return _named({"chart": {"metadata": yaml.safe_load(done.stdout)}})


def _named(release: Mapping[str, Any]) -> tuple[str, str]:
    metadata = (release.get("chart") or {}).get("metadata") or {}
    return f"{metadata.get('name')}-{metadata.get('version')}", str(metadata.get("appVersion") or "")


def _status(ctx: Context, args: UpgradeArgs, release: Release) -> dict[str, Any]:
    done = client.helm(ctx, args, "status", args.release, "--revision", str(release.revision), "--output", "json")
    if done.rc != 0:
        raise client.said(done, f"helm status {args.release}")
    return _release(done.stdout, args)


def _release(text: str, args: UpgradeArgs) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        raise PermanentError(f"what helm says about {args.release} is no JSON") from None
    return dict(found)


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
    working.claim(ctx, args, newest)
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
