"""How a run's end is told: what happened, where, what was undone, what is left, and the command that goes on."""

from __future__ import annotations

from collections.abc import Mapping

import click

from runbook.cli import onward
from runbook.cli.asking import DOUBT
from runbook.cli.onward import command
from runbook.cli.screen import PHASES
from runbook.cli.terminal import Terminal
from runbook.interpreter.errors import Exit, InvalidError, RunbookError
from runbook.runner.run_tree import CallView, QuestionView, RoundView, StepView, is_inverse, step_of
from runbook.runner.view import BAD, RunView, ways_of
from runbook.runner.wording import (
    OVER,
    after_late,
    end_of,
    moment,
    one_line,
    span,
    status_word,
    stop_reason,
    tame,
    together,
    value,
    without_step,
)

GOES_ON = frozenset({Exit.WAITING, Exit.IN_DOUBT})
MANY = 8  # rows of one list; what is more is counted


def show_error(error: RunbookError, terminal: Terminal) -> None:
    """An expected end without a run behind it: the sentence and the hint, on stderr."""
    click.echo(f"{terminal.paint('runbook:', 'red')} {tame(error.message)}", err=True)
    if isinstance(error, InvalidError):
        for problem in error.problems:
            click.echo(f"  {problem.place}: {tame(problem.message)}", err=True)
            for label, text in (("expected", problem.expected), ("hint", problem.hint)):
                if text:
                    click.echo(f"    {label}: {tame(text)}", err=True)
    if error.hint:
        click.echo(f"  {error.hint}", err=True)


def lines(view: RunView, terminal: Terminal, report: str = "") -> list[str]:
    """The last lines of a run, or of the undo that came after it. `report`: the path of a report that was written."""
    later = view.last_round
    if later is not None and later.ended is None and later.exit:
        return _asking(view, later, terminal)
    if later is not None and not _tidied(view, later):
        return _round(view, later, terminal)
    status = _status(view)
    simulated = terminal.paint("  SIMULATED", "yellow") if view.simulated else ""
    title = f"{view.name} {status_word(end_of(status, view.exit))}"
    after = "" if status == "waiting" else f" after {span(view.elapsed())}"
    rows = [] if title.endswith("refused") else _objectives(view, terminal)
    if view.exit == int(Exit.WAITING):
        rows += _list("Asked", [asked(question) for question in view.open_questions()])
    elif view.exit not in (None, int(Exit.SUCCEEDED)):
        rows += [*_what(view), *_undone(view), *_left(view)]
    rows += [*_warnings(view), *_undelivered(view)]
    if view.exit == 0 and view.outputs:
        rows += _list("Outputs", [f"{name} = {value(given, 200)}" for name, given in view.outputs.items()])
    if report:
        rows.append(("Report", report))
    rows += _next(view)
    return ["", f"{terminal.status(status, title)}{after}{simulated}", *_laid_out(rows, terminal)]


def stopped(view: RunView, terminal: Terminal) -> list[str]:
    """What is known of a run that did not end and that nobody runs: it was killed, or its machine went down."""
    head = (
        terminal.paint(f"■ {view.name} stopped", "yellow") + f" {moment(view.last)}: it did not end, and nobody runs it"
    )
    rows = [*_undone(view), *_left(view)]
    if view.cancelled:
        rows += _cancelling(view)
    else:
        rows.append(("Next", onward.resuming(view, meaning="goes on where it was")))
        if not onward.is_over(view):
            rows.append(("", f"{command(view, 'resume', '--cleanup')}   (only takes back and tidies)"))
    return ["", head, *_laid_out(rows, terminal)]


def _tidied(view: RunView, later: RoundView) -> bool:
    """Whether a round played to its end the clean-up that a run had left: then the run's own end is all there is."""
    failed = (
        step for _, step in view.walk() if step.phase and step.status in BAD and (step.started or 0.0) >= later.began
    )
    return later.what == "finish" and not view.unfinished and not any(failed)


