"""k8s.get, k8s.status, k8s.history, k8s.logs: what there is."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runbook.actions._kube import kinds, revisions, workload
from runbook.actions._kube.action import KubeArgs, Right, Rights
from runbook.actions._kube.cluster import Cluster, ForbiddenError, connect, presentable
from runbook.actions._kube.kinds import Ref
from runbook.contract import Context, Duration, Local, Outputs, PermanentError, Read, param

PIECE = 4 << 20  # bytes of a log that are masked at once
ROLLING = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet")
CUT = "…\n".encode()


@dataclass(frozen=True, kw_only=True)
class GetArgs(KubeArgs):
    """Parameters of k8s.get."""

    kind: str = param("Kind of the objects: any that the API serves, as kubectl spells it (`service`, `Deployment`).")
    name: str | None = param("Name of one object.", default=None)
    selector: str | None = param("Label selector of many (`app=web,tier!=cache`); with neither: all.", default=None)
    optional: bool = param("An object that is not there is no error, only `found: false`.", default=False)


class Get(Rights, Read[GetArgs]):
    """Read objects. What a Secret holds is Sensitive; managedFields are left out."""

    name = "k8s.get"
    returns = {
        "found": "whether there is any",
        "object": "the object (with a selector: where exactly one matches), else null",
        "objects": "all of them, by name",
    }

    def check(self, args: GetArgs) -> Iterator[str]:
        if args.name is not None and args.selector is not None:
            yield "name, selector: give one of them"

    def rights(self, args: GetArgs, cluster: Cluster, ctx: Context) -> Iterable[Right]:
        kind = cluster.kind(ctx, args.kind)
        return [("list" if args.name is None else "get", Ref(kind, args.namespace, args.name or ""))]

    def read(self, args: GetArgs, ctx: Context) -> Outputs:
        cluster = connect(ctx, args.context)
        kind = cluster.kind(ctx, args.kind)
        if args.name is None:
            objects = cluster.select(ctx, Ref(kind, args.namespace), args.selector or "")
            objects.sort(key=lambda found: str(found["metadata"]["name"]))
        elif args.optional:
            one = cluster.find(ctx, Ref(kind, args.namespace, args.name))
            objects = [] if one is None else [one]
        else:
            objects = [cluster.get(ctx, Ref(kind, args.namespace, args.name))]
        shown = [presentable(kind, found) for found in objects]
        return {"found": bool(shown), "object": shown[0] if len(shown) == 1 else None, "objects": shown}


@dataclass(frozen=True, kw_only=True)
class StatusArgs(KubeArgs):
    """Parameters of k8s.status."""

    kind: str = param("Deployment, StatefulSet, DaemonSet or ReplicaSet.", default="Deployment")
    names: list[str] | None = param("Names of the workloads; one that is not there counts as degraded.", default=None)
    selector: str | None = param("Label selector, in place of names.", default=None)


class Status(Rights, Read[StatusArgs]):
    """Replicas, images and revision of workloads, and which of them do not serve as they should."""

    name = "k8s.status"
    returns = {
        "workloads": "[{name, labels, found, desired, ready, updated, available, images, revision}], as asked",
        "total": "how many were asked for or found",
        "ready_count": "workloads with ready = desired > 0",
        "degraded": "names of all others, those that are not there included",
        "all_ready": "whether there are workloads and none is degraded",
    }

    def check(self, args: StatusArgs) -> Iterator[str]:
        if (args.names is None) == (args.selector is None):
            yield "names, selector: give one of them"

    def rights(self, args: StatusArgs, cluster: Cluster, ctx: Context) -> Iterable[Right]:
        return [("list", Ref(cluster.kind(ctx, args.kind), args.namespace))]

    def read(self, args: StatusArgs, ctx: Context) -> Outputs:
        if args.selector is not None and not args.selector.strip():
            raise PermanentError("selector: empty, it would mean every workload")
        cluster = connect(ctx, args.context)
        kind = cluster.kind(ctx, args.kind)
        if not kinds.custom(kind) and kind.kind not in ROLLING:  # a custom one may well count its replicas as these do
            raise PermanentError(f"kind: a {kind.kind} has no replicas to count; {', '.join(ROLLING)} have")
        numbers = _numbers(cluster, ctx, Ref(kind, args.namespace))
        wanted = None if args.names is None else dict.fromkeys(args.names)
        found = {}
        for entry in cluster.each(ctx, Ref(kind, args.namespace), args.selector or ""):
            name = str(entry["metadata"]["name"])  # of thousands of objects only what is told is kept
            if wanted is None or name in wanted:
                found[name] = _workload(name, entry, numbers)
        names = sorted(found) if wanted is None else list(wanted)
        workloads = [found.get(name) or _workload(name, None, numbers) for name in names]
        good = {entry["name"] for entry in workloads if entry["ready"] == entry["desired"] > 0}
        degraded = [name for name in names if name not in good]
        return {
            "workloads": workloads,
            "total": len(names),
            "ready_count": len(good),
            "degraded": degraded,
            "all_ready": bool(names) and not degraded,
        }


def _numbers(cluster: Cluster, ctx: Context, ref: Ref) -> Mapping[str, int]:
    """Revisions by the workload's uid, of the kinds that do not carry them; none for whom may not list them."""
    if ref.kind.group == "apps" and ref.kind.kind in ("StatefulSet", "DaemonSet"):
        with contextlib.suppress(ForbiddenError):
            return revisions.newest(cluster, ctx, ref.kind, ref.namespace)
    return {}


