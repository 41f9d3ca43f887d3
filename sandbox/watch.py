"""Watches: changes from a resource version on, as JSON lines (API concepts, "Efficient detection of changes")."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from runbook.sandbox.kinds import Kind
from runbook.sandbox.world import Change, Document, World

Predicate = Callable[[Document], bool]
LONGEST = 1800.0
"""Seconds that a watch without `timeoutSeconds` lasts."""


def stream(
    world: World,
    kind: Kind,
    namespace: str | None,
    matches: Predicate,
    *,
    since: int | None,
    initial_events: bool,
    bookmarks: bool,
    seconds: float | None,
    gone: Callable[[], bool],
    write: Callable[[bytes], None],
) -> None:
    """Write events until the time is over or the client has gone.

    `since`: the resource version after which changes are told; None = first everything that is there. `initial_events`:
    everything that is there, then a bookmark that says so (`sendInitialEvents`).
    """
    end = time.monotonic() + (LONGEST if seconds is None else seconds)
    with world.changed:
        present = world.list(kind, namespace) if since is None or initial_events else []
        version = world.version if since is None or initial_events else since
    for item in present:
        if matches(item):
            write(_line("ADDED", item))
    if initial_events:
        write(_bookmark(kind, version, {"k8s.io/initial-events-end": "true"}))
    while True:
        with world.changed:
            changes = world.history(version)
            if not changes:
                left = end - time.monotonic()
                if left <= 0 or world.stopped or gone():
                    break
                world.changed.wait(min(left, 0.25))
                continue
            version = changes[-1].version
        for change in changes:
            if change.kind == kind and namespace in (None, change.after["metadata"].get("namespace")):
                event = _event(change, matches)
                if event is not None:
                    write(event)
    if bookmarks and not world.stopped:
        write(_bookmark(kind, version, None))


def _event(change: Change, matches: Predicate) -> bytes | None:
    """What a watcher with a selector sees: an object that leaves the selection is deleted for it."""
    was = change.before is not None and matches(change.before)
    if change.type == "DELETED":
        return _line("DELETED", change.after) if was else None
    if matches(change.after):
        return _line("MODIFIED" if was else "ADDED", change.after)
    return _line("DELETED", change.after) if was else None


def _line(event: str, item: Document) -> bytes:
    return json.dumps({"type": event, "object": item}).encode() + b"\n"


def _bookmark(kind: Kind, version: int, annotations: dict[str, str] | None) -> bytes:
    meta: dict[str, Any] = {"resourceVersion": str(version), "creationTimestamp": None}
    if annotations:
        meta["annotations"] = annotations
    return _line("BOOKMARK", {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": meta})