def _asking(view: RunView, later: RoundView, terminal: Terminal) -> list[str]:
    """An undo, or a clean-up, that waits for a person."""
    simulated = terminal.paint("  SIMULATED", "yellow") if view.simulated else ""
    status = "in_doubt" if later.exit == int(Exit.IN_DOUBT) else "waiting"
    questions = [asked(question) for question in view.open_questions()]
    rows = [
        *_list("Asked", questions),
        *_undone(view, later.began),
        *_left(view),
        *_answers(view, int(later.exit or 0)),
    ]
    return ["", f"{terminal.status(status, f'{_name(later)} of {view.name} {status_word(status)}')}{simulated}",
            *_laid_out(rows, terminal)]  # fmt: skip


def _name(later: RoundView) -> str:
    return "undo" if later.what == "undo" else "clean-up"


def _round(view: RunView, later: RoundView, terminal: Terminal) -> list[str]:
    """How an undo ended, or clean-up that was left and did not come to its end this time either."""
    simulated = terminal.paint("  SIMULATED", "yellow") if view.simulated else ""
    title = f"{_name(later)} of {view.name} {status_word(later.status)}"
    rows = _undone(view, later.began)
    if later.exit:
        error = later.error or {}
        first, *more = tame(str(error.get("message") or status_word(later.status))).splitlines() or [""]
        said = error.get("hint") if not later.no_inverse else ""  # that one's stands below
        hint = [("", one_line(str(said)))] if said else []
        rows = [("What", first), *(("", line) for line in more[:MANY]), *hint, *rows]
    rows += _left(view, str((later.error or {}).get("message") or ""))
    if view.unfinished:
        rows += _finishing(view)
    elif later.exit:
        rows += _after_round(view, later)
    return ["", f"{terminal.status(later.status, title)}{simulated}", *_laid_out(rows, terminal)]


def _after_round(view: RunView, later: RoundView) -> list[tuple[str, str]]:
    """The commands that go on after an undo, or a clean-up, that did not come to its end."""
    if later.what != "undo" and not _can_be_undone(view):
        return []
    if onward.is_over(view):
        return [("Next", onward.over(view))]
    if later.what != "undo":
        return [("Next", f"{command(view, 'undo')}   (takes back what stands)")]
    again = [] if later.no_inverse else [f"{command(view, 'undo')}   (when the reason is gone)"]
    if later.stuck:
        from runbook.cli.undoing import accepting

        seen = f"you have seen to {one_line(later.stuck)}: it stays as it is, the others are taken back"
        again.append(f"{accepting(view, later.stuck)}   ({seen})")
    return _list("Next", again or [command(view, "undo")])


def _laid_out(rows: list[tuple[str, str]], terminal: Terminal) -> list[str]:
    return [f"  {terminal.paint(f'{label:<10}', 'bold')}{text}".rstrip() for label, text in rows]


def _status(view: RunView) -> str:
    if view.exit == int(Exit.WAITING):
        return "waiting"
    if view.exit == int(Exit.IN_DOUBT):
        return "in_doubt"
    return view.status


def _objectives(view: RunView, terminal: Terminal) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for entry in view.objectives:
        verdict = str(entry.get("verdict", "n/a"))
        style = {"met": "green", "missed": "red"}.get(verdict, "dim")
        at, since = entry.get("at"), entry.get("since")
        took = f" after {span(at - since)}" if at is not None and since is not None else ""
        if verdict == "missed" and at is None:
            took = ", never reached"
        elif verdict == "n/a":
            took = ": its step was skipped" if since is not None else ": what it counts from did not happen"
        text = f"{entry.get('name', '')}: {terminal.paint(verdict, style)}{took} (within {span(entry.get('within'))})"
        rows.append(("Objective" if not rows else "", text))
    return rows


def _what(view: RunView) -> list[tuple[str, str]]:
    culprit = view.culprit()
    error = (culprit.error if culprit is not None and culprit.error else None) or view.error or {}
    message = tame(str(error.get("message") or _reason(view)))
    if view.exit == int(Exit.CANCELLED):  # what was in flight is not to blame
        message = tame(_reason(view))
    elif culprit is not None:
        ways = ways_of(culprit)
        message = "\n".join(["no alternative succeeded:", *(_way(view, way) for way in ways)]) if ways else message
        message = _late(view, culprit, message) or without_step(message, culprit.key, culprit.by)
    first, *more = message.splitlines() or [""]
    rows = [("What", first), *(("", line) for line in more[:MANY])]
    if len(more) > MANY:
        rows.append(("", f"… {len(more) - MANY} more lines: runbook report {view.id}"))
    if error.get("hint"):
        rows.append(("", one_line(str(error["hint"]))))
    rows += _list("", [_called(question) for question in view.open_questions() if question.kind == "in_doubt"])
    where = _where(culprit)
    if where:
        rows.append(("Where", where))
    return rows


