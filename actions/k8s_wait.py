"""k8s.wait and k8s.http: checks that are polled with `until`."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from runbook.actions._kube import kinds, reasons, workload
from runbook.actions._kube.action import KubeArgs, Right, Rights
from runbook.actions._kube.cluster import Cluster, connect
from runbook.actions._kube.endpoints import SERVICE_NAME, endpoints
from runbook.actions._kube.forward import FORWARD_VERBS, open_pod, target_port
from runbook.actions._kube.kinds import Ref
from runbook.actions._kube.watch import Watched, watching
from runbook.contract import Check, Context, Duration, Outputs, PermanentError, TemporaryError, param

_FOR = re.compile(r"rollout|available|endpoints|deleted|replicas=\d+|condition=[A-Za-z][A-Za-z0-9./-]*(=[A-Za-z]+)?")
MARGIN = 1.5
"""Seconds before its attempt ends that a look which watches says what it saw."""
AT_LEAST_EVERY = 5.0
"""Seconds between two looks, whatever a watch says."""
_COUNTED = {
    "rollout": ("Deployment", "StatefulSet", "DaemonSet"),
    "available": ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController"),
    "replicas": ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController", "Job"),
}
"""Of which of Kubernetes' own kinds it can be so at all."""
BODY = 1 << 20
"""Bytes of an answer that are read."""
AT_ONCE = 16
"""Pods that are asked at the same time."""
TOLD = 3
"""Pods that a message names."""
ROUNDS = 3
"""So often it is looked which pods there are, where one gave no answer."""


@dataclass(frozen=True, kw_only=True)
class WaitArgs(KubeArgs):
    """Parameters of k8s.wait."""

    kind: str = param("Kind of the object, as kubectl spells it.")
    name: str = param("Name of the object.")
    for_: str = param(
        "`rollout` (the newest spec is rolled out), `available`, `endpoints` (of a Service: every ready pod of its"
        " selector gets traffic, and no other), `deleted`, `replicas=N` (exactly so many pods, those on their way out"
        " included), `condition=C` or `condition=C=False`.",
        wire="for",
        pattern=f"^({_FOR.pattern})$",
    )


class Wait(Rights, Check[WaitArgs]):
    """Is it so yet? Polled until it is; a roll-out that cannot end by itself ends the wait at once."""

    name = "k8s.wait"
    until = "result.ok"
    returns = {
        "ok": "whether it is so",
        "seconds": "since the first look",
        "message": "what is still missing, and why pods are not ready; empty when ok",
    }

    def check(self, args: WaitArgs) -> Iterator[str]:
        if not _FOR.fullmatch(args.for_):
            yield f"for: rollout, available, endpoints, deleted, replicas=N or condition=C, not {args.for_!r}"
        elif args.for_ == "endpoints" and kinds.known(args.kind) not in (kinds.SERVICE, None):
            yield "for: endpoints belong to a Service"

    def rights(self, args: WaitArgs, cluster: Cluster, ctx: Context) -> Iterable[Right]:
        yield "get", Ref(cluster.kind(ctx, args.kind), args.namespace, args.name)
        if args.for_ == "endpoints":
            yield "list", Ref(kinds.ENDPOINT_SLICE, args.namespace)
        if args.for_ == "endpoints" or args.for_.startswith("replicas="):
            yield "list", Ref(kinds.POD, args.namespace)

    def read(self, args: WaitArgs, ctx: Context) -> Outputs:
        seen = ctx.client(f"k8s.wait:{ctx.op}", _Seen)
        cluster = connect(ctx, args.context)
        ref = Ref(cluster.kind(ctx, args.kind), args.namespace, args.name)
        ok, says = _verdict(args.for_, cluster, ctx, ref)
        # A first look answers at once: a plan has no other, and whoever polls wants to know where he starts from.
        if not ok and seen.ok is False and ctx.remaining() > 2 * MARGIN:
            ok, says = _watch(args.for_, cluster, ctx, ref, says)
        seen.ok = ok
        message = "" if ok else f"{ref}: {says}{_why(args.for_, cluster, ctx, ref)}"
        if not ok:
            ctx.log(message)
        return {"ok": ok, "seconds": round(time.monotonic() - seen.began, 3), "message": message}


