"""The interpreter inside a Temporal workflow: another `Effects`, nothing else. What the sandbox refuses, refuses here.

Imported twice: by the tests, and again by temporalio's workflow sandbox for each run. There `runbook.interpreter` is
not passed through: every module of it is loaded under the sandbox's eyes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import activity, workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():  # foreign code, slow to import again for each run
    import _ruamel_yaml  # noqa: F401
    import jinja2
    import jinja2.nativetypes
    import jinja2.sandbox  # noqa: F401
    import markupsafe  # noqa: F401

import runbook.interpreter.environment
import runbook.interpreter.syntax  # noqa: F401  # both come late otherwise: the interpreter imports jinja2 when it must
from runbook.interpreter.catalogue import from_schema
from runbook.interpreter.effects import Box, Call, Fault, Question, Record, SecretRef, StopKind
from runbook.interpreter.engine import Engine, RunInfo
from runbook.interpreter.inputs import coerce
from runbook.interpreter.load import load
from runbook.interpreter.values import from_wire, to_wire

T = TypeVar("T")
HELD: dict[str, list[str]] = {"calls": []}  # the activities' side: what really happened


@activity.defn(name="act")
async def act(job: dict[str, Any]) -> dict[str, Any]:
    """One action of the toy world: it fails, or says what it was asked."""
    HELD["calls"].append(job["key"])
    if job["args"].get("fail"):
        return {"status": "failed", "error": job["args"]["fail"]}
    inverse = {"key": job["args"]["key"], "value": None} if job["effect"] == "change" else None
    return {"status": "succeeded", "outputs": {"value": job["args"].get("value")}, "inverse": inverse}


@workflow.defn(name="Playbook")
class PlaybookWorkflow:
    """Loads a playbook from its text and runs it."""

    def __init__(self) -> None:
        self.ended: list[tuple[str, str]] = []
        self.seq = 0

    @workflow.run
    async def run(self, spec: dict[str, Any]) -> dict[str, Any]:
        loaded = load("playbook.yaml", spec["files"].__getitem__, from_schema(spec["actions"]))
        if loaded.playbook is None or any(problem.severity == "error" for problem in loaded.problems):
            return {"status": "invalid", "problems": [str(problem) for problem in loaded.problems]}
        inputs, _ = coerce(loaded.playbook.inputs, spec["inputs"], {}, loaded.playbook.place)
        self.began = workflow.time()
        engine = Engine(loaded.playbook, inputs, RunInfo("r1", loaded.playbook.name, "ann", self.began), self)
        main = asyncio.create_task(engine.run())
        while not main.done():
            try:
                await workflow.wait_condition(main.done)
            except asyncio.CancelledError:
                if workflow.cancellation_reason() is None:  # no cancel: this worker evicts the workflow
                    raise
                engine.work.stopped = engine.work.stopped or "cancelled"
        out = main.result()
        return {
            "status": out.status,
            "outputs": to_wire(out.outputs),
            "error": None if out.error is None else out.error.message,
            "steps": sorted(self.ended),
        }

    # --- Effects

    def spawn(self, work: Coroutine[Any, Any, T]) -> Awaitable[T]:
        return asyncio.create_task(work)

    def now(self) -> float:
        return workflow.time() - self.began

    def record(self, **what: Any) -> Record:
        self.seq += 1
        return Record(self.seq, self.now(), workflow.time(), **what)

    async def start(self, key: str, box: Box, about: Mapping[str, Any]) -> Record:
        verdict = box.verdict(self.now())
        return self.record(status="running") if verdict is None else self.record(status=verdict[0], by=verdict[1])

    async def call(self, call: Call, box: Box) -> Record:
        verdict = box.verdict(self.now())
        if verdict is not None:
            return self.record(status=verdict[0], by=verdict[1])
        job = {"key": call.key, "effect": call.effect, "args": to_wire(dict(call.args))}
        handle = workflow.start_activity("act", job, start_to_close_timeout=timedelta(seconds=30))
        cut = await self.until(handle.done, box, None)
        if cut is not None:
            handle.cancel()
            return self.record(status=cut[0], by=cut[1])
        try:
            answer = await handle
        except ActivityError as raised:
            return self.record(status="failed", error=Fault(str(raised.cause), temporary=True))
        back = answer.get("inverse")
        inverse = None if back is None else Call("", "", "", "toy.set", back, "change")
        error = None if answer.get("error") is None else Fault(answer["error"])
        return self.record(
            status=answer["status"], outputs=from_wire(answer.get("outputs")), error=error, inverse=inverse
        )

    async def until(self, done: Callable[[], bool], box: Box, seconds: float | None) -> tuple[StopKind, str] | None:
        """Wait until it is done, for so many seconds, or until the box is over: why, if it was that."""
        end = None if seconds is None else self.now() + seconds
        while not done():
            moments = [moment for moment in (end, box.deadline()) if moment is not None]
            left = None if not moments else max(0.001, min(moments) - self.now())
            with contextlib.suppress(TimeoutError):
                await workflow.wait_condition(lambda: done() or box.verdict(self.now()) is not None, timeout=left)
            if done() or (end is not None and self.now() >= end):
                return None
            if (verdict := box.verdict(self.now())) is not None:
                return verdict
        return None

    async def ask(self, question: Question, box: Box) -> Record:
        return self.record(status="declined")

    async def sleep(self, key: str, seconds: float, box: Box, *, jitter: bool = False) -> Record:
        verdict = box.verdict(self.now()) or (await self.until(lambda: False, box, seconds) if seconds > 0 else None)
        return self.record() if verdict is None else self.record(status=verdict[0], by=verdict[1])

    async def lock(self, key: str, names: tuple[str, ...], box: Box, *, first: bool = False) -> Record:
        return self.record()

    async def unlock(self, key: str, names: tuple[str, ...]) -> Record:
        return self.record()

    async def secrets(self, key: str, refs: tuple[SecretRef, ...], box: Box) -> Record:
        return self.record(outputs={ref.name: True for ref in refs})

    async def stop(self, box: Box, kind: StopKind, why: str) -> None:
        box.stopped = box.stopped or kind

    def opened(self, box: Box) -> None:
        """Nothing is stopped before it began: a workflow is replayed from its beginning."""

    def emit(self, kind: str, key: str, data: Mapping[str, Any]) -> None:
        to_wire(dict(data))
        if kind == "step.ended":
            self.ended.append((key, data["status"]))