def _late(view: RunView, culprit: StepView, message: str) -> str:
    """Of a step that was cut because the time of what it stands in was over: what was not done in which time."""
    if culprit.status != "timed_out" or not culprit.by or not message.startswith(OVER):
        return ""
    around = view.steps.get(culprit.by)
    error = view.error if culprit.by == "@run" else around.error if around is not None else None
    told = tame(str((error or {}).get("message") or ""))
    return told and told + after_late(message)


def _called(question: QuestionView) -> str:
    """What was begun, of which nobody knows whether it was done."""
    about = question.options if isinstance(question.options, Mapping) else {}
    return f"{one_line(str(about.get('action', '')))} {value(about.get('args') or {}, 200)}"


def _way(view: RunView, way: StepView) -> str:
    """Why one way of a fallback failed, and where in it."""
    inner = way if ways_of(way) else view.culprit(way) or way
    where = "" if inner is way else f", {inner.key.removeprefix(f'{way.key}/')}"
    message = str((inner.error or way.error or {}).get("message") or status_word(way.status))
    return f"{way.id}{where}: {one_line(without_step(message, inner.key, inner.by))}"


def _reason(view: RunView) -> str:
    if view.open_questions():
        return "a person is asked: " + view.open_questions()[0].text
    ends = [(kind, why) for box, kind, why in view.stops if box.startswith("@run")]
    if ends:
        return stop_reason(*ends[-1])
    return status_word(view.status)


def _where(culprit: StepView | None) -> str:
    if culprit is None:
        return ""
    name = f" ({one_line(culprit.name)})" if culprit.name else ""
    parts = [culprit.key + name, culprit.place.rpartition(":")[0], culprit.action]
    if culprit.attempts > 1 and not culprit.children:
        parts.append(f"{culprit.attempts} attempts")
    return " · ".join(part for part in parts if part)


def _undone(view: RunView, since: float = 0.0) -> list[tuple[str, str]]:
    """What was taken back: since a Unix time, and by whom before."""
    undone = view.undone()
    now = [f"{call.op} ({call.action})" for call in undone if (call.undone_at or 0.0) >= since]
    earlier = (call for call in undone if (call.undone_at or 0.0) < since)
    before = [f"{call.op} ({call.action}), before: {_by(view, call)}" for call in earlier]
    if not undone:
        return [("Undone", "nothing")] if since or view.changes() else []
    return _list("Undone", [*(now or ["nothing more"]), *before])


def _by(view: RunView, call: CallView) -> str:
    """What took a change back before the last undo."""
    undos = [made.began for made in view.rounds if made.what == "undo"]
    return "by an earlier undo" if undos and (call.undone_at or 0.0) >= undos[0] else "by the run itself"


def _left(view: RunView, told: str = "") -> list[tuple[str, str]]:
    """What stands. `told`: a sentence that stands above, and is not said again."""
    rows = []
    for call in view.left():
        state = "stands" if call.status == "succeeded" else f"{status_word(call.status)}: perhaps done, perhaps in part"
        why = "" if call.undo_error and call.undo_error in told else _why_left(view, call)
        rows.append(f"{call.op} ({call.action}) {state}{why}")
    if not rows and not view.unfinished:
        return [("Left", "nothing: no change of this run stands" if view.changes() else "nothing: no change was made")]
    return [*_list("Left", rows), *_list("Clean-up", [phase_of(entry) for entry in view.unfinished])]


def _why_left(view: RunView, call: CallView) -> str:
    told = view.accepted_of(call.op)
    if told is not None:
        return f", accepted by {one_line(told.by)} {moment(told.wall)}" + (
            f": {one_line(told.why)}" if told.why else ""
        )
    none = " (`undo: none`)" if view.waived(call) else ", no undo for it" if call.irreversible else ""
    return f": {one_line(call.undo_error)}" if call.undo_error else none


