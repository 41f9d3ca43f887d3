"""Making a plan, and running what a saved plan holds."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import runbook
from runbook.interpreter.errors import InvalidError, RefusedError
from runbook.interpreter.values import from_wire, to_wire
from runbook.runner import lock_place, processes, session
from runbook.runner.plan import SKEW, Plan, Row

BRANCH = re.compile(r"\[\d*\]")

if TYPE_CHECKING:
    from runbook.interpreter.load import Loaded
    from runbook.interpreter.model import Playbook
    from runbook.runner.local import Ask
    from runbook.runner.session import Ended, Listener, Options, World


def make(loaded: Loaded, inputs: Mapping[str, Any], *, world: World, initiator: str = "", locks: str = "") -> Plan:
    """What a run with these inputs would do now. Changes nothing outside.

    `inputs`: typed (`inputs.coerce`). `locks`: where they live, if the command line says it. Raises InvalidError for a
    playbook with problems.
    """
    from runbook.interpreter.engine import Engine, RunInfo
    from runbook.interpreter.worst_case import worst_case
    from runbook.runner import preflight, registry
    from runbook.runner.host import Host
    from runbook.runner.preview import Preview

    if loaded.playbook is None:
        raise InvalidError("the playbook has problems", tuple(loaded.problems))
    playbook = loaded.playbook
    who, now = initiator or processes.user(), time.time()
    with tempfile.TemporaryDirectory(prefix="runbook-plan-") as scratch:
        secrets = session.secrets_of(world, Path(scratch), str(Path.cwd()))
        actions = world.registry or registry
        mark = f"plan-{os.urandom(4).hex()}"  # processes are found by it: plans side by side must not end each other's
        host = Host(actions, secrets, world.surroundings, folder=Path(scratch), run_id=mark, cwd=str(Path.cwd()))
        place = lock_place.chosen(world, locks, playbook.locks_in)
        preview = Preview(host, lambda names: lock_place.look(world, place, names))
        info = RunInfo("plan", playbook.name, who, now)
        outcome = asyncio.run(Engine(playbook, dict(inputs), info, preview).run())
        looked, behind = preview.looked, preview.behind
        if outcome.status not in ("succeeded", "skipped"):  # it stopped early: what it did not reach may lack more
            walk = preflight.walked(playbook, inputs, info, host)
            looked += preflight.look(host, [call for call in walk.calls if call.op not in preview.rows])
            behind |= walk.behind
            seen = {said.call.op for said in looked if said.secret}
            looked += preflight.lacking(host, [one for one in walk.secrets_wanted if one.at not in seen])
        host.clients.close()
    bound = worst_case(playbook)
    skipped = [row.key for row in preview.rows.values() if row.verdict == "skip"]
    found = preflight.judged(playbook, looked, behind, skipped)
    told = [f"{key}: {sentence}" if key else sentence for key, sentence in found.told()]
    rows = tuple(_accepted(playbook, row) for row in _as_tree(preview.rows))
    return Plan(
        name=playbook.name,
        file=playbook.file,
        files={name: _digest(text) for name, text in loaded.files.items()},
        inputs=to_wire(dict(inputs)),
        rows=rows,
        made=now,
        initiator=who,
        version=runbook.__version__,
        work_seconds=bound.work,
        cleanup_seconds=bound.cleanup,
        missing=tuple(map(str, found.missing)),
        warnings=tuple(dict.fromkeys([*preview.warnings, *told, *secrets.warnings])),
        outcome=outcome.status,
        error=outcome.error.message if outcome.error is not None else "",
        simulated=world.surroundings.simulated,
        locks=tuple(preview.locks),
        options={} if place == lock_place.FILE else {"locks": place},
        folder=str(Path.cwd()),
    )


def apply(
    text: str,
    loaded: Loaded,
    *,
    world: World,
    options: Options | None = None,
    listeners: Sequence[Listener] = (),
    ask: Ask | None = None,
    folder: Path | None = None,
) -> Ended:
    """Run what a saved plan (its text) holds, and nothing else. `folder`: where its paths start (`folder_of`).

    RefusedError when the plan has expired, its files have changed, or one of plan and run is simulated and one not.
    """
    plan = Plan.from_json(text)
    if time.time() > plan.expires:
        raise RefusedError("the plan has expired", hint="make it again, look at it, apply that one")
    if plan.made > time.time() + SKEW:
        raise RefusedError(
            "the plan was made in the future, as this machine's clock has it",
            hint="set the clock, or make the plan again",
        )
    now = {name: _digest(found) for name, found in loaded.files.items()}
    moved = sorted(name for name in {*plan.files, *now} if plan.files.get(name) != now.get(name))
    if moved:
        raise RefusedError(f"changed since the plan was made: {', '.join(moved)}", hint="make the plan again")
    if plan.simulated != world.surroundings.simulated:
        raise RefusedError("the plan was made in another world: one of the two is simulated")
    if plan.missing and (options is None or options.preflight):
        raise RefusedError(f"the plan lacks something: {plan.missing[0]}", hint="get it, then make the plan again")
    inputs = from_wire(dict(plan.inputs))
    if not (options and options.locks) and plan.options.get("locks"):
        options = replace(options or session.Options(), locks=str(plan.options["locks"]))
    where = None if folder is None else str(folder)
    return session.start(
        loaded, inputs, world=world, options=options, listeners=listeners, ask=ask, plan=text, cwd=where
    )


def folder_of(plan: Plan) -> Path:
    """The folder in which a saved plan is applied: where it was made, else where one is, if its playbook is there.

    InvalidError where it is at neither place: the plan came from another machine, or the playbook is gone.
    """
    tried = [Path(plan.folder), Path.cwd()]
    for folder in tried:
        if (folder / plan.file).is_file():
            return folder
    places = " and ".join(dict.fromkeys(map(str, tried)))
    raise InvalidError(
        f"the playbook of this plan, {plan.file}, is not in the folder where the plan was made: looked in {places}",
        hint="apply it on the machine where it was made, or in a folder where that path leads to the same playbook",
    )


def playbook_of(plan: Plan, folder: Path) -> Loaded:
    """The playbook of a saved plan, with all that it imports and calls; their names are those of the plan."""
    from runbook.interpreter.load import load
    from runbook.runner import files, registry

    return load(plan.file, lambda name: files.read(str(folder / name)), registry.catalogue())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _as_tree(rows: Mapping[str, Row]) -> Iterator[Row]:
    """Rows below the row that holds them; siblings in the order in which they would begin."""
    from runbook.runner.run_tree import parent_of

    below: dict[str | None, list[Row]] = {}
    for key, row in rows.items():
        parent = parent_of(key)
        while parent is not None and parent not in rows:
            parent = parent_of(parent)
        below.setdefault(parent, []).append(row)

    def walk(parent: str | None) -> Iterator[Row]:
        for row in below.get(parent, ()):
            yield row
            yield from walk(row.key)

    yield from walk(None)


def _accepted(playbook: Playbook, row: Row) -> Row:
    """The author's word on undo stands over what the action itself can: `none` is accepted, own steps are named."""
    if row.effect not in ("change", "opaque"):
        return row
    from runbook.runner import shape

    plain = BRANCH.sub("", row.key)
    kind = next((step.undo.kind for path, step in shape.walk(playbook) if BRANCH.sub("", path) == plain), "auto")
    said = {"none": "none", "steps": "author", "again": "again"}.get(kind)
    return replace(row, undo=said) if said is not None else row
