"""Why a roll-out does not come to its end: what its pods and its controller say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from runbook.actions._kube import workload
from runbook.actions._kube.cluster import Cluster, ForbiddenError
from runbook.actions._kube.kinds import Ref
from runbook.actions._kube.transport import Bounds
from runbook.contract import Context, TemporaryError, shorten

Object = Mapping[str, Any]

NAMED = 3
"""Pods that are named for one reason; of the others only how many."""
LAST_LOOK = 1.5
"""Seconds before a deadline; a wait looks once each second."""
LENGTH = 300
"""Characters of what the cluster says about one reason."""


def of_workload(cluster: Cluster, bounds: Bounds, found: Object) -> str:
    """A sentence about a workload's pods that are not ready and about pods that cannot be made; empty where none."""
    namespace = str((found.get("metadata") or {}).get("namespace") or "")
    live = workload.pods(cluster, bounds, namespace, workload.pod_selector(found))
    return said(found, live)


def effective(cluster: Cluster, ctx: Context, ref: Ref) -> bool:
    """Has the controller done what the spec says? Just before the deadline, TemporaryError with what its pods say.

    True where this user cannot see it (`looked`). Who may read the workload and not its pods waits until it says itself
    that it is done.
    """
    return looked(ctx, f"whether {ref} has rolled out", lambda: _rolled_out(cluster, ctx, ref))


def looked(ctx: Context, what: str, look: Callable[[], bool]) -> bool:
    """One look whether a change that was made has taken effect.

    The rights that a change needs are not those to see what comes of it: True where a look is forbidden, and the log
    says what is not known; whoever was told that the change had failed would be told wrong. No answer is no verdict,
    either: False, for as long as there is time to look again.
    """
    try:
        return look()
    except ForbiddenError as error:
        ctx.log(f"warning: the change is made; {what} cannot be seen: {error.message}")
        return True
    except TemporaryError:
        if ctx.remaining() > LAST_LOOK:
            return False
        raise


def _rolled_out(cluster: Cluster, ctx: Context, ref: Ref) -> bool:
    late = ctx.remaining() <= LAST_LOOK
    try:
        if workload.settled(cluster, ctx, ref):
            return True
    except workload.UnseenPodsError:
        if late:
            raise
        return False
    if not late:
        return False
    found = cluster.get(ctx, ref)
    now, why = workload.counts(found), _why(cluster, ctx, found)
    says = workload.rollout(found).says if found.get("kind") != "ReplicaSet" else f"{now.total} of {now.desired} pods"
    if why and found.get("kind") == "StatefulSet" and workload.in_order(found):
        why += " (a StatefulSet replaces no pod while one is not ready: delete that one)"
    raise TemporaryError(f"{ref} has not rolled out in time: {says}{why and '; ' + why}")


def _why(cluster: Cluster, ctx: Context, found: Object) -> str:
    """What the pods say, where they may be read; what its controller says in any case."""
    try:
        return of_workload(cluster, ctx, found)
    except ForbiddenError as error:
        return "; ".join(filter(None, (said(found, []), f"its pods cannot be seen: {error.message}")))


def said(found: Object, pods: list[dict[str, Any]]) -> str:
    """The same, of pods that were read already."""
    parts = []
    failure = workload.condition(found, "ReplicaFailure")
    if failure and failure.get("status") == "True":
        parts.append(f"pods cannot be made: {shorten(str(failure.get('message') or failure.get('reason')), LENGTH)}")
    groups: dict[str, list[str]] = {}
    for pod in pods:
        if not workload.is_ready(pod):
            groups.setdefault(of_pod(pod), []).append(str(pod["metadata"]["name"]))
    parts += [f"{_names(names)}: {reason}" for reason, names in groups.items()]
    return "; ".join(parts)


def of_pod(pod: Object) -> str:
    """Why a pod is not ready."""
    reasons = list(_reasons(pod))
    return shorten(", ".join(dict.fromkeys(reasons)), LENGTH) if reasons else "not ready yet"


def _reasons(pod: Object) -> Iterator[str]:
    status = pod.get("status") or {}
    scheduled = workload.condition(pod, "PodScheduled")
    if scheduled and scheduled.get("status") == "False":
        yield _with(str(scheduled.get("reason") or "not scheduled"), scheduled.get("message"))
    for group in ("initContainerStatuses", "containerStatuses"):
        for entry in status.get(group) or ():
            yield from _container(entry)
    if status.get("reason"):  # Evicted, NodeLost
        yield _with(str(status["reason"]), status.get("message"))
    unready = workload.condition(pod, "Ready")
    if unready and unready.get("status") == "False" and unready.get("message"):
        yield str(unready["message"])


def _container(entry: Object) -> Iterator[str]:
    state = entry.get("state") or {}
    waiting, ended = state.get("waiting") or {}, state.get("terminated") or {}
    before = (entry.get("lastState") or {}).get("terminated") or {}
    name, restarts = entry.get("name"), int(entry.get("restartCount") or 0)
    if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
        died = f", {_ending(before)}" if before else ""
        again = f", {restarts} restarts" if restarts else ""
        yield _with(f"{waiting['reason']} in container {name}{died}{again}", waiting.get("message"))
    elif int(ended.get("exitCode") or 0):
        yield f"container {name} ended: {_ending(ended)}"


def _ending(terminated: Object) -> str:
    return f"{terminated.get('reason') or 'Error'} (exit status {terminated.get('exitCode')})"


def _with(reason: str, message: Any) -> str:
    return f"{reason}: {message}" if message else reason


def _names(names: list[str]) -> str:
    more = len(names) - NAMED
    listed = ", ".join(names[:NAMED])
    return f"pod{'s' if len(names) > 1 else ''} {listed}{f' and {more} more' if more > 0 else ''}"
