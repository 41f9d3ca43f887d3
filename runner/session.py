"""A run from its start, its resume or its undo to its end."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import runbook
from runbook.interpreter.errors import Exit, InternalError, InvalidError, RefusedError
from runbook.interpreter.values import from_wire, to_wire
from runbook.runner import lock_place, processes
from runbook.runner.driving import Ended, Listener, Options, Run, Unfinished, exit_of
from runbook.runner.journal import Journal, JournalError
from runbook.runner.orders import answer, cancel, questions
from runbook.runner.questions import Ask
from runbook.runner.records import Past, read_past
from runbook.runner.store import RunFolder
from runbook.runner.wording import end_of, status_word
from runbook.runner.world import World, here, secrets_of

if TYPE_CHECKING:
    from runbook.interpreter.load import Loaded
    from runbook.interpreter.model import Playbook
    from runbook.runner.standing import Standing

__all__ = [
    "PLAN",
    "Ended",
    "Listener",
    "Options",
    "Unfinished",
    "World",
    "answer",
    "cancel",
    "exit_of",
    "here",
    "questions",
    "resume",
    "secrets_of",
    "start",
    "undo",
    "undo_plan",
]

PLAN = "<plan>"
"""The name under which a journal's snapshot holds the plan that its run applies; no playbook file has it."""


def start(
    loaded: Loaded,
    inputs: Mapping[str, Any],
    *,
    world: World | None = None,
    options: Options | None = None,
    listeners: Sequence[Listener] = (),
    ask: Ask | None = None,
    plan: str | None = None,
    cwd: str | None = None,
) -> Ended:
    """Run a playbook.

    `inputs`: typed (`inputs.coerce`). `listeners` get every event right after its commit. `ask`: a terminal.
    `plan`: the saved plan (its text) that this run applies: only calls that it holds are made. `cwd`: the folder where
    relative paths start; None = where one is.
    Raises InvalidError for a playbook with problems, RefusedError, JournalError, LeaseLostError.
    """
    world, options = world or here(), options or Options()
    if loaded.playbook is None:
        raise InvalidError("the playbook has problems", tuple(loaded.problems))
    place = lock_place.chosen(world, options.locks, loaded.playbook.locks_in)
    options = dataclasses.replace(options, initiator=options.initiator or processes.user(), locks=place)
    cwd = cwd or _cwd()
    folder = world.store.new_run(loaded.playbook.name)
    try:
        journal = Journal.create(folder.journal, folder.id)
    except JournalError:  # a full disk: nothing was begun, and half a journal would look like damage
        shutil.rmtree(folder.path, ignore_errors=True)
        raise
    run = Run(
        world,
        options,
        folder=folder,
        journal=journal,
        past=Past(),
        playbook=loaded.playbook,
        inputs=dict(inputs),
        cwd=cwd,
    )
    try:
        for name, text in loaded.files.items():
            journal.put_file(name, text.encode())
        if plan is not None:
            journal.put_file(PLAN, plan.encode())
            run.plan = plan
        begun = {
            "run": folder.id,
            "name": loaded.playbook.name,
            "file": loaded.playbook.file,
            "inputs": to_wire(dict(inputs)),
            "defaults": _defaults(loaded.playbook, inputs, world),
            "initiator": options.initiator,
            "parent": options.parent,
            "trigger": to_wire(options.trigger) if options.trigger is not None else None,
            "options": options.to_wire(),
            "version": runbook.__version__,
            "simulated": world.surroundings.simulated,
            "world": world.surroundings.world_id,
            "place": world.surroundings.place,
            "snapshot": journal.snapshot(),
            "applied": plan is not None,
            "cwd": run.cwd,
            "host": processes.me().host,
            "pid": os.getpid(),
        }
        run.open(listeners, ask)
        run.started_at = run.local.add("run.begun", "", begun)[2]
        return run.drive("run", "")
    finally:
        run.close()


def _defaults(playbook: Playbook, given: Mapping[str, Any], world: World) -> list[str]:
    """The inputs that are what they are without a word: the command that begins the same anew leaves them out."""
    from runbook.interpreter import errors
    from runbook.interpreter import inputs as typed

    free = tuple(one for one in playbook.inputs if not one.required)
    known, _ = typed.coerce(free, {}, world.surroundings.environ, errors.Place(playbook.file))
    return [name for name, value in known.items() if name in given and given[name] == value]


def _cwd() -> str:
    """Where relative paths of the run stand, also after a resume from elsewhere."""
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        raise RefusedError("the folder that you are in is gone", "cd to one that exists") from None


def resume(
    prefix: str,
    *,
    world: World | None = None,
    options: Options | None = None,
    listeners: Sequence[Listener] = (),
    ask: Ask | None = None,
) -> Ended:
    """Go on with a run that was killed, waits for a person, or has clean-up left.

    Raises as `start`, NonDeterminismError, and RefusedError when it has ended or when somebody runs it.
    """
    world = world or here()
    folder = world.store.find(prefix)
    with _reopened(folder, world, options) as run:
        ended = run.journal.last("run.ended")
        open_round = run.rounds.open
        if ended is not None and open_round is None and not ended.data.get("unfinished"):
            how = status_word(end_of(str(ended.data.get("status")), ended.data.get("exit")))
            raise RefusedError(f"run {folder.id} has ended ({how}); nothing is left to do")
        run.open(listeners, ask)
        run.retake()
        if open_round is not None:
            return run.drive(*open_round)
        if ended is not None:
            return run.drive("finish", run.rounds.next)
        return run.drive("run", "")


