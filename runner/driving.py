"""One process's part of a run: its parts put together, the engine driven to its end, the end written down."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import threading
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

from runbook.interpreter.effects import Call, Effects, Fault, Question
from runbook.interpreter.errors import CrashError, Exit, RefusedError, RunbookError
from runbook.interpreter.frozen import frozen
from runbook.interpreter.values import from_wire, to_wire
from runbook.runner import lock_place, processes, shape
from runbook.runner.clock import Clock
from runbook.runner.host import Host
from runbook.runner.journal import Event, Journal
from runbook.runner.local import Local, Policy, WaitingError
from runbook.runner.lock_waits import PATIENCE, POLL, POLL_FAR
from runbook.runner.locks import LockError, Locks
from runbook.runner.pins import Pins
from runbook.runner.preempting import Ender
from runbook.runner.questions import Ask
from runbook.runner.records import Past, fault_to_wire
from runbook.runner.rounds import Rounds
from runbook.runner.step_logs import StepLogs
from runbook.runner.store import RunFolder
from runbook.runner.world import World, secrets_of

if TYPE_CHECKING:
    from runbook.interpreter.engine import Engine, Outcome
    from runbook.interpreter.model import Playbook
    from runbook.runner.standing import Standing

Listener = Callable[[Event], None]


@frozen(kw_only=True)
class Options:
    """What the command line decided. `cleanup_only`: on resume, end what is open and do nothing new. `preflight`: look
    before the first change whether rights, tools and places are there. `accept`: steps whose changes an undo leaves as
    they are; `why`: in the words of who says so."""

    initiator: str = ""
    wait_lock: bool = False
    preempt: bool = False
    in_doubt: Literal["ask", "repeat", "done", "fail"] = "ask"
    interactive: bool = False
    cleanup_only: bool = False
    yes: bool = False
    preflight: bool = True
    accept: tuple[str, ...] = ()
    why: str = ""
    parent: str | None = None
    trigger: Mapping[str, Any] | None = None
    locks: str = ""  # where they live (lock_place.parse); '' = as the playbook or the environment says

    def to_wire(self) -> dict[str, Any]:
        """What the journal keeps of it, beside initiator, parent and trigger."""
        return {name: getattr(self, name) for name in _KEPT}

    @classmethod
    def from_begun(cls, begun: Mapping[str, Any]) -> Options:
        """As `run.begun` holds them."""
        trigger = begun.get("trigger")
        return cls(
            **{name: value for name, value in begun["options"].items() if name in _KEPT},
            initiator=begun["initiator"],
            parent=begun["parent"],
            trigger=None if trigger is None else from_wire(trigger),
        )


_KEPT = ("wait_lock", "preempt", "in_doubt", "interactive", "yes", "locks")


@frozen
class Unfinished:
    """Clean-up that a second cancel skipped or cut: a phase (undo, on_failure, temporary, finally) of a step."""

    path: str
    phase: str


@frozen(kw_only=True)
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


class Run:
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
        self._locks = lock_place.opened(world, options.locks, folder)
        if isinstance(self._locks, Locks):
            self._locks.ender = Ender(world)
        self._logs = StepLogs(folder.logs)
        self.local: Local
        self._host: Host | None = None
        self.started_at = 0.0
        self.resumed_by: str | None = None
        self.plan: str | None = None  # the saved plan that this run applies
        self.rounds = Rounds()

    def open(self, listeners: Sequence[Listener], ask: Ask | None) -> None:
        """Put the parts together."""
        world, options, registry = self._world, self._options, self._world.registry
        if registry is None:
            from runbook.runner import registry
        folder = self._folder
        secrets = secrets_of(world, folder.path, self.cwd)
        around = world.surroundings
        pins = self._pins()
        host = self._host = Host(
            registry, secrets, around, folder=folder.path, run_id=folder.id, cwd=self.cwd, pins=pins
        )
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

    def _pins(self) -> Pins:
        """What names mean in this run; what is found anew is on record before anything that rests on it."""

        def write(key: str, value: str) -> None:
            def add() -> None:
                self.local.add("pinned", key, {"value": value})

            self.local.post(add)

        return Pins(self._past.pins, write)

    def _guard(self) -> Callable[[Call, str | None], Fault | None] | None:
        """What holds this run to the plan that it applies, if it applies one."""
        if self.plan is None:
            return None
        from runbook.runner.guard import Guard
        from runbook.runner.plan import Plan

        return Guard(Plan.from_json(self.plan)).refusal

    def retake(self) -> None:
        """After a resume: say so, and take back the locks that are on record as ours."""
        me, ours = processes.me(), self._past.tokens()
        try:
            lost = self._locks.retake(ours) if ours else []
            if lost and self._options.cleanup_only:
                self._take_again(list(ours))
        except LockError as error:
            raise RefusedError(error.message, error.hint) from error
        if lost and not self._options.cleanup_only:
            raise RefusedError(
                f"another run held lock {', '.join(lost)} meanwhile: going on could undo what it did",
                f"`runbook resume {self._folder.id} --cleanup` only ends what is open",
            )
        tokens = {"tokens": dict(self._locks.tokens)} if ours else {}
        self.local.add("resumed", "", {"pid": me.pid, "host": me.host, "initiator": self.resumed_by, **tokens})

    def _take_again(self, names: Sequence[str]) -> None:
        """Clean-up does not collide with who got the locks meanwhile: it waits until they are free."""
        until = time.monotonic() + PATIENCE
        while (held := self._locks.take(names)) is not None:
            if time.monotonic() >= until or not self._options.wait_lock:
                raise RefusedError(str(held), "--wait-lock waits for it")
            time.sleep(POLL_FAR if self._locks.remote else POLL)

    def drive(self, what: str, round_: str, accepted: Sequence[str] = ()) -> Ended:
        """Run the engine to its end: the run itself (`run`), an undo, or the clean-up that is left (`finish`).

        `accepted`: paths of changes that this undo and all later ones leave as they are.
        """
        options, engine = self._options, self._engine(self.local)
        self.local.root = {"run": "@run"}.get(what, f"@{what}[{round_}]")
        if options.cleanup_only:
            self.local.cancel_now("only clean-up was asked for")
        if what != "run" and (what, round_) not in self.rounds.played:
            self.rounds.begin(what, round_, tuple(accepted))
            said = {"accepted": list(accepted), "why": options.why} if accepted else {}
            self.local.add(f"{what}.begun", round_, {"initiator": self.resumed_by, **said})
        try:
            with _signals(self.local):
                first, last = self.local.run(self._play(engine))
        except WaitingError as waiting:
            return self._parked(waiting)
        except RunbookError:
            raise
        except Exception as bug:  # noqa: BLE001  # told by who does not know the secrets of this run
            told = self.local.host.secrets.mask("".join(traceback.format_exception(bug)))
            raise CrashError(type(bug).__name__, str(told)) from None
        if what == "finish" and last.ok:
            last = first  # what the run came to stays what it is; only its clean-up was left
        return self._ended(engine, last, what, round_)

    async def _play(self, engine: Engine) -> tuple[Outcome, Outcome]:
        """The run, and then every round that was played after it, in order; the run's outcome and the last one's."""
        if self._looks_ahead():
            from runbook.interpreter import playing
            from runbook.runner import gate  # most runs have nothing to look for, and need not import it

            refused = await gate.refusal(self.local, self._playbook, self._inputs, engine.info)
            if refused is not None and not playing.tells(self._playbook):
                return refused, refused
        first = last = await engine.run(self._past.refused)
        for what, round_ in self.rounds.played:
            last = await self.rounds.play(engine, what, round_)
        return first, last

    def _engine(self, fx: Effects) -> Engine:
        from runbook.interpreter.engine import Engine, RunInfo

        options = self._options
        info = RunInfo(
            self._folder.id, self._playbook.name, options.initiator, self.started_at, options.parent, options.trigger
        )
        return Engine(self._playbook, self._inputs, info, fx, interactive=options.interactive)

    @property
    def began(self) -> bool:
        """Whether it is on record that the run began; what preflight refused did at most tell people."""
        return ("start", "") in self._past.answers

    @property
    def refused(self) -> bool:
        """Whether preflight refused it, or it was stopped before it began."""
        return not self.began or self._past.refused is not None

    def standing(self) -> list[Standing]:
        """What an undo would take back now, in its order, and what it was told to leave. Of a run that has ended."""
        from runbook.runner import standing
        from runbook.runner.recall import Recall

        recall = Recall(self._past)
        return standing.of_run(self._engine(recall), recall, self.rounds)

    def accepting(self, stands: Sequence[Standing]) -> list[str]:
        """The paths of what the options accept and nobody accepted before. InvalidError: nothing has to be accepted."""
        from runbook.runner import standing

        done = {str(intent["op"]) for intent in self._past.intents.values()}
        before = {one.path for one in stands if one.accepted}
        chosen = standing.chosen(self._options.accept, stands, self.rounds.gone, done)
        return [path for path in dict.fromkeys(chosen) if path not in before]

    def _looks_ahead(self) -> bool:
        """Whether to look before anything is begun what the steps need; not of a run that had begun."""
        options = self._options
        return not self.began and not options.cleanup_only and options.preflight and shape.looks_ahead(self._playbook)

    def look_before_undo(self, accepted: Collection[str]) -> None:
        """RefusedError where what would take back the changes lacks something; not of those that are accepted."""
        from runbook.runner import gate

        if self._options.preflight and self._host is not None:
            gate.before_undo(self.journal, self._past, self._host, accepted)

    def _ended(self, engine: Engine, outcome: Outcome, what: str, round_: str) -> Ended:
        from runbook.runner import objectives

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
                    self._playbook,
                    engine.scope.at(0.0),
                    self.journal.events(),
                    self.started_at,
                    well=what == "run" and outcome.ok,
                ),
                "head": self.journal.head,
            }
            local.add("run.ended", "", ended)
        local.commit()
        with contextlib.suppress(LockError):  # the run has ended; what cannot be given back expires
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
        try:
            self._locks.park()
        except LockError as error:
            message = f"{error.message}: the locks are not parked, another run may take them before this one goes on"
            self.local.add("warning", "", {"message": message})
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
        if self._host is not None:
            self._host.clients.close()
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
    return Exit.FAILED  # also a doubt that somebody answered with fail: no decision is needed any more


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
