"""Before a run changes anything: what its steps need, and what of that is missing, all at once.

A walk by the engine itself (`walk`) finds the calls that the run may make and what is known of their parameters. Then
every call's action looks for what it needs, all at the same time and together for no longer than SECONDS, or LONGEST as
long as one of them gets on. What is missing refuses the run, unless the run could do without it (`tolerance`).
Decision: docs/decisions/0009-preflight.md.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from runbook.contract import Absent, ForUndo
from runbook.interpreter.effects import Call, Fault
from runbook.interpreter.frozen import frozen
from runbook.interpreter.unknown import Unknown
from runbook.interpreter.values import to_wire
from runbook.runner import secret_looks, shape
from runbook.runner.context import HostContext, Outbox, cut_all
from runbook.runner.outcomes import Result
from runbook.runner.secret_looks import SecretLack, SecretLooks, Wanted
from runbook.runner.threads import Threads
from runbook.runner.wording import listed, together

if TYPE_CHECKING:
    from runbook.interpreter.engine import RunInfo
    from runbook.interpreter.model import Playbook
    from runbook.runner.host import Host
    from runbook.runner.walk import Walk

SECONDS = 3.0
"""For all looks of a run together: then it goes on, with a warning that says what was not checked."""
LONGEST = 10.0
"""The same, where a look of several parts says that it gets on (`Context.progress`): each part has SECONDS."""
WIDTH = 8
"""Looks at the same time."""
HINT = "--no-preflight runs it all the same"


@frozen
class Lack:
    """What a step needs and does not find. `why`: why that is only a warning; '' where it refuses the run. `secret`: it
    is one, which a run cannot do without either."""

    step: str
    sentence: str
    why: str = ""
    secret: bool = False

    def __str__(self) -> str:
        return (f"{self.step}: " if self.step else "") + self.sentence + (f" ({self.why})" if self.why else "")


@frozen
class Findings:
    """What preflight found. `unchecked`: of what nobody could tell; `later`: what is known only at the run."""

    missing: tuple[Lack, ...] = ()
    warnings: tuple[Lack, ...] = ()
    unchecked: tuple[str, ...] = ()
    later: tuple[str, ...] = ()

    def fault(self) -> Fault | None:
        """Why the run is refused; None when it may begin."""
        if not self.missing:
            return None
        hint = secret_looks.HINT if any(lack.secret for lack in self.missing) else HINT
        if len(self.missing) == 1:
            return Fault(f"nothing was begun: {self.missing[0]}", kind="refused", hint=hint)
        lines = ["nothing was begun, as something is missing:", *together(map(str, self.missing))]
        return Fault("\n".join(lines), kind="refused", hint=hint)

    def told(self) -> list[tuple[str, str]]:
        """What to warn of: a step ('' none) and a sentence each."""
        lacks = [(lack.step, f"{lack.sentence} ({lack.why})") for lack in self.warnings]
        return lacks + [("", f"not checked: {sentence}") for sentence in self.unchecked]

    def to_wire(self) -> dict[str, Any]:
        """For the journal."""
        found = {
            "missing": list(map(str, self.missing)),
            "warnings": list(map(str, self.warnings)),
            "unchecked": list(self.unchecked),
            "later": list(self.later),
        }
        return {name: sentences for name, sentences in found.items() if sentences}


@frozen
class Looked:
    """What one call's action said. `unchecked`: why nobody could tell; `later`: what its parameters wait for."""

    call: Call
    sentences: tuple[str, ...] = ()
    unchecked: str = ""
    later: str = ""
    secret: bool = False


def find(playbook: Playbook, inputs: Mapping[str, Any], info: RunInfo, host: Host) -> Findings:
    """Walk the playbook and look. Never fails: what goes wrong in here is no reason to refuse a run."""
    if not shape.looks_ahead(playbook):
        return Findings()
    try:
        walk, until = walked(playbook, inputs, info, host), time.monotonic() + SECONDS
        secrets = SecretLooks(host, walk.secrets_wanted)
        looked = look(host, walk.calls)
        found = judged(playbook, [*_lacks(secrets.until(until)), *looked], walk.behind, walk.skipped)
        rest = f"what comes after {len(walk.calls)} calls: too many to look at before the run"
        return found if walk.whole else replace(found, later=(*found.later, rest))
    except (Exception, Unknown.Reached) as error:  # noqa: BLE001  # a bug of ours must not stand in a recovery's way
        return Findings(unchecked=(f"what the steps need ({type(error).__name__}: {host.secrets.mask(str(error))})",))


def lacking(host: Host, wanted: Sequence[Wanted]) -> list[Looked]:
    """Which of these secrets are not there."""
    return _lacks(SecretLooks(host, wanted).until(time.monotonic() + SECONDS))


def _lacks(secrets: Sequence[SecretLack]) -> list[Looked]:
    return [
        Looked(lack.call, (lack.sentence,) if lack.sentence else (), lack.unchecked, secret=True) for lack in secrets
    ]


def walked(playbook: Playbook, inputs: Mapping[str, Any], info: RunInfo, host: Host) -> Walk:
    """The calls that a run may make, without any look at the world."""
    from runbook.runner.walk import Walk

    walk = Walk(host)
    walk.through(playbook, inputs, info)
    return walk


def of_undo(calls: Sequence[Call], host: Host) -> Findings:
    """What inverses lack. An undo stops at the first that fails, so each is needed."""
    looked = look(host, calls)
    lacks = [Lack(said.call.step, str(sentence)) for said in looked for sentence in said.sentences]
    return Findings(missing=tuple(dict.fromkeys(lacks)), unchecked=_unchecked(looked))


