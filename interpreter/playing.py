"""One whole playbook, the root or a called one: its vars, secrets, locks, steps, handlers and outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from runbook.interpreter.effects import Box, Fault, Record, SecretRef
from runbook.interpreter.expressions import ExpressionError, render
from runbook.interpreter.inputs import coerce
from runbook.interpreter.located import all_located, beside
from runbook.interpreter.model import OnFailure, Playbook, SecretSource, Step, SubPlaybook, Template
from runbook.interpreter.outcome import Outcome, failed, stopped
from runbook.interpreter.run import Run
from runbook.interpreter.scope import Book, Frame, RunInfo, Scope, children, seconds
from runbook.interpreter.times import Duration
from runbook.interpreter.unknown import Unknown, why_unknown
from runbook.interpreter.unwind import Handlers, looked, unwind
from runbook.interpreter.values import kind_of, secret


async def call(run: Run, step: SubPlaybook, scope: Scope, path: str, box: Box, begun: Record) -> Outcome:
    """A sub-playbook. It inherits nothing: inputs in, outputs out, also after a failure."""
    given = render(step.with_.data, scope.at(begun.at)) or {}
    given = all_located(step.playbook.inputs, given, scope.book.playbook.file, step.playbook.file)
    inputs, problems = coerce(step.playbook.inputs, given, {}, step.place)
    wrong = [problem.message for problem in problems if problem.severity == "error"]
    if wrong:
        return failed(Fault("; ".join(wrong)), begun, step.id, path)
    caller = scope.book
    info = replace(caller.info, name=step.playbook.name, parent=caller.playbook.name)
    book = Book.of(step.playbook, info, f"{path}/", f"{caller.prefix}{step.id}.")
    if not begun.sure:
        book = book.foreseen()
    inner = Scope(book, Frame(), {"inputs": inputs, "vars": {}, "secrets": {}}, scope.held, scope.maybe, scope.spare)
    mine = run.box(book.path, box)
    try:
        inner = await prepared(run, inner, mine, begun)
        locks = () if run.telling_only else await _locked(run, inner, mine)
    except Unprepared as unprepared:
        out = unprepared.out  # it never began: the caller's handlers are told, its own were not set up
        out = replace(out, by=None if out.by == mine.key else out.by)
        return replace(out, outputs=outputs(run, inner, replace(out, at=begun.at)))
    out = await played(run, inner.holding(locks), mine)
    if locks:
        await run.fx.unlock(book.path, locks)
    return out


class Unprepared(Exception):  # noqa: N818  # carries an outcome to who deals with it; no error of the program
    """A playbook could not begin: its vars, secrets or locks. `scope`: as far as it came."""

    def __init__(self, out: Outcome, scope: Scope | None = None) -> None:
        super().__init__(out.status)
        self.out = out
        self.scope = scope


async def prepared(run: Run, scope: Scope, box: Box, begun: Record, *, refused: bool = False) -> Scope:
    """Vars from top to bottom, secrets' coordinates, and the time box. Unprepared.

    `refused`: nothing will be begun, so it does without any secret that is not there at once.
    """
    playbook = scope.book.playbook
    names = dict(scope.names)
    names["vars"] = {}
    scope = replace(scope, names=names)
    try:
        for name, template in playbook.vars:
            names["vars"][name] = render(template.data, scope.at(begun.at))
        limit = seconds(playbook.timeout, scope.at(begun.at))
        refs = _refs(scope, scope.at(begun.at), refused=refused)
    except ExpressionError as error:
        raise Unprepared(failed(error.message, begun)) from None
    if limit is not None:
        box.due = begun.at + limit
        run.fx.opened(box)
    places = {ref.name: why_unknown(ref.where) for ref in refs}  # where a plan does not know it
    names["secrets"] = {name: Unknown(why) for name, why in places.items() if why is not None}
    refs = tuple(ref for ref in refs if places[ref.name] is None)
    if refs:
        record = await run.fx.secrets(f"{scope.book.path}@secrets", refs, box)
        if record.by is not None:
            raise Unprepared(stopped(record))
        there = record.outputs if isinstance(record.outputs, Mapping) else {}
        names["secrets"] |= {ref.name: secret(ref) for ref in refs if there.get(ref.name, True)}
        absent = [ref.name for ref in refs if not ref.optional and there.get(ref.name) is False]
        if record.status != "succeeded" or absent:
            missing = ", ".join(f"secrets.{name}" for name in absent)
            hint = "`runbook doctor FILE` says where they are looked for"
            fault = record.error or Fault(f"not there: {missing}", kind="refused", hint=hint)
            raise Unprepared(failed(fault, record), scope)
    return scope


def _refs(scope: Scope, names: Mapping[str, Any], *, refused: bool) -> tuple[SecretRef, ...]:
    return tuple(
        SecretRef(
            source.name,
            source.kind,
            _where(source, names),
            source.optional or refused,
            place=str(source.place) if source.place.line else "",
            maybe=scope.maybe,
            spare=scope.spare,
        )
        for source in scope.book.playbook.secrets
    )


def _where(source: SecretSource, names: Mapping[str, Any]) -> Any:
    """Its coordinates; of a file relative to the run's folder, wherever the declaration stands."""
    where = render(source.where.data, names)
    return beside(where, source.place.file) if source.kind == "file" else where


