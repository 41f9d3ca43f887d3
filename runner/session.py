"""A run from its start, its resume or its undo to its end: journal, locks, host and engine put together."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

import runbook
from runbook.interpreter.effects import Call, Fault, Question
from runbook.interpreter.errors import Exit, InternalError, InvalidError, RefusedError, RunbookError
from runbook.interpreter.values import from_wire, to_wire
from runbook.runner import objectives, people, processes
from runbook.runner.clock import Clock
from runbook.runner.host import Host
from runbook.runner.journal import Event, Journal
from runbook.runner.local import Ask, Local, Policy, WaitingError
from runbook.runner.lock_waits import PATIENCE, POLL
from runbook.runner.locks import Locks
from runbook.runner.records import Past, fault_to_wire, read_past
from runbook.runner.secrets import ReadK8s, Secrets
from runbook.runner.step_logs import StepLogs
from runbook.runner.store import RunFolder, Store, home
from runbook.runner.surroundings import Real, Surroundings

if TYPE_CHECKING:
    from runbook.interpreter.engine import Engine, Outcome
    from runbook.interpreter.load import Loaded
    from runbook.interpreter.model import Playbook

Listener = Callable[[Event], None]

PLAN = "<plan>"
"""The name under which a journal's snapshot holds the plan that its run applies; no playbook file has it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What the command line decided. `cleanup_only`: on resume, end what is open and do nothing new."""

    initiator: str = ""
    wait_lock: bool = False
    preempt: bool = False
    in_doubt: Literal["ask", "repeat", "done", "fail"] = "ask"
    interactive: bool = False
    cleanup_only: bool = False
    yes: bool = False
    parent: str | None = None
    trigger: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """Where a run happens: everything of it can be replaced. `registry` None: the installed actions."""

    store: Store
    surroundings: Surroundings
    registry: Any = None
    read_k8s: ReadK8s | None = None


@dataclass(frozen=True, slots=True)
class Unfinished:
    """Clean-up that a second cancel skipped or cut: a phase (undo, on_failure, temporary, finally) of a step."""

    path: str
    phase: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """How it ended. `status`: the outcome's, or `waiting`. `questions`: what is waited for. `head`: the last digest."""

    run_id: str
    status: str
    exit: Exit
    folder: RunFolder
    outcome: Outcome | None = None
    questions: tuple[Question, ...] = ()
    unfinished: tuple[Unfinished, ...] = ()
    head: str = ""


def here(environ: Mapping[str, str] | None = None) -> World:
    """This machine: the home and the environment of this process."""
    found = dict(os.environ if environ is None else environ)
    return World(store=Store(home(found)), surroundings=Real(found))


def secrets_of(world: World, folder: Path, cwd: str) -> Secrets:
    """The host's secrets of one run or plan; `folder`: its own. Plans and runs of one home make equal fingerprints."""
    environ = world.surroundings.environ
    read = world.read_k8s or functools.partial(_read_k8s, environ)
    return Secrets(environ, folder / "key", read, base=cwd, fingerprint_key=world.store.key_file)


def _read_k8s(environ: Mapping[str, str], context: str | None, namespace: str, name: str, key: str) -> str | None:
    """One key of a Kubernetes Secret. Found as actions are, by name: the runner imports no action's code."""
    kube = importlib.import_module("runbook.actions._kube")
    found: str | None = kube.read_secret(environ, context or "current", namespace, name, key)
    return found


def start(
    loaded: Loaded,
    inputs: Mapping[str, Any],
    *,
    world: World | None = None,
    options: Options | None = None,
    listeners: Sequence[Listener] = (),
    ask: Ask | None = None,
    plan: str | None = None,
) -> Ended:
    """Run a playbook.

    `inputs`: typed (`inputs.coerce`). `listeners` get every event right after its commit. `ask`: a terminal.
    `plan`: the saved plan (its text) that this run applies: only calls that it holds are made.
    Raises InvalidError for a playbook with problems, RefusedError, JournalError, LeaseLostError.
    """
    world, options = world or here(), options or Options()
    if loaded.playbook is None:
        raise InvalidError("the playbook has problems", tuple(loaded.problems))
    options = options if options.initiator else dataclasses.replace(options, initiator=processes.user())
    folder = world.store.new_run(loaded.playbook.name)
    journal = Journal.create(folder.journal, folder.id)
    run = _Run(
        world,
        options,
        folder=folder,
        journal=journal,
        past=Past(),
        playbook=loaded.playbook,
        inputs=dict(inputs),
        cwd=str(Path.cwd()),
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
            "initiator": options.initiator,
            "parent": options.parent,
            "trigger": to_wire(options.trigger) if options.trigger is not None else None,
            "options": _options_to_wire(options),
            "version": runbook.__version__,
            "simulated": world.surroundings.simulated,
            "snapshot": journal.snapshot(),
            "cwd": run.cwd,
            "host": processes.me().host,
            "pid": os.getpid(),
        }
        run.open(listeners, ask)
        run.started_at = run.local.add("run.begun", "", begun)[2]
        return run.drive("run", "")
    finally:
        run.close()


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
        open_round = run.open_round()
        if ended is not None and open_round is None and not ended.data.get("unfinished"):
            raise RefusedError(f"run {folder.id} has ended ({ended.data.get('status')}); nothing is left to do")
        run.open(listeners, ask)
        run.retake()
        if open_round is not None:
            return run.drive(*open_round)
        if ended is not None:
            return run.drive("finish", str(len(run.rounds) + 1))
        return run.drive("run", "")


