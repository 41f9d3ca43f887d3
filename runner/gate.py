"""Where preflight stands: before a run begins anything, before an undo takes the first thing back, and by itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runbook.interpreter.errors import RefusedError
from runbook.runner import preflight
from runbook.runner.quiet import Future
from runbook.runner.records import Past, call_from_wire, fault_to_wire

if TYPE_CHECKING:
    from runbook.interpreter.engine import Outcome, RunInfo
    from runbook.interpreter.model import Playbook
    from runbook.runner.host import Host
    from runbook.runner.journal import Journal
    from runbook.runner.local import Local
    from runbook.runner.world import World

WATCH = 0.1  # seconds between two looks whether the run was cancelled


async def refusal(local: Local, playbook: Playbook, inputs: Mapping[str, Any], info: RunInfo) -> Outcome | None:
    """What the run comes to where something is missing; None when it may begin. Also in the run's past.

    It looks in a thread, in a turn of the run; a cancel ends it, and then nothing is begun anyway.
    """
    future: Future[preflight.Findings] = local.loop.future()

    def came(found: preflight.Findings) -> None:
        if not future.done():
            future.set_result(found)

    def look() -> None:
        found = preflight.find(playbook, inputs, info, local.host)
        local.post(lambda: came(found))

    def watch() -> None:
        if local.root in local.past.stops:
            came(preflight.Findings(unchecked=("what the steps need: cancelled",)))
        elif not future.done():
            local.alarm(local.clock.running() + WATCH, watch)

    local.later(lambda: local.threads.submit(look))
    watch()
    found = await future
    fault = local.past.refused = found.fault()
    said = {} if fault is None else {"refused": fault_to_wire(fault)}
    seq, at, wall = local.add("preflight", "", {**found.to_wire(), **said})
    for step, sentence in found.told():
        local.emit("warning", step, {"message": sentence})
    if fault is None:
        return None
    from runbook.interpreter.engine import Outcome

    return Outcome("failed", error=fault, kind="refused", seq=seq, at=at, wall=wall)


def alone(playbook: Playbook, inputs: Mapping[str, Any], world: World) -> preflight.Findings:
    """What a run would lack, without a run. An input that nobody gave is an Unknown."""
    import os
    import tempfile
    import time

    from runbook.interpreter.engine import RunInfo
    from runbook.runner import processes, registry
    from runbook.runner.host import Host
    from runbook.runner.world import secrets_of

    with tempfile.TemporaryDirectory(prefix="runbook-look-") as scratch:
        cwd, mark = str(Path.cwd()), f"look-{os.urandom(4).hex()}"
        secrets = secrets_of(world, Path(scratch), cwd)
        actions = world.registry or registry
        host = Host(actions, secrets, world.surroundings, folder=Path(scratch), run_id=mark, cwd=cwd)
        found = preflight.find(playbook, inputs, RunInfo(mark, playbook.name, processes.user(), time.time()), host)
        host.clients.close()
    return found


def before_undo(journal: Journal, past: Past, host: Host, accepted: Collection[str] = ()) -> None:
    """RefusedError where an inverse of what stands lacks something. What nobody can tell is left to the undo itself.

    `accepted`: paths of changes that it leaves as they are.
    """
    from runbook.runner.view import fold

    calls = []
    view = fold(journal.events())
    for stands in view.left():
        if view.accepted_of(stands.op) is not None or stands.op in accepted:
            continue
        first = past.first.get(stands.op)
        call = call_from_wire(past.intents[first].get("inverse")) if first is not None else None
        if call is not None:
            calls.append(replace(call, key=stands.op, op=stands.op))
    fault = preflight.of_undo(calls, host).fault()
    if fault is not None:
        raise RefusedError(fault.message, fault.hint)
