"""Questions for people that are open: asked on a terminal or by the mailbox, answered, given up.

A question's own time goes on while the run's stands still, and while the run is down: it is people's time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from runbook.contract import PermanentError
from runbook.interpreter.effects import Box, Fault, Question, Record
from runbook.interpreter.values import from_wire, to_wire
from runbook.runner import people
from runbook.runner.quiet import Future
from runbook.runner.records import fault_to_wire
from runbook.runner.typed_questions import typed

if TYPE_CHECKING:
    from runbook.runner.local import Local

Ask = Callable[[Question], people.Answer | None]
"""Asks a person on a terminal, in a thread of its own; None: nobody is there."""


@dataclass(eq=False, slots=True)
class Asked:
    question: Question
    box: Box
    own: Box | None  # the question's own time, which goes on while the run's stands still
    left: float  # seconds of it when it was asked
    since: float  # Unix time
    future: Future[Record]
    given: list[people.Answer] = field(default_factory=list)


class Questions:
    """The open questions of one process of a run. `here`: asks a person on this terminal; None: nobody is there."""

    def __init__(self, local: Local, here: Ask | None) -> None:
        self._local = local
        self.here = here
        self._asked: dict[str, Asked] = {}

    def __iter__(self) -> Iterator[Question]:
        """Those that are open."""
        return iter([asked.question for asked in self._asked.values()])

    def __bool__(self) -> bool:
        return bool(self._asked)

    def __contains__(self, key: str) -> bool:
        return key in self._asked

    async def ask(self, question: Question, box: Box) -> Record:
        """A question's answer: from the journal, by the command line's word, or from people."""
        local = self._local
        known = local.past.answer("ask", question.key)
        if known is not None:
            return known
        over = box.verdict(local.clock.running())
        if over is not None:
            return local.stopped("answered", question.key, {}, over)
        try:
            question = typed(question, local.policy.initiator)
        except PermanentError as error:
            return self._decided(question, people.Verdict("failed", {}, Fault(error.message, "permanent")))
        if question.kind == "in_doubt" and local.policy.in_doubt != "ask":
            return self._answered(question, people.Answer(local.policy.in_doubt, "--in-doubt", local.clock.wall()))
        return await self._wait_for_people(question, box)

    async def _wait_for_people(self, question: Question, box: Box) -> Record:
        before = self._local.past.asked.get(question.key)
        now, wall = self._local.clock.running(), self._local.clock.wall()
        if before is None:
            about = {"step": question.step, "kind": question.kind, "text": question.text}
            self._local.add("asked", question.key, {**about, "options": to_wire(question.options)})
        else:
            now, wall = before.at, before.wall
        own = own_box(question, box)
        left = own.due - now if own is not None and own.due is not None else float("inf")
        given = [people.Answer.from_wire(wire) for wire in self._local.past.given.get(question.key, ())]
        asked = self._asked[question.key] = Asked(question, box, own, left, wall, self._local.future(), given)
        self._local.look_again()  # its answer may be there already
        end = box.deadline()
        if end is not None:
            self._local.alarm(end, lambda: self._give_up(asked))
        if self.here is not None:
            self._local.later(lambda: self._local.threads.submit(lambda: self._ask_here(asked)))
        return await asked.future

    def _ask_here(self, asked: Asked) -> None:
        """In a thread: the terminal's answer, if anybody is there."""
        here = self.here
        if here is None:
            return
        try:
            answer = here(asked.question)
        except Exception as error:  # noqa: BLE001  # whatever the terminal does, the run goes on waiting or ends so
            text = f"the question could not be shown: {error}"
            self._local.post(lambda: self._local.tell("log", asked.question.key, {"text": text}))
            answer = None
        if answer is None:
            self._local.post(self._nobody_here)
        else:
            self._local.post(lambda: self._answer_from_here(asked.question.key, answer))

    def _answer_from_here(self, key: str, answer: people.Answer) -> None:
        asked = self._asked.get(key)
        if self.answer(key, answer) is not None and asked is not None and key in self._asked:
            self._local.threads.submit(lambda: self._ask_here(asked))  # it did not count: ask again

    def _nobody_here(self) -> None:
        self.here = None

    def answer(self, key: str, answer: people.Answer) -> str | None:
        """Somebody answered the question `key`. Returns why it does not count, or None."""
        asked = self._asked.get(key)
        if asked is None:
            return "this question is not open"
        why = people.refusal(asked.question, answer, asked.given, self._local.policy.initiator)
        if why is not None:
            self._local.tell("log", key, {"text": why})
            if answer.scenario:  # nobody would answer better if asked again
                fault = Fault(f"SIMULATED: the scenario {answer.scenario} gives an answer that does not count: {why}")
                self._decide(asked.question, people.Verdict("failed", {}, fault), asked.future)
                del self._asked[key]
            return why
        asked.given.append(answer)
        decided = people.verdict(asked.question, asked.given)
        if decided is None:
            self._local.add("answer.given", key, answer.to_wire())
            return None
        self._decide(asked.question, decided, asked.future)
        del self._asked[key]
        return None

    def _answered(self, question: Question, answer: people.Answer) -> Record:
        decided = people.verdict(question, [answer])
        assert decided is not None
        return self._decided(question, decided)

    def _decided(self, question: Question, decided: people.Verdict) -> Record:
        future = self._local.future()
        self._decide(question, decided, future)
        return future.result()

    def _decide(self, question: Question, decided: people.Verdict, future: Future[Record]) -> None:
        outputs = to_wire(decided.outputs)
        data = {"status": decided.status, "outputs": outputs, "error": fault_to_wire(decided.error)}
        seq, at, wall = self._local.add("answered", question.key, data)
        future.set_result(Record(seq, at, wall, status=decided.status, outputs=from_wire(outputs), error=decided.error))

    def _give_up(self, asked: Asked) -> None:
        """Its time is over, or it was cancelled."""
        key = asked.question.key
        if self._asked.get(key) is not asked:
            return
        over = asked.box.verdict(self._local.clock.running())
        if over is None and asked.own is not None and self._patience(asked) <= 0:
            over = ("timed_out", asked.own.key)
        if over is not None:
            del self._asked[key]
            asked.future.set_result(self._local.stopped("answered", key, {}, over))

    def _patience(self, asked: Asked) -> float:
        """Seconds until the question's own time is over; it goes on while nobody works, and while the run is down."""
        return asked.since + asked.left - self._local.clock.wall()

    def give_up_overdue(self) -> bool:
        """Give up those whose own time is over; True when there was one."""
        overdue = [asked for asked in self._asked.values() if self._patience(asked) <= 0]
        for asked in overdue:
            self._give_up(asked)
        return bool(overdue)

    def cut_stopped(self) -> None:
        """A box was stopped: what is asked under it is not waited for any more."""
        for asked in list(self._asked.values()):
            self._give_up(asked)

    def patience(self) -> float:
        """Seconds until the first question's own time is over."""
        return min((self._patience(asked) for asked in self._asked.values()), default=float("inf"))


def own_box(question: Question, box: Box) -> Box | None:
    """The innermost box with an end that belongs to the question's own step, not to what it stands in."""
    found: Box | None = box
    while found is not None:
        rest = question.key.removeprefix(found.key)
        if found.due is not None:
            return found if rest != question.key and "/" not in rest else None
        found = found.parent
    return None
