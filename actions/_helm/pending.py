"""A release that is pending: was its helm killed, so that it may be repaired, or is somebody at it?

Helm does not say. Its records carry no sign of life: while it waits for pods or for a hook it writes nothing, for as
long as its time-out says, which is in no record either. So a helm of ours is known by what `work` wrote down, and of
any other nobody can tell: it is repaired only where the playbook says after how long (`repair_after`).
"""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runbook.actions._helm import client
from runbook.actions._helm import history as histories
from runbook.actions._helm import work as working
from runbook.actions._helm.client import HelmArgs
from runbook.actions._helm.history import Release
from runbook.actions._kube.cluster import connect
from runbook.actions._kube.kinds import Ref
from runbook.contract import Absent, Context, Duration, PermanentError, TemporaryError, param

PATIENCE = 300.0
"""Seconds for which a helm of somebody else is waited for (Helm's own default time-out); then a person is needed."""


@dataclass(frozen=True, kw_only=True)
class RepairArgs(HelmArgs):
    """Parameters of what changes a release."""

    repair_after: Duration | None = param(
        "How long a release must have been pending (`pending-upgrade` ...) so that its helm counts as killed and it is"
        " repaired. By default only what is known to be so is repaired: a helm of this run, one of another run that is"
        " seen to be dead or over its time-out. Of any other helm nobody can tell.",
        default=None,
        family=True,
        minimum=0,
    )


def claim(ctx: Context, args: RepairArgs, newest: Release, instead_of: str | None = None) -> None:
    """Go on over a release that is in between; TemporaryError while somebody may still be at it.

    `instead_of`: the change that is taken back; what it left is the caller's. PermanentError where a person has to say.
    """
    told = f"revision {newest.revision} is {newest.status}"
    if working.noted(ctx, args, newest):
        ctx.log(f"{told}, its helm was killed: repaired")
        return
    content = working.content_of(ctx, args, newest)
    mine = instead_of is not None and content == instead_of
    held = working.held(ctx, args)
    if held is not None and not working.made(held, newest, content):
        held = None  # it is about something else
    if held is not None:
        alive = working.alive(held)
        left = float(held.get("until", 0.0)) + working.SKEW - time.time()
        if alive or (alive is None and left > 0 and not mine):
            raise TemporaryError(f"another operation in progress: {told}, {working.who(held)}", retry_after=10.0)
    if mine or held is not None:
        ctx.log(f"{told}, its helm was killed: repaired")
        return
    _judge(ctx, args, newest, told)


def _judge(ctx: Context, args: RepairArgs, newest: Release, told: str) -> None:
    """Of a helm that is none of ours."""
    quiet = _quiet(ctx, args, newest)
    wanted = args.repair_after
    if wanted is not None and quiet is not None and quiet >= wanted:
        ctx.log(f"{told} for {_text(quiet)}, longer than `repair_after`: its helm counts as killed, repaired")
        return
    until = PATIENCE if wanted is None else float(wanted)
    if quiet is not None and quiet < until:
        raise TemporaryError(
            f"another operation in progress: {told} for {quiet:.0f}s",
            retry_after=max(1.0, min(10.0, until - quiet)),
        )
    since = f" for {_text(quiet)}" if quiet is not None else ""
    raise PermanentError(
        f"release {args.release} is {newest.status}{since} (revision {newest.revision}), by a helm that is none of"
        " runbook's: whether it was killed or is still at it cannot be seen",
        hint=f"look for it (a pipeline, a colleague's shell); if nobody is at it, `repair_after: {_ROUND}` repairs it,"
        f" and so does `helm rollback {args.release}` by hand",
    )


_ROUND = "10m"


def _text(seconds: float) -> str:
    minutes = int(seconds) // 60
    if minutes >= 120:
        return f"{minutes // 60}h"
    return f"{minutes}m" if minutes >= 2 else f"{seconds:.0f}s"


def stands_in_the_way(ctx: Context, args: RepairArgs, newest: Release, instead_of: str | None = None) -> list[str]:
    """Preflight: what a person has to say first. Of a helm that may yet end, nothing."""
    try:
        claim(ctx, args, newest, instead_of)
    except TemporaryError:
        return []
    except PermanentError as error:
        return [Absent(f"{error.message}; {error.hint}")]  # an earlier step may repair it
    return []


def _quiet(ctx: Context, args: HelmArgs, newest: Release) -> float | None:
    """Seconds since anybody wrote its record. None where that is not known.

    An uninstall leaves the time of the deployment as `updated`: there the record itself has to say it.
    """
    record = _record(ctx, args, newest)
    times = _written(record or {})
    begun = histories.written(newest) if newest.status != "uninstalling" else None
    if begun is not None:
        times.append(begun)
    return max(0.0, time.time() - max(times)) if times else None


def _record(ctx: Context, args: HelmArgs, newest: Release) -> Mapping[str, Any] | None:
    """The object in which Helm keeps the revision."""
    kind = client.storage(ctx)
    if ctx.simulated or kind is None:
        return None
    ref = Ref(kind, args.namespace, f"sh.helm.release.v1.{args.release}.v{newest.revision}")
    return connect(ctx, args.context).find(ctx, ref)


def _written(record: Mapping[str, Any]) -> list[float]:
    """When it was: by Helm's labels (seconds), and by the API server's clock."""
    metadata = record.get("metadata") or {}
    labels = metadata.get("labels") or {}
    stamps = [labels.get(name, "") for name in ("createdAt", "modifiedAt")]
    entries = [entry.get("time") for entry in metadata.get("managedFields") or ()]
    texts = [text for text in (metadata.get("creationTimestamp"), *entries) if text]
    return [float(stamp) for stamp in stamps if re.fullmatch(r"\d+", stamp)] + [
        datetime.datetime.fromisoformat(text).timestamp() for text in texts
    ]
