"""What the history of a release means: which revision serves, which content each has, where a roll-back goes.

`helm rollback` without a revision toggles, and goes to failed revisions too; which one to go to is decided here.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from runbook.actions._helm import client
from runbook.actions._helm.client import HelmArgs
from runbook.contract import Call, Context, PermanentError, shorten

ROLLBACK_TO = re.compile(r"^Rollback to (\d+)\b")
REPEATS = re.compile(r"\(repeats revision (\d+)\)$")
KEPT = 10
"""Revisions that Helm keeps where HELM_MAX_HISTORY does not say otherwise."""
_STEPS = frozenset({"superseded", "deployed"})
"""The states of revisions that were once deployed."""


@dataclass(frozen=True, slots=True)
class Release:
    """One revision of a release. `origin`: the revision whose content it has; a `Rollback to N` has N's."""

    revision: int
    origin: int
    status: str
    chart: str
    version: str
    at: str
    description: str

    @property
    def between(self) -> bool:
        """Is Helm at it, or was it killed at it?"""
        return self.status.startswith("pending-") or self.status == "uninstalling"

    @property
    def spoiled_rollback(self) -> bool:
        """A roll-back that did not come to its end: it says nothing about which version was good.

        A failed one is `Rollback "x" failed` (it could not be applied) or `Release "x" failed` (it did not become
        ready); the latter is also what a failed installation is called, but that is revision 1.
        """
        if self.status == "pending-rollback":
            return True
        words = ("Rollback ",) if self.revision == 1 else ("Rollback ", "Release ")
        return self.status == "failed" and self.description.startswith(words)


def repeats(origin: int) -> str:
    """What a description ends with so that a revision counts as another one, as `Rollback to N` counts as N."""
    return f"(repeats revision {origin})"


def history(ctx: Context, args: HelmArgs) -> list[Release]:
    """All revisions that Helm keeps, oldest first; empty where there is no such release."""
    done = client.helm(ctx, args, "history", args.release, "--output", "json", "--max", "256")
    if done.rc != 0:
        if "release: not found" in done.stderr:
            return []
        raise client.said(done, f"helm history {args.release}")
    try:
        listed = json.loads(done.stdout)
    except ValueError as error:
        raise PermanentError(f"helm history {args.release} is no JSON: {shorten(done.stdout, 200)}") from error
    origins: dict[int, int] = {}
    found = []
    for entry in sorted(listed, key=lambda item: int(item["revision"])):
        own = int(entry["revision"])
        description = str(entry.get("description") or "")
        source = _source(own, description, entry.get("rollback_revision"))
        origins[own] = origins.get(source, source)
        found.append(
            Release(
                revision=own,
                origin=origins[own],
                status=str(entry.get("status") or ""),
                chart=str(entry.get("chart") or ""),
                version=str(entry.get("app_version") or ""),
                at=str(entry.get("updated") or ""),
                description=description,
            )
        )
    return found


def _source(own: int, description: str, rolled_back_to: Any) -> int:
    """The revision that this one has its content from; Helm 4 says it beside the description."""
    told = REPEATS.search(description) or ROLLBACK_TO.match(description)
    return int(told.group(1)) if told else int(rolled_back_to or own)


def existing(ctx: Context, args: HelmArgs) -> list[Release]:
    """The history of a release that must be there."""
    found = history(ctx, args)
    if not found:
        raise PermanentError(f"there is no release {args.release} in namespace {args.namespace!r}")
    return found


def target(listed: list[Release]) -> Release | None:
    """Where a roll-back goes: the newest once-deployed revision before the current one.

    A `Rollback to N` counts as N, so that two in a row do not return to the bad version; a roll-back that failed or was
    killed counts as not having been tried. Helm keeps ten revisions: where all before the current one are gone, it is
    the newest that has the content of one of them. None for what is uninstalled: there, nobody can know what is meant.
    """
    if listed and listed[-1].status in ("uninstalled", "uninstalling"):
        return None
    current = next((entry for entry in reversed(listed) if not entry.spoiled_rollback), None)
    if current is None:
        return None
    once = [entry for entry in reversed(listed) if entry.status in _STEPS]
    kept = next((entry for entry in once if entry.revision < current.origin), None)
    return kept or next((entry for entry in once if entry.origin < current.origin), None)


