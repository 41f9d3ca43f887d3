"""runbook as a library: `runbook.load`, `runbook.plan`, `runbook.run`. The command line does no more than these."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from runbook.interpreter.errors import InvalidError, Place

if TYPE_CHECKING:
    from runbook.interpreter.load import Loaded
    from runbook.runner.plan import Plan
    from runbook.runner.session import Ended, Listener, Options
    from runbook.runner.world import World


def load(path: str | os.PathLike[str]) -> Loaded:
    """Read a playbook with all that it imports and calls. InvalidError carries every problem, with its place."""
    from runbook.runner import files, registry

    loaded = files.read_playbook(os.fspath(path), registry.catalogue())
    if not loaded.ok:
        raise InvalidError(f"{os.fspath(path)} has problems", loaded.problems)
    if loaded.playbook is None:
        raise InvalidError(f"{os.fspath(path)} has no steps: it can only be imported")
    return loaded


def plan(path: str | os.PathLike[str], inputs: Mapping[str, Any] | None = None, *, world: World | None = None) -> Plan:
    """What a run would do now. Changes nothing outside. `inputs`: as a playbook file would give them. InvalidError."""
    from runbook.runner import planning, session

    loaded = load(path)
    return planning.make(loaded, _typed(loaded, inputs), world=world or session.here())


def run(
    path: str | os.PathLike[str],
    inputs: Mapping[str, Any] | None = None,
    *,
    world: World | None = None,
    options: Options | None = None,
    listeners: Sequence[Listener] = (),
) -> Ended:
    """Run a playbook to its end; `listeners` get every event right after it is on disk.

    InvalidError, RefusedError and the other RunbookErrors for what ends a run before or beside its outcome.
    """
    from runbook.runner import session

    loaded = load(path)
    return session.start(loaded, _typed(loaded, inputs), world=world, options=options, listeners=listeners)


def _typed(loaded: Loaded, given: Mapping[str, Any] | None) -> Mapping[str, Any]:
    from runbook.interpreter.inputs import coerce
    from runbook.runner.given import from_environment, from_outside

    assert loaded.playbook is not None
    wanted = from_outside(loaded.playbook, given or {})
    wanted |= from_environment(loaded.playbook, wanted, os.environ)
    typed, problems = coerce(loaded.playbook.inputs, wanted, os.environ, Place("<inputs>"))
    if any(problem.severity == "error" for problem in problems):
        raise InvalidError("the inputs have problems", problems)
    return typed