class _Seen:
    """What the looks of one step's poll have in common. `ok`: what the last one said."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.ok: bool | None = None


def _watch(wanted: str, cluster: Cluster, ctx: Context, ref: Ref, says: str) -> tuple[bool, str]:
    """Look again whenever something changed, until it is so or the attempt ends; each look is the same as the first."""
    ok = False
    end = time.monotonic() + ctx.remaining() - MARGIN
    with watching(cluster, ctx, _watched(wanted, cluster, ctx, ref)) as alarm:
        while not ok and not alarm.broken:
            began = time.monotonic()
            ok, says = _verdict(wanted, cluster, ctx, ref)
            took = time.monotonic() - began
            if ok or end - time.monotonic() < 2 * took:  # another look would come too late
                break
            alarm.wait(min(end - time.monotonic() - took, AT_LEAST_EVERY))
            # Many changes in a row (a roll-out of thousands of pods): looking must not become the load.
            ctx.sleep(max(0.0, min(end - time.monotonic() - took, max(0.02, 4 * took))))
    return ok, says


def _watched(wanted: str, cluster: Cluster, ctx: Context, ref: Ref) -> list[Watched]:
    """All whose change may change the verdict."""
    found = [Watched.one(ref)]
    if wanted == "endpoints":
        found.append(Watched(Ref(kinds.ENDPOINT_SLICE, ref.namespace), f"{SERVICE_NAME}={ref.name}"))
    if wanted.startswith("replicas="):
        found.append(Watched(Ref(kinds.POD, ref.namespace), workload.pod_selector(cluster.get(ctx, ref))))
    return found


def _verdict(wanted: str, cluster: Cluster, ctx: Context, ref: Ref) -> tuple[bool, str]:
    if wanted == "deleted":
        return cluster.find(ctx, ref) is None, "it is still there"
    found = cluster.get(ctx, ref)
    word, _, rest = wanted.partition("=")
    if word in _COUNTED and not kinds.custom(ref.kind) and ref.kind.kind not in _COUNTED[word]:
        raise PermanentError(f"for: {word} is of {', '.join(_COUNTED[word])}, not of {ref}")
    if word == "rollout":
        now = workload.rollout(found)
        if now.failure:
            why = _why(wanted, cluster, ctx, ref)
            raise PermanentError(f"the roll-out of {ref} does not go on: {now.failure}{why}")
        return now.done, now.says
    if word == "endpoints":
        if ref.kind != kinds.SERVICE:
            raise PermanentError(f"{ref}: endpoints belong to a Service")
        traffic = endpoints(cluster, ctx, found)
        return traffic.ok, str(traffic)
    if word == "replicas":
        return _replicas(int(rest), cluster, ctx, found)
    if word == "available":
        return _available(found)
    name, _, status = rest.partition("=")
    seen = (workload.condition(found, name) or {}).get("status", "not there")
    return str(seen).lower() == (status or "True").lower(), f"condition {name} is {seen}"


def _why(wanted: str, cluster: Cluster, ctx: Context, ref: Ref) -> str:
    """What the pods say that a roll-out waits for; nothing for whoever may not list them."""
    if wanted not in ("rollout", "available") or ref.kind.group != "apps":
        return ""
    with contextlib.suppress(PermanentError, TemporaryError):
        said = reasons.of_workload(cluster, ctx, cluster.get(ctx, ref))
        return f"; {said}" if said else ""
    return ""


def _available(found: Mapping[str, Any]) -> tuple[bool, str]:
    now = workload.counts(found)
    if not now.current:
        return False, "its controller has not seen the newest spec yet"
    says = f"{now.available} of {now.desired} available"
    if found.get("kind") == "Deployment":
        condition = workload.condition(found, "Available") or {}
        return condition.get("status") == "True", says
    return now.available >= now.desired, says


def _replicas(wanted: int, cluster: Cluster, ctx: Context, found: Mapping[str, Any]) -> tuple[bool, str]:
    """Pods on their way out still work: `replicas=0` must mean that nobody writes any more."""
    namespace = str(found["metadata"].get("namespace") or "")
    listed = cluster.each(ctx, Ref(kinds.POD, namespace), workload.pod_selector(found))
    running = sum((pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed") for pod in listed)
    now = workload.counts(found)
    return now.current and now.total == wanted == running, f"{running} pods, {wanted} wanted"


@dataclass(frozen=True, kw_only=True)
class HttpArgs(KubeArgs):
    """Parameters of k8s.http."""

    deployment: str | None = param("Deployment whose pods are asked.", default=None)
    service: str | None = param("Service whose pods are asked, in place of a deployment.", default=None)
    port: int = param("The containers' port; with a Service, the Service's.", minimum=1, maximum=65535)
    path: str = param("Path of the URL.", default="/", pattern="^/")
    each: Duration = param("Time for each pod.", default=Duration(5))


class Http(Rights, Check[HttpArgs]):
    """Ask every ready pod over HTTP, by port-forward through the API server. Any status is a result."""

    name = "k8s.http"
    returns = {
        "ok": "whether there are ready pods and each answered 2xx",
        "elapsed": "seconds, of the slowest pod",
        "pods": "[{name, status, elapsed, json, error}], by name; no answer = status 0",
        "json": "the first pod's answer parsed, or null",
        "message": "which pods are not well, and why; empty where all are",
    }

    def check(self, args: HttpArgs) -> Iterator[str]:
        if (args.deployment is None) == (args.service is None):
            yield "deployment, service: give one of them"

    def rights(self, args: HttpArgs, cluster: Cluster, ctx: Context) -> Iterable[Right]:
        yield "get", _owner(args)
        yield "list", Ref(kinds.POD, args.namespace)
        for verb in FORWARD_VERBS:
            yield verb, Ref(kinds.POD, args.namespace, subresource="portforward")

    def read(self, args: HttpArgs, ctx: Context) -> Outputs:
        cluster = connect(ctx, args.context)
        found = cluster.get(ctx, _owner(args))
        given: dict[str, dict[str, Any]] = {}
        for _ in range(ROUNDS):
            live = workload.pods(cluster, ctx, args.namespace, workload.pod_selector(found))
            names = {str(pod["metadata"]["name"]) for pod in live}
            # a pod that went away while it was asked is no ready pod that gave no answer
            given = {name: answer for name, answer in given.items() if name in names or answer["status"]}
            asked = [
                (name, args.port if args.service is None else target_port(found, pod, args.port))
                for pod in live
                if workload.is_ready(pod) and (name := str(pod["metadata"]["name"])) not in given
            ]
            given |= {answer["name"]: answer for answer in _ask_all(cluster, ctx, args, asked)}
            if all(answer["status"] for answer in given.values()):
                break
        answers = [given[name] for name in sorted(given)]
        if not answers:
            ctx.log(f"no pod of {_owner(args)} is ready")
        return {
            "ok": bool(answers) and all(200 <= answer["status"] < 300 for answer in answers),
            "elapsed": max((answer["elapsed"] for answer in answers), default=0.0),
            "pods": answers,
            "json": answers[0]["json"] if answers else None,
            "message": _unwell(answers) if answers else f"no pod of {_owner(args)} is ready",
        }


def _unwell(answers: list[dict[str, Any]]) -> str:
    bad = [
        f"{answer['name']}: {answer['error'] or answer['status']}"
        for answer in answers
        if not 200 <= answer["status"] < 300
    ]
    more = f"; and {len(bad) - TOLD} more" if len(bad) > TOLD else ""
    return "; ".join(bad[:TOLD]) + more


def _owner(args: HttpArgs) -> Ref:
    if args.service is not None:
        return Ref(kinds.SERVICE, args.namespace, args.service)
    return Ref(kinds.DEPLOYMENT, args.namespace, args.deployment or "")


def _ask_all(cluster: Cluster, ctx: Context, args: HttpArgs, asked: list[tuple[str, int]]) -> list[dict[str, Any]]:
    """All pods, AT_ONCE at a time; a pod that does not come back in its time is an answer too."""
    each = min(float(args.each), max(0.1, ctx.remaining() - 0.2))
    answers: dict[str, dict[str, Any]] = {}
    waiting = iter(asked)
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                following = next(waiting, None)
            if following is None:
                return
            name, port = following
            answers[name] = _ask(cluster, _Each(ctx, each), Ref(kinds.POD, args.namespace, name), port, args.path)

    threads = [threading.Thread(target=work, name="k8s.http", daemon=True) for _ in range(min(AT_ONCE, len(asked)))]
    for thread in threads:
        thread.start()
    until = time.monotonic() + min(ctx.remaining(), each * -(-len(asked) // AT_ONCE)) + 0.5
    for thread in threads:
        while thread.is_alive() and time.monotonic() < until:
            thread.join(0.05)
            ctx.checkpoint()
    late = _answer(0, each, error=f"no answer within {each:g}s")
    return [{"name": name, **answers.get(name, late)} for name, _ in asked]


class _Each:
    """One pod's time within the call's: it ends with the call, and earlier."""

    def __init__(self, ctx: Context, seconds: float) -> None:
        self.seconds = seconds
        self.on_stop = ctx.on_stop
        self.checkpoint = ctx.checkpoint

    def remaining(self) -> float:
        """Seconds for each pod."""
        return self.seconds


def _ask(cluster: Cluster, bounds: _Each, pod: Ref, port: int, path: str) -> dict[str, Any]:
    began, each = time.monotonic(), bounds.seconds
    try:
        with open_pod(bounds, cluster, pod, port) as (wire, tunnel):
            wire.settimeout(each)
            timer = threading.Timer(each, tunnel.close)  # an answer that drips
            timer.daemon = True
            timer.start()
            try:
                connection = http.client.HTTPConnection("localhost", port)
                connection.sock = wire
                connection.request("GET", path, headers={"User-Agent": "runbook", "Connection": "close"})
                response = connection.getresponse()
                body = response.read(BODY)
                if tunnel.failure and response.length is None and not response.chunked:
                    raise OSError(tunnel.failure)  # an answer without a length ended with the connection: not whole
            except (OSError, http.client.HTTPException) as error:
                spent = time.monotonic() - began
                said = tunnel.failure or (f"no answer within {each:g}s" if spent >= each else _words(error))
                return _answer(0, spent, error=said)
            finally:
                timer.cancel()
    except (TemporaryError, PermanentError) as error:
        return _answer(0, time.monotonic() - began, error=error.message)
    return _answer(response.status, time.monotonic() - began, parsed=_json(body))


def _answer(status: int, elapsed: float, *, parsed: Any = None, error: str | None = None) -> dict[str, Any]:
    return {"status": status, "elapsed": round(elapsed, 3), "json": parsed, "error": error}


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


def _json(body: bytes) -> Any:
    try:
        return json.loads(body, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None


def _refuse(constant: str) -> Any:
    raise ValueError(constant)  # NaN and Infinity are Python's, not JSON's
