"""A helm of ours at its work: written down before it begins, so that what it leaves when it is killed can be repaired.

Helm marks a release as pending while it is at it, and refuses to touch a pending one; who is at it, and whether they
still live, it does not say. So each helm of ours that changes something is preceded by a note in the run and by a
small object beside Helm's own records (`runbook.helm.RELEASE`), which goes when helm has come to its end. What is
pending is judged by that (`pending`).
"""

from __future__ import annotations

import base64
import json
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runbook.actions import _process
from runbook.actions._helm import client, clock, records
from runbook.actions._helm import history as histories
from runbook.actions._helm import manifest as manifests
from runbook.actions._helm.client import HelmArgs
from runbook.actions._helm.history import Release
from runbook.actions._kube.cluster import connect
from runbook.actions._kube.kinds import Ref
from runbook.contract import Context, Observation, PermanentError, Sensitive, TemporaryError

MARGIN = 2.0
"""Helm's time-out ends so many seconds before ours, so that it can still write down that it failed."""
LONGEST = 3600.0
"""Seconds after which nobody waits for a helm any more whose step has no time-out."""
SKEW = 30.0
"""Seconds that two stamps of the machine that was at it may differ, `until` and Helm's own."""
NOTE = "work"


def timeout(ctx: Context) -> list[str]:
    """The flags that make helm wait, and give up a little before the deadline."""
    return ["--wait", "--timeout", f"{max(1, int(ctx.remaining() - MARGIN))}s"]


def run(
    ctx: Context, args: HelmArgs, makes: int, content: str, arguments: list[str], stdin: bytes | None = None
) -> _process.Finished:
    """Run a helm that changes something. `makes`: the revision that it makes (or marks); `content`: see `content_of`.

    Any exit status is a result; TemporaryError when helm was ended by a signal, or at the deadline.
    """
    seconds = min(ctx.remaining(), LONGEST)
    work = {"makes": makes, "content": content, "until": time.time() + seconds, "seconds": seconds}
    ctx.note(NOTE, work)
    _hold(ctx, args, work)
    done = client.helm(ctx, args, *arguments, stdin=stdin)
    settled(ctx, args)
    return done


def settled(ctx: Context, args: HelmArgs) -> None:
    """Helm came to its end, now or in an earlier attempt: this operation is not at it any more."""
    ref = None if ctx.simulated else _place(ctx, args)
    if ref is None:
        return
    try:
        cluster = connect(ctx, args.context)
        found = cluster.find(ctx, ref)
        work = _read(ref, found)
        if found is not None and work is not None and work.get("op") == ctx.op:
            cluster.delete(ctx, ref, str(found["metadata"]["uid"]))
    except (PermanentError, TemporaryError) as error:  # what was done is done; the next work replaces it
        ctx.log(f"{ref} stays: {error.message}")


def observed(ctx: Context, args: HelmArgs, listed: list[Release], instead_of: str | None) -> Observation:
    """The release's state. `instead_of`: the change that is taken back.

    What that change left half-made is an object of its own (`helm:prod/shop/web@4`): it is not what the change was to
    become, and still nobody else's.
    """
    name = client.object_name(ctx, args)
    half = instead_of is not None and bool(listed) and _is_half(ctx, args, listed, instead_of)
    return {f"{name}@{listed[-1].revision}" if half else name: histories.state(listed)}


def _is_half(ctx: Context, args: HelmArgs, listed: list[Release], change: str) -> bool:
    newest = listed[-1]
    if newest.status != "failed" and not newest.between:
        return False
    if content_of(ctx, args, newest) == change:
        return True
    aim = re.fullmatch(r"rollback to (\d+)", change)
    wanted = histories.numbered(listed[:-1], int(aim.group(1))) if aim and newest.spoiled_rollback else None
    if wanted is None:
        return False
    # A roll-back that failed says no more where it went.
    return manifests.manifest(ctx, args, newest.revision) == manifests.manifest(ctx, args, wanted.revision)


def noted(ctx: Context, args: HelmArgs, newest: Release) -> bool:
    """Is this revision the work of an earlier attempt of this very operation?"""
    work = ctx.notes.get(NOTE)
    return isinstance(work, Mapping) and made(work, newest, content_of(ctx, args, newest))


def made(work: Mapping[str, Any], newest: Release, content: str) -> bool:
    """Is it the revision that was to be made, with the content that it was to have? A failed one says it no more.

    One that was begun after that work's time was over is somebody else's, who did the same.
    """
    begun = histories.written(newest) if newest.status != "uninstalling" else None
    if begun is not None and "until" in work and begun > float(work["until"]) + SKEW:
        return False
    return work.get("makes") == newest.revision and (newest.status == "failed" or work.get("content") == content)


