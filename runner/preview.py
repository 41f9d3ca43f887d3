"""Effects of a preview: reads run, checks are tried once, changes are looked at and not made, time passes in numbers.

It is Effects only. The engine has no preview mode: every record here says `sure=False`, and its one `decide` shows what
may happen. No changing request leaves this module: the host's `prepare` reads, and `apply` is never called.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from runbook.contract import Action, Change, PermanentError, TemporaryError
from runbook.interpreter.effects import Box, Call, Fault, Question, Record, SecretRef, Status, StopKind
from runbook.interpreter.errors import RunbookError
from runbook.interpreter.unknown import Unknown, likely, why_unknown
from runbook.interpreter.values import from_wire, to_wire
from runbook.runner.context import HostContext, cut_all
from runbook.runner.diff import Difference
from runbook.runner.host import Host
from runbook.runner.outcomes import Intent, Result
from runbook.runner.plan import BEHIND, Row, Verdict
from runbook.runner.preflight import Looked, said_of
from runbook.runner.rotated import covered_text
from runbook.runner.secret_looks import looked_for
from runbook.runner.threads import Threads
from runbook.runner.typed_questions import typed
from runbook.runner.walk import looks_ahead

T = TypeVar("T")

LOOK_SECONDS = 30.0
"""At most so long for one look, whatever the step's own time-out: a plan is waited for."""
GRACE = 0.5