def phase_of(entry: object) -> str:
    """Clean-up that is open, in words: `finally of deploy`."""
    if not isinstance(entry, Mapping) or "phase" not in entry:
        return value(entry, 160)
    phase = PHASES.get(str(entry["phase"]), str(entry["phase"]))
    return f"{phase}, of {one_line(str(entry.get('path') or 'the playbook'))}: not played to its end"


def _warnings(view: RunView) -> list[tuple[str, str]]:
    told = together(f"{warning.key}: {warning.message}".removeprefix(": ") for warning in view.warnings)
    return _list("Warning" if len(told) == 1 else "Warnings", list(map(one_line, told)))


def _undelivered(view: RunView) -> list[tuple[str, str]]:
    return _list("Not told", [f"{entry.get('key', '')}: not delivered when the run ended" for entry in view.lane_left])


def _next(view: RunView) -> list[tuple[str, str]]:
    if view.exit == int(Exit.WAITING) or (view.exit == int(Exit.IN_DOUBT) and view.ended is None):
        return _answers(view, view.exit)
    if view.unfinished:
        return _finishing(view)
    if view.exit is None:
        return [("Next", onward.resuming(view))]
    if view.exit == int(Exit.SUCCEEDED):
        return []
    if view.exit == int(Exit.REFUSED) and not view.changes():
        return [("Next", f"{onward.anew(view)}   (when what stands above is mended)")]
    rows = []
    if _can_be_undone(view) and not onward.is_over(view):
        rows.append(("Next", f"{command(view, 'undo')}   (takes back what stands)"))
    rows.append(("Next" if not rows else "", f"runbook report {view.id}   (everything that happened)"))
    return rows


def _finishing(view: RunView) -> list[tuple[str, str]]:
    return [("Next", onward.resuming(view, meaning="finishes the clean-up that is left"))]


def _answers(view: RunView, code: int) -> list[tuple[str, str]]:
    """The commands that answer what is asked. `code`: waiting, or in doubt."""
    if view.cancelled:
        return _cancelling(view)
    if onward.is_over(view):
        return _list("Next", ["rehearse it anew, on a terminal or with `answers:` in the scenario", onward.over(view)])
    if code == int(Exit.IN_DOUBT):
        decided = (f"{command(view, 'resume', '--in-doubt', word)}   ({meant})" for word, meant in DOUBT.items())
        return _list("Next", ["look at it, then one of", *decided])
    open_now = [question for question in view.open_questions() if not question.mailed]
    answers = [line for question in open_now for line in onward.answers(view, question)]
    if len(answers) >= MANY:
        answers = [f"runbook answer {view.id}   (lists what can be answered)"]
    return _list("Next", [*answers, command(view, "resume")])


def _cancelling(view: RunView) -> list[tuple[str, str]]:
    """A cancel that waits for a process to act on it: nothing else is asked any more."""
    next_ = onward.resuming(view, meaning="cleans up")
    return [("Cancel", f"{one_line(view.cancelled)}; not acted on yet"), ("Next", next_)]


def asked(question: QuestionView) -> str:
    """A question with its step, and how far it is answered."""
    told = f"   ({one_line(question.progress)})" if question.progress else ""
    if question.mailed:
        told = f"   (answered: {one_line(question.mailed)}; not acted on yet)"
    step = step_of(question.key)
    where = "" if is_inverse(step) else f"{step}: "  # the text of that one says whose it is
    return f"{where}{one_line(question.text)}{told}"


def _can_be_undone(view: RunView) -> bool:
    """Whether an undo may find anything: what is irreversible, or has no undo, stays."""
    standing = (c for c in view.left() if view.accepted_of(c.op) is None and not view.waived(c))
    return any(call.status == "succeeded" and not call.irreversible for call in standing)


def _list(label: str, entries: list[str]) -> list[tuple[str, str]]:
    rows = [(label if i == 0 else "", entry) for i, entry in enumerate(entries[:MANY])]
    if len(entries) > MANY:
        rows.append(("", f"… and {len(entries) - MANY} more"))
    return rows


def opening(view: RunView) -> str:
    """The first line of a run."""
    return f"{view.name}  run {view.id}  started {moment(view.started)} by {value(view.initiator)}"
