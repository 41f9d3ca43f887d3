"""To be woken by a change, in place of looking again and again.

A watch tells here only *that* something changed: what it means is judged by the same look as without a watch, so that
the verdicts are the same, and a connection that breaks costs nothing but time. Nothing of what is watched is held.
Rules: https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import urlencode

from runbook.actions._kube.bounds import Bounds
from runbook.actions._kube.cluster import Cluster, ExpiredError, explain
from runbook.actions._kube.kinds import Ref
from runbook.contract import PermanentError, TemporaryError

METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
_AGAIN = 0.5
"""Seconds before a watch that broke is opened again."""


@dataclass(frozen=True, slots=True)
class Watched:
    """A collection (`ref` without a name), or what selectors leave of it."""

    ref: Ref
    selector: str = ""
    fields: str = ""

    @staticmethod
    def one(ref: Ref) -> Watched:
        """One object."""
        return Watched(Ref(ref.kind, ref.namespace), fields=f"metadata.name={ref.name}")


class Alarm:
    """Rings when anything watched has changed. `broken`: it cannot be watched (no right to), so it never rings."""

    def __init__(self) -> None:
        self.broken = False
        self._rung = threading.Event()

    def ring(self) -> None:
        """Something changed, or may have."""
        self._rung.set()

    def wait(self, seconds: float) -> bool:
        """Until it rings, at most so long; whether it did."""
        rung = self._rung.wait(seconds)
        self._rung.clear()
        return rung


@contextlib.contextmanager
def watching(cluster: Cluster, bounds: Bounds, what: Iterable[Watched]) -> Iterator[Alarm]:
    """Watch while the block runs: whatever changes after its beginning rings. What cannot be watched raises nothing.

    A stop of `bounds` rings, too: whoever waits then sees it at its next checkpoint.
    """
    alarm = Alarm()
    span = _Span(bounds)
    forget = bounds.on_stop(alarm.ring)
    threads = []
    try:
        for watched in what:
            try:
                version = cluster.version(span, watched.ref, watched.selector, watched.fields)
            except (PermanentError, TemporaryError):
                alarm.broken = True
                break
            thread = threading.Thread(
                target=_follow, args=(cluster, span, watched, version, alarm), name="watch", daemon=True
            )
            thread.start()
            threads.append(thread)
        yield alarm
    finally:
        forget()
        span.end()
        for thread in threads:
            thread.join(1.0)


def _follow(cluster: Cluster, span: _Span, watched: Watched, version: str, alarm: Alarm) -> None:
    while not span.over.is_set():
        try:
            version = _events(cluster, span, watched, version, alarm)
            span.over.wait(_AGAIN / 5)  # the server ended it: its time was over
        except ExpiredError:
            # Too long ago: list again, and take it that something was missed.
            with contextlib.suppress(TemporaryError, PermanentError):
                version = cluster.version(span, watched.ref, watched.selector, watched.fields)
                alarm.ring()
        except PermanentError:
            alarm.broken = True
            alarm.ring()
            return
        except TemporaryError:
            span.over.wait(_AGAIN)


def _events(cluster: Cluster, span: _Span, watched: Watched, version: str, alarm: Alarm) -> str:
    """One connection's worth; the version up to which everything was told. ExpiredError where the server forgot it."""
    query = {
        "watch": "1",
        "allowWatchBookmarks": "true",
        "resourceVersion": version,
        "labelSelector": watched.selector,
        "fieldSelector": watched.fields,
        "timeoutSeconds": str(max(1, round(span.remaining()))),
    }
    path = f"{watched.ref.path()}?{urlencode({key: value for key, value in query.items() if value})}"
    with cluster.transport.lines(span, path, headers={"Accept": METADATA}) as (answer, lines):
        if answer.status != 200:
            raise explain(answer, f"watch {watched.ref}", cluster.context)
        for line in lines:
            if not line.strip():
                continue
            try:
                event = json.loads(line)
                kind, found = event["type"], event["object"]
            except (ValueError, KeyError, TypeError):
                raise TemporaryError("the watch broke") from None
            if kind == "ERROR":
                if found.get("code") == 410:
                    raise ExpiredError("the watch is too old to go on")
                raise TemporaryError(str(found.get("message")))
            version = str((found.get("metadata") or {}).get("resourceVersion") or version)
            if kind != "BOOKMARK":
                alarm.ring()
    return version


class _Span:
    """The bounds of a block within those of its call: they end with the block."""

    def __init__(self, bounds: Bounds) -> None:
        self.over = threading.Event()
        self.remaining = bounds.remaining
        self._bounds = bounds
        self._lock = threading.Lock()
        self._cuts: list[Callable[[], None]] = []

    def checkpoint(self) -> None:
        if self.over.is_set():
            raise TemporaryError("the watch is over")
        self._bounds.checkpoint()

    def on_stop(self, cut: Callable[[], None]) -> Callable[[], None]:
        with self._lock:
            self._cuts.append(cut)
            ended = self.over.is_set()
        if ended:
            cut()
        forget = self._bounds.on_stop(cut)

        def both() -> None:
            forget()
            with self._lock:
                self._cuts.remove(cut)

        return both

    def end(self) -> None:
        """The block is over: every connection in it is cut."""
        with self._lock:
            self.over.set()
            cuts = list(self._cuts)
        for cut in cuts:
            cut()
