"""Which kinds the API serves: asked once per run, and again where a name is not among them (a CRD may be new)."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Any

from runbook.actions._kube import kinds
from runbook.actions._kube.bounds import Bounds
from runbook.actions._kube.kinds import Kind
from runbook.contract import PermanentError

Read = Callable[[Bounds, str, str], dict[str, Any]]
"""Reads a path of the API, given an Accept header."""


class Discovery:
    """The kinds of one API server. Safe for many threads: two that ask at once both ask the server."""

    def __init__(self, read: Read, context: str) -> None:
        self._read = read
        self._context = context
        self._served: list[Kind] = []

    def kind(self, bounds: Bounds, word: str) -> Kind:
        """The kind that a playbook means: by kind, plural, singular, short or full name, with or without its version.

        PermanentError where the API serves none of that name, or several groups do; it names them.
        """
        found = kinds.known(word)
        if found is not None:
            return found
        fitting = _fitting(self._served, word)
        if not fitting:
            self._served = list(self._ask(bounds))
            fitting = _fitting(self._served, word)
        if not fitting:
            raise PermanentError(
                f"kind: the API of context {self._context} serves no kind {word!r}{_meant(word.lower(), self._served)}"
            )
        own = [kind for kind in fitting if not kinds.custom(kind)]
        if len(own) != 1 and len(fitting) > 1:
            names = ", ".join(sorted(f"{kind.plural}.{kind.group}" for kind in fitting))
            raise PermanentError(f"kind: {word!r} may be any of {names}", hint="write the one that is meant in full")
        return own[0] if own else fitting[0]

    def _ask(self, bounds: Bounds) -> Iterable[Kind]:
        for start in ("/api", "/apis"):
            document = self._read(bounds, start, kinds.AGGREGATED)
            if document.get("kind") == "APIGroupDiscoveryList":
                yield from kinds.from_aggregated(document)
                continue
            # Before 1.27: a document for each version, the preferred one of a group first.
            groups = [
                version["groupVersion"]
                for group in document.get("groups") or ()
                for version in sorted(
                    group.get("versions") or (), key=lambda version: version != group.get("preferredVersion")
                )
            ]
            for path in groups or document.get("versions") or ():
                yield from kinds.from_resource_list(self._read(bounds, f"{start}/{path}", "application/json"))


def _fitting(served: Iterable[Kind], word: str) -> list[Kind]:
    """One of each group, in the version that the server prefers, unless the name says which."""
    found: dict[str, Kind] = {}
    for kind in served:
        if kind.answers_to(word.lower()):
            found.setdefault(kind.group, kind)
    return list(found.values())


def _meant(word: str, served: Iterable[Kind]) -> str:
    listed = [*served, *kinds.KNOWN]
    names = {name for kind in listed for name in (kind.kind.lower(), kind.plural)}
    close = difflib.get_close_matches(word.partition(".")[0], names, n=1)
    return f"; did you mean {close[0]}?" if close else ""