async def played(run: Run, scope: Scope, box: Box, *, undo: bool = False) -> Outcome:
    """The steps, the playbook's own handlers, its outputs."""
    out = await run.sequence(scope.book.playbook.steps, scope, scope.book.path, box)
    out = await looked(run, scope.book.path, box, out)
    return await _ended(run, scope, box, out, undo=undo)


def tells(playbook: Playbook) -> bool:
    """Whether its own handlers notify anybody."""
    return any(map(_notifies, (*playbook.on_failure.steps, *playbook.finally_)))


def _notifies(step: Step) -> bool:
    inner = _steps(step.playbook) if isinstance(step, SubPlaybook) else []
    return getattr(step, "effect", "") == "notify" or any(map(_notifies, (*children(step), *inner)))


async def told(run: Run, scope: Scope, out: Outcome) -> Outcome:
    """The root was refused before anything was begun, and nothing may be changed: its handlers only tell people."""
    run.telling_only = True
    playbook = scope.book.playbook
    handlers = Handlers(playbook, OnFailure(steps=playbook.on_failure.steps), playbook.finally_, playbook.cleanup)
    return await unwind(run, handlers, "", scope, out)


async def _ended(run: Run, scope: Scope, box: Box, out: Outcome, *, undo: bool = False) -> Outcome:
    playbook = scope.book.playbook
    if out.by == box.key and out.kind == "timed_out":
        limit = seconds(playbook.timeout, scope.at(out.at)) or 0.0
        message = f"{playbook.name} was not done in its time of {Duration(limit)}"
        out = replace(out, error=Fault(message, kind="timeout"))
    handlers = Handlers(playbook, playbook.on_failure, playbook.finally_, playbook.cleanup)
    out = await unwind(run, handlers, scope.book.path, scope, out, undo=undo or (not scope.book.path and run.undo_all))
    if out.by == box.key and box is not run.work:
        out = replace(out, by=None)
    if not scope.book.path:
        return out  # the root's are computed when its notifications are told, too
    return replace(out, outputs=outputs(run, scope, out))


def outputs(run: Run, scope: Scope, out: Outcome) -> dict[str, Any]:
    """What a playbook gives back; null where it cannot be computed.

    That is a warning where the playbook succeeded and so did every step that the output names: no step's failure, and
    no `when`, is the reason.
    """
    found: dict[str, Any] = {}
    names = scope.at(out.at)
    for name, template in scope.book.playbook.outputs:
        try:
            found[name] = render(template.data, names)
        except ExpressionError as error:
            found[name] = None
            ran = all(_succeeded(names, step) for step in template.reads)
            if out.ok and ran:
                run.warn(scope.book.path, f"the output `{name}` cannot be computed, and is null: {error.message}")
    return found


def _succeeded(names: Mapping[str, Any], step: str) -> bool:
    view = names["steps"].get(step)
    return isinstance(view, Mapping) and view.get("status") == "succeeded"


async def _locked(run: Run, scope: Scope, box: Box) -> tuple[str, ...]:
    """The locks of a called playbook. Unprepared."""
    begun = Record(0, 0.0, 0.0)
    try:
        names = lock_names(scope.book.playbook.locks, scope.at(0.0))
    except ExpressionError as error:
        raise Unprepared(failed(error.message, begun)) from None
    wanted = tuple(name for name in names if name not in scope.held)
    if not wanted:
        return ()
    record = await run.fx.lock(scope.book.path, wanted, box)
    if record.by is not None:
        raise Unprepared(stopped(record))
    if record.status != "succeeded":
        raise Unprepared(failed(record.error or Fault("the locks were not given", kind="lock"), record))
    return wanted


def lock_names(templates: tuple[Template, ...], names: Mapping[str, Any]) -> tuple[str, ...]:
    """Locks by name, sorted, each once. ExpressionError."""
    found = [render(template.data, names) for template in templates]
    known = [name for name in found if not isinstance(name, Unknown)]  # what a plan cannot know it cannot show
    for name in known:
        if not isinstance(name, str) or not name:
            raise ExpressionError(f"a lock's name is text, not {kind_of(name)}")
    return tuple(sorted(set(known)))


def known_locks(scope: Scope, at: float) -> tuple[str, ...]:
    """All locks of the static tree whose names are known before the first step. ExpressionError for the root's own."""
    names = scope.at(at)
    found = set(lock_names(scope.book.playbook.locks, names))
    todo: list[tuple[Step, bool]] = [(step, True) for step in _steps(scope.book.playbook)]
    while todo:
        step, ours = todo.pop()
        for template in step.locks:
            if template.reads or not (ours or _constant(template)):
                continue
            try:
                found.update(lock_names((template,), names))
            except ExpressionError:
                continue  # it names what only a step or an iteration gives: taken when the step begins
        todo += [(child, ours) for child in children(step)]
        if isinstance(step, SubPlaybook):
            todo += [(child, False) for child in _steps(step.playbook)]
            found.update(template.data for template in step.playbook.locks if _constant(template))
    return tuple(sorted(found))


def _steps(playbook: Playbook) -> list[Step]:
    return [*playbook.steps, *playbook.on_failure.steps, *playbook.finally_]


def _constant(template: Template) -> bool:
    return isinstance(template.data, str) and "{{" not in template.data


def root(playbook: Playbook, inputs: Mapping[str, Any], info: RunInfo) -> Scope:
    """The scope of the run's own playbook."""
    return Scope(Book.of(playbook, info), Frame(), {"inputs": dict(inputs), "vars": {}, "secrets": {}})
