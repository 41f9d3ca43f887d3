"""Processes of a run that die at a journal write or a request. A warm process forks one for each: imports cost most.

`python -m tests.emergency_child` reads orders as JSON lines: {folder, playbook, what: start | resume | undo, at, when,
in_doubt}.
`folder/coordinates.json` says where the world is: a sandbox in another process, or an environment for a real cluster.
SIGKILL comes from itself: before, after, or a moment after (amid) the at-th commit (0: never). With `request`, {at,
when, delay}, it comes at the at-th changing request to an API server: before it is sent, after its answer arrived and
before anybody saw it, or (amid) `delay` seconds after it began. One that comes amid spares a run, or an undo,
that is at its last word: it was not killed.
The answer is a line: {signal} or its outcome, with `requests`: the number of changing requests.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from runbook.actions._kube.transport import Transport
from runbook.interpreter.errors import RunbookError
from runbook.runner import session
from runbook.runner.journal import Journal
from runbook.runner.store import Store
from runbook.runner.surroundings import Real
from runbook.sandbox import surroundings
from tests import emergency

ACTIONS = ("k8s", "helm", "prometheus", "pg", "slack", "pagerduty", "statuspage", "_kube.cluster", "_kube.forward")
RUNNER = ("builtins", "gate", "objectives", "preflight", "report", "tolerance", "walk")
WARM = (
    *(f"runbook.actions.{name}" for name in ACTIONS),
    *(f"runbook.runner.{name}" for name in RUNNER),
    "runbook.interpreter.engine",
    "urllib3",
    "yaml",
)
"""What a run imports when it first needs it."""

LAST = ("run.ended", "undo.ended")
"""The last words of a run and of its undo: who is killed after them was not killed in its midst."""

AMID = 0.3  # seconds after a commit: the action that it let begin is at its work


def serve() -> None:
    """Until the orders end."""
    for name in WARM:
        importlib.import_module(name)
    emergency.load(emergency.PLAYBOOKS / "emergency.yaml")
    gc.freeze()  # a collection in a fork would write to every page that it shares with this process
    for line in sys.stdin:
        order = json.loads(line)
        readable, writable = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(readable)
            _live(order, writable)
        os.close(writable)
        with os.fdopen(readable) as pipe:
            said = pipe.read()
        _, status = os.waitpid(pid, 0)
        found: dict[str, Any] = json.loads(said) if said else {"exit": os.waitstatus_to_exitcode(status)}
        if os.WIFSIGNALED(status):
            found = {"signal": os.WTERMSIG(status)}
        print(json.dumps(found), flush=True)


def _live(order: dict[str, Any], pipe: int) -> None:
    """In the fork. Never returns."""
    write, writes = Journal._write, 0
    marks: dict[str, int] = {}
    death = _Death()

    def dying(self: Journal) -> None:
        nonlocal writes
        writes += 1
        for event in self._fresh:
            marks.setdefault(f"{event.kind} {event.key}", writes)
            if event.kind in LAST:
                death.spare()
        now = order["when"] if writes == order["at"] else ""
        if now == "before":
            death.come()
        write(self)
        if now == "after":
            death.come()
        if now == "amid":
            death.come_in(AMID)

    Journal._write = dying  # type: ignore[method-assign]  # the fault of this test
    changes = _Changes(death, **order.get("request") or {})
    code = 70
    try:
        found = _go(order)
        found |= {"writes": writes, "marks": marks, "requests": changes.sent}
        code = found["exit"]
        with os.fdopen(pipe, "w") as answer:
            answer.write(json.dumps(found))
    finally:
        os._exit(code)


class _Death:
    """The end of this process by SIGKILL: now, or later unless its run is at its last word before."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._spared = False

    def come(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def come_in(self, seconds: float) -> None:
        threading.Timer(seconds, self._come_late).start()

    def spare(self) -> None:
        with self._turn:
            self._spared = True

    def _come_late(self) -> None:
        with self._turn:
            if not self._spared:
                self.come()


class _Changes:
    """Counts the changing requests of this process to API servers, and dies at one of them."""

    def __init__(self, death: _Death, at: int = 0, when: str = "", delay: float = 0.0) -> None:
        self.sent = 0
        request = Transport.request

        def watched(transport: Transport, bounds: Any, method: str, path: str, **more: Any) -> Any:
            if method == "GET" or "dryRun=" in path or "reviews" in path:
                return request(transport, bounds, method, path, **more)
            self.sent += 1
            now = when if self.sent == at else ""
            if now == "before":
                death.come()
            if now == "amid":
                death.come_in(delay)
            answer = request(transport, bounds, method, path, **more)
            if now == "after":
                death.come()
            return answer

        Transport.request = watched  # type: ignore[method-assign,assignment]


def _go(order: dict[str, Any]) -> dict[str, Any]:
    folder = Path(order["folder"])
    where = json.loads((folder / "coordinates.json").read_text())
    real = "environ" in where
    around = session.World(
        store=Store(folder / "home"),
        surroundings=Real(where["environ"]) if real else surroundings.attach(folder / "coordinates.json", os.environ),
    )
    options = session.Options(in_doubt=order.get("in_doubt") or "ask")
    try:
        if order["what"] == "start":
            ended = emergency.start(Path(order["playbook"]), around, order.get("inputs") or {})
        elif order["what"] == "undo":
            ended = session.undo("last", world=around, options=options)
        else:
            ended = session.resume("last", world=around, options=options)
    except RunbookError as error:
        return {"raised": type(error).__name__, "message": error.message, "exit": int(error.exit)}
    outcome = ended.outcome
    return {
        "status": ended.status,
        "exit": int(ended.exit),
        "outputs": dict(outcome.outputs) if outcome is not None else None,
        "error": outcome.error.message if outcome is not None and outcome.error is not None else None,
        "questions": [question.key for question in ended.questions],
        "asked": [question.text for question in ended.questions],
    }


if __name__ == "__main__":
    serve()