class Preview:
    """The engine's effects for a plan. `rows` fill up in the order in which steps would begin."""

    def __init__(self, host: Host, holders: Callable[[tuple[str, ...]], list[str]] | None = None) -> None:
        """`holders`: of these locks, who holds which now, in sentences; LockError where nobody can tell."""
        self._host = host
        self._holders = holders or (lambda _: [])
        self._threads = Threads("preview")
        self._began = time.time()
        self._at = 0.0
        self._seq = 0
        self._worlds: set[str] = set()  # where something would have changed by now
        self._asked_before: set[str] = set()  # operations whose first attempt gave an answer: polls
        self.rows: dict[str, Row] = {}
        self.looked: list[Looked] = []  # what the steps need and lack
        self.behind: set[str] = set()  # operations behind one that may bring what they miss
        self._brought = False
        self.warnings: list[str] = []
        self.locks: list[str] = []

    # -- Effects

    def spawn(self, work: Coroutine[Any, Any, T]) -> Awaitable[T]:
        return asyncio.create_task(work)

    async def start(self, key: str, box: Box, about: Mapping[str, Any]) -> Record:
        kind = str(about.get("kind", ""))
        if key and kind != "inverse":
            self.rows[key] = Row(
                key=key,
                id=str(about.get("id", "")),
                depth=depth_of(key),
                verdict="block",
                name=str(about.get("name") or ""),
                kind=kind,
                action=str(about.get("action") or ""),
            )
        over = box.verdict(self._at)
        if over is not None:
            return self._record(over[0], by=over[1])
        return self._record("running")

    async def call(self, call: Call, box: Box) -> Record:
        over = box.verdict(self._at)
        if over is not None:
            return self._record(over[0], by=over[1])
        self._row(call.op, effect=call.effect, args=_shown(call.args), maybe=call.maybe)
        call = replace(call, args=likely(call.args))
        unknown = why_unknown(call.args)
        if call.effect in ("change", "opaque", "notify"):
            return await self._effect(call, box, unknown)
        if call.effect == "local":
            self._row(call.op, verdict="local")
            return self._record(outputs=Unknown(f"the run of {call.step}"))
        return await self._look(call, box, unknown)

    async def ask(self, question: Question, box: Box) -> Record:
        key = _step_key(question.key)
        try:
            question = typed(question)
        except PermanentError as error:
            self._row(key, verdict="failed", error=error.message)
            return self._record("failed", sure=True, error=Fault(error.message, "permanent"))
        self._row(key, verdict="ask", maybe=question.maybe, detail=question.text, effect="ask")
        return self._record(outputs=Unknown(f"the answer to {question.step}"))

    async def sleep(self, key: str, seconds: float, box: Box, *, jitter: bool = False) -> Record:
        step = _step_key(key)
        row = self.rows.get(step)
        if row is not None and row.action == "flow.wait":
            self._row(step, verdict="wait", seconds=seconds)
        self._at += seconds
        over = box.verdict(self._at)
        return self._record() if over is None else self._record(over[0], by=over[1])

    async def lock(self, key: str, names: tuple[str, ...], box: Box, *, first: bool = False) -> Record:
        self.locks += [name for name in names if name not in self.locks]
        try:
            self.warnings += await self._in_thread(lambda: self._holders(names), LOOK_SECONDS, lambda: None)
            absent: tuple[str, ...] = ()
        except (RunbookError, TimeoutError) as error:
            absent = (str(error) or "nobody can tell in time who holds the locks",)
        at = key.partition("@")[0].strip("/")
        self.looked.append(Looked(Call(at, at, at, action="", args={}, effect="read"), absent))
        return self._record()

    async def unlock(self, key: str, names: tuple[str, ...]) -> Record:
        return self._record()

    async def secrets(self, key: str, refs: tuple[SecretRef, ...], box: Box) -> Record:
        present: dict[str, bool] = {}
        sentences: list[str] = []

        def resolve() -> None:
            for ref in refs:
                try:
                    present[ref.name] = self._host.secrets.resolve(ref)
                except (RunbookError, TemporaryError, PermanentError) as error:
                    present[ref.name] = False
                    sentences.append(error.message)

        await self._in_thread(resolve, LOOK_SECONDS, lambda: None)
        at = key.partition("@")[0].strip("/")
        absent = tuple(
            f"a secret is not there: {looked_for(ref)}"
            for ref in refs
            if not present.get(ref.name) and not ref.optional
        )
        maybe, spare = (refs[0].maybe, refs[0].spare) if refs else (False, False)
        call = Call(at, at, at, action="", args={}, effect="read", maybe=maybe, spare=spare)
        self.looked.append(Looked(call, absent, secret=True))
        self.warnings += sentences
        return self._record(outputs=present)

    async def stop(self, box: Box, kind: StopKind, why: str) -> None:
        box.stopped = kind

    def opened(self, box: Box) -> None:
        """Nothing is on record in a preview."""

    def emit(self, kind: str, key: str, data: Mapping[str, Any]) -> None:
        if kind != "step.ended" or key not in self.rows:
            return
        row = self.rows[key]
        error = data.get("error") or {}
        if data.get("status") == "skipped":
            self._row(key, verdict="skip")
        elif data.get("status") == "failed" and row.kind == "action" and not row.error:
            message = error.get("message") if isinstance(error, Mapping) else getattr(error, "message", "")
            self._row(key, verdict="failed", error=str(message or "failed"))
        self._row(key, tolerated=bool(data.get("tolerated")))

    # -- looking

    async def _look(self, call: Call, box: Box, unknown: str | None) -> Record:
        """A read or a check: really done, unless what it asks is not known yet."""
        label = f"{call.step} at the run"
        if unknown is not None:
            await self._preflight(call, box)
            self._row(call.op, verdict="read", detail=f"depends on {unknown}")
            return self._record(outputs=Unknown(label))
        if call.attempt > 1 and (call.effect == "check" or call.op in self._asked_before):
            return self._record(outputs=Unknown(label))  # a poll: tried once here, the run goes on trying
        result = await self._phase(call, box, lambda ctx: self._host.perform(call, ctx))
        behind = self._behind_a_change(call)
        if not result.ok:
            await self._preflight(call, box)
            return self._unseen(call, result, behind)
        self._asked_before.add(call.op)
        verdict: Verdict = "read"
        if call.effect == "check":
            verdict = "yes" if isinstance(result.outputs, Mapping) and result.outputs.get("ok", True) else "no"
        note = BEHIND if behind else ""
        self._row(call.op, verdict=verdict, detail=note)
        if behind or verdict == "no":
            return self._record(outputs=Unknown(label))
        return self._record(outputs=result.outputs)

    def _unseen(self, call: Call, result: Result, behind: bool) -> Record:
        """It could not be read now. Behind a planned change, and for checks, that says nothing about the run."""
        message = result.error.message if result.error is not None else result.status
        if behind or call.maybe or call.effect == "check":
            self._row(call.op, verdict="no" if call.effect == "check" else "read", detail=f"as of now: {message}")
            return self._record(outputs=Unknown(f"{call.step} at the run"))
        self._row(call.op, verdict="failed", error=message, hint=_hint(result))
        return self._record("failed", sure=True, outputs=result.outputs, error=result.error)

    async def _effect(self, call: Call, box: Box, unknown: str | None) -> Record:
        """A change, an opaque action or a notification: not done; a change is looked at."""
        kind = self._host.registry.find(call.action)
        after_run = Unknown(f"the run of {call.step}")
        await self._preflight(call, box)
        if unknown is not None:
            self._row(call.op, verdict=_verdict(call), detail=f"depends on {unknown}", undo="unknown")
            self._touched(call, kind)
            return self._record(outputs=after_run, changed=call.effect == "change")
        if call.effect != "change":
            irreversible = call.effect == "opaque"
            self._row(call.op, verdict=_verdict(call), undo="no" if irreversible else "")
            self._touched(call, kind)
            return self._record(outputs=after_run)
        return await self._change(call, box, kind)

    async def _change(self, call: Call, box: Box, kind: type[Action[Any]]) -> Record:
        extra: list[str] = []

        def look(ctx: HostContext) -> Intent | Result:
            found = self._host.prepare(call, ctx)
            if isinstance(found, Intent):
                before = self._host.secrets.reveal(found.before, None)
                after = self._host.secrets.reveal(found.after, None)
                extra.extend(self._extra(ctx, before, after))
            return found

        found = await self._phase(call, box, look)
        behind = self._behind_a_change(call)
        if isinstance(found, Intent):
            undo = "again" if call.again else "no" if found.irreversible else "yes"
            self._row(
                call.op,
                verdict="change",
                diff=tuple(map(Difference.from_data, found.diff)),
                computed=found.computed,
                undo=undo,
                fingerprint=found.version,
                detail="\n".join(extra),
            )
            self._touched(call, kind)
            return self._record(outputs=Unknown(f"the run of {call.step}"), changed=True)
        if found.ok:
            self._row(call.op, verdict="change" if found.changed else "same", undo="unknown" if found.changed else "")
            return self._record(outputs=found.outputs)
        message = found.error.message if found.error is not None else found.status
        if behind or call.maybe:
            self._row(call.op, verdict="change", detail=f"as of now: {message}", undo="unknown")
            self._touched(call, kind)
            return self._record(outputs=Unknown(f"the run of {call.step}"), changed=True)
        self._row(call.op, verdict="failed", error=message, hint=_hint(found))
        return self._record("failed", sure=True, error=found.error)

    def _extra(self, ctx: HostContext, before: Any, after: Any) -> list[str]:
        """What only plans show; its failure never matters."""
        impl, args, _ = ctx.opened
        if not isinstance(impl, Change):
            return []
        try:
            text = impl.preview(args, before, after, ctx)
        except Exception as error:  # noqa: BLE001  # contract.Change.preview: a failure here never fails a plan
            text = f"(no further preview: {error})"
        return covered_text(text, self._host.secrets.mask).splitlines() if text else []

    async def _preflight(self, call: Call, box: Box) -> None:
        """What the call needs and lacks: rights, tools, credentials, places."""
        kind = self._host.registry.find(call.action)
        if self._brought:
            self.behind.add(call.op)
        self._brought = self._brought or kind.brings
        if call.attempt == 1 and looks_ahead(kind):
            look = replace(call, op=f"{call.op}?")  # a mark of its own, as before a run
            found = await self._phase(look, box, lambda ctx: self._host.preflight(call, ctx))
            self.looked.append(said_of(call, found))

    # -- machinery

    async def _phase(self, call: Call, box: Box, look: Callable[[HostContext], Any]) -> Any:
        deadline = box.deadline()
        seconds = LOOK_SECONDS if deadline is None else max(0.1, min(LOOK_SECONDS, deadline - self._at))
        ctx = self._host.context(call, seconds)
        try:
            return await self._in_thread(lambda: look(ctx), seconds, lambda: cut_all(ctx.stop()))
        except TimeoutError:
            return Result("failed", error=Fault(f"no answer within {seconds:g}s", "timeout", temporary=True))
        finally:
            ctx.leave()

    async def _in_thread(self, act: Callable[[], Any], seconds: float, cut: Callable[[], None]) -> Any:
        """Run `act` in a thread; TimeoutError when it is not back in time (it is cut, and left behind)."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def settle(value: Any, error: BaseException | None) -> None:
            if not future.done():
                future.set_exception(error) if error is not None else future.set_result(value)

        def job() -> None:
            value: Any = None
            failure: BaseException | None = None
            try:
                value = act()
            except (Exception, Unknown.Reached) as error:  # noqa: BLE001  # carried to whoever waits
                failure = error
            try:
                loop.call_soon_threadsafe(settle, value, failure)
            except RuntimeError:
                return  # the plan is over: nobody waits any more

        self._threads.submit(job)
        try:
            return await asyncio.wait_for(asyncio.shield(future), seconds + GRACE)
        except TimeoutError:
            self._threads.submit(cut)
            raise

    def _record(self, status: Status = "succeeded", *, sure: bool = False, **more: Any) -> Record:
        """`sure`: it would fail now, whatever is planned before it."""
        self._seq += 1
        if "outputs" in more:
            more["outputs"] = from_wire(to_wire(more["outputs"]))
        return Record(self._seq, self._at, self._began + self._at, status=status, sure=sure, **more)

    def _row(self, key: str, **changes: Any) -> None:
        if key in self.rows:
            self.rows[key] = replace(self.rows[key], **changes)

    def _touched(self, call: Call, kind: type[Action[Any]]) -> None:
        if call.effect in ("change", "opaque"):
            self._worlds.add(kind.world or kind.name.partition(".")[0])

    def _behind_a_change(self, call: Call) -> bool:
        """Whether a planned change may alter what this call sees."""
        kind = self._host.registry.find(call.action)
        world = kind.world or kind.name.partition(".")[0]
        return bool(self._worlds) if world == "*" else world in self._worlds


def depth_of(key: str) -> int:
    """How deep a step's key is nested."""
    return key.count("/") + key.count("!") + key.count("[") - key.startswith("!")


def _step_key(key: str) -> str:
    """The step of an attempt's, a pause's or a question's key."""
    head, mark, tail = key.rpartition("#")
    return head if mark and "/" not in tail else key


def _verdict(call: Call) -> Verdict:
    verdicts: dict[str, Verdict] = {"change": "change", "notify": "notify"}
    return verdicts.get(call.effect, "opaque")


def _hint(result: Result) -> str:
    return result.error.hint or "" if result.error is not None else ""


def _shown(args: Mapping[str, Any]) -> Any:
    return to_wire(dict(args))
