"""One call of a Change as the host makes it, phase by phase, and what a test needs of each."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runbook.contract import Action, Call, Change, Observation, Outputs, PermanentError
from runbook.runner.parameters import parse
from runbook.runner.registry import find
from tests.context import LocalContext
from tests.testbed.plane import Plane

_VOLATILE = ("resourceVersion", "generation", "managedFields", "uid", "creationTimestamp")


@dataclass(frozen=True)
class Made:
    """A change that was made: what was promised before it, and how it is taken back."""

    before: Observation
    after: Observation
    inverse: Call | None
    outputs: Outputs
    computed: str | None
    log: list[str]


class Caller:
    """Calls actions on a control plane, each with a context of its own."""

    def __init__(self, plane: Plane, folder: Path, *, helm: int = 4, user: str = "admin") -> None:
        self.folder = folder
        self.environ = plane.environ(helm, user=user)
        self._count = 0

    def context(self, op: str | None = None, **options: Any) -> LocalContext:
        """A context; each a new operation unless `op` says which."""
        self._count += 1
        return LocalContext(
            self.folder, environ=self.environ, op=op or f"run-1:step-{os.getpid()}-{self._count}", **options
        )

    def read(self, name: str, given: Mapping[str, Any], **options: Any) -> Outputs:
        """Call a read or a check."""
        with self.context(**options) as ctx:
            action, args = opened(name, given)
            return action.read(args, ctx)  # type: ignore[attr-defined, no-any-return]

    def plan(self, name: str, given: Mapping[str, Any], **options: Any) -> Made:
        """What a plan does: reads only."""
        return self._go(name, given, apply=False, **options)

    def change(self, name: str, given: Mapping[str, Any], **options: Any) -> Made:
        """Make a change, unless it is already so."""
        return self._go(name, given, apply=True, **options)

    def undo(self, made: Made) -> Made:
        """Play its inverse, and wait until it is effective."""
        assert made.inverse is not None
        call = made.inverse
        # As the host has it: through JSON, and by a new instance.
        taken = self.change(call.action, json.loads(json.dumps(dict(call.args))))
        with self.context() as ctx:
            action, args = change(call.action, call.args)
            while not action.effective(args, taken.after, ctx):
                ctx.sleep(0.1)
        return taken

    def settle(self, name: str, given: Mapping[str, Any], made: Made, **options: Any) -> str:
        """After a crash: a new instance looks whether it happened."""
        with self.context(**options) as ctx:
            action, args = change(name, given)
            return action.settle(args, made.before, made.after, action.observe(args, ctx), ctx)

    def _go(self, name: str, given: Mapping[str, Any], *, apply: bool, **options: Any) -> Made:
        with self.context(**options) as ctx:
            action, args = change(name, given)
            before = action.observe(args, ctx)
            after = action.expect(args, before, ctx)
            inverse = action.inverse(args, before, ctx.op) if before != after else None
            if apply and before != after:
                action.apply(args, before, ctx)
                found = action.observe(args, ctx)
                assert {name: found.get(name) for name in after} == after, "the plan's diff is what the run changed"
            outputs = action.outputs(args, before, after)
            return Made(before, after, inverse, outputs, action.computed, ctx.lines)


def opened(name: str, given: Mapping[str, Any]) -> tuple[Action[Any], Any]:
    """A new instance of an action, and its parameters as the host parses them."""
    kind = find(name)
    args = parse(kind, given)
    action = kind()
    problems = list(action.check(args))
    if problems:
        raise PermanentError("; ".join(problems))
    return action, args


def change(name: str, given: Mapping[str, Any]) -> tuple[Change[Any], Any]:
    """The same, of a change."""
    action, args = opened(name, given)
    assert isinstance(action, Change)
    return action, args


def meaning(found: Any) -> Any:
    """An object without what the API server and controllers count: for `the same as before` of whole objects."""
    if isinstance(found, list):
        return [meaning(item) for item in found]
    if not isinstance(found, dict):
        return found
    left = {key: meaning(value) for key, value in found.items() if key not in _VOLATILE and key != "status"}
    annotations = {
        key: value
        for key, value in (left.get("annotations") or {}).items()
        if "kubernetes.io/revision" not in key and key != "deprecated.daemonset.template.generation"
    }
    if annotations:
        left["annotations"] = annotations
    else:
        left.pop("annotations", None)
    return left