def content_of(ctx: Context, args: HelmArgs, release: Release) -> str:
    """What a revision is recognized by: `rollback to 2`, `uninstall`, or the fingerprint of an upgrade's values."""
    if release.status in ("uninstalling", "uninstalled"):
        return UNINSTALL
    if release.status == "pending-rollback" or histories.ROLLBACK_TO.match(release.description):
        return rollback_to(release.origin)
    kept = records.record(ctx, args, release.revision)
    if kept is not None:
        return upgrade_to(release.chart, kept.get("config"))
    done = client.helm(
        ctx, args, "get", "values", args.release, "--revision", str(release.revision), "--output", "json"
    )
    if done.rc != 0:
        raise client.said(done, f"helm get values {args.release}")
    return upgrade_to(release.chart, json.loads(done.stdout or "{}"))


UNINSTALL = "uninstall"
INSTEAD = "Set by an undo: the change whose half-made revision this one replaces."


def rollback_to(origin: int) -> str:
    """The content of a roll-back."""
    return f"rollback to {origin}"


def upgrade_to(chart: str, values: Mapping[str, Any] | None) -> str:
    """The content of an upgrade: chart with version, and values. What is rendered may differ each time.

    Sensitive: values may be guessed from it.
    """
    return Sensitive(f"upgrade {chart} {manifests.fingerprint(values or {})}")


# -- the object beside Helm's records


def _hold(ctx: Context, args: HelmArgs, work: Mapping[str, Any]) -> None:
    """Write down who is at it; where that cannot be, only this run knows about its work.

    TemporaryError where another operation can be seen to be at it.
    """
    ref = None if ctx.simulated else _place(ctx, args)
    if ref is None:
        return
    metadata = {"name": ref.name, "namespace": ref.namespace, "labels": {"app.kubernetes.io/managed-by": "runbook"}}
    text = json.dumps({**work, **me(), "op": ctx.op})
    secret = ref.kind.kind == "Secret"
    data = {"work": base64.b64encode(text.encode()).decode() if secret else text}
    body = {"apiVersion": "v1", "kind": ref.kind.kind, "metadata": metadata, "data": data}
    try:
        found = held(ctx, args)
        other = found is not None and found.get("op") != ctx.op and alive(found)
        if not other:
            connect(ctx, args.context).apply(ctx, ref, body, force=True)
    except (PermanentError, TemporaryError) as error:
        ctx.log(f"not written down that this run is at {args.release}: {error.message}")
        return
    if found is not None and other:
        raise TemporaryError(f"another operation in progress: {who(found)}", retry_after=10.0)


def who(held: Mapping[str, Any]) -> str:
    return f"by run {str(held.get('op')).partition(':')[0]} on {held.get('host')}"


def held(ctx: Context, args: HelmArgs) -> dict[str, Any] | None:
    """What is written down about the release, if it can be read. `left`: seconds until its helm has given up."""
    ref = None if ctx.simulated else _place(ctx, args)
    if ref is None:
        return None
    cluster = connect(ctx, args.context)
    found = cluster.find(ctx, ref)
    work = _read(ref, found)
    if found is None or work is None:
        return None
    since = clock.stamp(found) or 0.0
    return {**work, "left": since + float(work.get("seconds", 0.0)) + clock.ROUNDING - clock.now(ctx, cluster)}


def _read(ref: Ref, found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    text = ((found or {}).get("data") or {}).get("work")
    try:
        work = json.loads(base64.b64decode(text) if ref.kind.kind == "Secret" else text) if text else None
    except ValueError:
        return None
    return work if isinstance(work, dict) else None


def _place(ctx: Context, args: HelmArgs) -> Ref | None:
    kind = client.storage(ctx)
    return None if kind is None else Ref(kind, args.namespace, f"runbook.helm.{args.release}")


def me() -> dict[str, str]:
    """Where processes can be looked for: machine, boot, process namespace (a container's own), user."""
    try:
        space = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        space = ""
    uname = os.uname()
    return {"host": uname.nodename, "boot": _process.boot() or "", "space": space, "user": str(os.getuid())}


def alive(held: Mapping[str, Any]) -> bool | None:
    """Is a process of that operation alive? None where it cannot be seen from here."""
    here = me()
    if not here["boot"] or not here["space"] or any(held.get(name) != value for name, value in here.items()):
        return None
    return bool(_process.marked(str(held.get("op"))))