def undo(
    prefix: str,
    *,
    world: World | None = None,
    options: Options | None = None,
    listeners: Sequence[Listener] = (),
    ask: Ask | None = None,
) -> Ended:
    """Take back what a finished run changed; durable and resumable itself. RefusedError when it has not ended."""
    world = world or here()
    folder = world.store.find(prefix)
    with _reopened(folder, world, options) as run:
        ended = run.journal.last("run.ended")
        if ended is None or ended.data.get("unfinished"):
            raise RefusedError(f"run {folder.id} has not ended", f"`runbook resume {folder.id}` first")
        open_round = run.open_round()
        run.open(listeners, ask)
        run.retake()
        return run.drive(*(open_round or ("undo", str(len(run.rounds) + 1))))


def cancel(prefix: str, *, world: World | None = None, why: str = "") -> bool:
    """Ask a run to stop and clean up. True: its process was told; False: nobody runs it, and `resume` will do it."""
    world = world or here()
    folder = world.store.find(prefix)
    journal = Journal.open(folder.journal)
    try:
        if journal.last("run.ended") is not None and journal.holder() is None:
            raise RefusedError(f"run {folder.id} has ended")
        journal.send("cancel", {"why": why or f"cancelled by {processes.user()}"})
        return journal.holder() is not None
    finally:
        journal.close()


def questions(prefix: str, *, world: World | None = None) -> list[Question]:
    """What a run waits for, as people may answer it now."""
    world = world or here()
    journal = Journal.open(world.store.find(prefix).journal, readonly=True)
    try:
        return _open_questions(read_past(journal.events()))
    finally:
        journal.close()


def answer(prefix: str, step: str, given: people.Answer, *, world: World | None = None) -> bool:
    """Answer the open question of `step` (its path, or its last id).

    True: the run's process was told; False: nobody runs it, `resume` goes on. Raises InvalidError when there is no such
    question, RefusedError when the answer does not count.
    """
    world = world or here()
    folder = world.store.find(prefix)
    journal = Journal.open(folder.journal)
    try:
        past = read_past(journal.events())
        found = [q for q in _open_questions(past) if step in (q.key, q.step, q.step.rpartition("/")[2])]
        if len(found) != 1:
            names = ", ".join(q.step for q in _open_questions(past)) or "none"
            raise InvalidError(f"there is no one open question {step}", hint=f"open: {names}")
        question = found[0]
        before = [people.Answer.from_wire(wire) for wire in past.given.get(question.key, ())]
        first = next(journal.events(), None)
        initiator = str(first.data.get("initiator", "")) if first is not None else ""
        why = people.refusal(question, given, before, initiator)
        if why is not None:
            raise RefusedError(why)
        journal.send("answer", {**given.to_wire(), "question": question.key})
        return journal.holder() is not None
    finally:
        journal.close()


def _open_questions(past: Past) -> list[Question]:
    return [
        Question(key, event.data["step"], event.data["kind"], event.data["text"], from_wire(event.data["options"]))
        for key, event in past.asked.items()
        if ("ask", key) not in past.answers
    ]


@contextlib.contextmanager
def _reopened(folder: RunFolder, world: World, options: Options | None) -> Iterator[_Run]:
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