def _unchecked(looked: Sequence[Looked]) -> tuple[str, ...]:
    """A sentence for each reason why nobody could tell, with the steps that it holds for."""
    steps: dict[str, list[str]] = {}
    for said in looked:
        if said.unchecked and said.call.step not in steps.setdefault(said.unchecked, []):
            steps[said.unchecked].append(said.call.step)
    return tuple(f"{listed(names)}: {reason}" for reason, names in steps.items())


def judged(
    playbook: Playbook, looked: Sequence[Looked], behind: Iterable[str] = (), skipped: Iterable[str] = ()
) -> Findings:
    """What was found, weighed: what a step lacks refuses the run unless the run could do without the step.

    `behind`: operations behind a step that may bring what is Absent. `skipped`: steps that are not needed.
    """
    from runbook.runner.tolerance import reasons

    lacking = [(said.call, sentence, said.secret) for said in looked for sentence in said.sentences]
    later = frozenset(behind)
    needed = [call for call, sentence, _ in lacking if not _spared(call, sentence, later)]
    why = reasons(playbook, needed, skipped)
    lacks = [
        Lack(call.step, str(sentence), _spared(call, sentence, later) or why[call.op], secret)
        for call, sentence, secret in lacking
    ]
    return Findings(
        missing=tuple(dict.fromkeys(lack for lack in lacks if not lack.why)),
        warnings=tuple(dict.fromkeys(lack for lack in lacks if lack.why)),
        unchecked=_unchecked(looked),
        later=tuple(dict.fromkeys(f"{said.call.step}: known after {said.later}" for said in looked if said.later)),
    )


def _spared(call: Call, sentence: str, behind: frozenset[str]) -> str:
    """Why this is no lack of the step itself; '' where it is one."""
    if isinstance(sentence, ForUndo):
        return "only its undo needs it"
    return "an earlier step may bring it" if isinstance(sentence, Absent) and call.op in behind else ""


def look(host: Host, calls: Sequence[Call]) -> list[Looked]:
    """Let the calls' actions look, side by side, all within SECONDS (LONGEST if they get on). Equal calls look once."""
    groups: dict[str, list[Call]] = {}
    for call in calls:
        groups.setdefault(f"{call.action}\n{json.dumps(to_wire(dict(call.args)), sort_keys=True)}", []).append(call)
    found = _Looks(host, [same[0] for same in groups.values()]).within(SECONDS)
    return [
        Looked(call, said.sentences, said.unchecked, said.later)
        for same, said in zip(groups.values(), found, strict=True)
        for call in same
    ]


class _Looks:
    """Looks at the same time, which all end together."""

    def __init__(self, host: Host, calls: Sequence[Call]) -> None:
        self._host = host
        self._calls = calls
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._todo = list(range(len(calls)))[::-1]
        self._contexts: dict[int, HostContext] = {}
        self._found: dict[int, Looked] = {}
        self._seconds = self._until = self._end = 0.0

    def within(self, seconds: float) -> list[Looked]:
        """What each said, in order; those who did not come back in time are cut."""
        if not self._calls:
            return []
        began = time.monotonic()
        self._seconds, self._until, self._end = seconds, began + seconds, began + max(seconds, LONGEST)
        threads = Threads("preflight")
        for _ in range(min(WIDTH, len(self._calls))):
            threads.submit(self._work)
        while (left := self._until - time.monotonic()) > 0 and not self._done.wait(left):
            pass  # somebody got on meanwhile, or the time is over
        with self._lock:
            self._todo.clear()
            late, found = list(self._contexts.values()), dict(self._found)
        for context in late:
            threads.submit(lambda context=context: cut_all(context.stop()))  # type: ignore[misc]  # bound early
        slow = f"no answer within {max(seconds, round(self._until - began)):g} s"
        return [found.get(number) or Looked(call, unchecked=slow) for number, call in enumerate(self._calls)]

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._todo:
                    return
                number = self._todo.pop()
                left = max(0.0, self._until - time.monotonic())
                # A mark of its own: what is cut late must not take the step's own processes with it.
                call = replace(self._calls[number], op=f"{self._calls[number].op}?")
                getting_on = _GettingOn(lambda number=number: self._goes_on(number))  # type: ignore[misc]  # bound early
                context = self._contexts[number] = self._host.context(call, left, outbox=getting_on)
            said = said_of(self._calls[number], self._host.preflight(self._calls[number], context))
            with self._lock:
                del self._contexts[number]
                self._found[number] = said
                if len(self._found) == len(self._calls):
                    self._done.set()
            context.leave()

    def _goes_on(self, number: int) -> None:
        """A look has come to its next part."""
        with self._lock:
            context = self._contexts.get(number)
            left = min(self._end - time.monotonic(), self._seconds)
            if context is not None and left > 0:
                context.until(left)
                self._until = max(self._until, time.monotonic() + left)


class _GettingOn(Outbox):
    """Hears that a look gets on; what else it says is kept nowhere."""

    def __init__(self, tell: Callable[[], None]) -> None:
        self._tell = tell

    def progress(self, key: str, done: float, total: float) -> None:
        """It has come to its next part."""
        self._tell()


def said_of(call: Call, found: list[str] | Result) -> Looked:
    """What a host's phase `preflight` gave back."""
    if isinstance(found, list):
        return Looked(call, tuple(found))
    fault = found.error or Fault(found.status)
    if fault.kind == "unknown":
        return Looked(call, later=fault.message)
    return Looked(call, unchecked=fault.message)