def _workload(name: str, found: Mapping[str, Any] | None, numbers: Mapping[str, int]) -> dict[str, Any]:
    now = workload.counts(found or {"spec": {"replicas": 0}})
    metadata = (found or {}).get("metadata") or {}
    return {
        "name": name,
        "labels": metadata.get("labels") or {},
        "found": found is not None,
        "desired": now.desired,
        "ready": now.ready,
        "updated": now.updated,
        "available": now.available,
        "images": workload.images((found or {}).get("spec", {}).get("template") or {}),
        "revision": revisions.number((metadata.get("annotations") or {}).get(revisions.REVISION))
        or numbers.get(str(metadata.get("uid"))),
    }


@dataclass(frozen=True, kw_only=True)
class HistoryArgs(KubeArgs):
    """Parameters of k8s.history."""

    kind: str = param("Deployment, StatefulSet or DaemonSet.", default="Deployment")
    name: str = param("Name of the workload.")


class History(Rights, Read[HistoryArgs]):
    """The revisions of a workload, which one serves, and which one a roll-back would go to."""

    name = "k8s.history"
    returns = {
        "revisions": "[{revision, images, created, cause}], oldest first",
        "current": "the one whose template the workload has, or null",
        "target": "the newest before it, or null; a revision that was itself a way back counts as the one it led to",
    }

    def rights(self, args: HistoryArgs, cluster: Cluster, ctx: Context) -> Iterable[Right]:
        kind = cluster.kind(ctx, args.kind)
        return [("get", Ref(kind, args.namespace, args.name)), ("list", Ref(revisions.kept_as(kind), args.namespace))]

    def read(self, args: HistoryArgs, ctx: Context) -> Outputs:
        cluster = connect(ctx, args.context)
        ref = Ref(cluster.kind(ctx, args.kind), args.namespace, args.name)
        revisions.kept_as(ref.kind)  # says which kinds have any
        owner = cluster.get(ctx, ref)
        listed = revisions.of(cluster, ctx, ref, owner)
        current = revisions.serving(listed, owner)
        target = revisions.previous(listed, current)
        doubt = revisions.doubt(revisions.doubtful(listed, current), current)
        if doubt:
            ctx.log(f"warning: no target: {doubt}")
        return {
            "revisions": [revision.shown() for revision in listed],
            "current": current.shown() if current else None,
            "target": target.shown() if target else None,
        }