def _reread(folder: RunFolder, world: World, options: Options | None, journal: Journal) -> _Run:
    from runbook.interpreter.load import load
    from runbook.runner import registry

    events = list(journal.history(unread=frozenset({"step.ended"})))
    if not events or events[0].kind != "run.begun":
        raise RefusedError(f"run {folder.id} ended before it began: nothing was done, start it anew")
    begun = events[0].data
    if begun["simulated"] != world.surroundings.simulated:
        raise RefusedError(f"run {folder.id} is {'a simulated' if begun['simulated'] else 'no simulated'} one")
    if begun["snapshot"] != journal.snapshot():
        raise InternalError(f"the stored files of run {folder.id} were changed", f"`runbook verify {folder.id}`")
    loaded = load(begun["file"], journal.file, getattr(world.registry or registry, "catalogue", registry.catalogue)())
    if loaded.playbook is None:
        problem = next((problem.message for problem in loaded.problems), None)
        raise InternalError(f"the playbook of run {folder.id} cannot be read any more", problem)
    recorded = _options_from_wire(begun["options"], begun)
    given = options or Options()
    merged = dataclasses.replace(
        recorded,
        in_doubt=given.in_doubt,
        wait_lock=given.wait_lock,
        preempt=given.preempt,
        cleanup_only=given.cleanup_only,
    )
    run = _Run(
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
        run.note_round(event)
    return run


class _Run:
    """One process's part of a run."""

    def __init__(
        self,
        world: World,
        options: Options,
        *,
        folder: RunFolder,
        journal: Journal,
        past: Past,
        playbook: Playbook,
        inputs: Mapping[str, Any],
        cwd: str,
    ) -> None:
        self._world = world
        self._options = options
        self._folder = folder
        self.journal = journal
        self._past = past
        self._playbook = playbook
        self._inputs = inputs
        self.cwd = cwd
        self._locks = Locks(world.store.locks, folder.id, folder.path)
        self._logs = StepLogs(folder.logs)
        self.local: Local
        self.started_at = 0.0
        self.resumed_by: str | None = None
        self.plan: str | None = None  # the saved plan that this run applies
        self.rounds: list[tuple[str, str]] = []  # undo and finish rounds, in order
        self._closed_rounds: set[str] = set()

    def note_round(self, event: Event) -> None:
        """Undo and finish rounds that are on record."""
        if event.kind in ("undo.begun", "finish.begun"):
            self.rounds.append((event.kind.partition(".")[0], event.key))
        elif event.kind in ("undo.ended", "finish.ended"):
            self._closed_rounds.add(event.key)

    def open_round(self) -> tuple[str, str] | None:
        """The round that was begun and not ended."""
        return next((round_ for round_ in self.rounds if round_[1] not in self._closed_rounds), None)

    def open(self, listeners: Sequence[Listener], ask: Ask | None) -> None:
        """Put the parts together."""
        world, options, registry = self._world, self._options, self._world.registry
        if registry is None:
            from runbook.runner import registry
        folder = self._folder
        secrets = secrets_of(world, folder.path, self.cwd)
        host = Host(registry, secrets, world.surroundings, folder=folder.path, run_id=folder.id, cwd=self.cwd)
        self.local = Local(
            self.journal,
            host,
            self._locks,
            self._folder.id,
            past=self._past,
            clock=Clock(self._past.at, self._past.wall),
            policy=Policy(options.wait_lock, options.preempt, options.in_doubt, options.initiator, self._guard()),
            listeners=(self._logs.add, *listeners),
            ask=ask,
        )

    def _guard(self) -> Callable[[Call, str | None], Fault | None] | None:
        """What holds this run to the plan that it applies, if it applies one."""
        if self.plan is None:
            return None
        from runbook.runner.guard import Guard
        from runbook.runner.plan import Plan

        return Guard(Plan.from_json(self.plan)).refusal

    def retake(self) -> None:
        """After a resume: say so, and take back the locks that are on record as ours."""
        me = processes.me()
        lost = self._locks.retake(self._past.tokens()) if self._past.tokens() else []
        if lost and self._options.cleanup_only:
            self._take_again(lost)
        elif lost:
            raise RefusedError(
                f"another run held lock {', '.join(lost)} meanwhile: going on could undo what it did",
                f"`runbook resume {self._folder.id} --cleanup` only ends what is open",
            )
        self.local.add("resumed", "", {"pid": me.pid, "host": me.host, "initiator": self.resumed_by})

    def _take_again(self, names: Sequence[str]) -> None:
        """Clean-up does not collide with who got the locks meanwhile: it waits until they are free."""
        until = time.monotonic() + PATIENCE
        while (held := self._locks.take(names)) is not None:
            if time.monotonic() >= until or not self._options.wait_lock:
                raise RefusedError(str(held), "--wait-lock waits for it")
            time.sleep(POLL)

    def drive(self, what: str, round_: str) -> Ended:
        """Run the engine to its end: the run itself (`run`), an undo, or the clean-up that is left (`finish`)."""
        from runbook.interpreter.engine import Engine, RunInfo

        options = self._options
        info = RunInfo(
            self._folder.id, self._playbook.name, options.initiator, self.started_at, options.parent, options.trigger
        )
        engine = Engine(self._playbook, self._inputs, info, self.local, interactive=options.interactive)
        self.local.root = {"run": "@run"}.get(what, f"@{what}[{round_}]")
        if options.cleanup_only:
            self.local.cancel_now("only clean-up was asked for")
        if what != "run" and (what, round_) not in self.rounds:
            self.rounds.append((what, round_))
            self.local.add(f"{what}.begun", round_, {"initiator": self.resumed_by})
        try:
            with _signals(self.local):
                first, last = self.local.run(self._play(engine))
        except WaitingError as waiting:
            return self._parked(waiting)
        if what == "finish" and last.ok:
            last = first  # what the run came to stays what it is; only its clean-up was left
        return self._ended(engine, last, what, round_)

    async def _play(self, engine: Engine) -> tuple[Outcome, Outcome]:
        """The run, and then every round that was played after it, in order; the run's outcome and the last one's."""
        first = last = await engine.run()
        for what, round_ in self.rounds:
            last = await (engine.undo(int(round_)) if what == "undo" else engine.finish(int(round_)))
        return first, last

    def _ended(self, engine: Engine, outcome: Outcome, what: str, round_: str) -> Ended:
        local = self.local
        unfinished = tuple(Unfinished(left.path, left.phase) for left in engine.unfinished())
        exit_ = exit_of(outcome)
        if what != "run":
            data = {"status": outcome.status, "exit": int(exit_), "error": fault_to_wire(outcome.error)}
            local.add(f"{what}.ended", round_, data)
        if what != "undo":
            ended = {
                "status": outcome.status,
                "exit": int(exit_),
                "error": fault_to_wire(outcome.error),
                "outputs": to_wire(outcome.outputs),
                "unfinished": [dataclasses.asdict(left) for left in unfinished],
                "objectives": objectives.judge(
                    self._playbook, engine.scope.at(0.0), self.journal.events(), self.started_at
                ),
                "head": self.journal.head,
            }
            local.add("run.ended", "", ended)
        local.commit()
        self._locks.release(list(self._locks.tokens))
        return Ended(
            run_id=self._folder.id,
            status=outcome.status,
            exit=exit_,
            folder=self._folder,
            outcome=outcome,
            unfinished=unfinished,
            head=self.journal.head,
        )

    def _parked(self, waiting: WaitingError) -> Ended:
        """Nothing can go on without a person: the locks stay, parked and visible."""
        self._locks.park()
        asked = [{"key": q.key, "step": q.step, "kind": q.kind, "text": q.text} for q in waiting.questions]
        self.local.add("waiting", str(self.journal.head[:8]), {"questions": asked})
        self.local.commit()
        doubt = any(question.kind == "in_doubt" for question in waiting.questions)
        return Ended(
            run_id=self._folder.id,
            status="waiting",
            exit=Exit.IN_DOUBT if doubt else Exit.WAITING,
            folder=self._folder,
            questions=waiting.questions,
            head=self.journal.head,
        )

    def close(self) -> None:
        """Give the run back. Never fails and never hangs."""
        self._locks.close()
        self._logs.close()
        self.journal.close()


def exit_of(outcome: Outcome) -> Exit:
    """The exit code of an outcome (language: Exit codes)."""
    if outcome.status in ("succeeded", "skipped"):
        return Exit.SUCCEEDED
    if outcome.status in ("cancelled", "declined"):
        return Exit.CANCELLED
    if outcome.kind == "refused":
        return Exit.REFUSED
    if outcome.kind == "in_doubt" or outcome.status == "in_doubt":
        return Exit.IN_DOUBT
    return Exit.FAILED


@contextlib.contextmanager
def _signals(local: Local) -> Iterator[None]:
    """SIGINT and SIGTERM cancel the run; a second one its clean-up. In the main thread: Python allows no other."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def cancel(number: int, _frame: FrameType | None) -> None:
        local.cancel("Ctrl-C" if number == signal.SIGINT else "SIGTERM")

    before = {number: signal.signal(number, cancel) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _options_to_wire(options: Options) -> dict[str, Any]:
    return {
        "wait_lock": options.wait_lock,
        "preempt": options.preempt,
        "in_doubt": options.in_doubt,
        "interactive": options.interactive,
        "yes": options.yes,
    }


def _options_from_wire(wire: Mapping[str, Any], begun: Mapping[str, Any]) -> Options:
    trigger = begun.get("trigger")
    return Options(
        **wire,
        initiator=begun["initiator"],
        parent=begun["parent"],
        trigger=None if trigger is None else from_wire(trigger),
    )


__all__ = [
    "Ended",
    "Options",
    "RunbookError",
    "World",
    "answer",
    "cancel",
    "exit_of",
    "here",
    "questions",
    "resume",
    "start",
    "undo",
]
