"""Steps together: in order, at once, until one succeeds, the branch that holds, once for each item."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from runbook.interpreter.effects import Box, Fault, Record, Status
from runbook.interpreter.expressions import ExpressionError, decide, evaluate, render
from runbook.interpreter.frozen import frozen
from runbook.interpreter.model import Choose, Fallback, Foreach, Parallel, Step, Template, Tolerance
from runbook.interpreter.outcome import Outcome, error_view, failed, stopped, worst
from runbook.interpreter.run import Run, join
from runbook.interpreter.scope import Scope, all_of
from runbook.interpreter.unknown import Unknown
from runbook.interpreter.unwind import give_back
from runbook.interpreter.values import kind_of

Ended = tuple[str, str, Outcome]  # id, name, outcome
Job = Callable[[Box], Awaitable[Outcome]]

LABEL = 60  # characters of an item that is shown whole
_COUNTED = ("succeeded", "failed", "failures")


@frozen
class Bound:
    """`keep_going`, computed. `run_all`: a failure keeps no other from starting; `allowed`: so many may fail."""

    run_all: bool = False
    allowed: float = 0.0

    def exceeded(self, bad: Sequence[Outcome]) -> bool:
        """Whether these failures fail the block. A stop from outside always does."""
        return len(bad) > self.allowed or any(out.by is not None for out in bad)


def bound(tolerance: Tolerance, total: int, names: Mapping[str, Any]) -> Bound:
    """`keep_going`: true, a number, a percentage, or a template of one. ExpressionError."""
    value = render(tolerance.data, names) if isinstance(tolerance, Template) else tolerance
    if isinstance(value, Unknown):
        return Bound(True, total)
    if value is None or isinstance(value, bool):
        return Bound(bool(value))
    if isinstance(value, (int, float)) and value >= 0:
        return Bound(True, value)
    if isinstance(value, str):
        text = value.strip()
        number = text.removesuffix("%")
        if number.isdecimal():
            return Bound(True, total * int(number) / 100 if text.endswith("%") else int(number))
    raise ExpressionError(f"keep_going is true, a number or a percentage, not {kind_of(value)}")


async def late(names: Iterable[str], scope: Scope) -> Outcome | None:
    """Wait for the background steps that a template names; the first failure."""
    bad: list[Outcome] = []
    for name in sorted(names):
        task = scope.frame.task(name, scope.beside)
        if task is not None and not (out := await task).ok:
            bad.append(out)
    return min(bad, key=lambda out: out.seq) if bad else None


async def own_outputs(step: Step, scope: Scope, out: Outcome) -> Outcome:
    """A block's or an action's outcome with the outputs that its step declares. ExpressionError."""
    missed = await late((name for _, bare in step.outputs for name in bare.reads), scope)
    if missed is not None:
        return replace(missed, outputs=out.outputs, at=max(out.at, missed.at), wall=max(out.wall, missed.wall))
    names = scope.at(out.at, result=out.outputs, error=None)
    own = {name: evaluate(bare.source, names) for name, bare in step.outputs}
    return replace(out, outputs={**out.outputs, **own} if isinstance(out.outputs, Mapping) else out.outputs)


async def sequence(
    run: Run, steps: Sequence[Step], scope: Scope, path: str, box: Box, tolerance: Tolerance = None, at: float = 0.0
) -> Outcome:
    """Steps in order; background ones beside them, joined at the end. After a failure nothing new starts."""
    limit = bound(tolerance, len(steps), scope.at(at)) if tolerance is not None else Bound()
    side: Box | None = None
    aside: list[tuple[Step, Awaitable[Outcome]]] = []
    ended: list[Ended] = []
    bad: list[Outcome] = []
    for step in steps:
        if step.background and not _notifies(step):
            side = side or run.box(f"{path}@background", box)
            inner = replace(scope, beside=(*scope.beside, step.id))
            task = run.fx.spawn(run.execute(step, inner, join(path, step.id), side))
            scope.frame.beside(step, task)
            aside.append((step, task))
            continue
        out = await run.execute(step, scope, join(path, step.id), box)
        if out.status == "pending" or step.id in scope.frame.views:  # else what it would have read has failed
            ended.append((step.id, step.name, out))
        if limit.run_all and out.open:
            scope.frame.doubt(all_of(step))
        if not out.ok:
            bad.append(out)
            if out.by is not None or not limit.run_all:
                break
    if side is not None and limit.exceeded(bad):
        await run.fx.stop(
            side, "cancelled", "its block failed"
        )  # before an undo starts, nothing of it may still change the world
    for step, task in aside:
        out = await task
        ended.append((step.id, step.name, out))
        if not out.ok and out not in bad and (side is None or out.by != side.key):
            bad.append(out)
    for step, _ in aside:  # only now: whoever runs beside must find them, however far they are by then
        scope.frame.joined(step)
    return _summary(ended, len(steps), bad, limit)


def _notifies(step: Step) -> bool:
    return getattr(step, "effect", "") == "notify"


def _summary(ended: Sequence[Ended], total: int, bad: Sequence[Outcome], limit: Bound) -> Outcome:
    """The outcome of a block: its counts, and the first failure in the journal where it failed."""
    failures = [(step, name, out) for step, name, out in ended if out.status not in ("succeeded", "skipped", "pending")]
    outputs: dict[str, Any] = {
        "total": total,
        "succeeded": sum(out.status == "succeeded" for _, _, out in ended),
        "failed": len(failures),
        "skipped": sum(out.status == "skipped" for _, _, out in ended),
        "failures": [
            {"id": step, "name": name, "error": error_view(out.error, out.attempts)} for step, name, out in failures
        ],
    }
    waits_for = next((step for step, _, out in ended if out.excused or (out.open and limit.run_all)), None)
    if waits_for is not None:  # a plan does not know how many of them fail
        outputs |= {name: Unknown(f"the run of {waits_for}", likely=outputs[name]) for name in _COUNTED}
    last = max((out.at for _, _, out in ended), default=0.0)
    wall = max((out.wall for _, _, out in ended), default=0.0)
    sure = all(out.sure for _, _, out in ended)
    open_ = any(out.open for _, _, out in ended)
    unwound = any(out.unwound for _, _, out in ended)
    if limit.exceeded(bad):
        first = worst(bad)
        return replace(
            first, outputs=outputs, at=max(last, first.at), wall=max(wall, first.wall), sure=sure and first.sure
        )
    skipped = bool(ended) and all(out.status == "skipped" for _, _, out in ended)
    seq = max((out.seq for _, _, out in ended), default=0)
    status: Status = "skipped" if skipped else "succeeded"
    return Outcome(status, outputs, seq=seq, at=last, wall=wall, sure=sure, open=open_, unwound=unwound)


async def parallel(run: Run, step: Parallel, scope: Scope, path: str, box: Box, begun: Record) -> Outcome:
    """Branches at once."""

    def job(child: Step) -> Job:
        return lambda gate: run.execute(child, scope, join(path, child.id), box, gate=gate)

    names = scope.at(begun.at)
    limit = bound(step.keep_going, len(step.steps), names)
    width = _width(step.max_concurrent, len(step.steps), names)
    outs = await _together(run, [job(child) for child in step.steps], width, path, box, limit)
    ended = [(child.id, child.name, out) for child, out in zip(step.steps, outs, strict=True) if out is not None]
    out = _summary(ended, len(outs), [out for _, _, out in ended if not out.ok], limit)
    if limit.run_all and out.open:
        scope.frame.doubt(inner for child in step.steps for inner in all_of(child))
    return out if out.at else replace(out, at=begun.at)


async def _together(
    run: Run, jobs: Sequence[Job], width: int, path: str, box: Box, limit: Bound
) -> list[Outcome | None]:
    """So many workers over the jobs, in order. None: never started.

    Whether a job starts is on record (its start record, which the gate forbids): a replay must not decide it again.
    Jobs start in order, so behind one that the gate refused none was started. The gate closes before the worker goes
    on, or one more job would start after the failure.
    """
    gate = run.box(f"{path}@gate", box)
    outs: list[Outcome | None] = [None] * len(jobs)
    todo = iter(range(len(jobs)))

    async def worker() -> None:
        for number in todo:
            out = await jobs[number](gate)
            if out.by == gate.key:
                return
            outs[number] = out
            if out.by is not None:
                return
            if not out.ok and not limit.run_all:
                await run.fx.stop(gate, "cancelled", "a sibling failed")

    for at_work in [run.fx.spawn(worker()) for _ in range(min(width, len(jobs)))]:
        await at_work
    return outs


def _width(declared: int | Template | None, total: int, names: Mapping[str, Any]) -> int:
    value = render(declared.data, names) if isinstance(declared, Template) else declared
    if value is None or isinstance(value, Unknown):
        return max(1, total)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ExpressionError(f"max_concurrent is a whole number from 1, not {value!r}")
    return value


async def fallback(run: Run, step: Fallback, scope: Scope, path: str, box: Box, begun: Record) -> Outcome:
    """Alternatives in order until one succeeds. A plan that is not sure of one shows the next as well."""
    ended: list[Ended] = []
    others: tuple[Fault, ...] = ()
    winners: list[tuple[str, Outcome]] = []
    for child in step.steps:
        out = await run.execute(
            child, scope.instead() if winners else scope, join(path, child.id), box, alternative=True
        )
        ended.append((child.id, child.name, out))
        if out.by is not None:
            return replace(worst([out]), outputs=_summary(ended, len(step.steps), [], Bound()).outputs)
        if winners:
            scope.frame.change(child.id, {"status": Unknown(f"whether {child.id} is needed")})
        if out.ok and out.status != "skipped":
            winners.append((child.id, out))
            if out.sure:
                break
        else:
            others += out.others
    counts = _summary(ended, len(step.steps), [], Bound(run_all=True))
    if counts.open:
        scope.frame.doubt(inner for child in step.steps for inner in all_of(child))
    if not winners:
        return _none_won(step, path, begun, ended, others, counts)
    if len(winners) > 1 or not winners[0][1].sure:
        unknown = Unknown(f"which alternative of {step.id} succeeds")
        outputs = {**counts.outputs, "chosen": unknown} if len(winners) == 1 else unknown
        return replace(counts, status="succeeded", outputs=outputs, sure=False)
    chosen, won = winners[0]
    outputs = {**counts.outputs, **won.outputs, "chosen": chosen} if isinstance(won.outputs, Mapping) else won.outputs
    first = Outcome("succeeded", outputs, seq=won.seq, at=won.at, wall=won.wall, others=others, sure=won.sure)
    return replace(first, unwound=counts.unwound)


def _none_won(
    step: Fallback, path: str, begun: Record, ended: Sequence[Ended], others: tuple[Fault, ...], counts: Outcome
) -> Outcome:
    tried = [(name, out) for name, _, out in ended if not out.ok]
    if not tried:
        fault = Fault("every alternative was skipped")
        return replace(
            failed(fault, begun, step.id, path), outputs=counts.outputs, at=counts.at or begun.at, others=others
        )
    reasons = "; ".join(f"{name}: {message}" for name, message in _reasons(path, tried))
    last = tried[-1][1]
    fault = replace(last.error or Fault(""), message=f"no alternative succeeded ({reasons})", hint=None)
    blamed = replace(last, status="failed", error=fault, step=step.id, path=path)  # none of them is it alone
    return replace(blamed, outputs=counts.outputs, at=counts.at, others=others, undone=False)


def _reasons(path: str, tried: Sequence[tuple[str, Outcome]]) -> Iterator[tuple[str, str]]:
    """Why each alternative failed, first first: the step that is to blame (as seen from the fallback), and what."""
    for name, out in tried:
        mine = join(path, name)
        inner = out.path.removeprefix(join(path, "")) if out.path.startswith(f"{mine}/") else name
        message = out.error.message if out.error is not None else out.status
        yield inner, message.removeprefix(f"{out.path}: ")


async def choose(run: Run, step: Choose, scope: Scope, path: str, box: Box, begun: Record) -> Outcome:
    """The first branch that holds. Where a plan cannot know, it shows the branch and goes on looking."""
    shown: list[Outcome] = []
    for number, branch in enumerate(step.branches):
        verdict = "yes" if branch.when is None else decide(evaluate(branch.when.source, scope.at(begun.at)))
        if verdict == "no":
            continue
        inner = scope if verdict == "yes" and not shown else scope.perhaps()
        out = await sequence(run, branch.steps, inner, path, box)
        if verdict == "yes" and not shown:
            return replace(out, outputs={**out.outputs, "chosen": number}, at=out.at or begun.at)
        shown.append(out)
        if verdict == "yes":
            break
    if not shown:
        return failed(Fault("no branch holds"), begun, step.id, path)
    unknown = Unknown(f"which branch of {step.id} holds")
    return Outcome("succeeded", unknown, seq=shown[-1].seq, at=max(out.at for out in shown), sure=False, open=True)


async def foreach(run: Run, step: Foreach, scope: Scope, path: str, box: Box, begun: Record) -> Outcome:
    """The body once for each item, each in a scope of its own. The index is the key: items may be equal."""
    names = scope.at(begun.at)
    items = render(step.items.data, names)
    if isinstance(items, Unknown):
        return await _unknown_items(run, step, scope, path, box, begun, items)
    if not isinstance(items, (list, tuple)):
        hint = " (`| dictsort` makes a list of its pairs)" if isinstance(items, Mapping) else ""
        raise ExpressionError(f"foreach.items is a list, not {kind_of(items)}{hint}")
    limit = bound(step.keep_going, len(items), names)
    jobs = [
        _iteration(run, step, scope, path, box, item, number, _loop(number, len(items)))
        for number, item in enumerate(items)
    ]
    outs = await _together(run, jobs, _width(step.max_concurrent, len(items), names), path, box, limit)
    ended = [(str(number), "", out) for number, out in enumerate(outs) if out is not None]
    out = _summary(ended, len(items), [out for _, _, out in ended if not out.ok], limit)
    results = [_result(item, number, one) for number, (item, one) in enumerate(zip(items, outs, strict=True))]
    if limit.run_all and out.open:
        results = [_foreseen(step.id, result) for result in results]
    return replace(out, outputs={**out.outputs, "results": results}, at=max(out.at, begun.at))


def _loop(number: int, total: int) -> dict[str, Any]:
    return {"index": number + 1, "first": number == 0, "last": number == total - 1, "length": total}


def _result(item: Any, number: int, out: Outcome | None) -> dict[str, Any]:
    if out is None:
        return {"item": item, "index": number, "status": "pending", "error": None, "outputs": {}}
    return {
        "item": item,
        "index": number,
        "status": out.status,
        "error": error_view(out.error, out.attempts),
        "outputs": out.outputs,
    }


def _foreseen(step: str, result: Mapping[str, Any]) -> dict[str, Any]:
    """A result in a plan that does not know how it ends, and goes on anyway."""
    return {**result, **{name: Unknown(f"the run of {step}", likely=result[name]) for name in ("status", "error")}}


def label(item: Any) -> str:
    """What people call an iteration: the item itself where it is short text or a number, or its name."""
    if isinstance(item, Mapping):
        item = item.get("name")
    return str(item) if isinstance(item, (str, int, float)) and len(str(item)) <= LABEL else ""


def _iteration(run: Run, step: Foreach, scope: Scope, path: str, box: Box, item: Any, number: int, loop: Any) -> Job:
    key = f"{path}[{number}]"

    async def job(gate: Box) -> Outcome:
        about = {"id": str(number), "kind": "iteration", "name": label(item), "action": ""}
        begun = await run.fx.start(key, gate, about)
        if begun.by is not None:
            return stopped(begun, "not started")
        inner = scope.iteration(**{step.as_: item, "loop": loop})
        out = await sequence(run, step.steps, inner, key, box)
        out = replace(out, at=max(out.at, begun.at), outputs=_outputs(step, inner))
        if out.status == "succeeded" and step.outputs:
            try:
                out = await own_outputs(step, inner, out)
            except ExpressionError as error:
                out = replace(failed(error.message, begun, step.id, key), outputs=out.outputs, at=out.at)
        return await give_back(run, step.cleanup, key, out, scope)

    return job


def _outputs(step: Foreach, scope: Scope) -> dict[str, Any]:
    """What an iteration shows: the outputs of its steps by id."""
    views = scope.frame.views
    return {child.id: views[child.id]["outputs"] for child in step.steps if child.id in views}


async def _unknown_items(
    run: Run, step: Foreach, scope: Scope, path: str, box: Box, begun: Record, items: Unknown
) -> Outcome:
    """A plan that does not know the items shows the body once."""
    job = _iteration(run, step, scope.perhaps(), path, box, Unknown(items.why), 0, Unknown(items.why))
    out = await job(run.box(f"{path}@gate", box))
    if out.by is not None:
        return out
    return Outcome("succeeded", Unknown(items.why), seq=out.seq, at=max(out.at, begun.at), sure=False, open=True)