@dataclass(frozen=True, kw_only=True)
class LogsArgs(KubeArgs):
    """Parameters of k8s.logs."""

    selector: str = param("Label selector of the pods.")
    since: Duration = param("How far back.", default=Duration(3600))
    previous: bool = param("Also the containers' lives before their last restart, where there were any.", default=False)
    max_bytes: int = param("At most so many bytes in all; each container gets its share.", default=50 << 20, minimum=1)


class Logs(Rights, Local[LogsArgs]):
    """Save the logs of pods, all containers, into one file of the run's folder."""

    name = "k8s.logs"
    returns = {"path": "the file", "bytes": "its size", "sha256": "its digest"}

    def check(self, args: LogsArgs) -> Iterator[str]:
        if not args.selector.strip():
            yield "selector: empty, it would mean every pod"

    def rights(self, args: LogsArgs, cluster: Cluster, ctx: Context) -> Iterable[Right]:
        return [
            ("list", Ref(kinds.POD, args.namespace)),
            ("get", Ref(kinds.POD, args.namespace, subresource="log")),
        ]

    def read(self, args: LogsArgs, ctx: Context) -> Outputs:
        for problem in self.check(args):
            raise PermanentError(problem)
        cluster = connect(ctx, args.context)
        found = cluster.select(ctx, Ref(kinds.POD, args.namespace), args.selector)
        found.sort(key=lambda pod: str(pod["metadata"]["name"]))
        wanted = [
            (str(pod["metadata"]["name"]), container, previous)
            for pod in found
            for container in _containers(pod)
            for previous in ([True, False] if args.previous else [False])
        ]
        path = _log_file(ctx, args.selector)
        read, digest = 0, hashlib.sha256()
        with path.open("wb") as out:
            path.chmod(0o600)
            for number, (pod, container, previous) in enumerate(wanted):
                ctx.progress(number, len(wanted))
                share = (args.max_bytes - read) // (len(wanted) - number)
                content = _log(cluster, ctx, args, (pod, container, previous), share)[: max(0, share)]
                read += len(content)
                for piece in _masked(ctx, content, cut=len(content) >= share):
                    out.write(piece)
                    digest.update(piece)
        return {"path": str(path), "bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def _containers(pod: Mapping[str, Any]) -> list[str]:
    spec = pod.get("spec") or {}
    return [str(entry["name"]) for group in ("initContainers", "containers") for entry in spec.get(group) or ()]


def _log(cluster: Cluster, ctx: Context, args: LogsArgs, which: tuple[str, str, bool], share: int) -> bytes:
    pod, container, previous = which
    title = f"==> {pod}/{container}{' (before its last restart)' if previous else ''} <==\n".encode()
    room = share - len(title) - 1
    if room <= 0:
        return title
    query = {
        "container": container,
        "sinceSeconds": str(max(1, round(args.since))),
        "timestamps": "true",
        "limitBytes": str(room),
        "previous": "true" if previous else "",
    }
    try:
        text = cluster.text(ctx, Ref(kinds.POD, args.namespace, pod, "log"), query, room)
    except PermanentError as error:
        if not previous:  # a container that waits has no log yet; one pod's must not cost the others'
            ctx.log(error.message)
        return b"" if previous else title + error.message.encode() + b"\n"
    return title + text.rstrip(b"\n") + b"\n"


def _masked(ctx: Context, content: bytes, *, cut: bool) -> Iterator[bytes]:
    """What a pod logged, without secrets, in pieces of whole lines. `cut`: the last line may have lost its end."""
    while content:
        end = content.find(b"\n", PIECE) + 1 or len(content)
        piece, content = content[:end], content[end:]
        if cut and not content:
            piece = piece[: -len(CUT)].rstrip(b"\n") + CUT
        yield ctx.mask(piece.decode("utf-8", "replace")).encode()


def _log_file(ctx: Context, selector: str) -> Path:
    """A name that says what it is, and does not collide with another step's."""
    slug = re.sub(r"[^A-Za-z0-9]+", "-", selector).strip("-")[:60]
    digest = hashlib.sha256(ctx.op.encode()).hexdigest()[:8]
    folder = ctx.folder
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder / f"logs-{slug}-{digest}.txt"