def serving(listed: list[Release]) -> Release | None:
    """The revision that is deployed; while Helm is at it (or was killed there), the one that it started from."""
    deployed = next((entry for entry in reversed(listed) if entry.status == "deployed"), None)
    return deployed or next((entry for entry in reversed(listed) if entry.status in _STEPS), None)


def living(listed: list[Release]) -> int | None:
    """The number of the newest revision, whose objects are there; None where none are."""
    return listed[-1].revision if listed and listed[-1].status != "uninstalled" else None


def numbered(listed: Iterable[Release], wanted: int) -> Release | None:
    """The revision of that number; where Helm has pruned it, the newest with its content, well deployed at best."""
    releases = list(listed)
    same = [entry for entry in reversed(releases) if entry.origin == wanted]
    exact = [entry for entry in releases if entry.revision == wanted]
    once = [entry for entry in same if entry.status in _STEPS]
    return next(iter([*exact, *once, *same]), None)


def state(listed: list[Release]) -> dict[str, Any] | None:
    """A release as the actions observe it; None where there is none.

    Nothing in it moves when Helm only gives the same content a new number.
    """
    if not listed:
        return None
    newest = listed[-1]
    if newest.status == "uninstalled":
        return {"status": newest.status}
    found: dict[str, Any] = {
        "revision": newest.origin,
        "status": newest.status,
        "chart": newest.chart,
        "version": newest.version,
    }
    if newest.between:
        served = serving(listed)
        found["serves"] = served.origin if served else 0
    return found


def served(state: Mapping[str, Any] | None) -> int:
    """The revision whose content was deployed in a state; 0 where none was."""
    known = state or {}
    return int(known.get("serves", known.get("revision", 0)))


def back(name: str, state: Mapping[str, Any] | None, change: str, *, force_conflicts: bool = False) -> Call | None:
    """What brings a release back to how it was observed; None where there is no revision that was this state.

    From a state in between it is the revision that served then. `change`: what is taken back (`work.content_of`).
    """
    where = {**client.place(name), "instead_of": change}
    if state is None or state["status"] == "uninstalled":
        return Call("helm.uninstall", {**where, "keep_history": state is not None})
    wanted = served(state)
    if not wanted:
        return None
    return Call("helm.rollback", {**where, "revision": wanted, "force_conflicts": force_conflicts})


def written(release: Release) -> float | None:
    """When Helm began this revision (a deployment's time stays while it is uninstalled); None where nobody can read it.

    Seconds since the epoch.
    """
    text = re.sub(r"(\.\d{1,6})\d*", r"\1", release.at)  # Go writes nanoseconds
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    return (found if found.tzinfo is not None else found.replace(tzinfo=datetime.UTC)).timestamp()


NO_LIMIT = ("--history-max", "0")
"""For roll-backs: nothing is forgotten. What `Rollback to N` means must be known as long as somebody may go back; the
next upgrade prunes as ever."""


def keeping(ctx: Context, listed: list[Release]) -> list[str]:
    """For upgrades: the flag that drops nothing where the owner keeps more revisions than this Helm would."""
    return list(NO_LIMIT) if 0 < _limit(ctx) < len(listed) else []


def prunes(ctx: Context, listed: list[Release]) -> bool:
    """Does an upgrade forget the oldest revision?"""
    return len(listed) == _limit(ctx) > 0


def _limit(ctx: Context) -> int:
    text = ctx.environ.get("HELM_MAX_HISTORY", "")
    return int(text) if text.isdecimal() else KEPT