def undo(
    prefix: str,
    *,
    world: World | None = None,
    options: Options | None = None,
    listeners: Sequence[Listener] = (),
    ask: Ask | None = None,
) -> Ended:
    """Take back what a finished run changed; durable and resumable itself.

    Raises RefusedError when the run has not ended or never began, InvalidError when `accept` names what an undo does
    not stop at; nothing is done then.
    """
    world = world or here()
    folder = world.store.find(prefix)
    ended, was_open, accepted = _undo(folder, world, options, listeners, ask, Run.accepting)
    if not was_open or not accepted or ended.exit is not Exit.FAILED:
        return ended
    # one that was killed is first played to its end, as it was begun; what it stopped at may be what was accepted

    def still(_run: Run, stands: Sequence[Standing]) -> list[str]:
        return [one.path for one in stands if one.path in accepted]

    return _undo(folder, world, options, listeners, ask, still)[0]


def _undo(
    folder: RunFolder,
    world: World,
    options: Options | None,
    listeners: Sequence[Listener],
    ask: Ask | None,
    accepting: Callable[[Run, Sequence[Standing]], list[str]],
) -> tuple[Ended, bool, list[str]]:
    """One round, new or begun before. Also whether it was begun before, and what is accepted."""
    with _reopened(folder, world, options) as run:
        _has_ended(run, folder)
        accepted = accepting(run, run.standing()) if options is not None and options.accept else []
        open_round = run.rounds.open
        run.open(listeners, ask)
        if open_round is None:
            run.look_before_undo(accepted)
        run.retake()
        if open_round is not None:
            return run.drive(*open_round), True, accepted
        return run.drive("undo", run.rounds.next, accepted), False, accepted


def undo_plan(prefix: str, *, world: World | None = None, options: Options | None = None) -> list[Standing]:
    """What `undo` would do now, in its order. Nothing is touched, and nobody has to wait. Raises as `undo`."""
    world = world or here()
    folder = world.store.find(prefix)
    journal = Journal.open(folder.journal, readonly=True)
    try:
        run = _reread(folder, world, options, journal)
        _has_ended(run, folder)
        from runbook.runner import standing

        stands = run.standing()
        return standing.accepted(stands, run.accepting(stands))
    finally:
        journal.close()


def _has_ended(run: Run, folder: RunFolder) -> None:
    """RefusedError where nothing can be undone yet, or ever."""
    ended = run.journal.last("run.ended")
    if ended is None or ended.data.get("unfinished"):
        raise RefusedError(f"run {folder.id} has not ended", f"`runbook resume {folder.id}` first")
    if run.refused:
        raise RefusedError(f"run {folder.id} was refused before it began: there is nothing to take back")


@contextlib.contextmanager
def _reopened(folder: RunFolder, world: World, options: Options | None) -> Iterator[Run]:
    """A run that began before: its lease taken, its record read and checked, its playbook as it was then."""
    journal = Journal.open(folder.journal)
    try:
        journal.take()
        run = _reread(folder, world, options, journal)
    except BaseException:
        journal.close()
        raise
    try:
        yield run
    finally:
        run.close()


def _its_world(begun: Mapping[str, Any]) -> str:
    """Where a rehearsal can go on: only in the world that it was rehearsed in."""
    place = str(begun.get("place") or "")
    if place and Path(place).exists():
        return f"it goes on in its own world only: --sandbox {shlex.quote(place)}"
    if place:
        return f"its world ({place}) is gone: start the rehearsal anew"
    return (
        "the world of `--sandbox SCENARIO` ends with its command: start the rehearsal anew; one that is to be resumed "
        "or undone needs a world that stays, `runbook sandbox up SCENARIO`, and the coordinates.json that it names"
    )


def _reread(folder: RunFolder, world: World, options: Options | None, journal: Journal) -> Run:
    from runbook.interpreter.load import load
    from runbook.runner import registry

    events = list(journal.history(unread=frozenset({"step.ended"})))
    if not events or events[0].kind != "run.begun":
        raise RefusedError(f"run {folder.id} ended before it began: nothing was done, start it anew")
    begun = events[0].data
    if begun["simulated"] != world.surroundings.simulated:
        simulated = bool(begun["simulated"])
        raise RefusedError(
            f"run {folder.id} is {'a simulated' if simulated else 'no simulated'} one",
            hint=_its_world(begun) if simulated else "leave --sandbox out",
        )
    if begun.get("world", "") != world.surroundings.world_id:
        raise RefusedError(
            f"run {folder.id} was rehearsed in another simulated world: what it did is not in this one",
            hint=_its_world(begun),
        )
    if begun["snapshot"] != journal.snapshot():
        raise InternalError(f"the stored files of run {folder.id} were changed", f"`runbook verify {folder.id}`")
    loaded = load(begun["file"], journal.file, getattr(world.registry or registry, "catalogue", registry.catalogue)())
    if loaded.playbook is None:
        problem = next((problem.message for problem in loaded.problems), None)
        raise InternalError(f"the playbook of run {folder.id} cannot be read any more", problem)
    recorded = Options.from_begun(begun)
    given = options or Options()
    merged = dataclasses.replace(
        recorded,
        in_doubt=given.in_doubt,
        wait_lock=given.wait_lock,
        preempt=given.preempt,
        cleanup_only=given.cleanup_only,
        preflight=given.preflight,
        accept=given.accept,
        why=given.why,
    )
    run = Run(
        world,
        merged,
        folder=folder,
        journal=journal,
        past=read_past(events),
        playbook=loaded.playbook,
        inputs=from_wire(begun["inputs"]),
        cwd=begun["cwd"],
    )
    run.started_at = events[0].wall
    with contextlib.suppress(FileNotFoundError):
        run.plan = journal.file(PLAN)
    run.resumed_by = given.initiator or processes.user()
    for event in events:
        run.rounds.note(event)
    return run
