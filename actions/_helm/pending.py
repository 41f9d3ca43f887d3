"""A release that is pending: was its helm killed, so that it may be repaired, or is somebody at it?

Helm does not say. Its records carry no sign of life: while it waits for pods or for a hook it writes nothing, for as
long as its time-out says, which is in no record either. So a helm of ours is known by what `work` wrote down, and of
any other nobody can tell: it is repaired only where the playbook says after how long (`repair_after`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from runbook.actions._helm import clock, records
from runbook.actions._helm import history as histories
from runbook.actions._helm import work as working
from runbook.actions._helm.client import HelmArgs
from runbook.actions._helm.history import Release
from runbook.actions._kube.cluster import connect
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
        if alive or (alive is None and held["left"] > 0 and not mine):
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
    """Seconds since anybody wrote its record, by the API server's clock. None where that is not known.

    Where the records are kept elsewhere, Helm's own word for when it began; of an uninstall that says nothing, as it
    leaves the time of the deployment.
    """
    ref = records.place(ctx, args, newest.revision)
    if ref is not None:
        cluster = connect(ctx, args.context)
        stamp = clock.stamp(cluster.find(ctx, ref) or {})
        if stamp is not None:
            return max(0.0, clock.now(ctx, cluster) - stamp)
    begun = histories.written(newest) if newest.status != "uninstalling" else None
    return max(0.0, time.time() - begun) if begun is not None else None
